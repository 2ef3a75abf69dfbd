//! Envoy's command line.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
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

/// The file of a command line's configuration.
pub fn config(args: &[OsString]) -> Option<&OsStr> {
    let (at, flag) = config_flag(args)?;
    value(args.get(at..)?, flag)
}

/// Where a command line has which flag for the configuration's file. It is the last one, and none that
/// is a shell's own, as the first in `sh -c 'exec "$@"' sh envoy -c envoy.yaml`: that is no file, and
/// whatever is put in its place is run.
fn config_flag(args: &[OsString]) -> Option<(usize, &'static str)> {
    let program = args
        .first()
        .and_then(|program| Path::new(program).file_name());
    let is_envoy = program == Some(OsStr::new("envoy"));
    let mut found = None;
    let mut at = 0;
    while let Some(arg) = args.get(at) {
        if let Some(past) = past_script(args, at).filter(|_| !is_envoy) {
            at = past;
            continue;
        }
        let mut flags = CONFIG.into_iter();
        let flag = flags.find(|flag| value_in(arg, flag).is_some());
        let value = flag.and_then(|flag| value(args.get(at..)?, flag));
        // su and its kin take a script, too.
        let is_file = |value: &OsStr| is_envoy || !value.as_bytes().contains(&b' ');
        if value.is_some_and(is_file) {
            found = Some(at).zip(flag);
        }
        at += 1;
    }
    found
}

/// Where the words go on behind a shell's script and its name, if a shell that is given one is here.
fn past_script(args: &[OsString], at: usize) -> Option<usize> {
    let name = Path::new(args.get(at)?).file_name()?;
    if !SHELLS.iter().any(|shell| name == *shell) {
        return None;
    }
    let mut at = at + 1;
    loop {
        let option = args.get(at)?.as_bytes().strip_prefix(b"-")?;
        at += match option {
            _ if option.starts_with(b"-") => 1,
            _ if option.contains(&b'c') => return Some(at + 3),
            _ if option.ends_with(b"o") => 2,
            _ => 1,
        };
    }
}

/// The command line with this file, if there is one, in place of the configuration's.
pub fn with_config(args: &[OsString], file: Option<&Path>) -> Vec<OsString> {
    let mut args = args.to_vec();
    if let (Some(file), Some((at, flag))) = (file, config_flag(&args)) {
        let file = file.as_os_str().to_owned();
        let alone = args.get(at).is_some_and(|arg| arg == flag);
        match args.get_mut(at + 1).filter(|_| alone) {
            Some(value) => *value = file,
            None => args[at] = [OsStr::new(flag), &file].join(OsStr::new(" ")),
        }
    }
    args
}

/// The command line on which Envoy tries this file instead of its configuration.
pub fn trial_of(args: &[OsString], file: &Path) -> Vec<OsString> {
    let mut args = without(args, &["--config-yaml"], &[]);
    if config_flag(&args).is_none() {
        args.push(CONFIG[0].into());
        args.push(OsString::new());
    }
    let mut args = with_config(&args, Some(file));
    args.extend(["--mode", "validate"].map(OsString::from));
    audible(&args)
}

/// A command line without these flags, each with its value or (the latter) without one.
pub fn without(args: &[OsString], valued: &[&str], switches: &[&str]) -> Vec<OsString> {
    let mut kept = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let bytes = arg.as_bytes();
        let next = args.as_slice().first();
        // A shell's `-l` has no value.
        let is_shells = bytes == LEVEL[0].as_bytes()
            && next.is_some_and(|next| next.as_bytes().starts_with(b"-"));
        if !is_shells && valued.iter().any(|flag| bytes == flag.as_bytes()) {
            args.next();
            continue;
        }
        let with_value = |flag: &&str| {
            let rest = bytes.strip_prefix(flag.as_bytes());
            rest.is_some_and(|rest| rest.starts_with(b" "))
        };
        let is_switch = switches.iter().any(|flag| bytes == flag.as_bytes());
        if !is_switch && !valued.iter().any(with_value) {
            kept.push(arg.clone());
        }
    }
    kept
}

/// A command line whose Envoy says on stderr why it refuses something, whatever the operator has it
/// log, and where.
pub fn audible(args: &[OsString]) -> Vec<OsString> {
    let mut loud = without(args, &QUIET, &["--log-format-escaped"]);
    // A start script may give the level where the command line does not, and Envoy takes one.
    if LEVEL.iter().any(|flag| has(args, flag)) {
        loud.extend(["-l", "error"].map(OsString::from));
    }
    loud
}

/// Envoy's flag for the level of its log.
const LEVEL: [&str; 2] = ["-l", "--log-level"];

/// Envoy's flags that say what is logged, how and where to.
const QUIET: [&str; 5] = [
    LEVEL[0],
    LEVEL[1],
    "--component-log-level",
    "--log-format",
    "--log-path",
];

/// Programs whose `-c` takes a script.
const SHELLS: [&str; 6] = ["sh", "bash", "dash", "ash", "ksh", "zsh"];

/// Envoy's flag for its configuration's file.
const CONFIG: [&str; 2] = ["-c", "--config-path"];

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

/// Envoy's own default for `--drain-time-s`.
const DRAIN_TIME_DEFAULT: Duration = Duration::from_secs(600);

