//! How most tests open: an upstream, an Envoy's configuration before it, and drainit with that Envoy.
//!
//! What is returned goes in the opposite order: drainit first, the upstream last.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::PATIENCE;
use super::clients::SlowRequest;
use super::drainit::Drainit;
use super::envoy_config::{Admin, EnvoyConfig};
use super::upstream::Upstream;

/// An upstream, and the configuration of an Envoy before it.
pub fn of(admin: Admin) -> (Upstream, EnvoyConfig) {
    let upstream = Upstream::start();
    let config = EnvoyConfig::new(admin, &upstream);
    (upstream, config)
}

/// The same with the admin interface on a socket, and the Envoy ready under drainit.
pub fn ready(options: &[&str]) -> (Upstream, EnvoyConfig, Drainit) {
    let (upstream, config) = of(Admin::Unix);
    let drainit = Drainit::ready(options, &config);
    (upstream, config, drainit)
}

/// A request that is in flight at SIGTERM gets its answer, and then drainit ends, drained.
#[track_caller]
pub fn a_request_is_waited_for(drainit: &mut Drainit, config: &EnvoyConfig, upstream: &Upstream) {
    let slow = SlowRequest::start(config.http, Duration::from_secs(2));
    upstream.wait_in_flight(1);
    drainit.signal(Signal::SIGTERM);
    assert_eq!(slow.status(), 200);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    drainit.wait_log("drained after");
}
