//! The examples' pods, run as a kubelet runs them.

mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use support::PATIENCE;
use support::clients::{HttpConnection, SlowRequest};
use support::container::{Network, wait_text};
use support::kubelet::Pod;
use support::manifest::{documents, example, manifests};
use support::upstream::Upstream;
use support::{TempDir, wait_for};

#[test]
fn the_example_pod_lives_and_ends_as_a_kubelet_has_it() {
    let all = documents("pod.yaml");
    let (config, deployment) = (&all[0], &all[1]);
    let network = Network::new();
    let upstream = network.enter(Upstream::start);
    let yaml = config["data"]["envoy.yaml"].as_str().unwrap();
    // The image's and the pod's are one.
    let file = example("envoy.yaml");
    assert_eq!(file.split_once('\n').unwrap().1, yaml);
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
    // Nobody may GET /shutdown unless it is given.
    assert_eq!(pod.get(8090, "/shutdown").unwrap().status, 403);
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
    assert!(took < pod.grace_period(), "{took:?}");
    wait_text(&pod.termination_log(), "drained after");
}

/// The Python that scripts/test sets up.
fn python(script: &str) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join("target/tools/python/bin/python");
    assert!(
        python.is_file(),
        "no {}: run scripts/test",
        python.display()
    );
    let mut command = Command::new(python);
    command.arg(root.join(script));
    command
}

/// Makes a certificate and its key, NAME.crt and NAME.key.
fn make_leaf(dir: &TempDir, name: &str, options: &[&str]) -> [String; 2] {
    let mut make = python("tests/xds/certs.py");
    make.arg("leaf").arg(dir.path()).arg(dir.join(name));
    assert!(make.args(options).status().unwrap().success());
    [".crt", ".key"].map(|end| std::fs::read_to_string(dir.join(&format!("{name}{end}"))).unwrap())
}

/// What the volume of the xDS client's certificate comes from.
#[derive(Clone, Copy, PartialEq)]
enum Certificates {
    /// A Secret, with a file each for the certificate and the key.
    Secret,
    /// Pod Certificates: one file, the key before the chain (`credentialBundlePath`).
    Bundle,
}

const BUNDLE: &str = "credentialbundle.pem";

/// The pod of an example for Contour, with a control plane that asks for its certificate.
fn a_pod_for_contour_lives_rotates_and_ends(file: &str, certificates: Certificates) {
    let mut all = documents(file).into_iter();
    let manifest = all.find(|one| one["spec"]["template"].is_object());
    // There is no name service in this network.
    let manifest = manifest.unwrap().to_string();
    assert!(manifest.contains("--xds-address=contour"));
    let mut manifest = manifest.replace("--xds-address=contour", "--xds-address=127.0.0.1");
    if certificates == Certificates::Bundle {
        for name in ["tls.crt", "tls.key"] {
            assert!(manifest.contains(name));
            manifest = manifest.replace(name, BUNDLE);
        }
    }
    let manifest = serde_json::from_str(&manifest).unwrap();

    let dir = TempDir::new();
    let mut make = python("tests/xds/certs.py");
    make.arg("ca").arg(dir.path());
    assert!(make.status().unwrap().success());
    make_leaf(&dir, "server", &["--san", "contour"]);
    let network = Network::new();
    let upstream = network.enter(Upstream::start);
    let mut server = python("tests/xds/server.py");
    server.args(["--port", "8001", "--listener-port", "8080"]);
    server.args(["--upstream-port", &upstream.http.port().to_string()]);
    server.arg("--cert").arg(dir.join("server.crt"));
    server.arg("--key").arg(dir.join("server.key"));
    server.arg("--ca").arg(dir.join("ca.crt"));
    server.stdin(Stdio::null()).stdout(Stdio::null());
    // Its end is tied to this thread's: it is started here, in that network.
    let _server = network.spawn(&mut server);

    let ca = std::fs::read_to_string(dir.join("ca.crt")).unwrap();
    let files = |leaf: &str| {
        let [cert, key] = make_leaf(&dir, leaf, &[]);
        let mut files = vec![("ca.crt", ca.clone())];
        match certificates {
            Certificates::Secret => files.extend([("tls.crt", cert), ("tls.key", key)]),
            Certificates::Bundle => files.push((BUNDLE, key + &cert)),
        }
        files
    };
    let first = files("first");
    let first: Vec<_> = first
        .iter()
        .map(|(name, text)| ("certs", *name, text.as_str()))
        .collect();
    let pod = Pod::new(&manifest, network, &first);
    let mut container = pod.start();
    let generation = |number: u32| {
        let line = format!(
            "drainit_certificate_generation{{secret=\"contour_xds_tls_certificate\"}} {number}\n"
        );
        wait_for(&format!("generation {number}"), PATIENCE, || {
            pod.get(8090, "/metrics")
                .is_some_and(|page| page.body.contains(&line))
        });
    };
    generation(1);
    pod.write("certs", "second", &files("second"));
    generation(2);
    assert_eq!(container.status("Uid:"), "65534 65534 65534 65534");
    assert_eq!(container.status("CapBnd:"), "0000000000000000");

    let ingress = ([127, 0, 0, 1], 8080).into();
    let slow = pod
        .network
        .enter(|| SlowRequest::start(ingress, Duration::from_secs(1)));
    upstream.wait_in_flight(1);
    let (code, took) = pod.end(&mut container, || assert_eq!(slow.status(), 200));
    assert_eq!(code, 0);
    assert!(took < pod.grace_period(), "{took:?}");
}

#[test]
fn the_deployment_for_contour_lives_rotates_and_ends() {
    a_pod_for_contour_lives_rotates_and_ends("contour-deployment.yaml", Certificates::Secret);
}

#[test]
fn the_daemon_set_for_contour_lives_rotates_and_ends() {
    a_pod_for_contour_lives_rotates_and_ends("contour-daemonset.yaml", Certificates::Secret);
}

#[test]
fn a_pod_with_the_bundle_of_pod_certificates_lives_rotates_and_ends() {
    a_pod_for_contour_lives_rotates_and_ends("contour-deployment.yaml", Certificates::Bundle);
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
