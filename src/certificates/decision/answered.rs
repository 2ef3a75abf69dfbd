//! What is made of the answers: a candidate Envoy's, Envoy's, and the disk's.

use std::time::{Duration, Instant, SystemTime};

use log::{Level, debug, error, info, log, warn};

use super::super::confirm::{Confirmation, Observation, SecretSeen};
use super::super::duty::Duty;
use super::super::record::ChangeOutcome;
use super::{Decision, Origin, Pending, Set, SetPhase};

/// Between two attempts to publish a set, at the most.
const PUBLISH_AGAIN: Duration = Duration::from_secs(1);

impl Decision {
    /// A candidate Envoy took the set, or said why not.
    pub fn validated(&mut self, now: Instant, wall: SystemTime, verdict: Result<(), String>) {
        match std::mem::replace(&mut self.phase, SetPhase::Watching) {
            SetPhase::Trying(set, origin, _) => match verdict {
                Ok(()) => self.go_on(set, origin, now),
                Err(why) => {
                    let why = format!("a candidate Envoy refused it: {why}");
                    self.record.add(ChangeOutcome::Refused, Some(&why));
                    if origin == Origin::Files {
                        self.fall_back(now, wall);
                    }
                }
            },
            // Too late: it was gone on without.
            phase => self.phase = phase,
        }
    }

    /// Envoy was asked at `asked`, and said this or could not be asked.
    pub fn observed(&mut self, asked: Instant, now: Instant, answer: Result<Observation, String>) {
        match std::mem::replace(&mut self.phase, SetPhase::Watching) {
            SetPhase::Watching => self.judge(asked, now, answer),
            SetPhase::Before(set, origin) => {
                let before = answer.ok().map(|answer| answer.secrets);
                self.phase = SetPhase::Publish(set, origin, before, now);
            }
            phase => self.phase = phase,
        }
    }

    /// The set was published, or could not be.
    pub fn published(&mut self, now: Instant, result: Result<(), String>) {
        // Also where it failed: one of two files may hold this number now.
        self.generation = self.generation.saturating_add(1);
        match std::mem::replace(&mut self.phase, SetPhase::Watching) {
            SetPhase::Publish(set, origin, before, _) => match result {
                Ok(()) => {
                    let failed = |why: &str| why.starts_with("cannot publish");
                    if self.record.error().is_some_and(failed) {
                        self.record.forget_error();
                    }
                    self.installed(set, origin, before, now);
                }
                Err(why) => {
                    self.astray = true;
                    let why = format!("cannot publish: {why}");
                    // Tried again for ever: once is enough.
                    if self.record.error() != Some(&why) {
                        error!("{}: {why}", self.name());
                        self.record.set_error(why);
                    }
                    self.phase = SetPhase::Publish(set, origin, before, self.publish_again(now));
                }
            },
            phase => self.phase = phase,
        }
    }

    /// The SDS file holds no set, or could not be written.
    pub fn vacated(&mut self, now: Instant, result: Result<(), String>) {
        self.generation = self.generation.saturating_add(1);
        match result {
            Ok(()) => {
                self.holds = true;
                self.cannot_vacate = None;
                log!(
                    self.record.level(Level::Warn),
                    "{}: Envoy is given nothing until there is a set that can be used",
                    self.name()
                );
            }
            Err(why) => {
                let why = format!("cannot publish: {why}");
                if self
                    .cannot_vacate
                    .as_ref()
                    .is_none_or(|(_, old)| *old != why)
                {
                    error!("{}: {why}", self.name());
                    self.record.set_error(why.clone());
                }
                self.cannot_vacate = Some((self.publish_again(now), why));
            }
        }
    }

    /// When what could not be published is tried again, however rarely the files are looked at.
    fn publish_again(&self, now: Instant) -> Instant {
        now + self.watch.interval().min(PUBLISH_AGAIN)
    }

