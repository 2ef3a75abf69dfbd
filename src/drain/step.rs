//! What is tried again and again.

use std::time::Duration;

use super::Time;

/// A step that is tried until it succeeds, at growing intervals.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Step {
    pub(super) due: Time,
    pub(super) failures: u32,
    pub(super) done: bool,
}

impl Step {
    pub(super) fn new(due: Time) -> Step {
        Step {
            due,
            failures: 0,
            done: false,
        }
    }

    pub(super) fn tried(&mut self, now: Time, succeeded: bool) {
        self.done = succeeded;
        if succeeded {
            self.failures = 0;
        } else {
            self.due = now + pause(self.failures);
            self.failures = self.failures.saturating_add(1);
        }
    }

    pub(super) fn is_due(&self, now: Time) -> bool {
        !self.done && self.due <= now
    }
}

/// How long to wait after so many failures in a row: 100 ms, doubling up to 1 s.
pub(crate) fn pause(failures: u32) -> Duration {
    Duration::from_millis(100 << failures.min(4)).min(Duration::from_secs(1))
}
