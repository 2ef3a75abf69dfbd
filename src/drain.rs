//! The drain, as a pure state machine: fed with times and with what was observed, it says what to
//! do next. It does no I/O and has no clock.
//!
//! 1. Until the delay is over, Envoy serves and stays ready.
//! 2. Envoy's health check is failed: `/ready` turns 503, and every response from then on closes
//!    its connection.
//! 3. The listeners begin to drain, which stops none of them.
//! 4. Envoy is asked what is left until nothing counts any more, or only idle connections have
//!    been left for the settle time.
//! 5. Before Envoy is stopped it stops accepting, and is asked once more: a connection that came
//!    in after the last look is waited for, and a later one is refused rather than cut.
//!
//! An error is never read as 'nothing left', and whatever hangs, the deadline ends it.

use std::time::Duration;

use crate::envoy::stats::Load;

/// A moment, as the time since drainit started, on the monotonic clock.
pub type Time = Duration;

/// What the operator asked of a drain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Envoy keeps serving and stays ready this long (`--drain-delay`).
    pub delay: Duration,
    /// The drain ends this long after it was asked for, at the latest (`--drain-timeout`).
    pub timeout: Duration,
    /// The drain lasts at least this long (`--min-drain`).
    pub min: Duration,
    /// With nothing in flight for this long, idle connections hold nothing up; zero turns that
    /// off (`--settle`).
    pub settle: Duration,
    /// This many connections left count as none (`--open-connections`).
    pub open_connections: u64,
    /// Between polls at the most often (`--check-interval`).
    pub check_interval: Duration,
}

/// A question to Envoy's admin interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ask {
    /// `GET /ready`
    Ready,
    /// `GET /server_info`
    ServerInfo,
    /// `POST /healthcheck/fail`
    FailHealthCheck,
    /// `POST /drain_listeners?graceful&skip_exit`
    DrainListeners,
    /// `POST /drain_listeners`
    StopListeners,
    /// `GET /stats`, the gauges that say what is left
    Stats,
    /// No question to that interface, but to the kernel, when it is gone for good: which
    /// connections Envoy has
    Sockets,
}

/// What Envoy's admin interface answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To [`Ask::Ready`]: `LIVE`, `INITIALIZING`, ...
    Ready(String),
    /// To [`Ask::ServerInfo`]: Envoy's version, as in `1.40.0`.
    Version(String),
    /// What was asked for is done.
    Done,
    /// To [`Ask::Stats`] and [`Ask::Sockets`].
    Stats(Load),
    /// To [`Ask::Sockets`]: Envoy accepts no connections, and which it has cannot be told.
    Closed,
}

/// What a drain wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Ask this, and bring the answer.
    Ask(Ask),
    /// Nothing, until then or until an answer comes.
    Wait(Time),
    /// Nothing any more.
    Over(Outcome),
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// No connection that counts was left.
    Drained,
    /// Only idle connections were left for the settle time.
    Idle,
    /// The deadline came first.
    Deadline,
    /// The deadline came, and Envoy's admin interface had not been answering.
    AdminLost,
    /// Envoy had never been live: nothing could be in flight.
    NeverLive,
    /// A second signal cut it.
    SecondSignal,
    /// Envoy ended by itself.
    EnvoyExited,
}

impl Outcome {
    /// The outcome's name in the log, the status and the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Drained => "drained",
            Outcome::Idle => "idle",
            Outcome::Deadline => "deadline",
            Outcome::AdminLost => "admin lost",
            Outcome::NeverLive => "never live",
            Outcome::SecondSignal => "second signal",
            Outcome::EnvoyExited => "envoy exited",
        }
    }

    /// Whether everything that counts had finished.
    pub fn is_clean(self) -> bool {
        matches!(self, Outcome::Drained | Outcome::Idle | Outcome::NeverLive)
    }
}

/// A step that is tried until it succeeds, at growing intervals.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Step {
    due: Time,
    failures: u32,
    done: bool,
}

impl Step {
    fn new(due: Time) -> Step {
        Step {
            due,
            failures: 0,
            done: false,
        }
    }

    fn tried(&mut self, now: Time, succeeded: bool) {
        self.done = succeeded;
        if succeeded {
            self.failures = 0;
        } else {
            self.due = now + pause(self.failures);
            self.failures = self.failures.saturating_add(1);
        }
    }

    fn is_due(&self, now: Time) -> bool {
        !self.done && self.due <= now
    }
}

/// Whether Envoy has stopped to accept. Once is enough: one that cannot must not hold anything up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Closing {
    Not,
    Wanted,
    Tried,
}

/// How long to wait after so many failures in a row: 100 ms, doubling up to 1 s.
fn pause(failures: u32) -> Duration {
    Duration::from_millis(100 << failures.min(4)).min(Duration::from_secs(1))
}

/// A poll may take this share of Envoy's main thread: one in so many parts.
const SHARE: u32 = 20;

/// A look at Envoy's sockets takes none of it, and no more than this share of a processor.
const SHARE_OF_LOOKS: u32 = 4;

