//! How most tests open: an upstream, an Envoy's configuration before it, and drainit with that Envoy.
//!
//! What is returned goes in the opposite order: drainit first, the upstream last.

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
