use std::time::UNIX_EPOCH;

use super::*;
use crate::drain::Outcome;
use crate::status::{EnvoyStatus, OrderResult};
use crate::testing;

const SECOND: Duration = Duration::from_secs(1);

/// A snapshot of `state` a thousand seconds after drainit was born, with an Envoy as old.
fn snapshot(state: State) -> (Snapshot, Instant) {
    let born = Instant::now();
    let mut snapshot = Snapshot::new(born);
    snapshot.state = state;
    snapshot.reason = "because".to_owned();
    let absent = [State::Waiting, State::Restarting, State::Gone];
    if !absent.contains(&state) {
        snapshot.envoy = Some(EnvoyStatus {
            pid: 2,
            version: None,
            started: born,
        });
    }
    (snapshot, born + 1_000 * SECOND)
}

fn request(method: RequestMethod, path: &str) -> Request {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    Request {
        from_page: false,
        method,
        path: path.to_owned(),
        query: query.to_owned(),
    }
}

fn ask(endpoint: Endpoint, snapshot: &Snapshot, asked: Instant, now: Instant) -> EndpointAnswer {
    answer(endpoint, asked, snapshot, now, UNIX_EPOCH, true)
}

fn says(status: u16, text: &str) -> EndpointAnswer {
    EndpointAnswer::Now(Reply::text(status, text))
}

#[test]
fn paths_are_exact_and_methods_are_those_of_the_contract() {
    for (path, endpoint) in [
        ("/healthz", Endpoint::Health),
        ("/ready", Endpoint::Ready),
        ("/status", Endpoint::Status(When::Fresh)),
        ("/status?later", Endpoint::Status(When::Fresh)),
        ("/status?now", Endpoint::Status(When::Now)),
        ("/metrics", Endpoint::Metrics),
    ] {
        assert_eq!(
            route(&request(RequestMethod::Get, path), false),
            Ok(endpoint)
        );
        assert_eq!(
            route(&request(RequestMethod::Head, path), false),
            Ok(endpoint)
        );
        for method in [RequestMethod::Post, RequestMethod::Other] {
            let reply = route(&request(method, path), false).unwrap_err();
            assert_eq!((reply.status, reply.allow), (405, Some("GET, HEAD")));
        }
    }
    for method in [RequestMethod::Get, RequestMethod::Post] {
        assert_eq!(
            route(&request(method, "/shutdown"), false),
            Ok(Endpoint::Shutdown)
        );
    }
    let reply = route(&request(RequestMethod::Other, "/shutdown"), false).unwrap_err();
    assert_eq!((reply.status, reply.allow), (405, Some("GET, POST")));
    for path in [
        "/",
        "",
        "*",
        "/healthz/",
        "/Ready",
        "//ready",
        "/ready%20",
        "/quitquitquit",
    ] {
        assert_eq!(
            route(&request(RequestMethod::Get, path), false)
                .unwrap_err()
                .status,
            404
        );
    }
    let told = route(&request(RequestMethod::Get, "/"), false).unwrap_err();
    for (path, endpoint) in PATHS {
        let is_told = told.body.split([' ', ',']).any(|word| word == path);
        assert_eq!(is_told, !endpoint.is_local(), "{path}: {}", told.body);
    }
}

#[test]
fn a_hold_and_a_resume_are_posted_to_a_unix_socket_and_elsewhere_there_is_no_such_path() {
    let orders = [
        ("/hold", Endpoint::Hold(0)),
        ("/resume", Endpoint::Resume(0)),
    ];
    for (path, endpoint) in orders {
        assert_eq!(
            route(&request(RequestMethod::Post, path), true),
            Ok(endpoint)
        );
        for method in [
            RequestMethod::Get,
            RequestMethod::Head,
            RequestMethod::Other,
        ] {
            let reply = route(&request(method, path), true).unwrap_err();
            assert_eq!((reply.status, reply.allow), (405, Some("POST")));
        }
        for method in [RequestMethod::Get, RequestMethod::Post] {
            let reply = route(&request(method, path), false).unwrap_err();
            assert_eq!(reply.status, 404, "{path}");
        }
    }
}

