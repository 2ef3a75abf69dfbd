//! What Envoy does not tell, or tells under another's name: hidden is never zero, and unknown is
//! never clean.

mod support;

use std::fs;

use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use support::clients::{HttpConnection, SlowRequest, TcpSession};
use support::drainit::{Drainit, run};
use support::envoy_config::{Admin, EnvoyConfig};
use support::http::header;
use support::scene::{self, a_request_is_waited_for};
use support::upstream::Upstream;
use support::{PATIENCE, TempDir, envoy, holds_for, other_envoy, wait_for};

const SLOW: Duration = Duration::from_secs(2);

/// Both versions, since each hides in its own way.
fn each_envoy(test: impl Fn(&str) + Sync) {
    thread::scope(|scope| {
        for envoy in [envoy(), other_envoy()] {
            let test = &test;
            scope.spawn(move || test(&envoy.display().to_string()));
        }
    });
}

fn start(envoy: &str, options: &[&str], config: &EnvoyConfig) -> Drainit {
    let mut command = vec![envoy.to_owned()];
    command.extend(config.arguments());
    let drainit = Drainit::start(options, &command);
    drainit.wait_ready();
    drainit
}

/// A scene without its UDP listener, of which the kernel tells nothing.
fn without_udp(admin: Admin) -> (Upstream, EnvoyConfig) {
    let (upstream, config) = scene::of(admin);
    config.leave_udp_out();
    (upstream, config)
}

/// Puts an option into the HTTP listener.
fn http_option(config: &EnvoyConfig, option: &str) {
    config.replace(
        "  - name: http\n    address",
        &format!("  - name: http\n    {option}\n    address"),
    );
}

#[test]
fn connections_that_a_matcher_hides_are_waited_for_by_the_kernels_count() {
    each_envoy(|envoy| {
        for patterns in [
            "exclusion_list: { patterns: [{ prefix: listener.127 }] }",
            // As Istio has it, with neither `server.` nor `listener.`.
            "inclusion_list: { patterns: [{ prefix: cluster. }, { prefix: http. }] }",
            "reject_all: true",
        ] {
            let (upstream, config) = without_udp(Admin::Unix);
            config.prepend(&format!(
                "stats_config: {{ stats_matcher: {{ {patterns} }} }}\n"
            ));
            let mut drainit = start(envoy, &[], &config);
            a_request_is_waited_for(&mut drainit, &config, &upstream);
            drainit.wait_log("let every stats_matcher include the prefixes");
            drainit.wait_log("counted by the kernel");
        }
    });
}

/// New in 1.37; with a UDP listener beside them it takes the whole time (tests/matrix/admin.rs).
#[test]
fn statistics_that_the_admin_interface_does_not_allow_are_made_up_for_by_the_kernels_count() {
    if support::minor(&envoy()) < 37 {
        return;
    }
    let (upstream, config) = without_udp(Admin::Unix);
    config.replace("admin: {", "admin: { allow_paths: [{ exact: /ready }],");
    let mut drainit = Drainit::ready(&["--drain-timeout", "60s"], &config);
    a_request_is_waited_for(&mut drainit, &config, &upstream);
    drainit.wait_log("refuses /stats: let admin.allow_paths hold it");
    drainit.wait_log("0 at the end; counted by the kernel, because envoy hides some of it");
}

