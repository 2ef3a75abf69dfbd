//! Which Envoy a child of ours is, or has started: a start script may stand between.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// So many processes are looked at; a start script has few.
const MOST: usize = 64;

/// A process and those that descend from it, the nearest first.
pub fn tree(pid: i32) -> Vec<i32> {
    let mut found = Vec::new();
    let mut next = VecDeque::from([pid]);
    while let Some(pid) = next.pop_front() {
        if found.len() == MOST {
            break;
        }
        found.push(pid);
        for thread in threads(pid) {
            let children = fs::read_to_string(thread.join("children")).unwrap_or_default();
            next.extend(children.split_whitespace().flat_map(str::parse::<i32>));
        }
    }
    found
}

/// The Envoy that this process is, or has started; none while there is none that has come as far
/// as its watchdog, which it starts once it has read its configuration.
pub fn envoy(pid: i32) -> Option<i32> {
    tree(pid).into_iter().find(|pid| has_watchdog(*pid))
}

/// Whether a process has the thread of an Envoy's watchdog, whatever its program is called (seen
/// on 1.36 and 1.40).
fn has_watchdog(pid: i32) -> bool {
    threads(pid).any(|thread| {
        fs::read_to_string(thread.join("comm")).is_ok_and(|name| name.trim() == "dog:main_thread")
    })
}

fn threads(pid: i32) -> impl Iterator<Item = PathBuf> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    threads.into_iter().flatten().flatten().map(|it| it.path())
}

/// A process's arguments, without its name; none where they cannot be read.
pub fn arguments(pid: i32) -> Vec<OsString> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
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

/// The socket that a process, or one that descends from it, calls by this path.
///
/// # Errors
/// One line, when there is none.
pub fn socket(pid: i32, path: &Path) -> Result<PathBuf, String> {
    let mut dir = None;
    for pid in tree(pid) {
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
            "envoy's admin interface, {}: not there",
            dir.join(path).display()
        ),
        None => format!(
            "envoy's admin interface, {}: envoy's working directory cannot be seen: write an \
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

    #[test]
    fn a_relative_path_is_found_in_the_directory_of_whoever_has_it() {
        let dir = std::env::temp_dir().join(format!("drainit-kin-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
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
        assert_eq!(tree(pid).len(), 2);
        assert_eq!(socket(pid, Path::new("a.sock")), Ok(socket_path));
        let why = socket(pid, Path::new("b.sock")).unwrap_err();
        assert!(why.contains("b.sock: not there"), "{why}");
        assert_eq!(arguments(pid).last(), Some(&"--flag".into()));
        assert!(!is_called_envoy(pid) && envoy(pid).is_none());
        drop(shell.stdin.take());
        shell.wait().unwrap();
        fs::remove_dir_all(&dir).unwrap();
    }
}
