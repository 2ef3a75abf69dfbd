//! A state of the search: the core and who watches it.

use super::*;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) core: Core,
    pub(super) record: Record,
}

impl World {
    /// Makes worlds equal that will behave the same, and brings their present to [`BASE`].
    pub(super) fn level(&mut self, now: Time) {
        let past = |at: Time, kept: Duration| (at + BASE).saturating_sub(now).max(BASE - kept);
        let due = |at: Time| past(at, Duration::ZERO);
        let counts = |at: Option<Time>| {
            at.filter(|at| now < *at + SAME_ORDER)
                .map(|at| past(at, SAME_ORDER))
        };
        let waits = self.core.is_draining();
        let asking = |asking: &mut Asking, live: bool| {
            if let Some(asked) = &mut asking.asked {
                asked.number = 0;
                (asked.at, asked.asker) = match asked.asker {
                    Requester::Drain if waits => (past(asked.at, HANGING), Requester::Drain),
                    Requester::Drain => (BASE, Requester::Past),
                    asker => (BASE, asker),
                };
            }
            if let Some(next) = &mut asking.next {
                next.due = due(next.due);
            }
            asking.pause = PROBE_REST;
            if let HealthCheck::Doubtful { due: at, failures } = &mut asking.health {
                (*at, *failures) = (due(*at), GROWN_UP);
            }
            // Until it is live, it is asked again and again.
            let counts = |at: &Time| live && now < *at + PROBE_REST;
            asking.looked = asking.looked.filter(counts).map(|at| past(at, PROBE_REST));
        };
        let core = &mut self.core;
        core.questions = 0;
        core.wake_at = core.wake_at.map(due);
        let life = &mut core.life;
        life.reason.clear();
        life.stops = life.stops.min(3);
        life.ordered = counts(life.ordered);
        // Jitter and growth have their own tests.
        let under_way = life.backoff.is_under_way();
        life.backoff = Backoff::new(1);
        let drains = life.drain().is_some();
        let waits = life.service.wait().is_some();
        if under_way && !drains {
            life.backoff.next();
        }
        let running = life.is_running();
        if let Some(kept) = &mut core.generations.kept {
            kept.by = kept.by.map(due);
        }
        let life = &mut core.life;
        match &mut life.phase {
            Phase::Running(envoy) => {
                asking(&mut envoy.asking, envoy.live.is_some());
                if drains {
                    envoy.asking.health = HealthCheck::Own;
                }
                let known = envoy.live.is_some() || envoy.handlers && waits;
                envoy.since = match known {
                    true => BASE,
                    false => past(envoy.since, HANDLERS_READY),
                };
                envoy.live = envoy.live.map(|_| BASE);
            }
            Phase::Stopping { since, killed, .. } => {
                *since = past(*since, LONG);
                *killed = killed.map(|at| past(at, LONG));
            }
            Phase::Backoff { until } => *until = due(*until),
            Phase::Judging { until, .. } => *until = due(*until),
            _ => {}
        }
        if let Some(wait) = life.service.wait_mut() {
            wait.level(now, BASE);
        }
        let generations = &mut core.generations;
        if !running {
            generations.admin = AdminAccess::Own;
        }
        match &mut generations.beside {
            Beside::Starting(next) if running => {
                next.since = past(next.since, START_LIMIT);
                asking(&mut next.asking, true);
            }
            // All that is still waited for is its end.
            Beside::Starting(next) => {
                next.since = BASE;
                (next.second, next.given_up) = (false, false);
                (next.accepts_nothing, next.reopen) = (false, false);
                next.asking = Asking::from_start(BASE);
                next.asking.rest();
            }
            Beside::Old {
                since,
                left,
                open,
                look,
                ..
            } if !drains => {
                *since = past(*since, OLD_TIME - SEEN_LATE);
                let looks = running && matches!(left, Left::Something | Left::Relieved(_));
                *look = if looks { due(*look) } else { BASE };
                *left = leveled(*left, &past);
                *open = leveled_open(*open, &past);
            }
            // When its time is, and whether the newest is spawned again, makes no difference now.
            Beside::Old {
                since,
                second,
                left,
                open,
                look,
                ..
            } => {
                (*since, *second, *look) = (BASE, true, BASE);
                *left = leveled(*left, &past);
                *open = leveled_open(*open, &past);
            }
            Beside::Last { since, asked } => {
                *since = BASE;
                if let Some(asked) = asked {
                    asked.number = 0;
                    asked.at = past(asked.at, HANGING);
                }
            }
            _ => {}
        }
        let record = &mut self.record;
        record.empty &= record.old && !drains;
        record.relieved = record.relieved.map(|at| past(at, MOMENT));
        record.none_since = record.none_since.map(|at| past(at, CUT));
        record.old_ended = record.old_ended.map(|at| past(at, KILL_PATIENCE));
        record.stops = record.stops.min(3);
        record.ordered = counts(record.ordered);
        record.terminated = record.terminated.map(|at| past(at, LONG));
        record.killed = record.killed.map(|at| past(at, LONG));
        if !record.old || record.told {
            record.uptime = None;
        }
        record.told &= record.old;
        if !running {
            (record.health, record.next_health) = Default::default();
        }
        if let Some(drain) = &mut record.drain {
            drain.deadline = due(drain.deadline);
            drain.min_until = due(drain.min_until);
            drain.arrivals_until = drain.arrivals_until.map(due);
            drain.wait_for_word_until = if drain.word {
                BASE
            } else {
                due(drain.wait_for_word_until)
            };
            drain.entries_since = drain.entries_since.map(|at| past(at, FLUSH));
            let settle = core.life.rules.limits.settle;
            let patience = load::patience(settle) + DOUBT;
            drain.unsent_since = drain.unsent_since.map(|at| past(at, patience));
            drain.idle_since = drain.idle_since.map(|at| past(at, settle));
        }
    }

