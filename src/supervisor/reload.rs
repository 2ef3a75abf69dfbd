//! A reload: certificates are read again, and with `--hot-restart` the next generation of Envoy
//! takes over from this one.

use std::time::{Duration, Instant};

use super::Supervisor;
use super::decide::{Input, Reloaded};
use super::trials::{Purpose, Verdict, program};
use crate::certificates::Command;
use crate::process::{self, Exit};
use crate::status::{HotRestarts, Reload};

/// For the certificates to be read again; they are published and confirmed within 10 s, or taken
/// back within another 10 s. A thread that hangs in a file system must not keep a reload open.
const CERTIFICATES_WITHIN: Duration = Duration::from_secs(30);

/// A reload that is under way: what is still to end, and what came of the rest.
#[derive(Debug, Default)]
pub(super) struct Reloading {
    /// The certificates are being read again, until then at the latest.
    certificates: Option<Instant>,
    /// The next generation is on its way.
    generation: bool,
    came: Vec<Result<String, String>>,
}

impl Reloading {
    pub(super) fn is_under_way(&self) -> bool {
        self.certificates.is_some() || self.generation
    }

    /// When it goes on even if nothing happens.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.certificates
    }

    /// What came of it, once all of it has ended: one line, with what failed first.
    fn end(&mut self) -> Option<Result<String, String>> {
        if self.is_under_way() || self.came.is_empty() {
            return None;
        }
        let (mut well, mut badly) = (Vec::new(), Vec::new());
        for result in self.came.drain(..) {
            match result {
                Ok(line) => well.push(line),
                Err(why) => badly.push(why),
            }
        }
        let (well, badly) = (well.join("; "), badly.join("; "));
        Some(match (well.is_empty(), badly.is_empty()) {
            (_, true) => Ok(well),
            (true, false) => Err(badly),
            (false, false) => Err(format!("{badly}; but {well}")),
        })
    }
}

impl Supervisor {
    /// SIGHUP: somebody changed a file, and wants it read now.
    pub(super) fn reload(&mut self) {
        log::info!("SIGHUP");
        let hot = self.options.hot_restart;
        if hot && self.reloading.is_under_way() {
            // Whoever looks for a reload's end looks for that one's.
            log::warn!("not reloaded: another reload is under way");
            self.count(|counts| counts.refused += 1);
            return;
        }
        self.reporter.begin_reload();
        if self.helpers.tell(Command::CheckNow) {
            self.reloading.certificates = Some(Instant::now() + CERTIFICATES_WITHIN);
        } else if self.options.has_certificates() {
            let why = "the certificate thread is not there; it is being started again";
            self.reloading.came.push(Err(why.into()));
        } else if !hot {
            let line = "no certificates are kept fresh here, and without --hot-restart nothing \
                        else is reloaded";
            self.reloading.came.push(Ok(line.into()));
        }
        if hot {
            self.reloading.generation = true;
            self.handle(Input::Reload);
        }
        self.end_reload();
    }

    /// The certificates were read again, or cannot be.
    pub(super) fn take_reading(&mut self, result: Result<String, String>) {
        if self.reloading.certificates.take().is_some() {
            self.reloading.came.push(result);
            self.end_reload();
        }
    }

    /// Waits no longer for certificates that take too long.
    pub(super) fn hurry_reload(&mut self, now: Instant) {
        if self
            .reloading
            .certificates
            .is_some_and(|until| until <= now)
        {
            self.take_reading(Err("the certificates are still being read".into()));
        }
    }

    /// Whoever asked for a reload looks for this, once all of it has ended.
    fn end_reload(&mut self) {
        let Some(result) = self.reloading.end() else {
            return;
        };
        self.reporter.end_reload();
        match &result {
            Ok(line) => log::info!("reloaded: {line}"),
            Err(why) => log::warn!("not reloaded: {why}"),
        }
        self.board.update(|snapshot| {
            let number = snapshot.reload.as_ref().map_or(0, |reload| reload.number) + 1;
            snapshot.reload = Some(Reload { number, result });
        });
    }

    fn count(&self, change: fn(&mut HotRestarts)) {
        self.board
            .update(|snapshot| change(&mut snapshot.hot_restarts));
    }

    /// Has Envoy look at the configuration as it is now: the Envoy that the path leads to now.
    pub(super) fn try_next(&mut self) {
        let mut line = self.envoys.line().to_vec();
        line.extend(["--mode", "validate"].map(Into::into));
        self.trials.ask(Purpose::Configuration, line);
    }

