//! Envoy, run for a moment to hear what it says: of a candidate configuration, or of itself.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::libc::SIGKILL;
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::OURS;
use crate::envoy::refusal;
use crate::process::{self, Exit, Spawn};

/// A trial takes 40 to 80 ms; nobody waits longer than this.
const LIMIT: Duration = Duration::from_secs(10);

/// SIGKILL ends a trial within this, or the trial is in an uninterruptible sleep: then nobody waits
/// for its end any more.
const KILL_LIMIT: Duration = Duration::from_secs(1);

/// How many bytes of what Envoy says are read: the reason is in the last lines.
const OUTPUT: u64 = 64 * 1024;

/// What Envoy says of a command line that it refuses.
const PARSER: &str = "PARSE ERROR";

/// What Envoy says of a flag that its command line has twice, and what to do where drainit has
/// added one of the two.
const TWICE: &str = "Argument already set!";
const ONCE: &str = " drainit gives that flag, too: take it out of the start script, or start drainit \
     with --envoy-flags keep and --admin-address";

/// What a trial is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The certificate thread's question of this number.
    Certificates(u64),
    /// Whether Envoy, which ended before it was live, refuses its configuration.
    Start,
    /// Whether the next generation's configuration is one.
    Configuration,
    /// Which hot restart the next generation speaks.
    NextVersion,
    /// Whether the running generation speaks this one, too.
    Version(String),
    /// Nothing any more: nobody waits for its end.
    Forgotten,
}

/// How a trial ended.
#[derive(Debug)]
pub struct TrialResult {
    /// What the trial was for.
    pub purpose: Purpose,
    /// How the process ended; none if it could not be started.
    pub exit: Option<Exit>,
    /// The end of what the process said on stdout and stderr.
    pub said: String,
}

impl TrialResult {
    /// Why Envoy refuses what it was tried with, if it does: a process that is no Envoy, or that
    /// could not be started, has refused nothing.
    pub fn refusal(&self) -> Option<String> {
        let reason = refusal::of_configuration(&self.said)?;
        (self.exit == Some(Exit::Code(1))).then_some(reason)
    }
}

impl TrialResult {
    /// Why Envoy refuses the command line that a start was tried with, which it does in its
    /// parser's words. Whatever else a `certain` Envoy exits with 1 for is a refusal as well. `added`
    /// is whether drainit has added flags to that command line.
    pub fn refusal_of_start(&self, certain: bool, added: bool) -> Option<String> {
        let refused = self.exit == Some(Exit::Code(1));
        self.refusal().or_else(|| {
            let refused = refused && (certain || self.said.contains(PARSER));
            let last = refusal::last_word(&self.said);
            let mut why = last.unwrap_or_else(|| "exit code 1".to_owned());
            if added && why.ends_with(TWICE) {
                why.push_str(ONCE);
            }
            refused.then_some(why)
        })
    }
}

/// The trials that were asked for, one after the other.
#[derive(Default)]
pub struct Trials {
    asked: VecDeque<Asked>,
    running: Option<RunningTrial>,
}

struct Asked {
    purpose: Purpose,
    line: Vec<OsString>,
    /// A file that is read by its descriptor.
    config: Option<OwnedFd>,
}

struct RunningTrial {
    purpose: Purpose,
    pid: i32,
    output: File,
    until: Instant,
    killed: bool,
}

impl Trials {
    /// Asks for a run of this command line.
    pub fn ask(&mut self, purpose: Purpose, line: Vec<OsString>) {
        self.asked.push_back(Asked {
            purpose,
            line,
            config: None,
        });
    }

    /// Asks for a run on this configuration, which has no name, and is closed as soon as the
    /// process has it.
    pub fn ask_of(&mut self, purpose: Purpose, line: Vec<OsString>, config: OwnedFd) {
        self.asked.push_back(Asked {
            purpose,
            line,
            config: Some(config),
        });
    }

    /// Forgets what a reload asked that was given up: the next one has no use for that.
    pub fn forget_reload(&mut self) {
        let kept = |purpose: &Purpose| matches!(purpose, Purpose::Certificates(_) | Purpose::Start);
        self.asked.retain(|asked| kept(&asked.purpose));
        if let Some(running) = &mut self.running
            && !kept(&running.purpose)
        {
            running.purpose = Purpose::Forgotten;
        }
    }

    /// Starts the next trial, and ends one that takes too long. Returns the result of a trial that
    /// could not be started, or does not end.
    pub fn proceed(&mut self, now: Instant) -> Option<TrialResult> {
        if let Some(running) = &mut self.running {
            if now < running.until {
                return None;
            }
            if running.killed {
                let pid = running.pid;
                log::warn!("the trial, pid {pid}, has not ended on SIGKILL: it is left alone");
                return self.on_exit(pid, Exit::Signal(SIGKILL as u8));
            }
            // A start script's Envoy, too, if it is behind one.
            process::kill(-running.pid, SIGKILL);
            (running.killed, running.until) = (true, now + KILL_LIMIT);
            return None;
        }
        let Asked {
            purpose,
            line,
            config,
        } = self.asked.pop_front()?;
        match start(&line, config.as_ref()) {
            Ok((pid, output)) => {
                let until = now + LIMIT;
                self.running = Some(RunningTrial {
                    purpose,
                    pid,
                    output,
                    until,
                    killed: false,
                });
                None
            }
            Err(error) => {
                let (exit, said) = (None, error.to_string());
                Some(TrialResult {
                    purpose,
                    exit,
                    said,
                })
            }
        }
    }

