//! What log, systemd and last words say, in words.

use std::cmp::Reverse;
use std::fmt::Write as _;
use std::time::Instant;

use super::hot_restart::{elsewhere, known_requests, loss};
use crate::clock;
use crate::drain::{Loss, Outcome};
use crate::duration::show;
use crate::envoy::load::{self, ListenerLoad, Load, Sight};
use crate::status::{DrainEnd, DrainStatus, Snapshot, State, UNCONFIRMED, clients, plural};

/// What drainit is doing.
pub fn state(snapshot: &Snapshot) -> String {
    let name = snapshot.state.name();
    let reason = &snapshot.reason;
    match (snapshot.state, &snapshot.drain) {
        (State::Live, _) => format!("envoy is {reason}"),
        (State::Delaying, Some(drain)) => format!(
            "{}: envoy serves on for the drain delay, then drains until {} at the latest",
            drain.cause,
            limit(drain)
        ),
        (State::Held, _) => match &snapshot.hold {
            Some(hold) => match &hold.ended {
                None => format!(
                    "{}: held; waits for {} at the most",
                    hold.cause,
                    limit(hold)
                ),
                Some(end) => format!(
                    "held; {}; envoy stays out of service until a resume",
                    end.verdict
                ),
            },
            None => "held: envoy is told that its health check passes again".into(),
        },
        (State::Draining, Some(drain)) => {
            format!("{}: draining for {} at the most", drain.cause, limit(drain))
        }
        (
            State::Drained,
            Some(DrainStatus {
                ended: Some(end), ..
            }),
        ) => format!("{}; envoy stays until it is told to stop", end.verdict),
        _ => format!("{name}: {reason}"),
    }
}

/// Seconds from `from` to `to`, to the millisecond.
pub fn seconds(to: Instant, from: Instant) -> f64 {
    clock::seconds(to.saturating_duration_since(from))
}

fn limit(drain: &DrainStatus) -> String {
    show(drain.deadline.saturating_duration_since(drain.started))
}

/// `draining: 12 of 340 connections left (3 requests in flight; https 9, tcp 3)`; where there are
/// UDP sessions, `12 of 340 connections and 1 of 4 UDP sessions left`
pub fn left(state: State, drain: &DrainStatus, load: Option<&Load>) -> String {
    let mut line = format!("{}: ", state.name());
    match load {
        None => line.push_str("envoy has not told what is left"),
        Some(load) => {
            let (first, first_udp) = drain.first.as_ref().map_or((0, 0), open);
            let (now, udp) = open(load);
            let _ = write!(line, "{now} of {}", plural(first.max(now), "connection"));
            if first_udp.max(udp) > 0 {
                let all = plural(first_udp.max(udp), "UDP session");
                let _ = write!(line, " and {udp} of {all}");
            }
            line.push_str(" left");
            let mut details = Vec::new();
            if load.requests > 0 {
                details.push(format!("{} in flight", plural(load.requests, "request")));
            }
            let listeners = by_listener(load);
            if !listeners.is_empty() {
                details.push(listeners);
            }
            if load.in_flight() == 0 && load.unsent() > 0 {
                details.push(format!(
                    "{} not acknowledged",
                    plural(load.unsent(), "byte")
                ));
            }
            if !details.is_empty() {
                let _ = write!(line, " ({})", details.join("; "));
            }
        }
    }
    line
}

/// `, still 12 new connections a second`, or `, new ones may come` where that alone keeps Envoy up:
/// nothing is in `load`. Empty where neither does.
pub fn arriving(rate: Option<u64>, load: Option<&Load>) -> String {
    match rate {
        Some(0) if load.is_some_and(|load| open(load) == (0, 0)) => ", new ones may come".into(),
        Some(rate) if rate > 0 => format!(", still {} a second", plural(rate, "new connection")),
        _ => String::new(),
    }
}

/// `, 4.2 s of 25 s`
pub fn elapsed(now: Instant, drain: &DrainStatus) -> String {
    let elapsed = now.saturating_duration_since(drain.started);
    format!(", {} of {}", show(elapsed), limit(drain))
}

/// Some of those who have connections, as [`clients::list`] has them; empty where nobody is known.
pub fn clients(load: &Load) -> String {
    let client = |client: &load::Client| clients::ShownClient {
        listener: client.listener.clone(),
        address: client.address.to_string(),
        age: client.age,
        silent: client.silent,
        rate: client.rate,
    };
    let named: Vec<_> = load.clients.iter().map(client).collect();
    let open = load.clients.iter().filter(|client| !client.is_closed);
    let more = load.connections().saturating_sub(open.count() as u64);
    clients::list(&named, more)
}