    /// A trial ended.
    pub(super) fn take_verdict(&mut self, verdict: Verdict) {
        match verdict.purpose {
            Purpose::Certificates(id) => {
                let refusal = verdict.refusal();
                if refusal.is_none() && verdict.exit != Some(Exit::Code(0)) {
                    log::warn!(
                        "the trial of the certificates told nothing: {}",
                        verdict.said.trim()
                    );
                }
                let verdict = refusal.map_or(Ok(()), Err);
                self.helpers.tell(Command::Validated { id, verdict });
            }
            Purpose::Configuration if verdict.exit == Some(Exit::Code(0)) => {
                let mut line = program(self.envoys.line());
                line.push("--hot-restart-version".into());
                self.trials.ask(Purpose::NextVersion, line);
            }
            Purpose::Configuration => self.refuse(match (verdict.refusal(), verdict.exit) {
                (Some(why), _) => format!("envoy refuses the configuration: {why}"),
                (None, Some(exit)) => format!(
                    "the trial of the configuration told nothing: {exit}; {}",
                    verdict.said.lines().last().unwrap_or_default().trim()
                ),
                (None, None) => format!(
                    "{} cannot be started: {}",
                    self.envoys.program().to_string_lossy(),
                    verdict.said
                ),
            }),
            Purpose::NextVersion if verdict.exit != Some(Exit::Code(0)) => {
                self.refuse(format!(
                    "the new envoy told no version of hot restart: {}",
                    verdict.said.trim()
                ));
            }
            Purpose::NextVersion => {
                let next = Purpose::Version(verdict.said.trim().to_owned());
                let running = self.envoys.pid().map(|pid| format!("/proc/{pid}/exe"));
                let line = running.into_iter().chain(["--hot-restart-version".into()]);
                self.trials.ask(next, line.map(Into::into).collect());
            }
            Purpose::Version(next)
                if verdict.exit == Some(Exit::Code(0)) && verdict.said.trim() == next =>
            {
                self.handle(Input::Tried(true));
            }
            Purpose::Version(next) => self.refuse(format!(
                "the new envoy speaks hot restart {next}, the running one {}",
                verdict.said.trim()
            )),
        }
    }

    /// The next generation is none, and this is why.
    fn refuse(&mut self, why: String) {
        self.refusal = why;
        self.handle(Input::Tried(false));
    }

    /// Spawns the next generation beside the newest.
    pub(super) fn spawn_next(&mut self) {
        match self.envoys.spawn_next() {
            Ok(pid) => {
                self.note_start(pid);
                self.handle(Input::NextSpawned(true));
            }
            Err(error) => {
                let (_, why) = process::spawn_failure(self.envoys.program(), &error);
                self.refusal = why;
                self.handle(Input::NextSpawned(false));
            }
        }
    }

    /// A generation that rose ended before it was live.
    pub(super) fn fall_back(&mut self, exit: Exit) {
        self.refusal = format!("the next generation ended before it was live: {exit}");
        self.envoys.fall_back();
        log::warn!("{}", self.refusal);
        if let Some(pid) = self.envoys.pid() {
            self.note_start(pid);
        }
    }

    /// A hot restart ended.
    pub(super) fn take_reloaded(&mut self, how: Reloaded) {
        self.count(match how {
            Reloaded::Live => |counts| counts.done += 1,
            Reloaded::Failed => |counts| counts.failed += 1,
            _ => |counts| counts.refused += 1,
        });
        let epoch = self.envoys.epoch();
        let result = match how {
            Reloaded::Live => {
                let pid = self.envoys.pid().unwrap_or_default();
                Ok(format!(
                    "generation {epoch} is live, pid {pid}; the one before drains"
                ))
            }
            Reloaded::Failed => {
                if self.core.is_mute() {
                    log::warn!("generation {epoch} serves on");
                }
                let why = std::mem::take(&mut self.refusal);
                Err(if why.is_empty() {
                    "envoy ended meanwhile".into()
                } else {
                    why
                })
            }
            Reloaded::UnderWay => Err("another reload is under way".into()),
            Reloaded::OldDrains => {
                let left = self.core.old_drains_for(self.now()).unwrap_or_default();
                Err(format!(
                    "the generation before, pid {}, still drains, and a reload would cut it: try again in {} s",
                    self.envoys.parent().unwrap_or_default(),
                    left.as_secs() + 1
                ))
            }
            Reloaded::NotLive => Err("envoy is not live".into()),
            Reloaded::Draining => Err("a drain was asked for".into()),
            Reloaded::Refused => Err(std::mem::take(&mut self.refusal)),
        };
        self.note_generations();
        self.reloading.generation = false;
        self.reloading.came.push(result);
        self.end_reload();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reload_ends_with_its_last_part_and_fails_with_any() {
        let mut reloading = Reloading {
            certificates: Some(Instant::now()),
            generation: true,
            came: Vec::new(),
        };
        reloading.generation = false;
        reloading.came.push(Ok("generation 1 is live".into()));
        assert_eq!(reloading.end(), None);
        reloading.certificates = None;
        reloading.came.push(Err("edge: the key: is missing".into()));
        let line = "edge: the key: is missing; but generation 1 is live";
        assert_eq!(reloading.end(), Some(Err(line.into())));
        assert_eq!(reloading.end(), None);
    }
}
