//! `/status`: the snapshot as one JSON object.
//!
//! The keys are always the same; what is not known, or is not there, is `null`. Durations are
//! numbers of seconds and end in `_seconds`, timestamps are RFC 3339 in UTC.

use std::time::{Instant, SystemTime};

use serde_json::Value;

use super::{Admin, DrainStatus, LastEnd, SecretStatus, Snapshot};
use crate::client::Address;
use crate::clock::{rfc3339, seconds, unix_seconds, wall_at};
use crate::envoy::listeners::ListenerCount;
use crate::envoy::load::{Client, ListenerLoad, Load, Unsent};
use crate::json::json;
use crate::process::{self, ExitClass};

/// The JSON of `snapshot`, looked at `now`, when the wall clock shows `wall`; with clients'
/// addresses, or without. One line.
pub fn render(snapshot: &Snapshot, now: Instant, wall: SystemTime, names_clients: bool) -> String {
    let clock = Clock { now, wall };
    let load = snapshot.open();
    let envoy = snapshot.envoy.as_ref();
    let hot_restart = snapshot.hot_restart.unwrap_or_default();
    let certificates: Vec<Value> = snapshot
        .certificates
        .iter()
        .map(|certificate| {
            self::certificate(certificate, snapshot.certificates_hang.as_ref(), &clock)
        })
        .collect();
    let mut text = json!({
        "state": snapshot.state.name(),
        "since": clock.timestamp(snapshot.since),
        "since_seconds": clock.age(snapshot.since),
        "reason": snapshot.reason,
        "degraded": snapshot.is_degraded(),
        "drainit": {
            "pid": std::process::id(),
            "pid_namespace": process::pid_namespace(),
            "version": env!("CARGO_PKG_VERSION"),
            "listen": snapshot.listen,
            "started": clock.timestamp(snapshot.born),
            "uptime_seconds": clock.age(snapshot.born),
        },
        "envoy": {
            "pid": envoy.map(|envoy| envoy.pid),
            "version": envoy.and_then(|envoy| envoy.version.as_deref()),
            "started": envoy.map(|envoy| clock.timestamp(envoy.started)),
            "uptime_seconds": envoy.map(|envoy| clock.age(envoy.started)),
            "restarts": snapshot.restarts,
            "epoch": hot_restart.epoch,
            "old_generation_pid": hot_restart.old,
            "old_generation_left_seconds": hot_restart.old_until.map(|at| clock.until(at)),
            "last_end": snapshot.last_end.map(|last| last_end(last, &clock)),
            "next_start_seconds": snapshot.next_start.map(|at| clock.until(at)),
        },
        "admin": admin(&snapshot.admin, &clock),
        "listeners": listeners(load),
        "excluded_listeners": snapshot.excluded,
        "connections": load.map(Load::connections),
        "requests": load.and_then(Load::known_requests),
        "tcp_sessions": load.map(|load| load.tcp_sessions),
        "udp_sessions": load.map(|load| load.udp_sessions),
        "unacknowledged_bytes": load.and_then(|load| load.unsent).map(Unsent::bytes),
        "sight": load.map(|load| load.sight.name()),
        "hidden": load.and_then(|load| load.hidden.as_deref()),
        "looked_seconds_ago": load.and(snapshot.load_at).map(|at| clock.age(at)),
        "clients": load.filter(|_| names_clients).map(|load| clients(&load.clients)),
        "old_generation_connections": load.map(|load| load.old_connections),
        "drain": snapshot.drain.as_ref().map(|drain| self::drain(drain, &clock)),
        "hold": snapshot.hold.as_ref().map(|hold| self::drain(hold, &clock)),
        "drains": {
            "drained": snapshot.drains.drained,
            "cut": snapshot.drains.cut,
            "unknown": snapshot.drains.unknown,
            "exited": snapshot.drains.exited,
        },
        "reaped_processes": snapshot.reaped,
        "certificates": certificates,
        "hot_restarts": {
            "done": hot_restart.done,
            "refused": hot_restart.refused,
            "failed": hot_restart.failed,
        },
        "reloading": hot_restart.reloading,
        "reload_kept": hot_restart.kept,
        "reloads_asked": snapshot.reloads_asked,
        "configuration": snapshot.configuration.as_ref().map(|it| json!({
            "runs": if it.worse.is_some() { "the last good one" } else { "the file's" },
            "since": clock.timestamp(it.since),
            "since_seconds": clock.age(it.since),
            "worse": it.worse,
            "hangs": snapshot.configuration_hangs,
            "watched_seconds": it.watched.filter(|at| *at > now).map(|at| clock.until(at)),
        })),
        "reload": snapshot.reload.as_ref().map(|reload| json!({
            "number": reload.number,
            "ended_seconds_ago": clock.age(reload.at),
            "ok": reload.result.is_ok(),
            "of_certificates": reload.of_certificates,
            "message": match &reload.result {
                Ok(text) | Err(text) => text,
            },
        })),
        "verdict": snapshot.verdict,
    })
    .to_string();
    text.push('\n');
    text
}