    /// Everything that may happen next, and after what time.
    pub(super) fn events(&self, scene: Scope) -> Vec<(Duration, Happening)> {
        let core = &self.core;
        // Generations multiply the states; without them everything else is explored, too.
        let hot = core.life.rules.old_time.is_some();
        let holds = scene == Scope::Hold;
        let wake = core.wake_at.map(|at| at - BASE);
        let mut events = vec![(wake.unwrap_or(LONG), Happening::Tick)];
        if wake.is_none_or(|wake| wake > STEP) {
            events.push((STEP, Happening::Tick));
        }
        let mut times = vec![Duration::ZERO];
        times.extend(wake);
        if scene == Scope::Late
            && let Some(wake) = wake
        {
            times.push(wake + LATE);
            events.push((wake + LATE, Happening::Tick));
        }
        let mut inputs = vec![
            Happening::Order(Order::Stop),
            Happening::Order(Order::StopNow),
            Happening::Order(Order::Drain),
        ];
        if holds {
            inputs.push(Happening::Hold);
            if core.is_held() || core.drain().is_some() {
                inputs.push(Happening::Resume);
            }
        } else {
            inputs.extend([Happening::Order(Order::ReopenLogs), Happening::Look]);
        }
        if !hot && !holds {
            inputs.push(Happening::Probe);
        }
        if core.is_draining() && !holds {
            inputs.push(Happening::ConnectionEnded);
        }
        if let Phase::Waiting | Phase::Down = core.life.phase {
            inputs.extend([Happening::Certificates, Happening::CertificatesMissing]);
        }
        if self.record.newest {
            inputs.push(Happening::AdminKnown);
            inputs.push(Happening::Exited(Exit::Signal(11)));
            if !holds {
                if !core.has_handlers() {
                    inputs.push(Happening::HandlersSeen);
                }
                inputs.push(Happening::Exited(Exit::Code(0)));
                inputs.push(Happening::ScriptEnded);
            }
            if !hot {
                inputs.push(Happening::Exited(Exit::Code(1)));
            }
        }
        if let Phase::Judging { .. } = core.life.phase {
            inputs.extend([Happening::Judged(true), Happening::Judged(false)]);
        }
        if self.record.old {
            inputs.extend([Exit::Code(0), Exit::Signal(9)].map(Happening::OldExited));
        }
        if hot {
            inputs.push(Happening::Reload);
        }
        if core.generations.beside == Beside::Trying {
            inputs.extend([Happening::Tried(true), Happening::Tried(false)]);
        }
        if let Some(ask) = core.asks() {
            let says = Says::to(ask).iter().filter(|says| match says {
                Says::Flushed | Says::Ending => self.record.old,
                Says::HealthFailed | Says::Reverted if holds => true,
                says => !(hot || holds) || says.is_main(),
            });
            inputs.extend(says.map(|says| Happening::Answer(ask, *says)));
        }
        if scene == Scope::Follow {
            let is_left = |event: &Happening| {
                let least = matches!(event, Happening::Order(Order::Stop | Order::StopNow));
                let order = matches!(event, Happening::Order(_)) && !least;
                !order
                    && !matches!(
                        event,
                        Happening::Look
                            | Happening::ScriptEnded
                            | Happening::AdminKnown
                            | Happening::HandlersSeen
                    )
            };
            inputs.retain(is_left);
            inputs.push(Happening::GoBack);
            inputs.push(Happening::Weigh);
        }
        for time in times {
            events.extend(inputs.iter().map(|input| (time, *input)));
        }
        events
    }

