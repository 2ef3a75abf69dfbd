//! A hot restart: the next generation of Envoy is tried, spawned beside this one, and takes over
//! from it.

use super::Supervisor;
use super::decide::{Input, News, Reloaded, RestartStep, START_LIMIT, Who};
use super::trials::{Purpose, TrialResult};
use crate::certificates::CertificateCommand;
use crate::drain::{Drain, Loss, Time};
use crate::envoy::load::Load;
use crate::envoy::{address, flags, hot_restart, refusal};
use crate::process::{self, Exit};
use crate::status::hot_restart::{Handover, HotRestart};
use crate::status::{Admin, plural};

/// What an old generation is called among listeners.
const OLD: &str = "old generation";

/// Why a reload has no next generation where nobody knows more.
const ENDED: &str = "Envoy ended during the reload";

/// What is wrong with an Envoy whose listeners ended with the generation that had taken them over.
pub(super) const CLOSED: &str =
    "envoy accepts no connections any more: its listeners went with the generation that ended";

/// Who has connections that are no listener's of the newest Envoy, and how many.
pub(super) fn elsewhere(load: &Load) -> Option<(&'static str, u64)> {
    (load.old_connections > 0).then_some((OLD, load.old_connections))
}

/// Who had connections that were cut and are no listener's of the newest Envoy, and how many: lost
/// with the old generation, or left on it.
pub(super) fn cut_elsewhere(
    loss: Option<Loss>,
    left: Option<&Load>,
) -> Option<(&'static str, u64)> {
    match loss {
        Some(Loss::Connections(count)) => Some((OLD, count)),
        _ => left.and_then(elsewhere),
    }
}

/// HTTP requests in flight; none where an old generation may have more, of which nobody tells.
pub(super) fn known_requests(load: &Load) -> Option<u64> {
    load.known_requests().filter(|_| elsewhere(load).is_none())
}

/// `; an old generation of envoy ended with 2 connections open`, or nothing where nothing was lost.
pub(super) fn loss(loss: Loss) -> String {
    let what = match loss {
        Loss::None => return String::new(),
        Loss::Connections(count) => format!(" with {} open", plural(count, "connection")),
        Loss::Unknown => ", and what it had open then is not known".into(),
    };
    format!("; an old generation of envoy ended{what}")
}

impl Supervisor {
    /// Does what the core says of a hot restart.
    pub(super) fn on_step(&mut self, now: Time, step: RestartStep) {
        match step {
            RestartStep::Try => self.try_next(),
            RestartStep::SpawnNext => self.spawn_next(),
            RestartStep::KillNewest => {
                if self.core.generations().has_given_up() {
                    self.reloading.refusal = too_slow(&self.board.read().admin);
                }
                self.envoys.kill_newest();
            }
            RestartStep::RelieveOld => {
                let hurries = self.core.generations().hurries(now);
                let relieved = self.envoys.relieve_old(hurries);
                self.handle(Input::HotRestart(News::OldRelieved(relieved)));
            }
            RestartStep::TerminateOld => self.envoys.terminate_old(),
            RestartStep::KillOld => {
                self.envoys.kill_old();
                self.note_generations();
            }
            RestartStep::Keep => self.keep_reload(),
            RestartStep::Reloaded(how) => self.on_reloaded(how),
        }
    }

    /// Changes what is shown of hot restarts.
    pub(super) fn note_hot_restart(&self, change: impl FnOnce(&mut HotRestart)) {
        self.board.update(|snapshot| {
            if let Some(hot_restart) = &mut snapshot.hot_restart {
                change(hot_restart);
            }
        });
    }

    /// Shows which generation is the newest, and whether an old one lives.
    pub(super) fn note_generations(&self) {
        self.note_hot_restart(|hot_restart| {
            hot_restart.epoch = self.envoys.epoch();
            hot_restart.old = self.envoys.old();
        });
    }

    /// Brings the snapshot up to what the core has decided of a second Envoy.
    pub(super) fn publish_hot_restart(&self) {
        let generations = self.core.generations();
        let handover = Handover {
            admin_away: (generations.is_starting() || generations.is_admin_away())
                && !generations.accepts_nothing(),
            degraded: generations.is_degraded(),
        };
        let Some(HotRestart {
            handover: before, ..
        }) = self.board.read().hot_restart
        else {
            return;
        };
        if before != handover {
            self.note_hot_restart(|hot_restart| hot_restart.handover = handover);
            tell_degraded(before.degraded, handover.degraded);
        }
        let until = generations.old_ends_at().map(|at| self.born + at);
        self.board.update_quietly(|snapshot| {
            if let Some(hot_restart) = &mut snapshot.hot_restart {
                hot_restart.old_until = until;
            }
        });
    }