/// The moment that the snapshot is looked at.
struct Clock {
    now: Instant,
    wall: SystemTime,
}

impl Clock {
    fn age(&self, then: Instant) -> f64 {
        seconds(self.now.saturating_duration_since(then))
    }

    fn until(&self, then: Instant) -> f64 {
        seconds(then.saturating_duration_since(self.now))
    }

    fn timestamp(&self, then: Instant) -> String {
        rfc3339(wall_at(then, self.now, self.wall))
    }
}

fn admin(admin: &Admin, clock: &Clock) -> Value {
    let (asked, ready, error) = match &admin.ready {
        Some((asked, Ok(readiness))) => (Some(*asked), Some(readiness.to_string()), None),
        Some((asked, Err(error))) => (Some(*asked), None, Some(error)),
        None => (None, None, None),
    };
    json!({
        "address": admin.address.as_ref().map(Address::to_string),
        "ready": ready,
        "error": error,
        "asked_seconds_ago": asked.map(|asked| clock.age(asked)),
        "answered_seconds_ago": admin.answered.map(|answered| clock.age(answered)),
        "failing_seconds": admin.failing_since.map(|since| clock.age(since)),
        "errors": admin.errors,
        "listeners": match admin.listeners {
            Some(ListenerCount::Count(count)) => Some(count),
            Some(ListenerCount::Untold) | None => None,
        },
    })
}

fn listeners(load: Option<&Load>) -> Value {
    let listener = |listener: &ListenerLoad| {
        json!({
            "name": listener.name,
            "address": listener.address,
            "connections": listener.connections,
            "excluded": listener.excluded,
        })
    };
    load.map_or(Value::Null, |load| {
        load.listeners.iter().map(listener).collect()
    })
}

fn clients(clients: &[Client]) -> Value {
    let client = |client: &Client| {
        json!({
            "listener": client.listener,
            "address": client.address.to_string(),
            "closed": client.is_closed,
            "silent_seconds": client.silent.map(seconds),
            "age_seconds": client.age.map(seconds),
            "bytes_per_second": client.rate,
        })
    };
    clients.iter().map(client).collect()
}

fn last_end(last: LastEnd, clock: &Clock) -> Value {
    json!({
        "how": last.end.to_string(),
        "exit_code": last.end.exit.code(),
        "class": last.end.class.map(ExitClass::name),
        "at": clock.timestamp(last.at),
        "seconds_ago": clock.age(last.at),
        "lived_seconds": seconds(last.lived),
    })
}

fn drain(drain: &DrainStatus, clock: &Clock) -> Value {
    let ended = drain.ended.as_ref();
    let until = ended.map_or(clock.now, |end| end.at);
    let elapsed = until.saturating_duration_since(drain.started);
    let left = match ended {
        Some(_) => None,
        None => Some(drain.deadline.saturating_duration_since(clock.now)),
    };
    let first = drain.first.as_ref();
    json!({
        "cause": drain.cause,
        "started": clock.timestamp(drain.started),
        "elapsed_seconds": seconds(elapsed),
        "deadline": clock.timestamp(drain.deadline),
        "timeout_seconds": seconds(drain.deadline.saturating_duration_since(drain.started)),
        "left_seconds": left.map(seconds),
        "stops": drain.stops,
        "timeline": timeline(drain, clock),
        "first": {
            "listeners": listeners(first),
            "connections": first.map(Load::connections),
            "requests": first.and_then(Load::known_requests),
            "tcp_sessions": first.map(|load| load.tcp_sessions),
            "udp_sessions": first.map(|load| load.udp_sessions),
        },
        "result": ended.map(|end| end.outcome.name()),
        "clean": ended.map(|end| !end.is_cut),
        "verdict": ended.map(|end| &end.verdict),
    })
}

/// What has happened in `drain`, in the order of time.
fn timeline(drain: &DrainStatus, clock: &Clock) -> Value {
    let mut moments: Vec<(&str, Instant)> = [
        ("asked", Some(drain.started)),
        ("health check failed", drain.health_failed),
        ("listeners draining", drain.listeners_draining),
        ("last connection", drain.last_connection),
        ("ended", drain.ended.as_ref().map(|end| end.at)),
    ]
    .into_iter()
    .filter_map(|(what, at)| Some((what, at?)))
    .collect();
    moments.sort_by_key(|(_, at)| *at);
    moments
        .into_iter()
        .map(|(what, at)| {
            json!({
                "event": what,
                "at": clock.timestamp(at),
                "after_seconds": seconds(at.saturating_duration_since(drain.started)),
            })
        })
        .collect()
}

