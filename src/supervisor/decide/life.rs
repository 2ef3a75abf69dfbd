//! The life of one Envoy: its start, its drain, its end, and its next start.

use std::time::Duration;

use super::asking::{Asking, PROBE_REST, Question, Requester};
use super::service::Service;
use super::{Action, Input, Rules, Turn, View, Visibility};
use crate::drain::{Answer, Ask, Drain, Outcome, Readiness, Time};
use crate::duration::show;
use crate::process::Exit;
use crate::status::State;
use crate::supervisor::backoff::Backoff;

/// Whether Envoy refuses its configuration is known in 40 to 80 ms; nobody waits longer than this.
pub(super) const JUDGEMENT: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 15 });

/// An Envoy that was told to reopen its logs before it had a handler would die of that. Envoy has
/// one when the kernel says so, or its admin interface answers, and surely this long after its
/// start.
pub(super) const HANDLERS_READY: Duration = Duration::from_secs(5);

/// How long SIGKILL may take. A process in an uninterruptible sleep does not die of it, but pid 1
/// must: then the kernel ends what is left.
pub const KILL_PATIENCE: Duration = Duration::from_millis(800);

/// What follows when Envoy has ended that was told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum AfterStop {
    /// drainit exits as Envoy did.
    Exit,
    /// drainit exits with this, as the Envoy did that served: only another is still to end.
    ExitAs(Exit),
    /// Envoy is started anew, unless an order comes that forbids it.
    StartAnew,
}

/// Between two looks at the sockets of an Envoy that has lost its admin interface: this at the
/// last. With 10,000 connections a look takes 15 to 20 ms of a processor, and 0.1 s by /proc.
const LOOK_REST: Duration = Duration::from_secs(30);

/// Where Envoy is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Phase {
    /// Envoy is not started: its certificates are missing.
    Waiting,
    /// Envoy is about to be spawned.
    Spawning,
    Running(Envoy),
    /// Envoy was sent SIGTERM then, or SIGKILL; and the rest of its process tree, too, or not yet.
    Stopping {
        since: Time,
        rest: bool,
        killed: Option<Time>,
        then: AfterStop,
    },
    /// Envoy ended before it was live, and is asked until then whether it refuses its
    /// configuration.
    Judging {
        exit: Exit,
        until: Time,
    },
    /// Envoy is started again then.
    Backoff {
        until: Time,
    },
    /// Envoy is not started any more: a drain was asked for while there was none.
    Down,
    /// All is over: drainit exits with this code.
    Over(u8),
}

/// What is known of a running Envoy, and dies with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Envoy {
    /// When Envoy was spawned.
    pub since: Time,
    /// Since when Envoy has been live.
    pub live: Option<Time>,
    /// Whether Envoy was seen to have handlers for its signals.
    pub handlers: bool,
    /// Whether Envoy's logs are to be reopened as soon as it has a handler for that.
    pub reopen: bool,
    pub asking: Asking,
}

impl Envoy {
    fn new(now: Time) -> Envoy {
        Envoy {
            since: now,
            live: None,
            handlers: false,
            reopen: false,
            asking: Asking::from_start(now),
        }
    }
}

/// The life of one Envoy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Life {
    pub rules: Rules,
    pub phase: Phase,
    pub service: Service,
    /// How often drainit was told to stop, by orders that counted, and when the last one came.
    pub stops: u32,
    pub ordered: Option<Time>,
    pub backoff: Backoff,
    /// Why drainit is in its state.
    pub reason: String,
}

impl Life {
    pub fn new(rules: Rules, seed: u64) -> Life {
        let (phase, reason) = if rules.gated {
            (Phase::Waiting, "the certificates are being read")
        } else {
            (Phase::Spawning, "starting")
        };
        Life {
            rules,
            phase,
            service: Service::Serving,
            stops: 0,
            ordered: None,
            backoff: Backoff::new(seed),
            reason: reason.into(),
        }
    }

