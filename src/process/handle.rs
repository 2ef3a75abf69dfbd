//! A process to be signalled, and no other that has its pid later.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::libc::{self, c_int};

/// A process by its pidfd. A pid alone may be another process's by the time a signal is sent to
/// it. Where the kernel gives no pidfd (before Linux 5.3, some sandboxes), its pid must do.
///
/// To be sure that the process is the right one, look at who it is between [`Handle::open`] and
/// [`Handle::signal`]: a handle that was opened before the look cannot mean a later process.
#[derive(Debug)]
pub struct Handle {
    pid: i32,
    fd: Option<OwnedFd>,
}

impl Handle {
    /// The process that has this pid now.
    ///
    /// # Errors
    /// When no process has it: `ESRCH`, and `EINVAL` for a pid that can be none, or a thread's.
    pub fn open(pid: i32) -> io::Result<Handle> {
        if pid <= 0 {
            // To kill(2) these are groups of processes, or all.
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        // SAFETY: pidfd_open touches no memory. nix has no call for it.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        if let Ok(fd @ 0..) = c_int::try_from(fd) {
            // SAFETY: the kernel has just made it, for us alone; with CLOEXEC.
            let fd = Some(unsafe { OwnedFd::from_raw_fd(fd) });
            return Ok(Handle { pid, fd });
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::ESRCH | libc::EINVAL) => Err(error),
            _ => Ok(Handle { pid, fd: None }),
        }
    }

    /// Sends a signal; 0 sends none, and tells whether one could be sent.
    ///
    /// # Errors
    /// `ESRCH` when the process is gone, `EPERM` when it is not ours to signal.
    pub fn signal(&self, signal: c_int) -> io::Result<()> {
        let Some(fd) = &self.fd else {
            return self.kill(signal);
        };
        let none = std::ptr::null::<libc::siginfo_t>();
        let fd = fd.as_raw_fd();
        // SAFETY: without a siginfo the kernel touches no memory. nix has no call for it.
        let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, none, 0) };
        if sent == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            // A sandbox may know the one call and not the other.
            Some(libc::ENOSYS) => self.kill(signal),
            _ => Err(error),
        }
    }

    /// How many pid namespaces hold the process, from the one of /proc down to its own (`NSpid` in
    /// a pidfd's fdinfo, proc_pid_fdinfo(5)). None where that is not told, and once it is gone.
    pub(super) fn depth(&self) -> Option<usize> {
        let fd = self.fd.as_ref()?.as_raw_fd();
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
        let pids = info.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
        let pids: Vec<i32> = pids
            .split_whitespace()
            .map(|pid| pid.parse().ok().filter(|pid| *pid > 0))
            .collect::<Option<_>>()?;
        (!pids.is_empty()).then_some(pids.len())
    }

    fn kill(&self, signal: c_int) -> io::Result<()> {
        // SAFETY: kill touches no memory. Raw, as every signal here: nix has no real-time ones.
        match unsafe { libc::kill(self.pid, signal) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    use crate::testing::Sleeper;

    #[test]
    fn a_signal_reaches_the_process_and_nobody_once_that_is_gone() {
        let mut child = Sleeper::start();
        let handle = Handle::open(child.pid()).unwrap();
        assert!(handle.fd.is_some());
        handle.signal(0).unwrap();
        handle.signal(libc::SIGKILL).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
        for signal in [0, libc::SIGKILL] {
            let error = handle.signal(signal).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ESRCH), "{signal}");
        }
    }

    #[test]
    fn without_a_pidfd_the_pid_does() {
        let mut child = Sleeper::start();
        let pid = child.pid();
        let handle = Handle { pid, fd: None };
        handle.signal(libc::SIGTERM).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
    }

    #[test]
    fn a_pid_that_is_nobodys_has_no_handle() {
        for (pid, error) in [
            (i32::MAX, libc::ESRCH),
            (0, libc::EINVAL),
            (-1, libc::EINVAL),
        ] {
            let found = Handle::open(pid).unwrap_err();
            assert_eq!(found.raw_os_error(), Some(error), "{pid}");
        }
    }
}
