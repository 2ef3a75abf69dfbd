//! How much of its life a certificate has left, and how that is said.

use std::time::{Duration, SystemTime};

const DAY: Duration = Duration::from_secs(86_400);

/// What is left, from the best to the worst. Each is worth one warning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Left {
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

impl Left {
    /// What a certificate of this validity has left.
    pub fn of(not_before: SystemTime, not_after: SystemTime, now: SystemTime) -> Left {
        let Ok(left) = not_after.duration_since(now) else {
            return Left::Nothing;
        };
        let life = not_after.duration_since(not_before).unwrap_or(left);
        if left < life / 10 {
            return if left < DAY { Left::Day } else { Left::Tenth };
        }
        // 33 in 100: who renews at a third, as cert-manager does, has some time to do it.
        if left < life / 100 * 33 {
            return Left::Third;
        }
        Left::Plenty
    }
}

/// Whether a certificate's last second is over.
pub fn is_over(not_after: SystemTime, now: SystemTime) -> bool {
    // `notAfter` belongs to the validity (RFC 5280), and is a whole second.
    now.duration_since(not_after)
        .is_ok_and(|over| over >= Duration::from_secs(1))
}

/// A time span in the two largest units that it has: `12d4h`, `3h20m`, `40s`.
pub fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let (minutes, seconds) = (seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{seconds}s"),
        (0, _, _) => format!("{hours}h{minutes}m"),
        _ => format!("{days}d{hours}h"),
    }
}

/// A time in UTC to the second: `2026-11-23T08:40:00Z`.
pub fn rfc3339(time: SystemTime) -> String {
    let seconds = match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |s| -s),
    };
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days from 0000-03-01, in eras of 400 years: the leap day is the last of its year.
    let days = days.saturating_add(719_468);
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (year * 365 + year / 4 - year / 100);
    let month = (day * 5 + 2) / 153;
    let day = day - (month * 153 + 2) / 5 + 1;
    let (month, next) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    let year = era * 400 + year + next;
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
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
        let left = |now| Left::of(days(0), days(90), now);
        assert_eq!(left(days(0)), Left::Plenty);
        assert_eq!(left(days(60)), Left::Plenty);
        assert_eq!(left(days(61)), Left::Third);
        assert_eq!(left(days(82)), Left::Tenth);
        assert_eq!(left(days(89) + Duration::from_secs(1)), Left::Day);
        assert_eq!(left(days(91)), Left::Nothing);
    }

    #[test]
    fn a_certificate_of_an_hour_is_not_always_on_its_last_day() {
        let left = |now| Left::of(at(0), at(3600), at(now));
        assert_eq!(left(1800), Left::Plenty);
        assert_eq!(left(2500), Left::Third);
        assert_eq!(left(3400), Left::Day);
    }

    #[test]
    fn times_and_spans_are_written_for_people() {
        assert_eq!(rfc3339(at(951_825_599)), "2000-02-29T11:59:59Z");
        assert_eq!(rfc3339(at(1_709_251_200)), "2024-03-01T00:00:00Z");
        assert_eq!(rfc3339(at(253_402_300_799)), "9999-12-31T23:59:59Z");
        assert_eq!(
            rfc3339(at(0) - Duration::from_secs(1)),
            "1969-12-31T23:59:59Z"
        );
        assert_eq!(span(Duration::from_secs(40)), "40s");
        assert_eq!(span(Duration::from_secs(12_000)), "3h20m");
        assert_eq!(span(Duration::from_secs(1_051_200)), "12d4h");
    }

    #[test]
    fn the_last_second_of_a_certificate_counts() {
        assert!(!is_over(at(10), at(10)));
        assert!(is_over(at(10), at(11)));
    }
}
