//! Times as people and machines write them. The snapshot holds monotonic times, which a step of
//! the clock does not move; what is shown is reckoned back from the wall clock of the moment.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What the wall clock, which shows `wall` now, would have shown at `then`.
pub fn wall_at(then: Instant, now: Instant, wall: SystemTime) -> SystemTime {
    let shifted = if then > now {
        wall.checked_add(then.duration_since(now))
    } else {
        wall.checked_sub(now.duration_since(then))
    };
    shifted.unwrap_or(wall)
}

/// Seconds from the epoch to `time`, negative before it.
pub fn unix_seconds(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
        Err(before) => {
            let before = before.duration();
            let whole = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
            -whole - i64::from(before.subsec_nanos() > 0)
        }
    }
}

/// `duration` in seconds, to the millisecond.
pub fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e3).round() / 1e3
}

/// The seconds that RFC 3339 can write: of the years 0000 to 9999.
const WRITABLE: RangeInclusive<i64> = -62_167_219_200..=253_402_300_799;

/// `time` in UTC as RFC 3339 has it, to the millisecond: `2026-01-31T23:59:59.250Z`.
///
/// A year that has not four digits, which RFC 3339 cannot write, becomes the first or last moment
/// that it can.
pub fn rfc3339(time: SystemTime) -> String {
    let seconds = unix_seconds(time);
    let millis = match time.duration_since(UNIX_EPOCH) {
        _ if seconds < *WRITABLE.start() => 0,
        _ if seconds > *WRITABLE.end() => 999,
        Ok(after) => after.subsec_millis(),
        Err(before) => (1_000 - before.duration().subsec_nanos().div_ceil(1_000_000)) % 1_000,
    };
    format!("{}.{millis:03}Z", to_the_second(seconds))
}

/// A time to the second, as certificates have it: `2026-01-31T23:59:59Z`.
pub fn rfc3339_seconds(time: SystemTime) -> String {
    format!("{}Z", to_the_second(unix_seconds(time)))
}

fn to_the_second(unix_seconds: i64) -> String {
    let seconds = unix_seconds.clamp(*WRITABLE.start(), *WRITABLE.end());
    let (year, month, day) = date(seconds.div_euclid(86_400));
    let second = seconds.rem_euclid(86_400);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
}

/// Year, month and day of the Gregorian calendar, `days` after 1970-01-01.
///
/// Reckoned in years that begin in March, whose leap day is their last one, and in the 400 years
/// (146,097 days) after which the calendar repeats.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let cycle = days.div_euclid(146_097);
    let day = days.rem_euclid(146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let first = (153 * month + 2) / 5;
    let year = cycle * 400 + year + i64::from(month >= 10);
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year, month, day - first + 1)
}

/// How many days a date of the Gregorian calendar is after 1970-01-01: the inverse of `date`.
pub fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> String {
        let span = Duration::from_secs(seconds.unsigned_abs());
        rfc3339(if seconds < 0 {
            UNIX_EPOCH - span
        } else {
            UNIX_EPOCH + span
        })
    }

    /// The right-hand sides are what `date -u -d @SECONDS` says.
    #[test]
    fn times_are_written_as_date_writes_them() {
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59.000Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000Z");
        assert_eq!(at(1_709_210_096), "2024-02-29T12:34:56.000Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00.000Z");
        assert_eq!(at(253_402_300_799), "9999-12-31T23:59:59.000Z");
        assert_eq!(at(-1), "1969-12-31T23:59:59.000Z");
        assert_eq!(at(-11_644_473_600), "1601-01-01T00:00:00.000Z");
        assert_eq!(rfc3339_seconds(UNIX_EPOCH), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn every_day_of_five_centuries_follows_the_one_before() {
        let mut last = date(-100_000);
        for day in -99_999..100_000 {
            let (year, month, dom) = date(day);
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let next_day = (year, month, dom - 1) == last;
            let (last_year, last_month, last_dom) = last;
            let length = match last_month {
                2 if leap => 29,
                2 => 28,
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            let next_month = dom == 1 && last_dom == length;
            let turn = if last_month == 12 {
                (last_year + 1, 1)
            } else {
                (last_year, last_month + 1)
            };
            assert!(
                next_day || (next_month && (year, month) == turn),
                "{last:?}"
            );
            assert_eq!(days(year, month, dom), day);
            last = (year, month, dom);
        }
    }

    #[test]
    fn fractions_are_cut_and_never_round_a_second_up() {
        let time = UNIX_EPOCH + Duration::from_nanos(1_999_999_999);
        assert_eq!(rfc3339(time), "1970-01-01T00:00:01.999Z");
        let time = UNIX_EPOCH - Duration::from_millis(250);
        assert_eq!(rfc3339(time), "1969-12-31T23:59:59.750Z");
    }

    #[test]
    fn years_of_five_digits_are_the_last_moment_of_four() {
        assert_eq!(at(253_402_300_800), "9999-12-31T23:59:59.999Z");
        assert_eq!(at(i64::MAX), "9999-12-31T23:59:59.999Z");
        assert_eq!(at(-62_167_219_201), "0000-01-01T00:00:00.000Z");
    }

    #[test]
    fn a_monotonic_time_is_put_back_on_the_wall_clock() {
        let now = Instant::now();
        let wall = UNIX_EPOCH + Duration::from_secs(1_000);
        let span = Duration::from_secs(10);
        assert_eq!(wall_at(now - span, now, wall), wall - span);
        assert_eq!(wall_at(now + span, now, wall), wall + span);
    }
}
