//! What is answered to what: pure functions of the snapshot and the time.

use std::time::{Duration, Instant, SystemTime};

use super::reply::Reply;
use super::request::{Request, RequestMethod};
use crate::envoy::listeners::ListenerCount;
use crate::envoy::question::Readiness;
use crate::status::{ADMIN_LOST, DrainEnd, OrderNumber, Snapshot, State, json, metrics};

/// How long `/status` and `/metrics` wait for the word on what is open; then they tell the last.
/// Above the second for which Envoy has its rest after a probe: who looks right after one gets
/// the figures as well.
const LOOK_WAIT: Duration = Duration::from_millis(1_100);
/// How long `/ready` waits for Envoy's admin interface: below the 1 s that a kubelet's probe
/// waits by default.
const READY_WAIT: Duration = Duration::from_millis(900);
/// How long `/resume` waits for Envoy's word: longer than three attempts of drainit's take.
const RESUME_WAIT: Duration = Duration::from_secs(10);
/// How old an answer of Envoy's `/ready` may be. drainit asks no more than once a second.
const READY_FRESH: Duration = Duration::from_secs(1);

/// Every endpoint, by its path.
pub const PATHS: [(&str, Endpoint); 7] = [
    ("/healthz", Endpoint::Health),
    ("/ready", Endpoint::Ready),
    ("/status", Endpoint::Status(When::Fresh)),
    ("/metrics", Endpoint::Metrics),
    ("/shutdown", Endpoint::Shutdown),
    ("/hold", Endpoint::Hold(0)),
    ("/resume", Endpoint::Resume(0)),
];

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `/healthz`: whether Envoy lives.
    Health,
    /// `/ready`: whether Envoy is to get traffic.
    Ready,
    /// `/shutdown`: drain, and answer when that is over.
    Shutdown,
    /// `/hold`: Envoy is to be out of service; answered when what was in flight is gone. The number
    /// tells one order from another.
    Hold(OrderNumber),
    /// `/resume`: Envoy is to be in service again; answered when it is.
    Resume(OrderNumber),
    /// `/status`: the snapshot as JSON.
    Status(When),
    /// `/metrics`: the snapshot for Prometheus.
    Metrics,
}

impl Endpoint {
    /// What a request for this endpoint orders, if it changes anything and so is for those alone
    /// who may.
    pub fn order(self) -> Option<&'static str> {
        match self {
            Endpoint::Shutdown => Some("shut down"),
            Endpoint::Hold(_) => Some("hold"),
            Endpoint::Resume(_) => Some("resume"),
            Endpoint::Health | Endpoint::Ready | Endpoint::Status(_) | Endpoint::Metrics => None,
        }
    }

    /// Whether the endpoint is there on unix sockets alone.
    pub fn is_local(self) -> bool {
        matches!(self, Endpoint::Hold(_) | Endpoint::Resume(_))
    }
}

/// The moment whose snapshot `/status` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// The moment when what is open is known: `/status`.
    Fresh,
    /// The moment of the request: `/status?now`.
    Now,
    /// The moment when drainit is over, with the verdict: `/status?end`.
    End,
}

/// An endpoint's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointAnswer {
    /// Answer with this reply now.
    Now(Reply),
    /// Answer when the snapshot has changed, or at that time if there is one.
    Later(Option<Instant>),
}

/// Finds the endpoint that `request` asks for; `local` if by a unix socket, where there are more.
///
/// # Errors
/// The answer, 404 or 405, when there is none.
pub fn route(request: &Request, local: bool) -> Result<Endpoint, Reply> {
    let is_asked =
        |(path, one): &&(&str, Endpoint)| *path == request.path && (local || !one.is_local());
    let endpoint = match PATHS.iter().find(is_asked) {
        Some((_, Endpoint::Status(_))) => Endpoint::Status(match request.query.as_str() {
            "now" => When::Now,
            "end" => When::End,
            _ => When::Fresh,
        }),
        Some((_, endpoint)) => *endpoint,
        None => {
            let known = PATHS.iter().filter(|(_, one)| !one.is_local());
            let known: Vec<_> = known.map(|(path, _)| *path).collect();
            return Err(Reply::text(
                404,
                format!("not found: there are {}", known.join(", ")),
            ));
        }
    };
    let (allowed, allow) = match endpoint {
        // HEAD changes nothing anywhere (RFC 9110, 9.2.1).
        Endpoint::Shutdown => (&[RequestMethod::Get, RequestMethod::Post][..], "GET, POST"),
        Endpoint::Hold(_) | Endpoint::Resume(_) => (&[RequestMethod::Post][..], "POST"),
        Endpoint::Health | Endpoint::Ready | Endpoint::Status(_) | Endpoint::Metrics => {
            (&[RequestMethod::Get, RequestMethod::Head][..], "GET, HEAD")
        }
    };
    if allowed.contains(&request.method) {
        return Ok(endpoint);
    }
    let mut reply = Reply::text(405, format!("method not allowed: use {allow}"));
    reply.allow = Some(allow);
    Err(reply)
}

