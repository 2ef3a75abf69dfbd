//! At rest.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::drainit::Drainit;
use crate::support::envoy_config::{Admin, EnvoyConfig};
use crate::support::process::Process;
use crate::support::upstream::Upstream;
use crate::support::{PATIENCE, TempDir, holds_for, wait_for};

#[test]
fn at_rest_no_thread_makes_a_system_call() {
    let upstream = Upstream::start();
    let config = EnvoyConfig::new(Admin::Unix, &upstream);
    let drainit = Drainit::ready(&[], &config);
    drainit.wait_log("envoy's version is");
    let dir = TempDir::new();
    let trace = dir.join("trace");
    let mut strace = Command::new("strace");
    strace.args([
        "-f",
        "-o",
        &trace.display().to_string(),
        "-p",
        &drainit.pid().to_string(),
    ]);
    strace.stderr(Stdio::null());
    let _strace = Process::spawn(&mut strace);
    let threads = fs::read_dir(format!("/proc/{}/task", drainit.pid()))
        .unwrap()
        .count();
    let lines = || fs::read_to_string(&trace).unwrap_or_default();
    // Each thread shows the call in which it waits, and no other after that.
    wait_for("strace to see every thread", PATIENCE, || {
        lines().lines().count() >= threads
    });
    let before = lines();
    holds_for("the rest", Duration::from_secs(3), || lines() == before);
    assert_eq!(before.lines().count(), threads, "{before}");
    // It would have shown one.
    let _ = drainit.get("/healthz");
    wait_for("a trace of a request", PATIENCE, || {
        lines().contains("accept")
    });
}