/// An answer that is this late is as good as none when the deadline has come.
const HANGING: Duration = Duration::from_secs(2);

/// An Envoy that never answered is given at least this long: one that is just starting has no
/// signal handler before its admin interface answers, and would die of SIGTERM rather than stop.
const SILENCE_MIN: Duration = Duration::from_secs(1);

/// One drain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Drain {
    started: Time,
    deadline: Time,
    serving_until: Time,
    min_until: Time,
    /// Whether a look shows all that is in flight: an old generation may not have told yet.
    known: bool,
    closing_at: Time,
    settle: Duration,
    open_connections: u64,
    check_interval: Duration,
    /// Whether Envoy is stopped when the drain is over.
    stops: bool,
    /// Whether Envoy has been live; if not, until when to wait for word from it.
    live: bool,
    silent_until: Time,
    ready: Step,
    health: Step,
    listeners: Step,
    closing: Closing,
    next_poll: Time,
    poll_failures: u32,
    asked: Option<(Ask, Time)>,
    /// Whether it is unknown what is left: the last poll failed, or there was none yet.
    failing: bool,
    /// How the drain could have ended by what the last poll showed.
    quiet: Option<Outcome>,
    idle_since: Option<Time>,
    outcome: Option<Outcome>,
}

impl Drain {
    /// A drain that is asked for `now`, of an Envoy that was spawned at `spawned` and, if `live`,
    /// has been live.
    pub fn new(limits: &Limits, now: Time, spawned: Time, live: bool, stops: bool) -> Drain {
        let deadline = now + limits.timeout;
        let serving_until = if live { now + limits.delay } else { now };
        // No request can be older than Envoy itself, so an Envoy that never told its state is
        // given the time that it has been up, as long as the deadline allows.
        let uptime = now.saturating_sub(spawned).max(SILENCE_MIN).max(limits.min);
        Drain {
            started: now,
            deadline,
            serving_until,
            min_until: now + limits.min,
            known: true,
            closing_at: deadline - (limits.timeout / 10).min(Duration::from_secs(1)),
            settle: limits.settle,
            open_connections: limits.open_connections,
            check_interval: limits.check_interval,
            stops,
            live,
            silent_until: deadline.min(now + uptime),
            ready: Step::new(now),
            health: Step::new(serving_until),
            listeners: Step::new(serving_until),
            closing: Closing::Not,
            next_poll: serving_until,
            poll_failures: 0,
            asked: None,
            failing: true,
            quiet: None,
            idle_since: None,
            outcome: None,
        }
    }

    /// When the drain was asked for.
    pub fn started(&self) -> Time {
        self.started
    }

    /// When it ends at the latest.
    pub fn deadline(&self) -> Time {
        self.deadline
    }

    /// Whether Envoy still serves as if nothing had been asked (`--drain-delay`).
    pub fn is_delayed(&self, now: Time) -> bool {
        self.outcome.is_none() && now < self.serving_until
    }

    /// Whether Envoy is stopped when the drain is over.
    pub fn stops(&self) -> bool {
        self.stops
    }

    /// From now on, Envoy is stopped when the drain is over.
    pub fn join_stop(&mut self) {
        self.stops = true;
    }

    /// Whether a look shows all that is in flight. If not, nothing left is not believed.
    pub fn set_known(&mut self, known: bool) {
        self.known = known;
    }

    /// How it ended, once it has.
    pub fn outcome(&self) -> Option<Outcome> {
        self.outcome
    }

    /// Ends the drain from outside, unless it has ended already.
    pub fn end(&mut self, outcome: Outcome) {
        self.outcome.get_or_insert(outcome);
    }

    /// What to do now. It asks nothing unless Envoy's admin interface is `free` to answer.
    pub fn next(&mut self, now: Time, free: bool) -> Next {
        if self.outcome.is_none() {
            self.check_time(now);
        }
        if let Some(outcome) = self.outcome {
            return Next::Over(outcome);
        }
        let horizon = self.horizon(now);
        if !free || self.asked.is_some() {
            return Next::Wait(horizon);
        }
        match self.wanted(now) {
            Ok(ask) => {
                self.asked = Some((ask, now));
                Next::Ask(ask)
            }
            Err(due) => Next::Wait(due.min(horizon)),
        }
    }

    /// When something is due even if no answer comes: the end of the delay, which shows in the
    /// state, or its own end.
    pub fn horizon(&self, now: Time) -> Time {
        let end = if self.live {
            self.deadline
        } else {
            self.silent_until
        };
        if self.is_delayed(now) {
            end.min(self.serving_until)
        } else {
            end
        }
    }

