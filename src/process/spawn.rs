//! How a child is started.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::libc;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawnp};
use nix::sys::signal::{SigSet, Signal};

use super::signals::IGNORED;

/// A child to be.
#[derive(Debug)]
pub struct Spawn<'a> {
    /// A path, or a name on PATH.
    pub program: &'a OsStr,
    /// Its arguments.
    pub args: &'a [OsString],
    /// Environment variables that are not for it.
    pub without: &'a [&'a str],
    /// A descriptor that it inherits.
    pub inherit: Option<&'a OwnedFd>,
    /// Where its stdout and stderr go, if not to ours.
    pub output: Option<&'a File>,
}

/// Spawns a child, and returns its pid as soon as it has become `program`.
///
/// Only from the main thread: Envoy with hot restart asks the kernel for a SIGTERM when the
/// *thread* that spawned it ends (PR_SET_PDEATHSIG).
///
/// # Errors
/// Those of exec, among them `NotFound` and `PermissionDenied`; see [`spawn_failure`].
pub fn spawn(spawn: &Spawn<'_>) -> io::Result<i32> {
    let line = std::iter::once(spawn.program).chain(spawn.args.iter().map(OsString::as_os_str));
    let line = line.map(c_string).collect::<io::Result<Vec<_>>>()?;
    let env = std::env::vars_os()
        .filter(|(name, _)| !spawn.without.iter().any(|other| name == other))
        .map(|(mut entry, value)| {
            entry.push("=");
            entry.push(value);
            c_string(&entry)
        })
        .collect::<io::Result<Vec<_>>>()?;
    let mut files = PosixSpawnFileActions::init()?;
    if let Some(output) = spawn.output {
        files.add_dup2(output.as_raw_fd(), libc::STDOUT_FILENO)?;
        files.add_dup2(output.as_raw_fd(), libc::STDERR_FILENO)?;
    }
    if let Some(fd) = spawn.inherit {
        // On itself: that says that the child keeps it.
        files.add_dup2(fd.as_raw_fd(), fd.as_raw_fd())?;
    }
    // What we ignore the child would too; Rust's runtime ignores SIGPIPE.
    let mut defaults = SigSet::from(Signal::SIGPIPE);
    defaults.extend(IGNORED);
    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_flags(PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF)?;
    attributes.set_sigdefault(&defaults)?;
    let pid = posix_spawnp(&c_string(spawn.program)?, &files, &attributes, &line, &env)?;
    Ok(pid.as_raw())
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    Ok(CString::new(text.as_bytes())?)
}

/// What a failed [`spawn`] means, as tini has it: drainit's exit code, and a line for a person.
pub fn spawn_failure(program: &OsStr, error: &io::Error) -> (u8, String) {
    let name = program.to_string_lossy();
    let exists = name.contains('/') && std::path::Path::new(program).exists();
    match error.kind() {
        io::ErrorKind::NotFound if exists => (
            127,
            match interpreter(program) {
                Some(interpreter) => {
                    format!("{name}: its interpreter {interpreter} is missing from this image")
                }
                None => format!(
                    "{name}: its dynamic loader is missing: this image lacks the libraries it needs"
                ),
            },
        ),
        io::ErrorKind::NotFound if name.contains('/') => (127, format!("{name}: not found")),
        io::ErrorKind::NotFound => (127, format!("{name}: not found on PATH")),
        _ if std::path::Path::new(program).is_dir() => {
            (126, format!("{name}: is a directory, not a program"))
        }
        _ => (126, format!("{name}: cannot be executed: {error}")),
    }
}

/// What a script's first line has it run by.
fn interpreter(program: &OsStr) -> Option<String> {
    let mut start = [0; 256];
    let read = File::open(program).ok()?.read(&mut start).ok()?;
    let line = String::from_utf8_lossy(start.get(..read)?);
    let words = line.lines().next()?.strip_prefix("#!")?;
    words.split_whitespace().next().map(str::to_owned)
}
