//! Near misses: what somebody who mistyped a name has probably meant.

use std::ffi::{OsStr, OsString};

use lexopt::Arg;

use super::flag::{Flag, Settings};
use super::flags::FLAGS;

/// How the names of our own variables begin.
const PREFIX: &str = "DRAINIT_";

/// Whether two names differ by one letter added, lost or wrong, or by two that are swapped.
pub fn is_slip(one: &str, other: &str) -> bool {
    distance(one, other) == 1
}

/// The candidate that `name` was probably meant to be: the one that the fewest slips lead to, if
/// those are few for its length, or one that holds the whole of `name`, or begins as it does.
fn nearest(name: &str, candidates: impl IntoIterator<Item = String>) -> Option<String> {
    let shared = |other: &str| {
        let same = name.bytes().zip(other.bytes());
        same.take_while(|(a, b)| a == b).count()
    };
    let likely = candidates
        .into_iter()
        .map(|other| (distance(name, &other), other))
        .filter(|(slips, other)| {
            let holds = name.len() >= 4 && other.contains(name);
            // Half of the letters and more begin the right name.
            let begins = shared(other) >= 5 && shared(other) * 2 > name.len();
            *slips <= (name.len() / 4).max(1) || holds || begins
        });
    let best = likely.min_by_key(|(slips, _)| *slips);
    best.map(|(_, other)| other)
}