    fn check_time(&mut self, now: Time) {
        if now >= self.deadline {
            let hanging = self
                .asked
                .is_some_and(|(_, at)| now.saturating_sub(at) >= HANGING);
            // With no time for any question, nobody has failed to answer one.
            let lost = hanging || self.failing && self.deadline > self.serving_until;
            self.end(match self.quiet {
                _ if lost => Outcome::AdminLost,
                // Only the minimum kept it up.
                Some(outcome)
                    if self.min_until >= self.deadline && self.asked.is_none() && self.known =>
                {
                    outcome
                }
                _ => Outcome::Deadline,
            });
        } else if !self.live && now >= self.silent_until {
            self.end(Outcome::NeverLive);
        } else if self.stops && now >= self.closing_at && self.closing == Closing::Not {
            self.closing = Closing::Wanted;
        }
    }

    /// The first thing that is due, or when the next one will be.
    fn wanted(&self, now: Time) -> Result<Ask, Time> {
        if !self.live {
            return if self.ready.is_due(now) {
                Ok(Ask::Ready)
            } else {
                Err(self.ready.due)
            };
        }
        if now < self.serving_until {
            return Err(self.serving_until);
        }
        if self.health.is_due(now) {
            return Ok(Ask::FailHealthCheck);
        }
        if self.listeners.is_due(now) {
            return Ok(Ask::DrainListeners);
        }
        if self.closing == Closing::Wanted {
            return Ok(Ask::StopListeners);
        }
        if self.next_poll <= now {
            return Ok(Ask::Stats);
        }
        let mut due = self.next_poll;
        for step in [&self.health, &self.listeners] {
            if !step.done {
                due = due.min(step.due);
            }
        }
        if self.stops && self.closing == Closing::Not {
            due = due.min(self.closing_at);
        }
        Err(due)
    }

    /// Takes the answer to what was asked; none stands for every failure there is. `now` is when
    /// it came.
    pub fn answer(&mut self, now: Time, ask: Ask, answer: Option<&Answer>) {
        // It does not say where to look for what is left.
        let wanted = match ask {
            Ask::Sockets => Ask::Stats,
            ask => ask,
        };
        let asked = self.asked.take_if(|(asked, _)| *asked == wanted);
        if let (Ask::Ready, Some(Answer::Ready(state))) = (ask, answer) {
            // Whoever asked: an Envoy that has told its state is not silent any more.
            if !self.live {
                self.take_state(now, state);
            }
            return;
        }
        let Some((_, asked)) = asked else {
            return;
        };
        match (ask, answer) {
            (Ask::Ready, _) => self.ready.tried(now, false),
            (Ask::FailHealthCheck, answer) => self.health.tried(now, answer.is_some()),
            (Ask::DrainListeners, answer) => self.listeners.tried(now, answer.is_some()),
            (Ask::StopListeners, _) => {
                self.closing = Closing::Tried;
                self.quiet = None;
                // Whether or not it could be done: look again at once.
                self.next_poll = now;
            }
            (Ask::Stats | Ask::Sockets, Some(Answer::Stats(load))) => {
                self.failing = false;
                self.poll_failures = 0;
                let share = match ask {
                    Ask::Sockets => SHARE_OF_LOOKS,
                    _ => SHARE,
                };
                self.next_poll = now + self.check_interval.max((now.saturating_sub(asked)) * share);
                self.take_load(now, load);
            }
            (Ask::Stats | Ask::Sockets, _) => {
                self.failing = true;
                self.next_poll = now + pause(self.poll_failures).max(now.saturating_sub(asked));
                self.poll_failures = self.poll_failures.saturating_add(1);
            }
            (Ask::ServerInfo, _) => {}
        }
    }

    fn take_state(&mut self, now: Time, state: &str) {
        if self.stops && matches!(state, "PRE_INITIALIZING" | "INITIALIZING") {
            // Its listeners are not open yet.
            self.end(Outcome::NeverLive);
        } else {
            self.live = true;
            for due in [
                &mut self.health.due,
                &mut self.listeners.due,
                &mut self.next_poll,
            ] {
                *due = now;
            }
        }
    }

    fn take_load(&mut self, now: Time, load: &Load) {
        if !load.health_failed && self.health.done {
            // Somebody has reverted it (`/healthcheck/ok`).
            self.health = Step::new(now);
        }
        if load.in_flight() > 0 {
            self.idle_since = None;
        } else {
            self.idle_since.get_or_insert(now);
        }
        let settled =
            |since: Time| !self.settle.is_zero() && now.saturating_sub(since) >= self.settle;
        self.quiet = if load.connections() <= self.open_connections && load.udp_sessions == 0 {
            Some(Outcome::Drained)
        } else if self.idle_since.is_some_and(settled) {
            Some(Outcome::Idle)
        } else {
            None
        };
        let Some(outcome) = self.quiet.filter(|_| self.known && now >= self.min_until) else {
            return;
        };
        if self.has_looked_last() {
            self.end(outcome);
        } else {
            self.closing = Closing::Wanted;
        }
    }

    /// An Envoy that stays must go on accepting; one that is stopped must not accept what it would
    /// then cut, and is asked once more after it has stopped to.
    fn has_looked_last(&self) -> bool {
        !self.stops || self.closing == Closing::Tried
    }
}

#[cfg(test)]
mod level;
#[cfg(test)]
mod tests;
