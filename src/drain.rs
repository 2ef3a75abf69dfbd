//! The drain, as a pure state machine: fed with times and with what was observed, it says what to
//! do next. It does no I/O and has no clock.
//!
//! 1. Until the delay is over, Envoy serves and stays ready.
//! 2. Envoy's health check is failed: `/ready` turns 503, and every response from then on closes
//!    its connection.
//! 3. The listeners begin to drain, which stops none of them.
//! 4. Envoy is asked what is left until nothing counts any more, or only idle connections have
//!    been left for the settle time. Counters tell idle from busy, since a request may come and go
//!    between two looks at what is in flight.
//! 5. Before Envoy is stopped it stops accepting, and is asked once more: a connection that came
//!    in after the last look is waited for, and a later one refused. It would end UDP sessions.
//!
//! Where Envoy does not answer, the kernel is asked for Envoy's connections. Neither an error nor
//! what nobody tells is ever read as 'nothing left', and whatever hangs, the deadline ends it.

use std::time::Duration;

pub use crate::envoy::question::{Answer, Ask, Readiness};

mod arrivals;
mod closing;
mod looks;
mod outcome;
mod step;

use arrivals::Arrivals;
pub use arrivals::MinDrain;
use closing::Closing;
pub use closing::{DOUBT, FLUSH};
use looks::{Idle, Kernel, Poll, USUAL};
pub use outcome::{Loss, Outcome};
use step::Step;
pub(crate) use step::pause;

/// A moment, as the time since drainit started, on the monotonic clock.
pub type Time = Duration;

/// What the operator asked of a drain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Envoy keeps serving and stays ready this long (`--drain-delay`).
    pub delay: Duration,
    /// The drain ends this long after it was asked for, at the latest (`--drain-timeout`).
    pub timeout: Duration,
    /// Envoy accepts at least this long (`--min-drain`).
    pub min: MinDrain,
    /// With nothing in flight for this long, idle connections hold nothing up; zero turns that
    /// off (`--settle`).
    pub settle: Duration,
    /// The number of connections that the drain does not wait for (`--open-connections`).
    pub open_connections: u64,
    /// The least time between two polls (`--check-interval`).
    pub check_interval: Duration,
}

impl Limits {
    /// No limit is set: what the options' defaults are put into.
    pub const BLANK: Limits = Limits {
        delay: Duration::ZERO,
        timeout: Duration::ZERO,
        min: MinDrain::For(Duration::ZERO),
        settle: Duration::ZERO,
        open_connections: 0,
        check_interval: Duration::ZERO,
    };
}

/// What a drain wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Ask this, and bring the answer.
    Ask(Ask),
    /// Do nothing until this time, or until an answer comes.
    Wait(Time),
    /// Do nothing any more: the drain is over, and ended so.
    Over(Outcome),
}

/// An answer that is this late is as good as none when the deadline has come.
pub(crate) const HANGING: Duration = Duration::from_secs(2);

/// An Envoy that never answered is given at least this long: one that is just starting has no
/// signal handler before its admin interface answers, and would die of SIGTERM rather than stop.
pub(crate) const SILENCE_MIN: Duration = Duration::from_secs(1);

/// What a drain is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Aim {
    /// Envoy is held: it goes on accepting, and somebody else sees to its health check.
    Hold,
    /// Envoy is out of service, and stays until it is told to stop.
    Stay,
    /// Envoy is stopped when the drain is over.
    Stop,
}

/// A drain, under way or over.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Drain {
    cause: String,
    started: Time,
    deadline: Time,
    serving_until: Time,
    min_until: Time,
    /// Whether new connections still come, where `--min-drain` is auto; none once they do not, or
    /// cannot.
    arrivals: Option<Arrivals>,
    /// How many new connections came until nobody was expected any more.
    came: Option<u64>,
    /// What has ended with its process while the drain waited for it.
    lost: Loss,
    /// Whether a look shows all that is in flight: Envoy may not have told all of it yet.
    known: bool,
    closing_at: Time,
    settle: Duration,
    open_connections: u64,
    check_interval: Duration,
    aim: Aim,
    /// Whether Envoy has been live; if not, until when to wait for word from it.
    live: bool,
    wait_for_word_until: Time,
    ready: Step,
    health: Step,
    listeners: Step,
    closing: Closing,
    /// Whether the last look showed UDP sessions, or did not tell of all: [`Ask::StopListeners`]
    /// would end them.
    may_have_udp_sessions: bool,
    /// Since when nothing has been in flight, where Envoy sends access logs elsewhere.
    entries_since: Option<Time>,
    /// The bytes that clients have not acknowledged yet, without and with those of clients that are
    /// gone, and since when nobody has taken any.
    unsent: Option<(Time, [u64; 2])>,
    poll: Poll,
    poll_failures: u32,
    /// How long the last polls took.
    costs: [Duration; USUAL],
    /// When Envoy has rested from all of them.
    rested: Time,
    /// Whether Envoy does not tell what is left: the last poll failed, or there was none yet.
    failing: bool,
    kernel: Kernel,
    /// How the drain could have ended by what the last poll showed.
    would_end_as: Option<Outcome>,
    idle: Idle,
    outcome: Option<Outcome>,
}