    /// Whether it is not known yet why an Envoy ended before it was live.
    pub fn asks_of_start(&self) -> bool {
        let of_start = |purpose: &Purpose| *purpose == Purpose::Start;
        self.running
            .as_ref()
            .is_some_and(|it| of_start(&it.purpose))
            || self.asked.iter().any(|it| of_start(&it.purpose))
    }

    /// When [`Trials::proceed`] has something to do.
    pub fn wake_at(&self) -> Option<Instant> {
        self.running.as_ref().map(|running| running.until)
    }

    /// A process ended. Returns the trial's result, if the process was a trial.
    pub fn on_exit(&mut self, pid: i32, exit: Exit) -> Option<TrialResult> {
        let running = self.running.take_if(|running| running.pid == pid)?;
        Some(TrialResult {
            purpose: running.purpose,
            exit: Some(exit),
            said: read(running.output).unwrap_or_default(),
        })
    }
}

fn start(line: &[OsString], config: Option<&OwnedFd>) -> io::Result<(i32, File)> {
    let (program, args) = line
        .split_first()
        .ok_or_else(|| io::Error::other("no program"))?;
    let output = File::from(memfd_create("trial", MFdFlags::MFD_CLOEXEC)?);
    let pid = process::spawn(&Spawn {
        program: OsStr::new(program),
        args,
        without: &OURS,
        inherit: config,
        output: Some(&output),
        mute: None,
    })?;
    Ok((pid, output))
}

fn read(mut output: File) -> io::Result<String> {
    let length = output.seek(SeekFrom::End(0))?;
    output.seek(SeekFrom::Start(length.saturating_sub(OUTPUT)))?;
    let mut said = Vec::new();
    output.take(OUTPUT).read_to_end(&mut said)?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_what_envoy_says_without_its_log_prefix() {
        for (said, expected) in [
            (
                "[2026-11-23 09:43:59.762][6563][critical][main] [server.cc:76] error \
                 initializing configuration '/d/candidate.yaml': Failed to load key",
                "Failed to load key",
            ),
            (
                "[critical][main] error `Invalid path: /x.yaml` initializing config 'debug",
                "Invalid path: /x.yaml",
            ),
        ] {
            let verdict = |exit| TrialResult {
                purpose: Purpose::Configuration,
                exit,
                said: said.into(),
            };
            assert_eq!(
                verdict(Some(Exit::Code(1))).refusal().as_deref(),
                Some(expected)
            );
            assert_eq!(verdict(Some(Exit::Code(0))).refusal(), None);
            assert_eq!(verdict(None).refusal(), None);
        }
    }

    #[test]
    fn a_flag_that_a_script_gives_behind_ours_is_told_with_the_remedy() {
        let verdict = TrialResult {
            purpose: Purpose::Start,
            exit: Some(Exit::Code(1)),
            said: "PARSE ERROR: Argument: (--drain-time-s)\n  Argument already set!\n\n\
                   (--drain-time-s) -- Argument already set!\n\n"
                .into(),
        };
        let line = "(--drain-time-s) -- Argument already set!";
        assert_eq!(
            verdict.refusal_of_start(false, false).as_deref(),
            Some(line)
        );
        let why = verdict.refusal_of_start(false, true).unwrap();
        assert!(
            why.starts_with(line) && why.contains("--envoy-flags keep"),
            "{why}"
        );
    }

    #[test]
    fn a_trial_that_does_not_end_on_sigkill_holds_nothing_up() {
        let mut trials = Trials::default();
        let line = ["sleep", "1000"].map(OsString::from);
        trials.ask(Purpose::Start, line.to_vec());
        trials.ask(Purpose::NextVersion, vec!["/nowhere/envoy".into()]);
        let start = Instant::now();
        assert!(trials.proceed(start).is_none());
        let pid = trials.running.as_ref().unwrap().pid;
        assert!(trials.proceed(start + LIMIT).is_none());
        // Its end is not seen.
        let later = start + LIMIT + KILL_LIMIT;
        let given_up = trials.proceed(later).unwrap();
        assert_eq!(
            (given_up.purpose, given_up.exit),
            (Purpose::Start, Some(Exit::Signal(SIGKILL as u8)))
        );
        assert!(!trials.asks_of_start() && trials.wake_at().is_none());
        let next = trials.proceed(later).unwrap();
        assert_eq!(next.purpose, Purpose::NextVersion);
        let mut status = 0;
        // SAFETY: waitpid writes one int.
        unsafe { nix::libc::waitpid(pid, &mut status, 0) };
        assert!(trials.on_exit(pid, Exit::Signal(SIGKILL as u8)).is_none());
    }

    #[test]
    fn a_trial_says_how_it_ended_and_what_it_said() {
        let mut trials = Trials::default();
        let line = ["sh", "-c", "echo one; echo two >&2; exit 3"].map(OsString::from);
        trials.ask(Purpose::Configuration, line.to_vec());
        trials.ask(Purpose::NextVersion, vec!["/nowhere/envoy".into()]);
        assert!(trials.proceed(Instant::now()).is_none());
        let pid = trials.running.as_ref().unwrap().pid;
        let mut status = 0;
        // SAFETY: waitpid writes one int.
        unsafe { nix::libc::waitpid(pid, &mut status, 0) };
        let verdict = trials.on_exit(pid, Exit::Code(3)).unwrap();
        assert_eq!(
            (verdict.purpose, verdict.said.as_str()),
            (Purpose::Configuration, "one\ntwo\n")
        );
        let verdict = trials.proceed(Instant::now()).unwrap();
        assert_eq!(
            (verdict.purpose, verdict.exit),
            (Purpose::NextVersion, None)
        );
    }
}
