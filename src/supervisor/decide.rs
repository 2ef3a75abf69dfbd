//! What drainit decides, apart from all I/O: inputs with a time in, actions out.
//!
//! Together with the drain this is the whole of the decision core. It has no clock, no process
//! and no socket, so that its tests can walk through every order of events.

mod due;
mod ending;
mod generations;
mod orders;
mod words;

use std::time::Duration;

use super::backoff::Backoff;
use crate::drain::{Answer, Ask, Drain, Outcome, Time};
use crate::duration::show;
use crate::process::Exit;
use crate::status::State;

pub use ending::KILL_PATIENCE;
use ending::Then;
pub use generations::Reloaded;
use generations::{Admin, Next, Told};
pub use words::{Action, Input, Order, Rules};

/// Between two looks at an Envoy that is not live yet: this at first, growing to [`PROBE_REST`].
const PROBE_FIRST: Duration = Duration::from_millis(20);

/// At rest Envoy's admin interface is asked no more often than this.
const PROBE_REST: Duration = Duration::from_secs(1);

/// Whether Envoy refuses its configuration is known in 40 to 80 ms; nobody waits longer than this.
const JUDGEMENT: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 15 });

/// Where Envoy is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    /// Not started: its certificates are missing.
    Waiting,
    /// About to be spawned.
    Spawning,
    /// Running since then.
    Running { since: Time },
    /// Sent SIGTERM then, or SIGKILL; and the rest of its process tree, too, or not yet.
    Stopping {
        since: Time,
        rest: bool,
        killed: Option<Time>,
        then: Then,
    },
    /// It ended before it was live, and is asked until then whether it refuses its configuration.
    Judging { exit: Exit, until: Time },
    /// Started again then.
    Backoff { until: Time },
    /// No newest Envoy is started any more, and the drain waits for what the old generation has.
    Outlived,
    /// Not started any more: a drain was asked for while it was down.
    Down,
    /// Over: drainit exits with this.
    Over(u8),
}

/// The decision core.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Core {
    rules: Rules,
    phase: Phase,
    /// Since when this Envoy has been live.
    live: Option<Time>,
    /// Whether its admin interface has ever answered.
    answered: bool,
    /// Whether it was seen to have handlers for its signals.
    handles: bool,
    drain: Option<Drain>,
    /// How often drainit was told to stop, by orders that counted, and when the last one came.
    stops: u32,
    ordered: Option<Time>,
    /// What Envoy's admin interface was asked and has not answered yet.
    asked: Option<Ask>,
    /// When to look at Envoy next, drain aside: while it starts, and when somebody wants to know.
    probe_due: Option<Time>,
    probe_pause: Duration,
    /// When `/ready` was last answered, or failed to be.
    probed: Option<Time>,
    version_asked: bool,
    /// Whether somebody wants to know what is open, drain aside.
    look_wanted: bool,
    backoff: Backoff,
    wake_at: Option<Time>,
    reason: String,
    /// The next generation, before it is live.
    next: Option<Next>,
    /// Since when an old generation drains beside the newest.
    parent: Option<Time>,
    /// What the newest has told of it.
    told: Told,
    /// Whether this generation was spawned a second time.
    again: bool,
    /// Whether somebody waits for a reload's end.
    waited: bool,
    /// How it ended.
    reloaded: Option<Reloaded>,
    /// The admin interface of the generation that serves.
    admin: Admin,
    /// Whether the generation that serves was seen to accept no connections any more.
    closed: bool,
    /// Whether logs are to be reopened as soon as Envoy has a handler for that.
    reopen: bool,
}

impl Core {
    /// A core at the start of drainit's life. `seed` spreads the restarts of many nodes.
    pub fn new(rules: Rules, seed: u64) -> Core {
        let (phase, reason) = if rules.gated {
            (Phase::Waiting, "the certificates are being read")
        } else {
            (Phase::Spawning, "starting")
        };
        Core {
            rules,
            phase,
            live: None,
            answered: false,
            handles: false,
            drain: None,
            stops: 0,
            ordered: None,
            asked: None,
            probe_due: None,
            probe_pause: PROBE_FIRST,
            probed: None,
            version_asked: false,
            look_wanted: false,
            backoff: Backoff::new(seed),
            wake_at: None,
            reason: reason.into(),
            next: None,
            parent: None,
            told: Told::Nothing,
            again: false,
            waited: false,
            reloaded: None,
            admin: Admin::Own,
            closed: false,
            reopen: false,
        }
    }

    /// Why drainit is in its state.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The drain, once one was asked for.
    pub fn drain(&self) -> Option<&Drain> {
        self.drain.as_ref()
    }

    /// What Envoy's admin interface was asked and has not answered yet.
    pub fn asked(&self) -> Option<Ask> {
        self.asked
    }

    /// Whether Envoy has handlers for its signals, as far as is known.
    pub fn has_handlers(&self) -> bool {
        self.answered || self.handles
    }