impl Drain {
    /// A drain that is asked for `now`, of an Envoy that was spawned at `spawned` and, if `live`,
    /// has been live.
    pub fn new(limits: &Limits, now: Time, spawned: Time, live: bool, stops: bool) -> Drain {
        let deadline = now + limits.timeout;
        let fixed = match limits.min {
            MinDrain::For(time) => time,
            MinDrain::Auto { .. } => Duration::ZERO,
        };
        let serving_until = if live { now + limits.delay } else { now };
        // No request began before Envoy itself did, so an Envoy that never told its state is
        // given the time that it has been up, as long as the deadline allows.
        let uptime = now.saturating_sub(spawned).max(SILENCE_MIN).max(fixed);
        Drain {
            cause: String::new(),
            started: now,
            deadline,
            serving_until,
            min_until: now + fixed,
            arrivals: match limits.min {
                MinDrain::Auto { most, reserve } if live => {
                    let end = (serving_until + most).min(deadline.saturating_sub(reserve));
                    Some(Arrivals::new(serving_until, end))
                }
                _ => None,
            },
            came: None,
            lost: Loss::None,
            known: true,
            closing_at: deadline - (limits.timeout / 10).min(Duration::from_secs(1)),
            settle: limits.settle,
            open_connections: limits.open_connections,
            check_interval: limits.check_interval,
            aim: if stops { Aim::Stop } else { Aim::Stay },
            live,
            wait_for_word_until: deadline.min(now + uptime),
            ready: Step::new(now),
            health: Step::new(serving_until),
            listeners: Step::new(serving_until),
            closing: Closing::Not,
            may_have_udp_sessions: false,
            entries_since: None,
            unsent: None,
            poll: Poll {
                due: serving_until,
                earliest: serving_until,
                ask: Ask::Stats,
            },
            poll_failures: 0,
            costs: [Duration::ZERO; USUAL],
            rested: now,
            failing: true,
            kernel: Kernel::Silent,
            would_end_as: None,
            idle: Idle::No,
            outcome: None,
        }
    }

    /// The wait of a hold: a drain that goes by what is left alone. It tells Envoy nothing, closes
    /// nothing and has no delay, and it believes that nothing is left only while
    /// [`Drain::set_known`] says so.
    pub fn hold(limits: &Limits, now: Time, spawned: Time, live: bool) -> Drain {
        let limits = Limits {
            delay: Duration::ZERO,
            ..limits.clone()
        };
        let mut drain = Drain::new(&limits, now, spawned, live, false);
        drain.aim = Aim::Hold;
        drain.health.done = true;
        drain.listeners.done = true;
        drain
    }

    /// This drain, with who or what asked for it: `SIGTERM`.
    pub fn caused_by(self, cause: &str) -> Drain {
        Drain {
            cause: cause.into(),
            ..self
        }
    }

    /// How many new connections still come in a second, where the drain waits for that to end; none
    /// before that was counted.
    pub fn arrival_rate(&self) -> Option<u64> {
        self.arrivals.as_ref()?.rate()
    }

    /// How many new connections came during the drain; none where they were not counted.
    pub fn came(&self) -> Option<u64> {
        self.arrivals.as_ref().map(Arrivals::count).or(self.came)
    }

    /// Who or what asked for the drain. What ended it is its [`Drain::outcome`].
    pub fn cause(&self) -> &str {
        &self.cause
    }

    /// When the drain was asked for.
    pub fn started(&self) -> Time {
        self.started
    }

    /// When the drain ends at the latest.
    pub fn deadline(&self) -> Time {
        self.deadline
    }

    /// Whether Envoy still serves as if nothing had been asked (`--drain-delay`).
    pub fn is_delayed(&self, now: Time) -> bool {
        self.outcome.is_none() && now < self.serving_until
    }

    /// Whether Envoy is stopped when the drain is over.
    pub fn stops(&self) -> bool {
        self.aim == Aim::Stop
    }

    /// From now on, Envoy is stopped when the drain is over.
    pub fn join_stop(&mut self) {
        self.aim = Aim::Stop;
    }

    /// Whether a look shows all that is in flight. If not, nothing left is not believed.
    pub fn set_known(&mut self, known: bool) {
        self.known = known;
    }

    /// How the drain ended, once it has.
    pub fn outcome(&self) -> Option<Outcome> {
        self.outcome
    }

