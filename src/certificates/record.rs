//! What people are told of a set: what is published, what became of the last change, and how
//! long it is good for.

use std::time::SystemTime;

use log::{Level, error, log, warn};

use super::check::Checked;
use super::lifetime::LifeLeft;
use super::serial::Serial;
use crate::clock::rfc3339_seconds;
use crate::duration::show;
use crate::status::SecretStatus;

/// What becomes of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeOutcome {
    /// Envoy loaded the set.
    Ok,
    /// drainit refused the set: it was not given to Envoy.
    Refused,
    /// Envoy refused the set.
    Rejected,
    /// Envoy did not say.
    Unconfirmed,
}

impl ChangeOutcome {
    /// The outcome's name, and its place in [`SecretStatus::reloads`].
    fn name_and_place(self) -> (&'static str, usize) {
        match self {
            ChangeOutcome::Ok => ("ok", 0),
            ChangeOutcome::Refused => ("refused", 1),
            ChangeOutcome::Rejected => ("rejected", 2),
            ChangeOutcome::Unconfirmed => ("unconfirmed", 3),
        }
    }
}

/// The record of one set: a line for each of its secrets, the leaf's first.
#[derive(Debug)]
pub struct Record {
    status: Vec<SecretStatus>,
    /// What was last said of each secret's end.
    left: Vec<LifeLeft>,
    changed: bool,
    /// What is less than that, and happens to this set alone, is for debugging only.
    pub told: Level,
}

impl Record {
    /// A record of nothing so far.
    pub fn new(names: &[String]) -> Record {
        let status = names.iter().map(|name| SecretStatus {
            secret: name.clone(),
            stale: true,
            ..SecretStatus::default()
        });
        Record {
            status: status.collect(),
            left: vec![LifeLeft::Plenty; names.len()],
            changed: true,
            told: Level::Info,
        }
    }

    /// At which level something is said of this set that would be said at this one.
    pub fn level(&self, level: Level) -> Level {
        if level > self.told {
            Level::Debug
        } else {
            level
        }
    }

    /// The record's lines.
    pub fn status(&self) -> &[SecretStatus] {
        &self.status
    }

    /// The record's lines, when they have changed since this was last asked for.
    pub fn changed(&mut self) -> Option<&[SecretStatus]> {
        std::mem::take(&mut self.changed).then_some(self.status.as_slice())
    }

    /// Why the last change did not succeed; none where it did.
    pub fn error(&self) -> Option<&str> {
        self.status.first()?.last_error.as_deref()
    }

    /// Notes that this set is published.
    pub fn installed(&mut self, generation: u64, set: &[Checked]) {
        self.left.fill(LifeLeft::Plenty);
        for (status, checked) in self.status.iter_mut().zip(set) {
            status.generation = generation;
            let [before, after] = checked.validity();
            status.serial = checked.serial().map(Serial::to_string);
            status.not_before = Some(before);
            status.not_after = Some(after);
        }
        self.changed = true;
    }

    /// Whether what is in the files now is not what Envoy has, or nothing usable is there.
    pub fn set_stale(&mut self, stale: bool) {
        for status in &mut self.status {
            self.changed |= status.stale != stale;
            status.stale = stale;
        }
    }

    /// A change is through, and why where it did not succeed.
    pub fn add(&mut self, outcome: ChangeOutcome, why: Option<&str>) {
        let (name, _) = outcome.name_and_place();
        self.count(outcome);
        for status in &mut self.status {
            status.last_result = Some(name);
            status.last_error = why.map(str::to_owned);
        }
        if let (Some(why), Some(leaf)) = (why, self.status.first()) {
            log!(self.level(Level::Warn), "{}: {name}: {why}", leaf.secret);
        }
    }

    /// An earlier change is through: the last one is another.
    pub fn count(&mut self, outcome: ChangeOutcome) {
        let (_, place) = outcome.name_and_place();
        for status in &mut self.status {
            if let Some(count) = status.reloads.get_mut(place) {
                *count += 1;
            }
        }
        self.changed = true;
    }

    /// Whether Envoy did not say what it made of the last change.
    pub fn is_unconfirmed(&self) -> bool {
        let (unconfirmed, _) = ChangeOutcome::Unconfirmed.name_and_place();
        let mut results = self.status.iter().map(|status| status.last_result);
        results.any(|result| result == Some(unconfirmed))
    }

    /// What was published before is loaded: nothing was changed, and what was not known of it is.
    pub fn set_ok(&mut self) {
        let unconfirmed = self.is_unconfirmed();
        for status in &mut self.status {
            if unconfirmed {
                status.last_result = None;
                status.last_error = None;
            }
            status.last_result.get_or_insert("ok");
        }
        self.changed = true;
    }

    /// Something went wrong that is not the end of a change.
    pub fn set_error(&mut self, why: String) {
        for status in &mut self.status {
            status.last_error = Some(why.clone());
        }
        self.changed = true;
    }

    /// The last error is no more; whether there was one.
    pub fn forget_error(&mut self) -> bool {
        let had = self.error().is_some();
        for status in &mut self.status {
            status.last_error = None;
        }
        self.changed |= had;
        had
    }

    /// Warns, once for each stage, when what is published comes to its end.
    pub fn warn_of_end(&mut self, now: SystemTime) {
        for (status, said) in self.status.iter().zip(&mut self.left) {
            let (Some(before), Some(after)) = (status.not_before, status.not_after) else {
                continue;
            };
            let left = LifeLeft::of(before, after, now);
            // The clock may have been set back: what it said before was not so.
            let is_worse = left > *said;
            *said = left;
            if !is_worse {
                continue;
            }
            let name = &status.secret;
            let at = rfc3339_seconds(after);
            if left == LifeLeft::Nothing {
                error!("{name}: has expired, at {at}");
                continue;
            }
            let left = after.duration_since(now).unwrap_or_default();
            warn!("{name}: expires in {}, at {at}", show(left));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificates::check::Leaf;
    use std::time::Duration;

    #[test]
    fn the_end_is_warned_of_again_when_the_clock_was_ahead() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let mut record = Record::new(&["leaf".to_owned()]);
        let leaf = Leaf {
            serial: Serial::of(&[1]),
            not_before: at(0),
            not_after: at(3600),
            matched: true,
            must_staple: false,
        };
        record.installed(1, &[Checked::Leaf(leaf)]);
        for (now, said) in [
            (5000, LifeLeft::Nothing),
            (100, LifeLeft::Plenty),
            (2500, LifeLeft::Third),
            (3400, LifeLeft::Day),
        ] {
            record.warn_of_end(at(now));
            assert_eq!(record.left, [said]);
        }
    }
}
