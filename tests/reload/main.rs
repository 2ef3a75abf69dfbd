//! Reloads by hot restart, on a real Envoy.

mod degraded;
mod kills;
mod refusals;
mod rig;
#[path = "../support/mod.rs"]
mod support;

use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use rig::{Rig, Watch};
use support::clients::{HttpConnection, SlowRequest, TcpSession};
use support::envoy_config::EnvoyConfig;
use support::load::Load;
use support::{PATIENCE, wait_for};

/// Puts a route for `path` before the others.
fn add_route(config: &EnvoyConfig, path: &str) {
    config.replace(
        "routes: [",
        &format!("routes: [{{ match: {{ path: {path} }}, direct_response: {{ status: 418 }} }}, "),
    );
}

#[test]
fn twenty_reloads_under_load_fail_nothing() {
    let mut rig = Rig::start();
    let memory = rig.memory();
    let http = rig.config.http;
    let load = Load::start(vec![(http, rig.drainit.health.clone())], 8, 4);
    let ready = Watch::ready(&rig);
    let connections = Watch::connections(http);
    for number in 1..=20 {
        rig.wait_alone();
        let slow = SlowRequest::start(http, Duration::from_secs(2));
        let mut session = TcpSession::open(rig.config.tcp);
        let path = format!("/route-{number}");
        add_route(&rig.config, &path);
        rig.reload_well();
        let status = HttpConnection::open(http)
            .unwrap()
            .get(&path)
            .unwrap()
            .status;
        assert_eq!(status, 418, "the new route is served at once");
        assert_eq!(rig.epoch(), number);
        assert_eq!(slow.status(), 200);
        session.echo().expect("a session of the old generation");
        assert!(rig.drainit.get("/ready").0 == 200);
    }
    let (answered, failures) = load.finish();
    let (ready, connections) = (ready.finish(), connections.finish());
    println!(
        "{answered} requests, {} connections, {} looks at /ready; failed: {failures:?}",
        connections.looks, ready.looks
    );
    assert!(answered > 1_000);
    assert_eq!(failures, Vec::<String>::new());
    assert_eq!(connections.failures, Vec::<String>::new());
    assert_eq!(ready.failures, Vec::<String>::new());
    assert_eq!(
        rig.metric("drainit_hot_restarts_total{result=\"done\"}"),
        20
    );
    assert_eq!(rig.metric("drainit_envoy_epoch"), 20);
    rig.wait_alone();
    assert!(memory.exists());
    rig.drainit.signal(Signal::SIGTERM);
    assert_eq!(rig.drainit.wait_exit(PATIENCE), 0);
    assert!(!memory.exists(), "the shared memory is left behind");
}

#[test]
fn a_drain_waits_for_what_the_old_generation_has_in_flight() {
    let mut rig = Rig::start_with(&["--hot-restart", "--drain-timeout", "20s"], |_| {});
    // Within the old generation's time, and longer than the newest knows nothing of it.
    let slow = SlowRequest::start(rig.config.http, Duration::from_millis(2_500));
    rig.upstream.wait_in_flight(1);
    rig.reload_well();
    rig.drainit.signal(Signal::SIGTERM);
    assert_eq!(slow.status(), 200);
    assert_eq!(rig.drainit.wait_exit(PATIENCE), 0);
    rig.drainit.wait_log("drained after");
}

#[test]
fn a_sigterm_while_a_generation_rises_loses_nothing() {
    for moment in [0, 20, 40, 60, 80, 100, 150] {
        let mut rig = Rig::start();
        let old = rig.newest();
        let slow = SlowRequest::start(rig.config.http, Duration::from_secs(2));
        rig.upstream.wait_in_flight(1);
        rig.drainit.signal(Signal::SIGHUP);
        rig.wait_two(old);
        thread::sleep(Duration::from_millis(moment));
        rig.drainit.signal(Signal::SIGTERM);
        assert_eq!(slow.status(), 200, "{moment} ms");
        let code = rig.drainit.wait_exit(Duration::from_secs(13));
        println!("SIGTERM {moment} ms after the spawn: exit code {code}");
        assert_eq!(code, 0, "{moment} ms");
    }
}

#[test]
fn another_minor_takes_over() {
    let rig = Rig::start();
    let Some(other) = rig::other_envoy() else {
        println!("no other Envoy at hand");
        return;
    };
    let slow = SlowRequest::start(rig.config.http, Duration::from_secs(1));
    rig.upstream.wait_in_flight(1);
    rig.replace_program(&other);
    rig.reload_well();
    assert_eq!(slow.status(), 200);
    wait_for("the other version", PATIENCE, || {
        rig.status()["envoy"]["version"] == "1.36.4"
    });
    rig.replace_program(&support::envoy());
    rig.reload_well();
}

#[test]
fn logs_are_reopened_after_a_rise() {
    let rig = Rig::start();
    let old = rig.newest();
    rig.drainit.signal(Signal::SIGHUP);
    rig.wait_two(old);
    // A generation that rises has no handler yet, and would die of it.
    rig.drainit.signal(Signal::SIGUSR1);
    wait_for("generation 1", PATIENCE, || {
        rig.epoch() == 1 && rig.status()["reload"]["ok"] == true
    });
    rig.serves();
    assert_eq!(
        rig.metric("drainit_hot_restarts_total{result=\"failed\"}"),
        0
    );
}
