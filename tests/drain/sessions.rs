//! Sessions without requests: TCP, WebSockets, tunnels, UDP; and the last entries of access logs.

use super::*;

/// A drain waits for a session that `echoes` for longer than the settle time, and ends when the
/// session is dropped.
#[track_caller]
fn is_waited_for(drainit: &mut Drainit, mut echoes: impl FnMut() -> bool) {
    drainit.signal(Signal::SIGTERM);
    drainit.wait_unready();
    holds_for("the session", WELL_BEYOND_SETTLE, &mut echoes);
    drop(echoes);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    drainit.wait_log("drained");
}

#[test]
fn a_tcp_session_is_waited_for_and_the_end_follows_its_close() {
    let (_upstream, config, mut drainit) = scene::ready(&SHORT_SETTLE);
    let mut session = TcpSession::open(config.tcp);
    // An idle connection beside it must not hide it.
    let _idle = HttpConnection::idle(config.http);
    drainit.signal(Signal::SIGTERM);
    drainit.wait_unready();
    holds_for("the TCP session", WELL_BEYOND_SETTLE, || {
        session.echo().is_ok()
    });
    drop(session);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
}

#[test]
fn a_tcp_session_is_not_hidden_by_idle_connections_on_an_excluded_listener() {
    let (_upstream, config) = scene::of(Admin::Unix);
    let mut options = Vec::from(SHORT_SETTLE);
    options.extend(["--exclude-listener", EnvoyConfig::METRICS]);
    // The last poll comes by the kernel's word: by the clock it is far away.
    options.extend(["--check-interval", "50s"]);
    let mut drainit = Drainit::ready(&options, &config);
    let mut session = TcpSession::open(config.tcp);
    let _scrapers = [(); 3].map(|()| HttpConnection::idle(config.metrics));
    is_waited_for(&mut drainit, move || session.echo().is_ok());
}

#[test]
fn a_web_socket_is_waited_for() {
    let (_upstream, config, mut drainit) = scene::ready(&SHORT_SETTLE);
    let mut session = WebSocket::open(config.http);
    is_waited_for(&mut drainit, move || session.echo().is_ok());
}

#[test]
fn a_udp_session_is_waited_for() {
    let (_upstream, config, mut drainit) = scene::ready(&SHORT_SETTLE);
    let session = UdpSession::open(config.udp);
    // Envoy ends it after 2 s of silence.
    is_waited_for(&mut drainit, move || session.echo().is_ok());
}

/// Sessions that are in use for 18 s of the 25 s that there are: Envoy 1.40 would close them by
/// its own drain time, were that not far beyond the deadline.
fn sessions_in_use_go_on_until_they_end(envoy: PathBuf) {
    const EACH: usize = 36;
    let (_upstream, config) = scene::of(Admin::Unix);
    config.take_connect();
    let mut command = vec![envoy.display().to_string()];
    command.extend(config.arguments());
    let mut drainit = Setting::default().start(&[], &command);
    drainit.wait_ready();
    let mut sockets: Vec<_> = (0..EACH).map(|_| WebSocket::open(config.http)).collect();
    let mut tunnels: Vec<_> = (0..EACH).map(|_| Tunnel::open(config.http)).collect();
    drainit.signal(Signal::SIGTERM);
    holds_for("the sessions", Duration::from_secs(18), || {
        sockets.iter_mut().all(|session| session.echo().is_ok())
            && tunnels.iter_mut().all(|session| session.echo().is_ok())
    });
    assert!(!drainit.has_exited());
    drop((sockets, tunnels));
    let ended = Instant::now();
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    // The deadline is 7 s away. Nobody told them to close, so that nobody is expected back.
    let took = ended.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    println!("over {took:?} after the last session");
    drainit.wait_log("drained after");
}

#[test]
fn web_sockets_and_tunnels_in_use_go_on_until_they_end() {
    sessions_in_use_go_on_until_they_end(support::envoy());
}

#[test]
fn web_sockets_and_tunnels_in_use_go_on_until_they_end_on_another_envoy() {
    sessions_in_use_go_on_until_they_end(support::other_envoy());
}

