//! The parts of `drainit`, for its tests and fuzzers. The program is `src/main.rs`.

pub mod certificates;
pub mod cgroup;
pub mod cidr;
pub mod client;
pub mod commands;
pub mod connections;
pub mod control;
pub mod credentials;
pub mod drain;
pub mod duration;
pub mod envoy;
pub mod event;
pub mod fault;
pub mod http;
pub mod logging;
pub mod mailbox;
pub mod notify;
pub mod options;
pub mod process;
pub mod pulse;
pub mod relro;
pub mod status;
pub mod supervisor;
