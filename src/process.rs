//! Unix: signals in and out, spawning, reaping, exit codes.

mod exit;

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::libc::{self, c_int};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawnp};
use nix::sys::signal::{
    SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask,
};
use signal_hook::low_level;

use crate::mailbox::{Waker, Wakeups};
pub use exit::{End, Exit, ExitClass};

/// A signal's name (`SIGTERM`), also where it has none of its own (`signal 40`).
pub fn signal_name(signal: c_int) -> String {
    match Signal::try_from(signal) {
        Ok(signal) => signal.as_str().to_owned(),
        Err(_) => format!("signal {signal}"),
    }
}

/// The signals that mean something to drainit.
const MEANT: [c_int; 7] = [
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGCHLD,
    libc::SIGHUP,
    libc::SIGUSR1,
    libc::SIGUSR2,
];

/// Signals by which a terminal would stop us for a line of the log, when we are a job in the
/// background.
const IGNORED: [Signal; 2] = [Signal::SIGTTIN, Signal::SIGTTOU];

/// Signals that mean nothing to drainit, and whose default would end it or say nothing.
const SURVIVED: [c_int; 10] = [
    libc::SIGALRM,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGIO,
    libc::SIGPWR,
    libc::SIGSTKFLT,
    libc::SIGXCPU,
    libc::SIGXFSZ,
    libc::SIGWINCH,
    libc::SIGURG,
];

/// The signals that came, caught by handlers that set a flag and wake the main thread.
///
/// They are handled, not blocked: since Rust 1.66 a child inherits the mask (rust issue 101077),
/// and an Envoy that does would never see a signal. Handlers become defaults at exec.
#[derive(Debug)]
pub struct Signals {
    /// A bit for each, as the kernel has them: the lowest is signal 1.
    came: Arc<AtomicU64>,
    waker: Waker,
    wakeups: Wakeups,
}

impl Signals {
    /// Installs the handlers: the first thing in `main`, because a pid 1 silently drops what comes
    /// before them. Then clears what was inherited: blocked signals, and ignored ones.
    ///
    /// Also gives the waker that wakes the same reader as a signal does.
    ///
    /// # Errors
    /// When the process is out of descriptors or memory.
    pub fn install() -> io::Result<(Signals, Waker)> {
        let (waker, wakeups) = Waker::new()?;
        let signals = Signals {
            came: Arc::default(),
            waker: waker.clone(),
            wakeups,
        };
        for signal in MEANT {
            signals.handle(signal)?;
        }
        // An inherited mask would keep every signal from us, SIGCHLD above all.
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
        survive_others();
        for signal in (1..FIRST_REAL_TIME).filter(|signal| *signal != libc::SIGPIPE) {
            undo_ignored(signal);
        }
        for signal in IGNORED {
            set_disposition(signal as c_int, libc::SIG_IGN);
        }
        Ok((signals, waker))
    }

    fn handle(&self, signal: c_int) -> io::Result<()> {
        let (came, waker) = (self.came.clone(), self.waker.clone());
        let note = move || {
            came.fetch_or(bit(signal), Ordering::SeqCst);
            waker.wake();
        };
        // SAFETY: an atomic operation and a write are what a handler may do.
        unsafe { low_level::register(signal, note) }?;
        Ok(())
    }

    /// The signals since the last call. Forgets all wake-ups so far: look for other work after
    /// this, never before.
    pub fn take(&self) -> impl Iterator<Item = c_int> + use<> {
        self.wakeups.clear();
        let came = self.came.swap(0, Ordering::SeqCst) | OTHERS.swap(0, Ordering::SeqCst);
        (1..=libc::SIGRTMAX()).filter(move |signal| came & bit(*signal) != 0)
    }

    /// Gives every signal its default meaning back, for a command that is no supervisor.
    pub fn release(self) {
        for signal in MEANT {
            set_disposition(signal, libc::SIG_DFL);
        }
        for signal in survived().chain(IGNORED.map(|signal| signal as c_int)) {
            set_action(signal, &DEFAULT);
        }
        // What came meanwhile counts.
        for signal in self.take() {
            let _ = low_level::emulate_default_handler(signal);
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wakeups.as_fd()
    }
}

fn bit(signal: c_int) -> u64 {
    1 << (signal - 1)
}

fn survived() -> impl Iterator<Item = c_int> {
    SURVIVED
        .into_iter()
        .chain(FIRST_REAL_TIME..=libc::SIGRTMAX())
}

/// Those of them that came. Nobody is woken for them: the main thread's `poll` is interrupted.
static OTHERS: AtomicU64 = AtomicU64::new(0);

extern "C" fn note_other(signal: c_int) {
    OTHERS.fetch_or(bit(signal), Ordering::SeqCst);
}

/// Installs one handler for all that mean nothing, past libc and signal-hook: libc keeps some to
/// itself (in musl 32 to 34, of which others call the last SIGRTMIN), and either takes time for
/// each of so many, at the start and again for every child.
fn survive_others() {
    let handler = SigHandler::Handler(note_other);
    let handler = SigAction::new(handler, SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: an atomic operation is what a handler may do.
    if unsafe { sigaction(Signal::SIGWINCH, &handler) }.is_ok() {
        let handler = action(libc::SIGWINCH);
        survived().for_each(|signal| set_action(signal, &handler));
    }
}

/// Gives a signal that is ignored its default back: an ignored one stays so in every child.
fn undo_ignored(signal: c_int) {
    if action(signal)[0] == libc::SIG_IGN as libc::c_ulong {
        set_action(signal, &DEFAULT);
    }
}

/// The kernel's first real-time signal (signal(7)).
const FIRST_REAL_TIME: c_int = 32;

/// The kernel's own sigaction: handler, flags, restorer, mask.
type Action = [libc::c_ulong; 4];

const DEFAULT: Action = [0; 4];

/// The kernel's sigset has 64 bits.
const SIGSET: usize = 8;

/// What the kernel does at a signal.
fn action(signal: c_int) -> Action {
    let mut action = DEFAULT;
    let none = std::ptr::null::<Action>();
    // SAFETY: the kernel writes no more than a sigaction, which is four words.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            signal,
            none,
            &raw mut action,
            SIGSET,
        );
    }
    action
}

