//! What must hold of a step.

use super::record::Health;
use super::*;

/// `Err` says what went wrong.
pub(super) type Judgement = Result<(), String>;

pub(super) fn must(holds: bool, what: &str) -> Judgement {
    if holds { Ok(()) } else { Err(what.into()) }
}

impl World {
    /// Whether whoever wants a reload hears of its end, and once.
    pub(super) fn judge_reload(&mut self, event: Happening, actions: &[Action]) -> Judgement {
        let asks = matches!(event, Happening::Reload | Happening::GoBack);
        let record = &mut self.record;
        let mut answered = false;
        for action in actions {
            match action {
                Action::HotRestart(RestartStep::Try) => {
                    let wanted = record.kept || asks;
                    must(wanted, "a reload that nobody wants")?;
                    must(!record.waiting, "two reloads at once")?;
                    (record.waiting, record.kept, answered) = (true, false, true);
                }
                Action::HotRestart(RestartStep::Keep) => {
                    must(asks, "kept for nobody")?;
                    (record.kept, answered) = (true, true);
                }
                // The one that was asked for just now is refused.
                Action::HotRestart(RestartStep::Reloaded(_)) if asks => answered = true,
                Action::HotRestart(RestartStep::Reloaded(_)) if record.waiting => {
                    record.waiting = false
                }
                Action::HotRestart(RestartStep::Reloaded(_)) => {
                    must(record.kept, "told to nobody")?;
                    record.kept = false;
                }
                _ => {}
            }
        }
        must(
            answered == (asks) || actions.contains(&Action::HotRestart(RestartStep::Try)),
            "a reload without an answer",
        )?;
        must(
            !self.record.waiting || self.core.is_reloading(),
            "somebody waits for a reload in vain",
        )?;
        must(
            !self.record.kept || self.core.generations.beside != Beside::Nobody,
            "a kept reload is forgotten",
        )
    }

    /// Whether a signal that can wait for nothing was obeyed at once.
    pub(super) fn judge_order(&self, event: Happening, from: &World) -> Judgement {
        let Happening::Order(order @ (Order::Stop | Order::StopNow)) = event else {
            return Ok(());
        };
        if self.record.stops == from.record.stops {
            return must(
                self.core.life.ordered == from.core.life.ordered && order == Order::Stop,
                "the same order once more is another one",
            );
        }
        let over = |drain: &Drain| drain.outcome().is_some();
        let again = self.record.stops >= 2 && from.core.life.drain().is_some()
            || from.core.life.drain().is_some_and(over);
        match from.core.life.phase {
            Phase::Running(_) if again || order == Order::StopNow => must(
                self.record.terminated.is_some(),
                "a signal to stop is ignored",
            ),
            Phase::Stopping { .. } if self.record.stops >= 3 => {
                must(self.record.killed.is_some(), "a third signal is ignored")
            }
            Phase::Backoff { .. } | Phase::Judging { .. } | Phase::Spawning
                if self.record.old && order == Order::Stop =>
            {
                must(
                    self.core.is_last() || self.core.is_stopping_old(),
                    "an old generation is forgotten",
                )
            }
            Phase::Down if from.core.is_last() && (again || order == Order::StopNow) => {
                must(self.core.is_stopping_old(), "a signal to stop is ignored")
            }
            Phase::Judging { .. } if !self.core.life.rules.restart && self.record.old => {
                must(self.core.is_stopping_old(), "it does not end")
            }
            Phase::Down if from.core.is_last() => Ok(()),
            Phase::Waiting
            | Phase::Spawning
            | Phase::Backoff { .. }
            | Phase::Judging { .. }
            | Phase::Down => must(
                matches!(self.core.life.phase, Phase::Over(_)) != self.record.old,
                "it does not end",
            ),
            _ => Ok(()),
        }
    }

