//! drainit: pid 1 of an Envoy container. See `drainit help`, and the README.

use std::process::ExitCode;

use drainit::commands::{self, complain};
use drainit::options::{self, Command};
use drainit::process::Signals;
use drainit::process::relro;
use drainit::supervisor;

fn main() -> ExitCode {
    // First of all: a pid 1 silently drops a signal that comes before its handler.
    let (signals, waker) = match Signals::install() {
        Ok(installed) => installed,
        Err(error) => {
            complain(&format!("cannot handle signals: {error}"));
            return ExitCode::FAILURE;
        }
    };
    relro::protect();
    let command = options::parse(std::env::args_os().skip(1), |name| std::env::var_os(name));
    if let Ok(Command::Run(options, line)) = command {
        return ExitCode::from(supervisor::run(*options, line, signals, waker));
    }
    signals.release();
    ExitCode::from(match command {
        Ok(command) => commands::run(command),
        Err(why) => {
            complain(&why);
            2
        }
    })
}