/// Answers a request for `endpoint` that came at `asked`, as things are `now`, when the wall clock
/// shows `wall`. Clients' addresses are for whom is `trusted`. Who may ask for `/shutdown` was
/// decided before.
pub fn answer(
    endpoint: Endpoint,
    asked: Instant,
    snapshot: &Snapshot,
    now: Instant,
    wall: SystemTime,
    trusted: bool,
) -> EndpointAnswer {
    match endpoint {
        Endpoint::Health => EndpointAnswer::Now(health(snapshot, now)),
        Endpoint::Ready => ready(snapshot, asked, now),
        Endpoint::Shutdown => shutdown(snapshot),
        Endpoint::Hold(number) => order(snapshot, number).unwrap_or(EndpointAnswer::Later(None)),
        Endpoint::Resume(number) => order(snapshot, number).unwrap_or_else(|| {
            let until = asked.checked_add(RESUME_WAIT);
            match until.filter(|until| now < *until) {
                Some(until) => EndpointAnswer::Later(Some(until)),
                None => EndpointAnswer::Now(Reply::text(503, unheard(snapshot))),
            }
        }),
        Endpoint::Status(When::End) if snapshot.verdict.is_none() => EndpointAnswer::Later(None),
        Endpoint::Status(When::Fresh) | Endpoint::Metrics
            if is_worth_a_look(snapshot, asked, now) =>
        {
            EndpointAnswer::Later(asked.checked_add(LOOK_WAIT))
        }
        Endpoint::Status(_) => EndpointAnswer::Now(Reply {
            content_type: "application/json",
            ..Reply::text(200, json::render(snapshot, now, wall, trusted))
        }),
        Endpoint::Metrics => EndpointAnswer::Now(Reply {
            content_type: metrics::CONTENT_TYPE,
            ..Reply::text(200, metrics::render(snapshot, now))
        }),
    }
}

/// Whether what is open is worth waiting for: a drain asks for that by itself, and elsewhere Envoy
/// is asked when somebody wants to know.
fn is_worth_a_look(snapshot: &Snapshot, asked: Instant, now: Instant) -> bool {
    let at_rest = matches!(snapshot.state, State::Live | State::Held | State::Delaying);
    let answers = snapshot.is_degraded()
        || !snapshot.is_admin_away()
            && snapshot.admin.answered.is_some()
            && snapshot.admin.failing_since.is_none();
    let known = snapshot
        .load_at
        .is_some_and(|at| now.saturating_duration_since(at) < READY_FRESH);
    at_rest && answers && !known && now.saturating_duration_since(asked) < LOOK_WAIT
}

fn health(snapshot: &Snapshot, now: Instant) -> Reply {
    match snapshot.state {
        State::Waiting => return Reply::text(200, waiting(snapshot)),
        State::Restarting => return Reply::text(503, restarting(snapshot)),
        State::Gone => return Reply::text(503, GONE),
        State::Stopping | State::Drained if snapshot.envoy.is_none() => {
            return Reply::text(503, GONE);
        }
        _ => (),
    }
    let silence = snapshot.silence(now);
    if silence < ADMIN_LOST {
        return Reply::text(200, "OK");
    }
    let mut text = format!(
        "envoy's admin interface has not answered for {} s",
        silence.as_secs()
    );
    if let Some((_, Err(error))) = &snapshot.admin.ready {
        text = format!("{text}: {error}");
    }
    Reply::text(503, text)
}