/// The end of a drain that ended then and so:
/// `drained after 3.2 s (SIGTERM): 12 connections at the start, 0 at the end`, or
/// `CUT by the deadline after 20.0 s (SIGTERM): ...`
pub fn end(drain: &DrainStatus, at: Instant, outcome: Outcome, snapshot: &Snapshot) -> DrainEnd {
    told(drain, at, outcome, snapshot, false)
}

/// How a hold's wait ended, which cuts nothing: `not drained by the deadline after 20.0 s (/hold): ...`
/// At its deadline a hold has not come about, whatever was seen last.
pub fn hold_end(
    hold: &DrainStatus,
    at: Instant,
    outcome: Outcome,
    snapshot: &Snapshot,
) -> DrainEnd {
    told(hold, at, outcome, snapshot, true)
}

fn told(
    drain: &DrainStatus,
    at: Instant,
    outcome: Outcome,
    snapshot: &Snapshot,
    is_hold: bool,
) -> DrainEnd {
    let is_cut = is_hold && outcome == Outcome::Deadline || is_cut(drain, outcome, snapshot);
    let (over, left_over) = match is_hold {
        true => ("not drained", "left"),
        false => ("CUT", "cut"),
    };
    let over = if is_cut { over } else { "ended" };
    let took = show(at.saturating_duration_since(drain.started));
    let verdict = match outcome {
        // The last one had ended before the order came.
        Outcome::NeverLive
            if snapshot
                .last_end
                .is_some_and(|last| last.at <= drain.started) =>
        {
            "drained without a running envoy".into()
        }
        Outcome::EnvoyExited if drain.lost != Loss::None => over.into(),
        Outcome::Stalled => over.into(),
        Outcome::Drained
        | Outcome::Idle
        | Outcome::NeverLive
        | Outcome::Unknown
        | Outcome::EnvoyExited => outcome.name().to_owned(),
        Outcome::Deadline => format!("{} by the deadline", over),
        Outcome::SecondSignal => format!("{} by a second signal", over),
        Outcome::AdminLost => format!("{} by the deadline, admin lost,", over),
    };
    let mut line = format!("{verdict} after {took} ({})", drain.cause);
    let is_known = !is_lost(outcome, snapshot.load.as_ref());
    if let (Some(first), Some(last), true) = (&drain.first, &snapshot.load, is_known) {
        let (start, start_udp) = open(first);
        let (end, end_udp) = open(last);
        let (start, mut end) = (plural(start, "connection"), end.to_string());
        let _ = write!(line, ": {start}");
        if start_udp.max(end_udp) > 0 {
            let _ = write!(line, " and {}", plural(start_udp, "UDP session"));
            end = format!("{end} and {end_udp}");
        }
        let _ = write!(line, " at the start, {end} at the end");
        let mut left = by_listener(last);
        if last.udp_sessions > 0 {
            let comma = if left.is_empty() { "" } else { ", " };
            let _ = write!(left, "{comma}{}", plural(last.udp_sessions, "UDP session"));
        }
        if !left.is_empty() {
            let settled = outcome.is_clean() || outcome == Outcome::Stalled;
            let idle = settled && last.in_flight() == 0;
            let cut = if idle { "idle" } else { left_over };
            let requests = match known_requests(last) {
                Some(requests) => format!("{} in flight", plural(requests, "request")),
                None => "requests not known".into(),
            };
            let _ = write!(line, " ({cut}: {left}; {requests})");
        }
        if last.unacknowledged() > 0 {
            let bytes = plural(last.unacknowledged(), "byte");
            let _ = write!(line, "; clients had not acknowledged the last {bytes} sent");
        }
    }
    if let Some(came) = drain.came.filter(|came| *came > 0) {
        let _ = write!(line, "; {} came meanwhile", plural(came, "new connection"));
    }
    line.push_str(&loss(drain.lost));
    let refusal = snapshot.admin.refusal.as_deref().filter(|_| is_cut);
    if refusal.is_some() || is_hold && is_cut && snapshot.hold_unconfirmed {
        line.push_str(UNCONFIRMED);
        if let Some(why) = refusal {
            let _ = write!(line, ": {why}");
        }
    }
    match &snapshot.load {
        _ if outcome == Outcome::Unknown => line.push_str(
            ": what was in flight is not known, because envoy's admin interface never answered and \
             the kernel does not tell envoy's connections",
        ),
        _ if !is_known => line.push_str(": what was in flight at its end is not known"),
        Some(load) if load.sight == Sight::Partial => {
            line.push_str("; what else was left is not known, because envoy hides it");
        }
        Some(load) if load.sight == Sight::Kernel => line.push_str(match load.hidden {
            Some(_) => "; counted by the kernel, because envoy hides some of it",
            None => "; counted by the kernel, without envoy's admin interface",
        }),
        _ => {}
    }
    DrainEnd {
        at,
        outcome,
        is_cut,
        verdict: line,
    }
}

