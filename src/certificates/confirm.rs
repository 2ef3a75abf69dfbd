//! Whether Envoy took what was published: judged from its statistics and its list of
//! certificates. `/config_dump` is no help: it shows refused secrets as if they were active.

use std::collections::HashSet;
use std::fmt::Write;

use serde_json::Value;

use super::serial::Serial;
use super::{name, publish};

/// How many secrets a question names at the most: with more, the question is about all that Envoy has.
const NAMED: usize = 50;

/// Why nothing is known, and the remedy.
const HIDDEN: &str = "a stats_matcher hides the statistics of secrets: let every stats_matcher \
                      include the prefix sds.";

/// Why Envoy may have another version, and the remedy.
const ELSEWHERE: &str = "Envoy reads another SDS file, or that file's directory was replaced since \
                         Envoy started: Envoy must be started again";

/// What Envoy says of one secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretSeen {
    /// Whether Envoy knows the secret.
    pub known: bool,
    /// The version that Envoy took last; none where Envoy took none that has a version.
    pub version: Option<String>,
    /// How many updates Envoy did not take (`update_rejected` and `update_failure`).
    pub refusals: u64,
}

impl SecretSeen {
    /// An Envoy that was not given the secret so far.
    pub const NOTHING: SecretSeen = SecretSeen {
        known: true,
        version: None,
        refusals: 0,
    };
}

/// What Envoy says of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// Whether Envoy has not come to all of its configuration yet: it may use a secret later.
    pub starting: bool,
    /// Whether no statistic of any secret at all is shown: a `stats_matcher` may hide them.
    pub hidden: bool,
    /// Envoy's secrets, in the order that was asked for.
    pub secrets: Vec<SecretSeen>,
    /// The serial numbers of the leaves it has loaded, or why they could not be asked
    /// for.
    pub serials: Result<HashSet<Serial>, String>,
}

/// What was published, and how things were before.
#[derive(Clone, Debug)]
pub struct Expected<'a> {
    /// The generation.
    pub generation: u64,
    /// The leaf's serial number, in a set that has one.
    pub serial: Option<&'a Serial>,
    /// The secrets' names.
    pub names: &'a [String],
    /// The leaf's serial number in the last good set, where that is another set.
    pub good: Option<&'a Serial>,
    /// What Envoy said of them before; none where it could not be asked.
    pub before: Option<&'a [SecretSeen]>,
}

/// What Envoy's answers show of a set that was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Confirmation {
    /// Envoy has all of the set.
    Taken,
    /// Envoy has the new versions; whether the leaf is loaded cannot be seen.
    Accepted(String),
    /// Envoy refused the set.
    Rejected(String),
    /// Envoy has another version so far.
    Other(String),
    /// Envoy knows no such secret: nothing in its configuration uses it, so far.
    Unused(String),
}

/// Judges an observation.
pub fn judge(expected: &Expected<'_>, observed: &Observation) -> Confirmation {
    let version = publish::version(expected.generation);
    let secrets = || expected.names.iter().zip(&observed.secrets);
    let loaded = expected.serial.map(|serial| match &observed.serials {
        Ok(serials) => Ok((serials.contains(serial), serial)),
        Err(why) => Err(why),
    });
    let unknown = secrets().find(|(_, seen)| !seen.known);
    if let Some((name, _)) = unknown {
        if !observed.hidden {
            return Confirmation::Unused(format!("Envoy uses no secret {name}"));
        }
        // The list of certificates still tells, where the last good set has another one.
        let good = expected
            .good
            .filter(|good| matches!(&observed.serials, Ok(serials) if serials.contains(good)));
        return match (loaded, good) {
            (Some(Ok((true, serial))), good) if good != Some(serial) => Confirmation::Taken,
            (Some(Ok((true, serial))), _) => {
                Confirmation::Accepted(format!("Envoy has serial {serial} as before, and {HIDDEN}"))
            }
            (Some(Ok((false, serial))), Some(good)) => Confirmation::Other(format!(
                "Envoy has serial {good}, not {serial}, its log may say why; {HIDDEN}"
            )),
            _ => Confirmation::Unused(format!("Envoy uses no secret {name}, or {HIDDEN}")),
        };
    }
    if secrets().all(|(_, seen)| seen.version.as_ref() == Some(&version)) {
        return match loaded {
            // Which CAs it has Envoy 1.36 does not list.
            None | Some(Ok((true, _))) => Confirmation::Taken,
            Some(Ok((false, serial))) => Confirmation::Accepted(format!(
                "Envoy took {version}, and does not list serial {serial}"
            )),
            Some(Err(why)) => {
                Confirmation::Accepted(format!("Envoy took {version}; /certs: {why}"))
            }
        };
    }
    for (at, (name, seen)) in secrets().enumerate() {
        let before = expected.before.and_then(|before| before.get(at));
        // What it did not know before it may have refused when that was something else.
        if before.is_some_and(|before| before.known && seen.refusals > before.refusals) {
            return Confirmation::Rejected(format!("Envoy rejected {name}, its log says why"));
        }
    }
    let other = secrets().find(|(_, seen)| seen.version.as_ref() != Some(&version));
    Confirmation::Other(match other {
        Some((
            name,
            SecretSeen {
                version: Some(has), ..
            },
        )) => {
            format!("Envoy has {has:.40} of {name}, not {version}: {ELSEWHERE}")
        }
        Some((name, _)) => format!("Envoy has nothing of {name}: {ELSEWHERE}"),
        None => format!("Envoy was asked about other secrets than {version}'s"),
    })
}

