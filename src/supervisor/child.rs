//! An Envoy as a child of ours, or behind a start script as a child's child.

use std::ffi::{OsStr, OsString};

use nix::libc;

use crate::envoy::address::{Pipe, Place};
use crate::envoy::kin;
use crate::process::{self, Handle, Pids, Process};

/// An Envoy, and the start script that it may be behind.
#[derive(Debug)]
pub struct Child {
    /// Our child: Envoy, or the script, whose end is waited for.
    pub pid: i32,
    /// The process group that the child was started in.
    group: i32,
    /// The words in the child's command line that are ours.
    added: Vec<OsString>,
    /// Whether the child is an Envoy as it was spawned, and no script or another program that
    /// starts one.
    pub is_envoy_itself: bool,
    /// Envoy itself, if that is known to be another process.
    behind: Option<(i32, Handle)>,
    /// Whether our child was seen to be Envoy itself, which a start script may become: then nothing
    /// else of the tree is Envoy, whatever lives on.
    is_envoy: bool,
    /// Whether drainit has sent it SIGKILL.
    pub is_killed: bool,
    /// Whether Envoy was seen to have a handler for SIGUSR1.
    reopens: bool,
    /// How Envoy's admin address is known.
    pub place: Place,
    /// The pipe through which Envoy tells its admin address.
    pub pipe: Option<Pipe>,
}

impl Child {
    /// A child that was just spawned by this command line, of which the last `added` words are
    /// ours.
    pub fn new(
        pid: i32,
        (program, args): (&OsStr, &[OsString]),
        added: usize,
        place: Place,
        pipe: Option<Pipe>,
    ) -> Child {
        // A script may have become Envoy by now: that has another command line.
        let is_called_envoy = kin::is_called_envoy(pid);
        Child {
            pid,
            group: pid,
            is_envoy_itself: is_called_envoy && kin::is_line(&kin::line(pid), program, args),
            added: args
                .get(args.len().saturating_sub(added)..)
                .unwrap_or_default()
                .to_vec(),
            behind: None,
            is_envoy: false,
            is_killed: false,
            reopens: false,
            place,
            pipe,
        }
    }

    /// Envoy itself, as far as is known.
    pub fn envoy(&self) -> i32 {
        self.behind.as_ref().map_or(self.pid, |(pid, _)| *pid)
    }

    /// The processes of `all` that belong to this Envoy, our child apart: its descendants, and
    /// those of its group that are orphans.
    pub fn tree(&self, all: &[Process]) -> Vec<Process> {
        let below = process::below(&[self.pid], all);
        let below: Pids = below.iter().map(|process| process.pid).collect();
        let belongs = |process: &&Process| {
            process.pid != self.pid && (process.group == self.group || below.contains(process.pid))
        };
        all.iter().filter(belongs).copied().collect()
    }

    /// Whether our child is a start script, behind which Envoy was seen.
    pub fn is_script(&self) -> bool {
        self.behind.is_some()
    }

    /// The process that is Envoy, if one has come as far as its watchdog.
    pub fn with_watchdog(&self) -> Option<i32> {
        kin::with_watchdog(self.pid, &self.tree(&process::descendants()))
    }

    /// Whether there is an Envoy that was given our words on its command line. It may refuse them,
    /// and be gone in a moment.
    pub fn hands_on(&self) -> bool {
        let below = self.tree(&process::descendants());
        let all = std::iter::once(self.pid).chain(below.iter().map(|process| process.pid));
        let is_given =
            |pid| kin::is_called_envoy(pid) && kin::carries(&kin::line(pid), &self.added);
        !self.added.is_empty() && all.into_iter().any(is_given)
    }

