//! Envoy's command line.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

/// Whether a command line has a flag (`--drain-time-s`), as Envoy's parser sees it: as an argument
/// of its own, or with its value behind a space in the same one. `--flag=value` is none to it.
pub fn has(args: &[OsString], flag: &str) -> bool {
    args.iter().any(|arg| value_in(arg, flag).is_some())
}

/// A flag's value, wherever it is.
pub fn value<'a>(args: &'a [OsString], flag: &str) -> Option<&'a OsStr> {
    let (at, rest) = args
        .iter()
        .enumerate()
        .find_map(|(at, arg)| value_in(arg, flag).map(|rest| (at, rest)))?;
    rest.or_else(|| args.get(at + 1).map(OsString::as_os_str))
}

/// `Some` if this argument is the flag, with the value if that is behind a space.
fn value_in<'a>(arg: &'a OsStr, flag: &str) -> Option<Option<&'a OsStr>> {
    match arg.as_bytes().strip_prefix(flag.as_bytes())? {
        [] => Some(None),
        [b' ', value @ ..] => Some(Some(OsStr::from_bytes(value))),
        _ => None,
    }
}

/// Appends the flags that a drain needs where the command line lacks them: Envoy rejects one that
/// is given twice.
pub fn complete(
    args: &mut Vec<OsString>,
    drain_time: Duration,
    admin_address_path: Option<OsString>,
    hot_restart: bool,
) {
    let mut add = |flag: &str, value: Option<OsString>| {
        if !has(args, flag) {
            args.push(flag.into());
            args.extend(value);
        }
    };
    add(
        "--drain-time-s",
        Some(drain_time.as_secs().to_string().into()),
    );
    // The default, gradual, asks one response in sixty to close its connection.
    add("--drain-strategy", Some("immediate".into()));
    if let Some(path) = admin_address_path {
        add("--admin-address-path", Some(path));
    }
    // Nobody but drainit's own hot restart hands listeners on, and without it /dev/shm may be
    // read-only.
    if !hot_restart {
        add("--disable-hot-restart", None);
    }
}

/// What a drain sequence needs at the least to close idle connections: more than three times the
/// connection manager's own `drain_timeout`, which is 5 s unless configured.
const DRAIN_TIME_MIN: Duration = Duration::from_secs(16);

/// All idle connections are gone a second after the drain time; so long before the deadline.
const DRAIN_TIME_MARGIN: Duration = Duration::from_secs(5);

/// Envoy's own default.
const DRAIN_TIME_DEFAULT: Duration = Duration::from_secs(600);

/// The `--drain-time-s` for a drain that lasts `timeout` at the most, of which it serves for
/// `delay`.
///
/// Measured on Envoy 1.40.0, with `--drain-strategy immediate`: with 15 s and less, a drain
/// sequence closes nothing at all. With D from 16 s up, WebSockets are closed from 2/3 of D on,
/// whatever goes on in them, and idle HTTP/1 and HTTP/2 connections up to D + 1 s. A listener that
/// xDS replaces is cut at D, requests in flight too. So D is as large as the deadline bears: 20 s
/// of the default 25 s, when only idle connections are left to close 4 s before it. Where
/// there is no room for 16 s nothing can be closed in time, and a small D would only do harm:
/// then it is Envoy's default.
pub fn drain_time(timeout: Duration, delay: Duration) -> Duration {
    let room = timeout.saturating_sub(delay);
    if room >= DRAIN_TIME_MIN + DRAIN_TIME_MARGIN {
        Duration::from_secs((room - DRAIN_TIME_MARGIN).as_secs())
    } else if room >= DRAIN_TIME_MIN + Duration::from_secs(2) {
        DRAIN_TIME_MIN
    } else {
        DRAIN_TIME_DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(args: &[&str]) -> Vec<OsString> {
        args.iter().map(OsString::from).collect()
    }

    #[test]
    fn missing_flags_are_added_and_given_ones_kept() {
        let mut line = args(&[
            "-c",
            "envoy.yaml",
            "--drain-time-s 60",
            "--drain-strategy",
            "gradual",
        ]);
        complete(
            &mut line,
            Duration::from_secs(15),
            Some("/proc/self/fd/3".into()),
            false,
        );
        assert_eq!(
            line,
            args(&[
                "-c",
                "envoy.yaml",
                "--drain-time-s 60",
                "--drain-strategy",
                "gradual",
                "--admin-address-path",
                "/proc/self/fd/3",
                "--disable-hot-restart",
            ])
        );
    }

    #[test]
    fn the_drain_time_closes_idle_connections_before_the_deadline_or_not_at_all() {
        for (timeout, delay, expected) in [
            (25, 0, 20),
            (25, 5, 16),
            (25, 8, 600),
            (3, 0, 600),
            (60, 0, 55),
            (300, 10, 285),
        ] {
            let of = |seconds| Duration::from_secs(seconds);
            assert_eq!(
                drain_time(of(timeout), of(delay)),
                of(expected),
                "{timeout} {delay}"
            );
        }
    }

    #[test]
    fn a_flags_value_is_found_in_both_forms() {
        for line in [&["--base-id", "7"][..], &["--base-id 7"]] {
            assert_eq!(value(&args(line), "--base-id"), Some(OsStr::new("7")));
        }
        assert_eq!(value(&args(&["--base-id-path", "x"]), "--base-id"), None);
        assert_eq!(value(&args(&["--base-id"]), "--base-id"), None);
    }
}