fn a_udp_session_is_answered_up_to_the_deadline(envoy: PathBuf) {
    let (_upstream, config) = scene::of(Admin::Unix);
    config.replace("idle_timeout: 2s", "idle_timeout: 60s");
    let mut command = vec![envoy.display().to_string()];
    command.extend(config.arguments());
    let timeout = Duration::from_secs(10);
    let mut drainit = Setting::default().start(&["--drain-timeout", "10s"], &command);
    drainit.wait_ready();
    let session = UdpSession::open(config.udp);
    let start = Instant::now();
    drainit.signal(Signal::SIGTERM);
    drainit.wait_log("1 of 1 UDP session left");
    assert!(
        drainit
            .get("/metrics")
            .1
            .contains("\ndrainit_udp_sessions 1\n")
    );
    let mut answered = start.elapsed();
    while session.echo().is_ok() {
        answered = start.elapsed();
        thread::sleep(Duration::from_millis(10));
    }
    // Envoy is told to stop a whole second before the deadline where nothing speaks against it.
    assert!(
        answered > timeout - Duration::from_millis(400),
        "{answered:?}"
    );
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    let over = drainit.wait_log("CUT by the deadline");
    assert!(over.contains("(cut: 1 UDP session; "), "{over}");
}

#[test]
fn a_udp_session_is_answered_up_to_the_deadline_and_told_as_cut() {
    a_udp_session_is_answered_up_to_the_deadline(support::envoy());
}

#[test]
fn a_udp_session_is_answered_up_to_the_deadline_and_told_as_cut_on_another_envoy() {
    a_udp_session_is_answered_up_to_the_deadline(support::other_envoy());
}

#[test]
fn a_udp_session_that_the_deadline_cuts_is_a_failure_of_the_shutdown_command() {
    let (_upstream, config) = scene::of(Admin::Unix);
    config.replace("idle_timeout: 2s", "idle_timeout: 60s");
    let mut drainit = Drainit::ready(&["--drain-timeout", "3s"], &config);
    let _session = UdpSession::open(config.udp);
    let listen = format!("unix:{}", drainit.health.text());
    let (code, out, _) = run(&["shutdown", "--listen", &listen]);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("1 UDP session in flight"), "{out}");
    assert!(drainit.get("/status").1.contains("\"udp_sessions\":1"));
    drainit.signal(Signal::SIGTERM);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
}

/// Of the very request, or session, that the drain waited for.
fn the_last_entry_arrives(envoy: PathBuf, kind: &str) {
    let (upstream, config) = scene::of(Admin::Unix);
    let address = SocketAddr::from((config.ip(), 18_000));
    let logs = match kind {
        FLUENTD_LOG => AccessLogs::of_fluentd(address),
        _ => AccessLogs::start(address),
    };
    config.send_access_logs(kind, address);
    let mut command = vec![envoy.display().to_string()];
    command.extend(config.arguments());
    let mut drainit = Setting::default().start(&[], &command);
    drainit.wait_ready();
    if kind.contains("Tcp") {
        let session = TcpSession::open(config.tcp);
        drainit.signal(Signal::SIGTERM);
        drainit.wait_unready();
        drop(session);
    } else {
        let slow = SlowRequest::start(config.metrics, Duration::from_secs(1));
        upstream.wait_in_flight(1);
        drainit.signal(Signal::SIGTERM);
        assert_eq!(slow.status(), 200);
    }
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    drainit.wait_log("drained after");
    wait_for(
        &format!("the entry in {kind}"),
        Duration::from_secs(3),
        || logs.count() > 0,
    );
}

const HTTP_LOG: &str = "grpc.v3.HttpGrpcAccessLogConfig";
const TCP_LOG: &str = "grpc.v3.TcpGrpcAccessLogConfig";
const OPEN_TELEMETRY_LOG: &str = "open_telemetry.v3.OpenTelemetryAccessLogConfig";
const FLUENTD_LOG: &str = "fluentd.v3.FluentdAccessLogConfig";

#[test]
fn the_last_requests_entry_in_a_grpc_access_log_arrives() {
    the_last_entry_arrives(support::envoy(), HTTP_LOG);
    the_last_entry_arrives(support::other_envoy(), HTTP_LOG);
}

#[test]
fn the_last_sessions_entry_in_a_grpc_access_log_arrives() {
    the_last_entry_arrives(support::envoy(), TCP_LOG);
    the_last_entry_arrives(support::other_envoy(), TCP_LOG);
}

#[test]
fn the_last_requests_entry_in_an_open_telemetry_log_arrives() {
    the_last_entry_arrives(support::envoy(), OPEN_TELEMETRY_LOG);
    the_last_entry_arrives(support::other_envoy(), OPEN_TELEMETRY_LOG);
}

#[test]
fn the_last_requests_entry_in_a_fluentd_log_arrives() {
    the_last_entry_arrives(support::envoy(), FLUENTD_LOG);
    the_last_entry_arrives(support::other_envoy(), FLUENTD_LOG);
}