/// How many letters must be added, lost, replaced or swapped with their neighbour to make one name
/// of the other (the optimal string alignment distance).
fn distance(one: &str, other: &str) -> usize {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let first: Vec<usize> = (0..=other.len()).collect();
    let mut rows = vec![first];
    for (i, a) in one.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in other.iter().enumerate() {
            let at = |back: usize, column: usize| {
                let row = rows.len().checked_sub(back).and_then(|row| rows.get(row));
                row.and_then(|row| row.get(column)).copied()
            };
            let replaced = at(1, j).unwrap_or_default() + usize::from(a != b);
            let lost = at(1, j + 1).unwrap_or_default() + 1;
            let added = row.get(j).copied().unwrap_or_default() + 1;
            let mut least = replaced.min(lost).min(added);
            let swapped =
                i > 0 && j > 0 && one.get(i - 1) == Some(b) && other.get(j - 1) == Some(a);
            if let (true, Some(before)) = (swapped, j.checked_sub(1).and_then(|j| at(2, j))) {
                least = least.min(before + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    let last = rows.last().and_then(|row| row.last());
    last.copied().unwrap_or_default()
}

/// What there is to say about variables, each with its value, that look like ours and are none: a
/// sentence for each.
pub fn stray_variables(variables: Vec<(String, OsString)>) -> Vec<String> {
    let known = || FLAGS.iter().flat_map(|flag| flag.own_variables());
    let mut strays: Vec<String> = variables
        .into_iter()
        .filter(|(name, _)| name.starts_with(PREFIX) && known().all(|known| known != *name))
        .filter(|(name, value)| !is_kubernetes(name, value))
        .map(|(name, _)| name)
        .collect();
    strays.sort_unstable();
    let bare = |name: &str| name.trim_start_matches(PREFIX).to_owned();
    let hint = |name: &str| match nearest(&bare(name), known().map(|known| bare(&known))) {
        Some(meant) => format!("did you mean {PREFIX}{meant}?"),
        None => "`drainit help all` lists those that do".into(),
    };
    strays
        .into_iter()
        .map(|name| {
            format!(
                "the variable {name} means nothing to drainit: {}",
                hint(&name)
            )
        })
        .collect()
}

/// Whether the kubelet makes such a variable, for a Service whose name begins with `drainit`: see
/// kubelet's `pkg/kubelet/envvars`.
fn is_kubernetes(name: &str, value: &OsStr) -> bool {
    // `tcp://10.0.0.1:80`, where nothing else tells the variable from one of ours.
    let is_url = value.to_string_lossy().contains("://");
    // What follows `_PORT`: nothing, or `_8090_TCP`, or `_8090_TCP_ADDR`.
    let is_port = |rest: &str| {
        let mut parts = rest.split('_').skip(1);
        let port = parts.next();
        let number = port.is_some_and(|port| port.parse::<u16>().is_ok());
        let protocol = matches!(parts.next(), Some("TCP" | "UDP" | "SCTP"));
        let last = matches!(parts.next(), None | Some("PROTO" | "PORT" | "ADDR"));
        rest.is_empty() && is_url || number && protocol && last && parts.next().is_none()
    };
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || name
            .match_indices("_PORT")
            .filter_map(|(at, found)| name.get(at + found.len()..))
            .any(is_port)
}

/// The option that is meant, of this table; `others` are names that would have been right, too.
pub(super) fn find<T: Settings>(
    table: &'static [Flag<T>],
    arg: &Arg<'_>,
    others: &[&str],
) -> Result<&'static Flag<T>, String> {
    let unknown = |option: &str| {
        format!(
            "unknown option {option}: `drainit help all` lists them, and Envoy's own go behind `--`"
        )
    };
    match arg {
        Arg::Long(name) => table
            .iter()
            .find(|flag| flag.is_called(name))
            .ok_or_else(|| {
                let names = table
                    .iter()
                    .map(|flag| flag.name)
                    .chain(others.iter().copied());
                match nearest(name, names.map(str::to_owned)) {
                    Some(meant) => format!("unknown option --{name}: did you mean --{meant}?"),
                    None => unknown(&format!("--{name}")),
                }
            }),
        Arg::Short(letter) => Err(unknown(&format!("-{letter}"))),
        Arg::Value(value) => Err(format!("unexpected argument `{}`", value.to_string_lossy())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_letter_added_lost_wrong_or_two_swapped_is_a_slip() {
        for word in ["statu", "statuss", "ststus", "sttaus", "tatus", "xstatus"] {
            assert!(is_slip(word, "status"), "{word}");
        }
        for word in ["status", "stat", "sttasu", "", "envoy"] {
            assert!(!is_slip(word, "status"), "{word}");
        }
    }

    #[test]
    fn a_service_of_kubernetes_makes_no_stray_variables() {
        let made = [
            "DRAINIT_SERVICE_HOST",
            "DRAINIT_SERVICE_PORT",
            "DRAINIT_SERVICE_PORT_HTTP",
            "DRAINIT_PORT",
            "DRAINIT_PORT_8090_TCP",
            "DRAINIT_PORT_8090_TCP_PROTO",
            "DRAINIT_PORT_8090_TCP_PORT",
            "DRAINIT_PORT_8090_TCP_ADDR",
            "DRAINIT_PORT_53_UDP_ADDR",
            "DRAINIT_METRICS_SERVICE_HOST",
            "DRAINIT_METRICS_PORT_8090_TCP_ADDR",
            "DRAINIT_METRICS_PORT",
            "DRAINIT_PORT_PORT_1_TCP",
        ];
        let value = |name: &str| match name.ends_with("_PORT") {
            true => "tcp://10.0.0.1:8090",
            false => "8090",
        };
        let made = made.map(|name| (name.to_owned(), value(name).into()));
        assert_eq!(stray_variables(made.to_vec()), [""; 0]);
        for (stray, meant) in [
            ("DRAINIT_DRAIN_TIMOT", Some("DRAINIT_DRAIN_TIMEOUT")),
            ("DRAINIT_TIMEOUT", Some("DRAINIT_")),
            ("DRAINIT_LISTN", Some("DRAINIT_LISTEN")),
            ("DRAINIT_PORT_8090_TCQ", None),
            ("DRAINIT_ADMIN_PORT", Some("DRAINIT_ADMIN_ADDRESS")),
            ("DRAINIT_TEST_DRAIN", None),
            ("DRAINIT_FROBNICATE", None),
        ] {
            let [told] = &stray_variables(vec![(stray.to_owned(), "9901".into())])[..] else {
                panic!("{stray}");
            };
            assert!(told.contains(stray), "{told}");
            match meant {
                Some(meant) => assert!(told.contains(&format!("mean {meant}")), "{told}"),
                None => assert!(told.contains("`drainit help all`"), "{told}"),
            }
        }
    }

    #[test]
    fn every_variable_of_the_table_is_known() {
        let all = FLAGS.iter().flat_map(|flag| flag.own_variables());
        let all = all.map(|name| (name, "1".into()));
        assert_eq!(stray_variables(all.collect()), [""; 0]);
    }
}
