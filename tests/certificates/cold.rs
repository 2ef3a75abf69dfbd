//! The start before the certificates are there.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::drainit::{Drainit, run};
use crate::support::pki::Pair;
use crate::support::process::children;
use crate::support::xds::Node;
use crate::support::{PATIENCE, holds_for, wait_for_some};
use crate::traffic::no_key_is_told;

/// From the files to an Envoy with its listener, by what is promised.
const PROMISED: Duration = Duration::from_secs(2);
/// Four start at once here, on few processors.
const TOGETHER: Duration = Duration::from_secs(3);

/// What is there at first, and what is said of it.
type Bad = (&'static str, fn(&Node), &'static str);

const BAD: [Bad; 4] = [
    ("no files", |_| (), "tls.crt: is missing"),
    (
        "no directory",
        |node| fs::remove_dir(node.live()).unwrap(),
        "tls.crt: is missing",
    ),
    (
        "empty files",
        |node| {
            for name in ["tls.crt", "tls.key", "ca.crt"] {
                fs::write(node.file(name), "").unwrap();
            }
        },
        "the certificate: is empty",
    ),
    (
        "another leaf's key",
        |node| {
            let key = node.ca.leaf().key;
            node.write(&Pair {
                key,
                ..node.ca.leaf()
            });
        },
        "the key: is not the certificate's",
    ),
];

/// Waits for what is said while the gate is shut.
fn wait_gated(drainit: &Drainit, why: &str) {
    let text = wait_for_some("the gate", PATIENCE, || {
        let answer = drainit.request("GET", "/healthz", PATIENCE).ok()?;
        answer.1.contains(why).then_some(answer)
    });
    assert_eq!(text.0, 200);
    assert!(
        text.1.starts_with("waiting for certificates: "),
        "{}",
        text.1
    );
    let ready = drainit.get("/ready");
    assert_eq!(ready.0, 503);
    assert!(ready.1.contains("waiting for certificates"), "{}", ready.1);
    drainit.wait_log("waiting for certificates: ");
    let status = drainit.get("/status").1;
    assert!(status.contains("waiting"), "{status}");
}

fn heals((what, make, why): Bad, after: Duration, promised: Duration) {
    let node = Node::new();
    make(&node);
    let _plane = node.control_plane(None);
    let drainit = node.start(&[]);
    let start = Instant::now();
    wait_gated(&drainit, why);
    holds_for("the gate", after.saturating_sub(start.elapsed()), || {
        children(drainit.pid()).is_empty() && drainit.get("/healthz").0 == 200
    });
    if after > Duration::from_secs(11) {
        drainit.wait_log("envoy has not been started for 10 s: ");
    }
    fs::create_dir_all(node.live()).unwrap();
    let leaf = node.ca.leaf();
    node.write(&leaf);
    let written = Instant::now();
    node.wait_configured();
    let took = written.elapsed();
    println!("{what}, healed after {after:?}: live with its configuration {took:?} later");
    assert!(took < promised, "{what}: {took:?}");
    assert!(node.has_loaded(&leaf));
    drainit.wait_ready();
    no_key_is_told(&drainit, &[leaf]);
}

#[test]
fn an_envoy_starts_when_its_certificates_are_there() {
    let tests = BAD.map(|bad| thread::spawn(move || heals(bad, Duration::from_secs(5), TOGETHER)));
    for test in tests {
        test.join().unwrap();
    }
}

/// Beyond the 30 s after which an Envoy alone would have gone on without a configuration.
#[test]
fn an_envoy_starts_when_its_certificates_are_there_after_forty_seconds() {
    let [no_files, ..] = BAD;
    heals(no_files, Duration::from_secs(40), PROMISED);
}

#[test]
fn a_sigterm_before_there_are_certificates_is_the_end_at_once() {
    let node = Node::new();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
        let mut drainit = node.start(&[]);
        wait_gated(&drainit, "tls.crt: is missing");
        let listen = format!("unix:{}", drainit.health.text());
        assert_eq!(run(&["hold", "--listen", &listen]).0, 0);
        let (code, said, _) = run(&["resume", "--listen", &listen]);
        let why = "not held any more; envoy is not live: waiting: ";
        assert!(code == 0 && said.starts_with(why), "{code}: {said}");
        // Some time later as well as at once.
        sleep(Duration::from_millis(200));
        let start = Instant::now();
        drainit.signal(signal);
        assert_eq!(drainit.wait_exit(PATIENCE), 0);
        assert!(
            start.elapsed() < Duration::from_secs(1),
            "{:?}",
            start.elapsed()
        );
        assert!(drainit.log.find("envoy started").is_none());
    }
}

/// A set that only Envoy knows to be bad opens no gate either.
#[test]
fn a_first_set_that_a_candidate_refuses_is_waited_out() {
    let node = Node::new();
    let weak = node
        .ca
        .leaf_with(&serde_json::json!({ "kind": "rsa", "bits": 1024 }));
    node.write(&weak);
    let _plane = node.control_plane(None);
    let drainit = node.start(&[]);
    wait_gated(&drainit, "a candidate Envoy refused it");
    let leaf = node.ca.leaf();
    node.write(&leaf);
    node.wait_configured();
    drainit.wait_ready();
    no_key_is_told(&drainit, &[weak, leaf]);
}

/// Tried as a candidate, it would start a second Envoy that serves.
#[test]
fn a_start_script_that_drops_its_arguments_runs_once() {
    let (node, leaf) = Node::with_leaf();
    let _plane = node.control_plane(None);
    let (script, runs) = (node.dir.join("start.sh"), node.dir.join("runs"));
    let envoy = crate::support::envoy();
    let text = format!(
        "#!/bin/sh\necho run >>{}\nexec {} -c {} --concurrency 2 -l warning --disable-hot-restart\n",
        runs.display(),
        envoy.display(),
        node.config()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
    let options = node.options(&["--admin-address", &node.admin.text()]);
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    let drainit = Drainit::start(&options, &[script.display().to_string()]);
    node.wait_configured();
    node.wait_loaded(&leaf);
    drainit.wait_ready();
    let next = node.ca.leaf();
    node.write(&next);
    node.wait_loaded(&next);
    assert_eq!(fs::read_to_string(&runs).unwrap(), "run\n");
}
