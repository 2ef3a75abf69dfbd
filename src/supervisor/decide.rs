//! What drainit decides, apart from all I/O: inputs with a time in, actions out.
//!
//! Together with the drain this is the whole of the decision core. It has no clock, no process
//! and no socket, so that its tests can walk through every order of events.

use std::time::Duration;

use super::backoff::Backoff;
use crate::drain::{self, Answer, Ask, Drain, Limits, Outcome, Time};
use crate::duration::show;
use crate::process::Exit;
use crate::status::State;

/// Between two looks at an Envoy that is not live yet: this at first, growing to [`PROBE_REST`].
const PROBE_FIRST: Duration = Duration::from_millis(20);

/// At rest Envoy's admin interface is asked no more often than this.
const PROBE_REST: Duration = Duration::from_secs(1);

/// How long SIGKILL may take. A process in an uninterruptible sleep does not die of it, but pid 1
/// must: then the kernel ends what is left.
const KILL_PATIENCE: Duration = Duration::from_millis(800);

/// An Envoy that exits with 1 within this time was refused its command line or configuration by
/// itself: starting it again cannot help.
const REFUSAL: Duration = Duration::from_secs(1);

/// A generation that is not live by then is given up.
const RISE: Duration = Duration::from_secs(60);

/// Envoy tells how many connections the old generation has at each flush of its statistics, 5 s
/// unless configured: before one has passed, a zero may be old.
const FLUSH: Duration = Duration::from_secs(6);

/// An Envoy that was told to reopen its logs before it had a handler would die of that. It has
/// one when its admin interface answers, and surely this long after its start.
const HANDLERS_READY: Duration = Duration::from_secs(5);

/// What drainit was set up to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rules {
    /// Of a drain.
    pub limits: Limits,
    /// From Envoy's SIGTERM to SIGKILL.
    pub kill_timeout: Duration,
    /// Whether an Envoy that failed is started again.
    pub restart: bool,
    /// Whether to wait for certificates before Envoy's first start.
    pub gated: bool,
    /// Whether a reload is Envoy's hot restart.
    pub hot_restart: bool,
}

/// A signal, by what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// TERM, INT: drain, then stop; at the second time stop, at the third kill.
    Stop,
    /// QUIT: stop now.
    StopNow,
    /// USR2 and /shutdown: drain, and stay.
    Drain,
    /// USR1: Envoy reopens its access logs.
    ReopenLogs,
}

/// What happens to drainit.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time has passed.
    Tick,
    /// A signal came, or a request that means the same. The text says from where.
    Order(Order, String),
    /// Somebody wants to know how Envoy is.
    Probe,
    /// Somebody wants to know what is open.
    Look,
    /// Certificates are missing: these.
    CertificatesMissing(String),
    /// A usable set of certificates is there.
    CertificatesReady,
    /// Envoy was spawned.
    Spawned,
    /// It could not be; drainit would exit with this.
    SpawnFailed(u8),
    /// Envoy's admin interface is known from now on.
    AdminKnown,
    /// It answered; none stands for every failure there is.
    Answer(Ask, Option<Answer>),
    /// Envoy is gone. Of several generations it is the one that rises, or else the newest.
    Exited(Exit),
    /// Somebody wants the next generation.
    Reload,
    /// The next generation's configuration was tried, and is one; or it is not.
    Tried(bool),
    /// The next generation was spawned, or could not be.
    NextSpawned(bool),
    /// The old generation, which another has taken over from, is gone.
    ParentExited(Exit),
}

/// What is to be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Spawn Envoy.
    Spawn,
    /// Ask Envoy's admin interface.
    Ask(Ask),
    /// Send Envoy SIGTERM.
    Terminate,
    /// Send Envoy SIGKILL.
    Kill,
    /// Send Envoy SIGUSR1.
    ReopenLogs,
    /// End, with this code.
    Exit(u8),
    /// Try the next generation's configuration.
    Try,
    /// Spawn the next generation.
    SpawnNext,
    /// Send the rising generation SIGKILL.
    KillNext,
    /// Send the old generation SIGTERM.
    TerminateParent,
    /// Tell whoever asked for a reload how it ended.
    Reloaded(Reloaded),
}