#[test]
fn requests_that_a_matcher_hides_are_told_as_not_known_and_never_as_none() {
    let hide = |bootstrap: &str, listener: &str| {
        let (upstream, config) = without_udp(Admin::Unix);
        config.prepend(bootstrap);
        http_option(&config, listener);
        let mut drainit = Drainit::ready(&["--drain-timeout", "2s"], &config);
        let _slow = SlowRequest::start(config.http, PATIENCE);
        upstream.wait_in_flight(1);
        let figures: Value = serde_json::from_str(&drainit.get("/status").1).unwrap();
        assert_eq!(figures["requests"], Value::Null, "{figures}");
        assert_eq!(figures["connections"], 1, "{figures}");
        let metrics = drainit.get("/metrics").1;
        assert!(!metrics.contains("\ndrainit_requests "), "{metrics}");
        drainit.signal(Signal::SIGTERM);
        assert_eq!(drainit.wait_exit(PATIENCE), 0);
        drainit.wait_log("CUT by the deadline");
        drainit.wait_log("requests not known");
        drainit.wait_log("let every stats_matcher include the prefix");
    };
    let bootstrap = |hidden: &str| {
        format!(
            "stats_config: {{ stats_matcher: {{ exclusion_list: {{ patterns: [{hidden}] }} }} }}\n"
        )
    };
    thread::scope(|scope| {
        for hidden in ["{ prefix: http. }", "{ prefix: http.http. }"] {
            scope.spawn(|| hide(&bootstrap(hidden), "stat_prefix: web"));
        }
        // New in 1.40.
        if support::minor(&envoy()) >= 40 {
            scope.spawn(|| hide("", "stats_matcher: { reject_all: true }"));
        }
    });
}

#[test]
fn with_all_hidden_and_nothing_left_it_does_not_wait_for_the_deadline() {
    each_envoy(|envoy| {
        let (_upstream, config) = without_udp(Admin::Unix);
        config.prepend("stats_config: { stats_matcher: { reject_all: true } }\n");
        let mut drainit = start(envoy, &["--drain-timeout", "60s"], &config);
        drainit.signal(Signal::SIGTERM);
        assert_eq!(drainit.wait_exit(PATIENCE), 0);
        drainit.wait_log("drained after");
    });
}

/// Where Envoy hides it as well: of a transparent listener, whose connections may look like outgoing
/// ones, and of one in another network namespace, which Envoy says of a listener since 1.37.
#[test]
fn what_the_kernel_may_not_show_either_is_waited_for_to_the_deadline() {
    let is_told = support::minor(&envoy()) >= 37;
    for elsewhere in [false, true].into_iter().filter(|far| is_told || !far) {
        let (_upstream, config) = without_udp(Admin::Unix);
        config.prepend("stats_config: { stats_matcher: { reject_all: true } }\n");
        http_option(&config, &format!("transparent: {}", !elsewhere));
        if elsewhere {
            let port = format!("port_value: {}", config.http.port());
            let own = "network_namespace_filepath: /proc/self/ns/net";
            config.replace(&port, &format!("{port}, {own}"));
        }
        let mut drainit = Drainit::ready(&["--drain-timeout", "3s"], &config);
        drainit.signal(Signal::SIGTERM);
        assert_eq!(drainit.wait_exit(PATIENCE), 0);
        drainit.wait_log("CUT by the deadline");
        drainit.wait_log("what else was left is not known");
    }
}

#[test]
fn a_stopped_envoy_with_nothing_open_is_not_waited_for() {
    each_envoy(|envoy| {
        let (_upstream, config) = without_udp(Admin::Unix);
        let options = ["--min-drain", "0s", "--drain-timeout", "60s"];
        let mut drainit = start(envoy, &options, &config);
        kill(drainit.envoy_pid(), Signal::SIGSTOP).unwrap();
        let start = Instant::now();
        drainit.signal(Signal::SIGTERM);
        drainit.wait_log("drained after");
        // Not one question was waited for to its end.
        assert!(start.elapsed() < Duration::from_secs(5));
        // One that is stopped takes no signal but SIGKILL.
        assert_eq!(drainit.wait_exit(PATIENCE), 137);
        drainit.wait_log("drained after");
    });
}

/// New in 1.40.
#[test]
fn a_listener_with_a_matcher_of_its_own_is_waited_for() {
    if support::minor(&envoy()) < 40 {
        return;
    }
    let (upstream, config) = without_udp(Admin::Unix);
    http_option(&config, "stats_matcher: { reject_all: true }");
    let mut drainit = Drainit::ready(&[], &config);
    a_request_is_waited_for(&mut drainit, &config, &upstream);
}

