//! For the exploration of every state: drains that will behave the same are made equal.

use super::*;
use crate::envoy::load;
use crate::testing::LIMITS;

impl Drain {
    /// Moves all times by as much as brings `now` to `base`, and levels what makes no difference
    /// any more. The limits must be no longer than 4 s.
    pub(crate) fn level(&mut self, now: Time, base: Time) {
        let end = self.deadline + base - now;
        let past = |at: Time, kept: Duration| (at + base).saturating_sub(now).max(base - kept);
        let due = |at: Time| past(at, Duration::ZERO).min(end.max(base));
        let step = |step: &mut Step| {
            step.due = if step.done { base } else { due(step.due) };
            step.failures = MANY;
        };
        self.started = base;
        self.cause.clear();
        if self.outcome.is_some() {
            let over = Drain::new(&OVER, base, base, true, false);
            *self = Drain {
                aim: self.aim,
                settle: self.settle,
                open_connections: self.open_connections,
                check_interval: self.check_interval,
                known: self.known,
                outcome: match self.aim {
                    // It was told to whoever asked.
                    Aim::Hold => Some(Outcome::Drained),
                    Aim::Stay | Aim::Stop => self.outcome,
                },
                ..over
            };
            return;
        }
        self.deadline = end;
        self.serving_until = due(self.serving_until);
        self.min_until = due(self.min_until);
        self.closing_at = match self.closing {
            Closing::Not => due(self.closing_at),
            Closing::Wanted | Closing::Tried => base,
        };
        if self.live {
            self.wait_for_word_until = base;
            self.ready = Step::new(base);
        } else {
            self.wait_for_word_until = due(self.wait_for_word_until);
            step(&mut self.ready);
        }
        step(&mut self.health);
        step(&mut self.listeners);
        self.poll.due = due(self.poll.due);
        self.poll.earliest = due(self.poll.earliest);
        (self.costs, self.rested) = ([Duration::ZERO; USUAL], base);
        self.poll_failures = MANY;
        self.came = None;
        if self.lost != Loss::None {
            self.lost = Loss::Unknown;
        }
        self.entries_since = self.entries_since.map(|at| past(at, FLUSH));
        let patience = load::patience(self.settle) + DOUBT;
        self.unsent = self.unsent.map(|(at, bytes)| (past(at, patience), bytes));
        if let Idle::Since(at, sum) = &mut self.idle {
            (*at, *sum) = (past(*at, self.settle), 0);
        }
        if let Some(arrivals) = &mut self.arrivals {
            arrivals.level(now, base);
        }
    }
}

/// The number of failures after which the pauses are as long as they get: how they grow has its own
/// tests.
const MANY: u32 = 4;

const OVER: Limits = Limits {
    timeout: Duration::ZERO,
    settle: Duration::ZERO,
    check_interval: Duration::ZERO,
    ..LIMITS
};