    /// The SDS files hold this set.
    pub(super) fn installed(
        &mut self,
        set: Set,
        origin: Origin,
        before: Option<Vec<SecretSeen>>,
        now: Instant,
    ) {
        let generation = self.generation;
        let level = self.record.level(Level::Info);
        log!(level, "{}: published gen-{generation}, {set}", self.name());
        self.current = Some(set.clone());
        self.astray = false;
        self.kept = None;
        self.holds = true;
        self.cannot_vacate = None;
        // Of a listener's nobody has judged the first.
        if !self.envoy_runs && self.duty == Duty::Gate {
            self.good = Some(set.clone());
        }
        self.record.installed(self.generation, &set.checked);
        let mut pending = Pending::new(set, origin, before, now);
        if !self.envoy_runs {
            pending.suspend();
        }
        self.pending = Some(pending);
    }

    fn judge(&mut self, asked: Instant, now: Instant, answer: Result<Observation, String>) {
        let Some(mut pending) = self.pending.take() else {
            return;
        };
        let good = self.good.as_ref();
        let good = good.filter(|good| good.contents != pending.set.contents);
        let good = good.and_then(Set::serial);
        let (generation, names) = (self.generation, &self.names);
        let (shown, over) = pending.judge(generation, names, good, [asked, now], answer);
        let is_told = over || matches!(shown, Confirmation::Taken | Confirmation::Rejected(_));
        if self.watch.is_news() && is_told {
            // That waited for this.
            self.watch.hurry(now);
        }
        match shown {
            Confirmation::Taken => self.taken(pending),
            Confirmation::Rejected(why) => self.not_taken(pending, ChangeOutcome::Rejected, &why),
            Confirmation::Other(why) if over => {
                self.not_taken(pending, ChangeOutcome::Unconfirmed, &why);
            }
            Confirmation::Accepted(why) | Confirmation::Unused(why) if over => {
                if pending.origin != Origin::Rollback {
                    self.record.add(ChangeOutcome::Unconfirmed, Some(&why));
                }
                self.pending = Some(pending);
            }
            Confirmation::Other(why) | Confirmation::Accepted(why) | Confirmation::Unused(why) => {
                debug!("{}: not confirmed yet: {why}", self.name());
                self.pending = Some(pending);
            }
        }
    }

    fn taken(&mut self, pending: Pending) {
        let (name, generation) = (self.name(), self.generation);
        match pending.origin {
            Origin::Rollback => {
                info!("{name}: Envoy has the last good set again, as gen-{generation}")
            }
            Origin::Files | Origin::EarlierRun | Origin::LastResort => {
                let level = self.record.level(Level::Info);
                log!(
                    level,
                    "{name}: Envoy loaded gen-{generation}, {}",
                    pending.set
                );
            }
        }
        let wanted = self.wanted.as_ref() == Some(&pending.set.contents);
        match pending.origin {
            // It was only written again, and the files hold it, too.
            Origin::Rollback if wanted => {
                self.record.forget_error();
            }
            Origin::Rollback | Origin::LastResort => {}
            Origin::EarlierRun => {
                self.record.set_ok();
                // The files may have held something bad meanwhile.
                if wanted && pending.set.lacks.is_none() {
                    self.record.forget_error();
                }
            }
            // What the files have held since was refused, or is being tried.
            Origin::Files if !wanted => self.record.count(ChangeOutcome::Ok),
            Origin::Files => {
                self.record.add(ChangeOutcome::Ok, None);
                if let Some(lacks) = &pending.set.lacks {
                    self.record.set_error(lacks.to_string());
                }
            }
        }
        self.good = Some(pending.set);
    }

    fn not_taken(&mut self, pending: Pending, outcome: ChangeOutcome, why: &str) {
        if pending.origin == Origin::Rollback {
            let why = format!("Envoy did not take the last good set either: {why}");
            error!("{}: {why}", self.name());
            self.record.set_error(why);
            return;
        }
        self.record.add(outcome, Some(why));
        match self.good.clone() {
            Some(good) if good.contents != pending.set.contents => {
                warn!("{}: going back to {good}", self.name());
                self.phase = SetPhase::Before(good, Origin::Rollback);
            }
            _ => error!("{}: there is no good set to go back to", self.name()),
        }
    }
}
