//! An admin interface that fails, in every way it can: an error is never a zero, no step is lost
//! or done twice, and the deadline holds.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use support::drainit::Drainit;
use support::fake_admin::{Answer, Call, FakeAdmin};
use support::fake_envoy::{self, Model, SharedModel};
use support::{PATIENCE, holds_for, wait_for};

const STATS: &str = "GET /stats";

/// Whether this asks what is in flight: other questions to `/stats` come once in a while.
fn is_poll(call: &Call) -> bool {
    call.name() == STATS && call.target.contains("type=Gauges")
}

/// When such questions came.
fn polls(admin: &FakeAdmin) -> Vec<Instant> {
    let calls = admin.calls().into_iter();
    calls.filter(is_poll).map(|call| call.at).collect()
}
const FAIL: &str = "POST /healthcheck/fail";
const GRACEFUL: &str = "/drain_listeners?graceful&skip_exit";

/// A model with one TCP session, which holds a drain until it goes.
fn held() -> SharedModel {
    SharedModel::new(Model {
        tcp: 1,
        ..Model::default()
    })
}

/// A model of an Envoy that is not live yet.
fn initializing() -> SharedModel {
    SharedModel::new(Model {
        initializing: true,
        ..Model::default()
    })
}

/// An interface that does this to its first `times` requests of a name, and answers by the model
/// otherwise.
fn faulty(model: &SharedModel, name: &'static str, times: usize, fault: Answer) -> FakeAdmin {
    let model = model.clone();
    let seen = AtomicUsize::new(0);
    let script = move |call: &Call| {
        if call.name() == name && seen.fetch_add(1, Ordering::SeqCst) < times {
            return fault.clone();
        }
        model.answer(call)
    };
    match fault_needs_tcp(name) {
        true => FakeAdmin::tcp(script),
        false => FakeAdmin::unix(script),
    }
}

/// Waits until `drainit` has asked Envoy how it is: by itself, or because it was asked.
fn wait_asked(drainit: &Drainit, admin: &FakeAdmin) {
    wait_for("a question for readiness", PATIENCE, || {
        let _ = drainit.request("GET", "/ready", PATIENCE);
        !admin.times("GET /ready").is_empty()
    });
}

/// Half of the faults run over TCP: a reset is one only there.
fn fault_needs_tcp(name: &str) -> bool {
    name == STATS
}

/// Everything that is no answer, and everything that is one and must not be taken for zero.
fn faults() -> Vec<(&'static str, Answer)> {
    let zero = SharedModel::default().stats();
    let without_sentinel = zero.replace("server.live: 1\n", "");
    let without_listeners = "http.admin.downstream_rq_active: 1\nserver.live: 1\n".into();
    vec![
        ("a hang", Answer::Hang),
        (
            "a slow drip",
            Answer::Drip(Duration::from_millis(400), zero.clone()),
        ),
        ("a reset", Answer::Reset),
        ("garbage", Answer::Garbage),
        ("10 MB", Answer::Huge(10 << 20)),
        ("an empty body", Answer::Empty),
        ("a close", Answer::Close),
        ("a cut body", Answer::Cut(zero.clone())),
        ("a body without server.live", Answer::Ok(without_sentinel)),
        ("a body without listeners", Answer::Ok(without_listeners)),
        ("a 403 with zeros", Answer::Status(403, zero.clone())),
        ("a 404", Answer::Status(404, String::new())),
        ("a 500", Answer::Status(500, String::new())),
        ("a 503 with zeros", Answer::Status(503, zero)),
        (
            "a page",
            Answer::Ok("<html>server.live: maybe</html>".into()),
        ),
    ]
}

/// All faults at once, each on a thread of its own.
fn for_each_fault(test: impl Fn(&str, Answer) + Sync) {
    thread::scope(|scope| {
        for (name, fault) in faults() {
            scope.spawn(|| test(name, fault));
        }
    });
}

