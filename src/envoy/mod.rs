//! All that knows Envoy.

pub mod stats;