#[test]
fn an_order_is_answered_by_its_number_and_a_resume_after_ten_seconds_at_the_latest() {
    let (mut snapshot, asked) = snapshot(State::Held);
    let hold = |snapshot: &Snapshot, now| ask(Endpoint::Hold(2), snapshot, asked, now);
    let resume = |snapshot: &Snapshot, now| ask(Endpoint::Resume(3), snapshot, asked, now);
    let ended = |name, is_clean| Ok(OrderResult { name, is_clean });
    snapshot.orders = [(1, ended("drained", true))].into();
    assert_eq!(hold(&snapshot, asked), EndpointAnswer::Later(None));
    assert_eq!(
        hold(&snapshot, asked + 1_000 * SECOND),
        EndpointAnswer::Later(None)
    );
    let until = asked + 10 * SECOND;
    assert_eq!(resume(&snapshot, asked), EndpointAnswer::Later(Some(until)));
    let EndpointAnswer::Now(reply) = resume(&snapshot, until) else {
        panic!("it waits on");
    };
    assert_eq!(reply.status, 503);
    assert!(
        reply
            .body
            .starts_with("envoy's admin interface does not answer: ")
    );
    let mut refuses = snapshot.clone();
    refuses.admin.refusal = Some("403".into());
    let text = "403: its health check may still be failed, and drainit goes on telling it to pass";
    assert_eq!(resume(&refuses, until), says(503, text));
    snapshot.orders.push_back((2, ended("deadline", false)));
    snapshot.orders.push_back((3, Err("no way back".into())));
    let EndpointAnswer::Now(reply) = hold(&snapshot, asked) else {
        panic!("it waits on");
    };
    assert_eq!(reply.status, 200);
    assert_eq!(reply.order_result, ended("deadline", false).ok());
    assert_eq!(resume(&snapshot, asked), says(409, "no way back"));
    snapshot.state = State::Gone;
    let unanswered = ask(Endpoint::Hold(4), &snapshot, asked, asked);
    assert_eq!(unanswered, says(409, "envoy is gone"));
}

#[test]
fn an_envoy_that_starts_while_held_is_not_ready_before_it_has_heard_of_it() {
    let (mut snapshot, now) = snapshot(State::Starting);
    snapshot.admin.ready = Some((now, Ok(Readiness::Live)));
    assert_eq!(ask(Endpoint::Ready, &snapshot, now, now), says(200, "LIVE"));
    snapshot.hold = metrics::tests::full(now).drain;
    assert_eq!(ask(Endpoint::Ready, &snapshot, now, now), says(503, "HELD"));
}

#[test]
fn healthz_is_ok_in_every_state_with_an_envoy() {
    for state in State::ALL {
        let (snapshot, now) = snapshot(state);
        let expected = match state {
            State::Waiting => says(200, "waiting for certificates: because"),
            State::Restarting => says(503, "envoy is being restarted: because"),
            State::Gone => says(503, "envoy is gone"),
            _ => says(200, "OK"),
        };
        assert_eq!(
            ask(Endpoint::Health, &snapshot, now, now),
            expected,
            "{state:?}"
        );
    }
    let (mut snapshot, now) = snapshot(State::Stopping);
    snapshot.envoy = None;
    assert_eq!(
        ask(Endpoint::Health, &snapshot, now, now),
        says(503, "envoy is gone")
    );
}

#[test]
fn healthz_fails_when_the_admin_has_not_answered_for_a_minute() {
    let (mut snapshot, now) = snapshot(State::Live);
    snapshot.admin.failing_since = Some(now - 60 * SECOND + SECOND / 10);
    assert_eq!(ask(Endpoint::Health, &snapshot, now, now), says(200, "OK"));
    snapshot.admin.failing_since = Some(now - 60 * SECOND);
    let text = "envoy's admin interface has not answered for 60 s";
    assert_eq!(ask(Endpoint::Health, &snapshot, now, now), says(503, text));
    snapshot.admin.ready = Some((now, Err("timed out".into())));
    let text = "envoy's admin interface has not answered for 60 s: timed out";
    assert_eq!(ask(Endpoint::Health, &snapshot, now, now), says(503, text));
}

#[test]
fn an_envoy_without_a_listener_is_not_ready_and_one_that_does_not_tell_is() {
    let (mut snapshot, now) = snapshot(State::Live);
    snapshot.admin.ready = Some((now, Ok(Readiness::Live)));
    for (listeners, answer) in [
        (None, says(200, "LIVE")),
        (Some(ListenerCount::Untold), says(200, "LIVE")),
        (Some(ListenerCount::Count(1)), says(200, "LIVE")),
        (Some(ListenerCount::Count(0)), says(503, "no listener")),
    ] {
        snapshot.admin.listeners = listeners;
        assert_eq!(ask(Endpoint::Ready, &snapshot, now, now), answer);
    }
}

#[test]
fn ready_says_at_once_what_it_knows() {
    for state in State::ALL {
        let (mut snapshot, now) = snapshot(state);
        snapshot.admin.ready = Some((now - SECOND / 2, Ok(Readiness::Live)));
        let expected = match state {
            State::Waiting => says(503, "waiting for certificates: because"),
            State::Restarting => says(503, "envoy is being restarted: because"),
            State::Gone => says(503, "envoy is gone"),
            State::Held => says(503, "HELD"),
            State::Draining | State::Drained | State::Stopping => says(503, "DRAINING"),
            State::Starting | State::Live | State::Delaying => says(200, "LIVE"),
        };
        assert_eq!(
            ask(Endpoint::Ready, &snapshot, now, now),
            expected,
            "{state:?}"
        );
    }
    let (mut snapshot, now) = snapshot(State::Live);
    snapshot.admin.ready = Some((now, Ok(Readiness::Initializing)));
    let expected = says(503, "INITIALIZING");
    assert_eq!(ask(Endpoint::Ready, &snapshot, now, now), expected);
    snapshot.admin.ready = Some((now, Err("connection refused".into())));
    let expected = says(503, "UNREACHABLE: connection refused");
    assert_eq!(ask(Endpoint::Ready, &snapshot, now, now), expected);
}

