//! Reloads that must not happen, or cannot succeed.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::add_route;
use crate::rig::Rig;
use crate::support::clients::{HttpConnection, SlowRequest, TcpSession};
use crate::support::drainit::{run, run_command};
use crate::support::scene;
use crate::support::watch::Watch;
use crate::support::{PATIENCE, TempDir, drainit, envoy, wait_for};

/// What must be as before after a reload that was refused.
fn unharmed(rig: &Rig, epoch: u64) {
    rig.serves();
    assert_eq!(rig.drainit.get("/ready").0, 200);
    assert_eq!(rig.drainit.get("/healthz").0, 200);
    assert_eq!(rig.epoch(), epoch);
}

#[test]
fn what_is_refused_touches_nothing_and_the_next_good_reload_works() {
    let rig = Rig::start();
    let good = fs::read_to_string(&rig.config.file).unwrap();
    let ready = Watch::ready(&rig.drainit.health);
    let connections = Watch::connections(rig.config.http);
    let session = TcpSession::open(rig.config.tcp);
    let pid = rig.newest();

    for (bad, why) in [
        (format!("{good}\n  : ]["), "refuses the configuration"),
        (
            good.replace("static_resources:", "no_such_field: 1\nstatic_resources:"),
            "no_such_field",
        ),
        (good.replace("cluster: http", "cluster: nowhere"), "nowhere"),
    ] {
        fs::write(&rig.config.file, bad).unwrap();
        rig.reload_badly(why);
        unharmed(&rig, 0);
    }
    fs::write(&rig.config.file, &good).unwrap();

    fs::remove_file(&rig.program).unwrap();
    rig.reload_badly("cannot be started");
    unharmed(&rig, 0);
    fs::write(&rig.program, "not a program").unwrap();
    fs::set_permissions(&rig.program, fs::Permissions::from_mode(0o755)).unwrap();
    rig.reload_badly("");
    unharmed(&rig, 0);
    let script = format!(
        "#!/bin/sh\nfor word; do [ \"$word\" != --hot-restart-version ] || {{ echo 99.1; exit; }}; done\nexec {} \"$@\"\n",
        envoy().display()
    );
    fs::write(&rig.program, script).unwrap();
    let (_, spoken, _) = run_command(Command::new(envoy()).arg("--hot-restart-version"));
    rig.reload_badly(&format!("version is 99.1, the running one's is {spoken}"));
    unharmed(&rig, 0);

    assert_eq!(rig.newest(), pid);
    assert!(!session.is_closed());
    rig.replace_program(&envoy());
    assert_eq!(
        rig.metric("drainit_hot_restarts_total{result=\"refused\"}"),
        6
    );
    add_route(&rig.config, "/new");
    rig.reload_well();
    assert_eq!(
        HttpConnection::open(rig.config.http)
            .unwrap()
            .get("/new")
            .unwrap()
            .status,
        418
    );
    unharmed(&rig, 1);
    assert_eq!(ready.finish().failures, Vec::<String>::new());
    assert_eq!(connections.finish().failures, Vec::<String>::new());
}

#[test]
fn an_address_that_cannot_be_bound_leaves_the_old_generation_serving() {
    let mut rig = Rig::start();
    let good = fs::read_to_string(&rig.config.file).unwrap();
    let _taken = TcpListener::bind((rig.config.ip(), 10_009)).unwrap();
    let ready = Watch::ready(&rig.drainit.health);
    let connections = Watch::connections(rig.config.http);
    rig.config.replace(
        "  listeners:\n",
        &format!(
            "  listeners:\n  - name: taken\n    enable_reuse_port: false\n    address: {{ socket_address: {{ address: {}, port_value: 10009 }} }}\n    filter_chains: [{{ filters: [{{ name: t, typed_config: {{ '@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: tcp }} }}] }}]\n",
            rig.config.ip()
        ),
    );
    let (code, said) = rig.reload();
    assert_eq!(code, 1, "{said}");
    assert_eq!(rig.epoch(), 0);
    rig.serves();
    // Envoy binds its listeners after it has taken the admin interface over.
    wait_for("degraded mode", PATIENCE, || {
        rig.metric("drainit_degraded") == 1
    });
    rig.serves();
    fs::write(&rig.config.file, good).unwrap();
    rig.reload_well();
    assert_eq!(rig.epoch(), 1);
    assert_eq!(rig.metric("drainit_degraded"), 0);
    assert_eq!(ready.finish().failures, Vec::<String>::new());
    assert_eq!(connections.finish().failures, Vec::<String>::new());
    rig.drainit.signal(Signal::SIGTERM);
    assert_eq!(rig.drainit.wait_exit(PATIENCE), 0);
}

#[test]
fn none_during_a_drain() {
    let mut rig = Rig::start();
    let slow = SlowRequest::start(rig.config.http, Duration::from_secs(2));
    rig.upstream.wait_in_flight(1);
    rig.drainit.signal(Signal::SIGTERM);
    rig.drainit.wait_unready();
    rig.reload_badly("drain");
    assert_eq!(slow.status(), 200);
    assert_eq!(rig.drainit.wait_exit(PATIENCE), 0);
}

#[test]
fn without_hot_restart_and_certificates_a_reload_fails_and_touches_nothing() {
    let (_upstream, _config, drainit) = scene::ready(&[]);
    let crate::support::http::Address::Unix(path) = &drainit.health else {
        panic!("a unix socket");
    };
    let envoy = drainit.envoy_pid();
    let (code, out, err) = run(&["reload", "--listen", &format!("unix:{}", path.display())]);
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    assert!(
        err.contains("--secret") && err.contains("--hot-restart"),
        "{err}"
    );
    assert_eq!(drainit.envoy_pid(), envoy);
    assert_eq!(drainit.get("/ready").0, 200);
}

#[test]
fn what_cannot_work_is_refused_at_the_start() {
    let dir = TempDir::new();
    let started = dir.join("started");
    let fake = dir.join("envoy");
    fs::write(&fake, format!("#!/bin/sh\ntouch {}\n", started.display())).unwrap();
    fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).unwrap();
    let fake = fake.display().to_string();
    for (flags, why) in [
        (&["--disable-hot-restart"][..], "--disable-hot-restart"),
        (&["--restart-epoch", "1"], "--restart-epoch"),
        (&["--use-dynamic-base-id"], "--use-dynamic-base-id"),
        (&["--drain-time-s", "9s"], "--drain-time-s"),
    ] {
        let mut line = vec!["--hot-restart", "--listen", "off", "--", &fake];
        line.extend(flags);
        let (code, _, err) = run(&line);
        assert_eq!(code, 2, "{err}");
        assert!(err.contains(why) && err.lines().count() == 1, "{err}");
    }
    let mut command = Command::new("unshare");
    let script = "mount -t tmpfs -o ro none /dev/shm && exec \"$@\"";
    command.args(["-m", "sh", "-ec", script, "sh"]);
    command.arg(drainit());
    command.args(["--hot-restart", "--listen", "off", "--", &fake]);
    let (code, _, err) = run_command(&mut command);
    assert_eq!(code, 2, "{err}");
    assert!(
        err.contains("/dev/shm") && err.lines().count() == 1,
        "{err}"
    );
    assert!(!Path::new(&started).exists(), "Envoy was started");
}
