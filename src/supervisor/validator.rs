//! `envoy --mode validate`, for a first set of certificates: Envoy is the judge of what it takes.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::libc::SIGKILL;
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::OURS;
use crate::process::{self, Exit, Spawn};

/// It takes 40 to 80 ms; nobody waits longer than this.
const LIMIT: Duration = Duration::from_secs(10);

/// How much of what it says is read: the reason is in the last lines.
const OUTPUT: u64 = 64 * 1024;

/// What an Envoy that refuses a configuration says, and nobody else.
const REFUSAL: &str = "error initializing configuration";

/// The validations that were asked for, one after the other.
#[derive(Default)]
pub struct Validator {
    asked: VecDeque<(u64, PathBuf)>,
    running: Option<Running>,
}

struct Running {
    id: u64,
    pid: i32,
    output: File,
    until: Instant,
}

/// Envoy's verdict on a configuration; `Ok` also where it gave none.
pub type Verdict = (u64, Result<(), String>);

impl Validator {
    /// Asks for a validation of `config`; its verdict will bear `id`.
    pub fn ask(&mut self, id: u64, config: PathBuf) {
        self.asked.push_back((id, config));
    }

    /// Starts what is next, and ends what takes too long.
    pub fn proceed(&mut self, line: &[OsString], now: Instant) -> Option<Verdict> {
        if let Some(running) = &mut self.running {
            if now >= running.until {
                process::kill(running.pid, SIGKILL);
                running.until = now + LIMIT;
            }
            return None;
        }
        let (id, config) = self.asked.pop_front()?;
        match start(line, &config) {
            Ok((pid, output)) => {
                let until = now + LIMIT;
                self.running = Some(Running {
                    id,
                    pid,
                    output,
                    until,
                });
                None
            }
            Err(error) => {
                log::warn!("the certificates cannot be tried before Envoy's start: {error}");
                Some((id, Ok(())))
            }
        }
    }

    /// When [`Validator::proceed`] has something to do.
    pub fn wake_at(&self) -> Option<Instant> {
        self.running.as_ref().map(|running| running.until)
    }

    /// A process ended: the verdict, if it was ours.
    pub fn take_exit(&mut self, pid: i32, exit: Exit) -> Option<Verdict> {
        let running = self.running.take_if(|running| running.pid == pid)?;
        let said = read(running.output).unwrap_or_default();
        let refusal = said.lines().rev().find(|line| line.contains(REFUSAL));
        let verdict = match (exit, refusal) {
            (Exit::Code(1), Some(line)) => Err(reason(line)),
            (Exit::Code(0), _) => Ok(()),
            _ => {
                log::warn!(
                    "the trial of the certificates before Envoy's start told nothing: {exit}"
                );
                Ok(())
            }
        };
        Some((running.id, verdict))
    }
}

fn start(line: &[OsString], config: &std::path::Path) -> std::io::Result<(i32, File)> {
    // Whatever stands before Envoy's own flags (`su-exec envoy`) belongs to it.
    let is_flag = |word: &&OsString| word.to_string_lossy().starts_with('-');
    let words = line
        .iter()
        .position(|word| is_flag(&word))
        .unwrap_or(line.len());
    let (program, before) = line
        .get(..words)
        .and_then(<[OsString]>::split_first)
        .ok_or_else(|| std::io::Error::other("no program"))?;
    let mut args = before.to_vec();
    args.extend(["--mode", "validate", "-c"].map(OsString::from));
    args.push(config.into());
    let output = File::from(memfd_create("validate", MFdFlags::MFD_CLOEXEC)?);
    let pid = process::spawn(&Spawn {
        program: OsStr::new(program),
        args: &args,
        without: &OURS,
        inherit: None,
        output: Some(&output),
    })?;
    Ok((pid, output))
}

fn read(mut output: File) -> std::io::Result<String> {
    let length = output.seek(SeekFrom::End(0))?;
    output.seek(SeekFrom::Start(length.saturating_sub(OUTPUT)))?;
    let mut said = Vec::new();
    output.take(OUTPUT).read_to_end(&mut said)?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

/// The reason alone, without Envoy's log prefix and the name of a file that is gone by then.
fn reason(line: &str) -> String {
    let (_, reason) = line.split_once("': ").unwrap_or(("", line));
    reason.chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_what_envoy_says_behind_the_file() {
        let line = "[2026-11-23 09:43:59.762][6563][critical][main] [server.cc:76] error \
                    initializing configuration '/d/candidate.yaml': Failed to load key";
        assert_eq!(reason(line), "Failed to load key");
    }
}