/// Whether a drain that ended so left something that counts, as far as anybody knows: what is not
/// known is not clean.
fn is_cut(drain: &DrainStatus, outcome: Outcome, snapshot: &Snapshot) -> bool {
    let is_told = |load: &Load| load.sight != Sight::Partial;
    let is_empty =
        |load: &Load| load.connections() == 0 && load.in_flight() == 0 && load.unsent() == 0;
    let load = snapshot.load.as_ref();
    match outcome {
        _ if drain.lost != Loss::None => true,
        // Those that `--open-connections` lets go may have had something in flight.
        Outcome::Drained => load.is_some_and(|load| load.connections() > 0 && load.in_flight() > 0),
        outcome if outcome.is_clean() => false,
        Outcome::AdminLost | Outcome::Unknown => true,
        outcome if is_lost(outcome, load) => true,
        // Without a first look there was no last one of this drain.
        _ if drain.first.is_none() => true,
        _ => !load.is_some_and(|load| is_told(load) && is_empty(load)),
    }
}

/// Whether an Envoy that ended by itself had something that nobody knows: one that ends closes its
/// admin interface and its connections before it is gone, so that the kernel shows none.
pub fn is_lost(outcome: Outcome, last: Option<&Load>) -> bool {
    let alone = |load: &Load| load.sight == Sight::Kernel && load.hidden.is_none();
    outcome == Outcome::EnvoyExited && last.is_some_and(alone)
}

/// Connections and UDP sessions.
fn open(load: &Load) -> (u64, u64) {
    (load.connections(), load.udp_sessions)
}

/// The most listeners that a line names; of the others the line says how many there are.
const NAMED: usize = 10;

/// `https 9, tcp 3, and 8 on 5 more listeners`: the listeners that count and have something open,
/// the largest first.
fn by_listener(load: &Load) -> String {
    let mut open: Vec<_> = open_listeners(load).collect();
    open.sort_unstable_by_key(|listener| (Reverse(listener.connections), &listener.name));
    let rest = open.split_off(open.len().min(NAMED));
    let mut words: Vec<_> = open
        .iter()
        .map(|listener| format!("{} {}", listener.name, listener.connections))
        .collect();
    if !rest.is_empty() {
        let connections = rest.iter().fold(0_u64, |sum, listener| {
            sum.saturating_add(listener.connections)
        });
        let listeners = plural(rest.len() as u64, "more listener");
        words.push(format!("and {connections} on {listeners}"));
    }
    if let Some((name, connections)) = elsewhere(load) {
        words.push(format!("{name} {connections}"));
    }
    words.join(", ")
}