    /// Whether an end of Envoy now would be one that nobody here asked for, of an Envoy that had
    /// been live.
    pub fn serves_unasked(&self) -> bool {
        matches!(self.phase, Phase::Running { .. }) && self.live.is_some() && self.drain.is_none()
    }

    /// When to call [`Core::handle`] with [`Input::Tick`], if nothing else happens before.
    pub fn wake_at(&self) -> Option<Time> {
        self.wake_at
    }

    /// What drainit is doing.
    pub fn state(&self, now: Time) -> State {
        match self.phase {
            Phase::Waiting => State::Waiting,
            Phase::Stopping { .. } => State::Stopping,
            Phase::Judging { .. } if !self.rules.restart => State::Gone,
            Phase::Judging { .. } | Phase::Backoff { .. } => State::Restarting,
            Phase::Outlived => State::Draining,
            Phase::Down => State::Drained,
            Phase::Over(_) => State::Gone,
            Phase::Spawning | Phase::Running { .. } => match &self.drain {
                Some(drain) if drain.is_delayed(now) => State::Delaying,
                Some(drain) if drain.outcome().is_some() => State::Drained,
                Some(_) => State::Draining,
                None if self.live.is_some() => State::Live,
                None => State::Starting,
            },
        }
    }

    /// Takes an input, and says what to do.
    pub fn handle(&mut self, now: Time, input: Input) -> Vec<Action> {
        if let Phase::Over(code) = self.phase {
            return vec![Action::Exit(code)];
        }
        let mut actions = Vec::new();
        match input {
            Input::Tick => {}
            Input::Order(order, from) => self.take_order(now, order, &from, &mut actions),
            Input::Probe => self.take_probe(now),
            Input::Look => self.take_look(now),
            Input::CertificatesMissing(which) => {
                if self.phase == Phase::Waiting {
                    self.reason = which;
                }
            }
            Input::CertificatesReady => {
                if self.phase == Phase::Waiting {
                    self.phase = Phase::Spawning;
                }
            }
            Input::Spawned => self.take_start(now),
            Input::SpawnFailed(code) => self.take_failed_start(now, code, &mut actions),
            Input::HandlersSeen => self.handles = true,
            Input::AdminKnown => {
                if self.live.is_none() || self.is_rising() {
                    self.probe_due = Some(now);
                }
            }
            Input::Answer(ask, answer) => self.take_answer(now, ask, answer.as_ref(), &mut actions),
            Input::ScriptEnded(exit) => self.take_script_end(now, exit),
            Input::Exited(exit) => self.take_exit(now, exit, &mut actions),
            Input::Judged(refusal) => self.take_judgement(now, refusal, &mut actions),
            Input::Reload => self.take_reload(&mut actions),
            Input::Tried(passed) => self.take_tried(passed, &mut actions),
            Input::NextSpawned(spawned) => self.take_next(now, spawned),
            Input::ParentExited(exit) => self.take_parent_exit(now, exit, &mut actions),
        }
        self.wake_at = self.advance(now, &mut actions);
        actions.extend(self.reloaded.take().map(Action::Reloaded));
        actions
    }

    fn take_probe(&mut self, now: Time) {
        let rested = self
            .probed
            .is_none_or(|at| now.saturating_sub(at) >= PROBE_REST);
        if rested && self.probe_due.is_none() {
            self.probe_due = Some(now);
        }
    }

    /// The answer also tells how Envoy is, so that both together ask no more often.
    fn take_look(&mut self, now: Time) {
        if self.live.is_some() && !self.look_wanted {
            self.look_wanted = true;
            let rested = self.probed.map_or(now, |at| at + PROBE_REST);
            self.probe_due = Some(
                self.probe_due
                    .map_or(rested, |due| due.min(rested))
                    .max(now),
            );
        }
    }

    fn take_start(&mut self, now: Time) {
        self.phase = Phase::Running { since: now };
        self.live = None;
        self.answered = false;
        self.handles = false;
        // It has just opened them.
        self.reopen = false;
        self.admin = Admin::Own;
        self.closed = false;
        self.version_asked = false;
        self.look_wanted = false;
        self.probe_pause = PROBE_FIRST;
        self.probe_due = Some(now);
        self.probed = None;
        self.reason = "envoy started".into();
    }

    fn take_failed_start(&mut self, now: Time, code: u8, actions: &mut Vec<Action>) {
        self.reason = "envoy cannot be started".into();
        if self.rules.restart && self.backoff.is_under_way() {
            self.phase = Phase::Backoff {
                until: now + self.backoff.next(),
            };
        } else {
            self.end(now, Exit::Code(code), actions);
        }
    }

