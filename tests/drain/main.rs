//! The drain, on a real Envoy: what it waits for, what it does not, and that nothing is lost.

mod arrivals;
mod sessions;
mod silence;
#[path = "../support/mod.rs"]
mod support;
mod witnesses;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use support::access_logs::AccessLogs;
use support::clients::{HttpConnection, SlowRequest, TcpSession, Tunnel, UdpSession, WebSocket};
use support::drainit::{Drainit, Setting, run};
use support::envoy_config::{Admin, EnvoyConfig};
use support::load::Load;
use support::scene;
use support::upstream::Upstream;
use support::{PATIENCE, holds_for, wait_for};

/// Longer than the settle time of the tests that use it: what holds the drain up so long is
/// counted, not merely waited out.
const WELL_BEYOND_SETTLE: Duration = Duration::from_millis(1500);
const SHORT_SETTLE: [&str; 4] = ["--settle", "500ms", "--drain-timeout", "60s"];

/// On both versions at the same time.
fn each_envoy(test: impl Fn(PathBuf) + Sync) {
    thread::scope(|scope| {
        for envoy in [support::envoy(), support::other_envoy()] {
            scope.spawn(|| test(envoy));
        }
    });
}

fn a_request_in_flight_at_sigterm_gets_its_answer(admin: Admin) {
    let (upstream, config) = scene::of(admin);
    let mut drainit = Drainit::ready(&[], &config);
    let slow = SlowRequest::start(config.http, Duration::from_secs(3));
    upstream.wait_in_flight(1);
    drainit.signal(Signal::SIGTERM);
    drainit.wait_unready();
    assert_eq!(drainit.get("/healthz").0, 200);
    assert_eq!(slow.status(), 200);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    drainit.wait_log("drained");
}

#[test]
fn a_request_in_flight_at_sigterm_gets_its_answer_with_the_admin_on_a_socket() {
    a_request_in_flight_at_sigterm_gets_its_answer(Admin::Unix);
}

#[test]
fn a_request_in_flight_at_sigterm_gets_its_answer_with_the_admin_on_tcp() {
    a_request_in_flight_at_sigterm_gets_its_answer(Admin::Tcp);
}

#[test]
fn nothing_is_lost_while_one_of_two_instances_goes_again_and_again() {
    let upstream = Upstream::start();
    let configs = [Admin::Unix, Admin::Tcp].map(|admin| EnvoyConfig::new(admin, &upstream));
    // The balancer looks every 20 ms: a real one is slower, and this is the option for it.
    let start = |config| Drainit::ready(&["--min-drain", "1s"], config);
    let mut instances = [start(&configs[0]), start(&configs[1])];
    let route = |instances: &[Drainit; 2]| {
        let pairs = configs.iter().zip(instances);
        pairs
            .map(|(config, drainit)| (config.http, drainit.health.clone()))
            .collect::<Vec<_>>()
    };
    let load = Load::start(route(&instances), 20, 5);
    for round in 0..6 {
        load.wait_answered(500);
        let goes = round % 2;
        instances[goes].signal(Signal::SIGTERM);
        assert_eq!(instances[goes].wait_exit(PATIENCE * 2), 0);
        instances[goes] = start(&configs[goes]);
        load.route_to(route(&instances));
    }
    load.wait_answered(500);
    let (answered, failures) = load.finish();
    assert!(
        failures.is_empty(),
        "{} failed: {failures:?}",
        failures.len()
    );
    assert!(answered > 3000, "{answered}");
}

#[test]
fn the_log_says_who_was_cut_and_since_when_they_were_silent() {
    let (_upstream, config, mut drainit) = scene::ready(&["--drain-timeout", "2s"]);
    let session = TcpSession::open(config.tcp);
    drainit.signal(Signal::SIGTERM);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    let verdict = drainit.wait_log("CUT by the deadline after 2.0 s");
    let client = format!("tcp: {}, silent ", session.address());
    let (_, cut) = verdict.split_once("who was cut: ").expect(&verdict);
    assert!(cut.contains(&client), "{verdict}");
}

#[test]
fn idle_connections_alone_are_gone_well_before_the_deadline() {
    let (_upstream, config, mut drainit) = scene::ready(&[]);
    let idle: Vec<_> = (0..5).map(|_| HttpConnection::idle(config.http)).collect();
    let start = Instant::now();
    drainit.signal(Signal::SIGTERM);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
    assert!(idle.iter().all(HttpConnection::is_closed));
    drainit.wait_log("idle");
}

#[test]
fn connections_on_excluded_listeners_hold_nothing_up() {
    let (_upstream, config) = scene::of(Admin::Unix);
    let tcp = config.tcp.to_string();
    let mut drainit = Drainit::ready(
        &[
            "--exclude-listener",
            EnvoyConfig::METRICS,
            "--exclude-listener",
            &tcp,
            "--settle",
            "0",
            "--drain-timeout",
            "60s",
        ],
        &config,
    );
    let _prober = HttpConnection::idle(config.metrics);
    let _session = TcpSession::open(config.tcp);
    drainit.signal(Signal::SIGTERM);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    drainit.wait_log("drained");
}

