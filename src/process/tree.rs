//! Who descends from whom.

/// Makes orphans ours to reap, unless the kernel does so anyway.
pub fn become_subreaper() {
    if std::process::id() != 1
        && let Err(error) = nix::sys::prctl::set_child_subreaper(true)
    {
        log::warn!("orphans of envoy will not be reaped here: {error}");
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
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
