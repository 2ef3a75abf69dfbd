//! Unix: signals in and out, spawning, reaping, exit codes.

pub mod cgroup;
mod credentials;
mod exit;
mod handle;
pub mod mute;
mod namespace;
pub mod relro;
mod signals;
mod spawn;
mod tree;

use std::io;

use nix::libc::{self, c_int};
use nix::sys::signal::Signal;

pub use credentials::{Credentials, ProcessPlace};
pub use exit::{End, Exit, ExitClass, reap};
pub use handle::Handle;
pub use namespace::{groups, is_proc_ours, owner, pid_namespace, shares_pid_namespace};
pub use signals::{Signals, start_thread, without_signals};
pub use spawn::{Spawn, spawn, spawn_failure};
pub use tree::{
    Pids, Process, become_subreaper, below, descendants, descendants_of, descends_from_us,
    has_children, kill_descendants, signal_descendants, threads,
};

/// A signal's name (`SIGTERM`), also where it has none of its own (`signal 40`).
pub fn signal_name(signal: c_int) -> String {
    match Signal::try_from(signal) {
        Ok(signal) => signal.as_str().to_owned(),
        Err(_) => format!("signal {signal}"),
    }
}

/// Sends a signal.
pub fn kill(pid: i32, signal: c_int) {
    // SAFETY: kill touches no memory. Raw, as every signal in this file.
    if unsafe { libc::kill(pid, signal) } != 0 {
        log::debug!(
            "{} was not sent to process {pid}: {}",
            signal_name(signal),
            io::Error::last_os_error()
        );
    }
}

/// Whether a process has a handler for a signal, as the kernel has it (`SigCgt` in proc(5)).
pub fn handles(pid: i32, signal: c_int) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    caught
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & signals::bit(signal) != 0)
}
