//! All that knows Envoy.

pub mod address;
pub mod admin;
pub mod flags;
pub mod hot_restart;
pub mod sockets;
pub mod stats;