/// The page with all that is needed of these secrets' statistics, and little else.
pub fn stats_query(names: &[String]) -> String {
    let names = if names.len() > NAMED {
        ".*".to_owned()
    } else {
        let names: Vec<_> = names.iter().map(|name| literally(name)).collect();
        names.join("%7C")
    };
    format!(
        "/stats?usedonly&filter=%5Esds%5C.({names})%5C.\
         (version_text%7Cupdate_rejected%7Cupdate_failure)%24"
    )
}

/// A secret's name as Envoy has it in its statistics, as a part of a regular expression in a query.
fn literally(name: &str) -> String {
    let mut text = String::new();
    for c in name::in_statistics(name).chars() {
        match c {
            '0'..='9' | 'A'..='Z' | 'a'..='z' | '_' | '-' => text.push(c),
            c => {
                // RE2 takes a backslash before punctuation alone.
                if c.is_ascii() {
                    text.push_str("%5C");
                }
                for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                    let _ = write!(text, "%{byte:02X}");
                }
            }
        }
    }
    text
}

/// What the page says of these secrets, in this order.
pub fn parse_stats(page: &str, names: &[String]) -> Vec<SecretSeen> {
    let mut seen = vec![SecretSeen::default(); names.len()];
    let names: Vec<_> = names.iter().map(|n| name::in_statistics(n)).collect();
    for line in page.lines() {
        let Some((name, value)) = line.split_once(": ") else {
            continue;
        };
        let Some((secret, statistic)) = name.strip_prefix("sds.").and_then(|n| n.rsplit_once('.'))
        else {
            continue;
        };
        let of = names
            .iter()
            .zip(&mut seen)
            .find(|(name, _)| name.as_str() == secret);
        let Some((_, seen)) = of else {
            continue;
        };
        seen.known = true;
        match statistic {
            "version_text" => {
                let version = value.trim_matches('"');
                seen.version = (!version.is_empty()).then(|| version.to_owned());
            }
            "update_rejected" | "update_failure" => {
                let count: u64 = value.parse().unwrap_or(0);
                seen.refusals = seen.refusals.saturating_add(count);
            }
            _ => {}
        }
    }
    seen
}

/// Whether Envoy has not come to all of its configuration yet, by its answer to `/ready`: that is a
/// 503 with one of two states then, `PRE_INITIALIZING` and `INITIALIZING`.
pub fn is_starting(ready: &Result<String, String>) -> bool {
    ready
        .as_ref()
        .is_err_and(|why| why.ends_with("INITIALIZING"))
}

