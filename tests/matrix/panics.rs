//! A panic in any thread, the main one included, costs at most what that thread had in hand.

#![cfg(debug_assertions)]

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::certificates::data;
use crate::support::clients::{SlowRequest, TcpSession};
use crate::support::drainit::{Drainit, Setting};
use crate::support::envoy_config::Admin;
use crate::support::scene;
use crate::support::{PATIENCE, TempDir, wait_for};

/// Panics a thread so many times in a row; whatever wakes it is tried.
#[track_caller]
fn panic(drainit: &Drainit, file: &Path, thread: &str, times: usize) {
    for _ in 0..times {
        // Whole at once: half a name is none.
        let new = file.with_extension("new");
        fs::write(&new, thread).unwrap();
        fs::rename(new, file).unwrap();
        wait_for(&format!("a panic of {thread}"), PATIENCE, || {
            let _ = drainit.request("GET", "/healthz", Duration::from_secs(1));
            // A line for the log.
            drainit.signal(Signal::SIGWINCH);
            !file.exists()
        });
    }
}

fn survives(thread: &str) {
    let (upstream, config) = scene::of(Admin::Unix);
    let dir = TempDir::new();
    let file = dir.join("panic");
    let resources = dir.path().display().to_string();
    let pair = ["ec.crt", "ec.key"].map(|name| data(name).display().to_string());
    let pair = format!("web={}", pair.join(","));
    let options = [
        "--drain-timeout",
        "60s",
        "--log-level",
        "debug",
        "--secret",
        &pair,
        "--resources-dir",
        &resources,
        "--certificate-check",
        "100ms",
    ];
    let mut drainit = Setting::default()
        .debug_build()
        .variable("TEST_DRAINIT_PANIC", file.display())
        // Every question to Envoy and every signal is a line.
        .ready(&options, &config);
    let envoy = drainit.envoy_pid();

    panic(&drainit, &file, thread, 3);
    drainit.wait_log(&format!("thread {thread} panicked"));
    drainit.wait_ready();
    assert_eq!(drainit.get("/healthz").0, 200);

    // The same while it drains, with something to lose.
    let mut session = TcpSession::open(config.tcp);
    let slow = SlowRequest::start(config.http, Duration::from_secs(1));
    upstream.wait_in_flight(1);
    drainit.signal(Signal::SIGTERM);
    drainit.wait_log("envoy's listeners drain");
    panic(&drainit, &file, thread, 2);
    assert_eq!(slow.status(), 200);
    session.echo().unwrap();
    assert_eq!(drainit.envoy_pid(), envoy);
    drop(session);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    drainit.wait_log("drained after");
}

#[test]
fn the_thread_that_asks_envoy_panics() {
    survives("admin");
}

#[test]
fn the_thread_that_answers_http_panics() {
    survives("http");
}

#[test]
fn the_thread_that_writes_the_log_panics() {
    survives("log");
}

#[test]
fn the_thread_that_keeps_the_certificates_fresh_panics() {
    survives("certificates");
}

#[test]
fn the_main_thread_panics() {
    survives("main");
}

#[test]
fn what_ships_has_no_faults_on_demand() {
    let holds = |program: &Path| {
        let bytes = fs::read(program).unwrap();
        bytes
            .windows(18)
            .any(|window| window == b"TEST_DRAINIT_PANIC")
    };
    assert!(holds(Path::new(env!("CARGO_BIN_EXE_drainit"))));
    assert!(!holds(&crate::support::drainit()));
}
