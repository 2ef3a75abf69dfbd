//! What a drain makes of the answers: how long polls rest, what is left, and when that holds
//! nothing up any more.

use std::time::Duration;

use super::arrivals::Arrivals;
use super::step::{Step, pause};
use super::{Aim, Answer, Ask, Closing, Drain, Outcome, Readiness, SILENCE_MIN, Time};
use crate::envoy::load::{Counters, Load, Sight};

/// A poll may take this share of Envoy's main thread: one in so many parts.
pub(super) const SHARE: u32 = 20;

/// The most rest that Envoy may be owed: the end of a connection is worth a few polls at once,
/// which the next ones by the clock make up for.
pub(super) const OWED: Duration = Duration::from_millis(200);

/// Two polls are never further apart than this, however dear a poll is.
const POLL_MAX: Duration = Duration::from_secs(2);

/// A poll usually costs the least that it cost so many times in a row. An Envoy that was stopped
/// for a moment, or whose processor time is throttled, answers late once.
pub(super) const USUAL: usize = 3;

/// A look at Envoy's sockets takes none of it, and no more than this share of a processor.
const SHARE_OF_LOOKS: u32 = 4;

/// Whether the connections that are left are idle, by Envoy's counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Idle {
    /// The connections are not idle, or none is left.
    No,
    /// The last look has shown nothing in flight.
    Perhaps,
    /// No look has shown anything in flight since then, when the counters said this.
    Since(Time, u64),
}

/// The next look at what is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Poll {
    pub due: Time,
    /// When it may be at the earliest, if a connection ends.
    pub earliest: Time,
    /// [`Ask::Stats`]; after an answer that shows nothing in flight [`Ask::Activity`], and after
    /// none [`Ask::Sockets`].
    pub ask: Ask,
}

/// What the kernel said when it was last asked because Envoy did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kernel {
    /// Nothing.
    Silent,
    /// Envoy accepts no connections.
    Closed,
    /// Which connections Envoy has.
    Told,
}
impl Drain {
    /// Takes the answer to the drain's question, which was asked at `asked`; none stands for every
    /// failure there is. `now` is when it came.
    pub fn on_answer(&mut self, now: Time, asked: Time, ask: Ask, answer: Option<&Answer>) {
        let took = now.saturating_sub(asked);
        match (ask, answer) {
            (Ask::Ready, Some(Answer::Ready(readiness))) => self.on_ready(now, *readiness),
            (Ask::Ready, _) => self.ready.tried(now, false),
            (Ask::FailHealthCheck, answer) => self.health.tried(now, answer.is_some()),
            (Ask::DrainListeners, answer) => self.listeners.tried(now, answer.is_some()),
            (Ask::StopListeners, _) => {
                self.closing = Closing::Tried;
                self.expect_nobody();
                self.would_end_as = None;
                // Whether or not it could be done: look again at once.
                self.poll_at(now, Ask::Stats);
            }
            (Ask::Stats, Some(Answer::Stats(load))) => {
                self.failing = false;
                self.poll_failures = 0;
                self.costs.rotate_right(1);
                self.costs[0] = took;
                self.rested = self.rested.max(now) + self.rest();
                self.poll_at(now + self.pace(), Ask::Stats);
                self.on_load(now, load);
            }
            (Ask::Activity, Some(Answer::Activity(counters))) => {
                // A look has both questions.
                self.costs[0] += took;
                self.rested += (took * SHARE).min(POLL_MAX);
                self.poll_at(now + self.pace(), Ask::Stats);
                self.on_counters(now, *counters);
            }
            (Ask::Activity, _) => {
                self.idle = Idle::No;
                self.arrivals.iter_mut().for_each(Arrivals::on_silence);
                self.poll_at(now + self.pace().max(pause(0)), Ask::Stats);
            }
            (Ask::Sockets, Some(Answer::Stats(load))) => {
                if self.live && self.poll.ask == Ask::Stats {
                    // Envoy was not asked: it has no admin interface, and has failed to answer nothing.
                    self.failing = false;
                }
                self.kernel = Kernel::Told;
                self.arrivals.iter_mut().for_each(Arrivals::on_silence);
                let rest = (took * SHARE_OF_LOOKS)
                    .min(POLL_MAX)
                    .max(self.check_interval);
                self.poll_at(now + rest, Ask::Stats);
                self.on_load(now, load);
            }
            (Ask::Sockets, answer) => {
                self.kernel = match answer {
                    Some(Answer::Closed) => Kernel::Closed,
                    _ => Kernel::Silent,
                };
                self.on_silence(now, took);
            }
            (Ask::Stats, _) => {
                self.on_silence(now, took);
                self.poll_at(now, Ask::Sockets);
            }
            // No question of a drain's.
            _ => {}
        }
    }

    /// Envoy has told its state, whoever asked: it is not silent any more.
    pub fn on_ready(&mut self, now: Time, readiness: Readiness) {
        if !self.live {
            self.on_readiness(now, readiness);
        }
    }

    pub(super) fn poll_at(&mut self, due: Time, ask: Ask) {
        let rested = self.rested.saturating_sub(OWED);
        self.poll = Poll {
            due,
            earliest: due.saturating_sub(self.pace()).max(rested).min(due),
            ask,
        };
    }

    /// How long to wait from one poll to the next, by what a poll usually costs Envoy.
    pub(super) fn pace(&self) -> Duration {
        self.rest().max(self.check_interval)
    }

