//! The clients of a running drainit.

pub mod bootstrap;
pub mod health;
pub mod install;
mod progress;
pub mod reload;
pub mod shutdown;
pub mod status;

use std::io::Write;
use std::time::Duration;

use serde_json::Value;

use crate::client::{Address, Limits, Method, fetch};
use crate::options::{self, Command};
use crate::process;

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
    let _ = writeln!(std::io::stderr(), "drainit: {}", one_line(line));
}

/// What an argument or a peer put into a line must not make two of it.
fn one_line(line: &str) -> String {
    line.replace(char::is_control, " ")
}

/// Runs a client command, and returns the exit code.
pub fn run(command: Command) -> u8 {
    match command {
        Command::Shutdown(options) => shutdown::run(&options),
        Command::Health(options, probe) => health::run(&options, probe),
        Command::Status(options, look) => status::run(&options, look),
        Command::Install(path) => install::run(&path),
        Command::Reload(options) => reload::run(&options),
        Command::Bootstrap(options) => match bootstrap::run(&options) {
            Ok(()) => 0,
            Err(why) => {
                complain(&why);
                1
            }
        },
        Command::Version => {
            say(&options::version());
            0
        }
        Command::Help(topic) => {
            say(options::help(topic).trim_end());
            0
        }
        // It is main's.
        Command::Run(..) => 2,
    }
}

/// What the drainit at `address` is doing: the JSON of `/status`. It waits a moment for fresh
/// figures, where those that are known are old.
///
/// # Errors
/// One line, when no drainit answers there.
pub fn status(address: &Address) -> Result<Value, String> {
    read_status(address, "/status")
}

/// The same at once, for who does not look at the figures.
///
/// # Errors
/// Those of [`status`].
pub fn status_now(address: &Address) -> Result<Value, String> {
    read_status(address, "/status?now")
}

fn read_status(address: &Address, path: &str) -> Result<Value, String> {
    let limits = Limits {
        time: PATIENCE,
        body: BODY,
    };
    let (_, body) = fetch(address, Method::Get, path, limits)?;
    let status = serde_json::from_str(&body).ok().filter(Value::is_object);
    status.ok_or_else(|| format!("{address}: no drainit answers there"))
}

/// The pid of the drainit whose status this is; none where it runs in another pid namespace than
/// we do, in which that pid is somebody else's.
pub fn pid_in(status: &Value) -> Option<i32> {
    let number = |path| status.pointer(path).and_then(Value::as_u64);
    let is_ours = number("/drainit/pid_namespace")? == process::pid_namespace();
    let pid = number("/drainit/pid").filter(|_| is_ours)?;
    i32::try_from(pid).ok()
}
