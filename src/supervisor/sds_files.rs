//! Before Envoy starts, the certificate thread looks whether the SDS files are as they were
//! published: an Envoy that finds one missing does not start.

use std::time::{Duration, Instant};

use super::Supervisor;
use crate::certificates::CertificateCommand;
use crate::duration::show;

/// A look takes some milliseconds. A thread that hangs in a file system must not keep Envoy down.
const WITHIN: Duration = Duration::from_secs(2);

/// What is awaited of the certificate thread before Envoy starts.
#[derive(Debug, Default)]
pub(super) struct SdsFiles {
    /// The number of the last question.
    number: u64,
    check: Check,
    /// Whether the trial of the next Envoy's configuration waits for the answer.
    pub(super) trial_waits: bool,
}

/// How far the question is.
#[derive(Debug, Default)]
enum Check {
    /// The certificate thread was not asked for this start.
    #[default]
    Unasked,
    /// The certificate thread was asked, and is waited for until then at the latest.
    Asked(Instant),
    /// The question was answered, or nobody is there to answer.
    Over,
}

impl SdsFiles {
    /// Waits no longer for an answer that takes too long.
    pub(super) fn hurry(&mut self, now: Instant) {
        if let Check::Asked(until) = self.check
            && until <= now
        {
            log::warn!(
                "the certificate thread has not told within {} whether the SDS files are as they were \
                 published: drainit goes on without that",
                show(WITHIN)
            );
            self.check = Check::Over;
        }
    }

    /// When Envoy starts even without an answer.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        match self.check {
            Check::Asked(until) => Some(until),
            Check::Unasked | Check::Over => None,
        }
    }

    /// The question of this number is answered.
    pub(super) fn on_checked(&mut self, number: u64) {
        if number == self.number {
            self.nobody_checks();
        }
    }

    /// No answer will come.
    pub(super) fn nobody_checks(&mut self) {
        if let Check::Asked(_) = self.check {
            self.check = Check::Over;
        }
    }
}

impl Supervisor {
    /// Whether Envoy's start has to wait for the SDS files; asks for them if nobody has.
    pub(super) fn awaits_sds_files(&mut self) -> bool {
        match self.sds_files.check {
            Check::Unasked => {
                let number = self.sds_files.number + 1;
                let told = self
                    .helpers
                    .tell(CertificateCommand::CheckPublished(number));
                if told {
                    self.sds_files.number = number;
                    self.sds_files.check = Check::Asked(Instant::now() + WITHIN);
                }
                return told;
            }
            Check::Asked(_) => return true,
            Check::Over => self.sds_files.check = Check::Unasked,
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_does_not_answer_keeps_envoy_down_for_two_seconds_and_wakes_nobody_after() {
        let now = Instant::now();
        let mut files = SdsFiles {
            number: 2,
            check: Check::Asked(now + WITHIN),
            trial_waits: false,
        };
        files.on_checked(1);
        files.hurry(now);
        assert_eq!(files.wake_at(), Some(now + WITHIN), "that was another's");
        files.hurry(now + WITHIN);
        assert!(matches!(files.check, Check::Over));
        assert_eq!(files.wake_at(), None);
        files.check = Check::Asked(now + WITHIN);
        files.on_checked(2);
        assert!(matches!(files.check, Check::Over));
    }
}
