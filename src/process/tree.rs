//! Who descends from whom.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use nix::libc::{self, c_int};

use super::{Handle, is_proc_ours};

/// A set of pids.
#[derive(Debug, Default)]
pub struct Pids(Vec<i32>);

impl Pids {
    /// Adds a pid; tells whether it is new.
    pub fn insert(&mut self, pid: i32) -> bool {
        let place = self.0.binary_search(&pid);
        if let Err(place) = place {
            self.0.insert(place, pid);
        }
        place.is_err()
    }

    /// Whether a pid is among them.
    pub fn contains(&self, pid: i32) -> bool {
        self.0.binary_search(&pid).is_ok()
    }
}

impl FromIterator<i32> for Pids {
    fn from_iter<I: IntoIterator<Item = i32>>(pids: I) -> Pids {
        let mut sorted: Vec<i32> = pids.into_iter().collect();
        sorted.sort_unstable();
        Pids(sorted)
    }
}

/// Makes orphans ours to reap, unless the kernel does so anyway.
pub fn become_subreaper() {
    if std::process::id() != 1
        && let Err(error) = nix::sys::prctl::set_child_subreaper(true)
    {
        log::warn!("orphans of envoy will not be reaped here: {error}");
    }
    if !is_proc_ours() {
        log::warn!(
            "/proc is not that of this pid namespace: an envoy behind a start script is not found, \
             and what else is started is not ended. Mount it (`unshare --mount-proc`)"
        );
    }
}

/// A process as /proc/PID/stat has it (proc(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// The process' pid.
    pub pid: i32,
    /// The parent's pid: 0 where our pid namespace does not hold that.
    pub parent: i32,
    /// The process group.
    pub group: i32,
    /// Whether it has not ended. A zombie has, and waits to be reaped.
    pub lives: bool,
    /// Whether it has run no program of its own since it was forked (`PF_FORKNOEXEC`), as a shell's
    /// subshell. A gVisor tells that of nobody.
    pub is_fork: bool,
}

/// `PF_FORKNOEXEC` of the kernel's include/linux/sched.h, in the flags of /proc/PID/stat.
const FORKED: u32 = 0x40;

impl Process {
    /// The process that has this pid, if one has.
    pub fn read(pid: i32) -> Option<Process> {
        let mut stat = [0; 512];
        let mut file = fs::File::open(format!("/proc/{pid}/stat")).ok()?;
        let length = file.read(&mut stat).ok()?;
        let stat = String::from_utf8_lossy(stat.get(..length)?);
        // The name, in parentheses, may hold anything: look behind it.
        let mut fields = stat.rsplit(')').next()?.split_ascii_whitespace();
        Some(Process {
            pid,
            lives: !matches!(fields.next()?, "Z" | "X" | "x"),
            parent: fields.next()?.parse().ok()?,
            group: fields.next()?.parse().ok()?,
            is_fork: fields.nth(3)?.parse::<u32>().ok()? & FORKED != 0,
        })
    }
}

/// Whether a process is our child, or a descendant further down. An entrypoint may start Envoy as
/// a child of its own.
pub fn descends_from_us(pid: i32) -> bool {
    let us = this();
    let mut pid = pid;
    // A pid that is 0 is a process that our pid namespace does not hold. Depth is limited for the
    // case that a pid is used again while we climb.
    for _ in 0..64 {
        match Process::read(pid) {
            Some(process) if process.parent == us => return true,
            Some(process) => pid = process.parent,
            None => return false,
        }
    }
    false
}

/// Whether we have a child, zombies included. As orphans become our children, we have descendants
/// then, and only then. One system call, where [`descendants`] reads several files for each.
pub fn has_children() -> bool {
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: waitid fills in a siginfo, to memory that is ours and may be all zeros.
    unsafe {
        let mut info = std::mem::zeroed();
        libc::waitid(libc::P_ALL, 0, &mut info, flags) == 0
    }
}

/// All that descend from us and live, the nearest first.
pub fn descendants() -> Vec<Process> {
    descendants_of(this())
}

/// All that descend from this process and live, the nearest first. A process that has just become
/// another's child may be missing.
///
/// Read from the lists of children in /proc (proc_tid_children(5)): on a host with 10,000 processes
/// a look at all of them takes 0.1 s. Where a kernel has no such lists, it is taken. None are
/// found where /proc is not that of our pid namespace: a pid there is another process here.
pub fn descendants_of(pid: i32) -> Vec<Process> {
    let us = this();
    if !is_proc_ours() {
        return Vec::new();
    }
    if !Path::new(&format!("/proc/{us}/task/{us}/children")).exists() {
        return below(&[pid], &everything());
    }
    let (mut found, mut parents, mut at) = (Vec::new(), vec![pid], 0);
    let mut seen = Pids::from_iter([pid]);
    while let Some(parent) = parents.get(at).copied() {
        at += 1;
        for child in children(parent) {
            // A pid that was used again while we looked could make a circle of it.
            if seen.insert(child) {
                parents.push(child);
                found.extend(Process::read(child).filter(|process| process.lives));
            }
        }
    }
    found
}

/// The children of all threads of a process, zombies included.
fn children(pid: i32) -> Vec<i32> {
    let mut pids = Vec::new();
    for thread in threads(pid) {
        let list = fs::read_to_string(thread.join("children")).unwrap_or_default();
        pids.extend(list.split_ascii_whitespace().flat_map(str::parse::<i32>));
    }
    pids
}

