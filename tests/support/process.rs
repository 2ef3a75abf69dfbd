//! Processes that end with their test.
//!
//! A child gets SIGQUIT when the thread that started it ends, however that happens: `drainit`
//! stops Envoy on it. And all that descends from a child carries a mark in its environment, by
//! which the rest is found, also when it lost its parents on the way.

use std::fs;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::prctl;
use nix::sys::signal::{SigHandler, SigSet, Signal, kill, signal};
use nix::unistd::Pid;

use super::{PATIENCE, wait_for, wait_for_some};

const MARK: &str = "TEST_DRAINIT_MARK";

/// A child process, and all that descends from it.
pub struct Process {
    child: Child,
    mark: String,
}

impl Process {
    pub fn spawn(command: &mut Command) -> Process {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mark = format!("{}-{number}", std::process::id());
        command.env(MARK, &mark);
        // SAFETY: between fork and exec, prctl alone, which is a bare system call.
        unsafe {
            command.pre_exec(|| prctl::set_pdeathsig(Signal::SIGQUIT).map_err(Into::into));
        }
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Process { child, mark }
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    pub fn pid(&self) -> Pid {
        pid(self.child.id())
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    pub fn has_exited(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for the end, and gives the exit code as a shell would.
    #[track_caller]
    pub fn wait_exit(&mut self, timeout: Duration) -> i32 {
        let what = format!("the end of process {}", self.child.id());
        let status = wait_for_some(&what, timeout, || self.child.try_wait().unwrap());
        shell_code(status)
    }

    /// The processes that descend from this one, itself left out, and have not been reaped.
    pub fn descendants(&self) -> Vec<Pid> {
        let mark = format!("{MARK}={}", self.mark);
        let own = self.child.id();
        processes()
            .filter(|&process| process != own)
            .filter(|process| {
                let environment = fs::read(format!("/proc/{process}/environ"));
                environment
                    .is_ok_and(|vars| vars.split(|&b| b == 0).any(|var| var == mark.as_bytes()))
            })
            .map(pid)
            .collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The child first: it might start its own again.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // One that execs just now shows no mark, and one that forks has another in a moment.
        let mut quiet = 0;
        for _ in 0..1_000 {
            let left = self.descendants();
            quiet = if left.is_empty() { quiet + 1 } else { 0 };
            if quiet == 2 {
                break;
            }
            for process in left {
                let _ = kill(process, Signal::SIGKILL);
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Lets a command inherit the worst: every signal blocked, and some ignored, SIGCHLD among them,
/// with which the kernel reaps children by itself and their exit codes are lost.
pub fn spoil_signals(command: &mut Command) {
    let spoil = || {
        for ignored in [
            Signal::SIGCHLD,
            Signal::SIGHUP,
            Signal::SIGPIPE,
            Signal::SIGTERM,
        ] {
            // SAFETY: no handler of ours is installed, only a disposition.
            unsafe { signal(ignored, SigHandler::SigIgn) }?;
        }
        SigSet::all().thread_block()?;
        Ok(())
    };
    // SAFETY: between fork and exec, nothing but system calls.
    unsafe {
        command.pre_exec(spoil);
    }
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).unwrap())
}

fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// The children of a process that have not ended.
pub fn children(parent: Pid) -> Vec<Pid> {
    processes()
        .filter(|process| {
            // The name, in parentheses, may hold anything: look behind it.
            let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
            let mut fields = stat.rsplit(')').next().unwrap_or("").split_whitespace();
            fields.next() != Some("Z") && fields.next() == Some(&parent.to_string())
        })
        .map(pid)
        .collect()
}

/// Whether a process has ended with all its threads, though nobody may have reaped it.
pub fn has_ended(process: Pid) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    // The first thread may end before the others, which have the sockets open.
    let threads = fs::read_dir(format!("/proc/{process}/task"));
    status.is_empty() || status.contains("State:\tZ") && threads.map_or(0, Iterator::count) <= 1
}

/// The processes of a pid namespace, as `/proc/PID/ns/pid` has it, zombies included.
pub fn in_pid_namespace(namespace: &Path) -> Vec<Pid> {
    processes()
        .filter(|process| {
            let link = fs::read_link(format!("/proc/{process}/ns/pid"));
            link.is_ok_and(|link| link == namespace)
        })
        .map(pid)
        .collect()
}

/// Waits until a process is gone, zombies included.
#[track_caller]
pub fn wait_gone(process: Pid) {
    wait_for(&format!("the end of process {process}"), PATIENCE, || {
        kill(process, None).is_err()
    });
}

/// The exit code as a shell gives it: 128 and the signal's number for a signal.
pub fn shell_code(status: ExitStatus) -> i32 {
    match status.signal() {
        Some(signal) => 128 + signal,
        None => status.code().unwrap(),
    }
}
