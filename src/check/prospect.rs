//! What a SIGTERM does to a listener.

use super::facts::Facts;
use super::listener::{ConfiguredListener, ListenerKind};
use super::report::Prospect;
use super::rules_listener::{TOLD_SINCE, is_told, longest_request};
use crate::duration::show;

/// What a SIGTERM does to this listener.
pub fn of(listener: &ConfiguredListener<'_>, facts: &Facts) -> Prospect {
    // One of its chains may be a TCP proxy's.
    let has_sessions = listener.has_upgrades() || !listener.proxies.is_empty();
    let (mut told, mut waits, mut cut) = match listener.kind {
        ListenerKind::Http | ListenerKind::Quic => {
            let long = longest_request(listener) > facts.deadline();
            let (waits, cut) = match (has_sessions, long) {
                (true, true) => ("requests, sessions", "sessions, long requests"),
                (true, false) => ("requests, sessions", "sessions"),
                (false, true) => ("requests", "long requests"),
                (false, false) => ("requests", "-"),
            };
            ("next response", waits, cut)
        }
        ListenerKind::Tcp => {
            let all = listener.proxies.iter().all(|proxy| is_told(proxy));
            let told = all && facts.is_since(TOLD_SINCE) != Some(false);
            (
                if told { "next byte" } else { "no" },
                "sessions",
                "sessions",
            )
        }
        ListenerKind::Udp => ("no", "sessions", "sessions"),
        ListenerKind::Other => ("no", "connections", "connections"),
    };
    let mut idle = listener.datagram_idle();
    let excluded = listener.is_called(&facts.options.exclude_listeners);
    if excluded {
        (told, waits, cut, idle) = ("-", "ignored", "-", None);
    }
    Prospect {
        name: listener.title().to_owned(),
        address: listener.address.clone(),
        kind: listener.kind.name(),
        excluded,
        told,
        waits: match idle {
            Some(idle) => format!("{waits}, {} idle", show(idle)),
            None => waits.to_owned(),
        },
        cut,
    }
}
