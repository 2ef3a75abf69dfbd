//! Rotation under traffic.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use drainit::certificates::check::check_pair;
use drainit::certificates::publish::SdsTarget;

use crate::support::PATIENCE;
use crate::support::pki::Pair;
use crate::support::wait_for;
use crate::support::xds::{CA, LEAF, Node, reloads, secret};
use crate::writers;

/// In CI; `TEST_DRAINIT_ROTATIONS` says otherwise.
const ROTATIONS: usize = 40;

/// Reads what is published, again and again: every set must be whole. How many it saw.
pub fn watch(node: &Node, stop: &Arc<AtomicBool>) -> thread::JoinHandle<usize> {
    let (resources, stop) = (node.resources(), Arc::clone(stop));
    thread::spawn(move || {
        let mut reads = 0;
        while !stop.load(Ordering::SeqCst) {
            let path = SdsTarget::contour(&resources).first.path;
            let text = fs::read(path).unwrap();
            let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
            let leaf = &json["resources"][0]["tls_certificate"];
            let pem = |name: &str| leaf[name]["inline_string"].as_str().unwrap().as_bytes();
            let pair = check_pair(
                pem("certificate_chain"),
                pem("private_key"),
                SystemTime::now(),
            );
            assert!(pair.unwrap().matched);
            reads += 1;
            thread::sleep(Duration::from_millis(2));
        }
        reads
    })
}

#[test]
fn rotations_fail_no_request_and_cut_no_stream() {
    let set_by_hand = std::env::var("TEST_DRAINIT_ROTATIONS");
    let rotations = set_by_hand.map_or(ROTATIONS, |number| number.parse().unwrap());
    let (node, first) = Node::with_leaf();
    let plane = node.control_plane(None);
    let drainit = node.ready(&["--certificate-check", "100ms", "--log-level", "debug"]);
    let envoy = drainit.envoy_pid();
    wait_for("the first set to be confirmed", PATIENCE, || {
        secret(&drainit, LEAF)["last_result"] == "ok"
    });
    let before = reloads(&drainit, "ok");
    let load = node.load(&drainit);
    let stop = Arc::default();
    let reader = watch(&node, &stop);
    let mut leaf = first.clone();
    for number in 0..rotations {
        leaf = node.ca.leaf();
        match number % 3 {
            0 => writers::kubelet(&node, &leaf),
            1 => writers::rename(&node, &leaf),
            _ => writers::in_place(&node, &leaf),
        }
        node.wait_loaded(&leaf);
    }
    wait_for("the last one's confirmation", PATIENCE, || {
        reloads(&drainit, "ok") == before + rotations as u64
    });
    stop.store(true, Ordering::SeqCst);
    assert!(reader.join().unwrap() > 0, "nobody has read");

    // The stream is the first one still, and knows nothing of it.
    assert_eq!(plane.handshakes(), [first.serial.as_str()]);
    assert_eq!(plane.open(), 1);
    assert_eq!(node.statistic("control_plane.connected_state"), 1);

    // A control plane that comes back sees the last leaf; the traffic sees nothing.
    plane.stop();
    wait_for("Envoy to notice", PATIENCE, || {
        node.statistic("control_plane.connected_state") == 0
    });
    // One more while there is none.
    let last = node.ca.leaf();
    node.write(&last);
    node.wait_loaded(&last);
    let plane = node.control_plane(None);
    plane.wait_presented(&last);
    assert_eq!(plane.handshakes(), [last.serial.as_str()]);

    let (_, failed) = load.finish();
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(drainit.envoy_pid(), envoy);

    // What people see of it.
    let generation = rotations as u64 + 2;
    let told = secret(&drainit, LEAF);
    assert_eq!(told["generation"], generation);
    assert_eq!(told["serial"], last.serial.as_str());
    assert_eq!(told["last_result"], "ok");
    assert!(told["last_error"].is_null(), "{told}");
    assert!(told["left_seconds"].as_u64().unwrap() > 80 * 24 * 3600);
    assert_eq!(secret(&drainit, CA)["generation"], generation);
    let metrics = drainit.get("/metrics").1;
    for line in [
        format!("drainit_certificate_generation{{secret=\"{LEAF}\"}} {generation}\n"),
        format!("drainit_certificate_generation{{secret=\"{CA}\"}} {generation}\n"),
        format!("drainit_certificate_reloads_total{{secret=\"{LEAF}\",result=\"refused\"}} 0\n"),
        format!("drainit_certificate_reloads_total{{secret=\"{LEAF}\",result=\"rejected\"}} 0\n"),
        format!(
            "drainit_certificate_reloads_total{{secret=\"{LEAF}\",result=\"unconfirmed\"}} 0\n"
        ),
        format!("drainit_certificate_stale{{secret=\"{LEAF}\"}} 0\n"),
        format!("drainit_certificate_not_after_seconds{{secret=\"{LEAF}\"}} "),
    ] {
        assert!(metrics.contains(&line), "{line}\n{metrics}");
    }
    for wanted in ["found serial", "published gen-", "Envoy loaded gen-"] {
        drainit.wait_log(&format!("{LEAF}: {wanted}"));
    }
    no_key_is_told(&drainit, &[first, leaf, last]);
}

/// A piece of a key's bytes is in nothing that anybody can read.
pub fn no_key_is_told(drainit: &crate::support::drainit::Drainit, pairs: &[Pair]) {
    let mut told = drainit.log.lines();
    for path in ["/status", "/metrics", "/healthz", "/ready"] {
        told.push(drainit.get(path).1);
    }
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        told.push(String::from_utf8_lossy(&line).into_owned());
    }
    for pair in pairs {
        let lines = pair.key.lines().filter(|line| !line.starts_with('-'));
        for line in lines.filter(|line| line.len() >= 20) {
            // A line's end: its beginning may be the same in every key of this kind.
            let piece = &line[line.len() - 16..];
            let found = told.iter().find(|told| told.contains(piece));
            assert!(found.is_none(), "{found:?}");
        }
    }
}