    /// Envoy's last word on an old generation stands when that is gone.
    pub(super) fn correct(&self, load: &mut Load) {
        if self.envoys.old().is_none() {
            load.old_connections = 0;
        }
    }

    /// The old generation is gone.
    pub(super) fn on_old_exit(&mut self, exit: Exit) {
        log::info!("the old generation is gone: {exit}");
        self.note_generations();
        let before = self.loss();
        self.handle(Input::Exited(Who::Old, exit));
        if self.loss() != before {
            log::warn!("{}", loss(self.loss()).trim_start_matches("; "));
        }
    }

    /// What the drain, or the wait of a hold, has lost with an Envoy that ended.
    fn loss(&self) -> Loss {
        let wait = self.core.drain().or(self.core.hold());
        wait.map_or(Loss::None, Drain::loss)
    }

    /// The reload that was asked for just now is done later.
    fn keep_reload(&mut self) {
        let waits_for = match self.envoys.old() {
            Some(pid) if self.core.generations().old_ends_at().is_some() => {
                format!("until the old generation, pid {pid}, has ended")
            }
            _ => "until the reload under way has ended".into(),
        };
        log::info!("the reload is kept {waits_for}");
        self.helpers
            .tell(CertificateCommand::CheckNow(self.reloading.number));
        self.note_hot_restart(|hot_restart| hot_restart.kept = true);
    }

    /// Has Envoy look at the configuration as it is now: the Envoy that the path leads to now.
    fn try_next(&mut self) {
        self.begin_reload();
        self.choose_configuration();
        let envoy = self.board.read().envoy.clone();
        let warning = envoy.and_then(|it| hot_restart::warning(&it.version?, it.pid));
        if let Some(warning) = warning {
            log::warn!("{warning}");
        }
        self.sds_files.trial_waits = true;
        self.go_on_trying();
    }

    /// Tries the next Envoy's configuration, once the SDS files are as they were published.
    pub(super) fn go_on_trying(&mut self) {
        if !self.sds_files.trial_waits || self.awaits_sds_files() {
            return;
        }
        self.sds_files.trial_waits = false;
        let mut line = self.envoys.next_line();
        line.extend(["--mode", "validate"].map(Into::into));
        let line = flags::audible(&line);
        self.trials.ask(Purpose::Configuration, line);
    }

    /// A trial of the next generation ended.
    pub(super) fn on_next_tried(&mut self, verdict: TrialResult) {
        match verdict.purpose {
            Purpose::Configuration if verdict.exit == Some(Exit::Code(0)) => {
                let mut line = self.envoys.next_line();
                line.push("--hot-restart-version".into());
                self.trials.ask(Purpose::NextVersion, line);
            }
            Purpose::Configuration => self.refuse(match (verdict.refusal(), verdict.exit) {
                (Some(why), _) => format!("envoy refuses the configuration: {why}"),
                (None, Some(exit)) => {
                    let last = refusal::last_word(&verdict.said);
                    let last = last.map_or(String::new(), |last| format!("; {last}"));
                    format!(
                        "envoy --mode validate gave no verdict on the configuration: {exit}{last}"
                    )
                }
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
                    return self.refuse(ENDED.into());
                };
                // A start script may say something before it.
                let next = refusal::last_word(&verdict.said).unwrap_or_default();
                let next = Purpose::Version(next);
                let line = [format!("/proc/{pid}/exe"), "--hot-restart-version".into()];
                self.trials.ask(next, line.map(Into::into).to_vec());
            }
            // A loader may say something before either.
            Purpose::Version(next)
                if verdict.exit == Some(Exit::Code(0))
                    && refusal::last_word(&verdict.said).as_ref() == Some(&next) =>
            {
                self.handle(Input::HotRestart(News::Tried(true)));
            }
            Purpose::Version(next) => self.refuse(format!(
                "the new Envoy's hot restart version is {next}, the running one's is {}",
                verdict.said.trim()
            )),
            Purpose::Certificates(_) | Purpose::Start | Purpose::Forgotten => {}
        }
    }

    /// Has the configuration file read, which the next generation reads.
    fn note_next_configuration(&self) {
        if !self.envoys.tries_copy() {
            self.helpers.note_configuration();
        }
    }

    /// The next generation is not started, for this reason.
    fn refuse(&mut self, why: String) {
        self.reloading.refusal = why;
        self.handle(Input::HotRestart(News::Tried(false)));
    }

