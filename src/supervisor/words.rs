//! What log, systemd and last words say, in words.

use std::fmt::Write as _;
use std::time::Instant;

use crate::drain::Outcome;
use crate::duration::show;
use crate::envoy::load::{Listener, Load, Sight};
use crate::status::{Drain, Snapshot, State, clock, plural};

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
        (State::Draining, Some(drain)) => {
            format!("{}: draining for {} at the most", drain.cause, limit(drain))
        }
        (State::Drained, Some(drain)) => format!(
            "{}; envoy stays until it is told to stop",
            ending(drain, snapshot)
        ),
        _ => format!("{name}: {reason}"),
    }
}

/// Seconds from `from` to `to`, to the millisecond.
pub fn seconds(to: Instant, from: Instant) -> f64 {
    clock::seconds(to.saturating_duration_since(from))
}

fn limit(drain: &Drain) -> String {
    show(drain.deadline.saturating_duration_since(drain.started))
}

/// `draining: 12 of 340 connections left (3 requests in flight; https 9, tcp 3), 4.2 s of 25 s`
pub fn progress(now: Instant, drain: &Drain, load: Option<&Load>) -> String {
    let mut line = String::from("draining: ");
    match load {
        None => line.push_str("envoy has not told what is left"),
        Some(load) => {
            let first = drain.first.as_ref().map_or(0, Load::connections);
            let now = load.connections();
            let _ = write!(
                line,
                "{now} of {} left",
                plural(first.max(now), "connection")
            );
            let mut details = Vec::new();
            if load.requests > 0 {
                details.push(format!("{} in flight", plural(load.requests, "request")));
            }
            if load.udp_sessions > 0 {
                details.push(plural(load.udp_sessions, "UDP session"));
            }
            let listeners = by_listener(load);
            if !listeners.is_empty() {
                details.push(listeners);
            }
            if !details.is_empty() {
                let _ = write!(line, " ({})", details.join("; "));
            }
        }
    }
    let _ = write!(
        line,
        ", {} of {}",
        show(now.saturating_duration_since(drain.started)),
        limit(drain)
    );
    line
}

/// `drained after 3.2 s (SIGTERM): 12 connections at the start, 0 at the end`, or
/// `CUT by the deadline after 20.0 s (SIGTERM): ...`
pub fn ending(drain: &Drain, snapshot: &Snapshot) -> String {
    let Some((at, outcome)) = drain.ended else {
        return "not drained".into();
    };
    let took = show(at.saturating_duration_since(drain.started));
    let verdict = match outcome {
        Outcome::Drained
        | Outcome::Idle
        | Outcome::NeverLive
        | Outcome::Unknown
        | Outcome::EnvoyExited => outcome.name().to_owned(),
        Outcome::Deadline => format!("{} by the deadline", cut_or_ended(drain, snapshot)),
        Outcome::SecondSignal => format!("{} by a second signal", cut_or_ended(drain, snapshot)),
        Outcome::AdminLost => format!(
            "{} by the deadline, admin lost,",
            cut_or_ended(drain, snapshot)
        ),
    };
    let mut line = format!("{verdict} after {took} ({})", drain.cause);
    if let (Some(first), Some(last)) = (&drain.first, &snapshot.load) {
        let start = plural(first.connections(), "connection");
        let _ = write!(
            line,
            ": {start} at the start, {} at the end",
            last.connections()
        );
        let mut left = by_listener(last);
        if last.udp_sessions > 0 {
            let comma = if left.is_empty() { "" } else { ", " };
            let _ = write!(left, "{comma}{}", plural(last.udp_sessions, "UDP session"));
        }
        if !left.is_empty() {
            let idle = outcome.is_clean() && last.in_flight() == 0;
            let cut = if idle { "idle" } else { "cut" };
            let requests = match tells_requests(last) {
                true => format!("{} in flight", plural(last.requests, "request")),
                false => "requests not known".into(),
            };
            let _ = write!(line, " ({cut}: {left}; {requests})");
        }
    }
    match &snapshot.load {
        _ if outcome == Outcome::Unknown => line.push_str(
            ": what was in flight is not known, because envoy's admin interface never answered and \
             the kernel does not tell envoy's connections",
        ),
        Some(load) if load.sight == Sight::Partial => {
            line.push_str("; what else was left is not known, because envoy hides it");
        }
        Some(load) if load.sight == Sight::Kernel => line.push_str(match load.hidden {
            Some(_) => "; counted by the kernel, because envoy hides some of it",
            None => "; counted by the kernel, without envoy's admin interface",
        }),
        _ => {}
    }
    line
}

/// Whether a drain ended with something left that counts, as far as anybody knows: what is not
/// known is not clean.
pub fn is_cut(drain: &Drain, snapshot: &Snapshot) -> bool {
    let is_told = |load: &Load| load.sight != Sight::Partial;
    let is_empty = |load: &Load| load.connections() == 0 && load.in_flight() == 0;
    match drain.ended {
        None => false,
        Some((_, outcome)) if outcome.is_clean() => false,
        Some((_, Outcome::AdminLost | Outcome::Unknown)) => true,
        // Without a first look there was no last one of this drain.
        Some(_) if drain.first.is_none() => true,
        Some(_) => !snapshot
            .load
            .as_ref()
            .is_some_and(|load| is_told(load) && is_empty(load)),
    }
}

/// Whether a look tells of requests, too: the kernel alone knows none.
pub fn tells_requests(load: &Load) -> bool {
    load.sight != Sight::Kernel || load.hidden.is_some()
}

fn cut_or_ended(drain: &Drain, snapshot: &Snapshot) -> &'static str {
    if is_cut(drain, snapshot) {
        "CUT"
    } else {
        "ended"
    }
}

/// `https 9, tcp 3`
fn by_listener(load: &Load) -> String {
    open_listeners(load)
        .map(|listener| format!("{} {}", listener.name, listener.connections))
        .collect::<Vec<_>>()
        .join(", ")
}

/// The listeners that count and have something open.
pub fn open_listeners(load: &Load) -> impl Iterator<Item = &Listener> {
    load.listeners
        .iter()
        .filter(|listener| !listener.excluded && listener.connections > 0)
}