/// The directories in /proc of a process's threads; none where it is gone.
pub fn threads(pid: i32) -> impl Iterator<Item = PathBuf> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    threads.into_iter().flatten().flatten().map(|it| it.path())
}

fn everything() -> Vec<Process> {
    let pids = fs::read_dir("/proc").into_iter().flatten();
    let pids = pids.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(Process::read).collect()
}

/// The processes of `all` that descend from one of these and live, the nearest first.
pub fn below(roots: &[i32], all: &[Process]) -> Vec<Process> {
    let mut by_parent = all.to_vec();
    by_parent.sort_unstable_by_key(|process| process.parent);
    let mut seen = Pids::from_iter(roots.iter().copied());
    let (mut found, mut parents, mut at) = (Vec::new(), roots.to_vec(), 0);
    while let Some(parent) = parents.get(at).copied() {
        at += 1;
        let first = by_parent.partition_point(|process| process.parent < parent);
        let children = by_parent.iter().skip(first);
        for process in children.take_while(|process| process.parent == parent) {
            // A pid that was used again while we looked could make a circle of it.
            if seen.insert(process.pid) {
                parents.push(process.pid);
                found.extend(Some(*process).filter(|process| process.lives));
            }
        }
    }
    found
}

/// Sends a signal to each of these that still descends from us: its pid may be another's by now.
pub fn signal_descendants(processes: &[Process], signal: c_int) {
    for process in processes {
        if let Ok(handle) = Handle::open(process.pid)
            && descends_from_us(process.pid)
        {
            let _ = handle.signal(signal);
        }
    }
}

/// Kills all of our descendants that are `meant`, and what those start meanwhile.
pub fn kill_descendants(meant: impl Fn(&[Process]) -> Vec<Process>) {
    let mut killed = Pids::default();
    let mut before = false;
    // A process that forks without end is not to keep us here.
    for _ in 0..8 {
        let mut left = meant(&descendants());
        left.retain(|process| killed.insert(process.pid));
        // One look may miss a process whose parent has just ended.
        if std::mem::replace(&mut before, left.is_empty()) && left.is_empty() {
            return;
        }
        signal_descendants(&left, libc::SIGKILL);
    }
}

fn this() -> i32 {
    i32::try_from(std::process::id()).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::process::{Command, Stdio};

    #[test]
    fn a_childs_child_descends_from_us_and_our_parent_does_not() {
        let (mut shell, line) = shell("sleep 1000 & echo $!; read _; kill $!");
        assert!(descends_from_us(line.trim().parse().unwrap()));
        assert!(descends_from_us(shell.id().try_into().unwrap()));
        let parent = std::os::unix::process::parent_id();
        for stranger in [0, 1, parent.try_into().unwrap()] {
            assert!(!descends_from_us(stranger), "{stranger}");
        }
        drop(shell.stdin.take());
        shell.wait().unwrap();
    }

    /// A shell that runs this, and the first line that it says. Its standard input stays open.
    fn shell(script: &str) -> (std::process::Child, String) {
        let mut shell = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = io::BufReader::new(shell.stdout.take().unwrap());
        io::BufRead::read_line(&mut out, &mut line).unwrap();
        (shell, line)
    }

    #[test]
    fn a_childs_child_is_among_the_descendants_until_it_is_killed() {
        let (mut shell, line) = shell("sleep 1000 & echo $!; wait");
        let (sleep, shell_pid): (i32, i32) =
            (line.trim().parse().unwrap(), shell.id().try_into().unwrap());
        assert!(has_children());
        let ours = |all: &[Process]| below(&[shell_pid], all);
        assert_eq!(
            ours(&descendants())
                .iter()
                .map(|found| found.pid)
                .collect::<Vec<_>>(),
            [sleep]
        );
        kill_descendants(ours);
        shell.wait().unwrap();
        assert!(!descendants().iter().any(|found| found.pid == shell_pid));
    }

    #[test]
    fn a_look_at_all_processes_finds_what_the_lists_of_children_name() {
        let (mut shell, _) = shell("(sleep 1000; :) & echo; wait");
        let pid = shell.id().try_into().unwrap();
        // The subshell starts its child a moment later, which becomes another program.
        let both = || (descendants_of(pid), below(&[pid], &everything()));
        let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
        let found = std::iter::repeat_with(both).find(|(listed, all)| {
            listed.len() == 2 && listed == all || std::time::Instant::now() > until
        });
        let (listed, all) = found.unwrap();
        assert_eq!(listed.len(), 2);
        assert_eq!(listed, all);
        // The deepest first: whoever lost its parent would be init's, and out of our reach.
        let deepest_first: Vec<_> = all.into_iter().rev().collect();
        signal_descendants(&deepest_first, libc::SIGKILL);
        shell.wait().unwrap();
    }

    #[test]
    fn a_tree_is_found_whatever_the_order_and_without_its_zombies() {
        let process = |pid, parent, lives| Process {
            pid,
            parent,
            group: pid,
            lives,
            is_fork: false,
        };
        let all = [
            process(5, 4, true),
            process(4, 3, false),
            process(3, 1, true),
            process(9, 2, true),
        ];
        assert_eq!(below(&[1], &all), [all[2], all[0]]);
        assert_eq!(below(&[9], &all), []);
    }
}
