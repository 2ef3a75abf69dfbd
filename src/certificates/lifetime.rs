//! How much of its life a certificate has left, how that is said, and how long a judgement of it
//! stands.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY: Duration = Duration::from_secs(86_400);

/// What is left, from the best to the worst. Each is worth one warning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LifeLeft {
    /// More than a third.
    Plenty,
    /// Less than a third: it should have been renewed by now.
    Third,
    /// Less than a tenth.
    Tenth,
    /// Less than a tenth, and less than a day.
    Day,
    /// Nothing.
    Nothing,
}

impl LifeLeft {
    /// What a certificate of this validity has left.
    pub fn of(not_before: SystemTime, not_after: SystemTime, now: SystemTime) -> LifeLeft {
        if is_over(not_after, now) {
            return LifeLeft::Nothing;
        }
        let left = not_after.duration_since(now).unwrap_or_default();
        let life = not_after.duration_since(not_before).unwrap_or(left);
        if left < life / 10 {
            return if left < DAY {
                LifeLeft::Day
            } else {
                LifeLeft::Tenth
            };
        }
        // 33 in 100: who renews at a third, as cert-manager does, has some time to do it.
        if left < life / 100 * 33 {
            return LifeLeft::Third;
        }
        LifeLeft::Plenty
    }
}

/// Whether a certificate's last second is over.
pub fn is_over(not_after: SystemTime, now: SystemTime) -> bool {
    over_at(not_after, now).is_none()
}

/// When a certificate's last second will be over, where it is not yet.
pub fn over_at(not_after: SystemTime, now: SystemTime) -> Option<SystemTime> {
    let end = end(not_after);
    (end > now).then_some(end)
}

/// When a certificate's last second is over.
pub fn end(not_after: SystemTime) -> SystemTime {
    // `notAfter` belongs to the validity (RFC 5280), and is a whole second.
    let end = not_after.checked_add(Duration::from_secs(1));
    end.unwrap_or(not_after)
}

/// From when and until when a judgement of the same bytes stands, by the clock on the wall, which may
/// be set forward and back: in whole seconds since 1970, before which Linux sets no clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    from: u64,
    until: u64,
}

impl Default for Term {
    /// For ever.
    fn default() -> Term {
        Term {
            from: 0,
            until: u64::MAX,
        }
    }
}

impl Term {
    /// Notes that something which is judged now begins to be valid, or is over, at this time.
    pub fn note(&mut self, time: SystemTime, now: SystemTime) {
        let (time, past) = (seconds(time), time <= now);
        if past {
            self.from = self.from.max(time);
        } else {
            self.until = self.until.min(time);
        }
    }

    /// The term of two judgements that are one.
    pub fn and(self, other: Term) -> Term {
        Term {
            from: self.from.max(other.from),
            until: self.until.min(other.until),
        }
    }

    /// Whether the judgement stands now.
    pub fn covers(self, now: SystemTime) -> bool {
        (self.from..self.until).contains(&seconds(now))
    }

    /// How long it stands from now on, if no clock is set.
    pub fn left(self, now: SystemTime) -> Duration {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        Duration::from_secs(self.until).saturating_sub(now)
    }
}

fn seconds(time: SystemTime) -> u64 {
    let time = time.duration_since(UNIX_EPOCH);
    time.unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_warning_is_due_at_a_third_a_tenth_and_on_the_last_day() {
        let days = |days: u64| at(days * 86_400);
        let left = |now| LifeLeft::of(days(0), days(90), now);
        assert_eq!(left(days(0)), LifeLeft::Plenty);
        assert_eq!(left(days(60)), LifeLeft::Plenty);
        assert_eq!(left(days(61)), LifeLeft::Third);
        assert_eq!(left(days(82)), LifeLeft::Tenth);
        assert_eq!(left(days(89) + Duration::from_secs(1)), LifeLeft::Day);
        assert_eq!(left(days(91)), LifeLeft::Nothing);
    }

    #[test]
    fn a_certificate_of_an_hour_is_not_always_on_its_last_day() {
        let left = |now| LifeLeft::of(at(0), at(3600), at(now));
        assert_eq!(left(1800), LifeLeft::Plenty);
        assert_eq!(left(2500), LifeLeft::Third);
        assert_eq!(left(3400), LifeLeft::Day);
    }

    #[test]
    fn the_last_second_of_a_certificate_counts() {
        let half = at(10) + Duration::from_millis(500);
        assert_eq!(LifeLeft::of(at(0), at(10), half), LifeLeft::Day);
        assert!(!is_over(at(10), half));
        assert!(is_over(at(10), at(11)));
    }
}
