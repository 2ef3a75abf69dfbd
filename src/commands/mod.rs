//! The commands that are not the supervisor.

pub mod bootstrap;
