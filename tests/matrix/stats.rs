//! Statistics that are not there, and more of them than one wants to read.

use std::fmt::Write;
use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::clients::{HttpConnection, SlowRequest, TcpSession};
use crate::support::drainit::Drainit;
use crate::support::envoy_config::{Admin, EnvoyConfig};
use crate::support::scene;
use crate::support::upstream::Upstream;
use crate::support::{PATIENCE, wait_for};
use crate::terminate_within;

fn with_matcher(matcher: &str, upstream: &Upstream) -> EnvoyConfig {
    let config = EnvoyConfig::new(Admin::Unix, upstream);
    config.prepend(&format!("stats_config: {{ stats_matcher: {matcher} }}\n"));
    config
}

/// Matchers after which an Envoy with open connections looks like one without.
const HIDING: [&str; 3] = [
    "{ exclusion_list: { patterns: [{ prefix: 'listener.' }] } }",
    "{ inclusion_list: { patterns: [{ prefix: 'server.' }, { prefix: 'cluster.' }] } }",
    "{ reject_all: true }",
];

#[test]
fn a_matcher_that_hides_the_listeners_is_not_taken_for_an_idle_envoy() {
    const DEADLINE: Duration = Duration::from_secs(3);
    let upstream = Upstream::start();
    std::thread::scope(|scope| {
        for matcher in HIDING {
            let upstream = &upstream;
            scope.spawn(move || {
                let config = with_matcher(matcher, upstream);
                let mut drainit = Drainit::ready(&["--drain-timeout", "3s"], &config);
                let slow = SlowRequest::start(config.http, Duration::from_secs(2));
                let _session = TcpSession::open(config.tcp);
                terminate_within(&mut drainit, DEADLINE, DEADLINE, 0);
                assert_eq!(slow.status(), 200, "{matcher}");
                drainit.wait_log("stats_matcher");
                drainit.wait_log("CUT by the deadline");
            });
        }
    });
}

#[test]
fn a_matcher_that_hides_the_requests_leaves_them_their_time() {
    let upstream = Upstream::start();
    let config = with_matcher(
        "{ exclusion_list: { patterns: [{ prefix: 'http.' }] } }",
        &upstream,
    );
    let options = ["--settle", "500ms", "--drain-timeout", "60s"];
    let mut drainit = Drainit::ready(&options, &config);
    scene::a_request_is_waited_for(&mut drainit, &config, &upstream);
}

fn peak_memory(drainit: &Drainit) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", drainit.pid())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn ten_thousand_clusters_are_read_past() {
    const CLUSTERS: usize = 10_000;
    let (_upstream, config) = scene::of(Admin::Unix);
    let mut clusters = String::from("  clusters:\n");
    for number in 0..CLUSTERS {
        writeln!(
            clusters,
            "  - {{ name: many{number}, load_assignment: {{ cluster_name: many{number}, endpoints: [{{ \
             lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, \
             port_value: 9 }} }} }} }}] }}] }} }}"
        )
        .unwrap();
    }
    config.replace("  clusters:\n", &clusters);
    // It takes more than a second to take itself apart.
    let options = ["--drain-timeout", "60s", "--kill-timeout", "20s"];
    let mut drainit = Drainit::envoy(&options, &config);
    wait_for("so many clusters", PATIENCE * 5, || {
        let answer = drainit.request("GET", "/ready", PATIENCE);
        answer.is_ok_and(|(status, _)| status == 200)
    });
    let session = TcpSession::open(config.tcp);
    let idle = HttpConnection::idle(config.http);
    drainit.signal(Signal::SIGTERM);
    drainit.wait_log("draining: 2 of 2 connections left");
    drop((session, idle));
    // It is asked often enough to notice in time, and of the page only what counts is kept.
    wait_for("the end of the drain", PATIENCE, || {
        drainit.log.find("drained after").is_some() || {
            let peak = peak_memory(&drainit);
            assert!(peak < 8 << 10, "{peak} kB");
            false
        }
    });
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
}
