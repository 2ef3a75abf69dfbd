//! The unit scripts/examples/envoy.service, and the Debian package, under the real systemd.

mod machine;
mod package;
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use machine::{ENVOY_UID, Machine};
use support::clients::{HttpConnection, SlowRequest};
use support::envoy_config::EnvoyConfig;
use support::{PATIENCE, holds_for, wait_for};

const SECOND: Duration = Duration::from_secs(1);

/// Has Envoy wait 3 s for an xDS server that does not answer, before it is live.
fn wait_for_nobody(config: &EnvoyConfig) {
    config.prepend(
        "node: { id: edge, cluster: edge }
dynamic_resources:
  lds_config:
    resource_api_version: V3
    initial_fetch_timeout: 3s
    api_config_source:
      api_type: GRPC
      transport_api_version: V3
      grpc_services: [{ envoy_grpc: { cluster_name: tcp } }]
",
    );
}

#[test]
fn the_unit_is_started_when_envoy_is_live_and_tells_how_it_is() {
    let port_80 = |config: &EnvoyConfig| config.replace("port_value: 10000", "port_value: 80");
    let machine = Machine::boot(|config| {
        wait_for_nobody(config);
        port_80(config);
    });
    let verified = machine.run(&["sh", "-c", "systemd-analyze verify envoy.service 2>&1"]);
    assert_eq!(verified, (0, String::new()));

    let start = Instant::now();
    thread::scope(|scope| {
        let started = scope.spawn(|| machine.systemctl(&["start", "envoy"]));
        wait_for("Envoy to be started", PATIENCE, || {
            machine.property("StatusText").starts_with("starting: ")
        });
        assert_eq!(machine.property("ActiveState"), "activating");
        assert!(!machine.is_ready());
        started.join().unwrap();
    });
    assert!(start.elapsed() > 3 * SECOND, "{:?}", start.elapsed());
    assert!(machine.is_ready());
    assert_eq!(machine.property("ActiveState"), "active");
    let (_, shown) = machine.run(&["systemctl", "status", "--no-pager", "envoy"]);
    assert!(shown.contains("Status: \"envoy is live "), "{shown}");

    // Not as root, and yet on port 80.
    let names: Vec<_> = machine
        .processes()
        .into_iter()
        .map(|(_, name)| name)
        .collect();
    assert_eq!(names, ["drainit", "envoy"], "of uid {ENVOY_UID}");
    let address = SocketAddr::from((machine.config.ip(), 80));
    let answer = machine
        .network
        .enter(|| HttpConnection::open(address)?.get("/fast"));
    assert_eq!(answer.unwrap().status, 200);

    machine.systemctl(&["reload", "envoy"]);
    assert!(
        machine.journal().contains("SIGHUP"),
        "{}",
        machine.journal()
    );
    assert_eq!(machine.property("ActiveState"), "active");
    assert!(machine.is_ready());

    machine.systemctl(&["stop", "envoy"]);
    assert_eq!(machine.property("Result"), "success");
    assert_eq!(machine.processes(), []);
}

#[test]
fn a_stop_waits_for_what_is_in_flight_longer_than_the_unit_allows() {
    let machine = Machine::boot(|_| {});
    machine.edit("TimeoutStopSec=3");
    machine.systemctl(&["start", "envoy"]);
    let http = machine.config.http;
    let slow = machine
        .network
        .enter(|| SlowRequest::start(http, 8 * SECOND));
    machine.upstream.wait_in_flight(1);
    let start = Instant::now();
    machine.systemctl(&["stop", "--no-block", "envoy"]);
    wait_for("systemd to hear of the drain", PATIENCE, || {
        machine
            .property("StatusText")
            .starts_with("draining: 1 of 1 connection left (1 request in flight")
    });
    assert_eq!(machine.property("ActiveState"), "deactivating");
    // Joins the stop that is under way, and waits for it.
    machine.systemctl(&["stop", "envoy"]);
    let took = start.elapsed();
    assert!(took > 6 * SECOND && took < 15 * SECOND, "{took:?}");
    assert_eq!(slow.status(), 200);
    assert_eq!(machine.property("Result"), "success");
    assert_eq!(machine.property("ExecMainStatus"), "0");
    assert_eq!(machine.processes(), []);
    assert!(machine.journal().contains("drained after "));
}

