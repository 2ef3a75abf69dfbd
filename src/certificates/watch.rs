//! What the files hold, since when, and whether that was acted on.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::lifetime::Term;
use super::notify::FileEvent;
use super::read::{Contents, Refusal};

/// Contents that stayed the same for this long are complete, whoever writes them: twice the pause
/// that a writer makes between its files.
const SETTLE: Duration = Duration::from_millis(600);
/// How long after the kernel's last word of the files a set is taken to be complete that is
/// consistent and that nobody has open for writing: by then a writer has done all its files, or
/// makes a pause.
const QUIET: Duration = Duration::from_millis(15);
/// Between looks at contents that have not settled, and while no set is there at all.
const QUICK: Duration = Duration::from_millis(100);
/// The check interval is no shorter: a busy loop helps nobody.
const AT_LEAST: Duration = Duration::from_millis(10);
/// The check interval is no longer than this.
const AT_MOST: Duration = Duration::from_secs(24 * 3600);
/// Between looks where the kernel tells of every change, in case it does not, unless an interval
/// was asked for.
const NET: Duration = Duration::from_secs(30);

/// What the files held, or why they could not be read.
pub type Reading = Result<Arc<Contents>, Refusal>;

/// What the kernel said of the files.
#[derive(Clone, Copy, Debug)]
struct Heard {
    /// When the kernel first said something since the files were last looked at.
    first: Instant,
    last: Instant,
    /// Whether the files were not looked at since.
    fresh: bool,
    /// Which files somebody writes, a bit each.
    writing: u8,
    /// Whether a file is written in its place, not put there as a whole.
    in_place: bool,
}

/// The files of a set, as they were when they were last looked at.
#[derive(Debug)]
pub struct Watch {
    start: Instant,
    check: Duration,
    /// Whether the kernel tells of every change, so that [`NET`] will do.
    told: bool,
    heard: Option<Heard>,
    seen: Option<Reading>,
    since: Instant,
    look: Instant,
    /// What was acted on last: it is not acted on again.
    acted: Option<Reading>,
    /// How long that was right: beyond it, it is acted on again.
    term: Term,
    /// Whether somebody asked for a look: whatever is there is acted on then.
    asked: bool,
}

impl Watch {
    /// Files that are looked at from `now` on, `check` apart.
    pub fn new(check: Duration, now: Instant) -> Watch {
        Watch {
            start: now,
            check: check.clamp(AT_LEAST, AT_MOST),
            told: false,
            heard: None,
            seen: None,
            since: now,
            look: now,
            acted: None,
            term: Term::default(),
            asked: false,
        }
    }

    /// How often the files are looked at, where no more is known of them.
    pub fn interval(&self) -> Duration {
        self.check
    }

    /// Whether the kernel tells of every change from now on, and so often a look is not wanted.
    pub fn rely_on_kernel(&mut self, yes: bool) {
        self.told = yes;
    }

    /// The kernel said this of the files.
    pub fn hear(&mut self, now: Instant, word: FileEvent) {
        let mut heard = self.heard.unwrap_or(Heard {
            first: now,
            last: now,
            fresh: false,
            writing: 0,
            in_place: false,
        });
        heard.first = if heard.fresh { heard.first } else { now };
        heard.last = now;
        heard.fresh = true;
        let bit = |file: u8| 1_u8.checked_shl(file.into()).unwrap_or(0);
        match word {
            FileEvent::Renamed(file) => heard.writing &= !bit(file),
            FileEvent::Created(file) => {
                heard.writing &= !bit(file);
                heard.in_place = true;
            }
            FileEvent::Writing(file) => {
                heard.writing |= bit(file);
                heard.in_place = true;
            }
            FileEvent::Written(file) => heard.writing &= !bit(file),
            FileEvent::Touched => {}
            FileEvent::Unknown => {
                // What is seen counts as seen without a word.
                self.heard = None;
                self.look = now;
                return;
            }
        }
        self.heard = Some(heard);
    }

    /// When to look next.
    pub fn due(&self) -> Instant {
        match &self.heard {
            // A writer that never pauses does not keep them from being looked at.
            Some(heard) if heard.fresh => {
                let pause = (heard.last + QUIET).min(heard.first + SETTLE);
                self.look.min(pause)
            }
            _ => self.look,
        }
    }