fn ready(snapshot: &Snapshot, asked: Instant, now: Instant) -> EndpointAnswer {
    let refusal = match snapshot.state {
        State::Held => Some(HELD.to_owned()),
        // It has not heard of that yet, or is just hearing of it.
        State::Starting if snapshot.hold.is_some() => Some(HELD.to_owned()),
        State::Starting | State::Live | State::Delaying => None,
        State::Waiting => Some(waiting(snapshot)),
        State::Draining | State::Drained | State::Stopping => Some("DRAINING".to_owned()),
        State::Restarting => Some(restarting(snapshot)),
        State::Gone => Some(GONE.to_owned()),
    };
    if let Some(text) = refusal {
        return EndpointAnswer::Now(Reply::text(503, text));
    }
    if snapshot.is_admin_away() {
        // The old generation serves while the new one rises, and after one that did not; nobody can
        // be asked.
        return EndpointAnswer::Now(Reply::text(200, "LIVE"));
    }
    // What an Envoy before this one said does not count. What was asked shortly before the
    // request came does, because the supervisor would not ask again so soon.
    let started = snapshot.envoy.as_ref().map(|envoy| envoy.started);
    let fresh = snapshot.admin.ready.as_ref().filter(|(observed, _)| {
        now.saturating_duration_since(*observed) < READY_FRESH
            && started.is_none_or(|started| *observed >= started)
    });
    let silent = match snapshot.state {
        State::Starting => "STARTING",
        _ => "UNREACHABLE",
    };
    match fresh {
        Some((_, Ok(Readiness::Live))) => EndpointAnswer::Now(match snapshot.admin.listeners {
            Some(ListenerCount::Count(0)) => Reply::text(503, "no listener"),
            _ => Reply::text(200, "LIVE"),
        }),
        Some((_, Ok(readiness))) => EndpointAnswer::Now(Reply::text(503, readiness.to_string())),
        Some((_, Err(why))) => EndpointAnswer::Now(Reply::text(503, format!("{silent}: {why}"))),
        None => match asked.checked_add(READY_WAIT) {
            Some(until) if now < until => EndpointAnswer::Later(Some(until)),
            _ => {
                let text = format!("{silent}: envoy's admin interface does not answer");
                EndpointAnswer::Now(Reply::text(503, text))
            }
        },
    }
}

fn shutdown(snapshot: &Snapshot) -> EndpointAnswer {
    let drain = snapshot.drain.as_ref();
    let ended = drain.and_then(|drain| drain.ended.as_ref());
    if ended.is_some() || snapshot.state == State::Gone {
        EndpointAnswer::Now(Reply {
            order_result: ended.map(DrainEnd::result),
            ..Reply::text(200, "OK")
        })
    } else {
        EndpointAnswer::Later(None)
    }
}

/// What became of the order of this number, if that is known by now.
fn order(snapshot: &Snapshot, number: OrderNumber) -> Option<EndpointAnswer> {
    let found = snapshot.orders.iter().find(|(order, _)| *order == number);
    match found {
        Some((_, Ok(how))) => Some(EndpointAnswer::Now(Reply {
            order_result: Some(*how),
            ..Reply::text(200, "OK")
        })),
        Some((_, Err(why))) => Some(EndpointAnswer::Now(Reply::text(409, why.as_str()))),
        None if snapshot.state == State::Gone => Some(EndpointAnswer::Now(Reply::text(409, GONE))),
        None => None,
    }
}

const HELD: &str = "HELD";

/// Why a resume takes so long.
fn unheard(snapshot: &Snapshot) -> String {
    let (why, fails) = match &snapshot.admin.refusal {
        // It may have refused to fail it, too.
        Some(why) => (why.as_str(), "may still be"),
        None => ("envoy's admin interface does not answer", "is still"),
    };
    format!("{why}: its health check {fails} failed, and drainit goes on telling it to pass")
}

const GONE: &str = "envoy is gone";

fn waiting(snapshot: &Snapshot) -> String {
    format!("waiting for certificates: {}", snapshot.reason)
}

fn restarting(snapshot: &Snapshot) -> String {
    format!("envoy is being restarted: {}", snapshot.reason)
}

#[cfg(test)]
#[path = "endpoints_tests.rs"]
mod tests;
