//! The parts of `drainit`, for its tests and fuzzers. The program is `src/main.rs`.

pub mod certificates;
pub mod cidr;
pub mod drain;
pub mod envoy;
pub mod event;
pub mod http;
pub mod mailbox;
pub mod status;
