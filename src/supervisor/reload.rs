//! A reload: certificates are read again, and with `--hot-restart` the next generation of Envoy
//! takes over from this one.

use std::time::{Duration, Instant};

use super::Supervisor;
use super::decide::{Input, Reloaded};
use super::trials::{Purpose, Verdict, program};
use crate::certificates::Command;
use crate::duration::show;
use crate::envoy::hot_restart;
use crate::process::{self, Exit, ExitClass};
use crate::status::{HotRestarts, Reload};

/// For the certificates to be read again, published and confirmed, which takes 10 s at the most, or
/// twice that where they are taken back. A thread that hangs in a file system must not keep a reload
/// open.
const CERTIFICATES_WITHIN: Duration = Duration::from_secs(30);

/// What somebody learns who asks for a reload where there is nothing that could be reloaded.
const NOTHING: &str = "there is nothing to reload: start drainit with --hot-restart to reload Envoy's \
     configuration, or with --resources-dir and --secret or --envoy-cert-file to keep certificates fresh";

/// A reload: what of it is still to end, and what came of the rest.
#[derive(Debug, Default)]
pub(super) struct Reloading {
    /// The number of the last question to the certificate thread.
    number: u64,
    /// It is to be answered, until then at the latest.
    certificates: Option<Instant>,
    /// What it answered.
    read: Option<Result<String, String>>,
    /// The next generation is on its way.
    generation: bool,
    /// What became of it.
    rose: Option<Result<String, String>>,
    /// How many reloads were asked for, and the number of the one under way, or of the last.
    asked: u64,
    current: u64,
}

impl Reloading {
    fn is_under_way(&self) -> bool {
        self.certificates.is_some() || self.generation
    }

    /// When it goes on even if nothing happens.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.certificates
    }

    /// What came of it, once all of it has ended: one line, with what failed first.
    fn end(&mut self) -> Option<Result<String, String>> {
        if self.is_under_way() {
            return None;
        }
        match (self.read.take(), self.rose.take()) {
            (Some(Ok(read)), Some(Ok(rose))) => Some(Ok(format!("{rose}; {read}"))),
            (Some(Err(read)), Some(Ok(rose))) => Some(Err(format!("{read}; but {rose}"))),
            (Some(Ok(read)), Some(Err(rose))) => Some(Err(format!("{rose}; but {read}"))),
            (Some(Err(read)), Some(Err(rose))) => Some(Err(format!("{rose}; {read}"))),
            (read, rose) => rose.or(read),
        }
    }
}

/// Says of certificates alone that they are all that was reloaded: whoever changed Envoy's
/// configuration would take it for done.
fn certificates_alone(read: String) -> String {
    format!("{read}; envoy's configuration is read again only with --hot-restart")
}

impl Supervisor {
    /// SIGHUP: somebody changed a file, and wants it read now.
    pub(super) fn reload(&mut self) {
        log::info!("SIGHUP");
        self.prefer_file();
        self.ask_for_reload();
    }

    /// A reload is wanted.
    pub(super) fn count_reload(&mut self) {
        self.reloading.asked += 1;
        let asked = self.reloading.asked;
        self.board.update(|snapshot| snapshot.reloads_asked = asked);
        self.reporter.begin_reload();
    }

    /// The files are to be read as they are now.
    pub(super) fn ask_for_reload(&mut self) {
        self.count_reload();
        if self.options.hot_restart {
            self.handle(Input::Reload);
        } else {
            self.begin_reload();
            self.end_reload();
        }
    }

    /// The reload that was asked for last begins: with the certificates.
    fn begin_reload(&mut self) {
        let hot = self.options.hot_restart;
        if hot {
            // One whose generation is live, and has been taken over from by now.
            self.end_reading(Ok("the next reload tells of the certificates".into()));
        }
        self.refusal.clear();
        self.trials.forget_reload();
        self.reloading.current = self.reloading.asked;
        if !self.read_certificates() {
            self.reloading.read = if self.options.has_certificates() {
                let why = "the certificate thread is not there; it is being started again";
                Some(Err(why.into()))
            } else if hot {
                None
            } else {
                Some(Err(NOTHING.into()))
            };
        }
        self.reloading.generation = hot;
        self.board.update(|snapshot| {
            snapshot.reloading = hot;
            snapshot.reload_kept = false;
        });
    }

    /// The reload that was asked for just now is done later.
    pub(super) fn keep_reload(&mut self) {
        let waits_for = match self.envoys.old() {
            Some(pid) if self.core.generations().old_ends_at().is_some() => {
                format!("until the generation before, pid {pid}, has ended")
            }
            _ => "until the reload under way has ended".into(),
        };
        log::info!("the reload is kept {waits_for}");
        self.helpers.tell(Command::CheckNow(self.reloading.number));
        self.board.update(|snapshot| snapshot.reload_kept = true);
    }

    /// Has the certificates read again, if there is somebody to do that.
    fn read_certificates(&mut self) -> bool {
        let number = self.reloading.number + 1;
        let told = self.helpers.tell(Command::CheckNow(number));
        if told {
            self.reloading.number = number;
            self.reloading.certificates = Some(Instant::now() + CERTIFICATES_WITHIN);
            self.reloading.read = None;
        }
        told
    }