#[test]
fn ready_waits_for_an_answer_that_is_fresh_and_gives_up_after_900_ms() {
    let (mut snapshot, asked) = snapshot(State::Live);
    let until = asked + SECOND * 9 / 10;
    let later = EndpointAnswer::Later(Some(until));
    let lost = says(503, "UNREACHABLE: envoy's admin interface does not answer");
    let just_before = until - SECOND / 1_000;

    assert_eq!(ask(Endpoint::Ready, &snapshot, asked, asked), later);
    snapshot.admin.ready = Some((asked - SECOND, Ok(Readiness::Live)));
    assert_eq!(ask(Endpoint::Ready, &snapshot, asked, asked), later);
    assert_eq!(ask(Endpoint::Ready, &snapshot, asked, just_before), later);
    assert_eq!(ask(Endpoint::Ready, &snapshot, asked, until), lost);

    // Asked for somebody else shortly before this request came, and answered after.
    snapshot.admin.ready = Some((asked - SECOND / 20, Ok(Readiness::Live)));
    let expected = says(200, "LIVE");
    assert_eq!(
        ask(Endpoint::Ready, &snapshot, asked, just_before),
        expected
    );
}

#[test]
fn what_the_last_envoy_said_is_no_answer_of_this_one() {
    let (mut snapshot, now) = snapshot(State::Starting);
    snapshot.admin.ready = Some((now - SECOND / 2, Ok(Readiness::Live)));
    snapshot.envoy = Some(EnvoyStatus {
        pid: 3,
        version: None,
        started: now - SECOND / 4,
    });
    assert!(matches!(
        ask(Endpoint::Ready, &snapshot, now, now),
        EndpointAnswer::Later(_)
    ));
}

#[test]
fn shutdown_is_answered_once_the_drain_is_over_or_envoy_gone() {
    for state in State::ALL {
        let (mut snapshot, now) = snapshot(state);
        let expected = match state {
            State::Gone => says(200, "OK"),
            _ => EndpointAnswer::Later(None),
        };
        assert_eq!(
            ask(Endpoint::Shutdown, &snapshot, now, now),
            expected,
            "{state:?}"
        );
        snapshot.drain = Some(testing::drain(None, now));
        assert_eq!(
            ask(Endpoint::Shutdown, &snapshot, now, now),
            expected,
            "{state:?}"
        );
        for is_cut in [true, false] {
            if let Some(drain) = &mut snapshot.drain {
                drain.ended = Some(testing::drain_end(now, Outcome::Deadline, is_cut));
            }
            let EndpointAnswer::Now(reply) = ask(Endpoint::Shutdown, &snapshot, now, now) else {
                panic!("{state:?}");
            };
            assert_eq!((reply.status, reply.body.as_str()), (200, "OK"));
            let sent = String::from_utf8(reply.into_bytes(false)).unwrap();
            assert!(sent.contains("\r\nDrain-Result: deadline\r\n"), "{sent}");
            let clean = format!("\r\nDrain-Clean: {}\r\n", !is_cut);
            assert!(sent.contains(&clean), "{sent}");
        }
    }
}

#[test]
fn status_and_metrics_say_what_they_are() {
    let (snapshot, now) = snapshot(State::Live);
    for (endpoint, content_type, start) in [
        (Endpoint::Status(When::Fresh), "application/json", "{"),
        (
            Endpoint::Metrics,
            "text/plain; version=0.0.4; charset=utf-8",
            "# HELP",
        ),
    ] {
        match ask(endpoint, &snapshot, now, now) {
            EndpointAnswer::Now(reply) => {
                assert_eq!((reply.status, reply.content_type), (200, content_type));
                assert!(reply.body.starts_with(start));
            }
            later => panic!("{later:?}"),
        }
    }
}

#[test]
fn figures_that_are_old_are_waited_for_unless_the_last_will_do() {
    let (mut snapshot, now) = snapshot(State::Live);
    snapshot.admin.answered = Some(now);
    let waits = |endpoint, snapshot: &Snapshot, now| {
        matches!(ask(endpoint, snapshot, now, now), EndpointAnswer::Later(_))
    };
    let status = Endpoint::Status(When::Fresh);
    assert!(waits(status, &snapshot, now) && waits(Endpoint::Metrics, &snapshot, now));
    assert!(!waits(Endpoint::Status(When::Now), &snapshot, now));
    snapshot.load_at = Some(now);
    assert!(!waits(status, &snapshot, now));
    assert!(waits(status, &snapshot, now + READY_FRESH));
}