#[test]
fn the_steps_come_in_order_and_once() {
    let model = held();
    let admin = model.admin();
    let mut drainit = fake_envoy::start(&[], &admin.address);
    drainit.wait_ready();
    drainit.signal(Signal::SIGTERM);
    admin.wait_call(STATS, 3);
    model.change(|model| model.tcp = 0);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    drainit.wait_log("drained");

    let calls = admin.calls();
    let posts: Vec<_> = calls.iter().filter(|call| call.method == "POST").collect();
    assert_eq!(posts[0].target, "/healthcheck/fail");
    assert_eq!(posts[1].target, GRACEFUL);
    // Before the end it may stop accepting, and nothing else.
    assert!(
        posts[2..]
            .iter()
            .all(|call| call.target == "/drain_listeners"),
        "{posts:?}"
    );
    let poll = calls.iter().rfind(|call| is_poll(call)).unwrap();
    for part in ["usedonly", "type=Gauges", "filter=", "server%5C.live"] {
        assert!(
            poll.target.contains(part),
            "{part} is not in {}",
            poll.target
        );
    }
    assert!(poll.at > posts[1].at);
    assert!(
        !calls
            .iter()
            .any(|call| call.method == "GET" && call.target.contains("drain"))
    );
}

#[test]
fn an_error_is_never_a_zero() {
    for_each_fault(|name, fault| {
        let model = SharedModel::default();
        let admin = faulty(&model, STATS, usize::MAX, fault);
        let mut drainit = fake_envoy::start(&["--drain-timeout", "3s"], &admin.address);
        drainit.wait_ready();
        let start = Instant::now();
        drainit.signal(Signal::SIGTERM);
        assert_eq!(drainit.wait_exit(PATIENCE), 0, "{name}");
        let took = start.elapsed();
        assert!(
            took >= Duration::from_millis(2900),
            "{name} ended it after {took:?}"
        );
        assert!(!admin.times(STATS).is_empty(), "{name} was never met");
    });
}

#[test]
fn the_drain_goes_on_after_an_error() {
    for_each_fault(|name, fault| {
        let model = held();
        let admin = faulty(&model, STATS, 2, fault);
        let mut drainit = fake_envoy::start(&["--drain-timeout", "60s"], &admin.address);
        drainit.wait_ready();
        drainit.signal(Signal::SIGTERM);
        admin.wait_call(STATS, 4);
        assert!(!drainit.has_exited(), "{name} ended it");
        model.change(|model| model.tcp = 0);
        assert_eq!(drainit.wait_exit(PATIENCE), 0, "{name}");
        drainit.wait_log("drained");
    });
}

#[test]
fn the_health_failure_is_tried_again_until_it_holds() {
    // Some of the faults are a 200 that says nothing: what counts is that server.live shows it.
    for_each_fault(|name, fault| {
        let model = held();
        let admin = faulty(&model, FAIL, 2, fault.clone());
        let mut drainit = fake_envoy::start(&["--drain-timeout", "60s"], &admin.address);
        drainit.wait_ready();
        drainit.signal(Signal::SIGTERM);
        admin.wait_call(FAIL, 3);
        admin.wait_call("POST /drain_listeners", 1);
        model.change(|model| model.tcp = 0);
        assert_eq!(drainit.wait_exit(PATIENCE), 0, "{name}");
        drainit.wait_log("drained");
    });
}

#[test]
fn a_refused_health_failure_does_not_keep_the_drain_from_its_end() {
    let model = held();
    let forbidden = Answer::Status(403, "Forbidden".into());
    let admin = faulty(&model, FAIL, usize::MAX, forbidden);
    let mut drainit = fake_envoy::start(&["--drain-timeout", "60s"], &admin.address);
    drainit.wait_ready();
    drainit.signal(Signal::SIGTERM);
    admin.wait_call(STATS, 2);
    model.change(|model| model.tcp = 0);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
}

#[test]
fn a_refused_drain_sequence_does_not_keep_the_drain_from_its_end() {
    let model = held();
    let refused = Answer::Status(400, "skip_exit requires graceful".into());
    let admin = faulty(&model, "POST /drain_listeners", usize::MAX, refused);
    let mut drainit = fake_envoy::start(&["--drain-timeout", "60s"], &admin.address);
    drainit.wait_ready();
    drainit.signal(Signal::SIGTERM);
    admin.wait_call(STATS, 2);
    model.change(|model| model.tcp = 0);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    drainit.wait_log("drained");
}

#[test]
fn a_health_failure_that_somebody_reverted_is_posted_again() {
    let model = held();
    let admin = model.admin();
    let mut drainit = fake_envoy::start(&["--drain-timeout", "60s"], &admin.address);
    drainit.wait_ready();
    drainit.signal(Signal::SIGTERM);
    admin.wait_call(STATS, 2);
    model.change(|model| model.health_failed = false);
    admin.wait_call(FAIL, 2);
    let polls = admin.times(STATS).len();
    admin.wait_call(STATS, polls + 2);
    assert_eq!(admin.times(FAIL).len(), 2);
    model.change(|model| model.tcp = 0);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
}

