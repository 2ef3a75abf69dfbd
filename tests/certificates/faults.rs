//! Files that are no files, and a certificate thread that dies.

use std::fs;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;

use crate::support::clients::SlowRequest;
use crate::support::drainit::{Drainit, Setting};
use crate::support::xds::{LEAF, Node, reloads, secret, wait_result};
use crate::support::{PATIENCE, TempDir, wait_for};

#[test]
fn a_fifo_in_place_of_a_file_is_refused_at_once() {
    let (node, first) = Node::with_leaf();
    let _plane = node.control_plane(None);
    let drainit = node.ready(&["--certificate-check", "100ms"]);
    let before = reloads(&drainit, "refused");
    fs::remove_file(node.file("tls.key")).unwrap();
    nix::unistd::mkfifo(&node.file("tls.key"), Mode::S_IRWXU).unwrap();
    let why = wait_result(&drainit, "refused", before);
    assert!(why.contains("is not a file"), "{why}");
    assert!(node.has_loaded(&first));
    fs::remove_file(node.file("tls.key")).unwrap();
    let next = node.ca.leaf();
    node.write(&next);
    node.wait_loaded(&next);
}

#[cfg(debug_assertions)]
fn lines_with(drainit: &Drainit, text: &str) -> usize {
    let lines = drainit.log.lines();
    lines.iter().filter(|line| line.contains(text)).count()
}

#[cfg(debug_assertions)]
#[test]
fn the_certificate_thread_panics_and_traffic_health_and_drain_do_not_notice() {
    let (node, first) = Node::with_leaf();
    let plane = node.control_plane(None);
    let dir = TempDir::new();
    let file = dir.join("panic");
    let setting = Setting::default()
        .debug_build()
        .variable("TEST_DRAINIT_PANIC", file.display());
    let mut drainit = node.start_in(setting, &["--certificate-check", "100ms"]);
    node.wait_configured();
    drainit.wait_ready();
    let envoy = drainit.envoy_pid();
    let load = node.load(&drainit);
    let panic = || {
        let new = file.with_extension("new");
        fs::write(&new, "certificates").unwrap();
        fs::rename(new, &file).unwrap();
        wait_for("a panic", PATIENCE, || {
            drainit.signal(Signal::SIGHUP);
            !file.exists()
        });
    };
    for _ in 0..3 {
        panic();
        assert_eq!(drainit.get("/healthz").0, 200);
        assert_eq!(drainit.get("/ready").0, 200);
    }
    drainit.wait_log("thread certificates panicked");
    // Whoever asked it for a reload has an answer.
    drainit.wait_log("reload failed: the certificate thread ended before the reload did");
    // It goes on from what is published: no candidate, and nothing is told in between.
    wait_for("a reload", PATIENCE, || {
        drainit.signal(Signal::SIGHUP);
        lines_with(&drainit, &format!(" reloaded: {LEAF}: gen-1, ")) > 0
    });
    let told = secret(&drainit, LEAF);
    assert_eq!(told["last_result"], "ok");
    assert_eq!(told["serial"], first.serial.as_str());
    assert_eq!(told["generation"], 1);
    assert_eq!(lines_with(&drainit, "the verdict of a candidate Envoy"), 1);
    let next = node.ca.leaf();
    node.write(&next);
    panic();
    node.wait_loaded(&next);
    wait_for("the confirmation", PATIENCE, || {
        let told = secret(&drainit, LEAF);
        told["generation"] == 2 && told["last_result"] == "ok"
    });
    panic();
    let (_, failed) = load.finish();
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(plane.handshakes(), [first.serial.as_str()]);
    assert_eq!(drainit.envoy_pid(), envoy);
    let slow = SlowRequest::start(node.listener, std::time::Duration::from_secs(1));
    wait_for("the request", PATIENCE, || {
        node.statistic("http.ingress.downstream_rq_active") == 1
    });
    drainit.signal(Signal::SIGTERM);
    assert_eq!(slow.status(), 200);
    assert_eq!(drainit.wait_exit(PATIENCE * 2), 0);
    drainit.wait_log("drained after");
}