    /// Looks whether Envoy is behind a start script.
    pub fn look(&mut self) {
        let lives = |(_, handle): &(i32, Handle)| handle.signal(0).is_ok();
        if self.is_envoy || self.behind.as_ref().is_some_and(lives) {
            return;
        }
        let tree = self.tree(&process::descendants());
        let envoy = kin::find(self.pid, &tree, &self.added);
        self.is_envoy = envoy == Some(self.pid);
        self.behind = envoy
            .filter(|envoy| *envoy != self.pid)
            .and_then(|pid| Some((pid, Handle::open(pid).ok()?)));
        if let Some((pid, _)) = self.behind {
            log::info!(
                "envoy is process {pid}, behind its start script, {}",
                self.pid
            );
        }
    }

    /// Sends Envoy itself SIGTERM.
    pub fn terminate(&mut self) {
        self.look();
        self.signal(libc::SIGTERM);
    }

    /// Has Envoy itself reopen its logs. Whoever has no handler for that would die of it, a start
    /// script first of all.
    pub fn reopen_logs(&mut self) {
        if !self.reopens && !process::handles(self.envoy(), libc::SIGUSR1) {
            self.look();
        }
        self.reopens = self.reopens || process::handles(self.envoy(), libc::SIGUSR1);
        if self.reopens {
            self.signal(libc::SIGUSR1);
        } else {
            let pid = self.envoy();
            log::warn!("process {pid} has no handler for SIGUSR1: its logs are not reopened");
        }
    }

    /// Sends Envoy itself a signal.
    fn signal(&self, signal: i32) {
        match &self.behind {
            None => process::kill(self.pid, signal),
            Some((pid, handle)) => {
                if let Err(error) = handle.signal(signal) {
                    let name = process::signal_name(signal);
                    log::debug!("{name} was not sent to process {pid}: {error}");
                }
            }
        }
    }

    /// Sends SIGKILL to Envoy, to its start script and to their process tree.
    pub fn kill(&mut self) {
        self.is_killed = true;
        if self.group == self.pid {
            // At once, so that nothing of it can start another.
            process::kill(-self.group, libc::SIGKILL);
        }
        process::kill(self.pid, libc::SIGKILL);
        process::kill_descendants(|all| self.tree(all));
    }

    /// Our child is gone. Whether Envoy, behind it, lives on; then that, or what is still between,
    /// is our child by now.
    pub fn outlives_script(&mut self) -> bool {
        if !process::has_children() {
            return false;
        }
        let all = process::descendants();
        let envoy = match &self.behind {
            Some((pid, handle)) => Some(*pid).filter(|_| handle.signal(0).is_ok()),
            None if self.is_envoy => None,
            None => kin::find(self.pid, &self.tree(&all), &self.added),
        };
        let find = |pid| all.iter().find(|process| process.pid == pid);
        let Some(envoy) = envoy.and_then(find) else {
            return false;
        };
        let mut child = envoy;
        while let Some(above) = find(child.parent) {
            child = above;
        }
        if child.pid == envoy.pid {
            self.behind = None;
            // Before that it may be another script.
            self.is_envoy = kin::with_watchdog(envoy.pid, &[]).is_some();
        } else if self.behind.is_none() {
            self.behind = Handle::open(envoy.pid)
                .ok()
                .map(|handle| (envoy.pid, handle));
        }
        self.pid = child.pid;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn beside_an_envoy_that_was_seen_nothing_is_taken_for_one() {
        let script = "sh -c 'sleep 1000; :' helper --flag 7; :";
        let mut shell = std::process::Command::new("sh")
            .args(["-c", script])
            .spawn()
            .unwrap();
        let words = ["-c", script, "--flag", "7"].map(OsString::from);
        let pid = shell.id().try_into().unwrap();
        let line = (OsStr::new("sh"), &words[..]);
        let mut child = Child::new(pid, line, 2, Place::Unknown, None);
        let until = Instant::now() + Duration::from_secs(20);
        while !child.is_script() && Instant::now() < until {
            child.look();
        }
        assert!(child.is_script(), "the helper carries our words");
        child.behind = None;
        child.is_envoy = true;
        child.look();
        assert_eq!(child.envoy(), pid);
        process::kill_descendants(|all| process::below(&[pid], all));
        process::kill(pid, libc::SIGKILL);
        shell.wait().unwrap();
    }
}
