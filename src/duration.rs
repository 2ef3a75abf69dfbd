//! Durations as Go writes them: `500ms`, `25s`, `1m30s`, `1.5h`.

use std::time::Duration;

const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Reads a duration: one or more decimal numbers, each with its unit; `0` needs none.
///
/// # Errors
/// One line that says what is wrong and what would be right.
pub fn parse(text: &str) -> Result<Duration, String> {
    let unsigned = text.strip_prefix('+').unwrap_or(text);
    if unsigned == "0" {
        return Ok(Duration::ZERO);
    }
    parts(unsigned).map(Duration::from_nanos).ok_or_else(|| {
        let seconds = match text.bytes().all(|byte| byte.is_ascii_digit()) {
            true if !text.is_empty() => format!("{text}s for seconds; others are "),
            _ => String::new(),
        };
        format!("`{text}` is no duration: write {seconds}500ms, 25s or 1m30s")
    })
}

fn parts(text: &str) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    let mut rest = text;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let (_, nanoseconds) = UNITS.iter().find(|(name, _)| *name == unit)?;
        total = total.checked_add(scale(number, *nanoseconds)?)?;
        rest = tail;
    }
    Some(total)
}

/// `number` (digits, perhaps with a fraction) times `unit`, in nanoseconds, rounded down.
fn scale(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let all_digits = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    if !all_digits(whole) || !all_digits(fraction) {
        return None;
    }
    let whole: u64 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let mut part = 0;
    let mut weight = unit;
    for digit in fraction.bytes() {
        weight /= 10;
        part += u64::from(digit - b'0') * weight;
    }
    whole.checked_mul(unit)?.checked_add(part)
}

/// Shows a duration as a person reads it: `0.25 s`, `12.3 s`, `25 s`, `1 min 47 s`, `2 h 5 min`, `3
/// d`.
///
/// The log, the status and every message use this form. Seconds have one decimal, below one second
/// two; a number of whole seconds, as an option has it, has none.
pub fn show(duration: Duration) -> String {
    let hundredths = (duration.as_millis() + 5) / 10;
    let tenths = (duration.as_millis() + 50) / 100;
    let seconds = duration.as_secs();
    match seconds {
        0..60 if duration.subsec_nanos() == 0 => format!("{seconds} s"),
        0 if hundredths < 100 => format!("0.{hundredths:02} s"),
        0..60 if tenths < 600 => format!("{}.{} s", tenths / 10, tenths % 10),
        0..60 => "1 min".into(),
        60..3_600 => two(seconds / 60, "min", seconds % 60, "s"),
        3_600..172_800 => two(seconds / 3_600, "h", seconds / 60 % 60, "min"),
        _ => format!("{} d", seconds / 86_400),
    }
}

fn two(large: u64, large_unit: &str, small: u64, small_unit: &str) -> String {
    match small {
        0 => format!("{large} {large_unit}"),
        _ => format!("{large} {large_unit} {small} {small_unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations_are_read() {
        for (text, milliseconds) in [
            ("0", 0),
            ("0s", 0),
            ("500ms", 500),
            ("25s", 25_000),
            ("1m30s", 90_000),
            ("1.5s", 1_500),
            (".5s", 500),
            ("1h", 3_600_000),
            ("2000us", 2),
            ("1h2m3s4ms", 3_723_004),
        ] {
            assert_eq!(
                parse(text),
                Ok(Duration::from_millis(milliseconds)),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_an_example() {
        for text in [
            "",
            "25",
            "s",
            "-1s",
            "1.s.",
            "1..5s",
            "1 s",
            "ten",
            "1d",
            "99999999999h",
            ".",
        ] {
            let refusal = parse(text).unwrap_err();
            assert!(refusal.contains("1m30s"), "{text}: {refusal}");
        }
    }

    #[test]
    fn durations_are_shown_for_people() {
        for (milliseconds, text) in [
            (0, "0 s"),
            (4, "0.00 s"),
            (250, "0.25 s"),
            (994, "0.99 s"),
            (996, "1.0 s"),
            (4_249, "4.2 s"),
            (12_300, "12.3 s"),
            (19_999, "20.0 s"),
            (25_000, "25 s"),
            (59_949, "59.9 s"),
            (59_950, "1 min"),
            (60_000, "1 min"),
            (61_000, "1 min 1 s"),
            (107_900, "1 min 47 s"),
            (190_000, "3 min 10 s"),
            (7_200_000, "2 h"),
            (7_500_000, "2 h 5 min"),
            (172_799_000, "47 h 59 min"),
            (172_800_000, "2 d"),
            (1_047_600_000, "12 d"),
        ] {
            assert_eq!(show(Duration::from_millis(milliseconds)), text);
        }
    }
}