    /// How long Envoy is to rest from a poll, whatever happens meanwhile.
    fn rest(&self) -> Duration {
        let usual = self.costs.iter().min().copied().unwrap_or_default();
        (usual * SHARE).min(POLL_MAX)
    }

    /// A connection has ended, as the kernel tells: the last one, perhaps. Whoever tells that tells
    /// it again after an answer that shows nothing of it, where a question of the drain's `is_asked`.
    pub fn on_end(&mut self, is_asked: bool) {
        if !is_asked && !self.failing && self.poll.ask == Ask::Stats {
            self.poll.due = self.poll.due.min(self.poll.earliest);
        }
    }

    /// Takes it that nobody told what is left.
    fn on_silence(&mut self, now: Time, took: Duration) {
        self.failing = true;
        self.would_end_as = None;
        let rest = pause(self.poll_failures).max(took.min(POLL_MAX));
        self.poll_at(now + rest, Ask::Stats);
        self.poll_failures = self.poll_failures.saturating_add(1);
    }

    fn on_readiness(&mut self, now: Time, readiness: Readiness) {
        if self.stops() && readiness.is_starting() {
            // Its listeners are not open yet.
            self.end(Outcome::NeverLive);
        } else {
            self.live = true;
            for due in [
                &mut self.health.due,
                &mut self.listeners.due,
                &mut self.poll.due,
            ] {
                *due = now;
            }
            self.kernel = Kernel::Silent;
        }
    }

    fn on_load(&mut self, now: Time, load: &Load) {
        if !load.health_failed && self.health.done && self.aim != Aim::Hold {
            // Somebody has reverted it (`/healthcheck/ok`).
            self.health = Step::new(now);
        }
        self.may_have_udp_sessions = load.udp_sessions > 0 || load.sight == Sight::Partial;
        let settled = load.sends_logs && load.in_flight() == 0;
        self.entries_since = settled.then(|| self.entries_since.unwrap_or(now));
        let is_empty = load.connections() <= self.open_connections && load.udp_sessions == 0;
        if let Some(unsent) = load.unsent {
            // `--open-connections` hold nothing up.
            self.on_unsent(now, unsent, !is_empty);
        }
        self.would_end_as = None;
        if let Some(arrivals) = &mut self.arrivals {
            arrivals.on_open(now, load);
        }
        if is_empty && !load.hides_requests() {
            self.idle = Idle::No;
            if load.sight != Sight::Partial {
                self.conclude_by_look(now, load, Outcome::Drained);
            }
        } else if load.in_flight() > 0
            || load.sight == Sight::Partial
            || self.settle.is_zero()
            || self.failing
            || !self.live
        {
            self.idle = Idle::No;
        } else if load.awake == Some(0) {
            // Each has been silent for the settle time.
            self.conclude_by_look(now, load, Outcome::Idle);
        } else if self.idle == Idle::No {
            self.idle = Idle::Perhaps;
        }
        let settled = match self.idle {
            Idle::No => false,
            Idle::Perhaps => true,
            Idle::Since(since, _) => now.saturating_sub(since) >= self.settle,
        };
        if (settled || self.arrivals.is_some()) && !self.failing && self.live {
            self.poll_at(now, Ask::Activity);
        }
    }

    fn on_counters(&mut self, now: Time, counters: Counters) {
        if let Some(arrivals) = &mut self.arrivals {
            arrivals.on_counters(now, counters);
            if let Some(outcome) = self.would_end_as {
                self.conclude(now, outcome);
                return;
            }
        }
        match self.idle {
            Idle::No => {}
            Idle::Since(since, before) if before == counters.activity => {
                if now.saturating_sub(since) >= self.settle {
                    self.conclude(now, Outcome::Idle);
                }
            }
            Idle::Perhaps | Idle::Since(..) => self.idle = Idle::Since(now, counters.activity),
        }
    }

    /// Until when Envoy accepts at the least, as far as is known by now.
    fn accepts_until(&self) -> Time {
        match &self.arrivals {
            Some(arrivals) => self.min_until.max(arrivals.until()),
            None => self.min_until,
        }
    }

    /// New connections are waited for no more.
    fn expect_nobody(&mut self) {
        self.came = self.came();
        self.arrivals = None;
    }

    /// A look has shown nothing that holds the drain up. Whether somebody came since the counters were
    /// last asked, they have yet to say, unless the look says that nobody did: they are asked next.
    fn conclude_by_look(&mut self, now: Time, load: &Load, outcome: Outcome) {
        let counts = self.arrivals.as_ref().is_some_and(Arrivals::are_counted);
        if counts && !load.quiet && self.live && !self.failing {
            self.would_end_as = Some(outcome);
        } else {
            self.conclude(now, outcome);
        }
    }

    /// Nothing holds the drain up any more; unless it has to last longer, or Envoy still accepts.
    fn conclude(&mut self, now: Time, outcome: Outcome) {
        self.would_end_as = Some(outcome);
        // An Envoy that is just starting has no handler for SIGTERM.
        let from = if self.live {
            self.accepts_until()
        } else {
            self.min_until.max(self.started + SILENCE_MIN)
        };
        if now < from {
            self.poll.due = self.poll.due.min(from);
        }
        if !self.known || now < from {
            return;
        }
        self.expect_nobody();
        if !self.has_looked_last() {
            self.closing = Closing::Wanted;
        } else if !self.may_lose_entries(now) && !self.is_sending(now) {
            self.end(outcome);
        }
    }
}