/// How a reload ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reloaded {
    /// The next generation is live, and the old one drains.
    Live,
    /// Not now: another reload is under way.
    UnderWay,
    /// Not now: Envoy is not live.
    NotLive,
    /// A drain is asked for, or one came in between.
    Draining,
    /// Envoy refuses the configuration.
    Refused,
    /// The next generation ended, or was ended, before it was live.
    Failed,
}

/// The next generation, before it is live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Next {
    /// Its configuration is tried.
    Trying,
    /// It rises since then.
    Rising(Time),
}

/// Where Envoy is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    /// Not started: its certificates are missing.
    Waiting,
    /// About to be spawned.
    Spawning,
    /// Running since then.
    Running { since: Time },
    /// Sent SIGTERM then; SIGKILL too, perhaps.
    Stopping { since: Time, killed: Option<Time> },
    /// Started again then.
    Backoff { until: Time },
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
    drain: Option<Drain>,
    /// How often drainit was told to stop.
    stops: u32,
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
    /// When that was last told, or was not.
    looked: Option<Time>,
    backoff: Backoff,
    wake_at: Option<Time>,
    reason: String,
    /// The next generation, before it is live.
    next: Option<Next>,
    /// Since when an old generation drains beside the newest.
    parent: Option<Time>,
    /// Whether the whole Envoy is to be started anew when it has ended.
    replace: bool,
    /// How Envoy ended, while the old generation is still to end.
    exit: Option<Exit>,
    /// How a reload ended that somebody waits for.
    reloaded: Option<Reloaded>,
}