/// `hang` is why nothing is known of the files.
fn certificate(certificate: &SecretStatus, hang: Option<&String>, clock: &Clock) -> Value {
    let [ok, refused, rejected, unconfirmed] = certificate.reloads;
    let left = |until| unix_seconds(until).saturating_sub(unix_seconds(clock.wall));
    let validity = certificate.not_before.zip(certificate.not_after);
    let lifetime =
        validity.map(|(from, until)| unix_seconds(until).saturating_sub(unix_seconds(from)));
    json!({
        "secret": certificate.secret,
        "generation": certificate.generation,
        "serial": certificate.serial,
        "not_before": certificate.not_before.map(rfc3339),
        "not_after": certificate.not_after.map(rfc3339),
        "lifetime_seconds": lifetime,
        "left_seconds": certificate.not_after.map(left),
        "last_result": certificate.last_result,
        "stale": certificate.stale || hang.is_some(),
        "last_error": hang.or(certificate.last_error.as_ref()),
        "changed_seconds_ago": certificate.changed.map(|at| clock.age(at)),
        "reloads": {
            "ok": ok,
            "refused": refused,
            "rejected": rejected,
            "unconfirmed": unconfirmed,
        },
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::drain::Outcome;
    use crate::status::{EnvoyStatus, State};
    use crate::testing;

    /// Every path of `value`, as `drain.first.requests`; of a list, its first item's.
    fn paths(value: &Value, prefix: &str, into: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    into.push(format!("{prefix}{key}"));
                    paths(value, &format!("{prefix}{key}."), into);
                }
            }
            Value::Array(list) => list
                .iter()
                .take(1)
                .for_each(|item| paths(item, prefix, into)),
            _ => (),
        }
    }

    fn parsed(snapshot: &Snapshot, now: Instant) -> Value {
        let wall = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        serde_json::from_str(&render(snapshot, now, wall, true)).unwrap()
    }

    #[test]
    fn a_new_snapshot_has_the_keys_of_a_full_one() {
        let born = Instant::now();
        let now = born + Duration::from_secs(100);
        let (mut empty, mut full) = (Vec::new(), Vec::new());
        paths(&parsed(&Snapshot::new(born), now), "", &mut empty);
        paths(
            &parsed(&crate::status::metrics::tests::full(born), now),
            "",
            &mut full,
        );
        for path in &empty {
            assert!(full.contains(path), "{path}");
        }
        assert!(full.contains(&"drain.timeline.after_seconds".to_owned()));
        assert!(full.contains(&"certificates.reloads.unconfirmed".to_owned()));
        assert!(empty.contains(&"envoy.uptime_seconds".to_owned()));
        assert!(empty.contains(&"drain".to_owned()));
    }

    #[test]
    fn a_drain_shows_its_timeline_and_the_time_left() {
        let born = Instant::now();
        let second = Duration::from_secs(1);
        let mut snapshot = Snapshot::new(born);
        snapshot.state = State::Draining;
        snapshot.envoy = Some(EnvoyStatus {
            pid: 7,
            version: Some("1.40.0".into()),
            started: born + second,
        });
        snapshot.drain = Some(DrainStatus {
            cause: "SIGTERM".into(),
            started: born + 10 * second,
            deadline: born + 35 * second,
            stops: true,
            health_failed: Some(born + 11 * second),
            listeners_draining: Some(born + 10 * second + second / 2),
            last_connection: None,
            came: None,
            lost: crate::drain::Loss::None,
            first: None,
            ended: None,
        });
        let now = born + 15 * second;
        let status = parsed(&snapshot, now);
        assert_eq!(status["state"], "draining");
        assert_eq!(status["envoy"]["uptime_seconds"], 14.0);
        assert_eq!(status["drainit"]["started"], "2027-01-15T07:59:45.000Z");
        let drain = &status["drain"];
        assert_eq!(drain["left_seconds"], 20.0);
        assert_eq!(drain["elapsed_seconds"], 5.0);
        assert_eq!(drain["timeout_seconds"], 25.0);
        assert_eq!(drain["result"], Value::Null);
        assert_eq!(drain["timeline"][1]["event"], "listeners draining");
        assert_eq!(drain["timeline"][1]["after_seconds"], 0.5);
        assert_eq!(drain["timeline"][2]["event"], "health check failed");

        let drain = snapshot.drain.as_mut().unwrap();
        let mut end = testing::drain_end(born + 12 * second, Outcome::SecondSignal, true);
        drain.ended = Some(end.clone());
        let status = parsed(&snapshot, now);
        assert_eq!(status["drain"]["result"], "second signal");
        assert_eq!(status["drain"]["clean"], false);
        assert_eq!(status["drain"]["verdict"], "over");
        assert_eq!(status["drain"]["elapsed_seconds"], 2.0);
        assert_eq!(status["drain"]["left_seconds"], Value::Null);

        end.is_cut = false;
        snapshot.drain.as_mut().unwrap().ended = Some(end);
        assert_eq!(parsed(&snapshot, now)["drain"]["clean"], true);
    }
}
