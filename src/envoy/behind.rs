//! Envoy behind a start script that runs it as a child of its own, without `exec`.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use crate::process::Process;

/// A process's command line as /proc has it: each word ends with a zero byte. Empty where the
/// process is gone.
pub fn line(pid: i32) -> Vec<u8> {
    fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()
}

/// Which of a start script's descendants is Envoy: the one that carries the words that drainit
/// `added` to the command line, or else has Envoy's name. A script's subshell carries them, too,
/// but has its parent's command line. Of two scripts in a row and an Envoy, Envoy is the last.
///
/// `script` is the script's own command line, and `line` tells the others'.
pub fn find(
    script: &[u8],
    tree: &[Process],
    added: &[OsString],
    line: impl Fn(i32) -> Vec<u8>,
) -> Option<i32> {
    let lines: Vec<_> = tree.iter().map(|process| line(process.pid)).collect();
    let all = || tree.iter().zip(&lines);
    let is_fork = |process: &Process, line: &[u8]| {
        line == script
            || all().any(|(other, its)| other.pid == process.parent && its.as_slice() == line)
    };
    let pick = |is_envoy: &dyn Fn(&[u8]) -> bool| {
        let found: Vec<_> = all()
            .filter(|(process, line)| is_envoy(line) && !is_fork(process, line))
            .map(|(process, _)| process)
            .collect();
        let is_parent = |process: &&&Process| found.iter().any(|it| it.parent == process.pid);
        let last = found.iter().find(|process| !is_parent(process));
        last.map(|process| process.pid)
    };
    let words = words(added);
    let carries = |line: &[u8]| line.windows(words.len()).any(|part| part == words);
    (!added.is_empty())
        .then(|| pick(&carries))
        .flatten()
        .or_else(|| pick(&is_named_envoy))
}

/// Words as they are in a command line, the end of the one before them included.
fn words(added: &[OsString]) -> Vec<u8> {
    let mut words = vec![0];
    for word in added {
        words.extend_from_slice(word.as_bytes());
        words.push(0);
    }
    words
}

/// `envoy`, `/usr/local/bin/envoy-1.40`
fn is_named_envoy(line: &[u8]) -> bool {
    let program = line.split(|&byte| byte == 0).next().unwrap_or_default();
    let name = program.rsplit(|&byte| byte == b'/').next();
    name.is_some_and(|name| name.starts_with(b"envoy"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of processes with pid, parent and command line, below a script with the pid 2.
    fn found(added: &[&str], processes: &[(i32, i32, &str)]) -> Option<i32> {
        let line = |text: &str| [text.replace(' ', "\0").as_bytes(), b"\0"].concat();
        let process = |&(pid, parent, _): &(i32, i32, &str)| Process {
            pid,
            parent,
            group: 2,
            lives: true,
        };
        let tree: Vec<_> = processes.iter().map(process).collect();
        let added: Vec<_> = added.iter().map(OsString::from).collect();
        find(&line("sh run -c x --flag 7"), &tree, &added, |wanted| {
            let found = processes.iter().find(|(pid, ..)| *pid == wanted);
            line(found.unwrap().2)
        })
    }

    #[test]
    fn envoy_is_told_from_the_scripts_and_from_what_they_start() {
        let script = "sh run -c x --flag 7";
        let added = &["--flag", "7"];
        for (processes, envoy) in [
            (&[(3, 2, "/opt/proxy -c x --flag 7")][..], Some(3)),
            (&[(3, 2, script), (4, 3, "sleep 10")], None),
            // Its last, whatever the order.
            (
                &[
                    (9, 8, "envoy -c x --flag 7"),
                    (5, 2, script),
                    (8, 2, "sh inner -c x --flag 7"),
                    (10, 8, "sh inner -c x --flag 7"),
                ],
                Some(9),
            ),
            // It drops the arguments, or adds to them.
            (&[(3, 2, "sleep 9"), (4, 2, "/bin/envoy -c y")], Some(4)),
            (&[(3, 2, "/opt/proxy --flag 7 -l info")], Some(3)),
            // Another program that is told as much.
            (&[(3, 2, "/opt/proxy --a-flag 7")], None),
            (&[(3, 2, "/opt/proxy --flag 71")], None),
        ] {
            assert_eq!(found(added, processes), envoy, "{processes:?}");
        }
        let named = [(3, 2, "sidecar -c x"), (4, 2, "envoy-1.40 -c x")];
        assert_eq!(found(&[], &named), Some(4));
    }
}
