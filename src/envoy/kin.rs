//! Which process is Envoy: our child, or one that a start script has started without `exec`.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::process::{self, Process};

/// How many processes are asked for their working directory; a start script has few.
const MOST: usize = 64;

/// A process's command line as /proc has it: each word ends with a zero byte. Empty where the
/// process is gone.
pub fn line(pid: i32) -> Vec<u8> {
    fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()
}

/// A process's arguments, without its name; none where they cannot be read.
pub fn arguments(pid: i32) -> Vec<OsString> {
    let line = line(pid);
    let line = line.strip_suffix(b"\0").unwrap_or(&line);
    let words = line.split(|byte| *byte == 0).skip(1);
    words
        .map(|word| OsString::from_vec(word.to_vec()))
        .collect()
}

/// Whether a process runs a program that is called Envoy. A script's is its interpreter.
pub fn is_called_envoy(pid: i32) -> bool {
    let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let name = program.file_name().unwrap_or_else(|| OsStr::new(""));
    name.as_bytes().windows(5).any(|part| part == b"envoy")
}

/// Whether a command line carries these words, one after the other.
pub fn carries(line: &[u8], words: &[OsString]) -> bool {
    let words = text(words);
    line.windows(words.len()).any(|part| part == words)
}

/// Whether a command line is exactly this one.
pub fn is_line(line: &[u8], program: &OsStr, args: &[OsString]) -> bool {
    let rest = line.strip_prefix(program.as_bytes());
    rest.is_some_and(|rest| rest == text(args))
}

/// The process with this pid or among those below it that has the thread of an Envoy's watchdog,
/// whatever its program is called (seen on 1.36 and 1.40). Envoy starts that thread once it has
/// read its configuration.
pub fn with_watchdog(pid: i32, below: &[Process]) -> Option<i32> {
    let is_watchdog = |thread: PathBuf| {
        fs::read_to_string(thread.join("comm")).is_ok_and(|name| name.trim() == "dog:main_thread")
    };
    let has_watchdog = |pid: &i32| process::threads(*pid).any(is_watchdog);
    let all = std::iter::once(pid).chain(below.iter().map(|process| process.pid));
    all.into_iter().find(has_watchdog)
}

/// Which process is Envoy, our child or one of those `below` it; none where that cannot be told.
///
/// An Envoy that has read its configuration is known by its watchdog. Before that it is the process
/// below a start script that carries the words that drainit `added` to the command line, or else has
/// Envoy's name. A subshell carries them, too, but has run no program of its own. Of two scripts in
/// a row and an Envoy, Envoy is the last.
pub fn find(pid: i32, below: &[Process], added: &[OsString]) -> Option<i32> {
    with_watchdog(pid, below).or_else(|| by_line(below, added, line))
}

/// `line` tells the command line of a process.
fn by_line(below: &[Process], added: &[OsString], line: impl Fn(i32) -> Vec<u8>) -> Option<i32> {
    let programs = below.iter().filter(|process| !process.is_fork);
    let lines: Vec<_> = programs
        .map(|process| (process, line(process.pid)))
        .collect();
    let pick = |is_envoy: &dyn Fn(&[u8]) -> bool| {
        let found = lines.iter().filter(|(_, line)| is_envoy(line));
        let found: Vec<_> = found.map(|(process, _)| process).collect();
        let is_parent = |process: &&&&Process| found.iter().any(|it| it.parent == process.pid);
        let last = found.iter().find(|process| !is_parent(process));
        last.map(|process| process.pid)
    };
    (!added.is_empty())
        .then(|| pick(&|line| carries(line, added)))
        .flatten()
        .or_else(|| pick(&is_named_envoy))
}

/// Words as they are in a command line, the end of the one before them included.
fn text(words: &[OsString]) -> Vec<u8> {
    let mut text = vec![0];
    for word in words {
        text.extend_from_slice(word.as_bytes());
        text.push(0);
    }
    text
}

/// `envoy`, `/usr/local/bin/envoy-1.40`
fn is_named_envoy(line: &[u8]) -> bool {
    let program = line.split(|&byte| byte == 0).next().unwrap_or_default();
    let name = program.rsplit(|&byte| byte == b'/').next();
    name.is_some_and(|name| name.starts_with(b"envoy"))
}