    /// Spawns the next generation beside the newest.
    pub(super) fn spawn_next(&mut self) {
        match self.envoys.spawn_next() {
            Ok(pid) => {
                let before = self.board.read().envoy.clone();
                self.reloading.begin_beside(before);
                self.note_start(pid);
                self.note_next_configuration();
                self.handle(Input::HotRestart(News::Spawned(true)));
            }
            Err(error) => {
                let (_, why) = process::spawn_failure(self.envoys.program(), &error);
                self.reloading.refusal = why;
                self.handle(Input::HotRestart(News::Spawned(false)));
            }
        }
    }

    /// Whether this Envoy was not live in time, and is ended for that.
    pub(super) fn has_given_up(&self, who: Who) -> bool {
        who == Who::Next && self.core.generations().has_given_up()
    }

    /// The next generation ended before it was live, by itself or because it was `given_up`.
    pub(super) fn fall_back(&mut self, exit: Exit, given_up: bool) {
        if !given_up {
            self.reloading.refusal =
                format!("the next generation ended before it was live: {exit}");
        }
        self.envoys.fall_back();
        log::warn!("{}", self.reloading.refusal);
        if let Some(pid) = self.envoys.pid() {
            self.note_start(pid);
            // Without its admin interface it would never tell its version again.
            if let Some(envoy) = self.reloading.survivor(pid) {
                self.board.update(|snapshot| snapshot.envoy = Some(envoy));
            }
        }
    }

    /// A hot restart ended.
    fn on_reloaded(&mut self, how: Reloaded) {
        self.note_hot_restart(|hot_restart| match how {
            Reloaded::Live => hot_restart.done += 1,
            Reloaded::Failed => hot_restart.failed += 1,
            _ => hot_restart.refused += 1,
        });
        if !self.reloading.generation {
            // Refused before it began.
            self.begin_reload();
        }
        let epoch = self.envoys.epoch();
        let result = match how {
            Reloaded::Live => {
                // From here on the new Envoy's word on the certificates is the one that counts.
                self.helpers.tell(CertificateCommand::EnvoyReplaced);
                self.read_certificates();
                let pid = self.envoys.pid().unwrap_or_default();
                Ok(format!(
                    "generation {epoch} is live, pid {pid}; the old generation drains"
                ))
            }
            Reloaded::Failed => {
                if self.core.generations().is_admin_away() {
                    log::warn!("generation {epoch} serves on");
                }
                let why = std::mem::take(&mut self.reloading.refusal);
                Err(if why.is_empty() { ENDED.into() } else { why })
            }
            Reloaded::NotLive => Err("envoy is not live".into()),
            Reloaded::Draining => Err("a drain was asked for".into()),
            Reloaded::Refused => Err(std::mem::take(&mut self.reloading.refusal)),
        };
        self.note_generations();
        if matches!(how, Reloaded::NotLive) {
            self.miss_configuration();
        }
        self.on_followed(matches!(how, Reloaded::Live));
        self.reloading.generation = false;
        self.reloading.restarted = Some(result);
        self.end_reload();
    }
}

/// What is said of a next generation that was not live in time, by what it has told.
fn too_slow(admin: &Admin) -> String {
    let said = match &admin.ready {
        Some((_, Ok(readiness))) => &format!("it says {readiness}"),
        Some((_, Err(why))) => why.as_str(),
        None => address::NOT_TOLD,
    };
    let limit = START_LIMIT.as_secs();
    format!("the next generation was not live after {limit} s ({said}), and was ended")
}

/// Says when Envoy begins to serve without its admin interface, and when that ends.
fn tell_degraded(before: bool, now: bool) {
    match (before, now) {
        (false, true) => log::error!(
            "degraded: envoy serves on without its admin interface, which it had handed over to the \
             generation that ended; the next good reload mends that"
        ),
        (true, false) => log::info!("envoy's admin interface is back: no longer degraded"),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::drain::Readiness;

    #[test]
    fn a_generation_that_is_not_live_in_time_is_told_as_one_that_was_ended() {
        let told = |said| {
            too_slow(&Admin {
                ready: said,
                ..Admin::default()
            })
        };
        let line = |said| {
            let limit = START_LIMIT.as_secs();
            format!("the next generation was not live after {limit} s ({said}), and was ended")
        };
        let now = Instant::now();
        let starts = Some((now, Ok(Readiness::PreInitializing)));
        assert_eq!(told(starts), line("it says PRE_INITIALIZING"));
        let silent = Some((now, Err("no answer in time".into())));
        assert_eq!(told(silent), line("no answer in time"));
        assert_eq!(told(None), line("envoy has not told its admin address"));
    }
}
