//! How processes end: reaping, exit codes.

use std::fmt;
use std::io;

use nix::libc::{self, c_int};

use super::signal_name;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exit {
    /// The process exited with this code.
    Code(u8),
    /// The process was killed by this signal.
    Signal(u8),
}

impl Exit {
    /// The exit code that stands for this in a shell, and with tini: 128+n for signal n.
    pub fn code(self) -> u8 {
        match self {
            Exit::Code(code) => code,
            Exit::Signal(signal) => signal.saturating_add(128),
        }
    }

    /// What is known of such an end of Envoy's, from the exit code alone: a start script hands
    /// that on.
    pub fn class(self) -> Option<ExitClass> {
        match self.code() {
            134 => Some(ExitClass::Assert),
            129..=192 => Some(ExitClass::Signal),
            _ => None,
        }
    }

    fn from_status(status: c_int) -> Exit {
        if libc::WIFSIGNALED(status) {
            Exit::Signal(u8::try_from(libc::WTERMSIG(status)).unwrap_or(u8::MAX))
        } else {
            Exit::Code(u8::try_from(libc::WEXITSTATUS(status)).unwrap_or(u8::MAX))
        }
    }
}

/// Why a process ended, where that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExitClass {
    /// Envoy refuses its command line or configuration (`--mode validate`).
    Configuration,
    /// A signal killed it, and it is not known why.
    Signal,
    /// The kernel killed it because memory ran out.
    OutOfMemory,
    /// Envoy aborted: one of its asserts failed, or its watchdog ended it.
    Assert,
    /// The start script exited so that Envoy was behind; Envoy had ended before.
    StartScript,
}

impl ExitClass {
    /// The class's name in the log.
    pub fn name(self) -> &'static str {
        match self {
            ExitClass::Configuration => "configuration",
            ExitClass::Signal => "signal",
            ExitClass::OutOfMemory => "out of memory",
            ExitClass::Assert => "assert",
            ExitClass::StartScript => "start script",
        }
    }
}

/// The end of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// How the process ended.
    pub exit: Exit,
    /// Why the process ended, where that is known.
    pub class: Option<ExitClass>,
    /// Whether the kernel wrote a core dump.
    pub dumped: bool,
}

impl End {
    /// The end that `waitpid` tells.
    fn from_status(status: c_int) -> End {
        let exit = Exit::from_status(status);
        End {
            exit,
            class: exit.class(),
            dumped: libc::WIFSIGNALED(status) && libc::WCOREDUMP(status),
        }
    }
}

impl End {
    /// Who ended.
    pub fn who(&self) -> &'static str {
        match self.class {
            Some(ExitClass::StartScript) => "the start script",
            _ => "envoy",
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.exit)?;
        if self.class == Some(ExitClass::OutOfMemory) {
            f.write_str(", out of memory")?;
        }
        f.write_str(if self.dumped { ", core dumped" } else { "" })
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exit code {code}"),
            Exit::Signal(signal) => {
                write!(f, "killed by {}", signal_name(c_int::from(*signal)))
            }
        }
    }
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