/// Has the kernel do the default, or what it does at another signal already.
fn set_action(signal: c_int, action: &Action) {
    let none = std::ptr::null_mut::<Action>();
    // SAFETY: the kernel reads four words. The default runs no code, and what another signal has
    // was set by libc.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            signal,
            std::ptr::from_ref(action),
            none,
            SIGSET,
        );
    }
}

fn set_disposition(signal: c_int, disposition: libc::sighandler_t) {
    // SAFETY: default and ignore run no code of ours. nix's `signal` knows no real-time signals.
    unsafe {
        libc::signal(signal, disposition);
    }
}

/// Starts a thread that no signal is delivered to: `start` is what does so.
///
/// Signals that come at once have their handlers' frames on one stack, a few KB each, and there
/// are 64: too many for a helper's. The main thread takes them, and only for this moment late.
pub fn without_signals<T>(start: impl FnOnce() -> T) -> T {
    let mut before = SigSet::empty();
    let all = SigSet::all();
    let blocked = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&all), Some(&mut before)).is_ok();
    let started = start();
    if blocked {
        // The mask was ours a moment ago, so that it can be set.
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
    }
    started
}

/// Makes orphans ours to reap, unless the kernel does so anyway.
pub fn become_subreaper() {
    if std::process::id() != 1
        && let Err(error) = nix::sys::prctl::set_child_subreaper(true)
    {
        log::warn!("orphans of envoy will not be reaped here: {error}");
    }
}

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

/// Whether a process is our child, or a descendant further down. An entrypoint may start Envoy as
/// a child of its own.
pub fn descends_from_us(pid: i32) -> bool {
    let us = std::process::id().to_string();
    let mut pid = pid.to_string();
    // A pid that is 0 is a process that our pid namespace does not hold. Depth is limited for the
    // case that a pid is used again while we climb.
    for _ in 0..64 {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name, in parentheses, may hold anything: look behind it.
        let parent = stat
            .rsplit(')')
            .next()
            .and_then(|rest| rest.split(' ').nth(2));
        match parent {
            Some(parent) if parent == us => return true,
            Some(parent) => parent.clone_into(&mut pid),
            None => return false,
        }
    }
    false
}

/// Sends a signal.
pub fn kill(pid: i32, signal: c_int) {
    // SAFETY: kill touches no memory. Raw, as every signal in this file.
    if unsafe { libc::kill(pid, signal) } != 0 {
        log::debug!(
            "{} to {pid}: {}",
            signal_name(signal),
            io::Error::last_os_error()
        );
    }
}

/// Our pid namespace: pids are what they are in one. 0 where /proc is not there.
pub fn pid_namespace() -> u64 {
    std::fs::metadata("/proc/self/ns/pid").map_or(0, |namespace| namespace.ino())
}

/// Whether a process has a handler for a signal, as the kernel has it (`SigCgt` in proc(5)).
pub fn handles(pid: i32, signal: c_int) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    caught
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & bit(signal) != 0)
}

/// Reaps one child that ended, ours or an orphan; none when there is none (any more).
pub fn reap() -> Option<(i32, End)> {
    loop {
        let mut status = 0;
        // SAFETY: waitpid writes one int, to memory that is ours. nix's waitpid fails with EINVAL
        // after it has reaped a child that a real-time signal killed, and loses it.
        let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
        if pid > 0 {
            return Some((pid, End::from_status(status)));
        }
        if pid == 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_childs_child_descends_from_us_and_our_parent_does_not() {
        let mut shell = Command::new("sh")
            .args(["-c", "sleep 1000 & echo $!; read _; kill $!"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = io::BufReader::new(shell.stdout.take().unwrap());
        io::BufRead::read_line(&mut out, &mut line).unwrap();
        assert!(descends_from_us(line.trim().parse().unwrap()));
        assert!(descends_from_us(shell.id().try_into().unwrap()));
        let parent = std::os::unix::process::parent_id();
        for stranger in [0, 1, parent.try_into().unwrap()] {
            assert!(!descends_from_us(stranger), "{stranger}");
        }
        drop(shell.stdin.take());
        shell.wait().unwrap();
    }
}