/// The socket that a process, or one that descends from it, calls by this path.
///
/// # Errors
/// One line, when there is none.
pub fn socket(pid: i32, path: &Path) -> Result<PathBuf, String> {
    let mut dir = None;
    let below = process::descendants_of(pid);
    let below = below.iter().map(|process| process.pid);
    for pid in std::iter::once(pid).chain(below).take(MOST) {
        let Ok(own) = fs::read_link(format!("/proc/{pid}/cwd")) else {
            continue;
        };
        let socket = own.join(path);
        if fs::metadata(&socket).is_ok_and(|file| file.file_type().is_socket()) {
            return Ok(socket);
        }
        dir.get_or_insert(own);
    }
    Err(match dir {
        Some(dir) => format!(
            "Envoy's admin interface: there is no socket at {}",
            dir.join(path).display()
        ),
        None => format!(
            "Envoy's admin interface, {}: drainit cannot see Envoy's working directory: write an \
             absolute path",
            path.display()
        ),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn a_relative_path_is_found_in_the_directory_of_whoever_has_it() {
        let dir = TempDir::new();
        let socket_path = dir.join("a.sock");
        let _listener = UnixListener::bind(&socket_path).unwrap();
        let script = format!("(cd {}; echo; read _); :", dir.display());
        let mut shell = Command::new("sh")
            .args(["-c", &script, "sh", "--flag"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = std::io::BufReader::new(shell.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut out, &mut String::new()).unwrap();
        let pid = shell.id().try_into().unwrap();
        assert_eq!(socket(pid, Path::new("a.sock")), Ok(socket_path));
        let why = socket(pid, Path::new("b.sock")).unwrap_err();
        assert!(why.contains("there is no socket at /"), "{why}");
        assert!(why.ends_with("/b.sock"), "{why}");
        assert_eq!(arguments(pid).last(), Some(&"--flag".into()));
        let words = ["-c", &script, "sh", "--flag"].map(OsString::from);
        assert!(is_line(&line(pid), OsStr::new("sh"), &words));
        assert!(!is_line(&line(pid), OsStr::new("sh"), &words[..3]));
        assert!(!is_line(&line(pid), OsStr::new("/bin/sh"), &words));
        assert!(!is_called_envoy(pid));
        let tree = process::descendants_of(pid);
        assert_eq!(with_watchdog(pid, &tree), None);
        let is_fork: Vec<_> = tree.iter().map(|process| process.is_fork).collect();
        assert_eq!(is_fork, [true], "the subshell");
        assert!(!Process::read(pid).unwrap().is_fork);
        drop(shell.stdin.take());
        shell.wait().unwrap();
    }

    /// Of processes with pid, parent and command line, below a script with the pid 2. What begins with
    /// a parenthesis is a subshell.
    fn found(added: &[&str], processes: &[(i32, i32, &str)]) -> Option<i32> {
        let line = |text: &str| [text.replace(' ', "\0").as_bytes(), b"\0"].concat();
        let process = |&(pid, parent, text): &(i32, i32, &str)| Process {
            pid,
            parent,
            group: 2,
            lives: true,
            is_fork: text.starts_with('('),
        };
        let tree: Vec<_> = processes.iter().map(process).collect();
        let added: Vec<_> = added.iter().map(OsString::from).collect();
        by_line(&tree, &added, |wanted| {
            let found = processes.iter().find(|(pid, ..)| *pid == wanted);
            line(found.unwrap().2)
        })
    }

    #[test]
    fn envoy_is_told_from_the_scripts_and_from_what_they_start() {
        let subshell = "(sh run -c x --flag 7";
        let added = &["--flag", "7"];
        for (processes, envoy) in [
            (&[(3, 2, "/opt/proxy -c x --flag 7")][..], Some(3)),
            (&[(3, 2, subshell), (4, 3, "sleep 10")], None),
            // Its last, whatever the order.
            (
                &[
                    (9, 8, "envoy -c x --flag 7"),
                    (5, 2, subshell),
                    (8, 2, "sh inner -c x --flag 7"),
                    (10, 8, "(sh inner -c x --flag 7"),
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
