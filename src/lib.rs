//! The parts of `drainit`, for its tests and fuzzers. The program is `src/main.rs`.

pub mod certificates;
pub mod commands;
pub mod drain;
pub mod envoy;
pub mod event;
pub mod mailbox;
pub mod status;
