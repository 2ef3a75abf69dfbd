//! Reloads by hot restart, on a real Envoy.

mod certificates;
mod container;
mod degraded;
mod follow;
mod hold;
mod http3;
mod kept;
mod kills;
mod refusals;
mod rig;
mod strangers;
#[path = "../support/mod.rs"]
mod support;

use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use rig::{OPTIONS, Rig};
use support::clients::{HttpConnection, SlowRequest, TcpSession};
use support::envoy_config::{Admin, EnvoyConfig};
use support::http2::Http2Client;
use support::load::Load;
use support::scene;
use support::watch::Watch;
use support::{PATIENCE, wait_for, wait_for_some};

/// Puts a route for `path` before the others.
fn add_route(config: &EnvoyConfig, path: &str) {
    config.replace(
        "routes: [",
        &format!("routes: [{{ match: {{ path: {path} }}, direct_response: {{ status: 418 }} }}, "),
    );
}

/// Runs it with each, which has an Envoy of its own and waits for most of its time.
fn two_at_a_time<T: Send>(items: impl IntoIterator<Item = T>, run: impl Fn(T) + Sync) {
    let items = Mutex::new(items.into_iter().collect::<Vec<_>>());
    // Not in the loop's head, where the lock would be held for as long as its body runs.
    let next = || items.lock().unwrap().pop();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(item) = next() {
                    run(item);
                }
            });
        }
    });
}

