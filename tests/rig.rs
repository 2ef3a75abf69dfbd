//! The rig itself, proven on a bare Envoy: what the other tests see is Envoy's and ours, not its.

mod support;

use std::process::Command;
use std::time::Duration;

use support::clients::{HttpConnection, SlowRequest, TcpSession, UdpSession, WebSocket};
use support::envoy_config::{Admin, EnvoyConfig};
use support::fake_envoy::{Model, SharedModel};
use support::process::Process;
use support::scene;
use support::{PATIENCE, wait_for};

const STATS: &str = "/stats?usedonly&type=Gauges&filter=downstream_(cx|rq|sess)_active";

fn bare(config: &EnvoyConfig) -> Process {
    let mut command = Command::new(support::envoy());
    command
        .args(config.arguments())
        .arg("--disable-hot-restart");
    let process = Process::spawn(&mut command);
    let admin = config.admin.as_ref().unwrap();
    wait_for("Envoy to be live", PATIENCE, || {
        admin
            .request("GET", "/ready", PATIENCE)
            .is_ok_and(|answer| answer.status == 200)
    });
    process
}

fn every_listener_carries_its_traffic(admin: Admin) {
    let (upstream, config) = scene::of(admin);
    let mut envoy = bare(&config);
    let slow = SlowRequest::start(config.http, Duration::from_millis(300));
    upstream.wait_in_flight(1);
    let mut sessions = (
        HttpConnection::idle(config.http),
        HttpConnection::idle(config.metrics),
        TcpSession::open(config.tcp),
        WebSocket::open(config.http),
        UdpSession::open(config.udp),
    );
    let stats = config.admin.as_ref().unwrap();
    let stats = stats.request("GET", STATS, PATIENCE).unwrap().body;
    let ip = config.ip();
    for line in [
        format!("listener.{ip}_10000.downstream_cx_active: 3"),
        format!("listener.{ip}_10001.downstream_cx_active: 1"),
        "listener.metrics.downstream_cx_active: 1".into(),
        "http.http.downstream_rq_active: 2".into(),
        "udp.udp.downstream_sess_active: 1".into(),
    ] {
        assert!(stats.contains(&line), "{line} is not in\n{stats}");
    }
    assert_eq!(slow.status(), 200);
    sessions.2.echo().unwrap();
    sessions.3.echo().unwrap();
    assert!(!sessions.0.is_closed());
    envoy.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(envoy.wait_exit(PATIENCE), 0);
    assert!(sessions.0.is_closed() && sessions.2.is_closed() && sessions.3.is_closed());
}

#[test]
fn every_listener_carries_its_traffic_with_the_admin_on_a_socket() {
    every_listener_carries_its_traffic(Admin::Unix);
}

#[test]
fn every_listener_carries_its_traffic_with_the_admin_on_tcp() {
    every_listener_carries_its_traffic(Admin::Tcp);
}

#[test]
fn a_process_takes_its_orphans_with_it() {
    let mut command = Command::new("sh");
    command.args(["-c", "(sleep 1000 & sleep 1000 &) ; exec sleep 1000"]);
    let process = Process::spawn(&mut command);
    wait_for("two orphans", PATIENCE, || process.descendants().len() == 2);
    let orphans = process.descendants();
    drop(process);
    orphans.into_iter().for_each(support::process::wait_gone);
}

#[test]
fn the_scripted_admin_answers_as_told_and_keeps_the_calls() {
    let model = SharedModel::new(Model {
        http: 2,
        ..Model::default()
    });
    let admin = model.admin();
    let ask = |method, path| admin.address.request(method, path, PATIENCE);
    assert_eq!(ask("GET", "/ready").unwrap().body, "LIVE\n");
    assert_eq!(ask("POST", "/healthcheck/fail").unwrap().status, 200);
    assert_eq!(ask("GET", "/ready").unwrap().status, 503);
    let stats = ask("GET", "/stats?usedonly").unwrap().body;
    assert!(
        stats.contains("http.ingress.downstream_cx_active: 2\n"),
        "{stats}"
    );
    let names: Vec<_> = admin.calls().iter().map(|call| call.name()).collect();
    assert_eq!(
        names,
        [
            "GET /ready",
            "POST /healthcheck/fail",
            "GET /ready",
            "GET /stats"
        ]
    );
    admin.refuse();
    assert!(ask("GET", "/ready").is_err());
}
