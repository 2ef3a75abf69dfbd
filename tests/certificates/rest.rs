//! What the check costs when nothing changes.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::drainit::Drainit;
use crate::support::xds::{LEAF, Node, secret};
use crate::support::{PATIENCE, wait_for};

/// Nanoseconds on a processor.
fn used(drainit: &Drainit, thread: &str) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", drainit.pid())).unwrap();
    let task = tasks
        .flatten()
        .find(|task| {
            fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == thread)
        })
        .unwrap();
    let line = fs::read_to_string(task.path().join("schedstat")).unwrap();
    line.split(' ').next().unwrap().parse().unwrap()
}

#[test]
#[ignore = "on a busy machine every wake-up finds cold caches: `cargo test rest -- --ignored`"]
fn at_rest_the_check_takes_under_fifty_microseconds_a_second() {
    let (node, _) = Node::with_leaf();
    let _plane = node.control_plane(None);
    let drainit = node.ready(&[]);
    wait_for("the confirmation", PATIENCE, || {
        secret(&drainit, LEAF)["last_result"] == "ok"
    });
    // Fresh files are read at every look.
    sleep(Duration::from_secs(5));
    let (start, before) = (Instant::now(), used(&drainit, "certificates"));
    sleep(Duration::from_secs(30));
    let used = used(&drainit, "certificates") - before;
    let rate = used as f64 / 1000.0 / start.elapsed().as_secs_f64();
    println!("the check of three files takes {rate:.1} us of processor a second");
    assert!(rate < 50.0, "{rate}");
}