#[test]
fn twenty_reloads_under_load_fail_nothing() {
    let (upstream, config) = scene::of(Admin::Unix);
    // Each generation but the last is waited for until its two seconds are over.
    let mut rig = Rig::with_times(&OPTIONS, config, upstream, ["1", "2"]);
    let memory = rig.memory();
    let http = rig.config.http;
    let load = Load::start(vec![(http, rig.drainit.health.clone())], 8, 4);
    let client = Http2Client::start(http);
    let http2 = Load::start(vec![(client.address, rig.drainit.health.clone())], 4, 4);
    let ready = Watch::ready(&rig.drainit.health);
    let connections = Watch::connections(http);
    for number in 1..=20 {
        rig.wait_alone();
        let slow = [http, client.address]
            .map(|address| SlowRequest::start(address, Duration::from_secs(1)));
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
        for slow in slow {
            assert_eq!(slow.status(), 200);
        }
        session.echo().expect("a session of the old generation");
        assert!(rig.drainit.get("/ready").0 == 200);
    }
    let (ready, connections) = (ready.finish(), connections.finish());
    for (load, version) in [(load, "HTTP/1.1"), (http2, "HTTP/2")] {
        let (answered, failures) = load.finish();
        println!("{answered} requests of {version}; failed: {failures:?}");
        assert!(answered > 1_000, "{version}");
        assert_eq!(failures, Vec::<String>::new(), "{version}");
    }
    assert!(client.connections() > 20, "one to each generation");
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
fn what_an_old_generations_time_ends_in_a_drain_is_cut_and_what_was_answered_before_is_not() {
    two_at_a_time([true, false], |is_cut| {
        let mut rig = Rig::start();
        let time = Duration::from_millis(if is_cut { 20_000 } else { 2_000 });
        let slow = SlowRequest::start(rig.config.http, time);
        rig.upstream.wait_in_flight(1);
        let session = TcpSession::open(rig.config.tcp);
        rig.reload_well();
        rig.drainit.signal(Signal::SIGTERM);
        if is_cut {
            assert_ne!(slow.finish().map_or(0, |answer| answer.status), 200);
        } else {
            drop(session);
            assert_eq!(slow.status(), 200);
        }
        assert_eq!(rig.drainit.wait_exit(PATIENCE), 0);
        if is_cut {
            let verdict = rig.drainit.wait_log("; exit code 0");
            for part in [
                "CUT after",
                "an old generation of envoy ended with 2 connections open",
            ] {
                assert!(verdict.contains(part), "{verdict}");
            }
        } else {
            let verdict = rig.drainit.wait_log("drained after");
            assert!(!verdict.contains("old generation"), "{verdict}");
        }
    });
}

#[test]
fn what_the_newest_hides_is_waited_for_beside_an_old_generation_with_nothing_left() {
    two_at_a_time([support::envoy(), support::other_envoy()], |program| {
        let (upstream, config) = scene::of(Admin::Unix);
        let hidden = config.tcp.to_string().replace(':', "_");
        config.prepend(&format!(
            "stats_config: {{ stats_matcher: {{ exclusion_list: {{ patterns: \
             [{{ prefix: 'listener.{hidden}.' }}] }} }} }}\nstats_flush_interval: 0.5s\n"
        ));
        let admin = config.admin.clone().unwrap();
        let mut rig = Rig::build(
            &[],
            program,
            &["--hot-restart"],
            config,
            upstream,
            ["1", "60"],
        );
        rig.reload_well();
        let mut session = TcpSession::open(rig.config.tcp);
        let uptime = || {
            rig.drainit.get("/metrics");
            let stats = admin.request("GET", "/stats?filter=server.uptime", PATIENCE);
            stats.unwrap().body
        };
        for _ in 0..2 {
            let before = uptime();
            wait_for("a flush", PATIENCE, || uptime() != before);
        }
        rig.drainit.signal(Signal::SIGTERM);
        wait_for("a second of the drain", PATIENCE, || {
            rig.status()["drain"]["elapsed_seconds"].as_f64() > Some(1.0)
        });
        session.echo().expect("the session is not cut");
        drop(session);
        assert_eq!(rig.drainit.wait_exit(PATIENCE), 0);
        rig.drainit.wait_log("drained after");
    });
}

#[test]
fn a_sigterm_while_a_generation_rises_loses_nothing() {
    two_at_a_time([0, 20, 40, 60, 80, 100, 150], |moment| {
        let mut rig = Rig::start();
        let old = rig.newest();
        let slow = SlowRequest::start(rig.config.http, Duration::from_secs(1));
        rig.upstream.wait_in_flight(1);
        rig.drainit.signal(Signal::SIGHUP);
        rig.wait_two(old);
        thread::sleep(Duration::from_millis(moment));
        rig.drainit.signal(Signal::SIGTERM);
        assert_eq!(slow.status(), 200, "{moment} ms");
        let code = rig.drainit.wait_exit(Duration::from_secs(13));
        println!("SIGTERM {moment} ms after the spawn: exit code {code}");
        assert_eq!(code, 0, "{moment} ms");
    });
}

#[test]
fn another_minor_takes_over() {
    let rig = Rig::start();
    let version = || {
        let version = rig.status()["envoy"]["version"].as_str()?.to_owned();
        Some(version)
    };
    let before = wait_for_some("a version", PATIENCE, version);
    let connections = Watch::connections(rig.config.http);
    let slow = SlowRequest::start(rig.config.http, Duration::from_secs(1));
    rig.upstream.wait_in_flight(1);
    rig.replace_program(&support::other_envoy());
    rig.reload_well();
    assert_eq!(slow.status(), 200);
    wait_for("the other version", PATIENCE, || {
        version().is_some_and(|now| now != before)
    });
    rig.replace_program(&support::envoy());
    rig.reload_well();
    wait_for("the version from before", PATIENCE, || {
        version().as_ref() == Some(&before)
    });
    assert_eq!(connections.finish().failures, Vec::<String>::new());
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

#[test]
fn an_envoy_that_loses_datagrams_by_a_hot_restart_is_warned_of_before_it() {
    const LOSES: &str = "loses all datagrams to its UDP listeners";
    for program in [support::other_envoy(), support::envoy()] {
        let rig = Rig::start();
        rig.replace_program(&program);
        // From the version of the one to the other, and to itself.
        rig.reload_well();
        wait_for("the version", PATIENCE, || {
            rig.status()["envoy"]["version"].is_string()
        });
        let version = rig.status()["envoy"]["version"].to_string();
        let minor = version.split('.').nth(1).unwrap().parse::<u32>().unwrap();
        let loses = minor < 40;
        let said = rig.reload_well();
        let log = rig.drainit.log.lines();
        let at = |text: &str| log.iter().rposition(|line| line.contains(text));
        assert_eq!(said.contains(LOSES), loses, "{said}");
        assert_eq!(at(LOSES).is_some(), loses, "{log:#?}");
        if loses {
            assert!(at(LOSES) < at("envoy started"), "{log:#?}");
        }
    }
}