#[test]
fn an_admin_that_is_gone_while_its_process_lives_is_bounded() {
    let admin = held().admin();
    let mut drainit = fake_envoy::start(&["--drain-timeout", "3s"], &admin.address);
    drainit.wait_ready();
    admin.refuse();
    let start = Instant::now();
    drainit.signal(Signal::SIGTERM);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    assert!(
        start.elapsed() >= Duration::from_millis(2900),
        "{:?}",
        start.elapsed()
    );
    drainit.wait_log("admin lost");
}

#[test]
fn an_envoy_that_was_never_live_has_nothing_to_drain() {
    let model = initializing();
    let admin = model.admin();
    let mut drainit = fake_envoy::start(&["--drain-timeout", "5m"], &admin.address);
    wait_asked(&drainit, &admin);
    assert_eq!(drainit.get("/ready").0, 503);
    drainit.signal(Signal::SIGTERM);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    drainit.wait_log("never live");
}

#[test]
fn a_child_that_ignores_sigterm_is_killed() {
    let admin = SharedModel::default().admin();
    let stubborn = fake_envoy::shell("trap '' TERM; while :; do sleep 1; done");
    let options = ["--kill-timeout", "500ms"];
    let mut drainit = fake_envoy::start_with(&options, &admin.address, &stubborn);
    drainit.wait_ready();
    drainit.signal(Signal::SIGTERM);
    assert_eq!(drainit.wait_exit(PATIENCE), 137);
}

#[test]
fn idle_connections_hold_nothing_up_but_one_request_does() {
    let model = SharedModel::new(Model {
        http: 3,
        requests: 1,
        ..Model::default()
    });
    let admin = model.admin();
    let options = ["--settle", "500ms", "--drain-timeout", "60s"];
    let mut drainit = fake_envoy::start(&options, &admin.address);
    drainit.wait_ready();
    drainit.signal(Signal::SIGTERM);
    holds_for("the drain", Duration::from_millis(1500), || {
        !drainit.has_exited()
    });
    model.change(|model| model.requests = 0);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    drainit.wait_log("idle");
}

#[test]
fn polls_of_an_admin_that_is_always_slow_are_two_seconds_apart() {
    const SLOW: Duration = Duration::from_millis(500);
    let model = held();
    let slow = model.clone();
    let admin = FakeAdmin::unix(move |call| match call.name() == STATS {
        true if is_poll(call) => Answer::Late(SLOW, slow.stats()),
        true => slow.answer(call),
        false => slow.answer(call),
    });
    let mut drainit = fake_envoy::start(&["--drain-timeout", "60s"], &admin.address);
    drainit.wait_ready();
    drainit.signal(Signal::SIGTERM);
    wait_for("polls", PATIENCE * 2, || polls(&admin).len() >= 6);
    let polls = polls(&admin);
    // What is dear three times in a row is dear, and 2 s apart at the most.
    let apart = polls[5] - polls[4];
    assert!(apart >= Duration::from_secs(2), "{apart:?}");
    // The end is not held up by the pace.
    drainit.signal(Signal::SIGTERM);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
}

#[test]
fn a_fast_admin_is_polled_at_the_check_interval() {
    let admin = held().admin();
    let options = ["--check-interval", "100ms", "--drain-timeout", "60s"];
    let drainit = fake_envoy::start(&options, &admin.address);
    drainit.wait_ready();
    drainit.signal(Signal::SIGTERM);
    wait_for("polls", PATIENCE, || polls(&admin).len() >= 10);
    let polls = polls(&admin);
    assert!(polls[9] - polls[0] >= Duration::from_millis(850));
}

#[test]
fn at_rest_the_admin_is_asked_no_more_than_once_a_second() {
    let admin = SharedModel::default().admin();
    let drainit = fake_envoy::start(&[], &admin.address);
    drainit.wait_ready();
    let before = admin.calls().len();
    holds_for("readiness", Duration::from_secs(3), || {
        ["/ready", "/healthz"]
            .iter()
            .all(|path| drainit.get(path).0 == 200)
    });
    let asked = admin.calls().len() - before;
    assert!(asked <= 4, "{asked} times in 3 s");
}

