//! The README's pods, run as a kubelet runs them.

mod support;

use std::process::Command;
use std::time::Duration;

use support::PATIENCE;
use support::clients::{HttpConnection, SlowRequest};
use support::container::{Network, wait_text};
use support::kubelet::Pod;
use support::manifest::manifests;
use support::upstream::Upstream;
use support::wait_for;

#[test]
fn the_readmes_pod_lives_and_ends_as_a_kubelet_has_it() {
    let all = manifests();
    let (config, deployment) = (&all[0], &all[1]);
    let network = Network::new();
    let upstream = network.enter(Upstream::start);
    let yaml = config["data"]["envoy.yaml"].as_str().unwrap();
    let app = "address: app, port_value: 3000";
    assert!(yaml.contains(app));
    let here = format!(
        "address: {}, port_value: {}",
        upstream.http.ip(),
        upstream.http.port()
    );
    let yaml = yaml.replace(app, &here);
    let pod = Pod::new(deployment, network, &[("config", "envoy.yaml", &yaml)]);
    let mut container = pod.start();
    assert!(pod.probe("readinessProbe") && pod.probe("livenessProbe"));
    // The security context holds: nobody, no capability, no new privilege, a seccomp filter.
    for (name, value) in [
        ("Uid:", "65534 65534 65534 65534"),
        ("CapBnd:", "0000000000000000"),
        ("NoNewPrivs:", "1"),
        ("Seccomp:", "2"),
    ] {
        assert_eq!(container.status(name), value, "{name}");
    }
    // Who may GET /shutdown is on loopback, and another pod is not.
    assert_eq!(pod.get(8090, "POST", "/shutdown"), Some(403));
    assert!(pod.probe("readinessProbe"));

    let http = pod.address(pod.port(&"http".into()));
    let slow = pod
        .network
        .enter(|| SlowRequest::start(http, Duration::from_secs(3)));
    upstream.wait_in_flight(1);
    let (code, took) = pod.end(&mut container, || {
        wait_for("the pod not to be ready", PATIENCE, || {
            !pod.probe("readinessProbe")
        });
        assert!(pod.probe("livenessProbe"));
        // Some still send to it: their endpoints lag.
        let late = pod
            .network
            .enter(|| HttpConnection::open(http).and_then(|mut late| late.get("/fast")));
        assert_eq!(late.unwrap().status, 200);
        assert_eq!(slow.status(), 200);
    });
    assert_eq!(code, 0);
    // --min-drain=5s
    assert!(took >= Duration::from_secs(5), "{took:?}");
    assert!(took < pod.grace_period(), "{took:?}");
    wait_text(&pod.termination_log(), "drainit is over: drained");
}

#[test]
fn each_pods_init_container_installs_drainit() {
    for manifest in manifests() {
        if manifest["spec"]["template"].is_null() {
            continue;
        }
        let pod = Pod::new(&manifest, Network::new(), &[]);
        pod.run_init("drainit");
        let installed = pod.volume(&"drainit".into()).join("drainit");
        let version = Command::new(installed).arg("--version").output().unwrap();
        assert!(version.stdout.starts_with(b"drainit "), "{version:?}");
    }
}