    /// Ends the drain, unless it has ended already. What was lost meanwhile is not drained, nor is
    /// what a client has not taken that is there.
    pub fn end(&mut self, outcome: Outcome) {
        let outcome = match outcome {
            Outcome::Drained | Outcome::Idle if self.loss() != Loss::None => Outcome::EnvoyExited,
            Outcome::Drained | Outcome::Idle if self.unsent.is_some() => Outcome::Stalled,
            outcome => outcome,
        };
        self.outcome.get_or_insert(outcome);
    }

    /// A process has ended that the drain waited for: what it had open then, if anything.
    pub fn on_loss(&mut self, loss: Loss) {
        if self.outcome.is_some() {
            return;
        }
        self.lost = match (self.lost, loss) {
            (before, Loss::None) => before,
            (Loss::Connections(before), Loss::Connections(count)) => {
                Loss::Connections(before.saturating_add(count))
            }
            (Loss::Unknown, _) | (_, Loss::Unknown) => Loss::Unknown,
            (Loss::None, count) => count,
        };
    }

    /// What has ended with its process while the drain waited for it. As many connections as count
    /// as none (`--open-connections`) are no loss.
    pub fn loss(&self) -> Loss {
        match self.lost {
            Loss::Connections(count) if count <= self.open_connections => Loss::None,
            lost => lost,
        }
    }

    /// What to do now. The drain asks nothing unless Envoy's admin interface is `free` to answer.
    /// `asked` is when the drain's question was asked that is in flight.
    pub fn next(&mut self, now: Time, free: bool, asked: Option<Time>) -> Next {
        if self.outcome.is_none() {
            self.check_time(now, asked);
        }
        if let Some(outcome) = self.outcome {
            return Next::Over(outcome);
        }
        let horizon = self.horizon(now);
        if !free || asked.is_some() {
            return Next::Wait(horizon);
        }
        match self.wanted(now) {
            Ok(ask) => Next::Ask(ask),
            Err(due) => Next::Wait(due.min(horizon)),
        }
    }

    /// When something is due even if no answer comes: the end of the delay, which shows in the
    /// state, or the drain's own end.
    pub fn horizon(&self, now: Time) -> Time {
        let end = if self.is_told_of() {
            self.deadline
        } else {
            self.wait_for_word_until
        };
        if self.is_delayed(now) {
            end.min(self.serving_until)
        } else {
            end
        }
    }

    /// Whether anybody tells what is in flight.
    fn is_told_of(&self) -> bool {
        self.live || self.kernel == Kernel::Told
    }

    fn check_time(&mut self, now: Time, asked: Option<Time>) {
        if now >= self.deadline {
            let hanging = asked.is_some_and(|at| now.saturating_sub(at) >= HANGING);
            // With no time for any question, nobody has failed to answer one.
            let lost = self.live && (hanging || self.failing && self.deadline > self.serving_until);
            self.end(match self.would_end_as {
                _ if lost => Outcome::AdminLost,
                // Only the minimum kept it up, or the last entries of access logs.
                Some(outcome)
                    if (self.min_until >= self.deadline
                        || self.has_looked_last() && self.may_lose_entries(now))
                        && asked.is_none()
                        && self.known
                        && !self.is_sending(now) =>
                {
                    outcome
                }
                _ => Outcome::Deadline,
            });
        } else if !self.is_told_of() && now >= self.wait_for_word_until {
            self.end(match self.kernel {
                Kernel::Closed => Outcome::NeverLive,
                _ => Outcome::Unknown,
            });
        } else if self.closes_early() && now >= self.closing_at {
            self.closing = Closing::Wanted;
        }
    }

    /// The first thing that is due, or when the next one will be.
    fn wanted(&self, now: Time) -> Result<Ask, Time> {
        if !self.live {
            return if self.ready.is_due(now) {
                Ok(Ask::Ready)
            } else if self.poll.due <= now {
                Ok(Ask::Sockets)
            } else {
                Err(self.ready.due.min(self.poll.due))
            };
        }
        if now < self.serving_until {
            return Err(self.serving_until);
        }
        // Envoy has no part in that.
        if self.poll.ask == Ask::Sockets && self.poll.due <= now {
            return Ok(Ask::Sockets);
        }
        let mut next = match self.closing {
            Closing::Wanted => (self.serving_until, Ask::StopListeners),
            Closing::Not | Closing::Tried => (self.poll.due, self.poll.ask),
        };
        // What has been due for longest: an Envoy that answers no step, each time after seconds, must
        // not keep the kernel from being asked.
        for (step, ask) in [
            (&self.listeners, Ask::DrainListeners),
            (&self.health, Ask::FailHealthCheck),
        ] {
            if !step.done && step.due <= next.0 {
                next = (step.due, ask);
            }
        }
        let (mut due, ask) = next;
        if due <= now {
            return Ok(ask);
        }
        if self.closes_early() {
            due = due.min(self.closing_at);
        }
        Err(due)
    }
}

#[cfg(test)]
mod level;
#[cfg(test)]
mod tests;