    pub fn state(&self, now: Time) -> State {
        match self.phase {
            Phase::Waiting => State::Waiting,
            Phase::Stopping { .. } => State::Stopping,
            Phase::Judging { .. } if !self.rules.restart => State::Gone,
            Phase::Judging { .. } | Phase::Backoff { .. } => State::Restarting,
            Phase::Over(_) => State::Gone,
            Phase::Down | Phase::Spawning | Phase::Running(_) => match self.drain() {
                Some(drain) if drain.is_delayed(now) => State::Delaying,
                Some(drain) if drain.outcome().is_some() => State::Drained,
                Some(_) => State::Draining,
                None if !self.is_live() => State::Starting,
                None if self.is_held() => State::Held,
                None => State::Live,
            },
        }
    }

    /// The Envoy that runs.
    pub fn envoy(&self) -> Option<&Envoy> {
        match &self.phase {
            Phase::Running(envoy) => Some(envoy),
            _ => None,
        }
    }

    pub fn is_running(&self) -> bool {
        self.envoy().is_some()
    }

    /// Whether an Envoy runs that has been live.
    pub fn is_live(&self) -> bool {
        self.envoy().is_some_and(|envoy| envoy.live.is_some())
    }

    pub fn asked(&self) -> Option<Question> {
        self.envoy()?.asking.asked
    }

    pub fn on_input(&mut self, turn: &mut Turn, view: View, input: Input) {
        match (input, &mut self.phase) {
            (Input::Order(order, from), _) => self.on_order(turn, view, order, &from),
            (Input::Hold(from), _) => self.on_hold(turn, view, &from),
            (Input::Resume(from), _) => self.on_resume(turn, &from),
            (Input::Exited(_, exit), _) => self.on_exit(turn, view, exit),
            (Input::ConnectionEnded, _) => {
                let asking = self.envoy().map(|envoy| envoy.asking);
                let is_asked = asking.is_some_and(|asking| asking.wait_asked().is_some());
                if let Some(wait) = self.service.wait_mut() {
                    wait.on_end(is_asked);
                }
            }
            (Input::CertificatesMissing(which), Phase::Waiting) => self.reason = which,
            (Input::CertificatesReady, Phase::Waiting) => self.phase = Phase::Spawning,
            (Input::Spawned, Phase::Spawning) => {
                self.phase = Phase::Running(Envoy::new(turn.now));
                self.reason = "envoy started".into();
            }
            (Input::SpawnFailed(code), Phase::Spawning) => self.on_failed_start(turn, view, code),
            (Input::Judged(refusal), Phase::Judging { .. }) => {
                self.on_judgement(turn, view, refusal);
            }
            (Input::ScriptEnded(exit), Phase::Running(_)) => self.on_script_end(turn, view, exit),
            (Input::Answer(number, answer), Phase::Running(_)) => {
                self.on_answer(turn, view, number, answer.as_ref());
            }
            (Input::Probe, Phase::Running(envoy)) => envoy.asking.on_probe(turn.now),
            (Input::Look, Phase::Running(envoy)) if envoy.live.is_some() => {
                envoy.asking.on_look(turn.now);
            }
            (Input::Weigh(urgent), Phase::Running(envoy))
                if envoy.live.is_some()
                    && self.service.drain().is_none()
                    && view.can_be_asked() =>
            {
                envoy.asking.on_weigh(turn, urgent);
            }
            (Input::HandlersSeen, Phase::Running(envoy)) => envoy.handlers = true,
            (Input::AdminKnown, Phase::Running(envoy)) if envoy.live.is_none() => {
                envoy.asking.hurry(turn.now);
            }
            _ => {}
        }
    }

    fn on_failed_start(&mut self, turn: &mut Turn, view: View, code: u8) {
        self.reason = "envoy cannot be started".into();
        if self.rules.restart && self.backoff.is_under_way() {
            self.phase = Phase::Backoff {
                until: turn.now + self.backoff.next(),
            };
        } else {
            self.end(turn, view, Exit::Code(code));
        }
    }

