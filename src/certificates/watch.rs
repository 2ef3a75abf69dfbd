//! What the files hold, since when, and whether that was acted on.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::read::{Contents, Refusal};

/// Contents that stayed the same for this long are complete: twice the pause that a writer makes
/// between its files. With the check every second a change is loaded within 1.8 s.
const SETTLE: Duration = Duration::from_millis(600);
/// Between looks at contents that have not settled, and while no set is there at all.
const QUICK: Duration = Duration::from_millis(100);
/// The check interval is no shorter: a busy loop helps nobody.
const AT_LEAST: Duration = Duration::from_millis(10);
/// Nor longer.
const AT_MOST: Duration = Duration::from_secs(24 * 3600);

/// What the files held, or why they could not be read.
pub type Reading = Result<Arc<Contents>, Refusal>;

/// The files of a set, as they were when they were last looked at.
#[derive(Debug)]
pub struct Watch {
    start: Instant,
    check: Duration,
    seen: Option<Reading>,
    since: Instant,
    look: Instant,
    /// What was acted on last: it is not acted on again.
    acted: Option<Reading>,
    /// From when on it is, nevertheless.
    again: Option<SystemTime>,
    /// Somebody asked: whatever is there is acted on.
    asked: bool,
}

impl Watch {
    /// Files that are looked at from `now` on, `check` apart.
    pub fn new(check: Duration, now: Instant) -> Watch {
        Watch {
            start: now,
            check: check.clamp(AT_LEAST, AT_MOST),
            seen: None,
            since: now,
            look: now,
            acted: None,
            again: None,
            asked: false,
        }
    }

    /// How often they are looked at.
    pub fn interval(&self) -> Duration {
        self.check
    }

    /// When to look next.
    pub fn due(&self) -> Instant {
        self.look
    }

    /// Looks at them now, and has whatever is there acted on, refused before or not.
    pub fn check_now(&mut self, now: Instant) {
        self.asked = true;
        self.look = now;
    }

    /// They were read.
    pub fn see(&mut self, now: Instant, reading: Result<Contents, Refusal>) {
        let same = match (&self.seen, &reading) {
            (Some(Ok(seen)), Ok(contents)) => **seen == *contents,
            (Some(Err(seen)), Err(refusal)) => seen == refusal,
            _ => false,
        };
        if !same {
            self.seen = Some(reading.map(Arc::new));
            self.since = now;
        }
    }

    /// They were looked at, whether they had to be read for that or not; `calm` when there is no
    /// hurry to look again.
    pub fn looked(&mut self, now: Instant, wall: SystemTime, calm: bool) {
        if self.again.is_some_and(|again| again <= wall) {
            self.again = None;
            self.acted = None;
        }
        let calm = calm && !self.is_news();
        self.look = now
            + if calm {
                self.to_next_beat(now)
            } else {
                QUICK.min(self.check)
            };
    }

    /// How long it is to the next look: all sets that began together look together, and share a
    /// wake-up of their thread, which costs more than a look.
    fn to_next_beat(&self, now: Instant) -> Duration {
        let passed = now.duration_since(self.start).as_nanos() % self.check.as_nanos().max(1);
        let passed = Duration::from_nanos(passed.try_into().unwrap_or(0));
        self.check.saturating_sub(passed)
    }

    /// What was seen.
    pub fn seen(&self) -> Option<&Reading> {
        self.seen.as_ref()
    }

    /// Whether it was not acted on yet, or is to be again.
    pub fn is_news(&self) -> bool {
        self.asked || self.acted.is_none() || self.acted != self.seen
    }

    /// Whether it has been the same for long enough, or somebody asked.
    pub fn is_settled(&self, now: Instant) -> bool {
        self.asked || now.duration_since(self.since) >= SETTLE
    }

    /// It is acted on, and will be again at that time.
    pub fn act(&mut self, again: Option<SystemTime>) {
        self.acted = self.seen.clone();
        self.again = again;
        self.asked = false;
    }
}
