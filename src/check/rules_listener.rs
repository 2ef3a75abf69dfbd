//! Rules over a listener that counts.

use std::time::Duration;

use serde_json::Value;

use super::config::{text, time};
use super::facts::Facts;
use super::listener::{ConfiguredListener, ListenerKind};
use super::report::Report;
use crate::duration::show;

/// Every rule over a listener.
pub const ALL: &[fn(&Facts, &ConfiguredListener<'_>, &mut Report)] = &[
    modify_only,
    untold_sessions,
    long_requests,
    endless_silence,
    long_datagram_sessions,
    probes,
];

/// Envoy 1.39 has `tcp_proxy.check_drain_close`.
pub const TOLD_SINCE: u32 = 39;

/// Whether a TCP proxy tells its clients that Envoy drains.
pub fn is_told(proxy: &Value) -> bool {
    proxy.get("check_drain_close").and_then(Value::as_bool) == Some(true)
}

/// A failed health check alone tells no client of a listener of this type; a listener that drains
/// does, within 0.05 s of a SIGTERM (seen on 1.36.4 and 1.40.0, with HTTP/1 and HTTP/3).
fn modify_only(_: &Facts, listener: &ConfiguredListener<'_>, report: &mut Report) {
    if listener.kind == ListenerKind::Quic && text(listener.json, "/drain_type") == "MODIFY_ONLY" {
        let what = "drain_type MODIFY_ONLY: `drainit hold` tells none of the listener's clients to go; \
                    a SIGTERM does";
        let remedy = "leave drain_type out";
        report.find("drain-type", what.into(), &listener.place(), remedy);
    }
}

/// A session of which nobody is told ends by itself, or is cut.
fn untold_sessions(facts: &Facts, listener: &ConfiguredListener<'_>, report: &mut Report) {
    let untold = listener.proxies.iter().any(|proxy| !is_told(proxy));
    if untold && facts.is_since(TOLD_SINCE) == Some(true) {
        let deadline = show(facts.deadline());
        let what = format!(
            "tcp_proxy without check_drain_close: no session is told that Envoy drains, and those \
             that are left after {deadline} are cut"
        );
        let remedy = "check_drain_close: true, which ends a session at its next byte; where the \
                      protocol does not bear that, --exclude-listener or a longer --drain-timeout";
        report.find("tcp-drain", what, &listener.place(), remedy);
    }
}

/// The longest that a request may last by what the routes say: the longest time of all where one
/// says that there is no limit, none where none says anything (Envoy's own limit is 15 s then).
pub fn longest_request(listener: &ConfiguredListener<'_>) -> Duration {
    let mut longest = Duration::ZERO;
    for (manager, routes) in &listener.managers {
        let all = time(manager, "/common_http_protocol_options/max_stream_duration");
        for route in routes.iter().flatten() {
            let Some(given) = time(route, "/route/timeout") else {
                continue;
            };
            let own = time(route, "/route/max_stream_duration/max_stream_duration");
            let or_none = |limit: Duration| match limit {
                Duration::ZERO => Duration::MAX,
                limit => limit,
            };
            let whole = own.or(all).map_or(Duration::MAX, or_none);
            longest = longest.max(or_none(given).min(whole));
        }
    }
    longest
}

/// What may last longer than the drain is cut by it.
fn long_requests(facts: &Facts, listener: &ConfiguredListener<'_>, report: &mut Report) {
    if listener.managers.iter().any(|(_, routes)| routes.is_none()) {
        let place = listener.place();
        report.miss(format!(
            "the routes of {place}: they come from an xDS source"
        ));
    }
    let longest = longest_request(listener);
    if longest <= facts.deadline() {
        return;
    }
    let allowed = match longest {
        Duration::MAX => "is 0s and sets no limit".into(),
        longest => format!("lets requests last for {}", show(longest)),
    };
    let deadline = show(facts.deadline());
    let what = format!("a route's timeout {allowed}: a drain cuts what is left after {deadline}");
    let remedy = format!(
        "a timeout or max_stream_duration of {deadline} or less, or a --drain-timeout above the \
         longest request"
    );
    report.find("timeout", what, &listener.place(), &remedy);
}

/// What has no limit on its silence is never ended by Envoy.
fn endless_silence(facts: &Facts, listener: &ConfiguredListener<'_>, report: &mut Report) {
    let place = listener.place();
    let deadline = show(facts.deadline());
    let mut check = |json: &Value, path: &str, what: &str| {
        if time(json, path) == Some(Duration::ZERO) {
            let name = path.rsplit('/').next().unwrap_or_default();
            let what = format!("{name} 0s: {what}");
            let remedy = "leave it out (Envoy has a limit of its own), or set a time";
            report.find("idle-timeout", what, &place, remedy);
        }
    };
    let stream = format!("a request that nobody goes on with holds a drain for its {deadline}");
    let connection = "connections of clients that are long gone stay open";
    let session =
        format!("a session of a client that is long gone holds a drain for its {deadline}");
    for (manager, routes) in &listener.managers {
        let idle = "/common_http_protocol_options/idle_timeout";
        check(manager, idle, connection);
        check(manager, "/stream_idle_timeout", &stream);
        for route in routes.iter().flatten() {
            check(route, "/route/idle_timeout", &stream);
        }
    }
    for proxy in &listener.proxies {
        check(proxy, "/idle_timeout", &session);
    }
}

/// A datagram has no end: only silence ends a session.
fn long_datagram_sessions(facts: &Facts, listener: &ConfiguredListener<'_>, report: &mut Report) {
    let deadline = facts.deadline();
    let idle = listener.datagram_idle().unwrap_or_default();
    if idle > deadline {
        let idle = show(idle);
        let deadline = show(deadline);
        let what = format!(
            "a UDP session ends after {idle} of silence: the last one before a SIGTERM holds a drain \
             for its {deadline} and is cut"
        );
        let remedy = format!("udp_proxy's idle_timeout well below {deadline}");
        report.find("idle-timeout", what, &listener.place(), &remedy);
    }
}

/// Names of what is for probes and scrapers, in names and in routes.
const PROBES: [&str; 12] = [
    "health",
    "healthz",
    "healthcheck",
    "live",
    "livez",
    "liveness",
    "metrics",
    "probe",
    "probes",
    "prometheus",
    "ready",
    "readiness",
];

/// What comes at regular times, whether Envoy drains or not, is not what a drain should wait for.
fn probes(_: &Facts, listener: &ConfiguredListener<'_>, report: &mut Report) {
    if !matches!(listener.kind, ListenerKind::Http | ListenerKind::Quic) {
        return;
    }
    let has_word = |text: &str, also: &str| {
        let mut words = text.split(|c: char| !c.is_ascii_alphanumeric());
        words.any(|word| PROBES.contains(&word) || !also.is_empty() && word == also)
    };
    let mut is_probe = has_word(text(listener.json, "/name"), "");
    if !is_probe {
        let mut routes = 0;
        let mut probes = 0;
        for route in listener.routes() {
            let kinds = [
                "/match/path",
                "/match/prefix",
                "/match/path_separated_prefix",
            ];
            routes += 1;
            probes += usize::from(
                kinds
                    .iter()
                    .any(|kind| has_word(text(route, kind), "stats")),
            );
        }
        is_probe = routes > 0 && probes == routes;
    }
    if is_probe {
        let what = "a listener for probes or scrapers: a drain waits for their requests";
        let remedy = format!("--exclude-listener {}", listener.title());
        report.find("exclude", what.into(), &listener.place(), &remedy);
    }
}