impl Core {
    /// A core at the start of drainit's life. `seed` spreads the restarts of many nodes.
    pub fn new(rules: Rules, seed: u64) -> Core {
        let phase = if rules.gated {
            Phase::Waiting
        } else {
            Phase::Spawning
        };
        Core {
            rules,
            phase,
            live: None,
            answered: false,
            drain: None,
            stops: 0,
            asked: None,
            probe_due: None,
            probe_pause: PROBE_FIRST,
            probed: None,
            version_asked: false,
            look_wanted: false,
            looked: None,
            backoff: Backoff::new(seed),
            wake_at: None,
            reason: "starting".into(),
            next: None,
            parent: None,
            replace: false,
            exit: None,
            reloaded: None,
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

    /// Whether a generation is rising: until it is live, nobody can say how Envoy is, and the old
    /// one serves.
    pub fn is_rising(&self) -> bool {
        matches!(self.next, Some(Next::Rising(_)))
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
            Phase::Backoff { .. } => State::Restarting,
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
            Input::SpawnFailed(code) => self.take_failed_start(now, code),
            Input::AdminKnown => {
                if self.live.is_none() {
                    self.probe_due = Some(now);
                }
            }
            Input::Answer(ask, answer) => self.take_answer(now, ask, answer.as_ref()),
            Input::Exited(exit) => self.take_exit(now, exit, &mut actions),
            Input::Reload => self.take_reload(&mut actions),
            Input::Tried(passed) => self.take_tried(passed, &mut actions),
            Input::NextSpawned(spawned) => self.take_next(now, spawned),
            Input::ParentExited(exit) => self.take_parent_exit(now, exit, &mut actions),
        }
        self.wake_at = self.advance(now, &mut actions);
        actions.extend(self.reloaded.take().map(Action::Reloaded));
        actions
    }

    fn take_order(&mut self, now: Time, order: Order, from: &str, actions: &mut Vec<Action>) {
        match order {
            Order::Stop => self.stops = self.stops.saturating_add(1),
            Order::StopNow => self.stops = self.stops.saturating_add(1).max(2),
            Order::Drain => {}
            Order::ReopenLogs => {
                if let Phase::Running { since } = self.phase
                    && (self.answered || now.saturating_sub(since) >= HANDLERS_READY)
                {
                    actions.push(Action::ReopenLogs);
                }
                return;
            }
        }
        match self.phase {
            Phase::Waiting | Phase::Spawning | Phase::Backoff { .. } | Phase::Down => {
                self.reason = from.into();
                self.take_order_down(now, order != Order::Drain);
            }
            Phase::Running { since } => {
                if self.drain.is_none() {
                    self.reason = from.into();
                }
                self.take_order_running(now, since, order, actions);
            }
            Phase::Stopping { killed: None, .. } if order != Order::Drain && self.stops >= 3 => {
                self.kill(now, actions);
            }
            Phase::Stopping { .. } | Phase::Over(_) => {}
        }
    }

    /// Without an Envoy there is nothing to drain, and none is started any more.
    fn take_order_down(&mut self, now: Time, stops: bool) {
        let limits = &self.rules.limits;
        self.drain
            .get_or_insert_with(|| Drain::new(limits, now, now, false, stops))
            .end(Outcome::NeverLive);
        self.phase = if stops { Phase::Over(0) } else { Phase::Down };
    }

    fn take_order_running(
        &mut self,
        now: Time,
        since: Time,
        order: Order,
        actions: &mut Vec<Action>,
    ) {
        match (&mut self.drain, order) {
            (None, Order::StopNow) => self.terminate(now, actions),
            (None, _) => {
                let live = self.live.is_some();
                let stops = order == Order::Stop;
                let mut limits = self.rules.limits.clone();
                if self.parent.is_some() {
                    limits.min = limits.min.max(FLUSH).min(limits.timeout);
                }
                self.drain = Some(Drain::new(&limits, now, since, live, stops));
                if self.next.is_some() {
                    self.reloaded = Some(Reloaded::Draining);
                }
                self.next = self.next.filter(|next| *next != Next::Trying);
            }
            (Some(_), Order::Drain | Order::ReopenLogs) => {}
            (Some(drain), order) => {
                if drain.stops() || order == Order::StopNow {
                    drain.end(Outcome::SecondSignal);
                }
                drain.join_stop();
            }
        }
    }

    fn take_probe(&mut self, now: Time) {
        let rested = self
            .probed
            .is_none_or(|at| now.saturating_sub(at) >= PROBE_REST);
        if rested && self.probe_due.is_none() {
            self.probe_due = Some(now);
        }
    }

    fn take_look(&mut self, now: Time) {
        let rested = |at: Option<Time>| at.is_none_or(|at| now.saturating_sub(at) >= PROBE_REST);
        // Whether it is well goes first: what is open may be told a second later.
        self.look_wanted |= self.live.is_some() && rested(self.looked) && rested(self.probed);
    }

    fn take_start(&mut self, now: Time) {
        self.phase = Phase::Running { since: now };
        self.live = None;
        self.answered = false;
        self.version_asked = false;
        self.look_wanted = false;
        self.looked = None;
        self.probe_pause = PROBE_FIRST;
        self.probe_due = Some(now);
        self.probed = None;
        self.reason = "envoy started".into();
    }

    fn take_failed_start(&mut self, now: Time, code: u8) {
        self.reason = "envoy cannot be started".into();
        self.phase = if self.rules.restart && self.backoff.is_under_way() {
            Phase::Backoff {
                until: now + self.backoff.next(),
            }
        } else {
            Phase::Over(code)
        };
    }

    fn take_answer(&mut self, now: Time, ask: Ask, answer: Option<&Answer>) {
        if self.asked.take_if(|asked| *asked == ask).is_none() {
            return;
        }
        let Phase::Running { since } = self.phase else {
            return;
        };
        self.answered |= answer.is_some();
        if let Some(drain) = &mut self.drain {
            drain.answer(now, ask, answer);
        }
        let serves = matches!(answer, Some(Answer::Ready(state)) if matches!(state.as_str(), "LIVE" | "DRAINING"));
        if ask == Ask::Stats {
            self.looked = Some(now);
            self.look_wanted = false;
        }
        if let (Ask::Ready, Some(Next::Rising(since))) = (ask, self.next) {
            self.take_rise(now, since, serves);
            return;
        }
        if ask != Ask::Ready {
            return;
        }
        self.probed = Some(now);
        self.probe_due = None;
        if self.live.is_none() {
            // DRAINING: somebody failed its health check, but it serves.
            if serves {
                self.live = Some(now);
                if self.drain.is_none() {
                    self.reason =
                        format!("live {} after its start", show(now.saturating_sub(since)));
                }
            } else {
                self.probe_due = Some(now + self.probe_pause);
                self.probe_pause = (self.probe_pause * 3 / 2).min(PROBE_REST);
            }
        } else if answer.is_none() {
            // How long it has not answered is only known if it is asked again and again.
            self.probe_due = Some(now + PROBE_REST);
        }
    }

    fn take_reload(&mut self, actions: &mut Vec<Action>) {
        let refusal = match self.phase {
            _ if self.drain.is_some() => Reloaded::Draining,
            Phase::Running { .. } if self.next.is_some() => Reloaded::UnderWay,
            Phase::Running { .. } if self.live.is_some() => {
                self.next = Some(Next::Trying);
                actions.push(Action::Try);
                return;
            }
            _ => Reloaded::NotLive,
        };
        // Another reload's own end is told to those who wait for that.
        actions.push(Action::Reloaded(refusal));
    }

    fn take_tried(&mut self, passed: bool, actions: &mut Vec<Action>) {
        if self.next.take_if(|next| *next == Next::Trying).is_none() {
            return;
        }
        if !matches!(self.phase, Phase::Running { .. }) || self.drain.is_some() {
            self.reloaded = Some(Reloaded::Draining);
        } else if passed {
            actions.push(Action::SpawnNext);
        } else {
            self.reloaded = Some(Reloaded::Refused);
        }
    }

    fn take_next(&mut self, now: Time, spawned: bool) {
        if spawned {
            self.next = Some(Next::Rising(now));
            self.asked = None;
            self.probe_pause = PROBE_FIRST;
            self.probe_due = Some(now);
        } else {
            self.reloaded = Some(Reloaded::Failed);
        }
    }

    /// The rising generation answered, or did not.
    fn take_rise(&mut self, now: Time, since: Time, serves: bool) {
        if serves {
            self.phase = Phase::Running { since };
            self.live = Some(now);
            self.parent = Some(now);
            self.next = None;
            self.version_asked = false;
            self.probed = Some(now);
            self.probe_due = None;
            self.reason = format!(
                "live {} after its start, next to the one before",
                show(now.saturating_sub(since))
            );
            self.reloaded = Some(Reloaded::Live);
        } else {
            self.probe_due = Some(now + self.probe_pause);
            self.probe_pause = (self.probe_pause * 3 / 2).min(PROBE_REST);
        }
    }

    fn take_exit(&mut self, now: Time, exit: Exit, actions: &mut Vec<Action>) {
        self.asked = None;
        if self.is_rising() {
            // The one before still serves, with its admin interface gone for good if the new one
            // got as far as that.
            self.next = None;
            if self.drain.is_none() {
                self.reloaded = Some(Reloaded::Failed);
            }
            self.probe_due = Some(now);
            if let Phase::Stopping { .. } = self.phase {
                actions.push(Action::Terminate);
            }
            return;
        }
        if self.next.take().is_some() {
            self.reloaded = Some(Reloaded::Failed);
        }
        let since = match self.phase {
            Phase::Running { since } => since,
            Phase::Stopping { .. } if self.replace => {
                self.replace = false;
                self.phase = Phase::Spawning;
                return;
            }
            Phase::Stopping { .. } => {
                self.end(exit, actions);
                return;
            }
            _ => return,
        };
        self.reason = format!("envoy exited: {exit}");
        if let Some(drain) = &mut self.drain {
            drain.end(Outcome::EnvoyExited);
            self.end(exit, actions);
            return;
        }
        if self.parent.is_some() && self.live.is_some() {
            // The listeners are closed now; the same generation, started again, finds the old one
            // and its sockets.
            self.phase = Phase::Spawning;
            return;
        }
        let refused =
            exit == Exit::Code(1) && self.live.is_none() && now.saturating_sub(since) <= REFUSAL;
        if refused {
            self.reason = "envoy refused its command line or configuration".into();
        }
        if exit == Exit::Code(0) || refused || !self.rules.restart {
            self.end(exit, actions);
            return;
        }
        if let Some(live) = self.live {
            self.backoff.was_healthy_for(now.saturating_sub(live));
        }
        self.phase = Phase::Backoff {
            until: now + self.backoff.next(),
        };
    }

    /// Envoy is over, but for an old generation.
    fn end(&mut self, exit: Exit, actions: &mut Vec<Action>) {
        if self.parent.is_none() {
            self.phase = Phase::Over(exit.code());
            return;
        }
        self.exit = Some(exit);
        if let Phase::Running { since } = self.phase {
            self.phase = Phase::Stopping {
                since,
                killed: None,
            };
        }
        actions.push(Action::TerminateParent);
    }

    fn take_parent_exit(&mut self, now: Time, exit: Exit, actions: &mut Vec<Action>) {
        self.parent = None;
        if let (Phase::Stopping { .. }, Some(exit)) = (self.phase, self.exit) {
            self.phase = Phase::Over(exit.code());
        } else if let Phase::Running { .. } = self.phase
            && exit != Exit::Code(0)
            && self.drain.is_none()
        {
            // The newest still serves, but its main thread hangs when it would tell the old one to
            // go, and it aborts then.
            self.reason = format!("the old generation's end was none of ours: {exit}");
            self.replace = true;
            self.terminate(now, actions);
        }
    }

    fn terminate(&mut self, now: Time, actions: &mut Vec<Action>) {
        self.phase = Phase::Stopping {
            since: now,
            killed: None,
        };
        actions.push(Action::Terminate);
    }

    fn kill(&mut self, now: Time, actions: &mut Vec<Action>) {
        if let Phase::Stopping { killed, .. } = &mut self.phase {
            *killed = Some(now);
            actions.push(Action::Kill);
        }
    }

    /// Does what is due, and says when to look again.
    fn advance(&mut self, now: Time, actions: &mut Vec<Action>) -> Option<Time> {
        if let Phase::Running { .. } = self.phase {
            let wake_at = self.advance_running(now, actions);
            if let Phase::Running { .. } = self.phase {
                return wake_at;
            }
        }
        match self.phase {
            Phase::Backoff { until } if now < until => return Some(until),
            Phase::Backoff { .. } => self.phase = Phase::Spawning,
            Phase::Stopping {
                since,
                killed: None,
            } => {
                let due = since + self.rules.kill_timeout;
                if now < due {
                    return Some(due);
                }
                self.kill(now, actions);
                return Some(now + KILL_PATIENCE);
            }
            Phase::Stopping {
                killed: Some(at), ..
            } => {
                let due = at + KILL_PATIENCE;
                if now < due {
                    return Some(due);
                }
                self.phase = Phase::Over(Exit::Signal(9).code());
            }
            _ => {}
        }
        match self.phase {
            Phase::Spawning => actions.push(Action::Spawn),
            Phase::Over(code) => actions.push(Action::Exit(code)),
            _ => {}
        }
        None
    }

    fn advance_running(&mut self, now: Time, actions: &mut Vec<Action>) -> Option<Time> {
        let mut wake_at = None;
        let mut probing = true;
        if let Some(Next::Rising(since)) = self.next {
            if self.drain.is_none() && now >= since + RISE {
                actions.push(Action::KillNext);
                self.next = Some(Next::Rising(now));
            }
            wake_at = Some(since + RISE);
        }
        if let Some(drain) = &mut self.drain {
            match drain.next(now, self.asked.is_none()) {
                drain::Next::Ask(ask) => {
                    self.asked = Some(ask);
                    actions.push(Action::Ask(ask));
                    wake_at = Some(drain.horizon(now));
                }
                drain::Next::Wait(until) => wake_at = Some(until),
                drain::Next::Over(_) if drain.stops() => {
                    self.terminate(now, actions);
                    return None;
                }
                drain::Next::Over(_) => {}
            }
            // While it drains, the drain's own questions tell how Envoy is.
            probing = drain.is_delayed(now) || drain.outcome().is_some();
        }
        if probing && self.asked.is_none() {
            if self.live.is_some() && !self.version_asked && !self.is_rising() {
                self.version_asked = true;
                self.asked = Some(Ask::ServerInfo);
            } else if self.probe_due.is_some_and(|due| due <= now) {
                self.asked = Some(Ask::Ready);
            } else if self.look_wanted && !self.is_rising() {
                self.asked = Some(Ask::Stats);
            } else {
                return [wake_at, self.probe_due].into_iter().flatten().min();
            }
            actions.extend(self.asked.map(Action::Ask));
        }
        wake_at
    }
}

#[cfg(test)]
mod explore;
#[cfg(test)]
mod tests;