#[test]
fn so_many_open_connections_count_as_none() {
    let (_upstream, config) = scene::of(Admin::Unix);
    let options = ["--open-connections", "1", "--drain-timeout", "60s"];
    let mut drainit = Drainit::ready(&options, &config);
    let _session = TcpSession::open(config.tcp);
    // It is cut all the same, and everybody who tells of the drain tells that.
    let listen = format!("unix:{}", drainit.health.text());
    let (code, out, _) = run(&["shutdown", "--listen", &listen]);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("\nCUT after "), "{out}");
    assert!(out.contains(": as --open-connections allows"), "{out}");
    let status = drainit.get("/status").1;
    assert!(status.contains("\"clean\":false"), "{status}");
    let metrics = drainit.get("/metrics").1;
    let cut = "\ndrainit_drains_total{result=\"cut\"} 1\n";
    assert!(metrics.contains(cut), "{metrics}");
    drainit.signal(Signal::SIGTERM);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    let over = drainit.wait_log("; who was cut: ");
    assert!(over.contains("(cut: ") && over.contains("WARN"), "{over}");
    assert!(over.contains("drained after"), "{over}");
}

#[test]
fn what_does_not_end_is_cut_at_the_deadline() {
    let (_upstream, config, mut drainit) = scene::ready(&["--drain-timeout", "2s"]);
    let session = TcpSession::open(config.tcp);
    let start = Instant::now();
    drainit.signal(Signal::SIGTERM);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    assert!(
        start.elapsed() >= Duration::from_millis(1900),
        "{:?}",
        start.elapsed()
    );
    assert!(session.is_closed());
    drainit.wait_log("deadline");
}

#[test]
fn it_stays_ready_for_the_delay() {
    let (_upstream, config, mut drainit) = scene::ready(&["--drain-delay", "2s"]);
    let mut connection = HttpConnection::idle(config.http);
    drainit.signal(Signal::SIGTERM);
    holds_for("readiness and keep-alive", Duration::from_secs(1), || {
        let kept = connection.get("/fast").is_ok_and(|answer| !answer.closes());
        kept && drainit.get("/ready").0 == 200
    });
    drainit.wait_unready();
    drop(connection);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
}

#[test]
fn with_nothing_to_wait_for_it_drains_for_the_least_time_asked() {
    let (_upstream, _config, mut drainit) = scene::ready(&["--min-drain", "1s"]);
    let start = Instant::now();
    drainit.signal(Signal::SIGTERM);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    assert!(
        start.elapsed() >= Duration::from_millis(950),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn usr2_drains_and_stays_until_sigterm() {
    let (upstream, config, mut drainit) = scene::ready(&[]);
    let slow = SlowRequest::start(config.http, Duration::from_secs(1));
    upstream.wait_in_flight(1);
    drainit.signal(Signal::SIGUSR2);
    drainit.wait_unready();
    assert_eq!(slow.status(), 200);
    drainit.wait_log("drained");
    holds_for("the drained Envoy", Duration::from_millis(500), || {
        !drainit.has_exited() && drainit.get("/healthz").0 == 200
    });
    assert_eq!(drainit.get("/ready").0, 503);
    // The drain is over: what has come since is not waited for.
    let _late = TcpSession::open(config.tcp);
    drainit.signal(Signal::SIGTERM);
    assert_eq!(drainit.wait_exit(Duration::from_secs(5)), 0);
}

#[test]
fn shutdown_blocks_until_drained_and_later_callers_join() {
    let (_upstream, config, mut drainit) = scene::ready(&[]);
    let mut session = TcpSession::open(config.tcp);
    let health = drainit.health.clone();
    let callers = ["GET", "POST"].map(|method| {
        let health = health.clone();
        thread::spawn(move || health.request(method, "/shutdown", PATIENCE * 2).unwrap())
    });
    drainit.wait_unready();
    holds_for("the callers' wait", WELL_BEYOND_SETTLE, || {
        session.echo().is_ok() && !callers.iter().any(thread::JoinHandle::is_finished)
    });
    drop(session);
    for caller in callers {
        let answer = caller.join().unwrap();
        assert_eq!((answer.status, answer.body.trim()), (200, "OK"));
    }
    drainit.signal(Signal::SIGTERM);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
}

#[test]
fn a_caller_of_shutdown_that_hangs_up_changes_nothing() {
    let (_upstream, config, mut drainit) = scene::ready(&[]);
    let session = TcpSession::open(config.tcp);
    let impatient = Duration::from_millis(300);
    assert!(drainit.request("GET", "/shutdown", impatient).is_err());
    drainit.wait_unready();
    drop(session);
    drainit.wait_log("drained");
    drainit.signal(Signal::SIGTERM);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
}

#[test]
fn a_sigterm_joins_the_drain_that_shutdown_began() {
    let (_upstream, config, mut drainit) = scene::ready(&SHORT_SETTLE);
    let mut session = TcpSession::open(config.tcp);
    drainit.signal(Signal::SIGUSR2);
    drainit.wait_unready();
    drainit.signal(Signal::SIGTERM);
    holds_for("the TCP session", WELL_BEYOND_SETTLE, || {
        session.echo().is_ok()
    });
    drop(session);
    wait_for("the end", PATIENCE, || drainit.has_exited());
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
}
