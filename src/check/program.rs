//! Which word of a command line is an Envoy, and not a script or a wrapper that starts one.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// What stands in every Envoy from 1.36 to 1.40, and in no wrapper that passes flags on: the
/// description of `--drain-time-s`.
const MARK: &[u8] = b"Hot restart and LDS removal drain time in seconds";

/// How much of a file is looked at, a piece at a time: in Envoy's 107 MB the mark is at 10 MB.
const PIECE: usize = 1 << 20;

/// What a command line starts.
#[derive(Debug, PartialEq, Eq)]
pub enum Program {
    /// An Envoy with these arguments. `behind` is what stands before it (`su-exec envoy`).
    Envoy {
        path: PathBuf,
        args: Vec<OsString>,
        behind: Option<String>,
    },
    /// Something else, which is not run: its name, and what it is.
    Other(String, &'static str),
    /// Nothing: why.
    Missing(String),
}

/// Looks for the Envoy in a command line.
pub fn find(line: &[OsString]) -> Program {
    let shown = |word: &OsStr| word.to_string_lossy().into_owned();
    let name = line.first().map_or(OsStr::new(""), OsString::as_os_str);
    let Some(first) = on_path(name) else {
        let whole = shown(name).contains('/');
        let why = if whole {
            "not found"
        } else {
            "not found on PATH"
        };
        return Program::Missing(format!("{}: {why}", shown(name)));
    };
    let words = line.iter().enumerate();
    let words = words.take_while(|(_, word)| !word.to_string_lossy().starts_with('-'));
    for (at, word) in words {
        let path = on_path(word);
        if let Some(path) = path.filter(|path| is_envoy(path).unwrap_or(false)) {
            let before: Vec<_> = line.iter().take(at).map(|word| shown(word)).collect();
            return Program::Envoy {
                path,
                args: line.iter().skip(at + 1).cloned().collect(),
                behind: Some(before.join(" ")).filter(|before| !before.is_empty()),
            };
        }
    }
    let is_script = start_of(&first).is_ok_and(|start| start == *b"#!");
    let what = if is_script {
        "a start script"
    } else {
        "no Envoy that is known"
    };
    Program::Other(shown(name), what)
}

/// The file that a word names, as exec would find it.
fn on_path(word: &OsStr) -> Option<PathBuf> {
    let is_file = |path: &PathBuf| path.is_file();
    if word.to_string_lossy().contains('/') {
        return Some(PathBuf::from(word)).filter(is_file);
    }
    let path = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&path).map(|dir| dir.join(word));
    found.into_iter().find(is_file)
}

fn start_of(path: &Path) -> io::Result<[u8; 2]> {
    let mut start = [0; 2];
    File::open(path)?.read_exact(&mut start)?;
    Ok(start)
}

fn is_envoy(path: &Path) -> io::Result<bool> {
    if start_of(path)? != *b"\x7fE" {
        return Ok(false);
    }
    let mut file = File::open(path)?;
    // Each piece begins with the end of the last.
    let mut bytes = vec![0; PIECE + MARK.len()];
    loop {
        let length = file.read(bytes.get_mut(MARK.len()..).unwrap_or_default())?;
        let seen = bytes.get(..MARK.len() + length).unwrap_or_default();
        if seen.windows(MARK.len()).any(|part| part == MARK) {
            return Ok(true);
        }
        if length == 0 {
            return Ok(false);
        }
        bytes.copy_within(length..length + MARK.len(), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn neither_a_script_nor_another_program_is_an_envoy() {
        let line = |words: &[&str]| -> Vec<OsString> { words.iter().map(OsString::from).collect() };
        let other = |words: &[&str]| match find(&line(words)) {
            Program::Other(name, what) => (name, what),
            other => panic!("{other:?}"),
        };
        assert_eq!(other(&["sh", "-c", "envoy"]).1, "no Envoy that is known");
        let dir = TempDir::new();
        let script = dir.join("script");
        std::fs::write(&script, "#!/bin/sh\n").unwrap();
        assert_eq!(other(&[script.to_str().unwrap(), "-c"]).1, "a start script");
        let missing = Program::Missing("no-such-envoy: not found on PATH".into());
        assert_eq!(find(&line(&["no-such-envoy"])), missing);
        assert!(matches!(find(&line(&["/etc/x/y"])), Program::Missing(_)));
    }
}
