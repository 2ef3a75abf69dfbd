//! Which processes are of our own pid namespace, and whose they are.

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::Handle;

/// Our pid namespace: pids are what they are in one. 0 where /proc is not there, and where it tells
/// another number each time, as gVisors of 2022 do.
pub fn pid_namespace() -> u64 {
    let number = || fs::metadata("/proc/self/ns/pid").map_or(0, |namespace| namespace.ino());
    let first = number();
    if first == number() { first } else { 0 }
}

/// Whether the process with this pid is of our pid namespace, and not of one below it, whose
/// processes have pids here as well (pid_namespaces(7)). False where that cannot be told.
///
/// Neither a user that is not the process's nor a /proc that hides other users' is in the way:
/// `/proc/PID/ns/pid` can be read by who may trace the process alone, a pidfd's entry by anybody.
pub fn shares_pid_namespace(pid: i32) -> bool {
    let depth = |pid| Handle::open(pid).ok()?.depth();
    if let (Some(theirs), Some(ours)) = (depth(pid), own_pid().and_then(depth)) {
        return theirs == ours;
    }
    // Before Linux 5.3, and in some sandboxes.
    if !is_proc_ours() {
        return false;
    }
    if let Some(pids) = status_line(pid, "NSpid:") {
        return pids.split_whitespace().count() == 1;
    }
    let theirs = fs::metadata(format!("/proc/{pid}/ns/pid"));
    theirs.is_ok_and(|namespace| namespace.ino() == pid_namespace())
}

/// The user that a process acts as; none where /proc does not show it.
pub fn owner(pid: i32) -> Option<u32> {
    let uids = status_line(pid, "Uid:").filter(|_| is_proc_ours())?;
    // Real, effective, saved, that of the file system (proc(5)).
    uids.split_whitespace().nth(1)?.parse().ok()
}

/// The groups that a process acts as; none where /proc does not show them.
pub fn groups(pid: i32) -> Vec<u32> {
    // That of the file system is the last (proc(5)).
    let own = status_line(pid, "Gid:").unwrap_or_default();
    let more = status_line(pid, "Groups:").unwrap_or_default();
    let own = own.split_whitespace().next_back().into_iter();
    let all = own.chain(more.split_whitespace());
    all.filter_map(|group| group.parse().ok()).collect()
}

/// Whether the pids in /proc are those of our own pid namespace. Who enters a container without
/// its mounts sees the host's.
pub fn is_proc_ours() -> bool {
    let ours = fs::read_link("/proc/self");
    ours.is_ok_and(|pid| pid.to_str() == Some(&std::process::id().to_string()))
}

fn own_pid() -> Option<i32> {
    i32::try_from(std::process::id()).ok()
}

fn status_line(pid: i32, name: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    use crate::testing::Sleeper;

    #[test]
    fn a_child_is_of_our_pid_namespace_and_nobody_is_not() {
        let child = Sleeper::start();
        let pid = child.pid();
        assert!(shares_pid_namespace(pid));
        assert_eq!(owner(pid), Some(nix::unistd::geteuid().as_raw()));
        assert!(groups(pid).contains(&nix::unistd::getegid().as_raw()));
        drop(child);
        for nobody in [pid, 0, -1, i32::MAX] {
            assert!(!shares_pid_namespace(nobody), "{nobody}");
        }
    }

    #[test]
    fn a_process_of_a_pid_namespace_below_is_not_of_ours() {
        let mut outer = Command::new("unshare")
            .args([
                "--user",
                "--map-root-user",
                "--pid",
                "--fork",
                "--kill-child",
            ])
            .args(["sh", "-c", "echo; read _"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = std::io::BufReader::new(outer.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut out, &mut line).unwrap();
        let outer_pid = outer.id();
        let children = format!("/proc/{outer_pid}/task/{outer_pid}/children");
        let inner = fs::read_to_string(children).unwrap();
        assert!(!shares_pid_namespace(inner.trim().parse().unwrap()));
        assert!(shares_pid_namespace(outer_pid.try_into().unwrap()));
        drop(outer.stdin.take());
        outer.wait().unwrap();
    }
}
