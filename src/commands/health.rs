//! `drainit health`: an exec probe, and Docker's HEALTHCHECK.

use super::find;
use super::{get, say};
use crate::options::{Options, Probe};

/// Says in one line how Envoy is; 0 if well, else 1.
pub fn run(options: &Options, probe: Probe) -> u8 {
    let path = match probe {
        Probe::Live => "/healthz",
        Probe::Ready => "/ready",
    };
    match find::target(options).and_then(|target| get(&target, path)) {
        Ok((status, body)) => {
            say(body.lines().next().unwrap_or("no answer"));
            u8::from(status != 200)
        }
        Err(why) => {
            say(&why);
            1
        }
    }
}