    fn on_answer(&mut self, turn: &mut Turn, view: View, number: u64, answer: Option<&Answer>) {
        let now = turn.now;
        let Phase::Running(envoy) = &mut self.phase else {
            return;
        };
        let Some(question) = envoy.asking.take(number) else {
            return;
        };
        envoy.handlers |= answer.is_some() && question.ask.is_to_envoy();
        if question.asker == Requester::HealthCheck {
            let asking = &mut envoy.asking;
            asking.on_health_answer(now, question.ask, answer.is_some());
            if envoy.live.is_some()
                && self.service == Service::Serving
                && !asking.health.is_in_hand()
            {
                // Load balancers wait for that.
                asking.looked = Some(now);
                asking.ask(turn, Ask::Ready, Requester::Look);
            }
            return;
        }
        let passes = match answer {
            Some(Answer::Stats(load)) => !load.health_failed,
            Some(Answer::Ready(readiness)) => *readiness == Readiness::Live,
            _ => false,
        };
        if passes {
            let fails = self.service.wants_failed() != Some(false);
            envoy.asking.on_passing(now, fails);
        }
        self.tell_wait(view);
        if let Some(wait) = self.service.wait_mut() {
            match (question.asker, answer) {
                (Requester::Drain, _) => wait.on_answer(now, question.at, question.ask, answer),
                (_, Some(Answer::Ready(readiness))) => wait.on_ready(now, *readiness),
                _ => {}
            }
        }
        let Phase::Running(envoy) = &mut self.phase else {
            return;
        };
        match (question.ask, question.asker) {
            (Ask::Ready, _) => self.on_readiness(now, view, answer),
            (Ask::Stats, Requester::Look) => {
                // Unless it tells that all is well, the question remains how it is.
                let well = matches!(answer, Some(Answer::Stats(load)) if !load.health_failed);
                if !well {
                    envoy.asking.look_at(now);
                }
            }
            (Ask::Sockets, Requester::Look) => envoy.asking.look_again(now, LOOK_REST),
            (Ask::Traffic, _) if answer.is_none() => envoy.asking.look_soon(now),
            (ask, Requester::Drain | Requester::Past) if ask.tells_open() && answer.is_some() => {
                envoy.asking.forget_figures();
            }
            _ => {}
        }
    }

    fn on_readiness(&mut self, now: Time, view: View, answer: Option<&Answer>) {
        let Phase::Running(envoy) = &mut self.phase else {
            return;
        };
        let asking = &mut envoy.asking;
        asking.forget_probe();
        match envoy.live {
            None if serves(answer) => {
                envoy.live = Some(now);
                if self.service == Service::Serving {
                    let took = show(now.saturating_sub(envoy.since));
                    self.reason = format!("live {took} after its start");
                } else if let Some(hold) = self.service.hold() {
                    hold.cause().clone_into(&mut self.reason);
                }
            }
            None => {
                asking.look_again(now, PROBE_REST);
                if answer.is_some() {
                    asking.hurry_health(now);
                }
            }
            Some(_) if view.sight == Visibility::Kernel => asking.figures_at(now),
            // How long it has not answered is only known if it is asked again and again.
            Some(_) if answer.is_none() && asking.next.is_none() => {
                asking.look_at(now + PROBE_REST);
            }
            Some(_) => {}
        }
    }

    fn on_exit(&mut self, turn: &mut Turn, view: View, exit: Exit) {
        let envoy = match self.phase {
            Phase::Running(envoy) => envoy,
            Phase::Stopping { then, .. } => return self.on_stopped(turn, view, exit, then),
            _ => return,
        };
        self.reason = format!("envoy exited: {exit}");
        if let Some(drain) = self.service.drain_mut() {
            drain.end(Outcome::EnvoyExited);
            return self.end(turn, view, exit);
        }
        match (exit, envoy.live) {
            // It has done what it was run for, as `envoy --version` does.
            (Exit::Code(0), None) => self.end(turn, view, exit),
            (Exit::Code(_), None) => {
                self.phase = Phase::Judging {
                    exit,
                    until: turn.now + JUDGEMENT,
                };
                turn.act(Action::Judge);
            }
            (_, live) => {
                if let Some(live) = live {
                    self.backoff.was_healthy_for(turn.now.saturating_sub(live));
                }
                self.try_again(turn, view, exit);
            }
        }
    }

