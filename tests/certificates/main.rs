//! Envoy's certificates rotate without a restart: seen on a real Envoy with a real xDS server
//! over mutual TLS.
//!
//! What is set by hand: `DRAINIT_TEST_ROTATIONS=200` for the long run under traffic,
//! `DRAINIT_TEST_LONG=1` for a cold start that is healed after 40 s, `DRAINIT_TEST_REST=1` for
//! the cost at rest, which means nothing on a busy machine.

#[path = "../support/mod.rs"]
mod support;

mod authority;
mod burst;
mod cold;
mod faults;
mod listener;
mod mounts;
mod published;
mod refused;
mod rest;
mod traffic;
mod writers;

use std::env;
use std::fs;
use std::path::Path;

/// The number in this environment variable, if it is set.
fn set_by_hand(variable: &str) -> Option<usize> {
    env::var(variable).ok()?.parse().ok()
}

/// Puts a file where another one may be, as a whole.
fn put(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}