/// The serial numbers of the leaves in `/certs`.
///
/// # Errors
/// When it is not the JSON that it should be.
pub fn parse_certs(page: &str) -> Result<HashSet<Serial>, String> {
    let page: Value = serde_json::from_str(page).map_err(|error| error.to_string())?;
    let contexts = page.get("certificates").and_then(Value::as_array);
    let contexts = contexts.ok_or("it lists no certificates")?;
    let chains = contexts
        .iter()
        .filter_map(|context| context.get("cert_chain")?.as_array());
    let serials = chains
        .flatten()
        .filter_map(|leaf| leaf.get("serial_number")?.as_str());
    Ok(serials.map(Serial::parse).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{Address, Peer};
    use crate::envoy::fetch;
    use proptest::prelude::*;
    use std::io::{Read, Write as _};
    use std::net::TcpListener;
    use std::thread;

    /// As Envoy 1.40.0 answers after a leaf with another's key, in `usedonly` form.
    const STATS: &str = "sds.contour_xds_tls_certificate.version_text: \"gen-2\"\n\
        sds.contour_xds_tls_validation_context.version_text: \"gen-2\"\n\
        sds.contour_xds_tls_certificate.update_rejected: 1\n\n";

    const CERTS: &str = r#"{ "certificates": [ {
        "ca_cert": [ { "path": "\u003cinline\u003e", "serial_number": "4559c5", "subject_alt_names": [] } ],
        "cert_chain": [ { "path": "\u003cinline\u003e", "serial_number": "a00002",
            "valid_from": "2026-11-22T08:47:15Z" }, { "serial_number": "00AB" } ] } ] }"#;

    fn names() -> Vec<String> {
        [
            "contour_xds_tls_certificate",
            "contour_xds_tls_validation_context",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    fn observed(stats: &str) -> Observation {
        Observation {
            starting: false,
            hidden: stats.is_empty(),
            secrets: parse_stats(stats, &names()),
            serials: parse_certs(CERTS),
        }
    }

    fn verdict(
        generation: u64,
        serial: &str,
        before: Option<&str>,
        now: &Observation,
    ) -> Confirmation {
        let before = before.map(|before| parse_stats(before, &names()));
        let expected = Expected {
            generation,
            serial: Some(&Serial::parse(serial)),
            names: &names(),
            good: None,
            before: before.as_deref(),
        };
        judge(&expected, now)
    }

    #[test]
    fn the_new_versions_and_the_new_serial_are_taken() {
        let now = observed(STATS);
        assert_eq!(verdict(2, "a00002", None, &now), Confirmation::Taken);
        assert!(matches!(
            verdict(2, "5", None, &now),
            Confirmation::Accepted(_)
        ));
        let blind = Observation {
            serials: Err("too large".to_owned()),
            ..now
        };
        assert!(matches!(
            verdict(2, "a00002", None, &blind),
            Confirmation::Accepted(_)
        ));
    }

    #[test]
    fn a_counter_that_moved_is_a_rejection_and_one_that_stood_is_none() {
        let now = observed(STATS);
        let before = STATS.replace("rejected: 1", "rejected: 0");
        assert!(matches!(
            verdict(3, "5", Some(&before), &now),
            Confirmation::Rejected(_)
        ));
        assert!(matches!(
            verdict(3, "5", Some(STATS), &now),
            Confirmation::Other(_)
        ));
        assert!(matches!(
            verdict(3, "5", None, &now),
            Confirmation::Other(_)
        ));
    }

    #[test]
    fn a_secret_that_nothing_uses_is_neither() {
        assert!(matches!(
            verdict(3, "5", None, &observed("")),
            Confirmation::Unused(_)
        ));
        // A file without a version, as Contour writes it.
        let unversioned = "sds.contour_xds_tls_certificate.version_text: \"\"\n\
            sds.contour_xds_tls_validation_context.version_text: \"\"\n";
        let now = observed(unversioned);
        assert!(matches!(
            verdict(3, "5", None, &now),
            Confirmation::Other(_)
        ));
        let half = "sds.contour_xds_tls_certificate.version_text: \"gen-3\"";
        assert!(matches!(
            verdict(3, "5", None, &observed(half)),
            Confirmation::Unused(_)
        ));
        assert_eq!(
            verdict(3, "a00002", None, &observed("")),
            Confirmation::Taken
        );
    }

    #[test]
    fn serials_are_compared_without_case_and_leading_zeros() {
        let serials = parse_certs(CERTS).unwrap();
        assert_eq!(serials, HashSet::from(["a00002", "ab"].map(Serial::parse)));
        assert!(parse_certs("{}").is_err());
        assert!(parse_certs("").is_err());
        assert_eq!(parse_certs("{\"certificates\": [7, {}]}").unwrap().len(), 0);
    }

    #[test]
    fn an_envoy_that_is_not_live_yet_is_told_from_one_that_is_or_was() {
        for (status, state, starting) in [
            ("503 Service Unavailable", "PRE_INITIALIZING", true),
            ("503 Service Unavailable", "INITIALIZING", true),
            ("503 Service Unavailable", "DRAINING", false),
            ("200 OK", "LIVE", false),
        ] {
            let socket = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = Address::Tcp(socket.local_addr().unwrap().to_string());
            let envoy = thread::spawn(move || {
                let (mut peer, _) = socket.accept().unwrap();
                let _ = peer.read(&mut [0; 1000]).unwrap();
                let length = state.len() + 1;
                let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n");
                writeln!(peer, "{head}{state}").unwrap();
            });
            let ready = fetch::get(Peer::Anyone, &address, "/ready");
            assert_eq!(is_starting(&ready), starting, "{ready:?}");
            envoy.join().unwrap();
        }
    }

    #[test]
    fn a_name_with_dots_is_asked_for_and_found() {
        let names = vec!["a.b".to_owned(), "a".to_owned()];
        assert!(stats_query(&names).contains("(a%5C%2Eb%7Ca)"));
        let seen = parse_stats(
            "sds.a.b.version_text: \"gen-1\"\nsds.a.update_failure: 3",
            &names,
        );
        assert_eq!(seen[0].version.as_deref(), Some("gen-1"));
        assert_eq!(seen[1].refusals, 3);
    }

    #[test]
    fn a_name_is_asked_for_and_found_as_envoy_has_it_in_its_statistics() {
        let names = vec!["spiffe://td/web|x+é".to_owned()];
        let query = stats_query(&names);
        assert!(
            query.contains("(spiffe_td%5C%2Fweb%5C%7Cx%5C%2B%C3%A9)"),
            "{query}"
        );
        let seen = parse_stats("sds.spiffe_td/web|x+é.version_text: \"gen-1\"", &names);
        assert_eq!(seen[0].version.as_deref(), Some("gen-1"));
    }

    proptest! {
        #[test]
        fn no_page_makes_it_panic(stats: String, certs: String) {
            let seen = parse_stats(&stats, &names());
            prop_assert_eq!(seen.len(), 2);
            let _ = parse_certs(&certs);
        }
    }
}