    /// Does a step, with everything checked that can be told of one.
    pub(super) fn step(
        &mut self,
        from: &World,
        now: Time,
        event: Happening,
    ) -> Result<Vec<Action>, String> {
        let actions = self.core.handle(now, event.input(now, &from.core));
        self.record.note(now, event, &from.core);
        self.judge_outcome(now, event, from)?;
        for action in &actions {
            self.judge_action(now, event, *action, &from.core)?;
        }
        let count = |wanted: fn(&Action) -> bool| actions.iter().filter(|a| wanted(a)).count();
        must(count(|a| matches!(a, Action::Ask(_))) <= 1, "two questions")?;
        must(
            count(|a| matches!(a, Action::Terminate)) <= 1,
            "two SIGTERMs",
        )?;
        self.judge_order(event, from)?;
        self.judge_arrivals(now, event)?;
        let closed = event == Happening::Answer(Ask::Sockets, Says::Closed);
        let serves = from.core.life.is_running() && !from.core.is_reloading();
        let serves = serves && from.core.generations.is_admin_away();
        if closed && serves && from.core.life.drain().is_none() {
            must(
                self.core.starts_anew(),
                "an Envoy that accepts nothing is kept",
            )?;
        }
        self.judge_reload(event, &actions)?;
        self.judge_service(event, from, &actions)?;
        self.judge_looks(now, event, from)?;
        self.judge_rest(now, &actions)?;
        Ok(actions)
    }
}

fn leveled(left: Left, past: &impl Fn(Time, Duration) -> Time) -> Left {
    match left {
        Left::Relieved(at) => Left::Relieved(past(at, MOMENT)),
        Left::Terminated(at) => Left::Terminated(past(at, KILL_PATIENCE)),
        left => left,
    }
}

/// Levels what an old Envoy has open: how much was lost makes no difference to anything.
fn leveled_open(open: Open, past: &impl Fn(Time, Duration) -> Time) -> Open {
    match open {
        Open::NothingSince(at, _) => Open::NothingSince(past(at, CUT), Loss::Unknown),
        Open::Ending(loss) if loss != Loss::None => Open::Ending(Loss::Unknown),
        open => open,
    }
}

impl Core {
    pub(super) fn phase_is_over(&self) -> bool {
        matches!(self.life.phase, Phase::Over(_))
    }

    pub(super) fn asks(&self) -> Option<Ask> {
        self.asked().map(|question| question.ask)
    }

    /// What is asked of the Envoy that starts, or else of the one that runs.
    pub(super) fn asking(&self) -> Option<&Asking> {
        match &self.generations.beside {
            Beside::Starting(next) => Some(&next.asking),
            _ => self.life.envoy().map(|envoy| &envoy.asking),
        }
    }

    pub(super) fn view(&self) -> View {
        self.generations.view(&self.life)
    }

    /// Whether an old Envoy is all that the drain waits for.
    pub(super) fn is_last(&self) -> bool {
        matches!(self.generations.beside, Beside::Last { .. })
    }

    /// Whether a reload has not come to its end.
    pub(super) fn is_reloading(&self) -> bool {
        matches!(
            self.generations.beside,
            Beside::Trying | Beside::Spawning { .. } | Beside::Starting(_)
        )
    }

    /// Whether the old generation is being ended, and nothing else is there.
    pub(super) fn is_stopping_old(&self) -> bool {
        matches!(
            self.life.phase,
            Phase::Stopping {
                then: AfterStop::ExitAs(_),
                ..
            }
        )
    }

    pub(super) fn starts_anew(&self) -> bool {
        matches!(
            self.life.phase,
            Phase::Stopping {
                then: AfterStop::StartAnew,
                ..
            }
        )
    }
}