    /// An Envoy that ended before it was live refuses its configuration, or does not.
    fn on_judgement(&mut self, turn: &mut Turn, view: View, refusal: Option<String>) {
        let Phase::Judging { exit, .. } = self.phase else {
            return;
        };
        match refusal {
            Some(why) => {
                self.reason = format!("envoy refuses its command line or configuration: {why}");
                self.end(turn, view, exit);
            }
            None => self.try_again(turn, view, exit),
        }
    }

    /// What has failed may pass by itself, as an address that another still has.
    fn try_again(&mut self, turn: &mut Turn, view: View, exit: Exit) {
        if self.rules.restart {
            self.phase = Phase::Backoff {
                until: turn.now + self.backoff.next(),
            };
        } else {
            self.end(turn, view, exit);
        }
    }

    /// Does what is due, and says when there will be more.
    pub fn advance(&mut self, turn: &mut Turn, view: View) -> Option<Time> {
        if let Phase::Running(_) = self.phase {
            let due = [
                self.advance_logs(turn),
                self.advance_health(turn, view),
                self.advance_wait(turn, view),
                self.advance_asking(turn, view),
            ];
            if let Phase::Running(_) = self.phase {
                return due.into_iter().flatten().min();
            }
        }
        if let Phase::Judging { until, .. } = self.phase {
            if turn.now < until {
                return Some(until);
            }
            self.on_judgement(turn, view, None);
        }
        match self.phase {
            Phase::Backoff { until } if turn.now < until => return Some(until),
            Phase::Backoff { .. } => self.phase = Phase::Spawning,
            Phase::Stopping { since, killed, .. } => {
                let rest = self.terminate_rest(turn);
                let due = match killed {
                    Some(at) => at + KILL_PATIENCE,
                    None => since + self.rules.kill_timeout,
                };
                if turn.now < due {
                    return Some(rest.map_or(due, |rest| rest.min(due)));
                }
                if killed.is_none() {
                    self.kill(turn);
                    return Some(turn.now + KILL_PATIENCE);
                }
                self.phase = Phase::Over(Exit::Signal(9).code());
            }
            _ => {}
        }
        match self.phase {
            Phase::Spawning => turn.act(Action::Spawn),
            Phase::Over(code) => turn.act(Action::Exit(code)),
            _ => {}
        }
        None
    }

    /// Logs are reopened once that does no harm.
    fn advance_logs(&mut self, turn: &mut Turn) -> Option<Time> {
        let Phase::Running(envoy) = &mut self.phase else {
            return None;
        };
        if !envoy.reopen {
            return None;
        }
        let ready = envoy.since + HANDLERS_READY;
        if turn.now < ready && !envoy.handlers {
            return Some(ready);
        }
        envoy.reopen = false;
        turn.act(Action::ReopenLogs);
        None
    }

    /// Envoy is asked how it is, unless the drain's own questions tell that.
    fn advance_asking(&mut self, turn: &mut Turn, view: View) -> Option<Time> {
        let Phase::Running(envoy) = &mut self.phase else {
            return None;
        };
        let told = |drain: &Drain| !drain.is_delayed(turn.now) && drain.outcome().is_none();
        let told = self.service.wait().is_some_and(told) && view.sight != Visibility::Nothing;
        let asking = &mut envoy.asking;
        if told && envoy.live.is_some() {
            asking.leave_to_wait(turn.now, self.service.hold().is_some());
        }
        if told || asking.asked.is_some() || view.is_starting() {
            return None;
        }
        if envoy.live.is_some() && !asking.version_asked {
            asking.version_asked = true;
            asking.ask(turn, Ask::ServerInfo, Requester::Look);
            return None;
        }
        asking.advance(turn, view.in_place_of(Ask::Stats))
    }
}

/// Whether this answer says that Envoy serves.
pub(super) fn serves(answer: Option<&Answer>) -> bool {
    matches!(answer, Some(Answer::Ready(readiness)) if readiness.serves())
}