#[test]
fn whatever_is_killed_or_hangs_the_unit_is_up_again() {
    let machine = Machine::boot(|_| {});
    machine.edit("WatchdogSec=2");
    machine.systemctl(&["start", "envoy"]);
    let again = |restarts: &str| {
        wait_for("the unit to be up again", PATIENCE, || {
            machine.property("NRestarts") == restarts
                && machine.property("ActiveState") == "active"
                && machine.is_ready()
        });
    };
    let pids = || machine.pid("drainit").zip(machine.pid("envoy"));
    let both = || pids().expect("a drainit and an Envoy");
    let first = both();
    holds_for("a watchdog that is fed", 5 * SECOND, || {
        machine.property("MainPID") == first.0
    });

    // Envoy, which drainit starts again.
    machine.kill("KILL", &first.1);
    wait_for("another Envoy", PATIENCE, || {
        pids().is_some_and(|pids| pids != first) && machine.is_ready()
    });
    let second = both();
    assert_eq!(second.0, first.0);
    again("0");

    // drainit, which systemd starts again; its Envoy does not stay behind.
    machine.kill("KILL", &second.0);
    again("1");
    let third = both();
    assert!(third.0 != second.0 && third.1 != second.1);

    // A drainit that hangs.
    machine.kill("STOP", &third.0);
    again("2");
    let fourth = both();
    assert!(fourth.0 != third.0 && fourth.1 != third.1);
    assert!(machine.journal().contains("Watchdog timeout"));

    machine.systemctl(&["stop", "envoy"]);
    assert_eq!(machine.property("Result"), "success");
    assert_eq!(machine.processes(), []);
}

#[test]
fn a_reload_by_hot_restart_is_one_of_the_unit() {
    let machine = Machine::boot(|_| {});
    machine.systemctl(&["start", "envoy"]);
    let main = machine.property("MainPID");
    let yaml = fs::read_to_string(machine.envoy_yaml()).unwrap();
    fs::write(machine.envoy_yaml(), "nonsense").unwrap();
    let (code, _) = machine.run(&["systemctl", "reload", "envoy"]);
    assert_ne!(code, 0, "a reload that is refused fails");
    assert!(machine.is_ready());
    assert_eq!(machine.property("ActiveState"), "active");
    let tells_why = || {
        let status = machine.property("StatusText");
        status.starts_with("envoy is live ") && status.contains("; reload failed at 20")
    };
    wait_for("the status to tell why", PATIENCE, tells_why);

    let route = "routes: [{ match: { path: /new }, direct_response: { status: 418 } }, ";
    fs::write(machine.envoy_yaml(), yaml.replace("routes: [", route)).unwrap();
    machine.systemctl(&["reload", "envoy"]);
    wait_for("the status to tell that no more", PATIENCE, || !tells_why());
    let http = machine.config.http;
    let answer = machine
        .network
        .enter(|| HttpConnection::open(http)?.get("/new"));
    assert_eq!(answer.unwrap().status, 418);
    assert_eq!(machine.property("ActiveState"), "active");
    assert_eq!(machine.property("MainPID"), main);
    machine.systemctl(&["stop", "envoy"]);
    assert_eq!(machine.property("Result"), "success");
    assert_eq!(machine.processes(), []);
}

#[test]
fn a_reload_that_can_reload_nothing_fails_and_the_journal_warns() {
    let machine = Machine::boot(|_| {});
    machine.edit(
        "ExecStart=\nExecStart=/usr/local/bin/drainit -- \
         /usr/local/bin/envoy -c /etc/envoy/envoy.yaml",
    );
    machine.systemctl(&["start", "envoy"]);
    let (code, _) = machine.run(&["systemctl", "reload", "envoy"]);
    assert_ne!(code, 0, "{}", machine.journal());
    assert!(machine.is_ready());
    assert_eq!(machine.property("ActiveState"), "active");
    let ours = ["-u", "envoy", "_COMM=drainit"];
    let journal = ["journalctl", "--no-pager", "-o", "cat", "-p", "warning"];
    let (_, warnings) = machine.run(&[&journal[..], &ours].concat());
    let line =
        "drainit: reload failed: there is nothing to reload: start drainit with --hot-restart";
    assert!(
        warnings.lines().any(|warning| warning.starts_with(line)),
        "{warnings}"
    );
    machine.systemctl(&["stop", "envoy"]);
    assert_eq!(machine.property("Result"), "success");
}