    /// Whether a drain that has just ended had reason to.
    pub(super) fn judge_outcome(&mut self, now: Time, event: Happening, from: &World) -> Judgement {
        let ended = |core: &Core| core.life.service.wait().map(Drain::outcome);
        let (Some(Some(outcome)), was) = (ended(&self.core), ended(&from.core)) else {
            return Ok(());
        };
        let holds = self.core.hold().is_some();
        let anew = holds && event == Happening::Hold && !from.core.life.is_leaving();
        let same = holds == from.core.hold().is_some() && !anew;
        if let Some(Some(was)) = was.filter(|_| same) {
            return must(was == outcome, "an outcome changed");
        }
        let seen = self.record.drain.take();
        let looked = match event {
            Happening::Answer(ask, says) if ask.tells_open() => {
                matches!(says.answer(), Some(Answer::Stats(_)))
            }
            _ => false,
        };
        let limits = &self.core.life.rules.limits;
        let failed = !holds || self.record.health == Health::Failed;
        let patience = load::patience(limits.settle) + DOUBT;
        let sends = |seen: &DrainSeen| seen.unsent_since.is_some_and(|at| now < at + patience);
        // A client that has not taken its last bytes is no clean end, however long that was waited for.
        let stalls = |seen: &DrainSeen| seen.unsent_since.is_some();
        // The kernel is asked of one of two, and what it does not show any more may have been cut.
        let both = self.record.old && self.record.newest;
        let told = self.record.told && !matches!(event, Happening::Answer(Ask::Sockets, _));
        let told = told && (self.record.none_since.is_none() || self.record.old_is_empty(now));
        let known = failed && (!self.record.old || self.record.told && (told || !both));
        let clean = |seen: &DrainSeen| {
            // Nothing that was open when an old generation ended is called drained.
            let known = known && !seen.lost;
            let live = seen.word;
            let patient = live || now + limits.timeout >= seen.deadline + SILENCE_MIN;
            let sent = !seen.stops || seen.entries_since.is_none_or(|at| now >= at + FLUSH);
            let closed = !seen.stops || seen.closed || !live;
            known && now >= seen.min_until && closed && patient && sent && !sends(seen)
        };
        let only_the_minimum = |seen: &DrainSeen| {
            let logs = (seen.closed || !seen.word) && seen.entries_since.is_some();
            let late = seen.min_until >= seen.deadline || logs;
            known && now >= seen.deadline && late && !sends(seen)
        };
        let why = match (outcome, &seen) {
            (Outcome::Drained | Outcome::Idle, Some(seen)) if stalls(seen) => false,
            (Outcome::Stalled, Some(seen)) if !stalls(seen) => false,
            (Outcome::Drained | Outcome::Idle | Outcome::Stalled, Some(seen))
                if only_the_minimum(seen) =>
            {
                true
            }
            // The bytes are told of an Envoy without connections alone.
            (Outcome::Drained | Outcome::Stalled, Some(seen)) => {
                // Where new connections are counted, they have the last word.
                let counted = matches!(
                    event,
                    Happening::Answer(Ask::Activity, Says::Still | Says::Moved)
                );
                let counted = counted && seen.arrivals_until.is_some();
                clean(seen) && seen.empty && (looked || counted)
            }
            (Outcome::Idle, Some(seen)) => {
                let settled = seen.idle_since.is_some_and(|at| now - at >= limits.settle);
                clean(seen)
                    && settled
                    && !limits.settle.is_zero()
                    && event == Happening::Answer(Ask::Activity, Says::Still)
            }
            (Outcome::Deadline | Outcome::AdminLost, Some(seen)) => now >= seen.deadline,
            (Outcome::NeverLive, None) => {
                matches!(event, Happening::Order(_) | Happening::Hold) && !from.record.old
            }
            (Outcome::Unknown, None) => event == Happening::Hold && from.record.old,
            (Outcome::EnvoyExited, Some(seen)) if holds => {
                seen.lost || !self.core.life.is_running()
            }
            (Outcome::NeverLive, Some(seen)) => {
                let initializing = event == Happening::Answer(Ask::Ready, Says::Initializing);
                let closed = seen.kernel == Some(Says::Closed);
                !from.record.live
                    && (seen.stops && initializing || closed && now >= seen.wait_for_word_until)
            }
            (Outcome::Unknown, Some(seen)) => {
                !seen.word && seen.kernel.is_none() && now >= seen.wait_for_word_until
            }
            (Outcome::SecondSignal, Some(_)) => {
                event == Happening::Order(Order::StopNow)
                    || event == Happening::Order(Order::Stop) && self.record.stops >= 2
            }
            (Outcome::EnvoyExited, Some(seen)) => {
                seen.lost
                    || matches!(event, Happening::Exited(_))
                    || event_is_loss(event, from)
                    || matches!(event, Happening::OldExited(_)) && from.core.is_last()
            }
            (Outcome::EnvoyExited, None) => from.core.starts_anew(),
            (Outcome::SecondSignal, None) => {
                event == Happening::Order(Order::StopNow) && from.record.old
            }
            _ => false,
        };
        must(why, &format!("{outcome:?} without reason: {seen:?}"))
    }

    /// Whether a drain with nothing left waits for new connections after their time.
    pub(super) fn judge_arrivals(&self, now: Time, event: Happening) -> Judgement {
        let Some(seen) = &self.record.drain else {
            return Ok(());
        };
        let told = matches!(event, Happening::Answer(Ask::Stats | Ask::Activity, says) if says != Says::Nothing);
        let late = seen.arrivals_until.is_some_and(|until| now >= until);
        let over = seen.empty && seen.entries_since.or(seen.unsent_since).is_none();
        must(
            !(told && late && over && seen.word) || self.core.asked().is_some(),
            "it waits for connections that have no time any more",
        )
    }