/// The old version has the new one's name in the statistics, until its connections have ended.
#[test]
fn a_listener_that_a_control_plane_replaced_is_not_taken_for_a_hidden_one() {
    each_envoy(|envoy| {
        let upstream = Upstream::start();
        let config = EnvoyConfig::new(Admin::Unix, &upstream);
        let delivered = config.deliver_http();
        let mut drainit = start(envoy, &[], &config);
        let slow = || SlowRequest::start(config.http, SLOW);
        let before = slow();
        upstream.wait_in_flight(1);
        let next = config.dir.join("next.yaml");
        let yaml = fs::read_to_string(&delivered).unwrap();
        let other = "    per_connection_buffer_limit_bytes: 32768\n    address:";
        fs::write(&next, yaml.replacen("    address:", other, 1)).unwrap();
        fs::rename(&next, &delivered).unwrap();
        let draining = "/stats?filter=listener_manager.total_listeners_draining";
        wait_for("the old version to drain", PATIENCE, || {
            let told = config
                .admin
                .as_ref()
                .unwrap()
                .request("GET", draining, PATIENCE);
            told.is_ok_and(|told| told.body.contains(": 1"))
        });
        let after = slow();
        upstream.wait_in_flight(2);
        let status: Value = serde_json::from_str(&drainit.get("/status").1).unwrap();
        let told = ["hidden", "connections", "requests"].map(|name| status[name].clone());
        assert_eq!(told, [Value::Null, 2.into(), 2.into()], "{status}");
        drainit.signal(Signal::SIGTERM);
        assert_eq!([before, after].map(|slow| slow.status()), [200, 200]);
        assert_eq!(drainit.wait_exit(PATIENCE), 0);
        let verdict = drainit.wait_log("drained after");
        assert!(!verdict.contains("counted by the kernel"), "{verdict}");
        assert_eq!(drainit.log.find("stats_matcher"), None);
    });
}

#[test]
fn udp_sessions_that_are_hidden_are_never_believed_to_be_over() {
    let (_upstream, config) = scene::of(Admin::Unix);
    config.prepend(
        "stats_config: { stats_matcher: { exclusion_list: { patterns: [{ prefix: udp. }, \
         { prefix: http. }] } } }\n",
    );
    let mut drainit = Drainit::ready(&["--drain-timeout", "2s"], &config);
    let _ = drainit.get("/metrics");
    drainit.wait_log("envoy's statistics hide UDP sessions");
    // Requests are missed once there is a connection. Everything that is hidden is told.
    let _session = TcpSession::open(config.tcp);
    drainit.signal(Signal::SIGTERM);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    let told = drainit.wait_log("envoy's statistics hide requests");
    assert!(
        told.contains("envoy's statistics hide UDP sessions"),
        "{told}"
    );
    assert_eq!(
        told.matches("lasts until its deadline").count(),
        1,
        "{told}"
    );
    drainit.wait_log("what else was left is not known");
}

#[test]
fn a_stat_prefix_that_is_anothers_name_hides_nothing() {
    each_envoy(|envoy| {
        for prefix in ["admin", "x.worker_3", "envoy_internal_x", "metrics"] {
            let (upstream, config) = scene::of(Admin::Unix);
            http_option(&config, &format!("stat_prefix: {prefix}"));
            let mut drainit = start(envoy, &[], &config);
            let _idle = HttpConnection::idle(config.metrics);
            let slow = SlowRequest::start(config.http, SLOW);
            upstream.wait_in_flight(1);
            drainit.signal(Signal::SIGTERM);
            // Which connections those are.
            drainit.wait_log("2 of 2 connections left (1 request in flight");
            assert_eq!(slow.status(), 200);
            // The idle one is let go.
            assert_eq!(drainit.wait_exit(PATIENCE), 0);
            drainit.wait_log("idle after");
        }
    });
}

#[test]
fn a_connection_manager_named_as_the_admins_has_idle_connections() {
    each_envoy(|envoy| {
        let (_upstream, config) = scene::of(Admin::Unix);
        config.replace("stat_prefix: http\n", "stat_prefix: admin\n");
        let options = ["--settle", "1s", "--drain-timeout", "60s"];
        let mut drainit = start(envoy, &options, &config);
        let _idle = HttpConnection::idle(config.http);
        drainit.signal(Signal::SIGTERM);
        assert_eq!(drainit.wait_exit(PATIENCE), 0);
        drainit.wait_log("idle after");
    });
}

