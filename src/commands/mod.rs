//! The clients of a running drainit.

pub mod bootstrap;
pub mod check;
pub mod find;
pub mod health;
pub mod help;
pub mod hold;
pub mod install;
mod progress;
pub mod reload;
pub mod shutdown;
pub mod status;

use std::io::Write;
use std::time::Duration;

use serde_json::Value;

use crate::client::{ExchangeLimits, Method, fetch_from};
use crate::options::Command;
use crate::process;
use find::Target;

/// How long a running drainit may take for an answer: a little more than it waits for Envoy's.
const PATIENCE: Duration = Duration::from_secs(2);

/// No drain lasts longer: the longest `--drain-timeout` is 30 days.
const FOREVER: Duration = Duration::from_secs(31 * 86_400);

/// The longest answer that is taken, in bytes.
const BODY: u64 = 4 * 1024 * 1024;

/// How long an answer may take, and how long it may be.
const LIMITS: ExchangeLimits = ExchangeLimits {
    time: PATIENCE,
    body: BODY,
};

/// The stack of a thread that asks a running drainit, in bytes.
const STACK: usize = 256 * 1024;

/// The longest line that is shown, in characters.
const LINE: usize = 2_000;

/// Writes a line to stdout, whoever reads there or does not.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{}", clean(line, LINE));
}

/// Writes a line to stderr, whoever reads there or does not.
pub fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "drainit: {}", clean(line, LINE));
}

/// Writes lines of our own making to stdout.
fn print(page: &str) {
    let _ = writeln!(std::io::stdout(), "{page}");
}

/// At the most so many characters of a line, and none that a terminal obeys: what an argument or
/// a peer put into it must neither make two of it nor move the cursor.
pub fn clean(line: &str, most: usize) -> String {
    let shown = |c: char| match c {
        '\n' | '\r' | '\t' => ' ',
        c if is_obeyed(c) => '?',
        c => c,
    };
    let mut text: String = line.chars().take(most).map(shown).collect();
    if line.chars().nth(most).is_some() {
        text.push('…');
    }
    text
}

/// Whether a terminal does something else than to show this character: the control characters, and
/// those that turn the direction of writing (Unicode Standard Annex 9).
pub fn is_obeyed(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns || c.is_control()
}

/// Runs a client command, and returns the exit code.
pub fn run(command: Command) -> u8 {
    match command {
        Command::Shutdown(options) => shutdown::run(&options),
        Command::Hold(options) => hold::hold(&options),
        Command::Resume(options) => hold::resume(&options),
        Command::Health(options, probe) => health::run(&options, probe),
        Command::Status(options, look) => status::run(&options, look),
        Command::Install(path) => install::run(&path),
        Command::Reload(options, waits) => reload::run(&options, waits),
        Command::Check(options, line, json) => check::run(*options, &line, json),
        Command::Bootstrap(options) => match bootstrap::run(&options) {
            Ok(()) => 0,
            Err(why) => {
                complain(&why);
                1
            }
        },
        Command::Version => {
            print(concat!("drainit ", env!("CARGO_PKG_VERSION")));
            0
        }
        Command::Help(topic) => help::run(topic),
        // It is main's.
        Command::Run(..) => 2,
    }
}

/// What a drainit is doing: the JSON of `/status`. It waits a moment for fresh figures, where those
/// that are known are old; or, with `now`, answers at once, for who does not look at the figures.
///
/// # Errors
/// One line, when no drainit answers there.
pub fn read_status(target: &Target, now: bool) -> Result<Value, String> {
    let (_, body) = get(target, if now { "/status?now" } else { "/status" })?;
    let (_, address) = target.door();
    parse_status(&body).ok_or_else(|| format!("{address}: no drainit answers there"))
}

/// What a drainit was doing when it was over: the JSON of `/status`, with its verdict. Waits for
/// that.
///
/// # Errors
/// One line, when it ended without a word.
pub fn read_end(target: &Target) -> Result<Value, String> {
    let limits = ExchangeLimits {
        time: FOREVER,
        body: BODY,
    };
    let (peer, address) = target.door();
    let (_, body) = fetch_from(peer, address, Method::Get, "/status?end", limits)?;
    parse_status(&body).ok_or_else(|| format!("{address}: no drainit answers there"))
}

/// The JSON of `/status`, whoever wrote it.
pub fn parse_status(body: &str) -> Option<Value> {
    serde_json::from_str(body).ok().filter(Value::is_object)
}

/// Status and body of the answer to a GET.
fn get(target: &Target, path: &str) -> Result<(u16, String), String> {
    let (peer, address) = target.door();
    fetch_from(peer, address, Method::Get, path, LIMITS)
}

/// The pid of the drainit whose status this is; none where it runs in another pid namespace than
/// we do, in which that pid is somebody else's.
pub fn pid_in(status: &Value) -> Option<i32> {
    let number = |path| status.pointer(path).and_then(Value::as_u64);
    let is_ours = number("/drainit/pid_namespace")? == process::pid_namespace();
    let pid = number("/drainit/pid").filter(|_| is_ours)?;
    i32::try_from(pid).ok()
}
