//! The clients of a running drainit.

pub mod health;
pub mod install;
pub mod shutdown;

use std::io::Write;
use std::time::Duration;

use crate::options::{self, Command};

/// How long a running drainit may take for an answer: a little more than it waits for Envoy's.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// The longest answer that is taken, in bytes.
pub const BODY: u64 = 4 * 1024 * 1024;

/// Writes a line to stdout, whoever reads there or does not.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Writes a line to stderr, whoever reads there or does not.
pub fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "drainit: {line}");
}

/// Runs a client command, and returns the exit code.
pub fn run(command: Command) -> u8 {
    match command {
        Command::Shutdown(options) => shutdown::run(&options),
        Command::Health(options, probe) => health::run(&options, probe),
        Command::Install(path) => install::run(&path),
        Command::Version => {
            say(&options::version());
            0
        }
        _ => {
            say(options::help().trim_end());
            0
        }
    }
}
