//! What a SIGTERM will do to an Envoy, and what is wrong with the whole bargain: the rules are pure,
//! and what they go by is gathered apart from them.

pub mod candidate;
pub mod config;
pub mod facts;
pub mod gather;
pub mod host;
pub mod judge;
pub mod listener;
mod matcher;
mod overlay;
pub mod program;
mod prospect;
pub mod report;
mod rules;
mod rules_bargain;
mod rules_listener;
