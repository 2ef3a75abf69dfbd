//! A reload: certificates are read again, and with `--hot-restart` the next generation of Envoy
//! takes over from this one.

use super::Supervisor;
use super::decide::{Input, Reloaded};
use super::trials::{Purpose, Verdict, program};
use crate::certificates::Command;
use crate::process::{self, Exit};
use crate::status::{HotRestarts, Reload};

impl Supervisor {
    /// SIGHUP: somebody changed a file, and wants it read now.
    pub(super) fn reload(&mut self) {
        log::info!("SIGHUP");
        self.reporter.begin_reload();
        let told = self.helpers.tell(Command::CheckNow);
        // With hot restart the reload is more, and has an end of its own.
        self.reading = told && !self.options.hot_restart;
        if self.options.hot_restart {
            self.handle(Input::Reload);
        } else if !told {
            self.reloaded(if self.options.has_certificates() {
                Err("the certificate thread is not there; it is being started again".into())
            } else {
                Ok("no certificates are kept fresh here, and without --hot-restart nothing else is reloaded".into())
            });
        }
    }

    /// A reload is over; whoever asked for it looks for this.
    pub(super) fn reloaded(&mut self, result: Result<String, String>) {
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

    /// Tells how a reload by hot restart ended.
    pub(super) fn take_reloaded(&mut self, how: Reloaded) {
        let epoch = self.envoys.epoch();
        let count = |change: fn(&mut HotRestarts)| {
            self.board
                .update(|snapshot| change(&mut snapshot.hot_restarts));
        };
        let result = match how {
            Reloaded::Live => {
                count(|counts| counts.done += 1);
                let pid = self.envoys.pid().unwrap_or_default();
                Ok(format!(
                    "generation {epoch} is live, pid {pid}; the one before drains"
                ))
            }
            Reloaded::Failed => {
                count(|counts| counts.failed += 1);
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
            Reloaded::UnderWay => {
                count(|counts| counts.refused += 1);
                // Whoever looks for a reload's end looks for that one's.
                log::warn!("not reloaded: another reload is under way");
                return;
            }
            refused => {
                count(|counts| counts.refused += 1);
                Err(match refused {
                    Reloaded::OldDrains => {
                        let left = self.core.old_drains_for(self.now()).unwrap_or_default();
                        format!(
                            "the generation before, pid {}, still drains, and a reload would cut it: try again in {} s",
                            self.envoys.parent().unwrap_or_default(),
                            left.as_secs() + 1
                        )
                    }
                    Reloaded::NotLive => "envoy is not live".into(),
                    Reloaded::Draining => "a drain was asked for".into(),
                    _ => std::mem::take(&mut self.refusal),
                })
            }
        };
        self.note_generations();
        self.reloaded(result);
    }
}