    /// Has the files looked at at once.
    pub fn hurry(&mut self, now: Instant) {
        self.look = now;
    }

    /// Has the files looked at now, and what they hold acted on again.
    pub fn forget(&mut self, now: Instant) {
        self.acted = None;
        self.look = now;
    }

    /// Has the files looked at now, and whatever is there acted on, refused before or not.
    pub fn check_now(&mut self, now: Instant) {
        self.asked = true;
        self.look = now;
    }

    /// The files were read.
    pub fn see(&mut self, now: Instant, reading: Result<Contents, Refusal>) {
        let same = match (&self.seen, &reading) {
            (Some(Ok(seen)), Ok(contents)) => **seen == *contents,
            (Some(Err(seen)), Err(refusal)) => seen == refusal,
            _ => false,
        };
        if !same {
            self.seen = Some(reading.map(Arc::new));
            self.since = now;
            // Somebody changes them of whom the kernel does not tell.
            self.heard = self.heard.filter(|heard| heard.fresh);
        }
    }

    /// The files were looked at, whether they had to be read for that or not; `calm` when there is
    /// no hurry to look again, but by `end`.
    pub fn looked(&mut self, now: Instant, wall: SystemTime, calm: bool, end: Option<SystemTime>) {
        if !self.term.covers(wall) {
            self.term = Term::default();
            self.acted = None;
        }
        let news = self.is_news();
        if let Some(heard) = &mut self.heard {
            heard.fresh &= now < heard.last + QUIET && now < heard.first + SETTLE;
            if !news && !heard.fresh {
                // The same bytes as before.
                self.heard = None;
            }
        }
        let mut pause = if calm && !news {
            self.to_next_beat(now)
        } else {
            QUICK.min(self.check)
        };
        pause = pause.min(self.term.left(wall));
        if let Some(end) = end {
            pause = pause.min(end.duration_since(wall).unwrap_or(pause));
        }
        self.look = now + pause;
    }

    /// How long it is to the next look: all sets that began together look together, and share a
    /// wake-up of their thread, which costs more than a look.
    fn to_next_beat(&self, now: Instant) -> Duration {
        let beat = if self.told {
            self.check.max(NET)
        } else {
            self.check
        };
        let passed = now.duration_since(self.start).as_nanos() % beat.as_nanos().max(1);
        let passed = Duration::from_nanos(passed.try_into().unwrap_or(0));
        beat.saturating_sub(passed)
    }

    /// Whether the files were never looked at, or somebody asked for a look.
    pub fn is_wanted(&self) -> bool {
        self.asked || self.seen.is_none()
    }

    /// What the files held at the last look, or why they could not be read.
    pub fn seen(&self) -> Option<&Reading> {
        self.seen.as_ref()
    }

    /// Whether what the files hold was not acted on yet, or is to be acted on again.
    pub fn is_news(&self) -> bool {
        self.asked || self.acted.is_none() || self.acted != self.seen
    }

    /// Whether what the files hold has been the same for long enough, or somebody asked for a look.
    pub fn is_settled(&self, now: Instant) -> bool {
        self.asked || now.duration_since(self.since) >= SETTLE
    }

    /// Whether all writers that the kernel tells of are done with it, as far as that can be known;
    /// `less` when it holds less than before, which a file that is written in its place may do
    /// until all of it is there.
    pub fn is_complete(&self, now: Instant, less: bool) -> bool {
        self.heard.is_some_and(|heard| {
            heard.writing == 0 && now >= heard.last + QUIET && !(heard.in_place && less)
        })
    }

    /// Whether what the files hold was never acted on so far, or is to be acted on as if it was not.
    pub fn is_first(&self) -> bool {
        self.acted.is_none()
    }

    /// What was acted on was right for no longer than this, either.
    pub fn limit(&mut self, term: Term) {
        self.term = self.term.and(term);
    }

    /// What the files hold is acted on, and will be again beyond this term.
    pub fn act(&mut self, term: Term) {
        self.acted = self.seen.clone();
        self.term = term;
        self.asked = false;
        self.heard = self.heard.filter(|heard| heard.fresh);
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
