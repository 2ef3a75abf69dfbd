//! What is silent, and what is talk: keep-alives of each kind.

use serde_json::Value;

use super::support::grpc::GrpcClient;
use super::support::http2::Http2Client;
use super::*;

/// Waits until so many clients are told, each of which is as the test wants it.
#[track_caller]
fn wait_clients(drainit: &Drainit, count: usize, is_as_wanted: impl Fn(&Value) -> bool) {
    let mut seen = Value::Null;
    wait_for("the clients", PATIENCE, || {
        seen = drainit.get("/status").1.parse().unwrap();
        let clients = seen["clients"].as_array();
        clients.is_some_and(|all| all.len() == count && all.iter().all(&is_as_wanted))
    });
}

fn seconds(client: &Value, of: &str) -> f64 {
    client[of].as_f64().unwrap_or_default()
}

const SETTLE: Duration = Duration::from_secs(2);
const OPTIONS: [&str; 6] = [
    "--settle",
    "2s",
    "--min-drain",
    "0s",
    "--drain-timeout",
    "60s",
];

#[test]
fn connections_that_had_long_been_silent_cost_nothing() {
    each_envoy(|envoy| {
        let (_upstream, config) = scene::of(Admin::Unix);
        let server = config.serve_grpc();
        let setting = Setting::default().with_envoy(envoy);
        let mut drainit = setting.ready(&OPTIONS, &config);
        let _http1: Vec<_> = (0..5).map(|_| HttpConnection::idle(config.http)).collect();
        let http2 = Http2Client::start(config.http);
        let _asked = HttpConnection::idle(http2.address);
        let _grpc = GrpcClient::start(server, config.http, false);
        wait_clients(&drainit, 7, |client| {
            seconds(client, "silent_seconds") >= SETTLE.as_secs_f64()
        });
        let start = Instant::now();
        drainit.signal(Signal::SIGTERM);
        assert_eq!(drainit.wait_exit(PATIENCE), 0);
        // It would have taken the settle time once more.
        let took = start.elapsed();
        assert!(took < SETTLE, "{took:?}");
        assert_eq!(http2.connections(), 1);
        drainit.wait_log("idle after");
        drainit.wait_log("7 connections at the start, 7 at the end (idle: http 7");
    });
}

#[test]
fn a_connection_with_nothing_but_pings_is_idle_the_settle_time_after_sigterm_and_not_sooner() {
    each_envoy(|envoy| {
        let (_upstream, config) = scene::of(Admin::Unix);
        let server = config.serve_grpc();
        let setting = Setting::default().with_envoy(envoy);
        let mut drainit = setting.ready(&OPTIONS, &config);
        let _grpc = GrpcClient::start(server, config.http, true);
        // The call was longer ago, and the PINGs go on.
        wait_clients(&drainit, 1, |client| {
            let [age, silent] = ["age_seconds", "silent_seconds"].map(|of| seconds(client, of));
            age >= SETTLE.as_secs_f64() && silent < SETTLE.as_secs_f64()
        });
        let start = Instant::now();
        drainit.signal(Signal::SIGTERM);
        assert_eq!(drainit.wait_exit(PATIENCE), 0);
        let took = start.elapsed();
        assert!(took >= SETTLE, "{took:?}");
        drainit.wait_log("idle after");
        drainit.wait_log("1 connection at the start, 1 at the end (idle: http 1");
    });
}