    fn take_answer(
        &mut self,
        now: Time,
        ask: Ask,
        answer: Option<&Answer>,
        actions: &mut Vec<Action>,
    ) {
        if self.asked.take_if(|asked| *asked == ask).is_none() {
            return;
        }
        if self.phase == Phase::Outlived {
            if let Some(drain) = &mut self.drain {
                drain.answer(now, ask, answer);
            }
            return;
        }
        let Phase::Running { since } = self.phase else {
            return;
        };
        if let Some(Answer::Stats(load)) = answer {
            self.told = self.told.after(load.uptime);
        }
        let known = self.knows_all();
        if let Some(drain) = &mut self.drain {
            drain.set_known(known);
            drain.answer(now, ask, answer);
        }
        if ask == Ask::Sockets {
            self.take_sockets(now, answer == Some(&Answer::Closed), actions);
            return;
        }
        self.answered |= answer.is_some();
        self.note_admin(answer.is_some());
        match ask {
            Ask::Ready => self.take_readiness(now, since, answer, actions),
            Ask::Stats if self.look_wanted => {
                self.look_wanted = false;
                self.probed = Some(now);
                // Unless it tells that all is well, the question remains how it is.
                let well = matches!(answer, Some(Answer::Stats(load)) if !load.health_failed);
                self.probe_due = (!well).then_some(now);
            }
            _ => {}
        }
    }

    fn take_readiness(
        &mut self,
        now: Time,
        since: Time,
        answer: Option<&Answer>,
        actions: &mut Vec<Action>,
    ) {
        // DRAINING: somebody failed its health check, but it serves.
        let serves = matches!(answer, Some(Answer::Ready(state)) if matches!(state.as_str(), "LIVE" | "DRAINING"));
        if let Some(Next::Rising(rise)) = self.next {
            self.take_rise(now, rise.since, serves, actions);
            return;
        }
        self.probed = Some(now);
        self.probe_due = None;
        match self.live {
            None if serves => self.take_live(now, since),
            None => self.look_again(now, PROBE_REST),
            Some(_) if self.is_degraded() => {
                self.look_wanted = true;
                self.probe_due = Some(now);
            }
            // How long it has not answered is only known if it is asked again and again.
            Some(_) if answer.is_none() => self.probe_due = Some(now + PROBE_REST),
            Some(_) => {}
        }
    }

    fn take_live(&mut self, now: Time, since: Time) {
        self.live = Some(now);
        if let Some(parent) = &mut self.parent {
            // Its time begins again, and so does what is not known of it.
            *parent = now;
            self.told = Told::Nothing;
            self.look_wanted = true;
            self.probe_due = Some(now + PROBE_REST);
        }
        if self.drain.is_none() {
            self.reason = format!("live {} after its start", show(now.saturating_sub(since)));
        }
    }

    /// Envoy is looked at again after a pause, each longer than the one before, up to `rest`.
    fn look_again(&mut self, now: Time, rest: Duration) {
        self.probe_due = Some(now + self.probe_pause);
        self.probe_pause = (self.probe_pause * 3 / 2).min(rest);
    }

    fn take_exit(&mut self, now: Time, exit: Exit, actions: &mut Vec<Action>) {
        self.asked = None;
        if let Some(Next::Rising(rise)) = self.next
            && !rise.alone
        {
            self.fall_back(now, exit, rise, actions);
            return;
        }
        self.next = None;
        self.tell(Reloaded::Failed);
        match self.phase {
            Phase::Running { .. } => {}
            Phase::Stopping { then, .. } => {
                self.take_stop(now, exit, then, actions);
                return;
            }
            _ => return,
        }
        self.reason = format!("envoy exited: {exit}");
        if let Some(drain) = &mut self.drain {
            drain.end(Outcome::EnvoyExited);
            self.end(now, exit, actions);
            return;
        }
        if self.parent.is_some() && self.live.is_some() && !self.again {
            // The listeners are closed now; the same generation, started again, finds the old one.
            // Once: one that keeps ending is subject to the rules.
            self.again = true;
            self.phase = Phase::Spawning;
            return;
        }
        match (exit, self.live) {
            // It has done what it was run for, as `envoy --version` does.
            (Exit::Code(0), None) => self.end(now, exit, actions),
            (Exit::Code(_), None) => {
                self.phase = Phase::Judging {
                    exit,
                    until: now + JUDGEMENT,
                };
                actions.push(Action::Judge);
            }
            _ => self.try_again(now, exit, actions),
        }
    }

    /// An Envoy that ended before it was live refuses its configuration, or does not.
    fn take_judgement(&mut self, now: Time, refusal: Option<String>, actions: &mut Vec<Action>) {
        let Phase::Judging { exit, .. } = self.phase else {
            return;
        };
        match refusal {
            Some(why) => {
                self.reason = format!("envoy refuses its command line or configuration: {why}");
                self.end(now, exit, actions);
            }
            None => self.try_again(now, exit, actions),
        }
    }

    /// What has failed may pass by itself, as an address that another still has.
    fn try_again(&mut self, now: Time, exit: Exit, actions: &mut Vec<Action>) {
        if !self.rules.restart {
            self.end(now, exit, actions);
            return;
        }
        if let Some(live) = self.live {
            self.backoff.was_healthy_for(now.saturating_sub(live));
        }
        self.phase = Phase::Backoff {
            until: now + self.backoff.next(),
        };
    }
}

#[cfg(test)]
mod explore;
#[cfg(test)]
mod generations_tests;
#[cfg(test)]
mod tests;