/// An outer TCP proxy before an internal listener that has the connection manager.
fn with_internal_listener() -> (Upstream, EnvoyConfig) {
    let (upstream, config) = scene::of(Admin::Unix);
    config.prepend(
        "bootstrap_extensions:\n- name: internal\n  typed_config: { '@type': \
         type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener }\n",
    );
    let yaml = fs::read_to_string(&config.file).unwrap();
    let from = yaml.find("  - name: metrics\n").unwrap();
    let to = yaml.find("  clusters:\n").unwrap();
    let (address, end) = yaml[from..to].split_once("    address: ").unwrap();
    let (_, rest) = end.split_once('\n').unwrap();
    let rest = rest.replace("    stat_prefix: metrics\n    filter", "    filter");
    let inner = format!("{address}    internal_listener: {{}}\n{rest}");
    let yaml = yaml.replace(&yaml[from..to], &inner);
    let yaml = yaml.replace(
        "  - name: tcp\n    type: STATIC",
        "  - name: inner\n    type: STATIC\n    load_assignment:\n      cluster_name: inner\n      \
         endpoints: [{ lb_endpoints: [{ endpoint: { address: { envoy_internal_address: { \
         server_listener_name: metrics } } } }] }]\n  - name: tcp\n    type: STATIC",
    );
    fs::write(
        &config.file,
        yaml.replace("cluster: tcp\n", "cluster: inner\n"),
    )
    .unwrap();
    (upstream, config)
}

#[test]
fn a_keep_alive_behind_an_internal_listener_is_idle_and_a_busy_one_is_not() {
    each_envoy(|envoy| {
        let (_upstream, config) = with_internal_listener();
        let options = ["--settle", "1s", "--drain-timeout", "60s"];
        let mut drainit = start(envoy, &options, &config);
        let mut connection = HttpConnection::idle(config.tcp);
        drainit.signal(Signal::SIGTERM);
        let start = Instant::now();
        // Envoy says to close it; this client does not listen.
        holds_for("the connection", Duration::from_millis(2_500), || {
            connection.get("/fast").is_ok()
        });
        assert_eq!(drainit.wait_exit(PATIENCE), 0);
        assert!(start.elapsed() > Duration::from_millis(3_400));
        drainit.wait_log("idle after");
    });
}

#[test]
fn an_envoy_without_an_admin_interface_is_waited_for_by_the_kernels_count() {
    let (_upstream, config) = without_udp(Admin::None);
    let mut command = vec![envoy().display().to_string()];
    command.extend(config.arguments());
    let mut drainit = Drainit::start(&[], &command);
    wait_for("envoy's listener", PATIENCE, || {
        HttpConnection::open(config.http).is_ok()
    });
    let session = TcpSession::open(config.tcp);
    drainit.signal(Signal::SIGTERM);
    // Begun after the signal, since nobody can tell clients to go away.
    for _ in 0..3 {
        assert_eq!(
            SlowRequest::start(config.http, Duration::from_secs(1)).status(),
            200
        );
    }
    drop(session);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    drainit.wait_log("drained after");
    drainit.wait_log("counted by the kernel, without envoy's admin interface");
}

/// A program that nobody may read hides its descriptors from its own user.
#[test]
fn what_nobody_tells_is_told_as_unknown_and_not_as_clean() {
    let dir = TempDir::new();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = dir.join("envoy");
    support::copy_program("/bin/sleep", &program);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o711)).unwrap();
    let user = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    let command = [program.display().to_string(), "60".into()];
    let options = ["--envoy-flags", "keep", "--listen", "off"];
    let mut drainit = Drainit::start_under(&user, &[], &options, &command);
    drainit.wait_log("envoy started");
    drainit.signal(Signal::SIGTERM);
    assert_eq!(drainit.wait_exit(PATIENCE), 143);
    drainit.wait_log("what was in flight is not known");
}

