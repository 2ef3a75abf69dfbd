//! The HTTP contract, over real sockets.

mod hostile;
mod rig;

use std::io::Write;
use std::time::{Duration, Instant};

use drainit::drain::{Outcome, Readiness};
use drainit::status::State;
use nix::sys::resource::{Resource, getrlimit};
use rig::{Rig, answer, half_close, wait_for};

const LOOPBACK: [&str; 2] = ["127.0.0.0/8", "::1"];
/// As many callers may wait for a drain: half of a quarter of the descriptors, 256 at the most.
fn seats() -> usize {
    let (descriptors, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    usize::try_from(descriptors / 4).unwrap().min(512) / 2
}

#[test]
fn every_path_answers_to_get_and_to_head_alike() {
    let rig = Rig::start(&LOOPBACK);
    rig.observe(Ok(Readiness::Live));
    for (path, body) in [
        ("/healthz", Some("OK")),
        ("/healthz?verbose", Some("OK")),
        ("/ready", Some("LIVE")),
        ("/status", None),
        ("/metrics", None),
    ] {
        rig.observe(Ok(Readiness::Live));
        let get = rig.get(path);
        assert_eq!(get.status, 200, "{path}: {get:?}");
        if let Some(body) = body {
            assert_eq!(get.body, body);
        }
        assert_eq!(get.header("connection"), Some("close"));
        let length = get.body.len().to_string();
        assert_eq!(get.header("content-length"), Some(&*length));
        let head = rig.request("HEAD", path);
        assert_eq!((head.status, &*head.body), (200, ""));
        assert_eq!(head.header("content-type"), get.header("content-type"));
        // The ages in /status may have one digit more or less by now.
        if path != "/status" {
            assert_eq!(head.header("content-length"), get.header("content-length"));
        }
    }
    let status = rig.get("/status");
    let status: serde_json::Value = serde_json::from_str(&status.body).unwrap();
    assert_eq!(status["state"], "live");
    assert!(
        rig.get("/metrics")
            .body
            .contains("drainit_state{state=\"live\"} 1\n")
    );
}

#[test]
fn other_paths_are_404_and_other_methods_405() {
    let rig = Rig::start(&LOOPBACK);
    for path in ["/", "/healthz/", "/stats", "*", "/quitquitquit"] {
        assert_eq!(rig.get(path).status, 404, "{path}");
        assert_eq!(rig.request("DELETE", path).status, 404, "{path}");
    }
    for path in ["/healthz", "/ready", "/status", "/metrics"] {
        let answer = rig.request("POST", path);
        assert_eq!(answer.status, 405, "{path}");
        assert_eq!(answer.header("allow"), Some("GET, HEAD"));
    }
    // Whoever asks: a HEAD is what looks without a wish to change anything.
    for method in ["PUT", "DELETE", "HEAD"] {
        let answer = rig.request(method, "/shutdown");
        assert_eq!(answer.status, 405);
        assert_eq!(answer.header("allow"), Some("GET, POST"));
    }
    let mut stream = rig.connect_control();
    stream
        .write_all(b"HEAD /shutdown HTTP/1.1\r\n\r\n")
        .unwrap();
    assert_eq!(answer(stream).status, 405);
    assert!(rig.wishes.take().is_none());
}

#[test]
fn the_control_socket_serves_the_same() {
    let rig = Rig::start(&[]);
    let mut stream = rig.connect_control();
    stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(answer(stream).says(), (200, "OK"));
    rig.probe_event();
    let mut stream = rig.connect_control();
    stream
        .write_all(b"POST /shutdown HTTP/1.0\r\n\r\n")
        .unwrap();
    // The server is this very process: who asks is told by the user alone.
    let peer = rig.shutdown_event();
    assert!(peer.starts_with("a process of uid "), "{peer}");
    rig.drain(Some(Outcome::Drained));
    assert_eq!(answer(stream).says(), (200, "OK"));
}

#[test]
fn ready_waits_for_envoys_answer() {
    let rig = Rig::start(&LOOPBACK);
    for (observed, expected) in [
        (Ok(Readiness::Live), (200, "LIVE")),
        (Ok(Readiness::Initializing), (503, "INITIALIZING")),
        (
            Err("connection refused"),
            (503, "UNREACHABLE: connection refused"),
        ),
    ] {
        rig.board.update(|snapshot| snapshot.admin.ready = None);
        let asked = rig.ask("GET", "/ready");
        rig.probe_event();
        rig.observe(observed);
        assert_eq!(answer(asked).says(), expected);
    }
    rig.drain(None);
    assert_eq!(rig.get("/ready").says(), (503, "DRAINING"));
}

#[test]
fn ready_gives_up_before_the_kubelet_does() {
    let rig = Rig::start(&LOOPBACK);
    let expected = (503, "UNREACHABLE: envoy's admin interface does not answer");
    // The machine may have other work; the quickest of three tells what the server does.
    let took = (0..3).map(|_| {
        let start = Instant::now();
        assert_eq!(rig.get("/ready").says(), expected);
        start.elapsed()
    });
    let took = took.min().unwrap();
    assert!(took >= Duration::from_millis(900), "{took:?}");
    assert!(took < Duration::from_millis(1_000), "{took:?}");
}

#[test]
fn a_caller_of_ready_who_has_closed_their_half_is_answered() {
    let rig = Rig::start(&LOOPBACK);
    let asked = rig.ask("GET", "/ready");
    half_close(&asked);
    rig.probe_event();
    rig.observe(Ok(Readiness::Live));
    assert_eq!(answer(asked).says(), (200, "LIVE"));
}

#[test]
fn shutdown_from_outside_is_refused_and_does_nothing() {
    let rig = Rig::start(&["10.0.0.0/8", "::1"]);
    for request in [
        "GET /shutdown HTTP/1.1\r\n\r\n",
        "POST /shutdown HTTP/1.1\r\nX-Forwarded-For: 10.1.1.1\r\nForwarded: for=10.1.1.1\r\n\r\n",
    ] {
        let answer = rig.raw(request.as_bytes());
        assert_eq!(answer.status, 403);
        assert!(answer.body.contains("127.0.0.1"), "{answer:?}");
    }
    assert!(rig.wishes.take().is_none());
}

#[test]
fn no_web_page_shuts_down() {
    let rig = Rig::start(&LOOPBACK);
    for header in [
        "Origin: http://127.0.0.1:8090",
        "Origin: null",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: same-origin",
    ] {
        for method in ["GET", "POST"] {
            let request = format!("{method} /shutdown HTTP/1.1\r\n{header}\r\n\r\n");
            let refused = rig.raw(request.as_bytes());
            assert_eq!(refused.status, 403, "{header}: {refused:?}");
            let mut stream = rig.connect_control();
            stream.write_all(request.as_bytes()).unwrap();
            assert_eq!(answer(stream).status, 403, "{header}");
        }
    }
    assert!(rig.wishes.take().is_none());
    // An address that a person typed is that person's.
    let mut typed = rig.connect();
    typed
        .write_all(b"GET /shutdown HTTP/1.1\r\nSec-Fetch-Site: none\r\n\r\n")
        .unwrap();
    rig.shutdown_event();
    rig.drain(Some(Outcome::Drained));
    assert_eq!(answer(typed).status, 200);
}

#[test]
fn every_waiter_of_a_shutdown_is_answered_when_the_drain_is_over() {
    let rig = Rig::start(&LOOPBACK);
    let waiters: Vec<_> = (0..20)
        .map(|n| rig.ask(if n % 2 == 0 { "GET" } else { "POST" }, "/shutdown"))
        .collect();
    for _ in &waiters {
        assert_eq!(rig.shutdown_event(), "127.0.0.1");
    }
    rig.drain(None);
    assert_eq!(rig.get("/healthz").says(), (200, "OK"));
    rig.drain(Some(Outcome::Deadline));
    for waiter in waiters {
        assert_eq!(answer(waiter).says(), (200, "OK"));
    }
    // The drain is over: this one is told at once, and the supervisor hears of it too.
    assert_eq!(rig.get("/shutdown").says(), (200, "OK"));
    assert_eq!(rig.shutdown_event(), "127.0.0.1");
}

#[test]
fn every_waiter_of_a_shutdown_is_answered_when_envoy_is_gone() {
    let mut rig = Rig::start(&LOOPBACK);
    let waiters: Vec<_> = (0..seats()).map(|_| rig.ask("GET", "/shutdown")).collect();
    let last = rig.connect_control();
    (&last).write_all(b"GET /healthz HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(answer(last).status, 200);
    // Strangers who say nothing, and one who has closed, must not hold the end up.
    let strangers: Vec<_> = (0..20).map(|_| rig.connect()).collect();
    let took = std::thread::scope(|scope| {
        let answers: Vec<_> = waiters
            .into_iter()
            .map(|waiter| scope.spawn(|| answer(waiter)))
            .collect();
        let took = rig.end();
        for answer in answers {
            assert_eq!(answer.join().unwrap().says(), (200, "OK"));
        }
        took
    });
    assert!(took < Duration::from_millis(300), "{took:?}");
    drop(strangers);
}

#[test]
fn a_waiter_that_does_not_close_holds_the_end_up_for_300_ms_at_the_most() {
    let mut rig = Rig::start(&LOOPBACK);
    let waiter = rig.ask("GET", "/shutdown");
    rig.shutdown_event();
    let took = rig.end();
    assert!(took < Duration::from_millis(600), "{took:?}");
    assert_eq!(answer(waiter).says(), (200, "OK"));
}

#[test]
fn a_caller_of_shutdown_that_hangs_up_changes_nothing() {
    let rig = Rig::start(&LOOPBACK);
    let hung_up = rig.ask("GET", "/shutdown");
    let patient = rig.ask("GET", "/shutdown");
    let half_closed = rig.ask("GET", "/shutdown");
    half_close(&half_closed);
    for _ in 0..3 {
        rig.shutdown_event();
    }
    drop(hung_up);
    assert_eq!(rig.get("/healthz").says(), (200, "OK"));
    rig.drain(Some(Outcome::Drained));
    assert_eq!(answer(patient).says(), (200, "OK"));
    assert_eq!(answer(half_closed).says(), (200, "OK"));
}

#[test]
fn half_of_the_connections_may_wait_for_a_drain_and_no_stranger_takes_their_place() {
    let seats = seats();
    let rig = Rig::start(&LOOPBACK);
    let waiters: Vec<_> = (0..seats).map(|_| rig.ask("GET", "/shutdown")).collect();
    for _ in 0..seats {
        rig.shutdown_event();
    }
    let one_too_many = rig.get("/shutdown");
    assert_eq!(one_too_many.status, 503, "{one_too_many:?}");
    let strangers: Vec<_> = (0..2 * seats).map(|_| rig.connect()).collect();
    assert_eq!(rig.get("/healthz").says(), (200, "OK"));

    // Who hangs up makes room.
    let mut waiters = waiters;
    waiters.truncate(seats - 1);
    let mut seated = None;
    wait_for("a free seat", || {
        let asked = rig.ask("GET", "/shutdown");
        asked
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        let refused = asked.peek(&mut [0]).is_ok();
        asked.set_read_timeout(Some(rig::PATIENCE)).unwrap();
        seated = (!refused).then_some(asked);
        !refused
    });
    rig.drain(Some(Outcome::Idle));
    for waiter in waiters.into_iter().chain(seated) {
        assert_eq!(answer(waiter).says(), (200, "OK"));
    }
    drop(strangers);
}

/// How often the server woke up while nothing happened for a while.
fn wakeups_at_rest(rig: &Rig) -> u64 {
    while rig.wishes.take().is_some() {}
    let before = rig.sleeps();
    assert!(rig.wishes.wait(Duration::from_millis(500)).is_none());
    rig.sleeps() - before
}

#[test]
fn at_rest_it_sleeps_and_so_it_does_while_callers_wait() {
    let rig = Rig::start(&LOOPBACK);
    wait_for("rest", || wakeups_at_rest(&rig) == 0);

    let mut waiters = vec![rig.ask("GET", "/shutdown"), rig.ask("GET", "/shutdown")];
    waiters[0]
        .write_all(b"GET /pipelined HTTP/1.1\r\n\r\n")
        .unwrap();
    half_close(&waiters[1]);
    drop(rig.ask("GET", "/shutdown"));
    for _ in 0..3 {
        rig.shutdown_event();
    }
    wait_for("rest", || wakeups_at_rest(&rig) == 0);
    rig.drain(Some(Outcome::Drained));
    for waiter in waiters {
        assert_eq!(answer(waiter).says(), (200, "OK"));
    }
}

#[test]
fn it_can_be_started_again_on_the_same_sockets() {
    let mut rig = Rig::start(&LOOPBACK);
    for _ in 0..3 {
        assert_eq!(rig.get("/healthz").says(), (200, "OK"));
        rig.end();
        // Comes while nobody serves, and is answered by the next.
        let early = rig.ask("GET", "/healthz");
        rig.board.update(|snapshot| snapshot.state = State::Live);
        rig.serve(&LOOPBACK);
        assert_eq!(answer(early).says(), (200, "OK"));
    }
}

#[test]
fn what_comes_while_envoy_goes_is_still_answered() {
    let mut rig = Rig::start(&LOOPBACK);
    rig.end();
    let late = [rig.ask("GET", "/shutdown"), rig.ask("GET", "/shutdown")];
    let probe = rig.ask("GET", "/ready");
    rig.serve(&LOOPBACK);
    for caller in late {
        assert_eq!(answer(caller).says(), (200, "OK"));
    }
    assert_eq!(answer(probe).says(), (503, "envoy is gone"));
}
