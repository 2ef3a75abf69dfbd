//! Nothing takes Envoy down: one test for each fault.
//!
//! Each says what the user sees (a log line, /healthz, /ready, the exit code), what bounds it, and
//! that nothing is lost which need not be. Faults of the answers of Envoy's admin interface are in
//! `tests/faults.rs`, those of strangers on the HTTP port in `tests/http`.

#[path = "../support/mod.rs"]
mod support;

mod admin;
mod advice;
mod certificates;
mod clock;
mod envoy;
mod limits;
mod listeners;
mod output;
mod panics;
mod rest;
mod stats;
mod system;

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use support::drainit::Drainit;

/// What may come on top of the deadline and the kill timeout.
const GRACE: Duration = Duration::from_secs(1);

/// Asks for the end, and checks that it comes within these bounds, with this exit code.
#[track_caller]
fn terminate_within(drainit: &mut Drainit, least: Duration, most: Duration, code: i32) {
    let start = Instant::now();
    drainit.signal(Signal::SIGTERM);
    assert_eq!(drainit.wait_exit(most + support::PATIENCE), code);
    let took = start.elapsed();
    assert!(took >= least, "too early: {took:?}");
    assert!(took <= most + GRACE, "too late: {took:?}");
}

/// Whether the Envoy under test is this one of 1.x or a later one.
fn envoy_is_at_least(minor: u32) -> bool {
    support::minor(&support::envoy()) >= minor
}
