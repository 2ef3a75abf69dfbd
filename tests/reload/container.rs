//! Reloads of a container: drainit as its pid 1, uid 65534, a read-only root, no capability.

use std::fs;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::support::clients::SlowRequest;
use crate::support::container::{Container, Network, Spec, open_to_all};
use crate::support::envoy_config::{Admin, EnvoyConfig};
use crate::support::http::Address;
use crate::support::kubelet::write_volume;
use crate::support::load::Load;
use crate::support::pki::{Helper, Pair};
use crate::support::process::in_pid_namespace;
use crate::support::scene;
use crate::support::upstream::Upstream;
use crate::support::watch::Watch;
use crate::support::{PATIENCE, wait_for};

const RELOADS: u64 = 6;

/// What runs this configuration, with /dev/shm.
fn spec(config: &EnvoyConfig, options: &[&str]) -> Spec {
    open_to_all(config.dir.path()).unwrap();
    let mut spec = Spec::new(&["/drainit", "--hot-restart"]);
    let mut add = |more: &[&str]| spec.args.extend(more.iter().map(ToString::to_string));
    add(options);
    add(&["--", "/usr/local/bin/envoy"]);
    add(&["--drain-time-s", "1", "--parent-shutdown-time-s", "3"]);
    spec.args.extend(config.arguments());
    let dir = config.dir.path().to_owned();
    spec.mounts = vec![(dir.clone(), dir, false)];
    spec.shared_memory = true;
    spec
}

fn wait_ready(container: &Container) {
    wait_for("the container to be ready", PATIENCE, || {
        container.exec(&["/drainit", "health", "ready"]).0 == 0
    });
}

#[test]
fn pid_1_reloads_while_certificates_rotate_and_refuses_nobody() {
    let network = Network::new();
    let (upstream, config) = network.enter(|| {
        let (upstream, config) = scene::of(Admin::Unix);
        (upstream, config)
    });
    config.serve_tls("edge");
    let volume = config.dir.join("certificates");
    fs::create_dir(&volume).unwrap();
    let ca = Pair::ca("edge");
    let rotate = || {
        let leaf = ca.leaf();
        let files = [("tls.crt", leaf.cert), ("tls.key", leaf.key)];
        write_volume(&volume, &leaf.serial, &files);
        leaf.serial
    };
    let mut leaf = rotate();

    let secret = format!("edge={0}/tls.crt,{0}/tls.key", volume.display());
    let resources = config.resources().display().to_string();
    let spec = spec(
        &config,
        &[
            "--certificate-check",
            "100ms",
            "--secret",
            &secret,
            "--resources-dir",
            &resources,
        ],
    );
    let mut container = Container::start(&spec, &network);
    wait_ready(&container);
    assert!(container.status("NSpid:").ends_with(" 1"));
    assert_eq!(container.status("Uid:"), "65534 65534 65534 65534");
    assert_eq!(container.status("CapEff:"), "0000000000000000");
    let namespace = container.pid_namespace();
    let status = || -> Value {
        let (code, page) = container.exec(&["/drainit", "status", "--json"]);
        assert_eq!(code, 0, "{page}");
        serde_json::from_str(&page).unwrap()
    };

    // Of TLS, and of plain HTTP on the other listener.
    let health = Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 8090)));
    let (load, tls, plain, ready) = network.enter(|| {
        let mut client = Helper::start();
        let https = config.http;
        (
            Load::start(vec![(config.metrics, health.clone())], 4, 4),
            Watch::start(move || client.fetch(https).map(drop)),
            Watch::connections(config.metrics),
            Watch::ready(&health),
        )
    });
    // pid 1 and one Envoy.
    let alone = || {
        wait_for("the old generation's end", PATIENCE, || {
            in_pid_namespace(&namespace).len() == 2
        });
    };
    let mut client = network.enter(Helper::start);
    for number in 1..=RELOADS {
        alone();
        // A rotation at another moment of each reload.
        let pause = Duration::from_millis(60 * (number - 1));
        let reloaded = thread::scope(|scope| {
            let reload = scope.spawn(|| container.exec(&["/drainit", "reload"]));
            thread::sleep(pause);
            leaf = rotate();
            reload.join().unwrap()
        });
        assert_eq!(reloaded.0, 0, "{reloaded:?}");
        wait_for("the rotated leaf", PATIENCE, || {
            client.fetch(config.http).as_ref() == Ok(&leaf)
        });
        wait_for("its confirmation", PATIENCE, || {
            let status = status();
            let edge = &status["certificates"][0];
            edge["serial"] == leaf.as_str() && edge["last_result"] == "ok"
        });
        assert_eq!(status()["envoy"]["epoch"], number);
    }

    let (answered, failures) = load.finish();
    assert!(answered > 500, "{answered}");
    assert_eq!(failures, Vec::<String>::new());
    for watch in [tls, plain, ready] {
        let seen = watch.finish();
        assert!(seen.looks > 10, "{} looks", seen.looks);
        assert_eq!(seen.failures, Vec::<String>::new());
    }
    // At the end of what is asked of it, there are two generations.
    alone();
    let slow = network.enter(|| SlowRequest::start(config.metrics, Duration::from_secs(2)));
    upstream.wait_in_flight(1);
    assert_eq!(container.exec(&["/drainit", "reload"]).0, 0);
    container.kill("TERM");
    assert_eq!(slow.status(), 200);
    assert_eq!(container.wait_exit(PATIENCE), 0);
    container.log.find("drained after").unwrap();
    wait_for("no process left", PATIENCE, || {
        in_pid_namespace(&namespace).is_empty()
    });
}

/// With a /dev/shm each, and one network: their sockets must not meet.
#[test]
fn two_containers_of_a_pod_reload() {
    let network = Network::new();
    let (_upstream, configs) = network.enter(|| {
        let upstream = Upstream::start();
        let configs = [(); 2].map(|()| EnvoyConfig::new(Admin::Unix, &upstream));
        (upstream, configs)
    });
    let mut containers = configs.map(|config| {
        let listen = format!("unix:{}", config.dir.join("health.sock").display());
        let container = Container::start(&spec(&config, &["--listen", &listen]), &network);
        wait_ready(&container);
        (container, config)
    });
    for (container, _) in &containers {
        let (code, said) = container.exec(&["/drainit", "reload"]);
        assert_eq!(code, 0, "{said}");
    }
    for (container, _) in &mut containers {
        container.kill("TERM");
        assert_eq!(container.wait_exit(PATIENCE), 0);
    }
}
