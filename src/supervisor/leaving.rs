//! The end of what Envoy leaves behind: helpers of a start script, and the script itself.

use std::time::Duration;

use super::decide::KILL_PATIENCE;
use crate::drain::Time;

/// What to do about the processes that are left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeavingStep {
    /// Send them SIGTERM.
    Terminate,
    /// Send them SIGKILL.
    Kill,
    /// Wait for their end, until then at the most.
    Wait(Time),
    /// Exit: nothing is left, or nothing that dies.
    Exit,
}

/// What Envoy was sent to end it, since it was spawned.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    /// When Envoy was sent SIGTERM.
    pub terminated: Option<Time>,
    /// When everything was sent SIGKILL.
    pub killed: Option<Time>,
}

/// An exit code to end with, once nothing is left of the process tree.
#[derive(Debug)]
pub struct Leaving {
    /// drainit's exit code.
    pub code: u8,
    told: bool,
    kill_at: Time,
    killed: Option<Time>,
}

impl Leaving {
    /// Envoy is gone. What is left has what is left of the kill timeout, which began when Envoy
    /// was sent SIGTERM, if it was; everything may have been killed then.
    pub fn new(now: Time, code: u8, kill_timeout: Duration, sent: Sent) -> Leaving {
        Leaving {
            code,
            told: false,
            kill_at: sent.terminated.unwrap_or(now) + kill_timeout,
            killed: sent.killed,
        }
    }

    /// Does not wait for the kill timeout: a person has no patience.
    pub fn hurry(&mut self) {
        self.kill_at = Duration::ZERO;
    }

    /// When there is something to do even if no process ends.
    pub fn wake_at(&self) -> Time {
        self.killed.map_or(self.kill_at, |at| at + KILL_PATIENCE)
    }

    /// What to do now; `left` is whether anything is.
    pub fn next(&mut self, now: Time, left: bool) -> LeavingStep {
        if !left {
            return LeavingStep::Exit;
        }
        if now < self.wake_at() {
            if self.killed.is_none() && !std::mem::replace(&mut self.told, true) {
                return LeavingStep::Terminate;
            }
            return LeavingStep::Wait(self.wake_at());
        }
        if self.killed.is_some() {
            return LeavingStep::Exit;
        }
        self.killed = Some(now);
        LeavingStep::Kill
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ms;

    const TIMEOUT: Duration = ms(2_000);

    fn leaving(now: u64, terminated: Option<u64>, killed: Option<u64>) -> Leaving {
        let (terminated, killed) = (terminated.map(ms), killed.map(ms));
        Leaving::new(ms(now), 0, TIMEOUT, Sent { terminated, killed })
    }

    #[test]
    fn what_is_left_is_told_then_killed_and_then_not_waited_for() {
        let mut leaving = leaving(100, Some(50), None);
        for (at, step) in [
            (100, LeavingStep::Terminate),
            (100, LeavingStep::Wait(ms(2_050))),
            (2_049, LeavingStep::Wait(ms(2_050))),
            (2_050, LeavingStep::Kill),
            (2_050, LeavingStep::Wait(ms(2_850))),
            (2_850, LeavingStep::Exit),
        ] {
            assert_eq!(leaving.next(ms(at), true), step, "{at}");
        }
    }

    #[test]
    fn nothing_left_is_the_end_at_any_time() {
        for (at, killed) in [(100, None), (2_050, None), (2_100, Some(2_050))] {
            let mut leaving = leaving(100, None, killed);
            assert_eq!(leaving.next(ms(at), false), LeavingStep::Exit);
        }
    }

    #[test]
    fn a_person_without_patience_has_it_killed() {
        let mut leaving = leaving(100, None, None);
        assert_eq!(leaving.next(ms(100), true), LeavingStep::Terminate);
        leaving.hurry();
        assert_eq!(leaving.next(ms(200), true), LeavingStep::Kill);
    }

    #[test]
    fn what_was_killed_before_gets_no_second_time() {
        let mut leaving = leaving(900, Some(0), Some(100));
        assert_eq!(leaving.next(ms(900), true), LeavingStep::Exit);
    }
}