    /// The certificates were read again, as was asked with this number.
    pub(super) fn on_reading(&mut self, number: u64, result: Result<String, String>) {
        if number == self.reloading.number {
            self.end_reading(result);
        }
    }

    /// Nobody is waited for any more who reads certificates.
    pub(super) fn end_reading(&mut self, result: Result<String, String>) {
        if self.reloading.certificates.take().is_some() {
            self.reloading.read = Some(result);
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
            let limit = show(CERTIFICATES_WITHIN);
            let why = format!("what comes of the certificates is not known after {limit}");
            self.end_reading(Err(why));
        }
    }

    /// Whoever asked for a reload looks for this, once all of it has ended.
    fn end_reload(&mut self) {
        let Some(mut result) = self.reloading.end() else {
            return;
        };
        if !self.options.hot_restart {
            result = result.map(certificates_alone);
        }
        if !self.core.generations().keeps_reload() {
            self.reporter.end_reload();
        }
        match &result {
            Ok(line) => log::info!("reloaded: {line}"),
            Err(why) => log::warn!("reload failed: {why}"),
        }
        let number = self.reloading.current;
        self.board.update(|snapshot| {
            snapshot.reload = Some(Reload {
                number,
                at: Instant::now(),
                result,
            });
            snapshot.reloading = false;
        });
    }

    fn count(&self, change: fn(&mut HotRestarts)) {
        self.board
            .update(|snapshot| change(&mut snapshot.hot_restarts));
    }

    /// Has Envoy look at the configuration as it is now: the Envoy that the path leads to now.
    pub(super) fn try_next(&mut self) {
        self.begin_reload();
        self.choose_configuration();
        let envoy = self.board.read().envoy.clone();
        let warning = envoy.and_then(|it| hot_restart::warning(&it.version?, it.pid));
        if let Some(warning) = warning {
            log::warn!("{warning}");
        }
        let mut line = self.envoys.next_line();
        line.extend(["--mode", "validate"].map(Into::into));
        self.trials.ask(Purpose::Configuration, line);
    }

    /// Has Envoy, which ended before it was live, say whether it refuses what it was started with.
    pub(super) fn judge(&mut self) {
        match self.envoys.trial_of_start() {
            Some(line) => self.trials.ask(Purpose::Start, line),
            None => self.handle(Input::Judged(None)),
        }
    }

    /// A trial ended.
    pub(super) fn on_verdict(&mut self, verdict: Verdict) {
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
            Purpose::Start => {
                let refusal = {
                    let itself = self.envoys.is_envoy_itself();
                    verdict.refusal_of_start(itself, self.options.add_envoy_flags)
                };
                if refusal.is_some() {
                    let class = Some(ExitClass::Configuration);
                    self.board.update(|snapshot| {
                        if let Some(last) = &mut snapshot.last_end {
                            last.end.class = class;
                        }
                    });
                }
                self.handle(Input::Judged(refusal));
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
                let Some(pid) = self.envoys.pid() else {
                    return self.refuse("envoy ended meanwhile".into());
                };
                let next = Purpose::Version(verdict.said.trim().to_owned());
                let line = [format!("/proc/{pid}/exe"), "--hot-restart-version".into()];
                self.trials.ask(next, line.map(Into::into).to_vec());
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
            Purpose::Forgotten => {}
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
                self.note_next_configuration();
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
    pub(super) fn on_reloaded(&mut self, how: Reloaded) {
        self.count(match how {
            Reloaded::Live => |counts| counts.done += 1,
            Reloaded::Failed => |counts| counts.failed += 1,
            _ => |counts| counts.refused += 1,
        });
        if !self.reloading.generation {
            // Refused before it began.
            self.begin_reload();
        }
        let epoch = self.envoys.epoch();
        let result = match how {
            Reloaded::Live => {
                // From here on the new Envoy's word on the certificates is the one that counts.
                self.helpers.tell(Command::EnvoyReplaced);
                self.read_certificates();
                let pid = self.envoys.pid().unwrap_or_default();
                Ok(format!(
                    "generation {epoch} is live, pid {pid}; the one before drains"
                ))
            }
            Reloaded::Failed => {
                if self.core.generations().is_admin_away() {
                    log::warn!("generation {epoch} serves on");
                }
                let why = std::mem::take(&mut self.refusal);
                Err(if why.is_empty() {
                    "envoy ended meanwhile".into()
                } else {
                    why
                })
            }
            Reloaded::NotLive => Err("envoy is not live".into()),
            Reloaded::Draining => Err("a drain was asked for".into()),
            Reloaded::Refused => Err(std::mem::take(&mut self.refusal)),
        };
        self.note_generations();
        if matches!(how, Reloaded::NotLive) {
            self.miss_configuration();
        }
        self.on_followed(matches!(how, Reloaded::Live));
        self.reloading.generation = false;
        self.reloading.rose = Some(result);
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
            ..Reloading::default()
        };
        reloading.generation = false;
        reloading.rose = Some(Ok("generation 1 is live".into()));
        assert_eq!(reloading.end(), None);
        reloading.certificates = None;
        reloading.read = Some(Err("edge: the key: is missing".into()));
        let line = "edge: the key: is missing; but generation 1 is live";
        assert_eq!(reloading.end(), Some(Err(line.into())));
        assert_eq!(reloading.end(), None);
    }
}