    /// Whether an action was called for.
    pub(super) fn judge_action(
        &mut self,
        now: Time,
        event: Happening,
        action: Action,
        before: &Core,
    ) -> Judgement {
        let core = &self.core;
        let outcome = core.life.drain().and_then(Drain::outcome);
        let running = matches!(before.life.phase, Phase::Running(_)) || event == Happening::Spawned;
        match action {
            Action::HotRestart(RestartStep::Try) => must(
                core.life.drain().is_none() && running,
                "tried although it drains",
            ),
            Action::HotRestart(RestartStep::Reloaded(_))
            | Action::HoldEnded(_)
            | Action::ResumeEnded(_) => Ok(()),
            Action::HotRestart(RestartStep::SpawnNext) => {
                must(self.record.newest && !self.record.old, "a third generation")?;
                must(core.life.drain().is_none(), "raised although told to drain")
            }
            Action::HotRestart(RestartStep::KillNewest) => {
                if let Happening::OldExited(_) = event {
                    self.record.killed = Some(now);
                    must(
                        !matches!(before.generations.beside, Beside::Old { left, .. } if left.is_relieved()),
                        "killed for an end that was meant",
                    )?;
                    return must(running && self.record.newest, "SIGKILL to nobody");
                }
                let Beside::Starting(next) = before.generations.beside else {
                    return Err("SIGKILL to an Envoy that does not start".into());
                };
                let late = now >= next.since + START_LIMIT;
                must(late && !next.given_up, "given up early")
            }
            Action::HotRestart(RestartStep::Keep) => Ok(()),
            Action::HotRestart(RestartStep::RelieveOld) => {
                must(
                    self.record.old && self.record.newest && core.life.drain().is_none(),
                    "nobody to relieve, or for nobody",
                )?;
                let hurries = before.generations.hurries(now);
                must(self.record.empty || hurries, "relieved with something left")
            }
            Action::HotRestart(RestartStep::TerminateOld) if self.record.newest => {
                must(
                    self.record.old && self.record.old_ended.is_none(),
                    "SIGTERM to no old generation, or twice",
                )?;
                self.record.old_ended = Some(now);
                let relieved = self.record.relieved;
                let Beside::Old { since, .. } = before.generations.beside else {
                    return Err("SIGTERM to nobody".into());
                };
                must(
                    relieved.is_some_and(|at| now >= (at + MOMENT).min(since + OLD_TIME)),
                    "SIGTERM to an old generation that is asked, or has something left",
                )
            }
            Action::HotRestart(RestartStep::KillOld) => {
                let ended = self.record.old_ended;
                let patience = core.life.rules.kill_timeout.max(KILL_PATIENCE);
                must(
                    self.record.old && self.record.relieved.is_some(),
                    "SIGKILL to an old generation that is asked",
                )?;
                let lost = !self.record.old_is_empty(now);
                if let Some(seen) = &mut self.record.drain {
                    seen.lost |= lost;
                }
                self.record.lose_old();
                must(
                    matches!(event, Happening::Exited(_))
                        || ended.is_some_and(|at| now >= at + patience),
                    "SIGKILL to an old generation too early",
                )
            }
            Action::HotRestart(RestartStep::TerminateOld) => {
                must(self.record.old, "SIGTERM to no old generation")?;
                self.record.terminated.get_or_insert(now);
                Ok(())
            }
            Action::Judge => must(
                matches!(event, Happening::Exited(Exit::Code(code)) if code != 0)
                    && !before.life.is_live()
                    && before.life.drain().is_none(),
                "asked of an Envoy that refuses nothing",
            ),
            Action::Spawn => {
                must(!self.record.newest, "two newest")?;
                must(core.life.phase == Phase::Spawning, "spawned twice")?;
                must(
                    core.life.drain().is_none(),
                    "spawned although told to drain",
                )
            }
            Action::Ask(ask) => {
                let outlived = core.is_last() && self.record.old;
                must(
                    (running || outlived) && core.asks() == Some(ask),
                    "a question to nobody",
                )?;
                must(!outlived || !ask.is_to_envoy(), "a question to nobody")?;
                self.judge_health_check(ask)?;
                if !ask.is_to_envoy() {
                    let seen = &self.record.drain;
                    let silent = |seen: &DrainSeen| seen.unanswered || !seen.word;
                    let lost = self.record.refused
                        || core.generations.is_starting()
                        || outlived
                        || seen.as_ref().is_some_and(silent);
                    must(lost, "the kernel is asked instead of Envoy")?;
                }
                let answered = matches!(event, Happening::Answer(..) | Happening::Exited(_))
                    || matches!(event, Happening::Spawned | Happening::NextSpawned(_));
                must(
                    before.asked().is_none() || answered,
                    "two questions at once",
                )?;
                let at_rest = core.life.is_live()
                    && core.life.drain().is_none()
                    && !core.generations.is_starting();
                let anew = matches!(event, Happening::Exited(_) | Happening::NextSpawned(_));
                // Whether that was all that is wrong.
                let anew = anew || matches!(event, Happening::Answer(Ask::Stats | Ask::Traffic, _));
                // What comes before such a look.
                let firsts = [Ask::FailHealthCheck, Ask::PassHealthCheck, Ask::ServerInfo];
                let anew =
                    anew || matches!(event, Happening::Answer(ask, _) if firsts.contains(&ask));
                if ask == Ask::Ready && at_rest && !anew {
                    let looked = before.life.envoy().and_then(|envoy| envoy.asking.looked);
                    let rested = looked.is_none_or(|at| now - at >= PROBE_REST);
                    must(rested, "asked more than once a second at rest")?;
                }
                Ok(())
            }
            Action::Terminate
                if before.generations.is_starting()
                    && matches!(event, Happening::Exited(_))
                    && matches!(before.life.phase, Phase::Stopping { .. }) =>
            {
                // Now the one before.
                let stopping = matches!(before.life.phase, Phase::Stopping { killed: None, .. });
                must(stopping && self.record.newest, "SIGTERM too early")
            }
            Action::Terminate => {
                must(running && self.record.terminated.is_none(), "SIGTERM twice")?;
                self.record.terminated = Some(now);
                let told = self.record.stops > 0 || self.record.script_ended;
                let now_at_once = event == Happening::Order(Order::StopNow);
                let closed = event == Happening::Answer(Ask::Sockets, Says::Closed);
                must(
                    told && (now_at_once || outcome.is_some())
                        || closed && core.starts_anew() && core.life.drain().is_none(),
                    "SIGTERM too early",
                )
            }
            Action::TerminateRest => {
                let Some(at) = self.record.terminated else {
                    return Err("the rest is told before Envoy".into());
                };
                must(!self.record.rest, "the rest is told twice")?;
                self.record.rest = true;
                let due = now >= at + core.life.rules.kill_timeout / 2;
                must(
                    due && self.record.killed.is_none(),
                    "the rest is told early",
                )
            }
            Action::Kill => {
                let Some(at) = self.record.terminated else {
                    return Err("SIGKILL without SIGTERM".into());
                };
                must(self.record.killed.is_none(), "SIGKILL twice")?;
                self.record.killed = Some(now);
                let due = now >= at + core.life.rules.kill_timeout;
                let third = matches!(event, Happening::Order(Order::Stop | Order::StopNow))
                    && self.record.stops >= 3;
                must(due || third, "SIGKILL too early")
            }
            Action::ReopenLogs => {
                let Phase::Running(envoy) = before.life.phase else {
                    return Err("SIGUSR1 to nobody".into());
                };
                let answered = match event {
                    Happening::Answer(ask, says) => ask.is_to_envoy() && says != Says::Nothing,
                    _ => event == Happening::HandlersSeen,
                };
                let handlers = answered || envoy.handlers || now - envoy.since >= HANDLERS_READY;
                let starts = core.generations.is_starting();
                must(handlers && !starts, "SIGUSR1 to an Envoy without handlers")
            }
            Action::Exit(code) => {
                must(
                    !self.record.newest && !self.record.old || self.record.killed.is_some(),
                    "a generation is forgotten",
                )?;
                let kept = match before.life.phase {
                    Phase::Stopping {
                        then: AfterStop::ExitAs(exit),
                        ..
                    } => Some(exit.code()),
                    _ => None,
                };
                let (asked, lapsed) = match before.life.phase {
                    Phase::Judging { exit, until } => (Some(exit.code()), now >= until),
                    _ => (None, false),
                };
                let never = !core.life.rules.restart;
                let patient = |at: Time| now >= at + KILL_PATIENCE;
                let cut = code == 137 && self.record.killed.is_some_and(patient);
                let right = match event {
                    Happening::Exited(exit) => code == kept.unwrap_or(exit.code()),
                    Happening::OldExited(_) if before.is_last() => code == 0,
                    Happening::OldExited(_) => Some(code) == kept,
                    Happening::SpawnFailed => code == COMMAND_NOT_FOUND,
                    Happening::Judged(refused) => Some(code) == asked && (refused || never),
                    _ if never && lapsed => Some(code) == asked,
                    Happening::Order(_) => {
                        code == asked.filter(|_| never).unwrap_or(0)
                            && !running
                            && before.life.phase != Phase::Spawning
                    }
                    _ => false,
                };
                must(right || cut, &format!("exit {code}"))
            }
        }
    }
}

/// Whether the generation that served is gone.
fn event_is_loss(event: Happening, from: &World) -> bool {
    matches!(event, Happening::OldExited(_)) && from.core.generations.is_starting()
}
