//! All that knows Envoy.

pub mod address;
pub mod admin;
pub mod epoch;
pub mod fetch;
pub mod flags;
pub mod hot_restart;
pub mod kernel;
pub mod kin;
pub mod lines;
pub mod listeners;
pub mod load;
pub mod old;
pub mod question;
pub mod refusal;
pub mod roll_call;
pub mod stand_in;
pub mod stats;
pub mod titles;
pub mod traffic;
pub mod watch;
pub mod witnesses;