/// The `--drain-time-s` (D) for drains that last `longest` at the most: so large that Envoy closes
/// nothing by it before that time is over.
///
/// On Envoy 1.40.0 a drain sequence closes WebSockets and CONNECT tunnels, in use or not, from 2/3
/// of D on: with D = 20 s and `--drain-strategy immediate`, 12 of 12 of each kind at 14.3 to
/// 16.0 s, and idle HTTP/1 and HTTP/2 connections at 19.4 to 21.0 s. An old generation that a hot
/// restart drains does the same. With D = 600 s, and on 1.36.4 with any D, all of them lived for
/// the 27 s that were watched. So D is above 3/2 of the longest drain; twice is well above it.
///
/// A large D costs nothing that a drain needs:
/// - `Connection: close` and GOAWAY follow from the failed health check, and the strategy
///   `immediate` has no clock.
/// - `tcp_proxy.check_drain_close` (1.39) closes its sessions at their next byte whatever D is, and
///   without a drain sequence too.
/// - Idle connections stay open, as they did before 1.40; `--settle` ends the wait for those. An
///   Envoy that closes them at the start of the sequence, whatever D is, only ends that wait sooner.
/// - D is also how long Envoy lets a listener go on that xDS has replaced, before it cuts what is
///   left on it: the more time, the fewer cuts.
/// - When an old generation of a hot restart ends is ruled by `--parent-shutdown-time-s` alone:
///   with 25 s and D = 600 s it ended after 25.1 s (1.36.4, 1.40.0).
pub fn drain_time(longest: Duration) -> Duration {
    let room = longest.saturating_mul(2).max(DRAIN_TIME_DEFAULT);
    // Envoy's flag is a number of 32 bits.
    Duration::from_secs(room.as_secs().min(u32::MAX.into()))
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
    fn an_envoy_that_is_tried_says_why_it_refuses() {
        let line = |words: &[&str]| args(words);
        for (given, tried) in [
            (
                &["envoy", "-l", "off", "-c", "x"][..],
                &["envoy", "-c", "x", "-l", "error"][..],
            ),
            (
                &["--log-level critical", "--component-log-level", "main:off"],
                &["-l", "error"],
            ),
            (
                &["-c", "x", "--log-path", "/x.log", "--log-format", "%v"],
                &["-c", "x"],
            ),
        ] {
            assert_eq!(audible(&line(given)), line(tried));
        }
    }

    #[test]
    fn the_drain_time_closes_nothing_before_the_longest_drain_is_over() {
        for (longest, expected) in [(0, 600), (25, 600), (300, 600), (3_600, 7_200)] {
            let of = |seconds| Duration::from_secs(seconds);
            assert_eq!(drain_time(of(longest)), of(expected), "{longest}");
        }
        assert_eq!(drain_time(Duration::MAX).as_secs(), u64::from(u32::MAX));
    }

    #[test]
    fn another_configuration_takes_the_ones_place() {
        let file = Some(Path::new("/x.yaml"));
        for (line, with) in [
            (
                &["-l", "info", "-c", "a.yaml"][..],
                &["-l", "info", "-c", "/x.yaml"][..],
            ),
            (
                &["--config-path a.yaml", "-l", "info"],
                &["--config-path /x.yaml", "-l", "info"],
            ),
            (
                &["-c", "exec \"$@\"", "sh", "envoy", "-c", "a.yaml"],
                &["-c", "exec \"$@\"", "sh", "envoy", "-c", "/x.yaml"],
            ),
            (
                &[
                    "-c",
                    "exec \"$@\"",
                    "sh",
                    "envoy",
                    "--config-path",
                    "a.yaml",
                ],
                &[
                    "-c",
                    "exec \"$@\"",
                    "sh",
                    "envoy",
                    "--config-path",
                    "/x.yaml",
                ],
            ),
        ] {
            assert_eq!(config(&args(line)), Some(OsStr::new("a.yaml")));
            assert_eq!(with_config(&args(line), file), args(with));
            assert_eq!(with_config(&args(line), None), args(line));
        }
        assert_eq!(config(&args(&["--config-yaml", "{}"])), None);
    }

    #[test]
    fn a_shells_script_is_no_configuration_and_its_options_are_its_own() {
        for (line, file) in [
            (&["sh", "-c", "exec envoy -c /e \"$@\"", "sh"][..], None),
            (&["sh", "-c", "run", "sh"], None),
            (&["su", "envoy", "-c", "envoy -c /e"], None),
            (
                &["sh", "-c", "exec envoy \"$@\"", "sh", "-c", "/e"],
                Some("/e"),
            ),
            (
                &[
                    "nice", "bash", "-o", "pipefail", "-ec", "run", "x", "-c", "/e",
                ],
                Some("/e"),
            ),
            (&["./start.sh", "-c", "/e"], Some("/e")),
            (&["bash", "-euo", "pipefail", "-c", "./run.sh"], None),
            (
                &["/bin/envoy", "--service-cluster", "bash", "-c", "/my e"],
                Some("/my e"),
            ),
        ] {
            assert_eq!(config(&args(line)), file.map(OsStr::new), "{line:?}");
        }
        let login = ["sh", "-l", "-c", "exec \"$@\"", "sh", "envoy", "-c", "/e"];
        let heard = audible(&args(&login));
        assert_eq!(heard[..login.len()], args(&login));
    }

    #[test]
    fn another_file_is_tried_by_whatever_runs_envoy() {
        let shell = ["sh", "-c", "exec \"$@\"", "sh", "envoy"];
        let root = ["su-exec", "envoy", "envoy"];
        let tried = ["-c", "/x", "--mode", "validate"];
        for (before, given, after) in [
            (
                &shell[..],
                &["-c", "a.yaml", "-l off"][..],
                &["-l", "error"][..],
            ),
            (&root, &["--config-yaml", "{}"], &[]),
            (&root, &["--config-yaml", "---\n{}"], &[]),
        ] {
            let line = args(&[before, given].concat());
            let trial = args(&[before, &tried, after].concat());
            assert_eq!(trial_of(&line, Path::new("/x")), trial);
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
