//! Envoy's certificates rotate without a restart: seen on a real Envoy with a real xDS server
//! over mutual TLS.
//!
//! `TEST_DRAINIT_ROTATIONS=200` makes the run under traffic a long one.

#[path = "../support/mod.rs"]
mod support;

mod alone;
mod authority;
mod burst;
mod clients;
mod cold;
mod faults;
mod five;
mod keys;
mod listener;
mod mounts;
mod published;
mod refused;
mod staple;
mod traffic;
mod writers;

use std::fs;
use std::path::Path;

/// Puts a file where another one may be, as a whole.
fn put(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}