/// An Envoy of another user's, at whose descriptors a drainit without CAP_SYS_PTRACE may not look.
#[test]
fn what_nobody_tells_is_unknown_to_the_shutdown_command_to_callers_and_in_the_metric() {
    let (upstream, config) = without_udp(Admin::None);
    config.replace(&config.access_log.display().to_string(), "/dev/null");
    let program = support::program_in(&config.dir, &envoy());
    let mut command = ["setpriv", "--reuid=65534", "--clear-groups"]
        .map(str::to_owned)
        .to_vec();
    command.push(program.display().to_string());
    command.extend(config.arguments());
    let without = ["setpriv", "--bounding-set=-sys_ptrace"];
    let mut drainit = Drainit::start_under(&without, &[], &["--log-format", "json"], &command);
    wait_for("envoy's listener", PATIENCE, || {
        HttpConnection::open(config.http).is_ok()
    });
    let slow = SlowRequest::start(config.http, PATIENCE);
    upstream.wait_in_flight(1);

    let listen = format!("unix:{}", drainit.health.text());
    let (code, out, err) = run(&["shutdown", "--listen", &listen]);
    assert_eq!(code, 1, "{out}{err}");
    let last = out.lines().last().unwrap();
    assert!(
        last.starts_with("CUT after ") && last.ends_with(": unknown"),
        "{out}"
    );
    // Whoever asks now joins the drain that is over.
    let answer = drainit.health.request("POST", "/shutdown", PATIENCE);
    assert_eq!(
        header(&answer.unwrap().head, "drain-result"),
        Some("unknown")
    );
    let metrics = drainit.get("/metrics").1;
    for (result, count) in [("unknown", 1), ("drained", 0), ("cut", 0)] {
        let line = format!("\ndrainit_drains_total{{result=\"{result}\"}} {count}\n");
        assert!(metrics.contains(&line), "{line}{metrics}");
    }
    drainit.signal(Signal::SIGTERM);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    assert!(slow.finish().is_err());
    let verdict = drainit.wait_log("\"exit_class\":");
    assert!(
        verdict.contains("what was in flight is not known"),
        "{verdict}"
    );
    let verdict: Value = serde_json::from_str(&verdict).unwrap();
    assert_eq!(
        (&verdict["level"], &verdict["result"]),
        (&"warn".into(), &"unknown".into())
    );
}

/// Ten requests a second, on a connection that every answer says to close.
#[test]
fn a_client_that_asks_between_two_looks_is_not_idle() {
    each_envoy(|envoy| {
        let (_upstream, config) = scene::of(Admin::Unix);
        let options = ["--settle", "1s", "--drain-timeout", "4s"];
        let mut drainit = start(envoy, &options, &config);
        let mut client = HttpConnection::idle(config.http);
        drainit.signal(Signal::SIGTERM);
        while client.get("/fast").is_ok() {
            thread::sleep(Duration::from_millis(100));
        }
        assert_eq!(drainit.wait_exit(PATIENCE), 0);
        let verdict = drainit.wait_log("CUT by the deadline after 4");
        assert!(verdict.contains("1 at the end (cut: http 1; "), "{verdict}");
    });
}

#[test]
fn one_slow_answer_of_the_admin_does_not_hold_the_drain_up() {
    let (upstream, config, mut drainit) = scene::ready(&["--drain-timeout", "60s"]);
    let slow = SlowRequest::start(config.http, Duration::from_secs(3));
    upstream.wait_in_flight(1);
    drainit.signal(Signal::SIGTERM);
    drainit.wait_log("1 of 1 connection left");
    kill(drainit.envoy_pid(), Signal::SIGSTOP).unwrap();
    thread::sleep(Duration::from_millis(1_200));
    kill(drainit.envoy_pid(), Signal::SIGCONT).unwrap();
    assert_eq!(slow.status(), 200);
    // 1.0.0 looked again twenty times 1.2 s later.
    assert_eq!(drainit.wait_exit(Duration::from_secs(10)), 0);
    drainit.wait_log("drained after");
}