#[test]
fn an_envoy_that_answers_late_is_not_silent_and_a_drain_waits_for_no_such_answer() {
    const SLOW: Duration = Duration::from_millis(1_300);
    let model = SharedModel::default();
    let late = model.clone();
    let admin = FakeAdmin::unix(
        move |call| match (call.name().as_str(), late.answer(call)) {
            ("GET /ready" | "GET /listeners", Answer::Ok(body)) => Answer::Late(SLOW, body),
            (_, answer) => answer,
        },
    );
    let mut drainit = fake_envoy::start(&[], &admin.address);
    let asked = || admin.times("GET /ready").len();
    let probe = |times: usize| {
        wait_for("a question", PATIENCE, || {
            let _ = drainit.request("GET", "/ready", PATIENCE);
            asked() >= times
        });
    };
    probe(4);
    let metrics = drainit.get("/metrics").1;
    for line in [
        "drainit_state{state=\"live\"} 1",
        "drainit_admin_errors_total 0",
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
    admin.script(move |call| match call.name().as_str() {
        "GET /ready" => Answer::Hang,
        _ => model.answer(call),
    });
    probe(asked() + 1);
    let hangs = *admin.times("GET /ready").last().unwrap();
    drainit.signal(Signal::SIGTERM);
    admin.wait_call(FAIL, 1);
    let waited = admin.times(FAIL)[0] - hangs;
    assert!(waited < Duration::from_millis(2_500), "{waited:?}");
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
}

/// That look and every later one was lost until somebody asked for readiness again.
#[test]
fn a_scrape_while_readiness_is_asked_for_gets_its_figures() {
    const SLOW: Duration = Duration::from_millis(300);
    let model = SharedModel::default();
    let admin = FakeAdmin::unix(
        move |call| match (call.name().as_str(), model.answer(call)) {
            ("GET /ready", Answer::Ok(body)) => Answer::Late(SLOW, body),
            (_, answer) => answer,
        },
    );
    let drainit = fake_envoy::start(&[], &admin.address);
    drainit.wait_ready();
    // What came with the start is over.
    let _ = drainit.get("/metrics");
    thread::sleep(Duration::from_millis(1_100));
    let (asked, looks) = (admin.times("GET /ready").len(), polls(&admin).len());
    thread::scope(|scope| {
        let probe = scope.spawn(|| drainit.get("/ready").0);
        wait_for("a question", PATIENCE, || {
            admin.times("GET /ready").len() > asked
        });
        assert_eq!(drainit.get("/metrics").0, 200);
        assert_eq!(probe.join().unwrap(), 200);
    });
    assert!(polls(&admin).len() > looks, "nobody looked for the scrape");
}

#[test]
fn readiness_follows_the_admin() {
    let model = initializing();
    let admin = model.admin();
    let drainit = fake_envoy::start(&[], &admin.address);
    wait_asked(&drainit, &admin);
    let (status, why) = drainit.get("/ready");
    assert_eq!(status, 503);
    assert!(!why.trim().is_empty());
    assert_eq!(drainit.get("/healthz").0, 200);
    model.change(|model| model.initializing = false);
    drainit.wait_ready();
    assert_eq!(drainit.get("/ready").1.trim(), "LIVE");
}

#[test]
fn sixteen_waiters_get_their_answer_when_the_process_ends_next() {
    let model = held();
    let admin = model.admin();
    let mut drainit = fake_envoy::start(&["--drain-timeout", "60s"], &admin.address);
    drainit.wait_ready();
    let health = Arc::new(drainit.health.clone());
    let waiters: Vec<_> = (0..16)
        .map(|_| {
            let health = Arc::clone(&health);
            thread::spawn(move || health.request("GET", "/shutdown", PATIENCE * 2))
        })
        .collect();
    drainit.wait_unready();
    drainit.signal(Signal::SIGTERM);
    // All have been heard once the drain's own answers come in; none has been told a thing.
    admin.wait_call(STATS, 3);
    assert!(!waiters.iter().any(thread::JoinHandle::is_finished));
    model.change(|model| model.tcp = 0);
    for waiter in waiters {
        let answer = waiter.join().unwrap().expect("an answer");
        assert_eq!((answer.status, answer.body.trim()), (200, "OK"));
    }
    wait_for("the end", PATIENCE, || drainit.has_exited());
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
}