/// The listeners that count and have something open.
fn open_listeners(load: &Load) -> impl Iterator<Item = &ListenerLoad> {
    load.listeners
        .iter()
        .filter(|listener| !listener.excluded && listener.connections > 0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::drain::Outcome;
    use crate::envoy::load::Unsent;
    use crate::testing;

    fn load(listeners: u64, udp_sessions: u64) -> Load {
        let listener = |number| testing::listener(format!("l{number}"), number);
        Load {
            listeners: (1..=listeners).map(listener).collect(),
            udp_sessions,
            ..Load::default()
        }
    }

    fn drain(first: Load, now: Instant) -> DrainStatus {
        testing::drain(Some(first), now)
    }

    /// How a drain that ends at its deadline is told.
    fn ending(drain: &DrainStatus, snapshot: &Snapshot) -> String {
        end(drain, drain.started, Outcome::Deadline, snapshot).verdict
    }

    #[test]
    fn a_line_names_the_ten_largest_listeners_and_counts_the_rest() {
        assert_eq!(by_listener(&load(2, 0)), "l2 2, l1 1");
        assert_eq!(
            by_listener(&load(13, 0)),
            "l13 13, l12 12, l11 11, l10 10, l9 9, l8 8, l7 7, l6 6, l5 5, l4 4, \
             and 6 on 3 more listeners"
        );
        assert!(by_listener(&load(5_000, 0)).len() < 200);
    }

    #[test]
    fn a_hold_that_is_over_with_something_left_has_cut_nothing() {
        let now = Instant::now();
        let mut snapshot = Snapshot::new(now);
        snapshot.load = Some(load(1, 0));
        let hold = drain(load(2, 0), now);
        let end = hold_end(&hold, now, Outcome::Deadline, &snapshot);
        let told = end.verdict;
        let left = "3 connections at the start, 1 at the end (left: l1 1; 0 requests in flight)";
        assert_eq!(
            told,
            format!("not drained by the deadline after 0 s (SIGTERM): {left}")
        );
        // Its health check may pass still.
        snapshot.load = Some(load(0, 0));
        let end = hold_end(&hold, now, Outcome::Deadline, &snapshot);
        assert!(end.is_cut && end.verdict.starts_with("not drained by the deadline"));
        let confirmed = |snapshot: &Snapshot| {
            let told = hold_end(&hold, now, Outcome::Deadline, snapshot).verdict;
            !told.contains(UNCONFIRMED)
        };
        assert!(confirmed(&snapshot));
        snapshot.hold_unconfirmed = true;
        assert!(!confirmed(&snapshot));
        snapshot.admin.refusal = Some("envoy's admin interface answered 403".into());
        let told = ending(&hold, &snapshot);
        assert!(!told.contains("403"), "it was not cut: {told}");
        let told = hold_end(&hold, now, Outcome::Deadline, &snapshot).verdict;
        assert!(
            told.contains("fails: envoy's admin interface answered 403"),
            "{told}"
        );
    }

    #[test]
    fn requests_that_are_hidden_are_not_known() {
        let now = Instant::now();
        let mut snapshot = Snapshot::new(now);
        snapshot.load = Some(Load {
            requests_untold: true,
            ..load(1, 0)
        });
        let told = ending(&drain(load(1, 0), now), &snapshot);
        assert!(told.ends_with("(cut: l1 1; requests not known)"), "{told}");
    }

    #[test]
    fn what_was_still_sent_at_the_end_is_a_cut() {
        let now = Instant::now();
        let mut snapshot = Snapshot::new(now);
        let load = Load {
            unsent: Some(Unsent {
                open: 0,
                closed: 204_800,
                gone: 0,
            }),
            ..load(0, 0)
        };
        let drain = drain(load.clone(), now);
        assert_eq!(
            left(State::Draining, &drain, Some(&load)),
            "draining: 0 of 0 connections left (204800 bytes not acknowledged)"
        );
        snapshot.load = Some(load);
        assert_eq!(
            ending(&drain, &snapshot),
            "CUT by the deadline after 0 s (SIGTERM): 0 connections at the start, 0 at the end; \
             clients had not acknowledged the last 204800 bytes sent"
        );
        let stalled = end(&drain, now, Outcome::Stalled, &snapshot).verdict;
        assert!(
            stalled.starts_with("CUT after 0 s (SIGTERM): 0 connections"),
            "{stalled}"
        );
        // Idle connections beside it are none that it cut.
        snapshot.load.as_mut().unwrap().listeners = vec![testing::listener("l1", 1)];
        let stalled = end(&drain, now, Outcome::Stalled, &snapshot).verdict;
        assert!(stalled.contains("1 at the end (idle: l1 1; "), "{stalled}");
    }

    #[test]
    fn who_is_not_named_is_counted() {
        let mut load = load(3, 0);
        assert_eq!(clients(&load), "");
        let client = |is_closed| load::Client {
            listener: "tcp".into(),
            address: ([10, 1, 2, 3], 7).into(),
            is_closed,
            silent: Some(Duration::from_secs(12)),
            age: None,
            rate: None,
        };
        load.clients = vec![client(false)];
        assert_eq!(clients(&load), "tcp: 10.1.2.3:7, silent 12 s; and 5 more");
        // A closed one is none of the six.
        load.clients.push(client(true));
        assert!(clients(&load).ends_with("; and 5 more"));
    }

    #[test]
    fn udp_sessions_are_counted_beside_the_connections() {
        let now = Instant::now();
        let drain = drain(load(0, 3), now);
        assert_eq!(
            left(State::Draining, &drain, Some(&load(0, 1))),
            "draining: 0 of 0 connections and 1 of 3 UDP sessions left"
        );
        let mut snapshot = Snapshot::new(now);
        snapshot.load = Some(load(0, 1));
        assert_eq!(
            ending(&drain, &snapshot),
            "CUT by the deadline after 0 s (SIGTERM): 0 connections and 3 UDP sessions at the start, \
             0 and 1 at the end (cut: 1 UDP session; 0 requests in flight)"
        );
    }
}
