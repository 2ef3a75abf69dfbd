//! Callers who ask for a drain over HTTP: the log has a line for the first, and a count for the
//! rest.

use std::time::{Duration, Instant};

/// The log has a count at the most this often.
const PAUSE: Duration = Duration::from_secs(5);

/// The callers of /shutdown, and what the log has said of them.
#[derive(Debug, Default)]
pub struct Callers {
    /// When the log last said something of them.
    told: Option<Instant>,
    /// How many callers the log has said nothing of.
    untold: u64,
}

impl Callers {
    /// Somebody called; returns the line to log now, if it is due.
    pub fn on_call(&mut self, now: Instant, peer: &str) -> Option<String> {
        if self.told.is_none() {
            self.told = Some(now);
            return Some(format!("/shutdown from {peer}"));
        }
        self.untold += 1;
        self.count(now, false)
    }

    /// How many called whom the log has said nothing of, if it is time to say so or all is `over`.
    pub fn count(&mut self, now: Instant, over: bool) -> Option<String> {
        let due = over || self.due()? <= now;
        if !due || self.untold == 0 {
            return None;
        }
        self.told = Some(now);
        Some(match std::mem::take(&mut self.untold) {
            1 => "/shutdown from one more caller, who joins the drain".into(),
            many => format!("/shutdown from {many} more callers, who join the drain"),
        })
    }

    /// When the next count is to be logged.
    pub fn due(&self) -> Option<Instant> {
        let told = self.told.filter(|_| self.untold > 0)?;
        Some(told + PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_callers_are_a_line_and_a_count() {
        let mut callers = Callers::default();
        let now = Instant::now();
        assert_eq!(callers.due(), None);
        let first = callers.on_call(now, "127.0.0.1");
        assert_eq!(first.as_deref(), Some("/shutdown from 127.0.0.1"));
        assert_eq!(callers.count(now + PAUSE, true), None);
        for _ in 0..99 {
            assert_eq!(callers.on_call(now, "127.0.0.1"), None);
        }
        assert_eq!(callers.due(), Some(now + PAUSE));
        assert_eq!(callers.count(now, false), None);
        let count = callers.count(now + PAUSE, false);
        let text = "/shutdown from 99 more callers, who join the drain";
        assert_eq!(count.as_deref(), Some(text));
        assert_eq!(callers.due(), None);
        assert_eq!(callers.on_call(now + PAUSE, "::1"), None);
        let last = callers.count(now + PAUSE, true);
        assert!(last.is_some_and(|line| line.contains("one more caller")));
    }
}
