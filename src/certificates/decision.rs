//! What is decided about one set of files, as a pure state machine: it is told times, contents and
//! what Envoy says, and tells what to do next.
//!
//! A set goes one way: read, settled, checked, tried by a candidate Envoy where that is needed,
//! published, confirmed by the running Envoy. What is refused on the way changes nothing; what
//! Envoy does not take is followed by the last good set. Bytes that failed are tried again when
//! they change.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use log::{Level, error, info, log, warn};

use super::confirm::SecretSeen;
use super::duty::Duty;
use super::lifetime::{self, Term};
use super::pending::{Origin, Pending, Set};
use super::read::{Contents, Material, Refusal};
use super::record::{ChangeOutcome, Record};
use super::usable::Age;
use super::watch::Watch;

mod answered;
mod heard;
mod told;

/// How long the candidate's verdict may take; it takes 0.1 s. After that the running Envoy judges
/// alone.
const VALIDATE_WITHIN: Duration = Duration::from_secs(10);

/// What is to be done next. Each is answered by the method of its name in the past tense.
#[derive(Debug)]
pub enum SetStep {
    /// Nothing before this time.
    Wait(Instant),
    /// Look at the files: [`Decision::read`], or [`Decision::unchanged`] where they need not be read.
    Read,
    /// Have a candidate Envoy try this set: [`Decision::validated`].
    Validate(Arc<Contents>),
    /// Ask Envoy: [`Decision::observed`].
    Observe,
    /// Publish this set as this generation: [`Decision::published`].
    Publish(u64, Arc<Contents>),
    /// Publish that there is no such secret so far, as this generation: [`Decision::vacated`].
    Vacate(u64),
}

/// What is being done.
#[derive(Debug)]
enum SetPhase {
    /// The files are watched.
    Watching,
    /// A candidate Envoy is to try a set.
    Try(Set, Origin),
    /// A candidate Envoy tries a set, until then at the latest.
    Trying(Set, Origin, Instant),
    /// Envoy is asked how things are before the change.
    Before(Set, Origin),
    /// A set is to be published, not before this time.
    Publish(Set, Origin, Option<Vec<SecretSeen>>, Instant),
}

/// What is decided about one set of files.
#[derive(Debug)]
pub struct Decision {
    names: Vec<String>,
    duty: Duty,
    phase: SetPhase,
    pending: Option<Pending>,
    envoy_runs: bool,
    /// The highest generation that was ever written.
    generation: u64,
    /// What the SDS files hold.
    current: Option<Set>,
    /// The last set that Envoy is known to have taken, or that a candidate took while no Envoy ran.
    good: Option<Set>,
    /// What the SDS files held at the start.
    kept: Option<Arc<Contents>>,
    /// What the files held when they were last good, and were acted on; none since they were bad.
    wanted: Option<Arc<Contents>>,
    /// Whether the SDS files may hold something else: a later set could not be published, or somebody
    /// changed them.
    astray: bool,
    /// Whether there is an SDS file, with or without a set in it.
    holds: bool,
    /// Why the SDS file without a set could not be written, and when to try again.
    cannot_vacate: Option<(Instant, String)>,
    watch: Watch,
    /// What people are told.
    pub record: Record,
}

impl Decision {
    /// The decisions about a set whose SDS files hold `generation` and `kept` now. `names` are the
    /// secrets' names, the leaf's first. `check` is how often the files are looked at.
    pub fn new(
        names: Vec<String>,
        duty: Duty,
        check: Duration,
        now: Instant,
        generation: u64,
        kept: Option<Contents>,
    ) -> Decision {
        Decision {
            record: Record::new(&names),
            names,
            duty,
            phase: SetPhase::Watching,
            pending: None,
            envoy_runs: false,
            generation,
            current: None,
            good: None,
            astray: false,
            holds: kept.is_some(),
            cannot_vacate: None,
            kept: kept.map(Arc::new),
            wanted: None,
            watch: Watch::new(check, now),
        }
    }

    /// What to do next.
    pub fn next(&mut self, now: Instant) -> SetStep {
        match std::mem::replace(&mut self.phase, SetPhase::Watching) {
            SetPhase::Watching => match &self.current {
                Some(current) if self.astray => {
                    // What was to come after it, if anything, is given up.
                    let origin = self.pending.as_ref().map(|pending| pending.origin);
                    let origin = origin.unwrap_or(Origin::Rollback);
                    self.phase = SetPhase::Publish(current.clone(), origin, None, now);
                }
                _ => return self.watch(now),
            },
            SetPhase::Try(set, origin) => {
                let contents = set.contents.clone();
                self.phase = SetPhase::Trying(set, origin, now + VALIDATE_WITHIN);
                return SetStep::Validate(contents);
            }
            SetPhase::Trying(set, origin, until) if now < until => {
                self.phase = SetPhase::Trying(set, origin, until);
                return SetStep::Wait(until);
            }
            SetPhase::Trying(set, origin, _) => {
                warn!("{}: a candidate Envoy gave no verdict", self.name());
                self.go_on(set, origin, now);
            }
            SetPhase::Before(set, origin) => {
                self.phase = SetPhase::Before(set, origin);
                return SetStep::Observe;
            }
            SetPhase::Publish(set, origin, before, due) => {
                let step = if now < due {
                    SetStep::Wait(due)
                } else {
                    SetStep::Publish(self.generation.saturating_add(1), set.contents.clone())
                };
                self.phase = SetPhase::Publish(set, origin, before, due);
                return step;
            }
        }
        SetStep::Wait(now)
    }

    fn watch(&self, now: Instant) -> SetStep {
        let asking = self.pending.as_ref().filter(|_| self.envoy_runs);
        let mut look = self.watch.due();
        if self.duty == Duty::Listener && !self.holds && self.watch.seen().is_some() {
            match self.cannot_vacate {
                Some((again, _)) if again > now => look = look.min(again),
                _ => return SetStep::Vacate(self.generation.saturating_add(1)),
            }
        }
        match asking {
            Some(pending) if pending.ask <= now => SetStep::Observe,
            _ if look <= now => SetStep::Read,
            Some(pending) => SetStep::Wait(pending.ask.min(look)),
            None => SetStep::Wait(look),
        }
    }

    /// When Envoy is to be asked next, if it is.
    pub fn asks(&self) -> Option<Instant> {
        let pending = self.pending.as_ref().filter(|_| self.envoy_runs);
        pending.map(|pending| pending.ask)
    }

    /// Whether somebody waits for what the files hold.
    pub fn is_wanted(&self) -> bool {
        self.watch.is_wanted()
    }

    /// The files were read: their contents, or why they could not be.
    pub fn read(&mut self, now: Instant, wall: SystemTime, reading: Result<Contents, Refusal>) {
        self.watch.see(now, reading);
        self.unchanged(now, wall);
    }

    /// The files were looked at, and are what they were when they were last read.
    pub fn unchanged(&mut self, now: Instant, wall: SystemTime) {
        self.look_at(now, wall);
        // Of a bundle without the CA that has just expired, the end is another.
        self.record.warn_of_end(wall);
    }

    fn look_at(&mut self, now: Instant, wall: SystemTime) {
        // An Envoy that waits for its configuration makes haste.
        let calm = self.current.is_some() || self.duty == Duty::Listener && self.envoy_runs;
        // Of what is published: from then on it is stale.
        let current = self.current.iter().flat_map(|set| &set.checked);
        let ends = current.filter_map(|checked| lifetime::over_at(checked.validity()[1], wall));
        self.watch.looked(now, wall, calm, ends.min());
        let unused = self.pending.as_ref().is_some_and(Pending::is_unused);
        if !self.watch.is_news() || self.awaits_word() && !unused {
            return;
        }
        let checked = match self.watch.seen() {
            Some(Ok(contents)) => Set::of(contents, self.loaded(), wall, Age::Valid),
            Some(Err(refusal)) => Err(refusal.clone()),
            None => return,
        };
        let settled = self.watch.is_settled(now);
        match checked {
            Ok(set) if settled || self.need_not_settle(&set, now) => {
                self.watch.act(set.term);
                self.wanted = Some(set.contents.clone());
                self.act(set, now);
            }
            Err(refusal) if settled || self.kept.is_some() && self.watch.is_first() => {
                self.watch.act(refusal.term);
                self.wanted = None;
                let why = refusal.to_string();
                self.record.add(ChangeOutcome::Refused, Some(&why));
                self.fall_back(now, wall);
                self.make_do(now, wall);
            }
            _ => {}
        }
    }

    /// Whether a set can be acted on before its files have been the same for long.
    fn need_not_settle(&self, set: &Set, now: Instant) -> bool {
        if !set.is_sure() {
            return false;
        }
        if self.current.is_none() {
            // There is nothing yet that a bad set could replace.
            return true;
        }
        set.lacks.is_none() && self.watch.is_complete(now, self.is_less(set))
    }

    /// Whether a set has fewer certificates, or lists, than the one that is published: its files may
    /// not be whole yet.
    fn is_less(&self, set: &Set) -> bool {
        let sizes = self.loaded().zip(Some(&*set.contents));
        sizes.is_some_and(|(loaded, contents)| {
            let [old, new] = [loaded, contents].map(|all| all.iter().flat_map(Material::blocks));
            old.zip(new).any(|(old, new)| new < old)
        })
    }

    /// Whether the last change may have to be taken back, or could be taken for the next one: that
    /// waits for Envoy's word.
    fn awaits_word(&self) -> bool {
        let good = self.good.as_ref().map(|good| &good.contents);
        let pending = self.pending.as_ref().filter(|_| self.envoy_runs);
        pending.is_some_and(|pending| {
            // An Envoy that is not live reads what is there when it comes to it.
            let judged = good == Some(&pending.set.contents) || pending.is_starting();
            !pending.is_late() && (!judged || pending.is_unheard())
        })
    }

    /// What the SDS files hold.
    fn loaded(&self) -> Option<&Contents> {
        self.current.as_ref().map(|set| &*set.contents)
    }

    /// A set that passed the checks goes on its way.
    fn act(&mut self, set: Set, now: Instant) {
        if let Some(lacks) = &set.lacks {
            let why = lacks.to_string();
            self.record.add(ChangeOutcome::Refused, Some(&why));
        }
        if self.loaded() == Some(&*set.contents) {
            let lacks = set.lacks.is_some();
            self.renew(&set);
            if lacks {
                return;
            }
            // The files are well; an Envoy that does not take them is another matter.
            let late = self.pending.as_ref().is_some_and(Pending::is_late);
            if !late && self.record.forget_error() {
                info!("{}: the files hold again what Envoy was given", self.name());
            }
            return;
        }
        let kept = self.kept.as_ref() == Some(&set.contents);
        let origin = if kept {
            Origin::EarlierRun
        } else {
            Origin::Files
        };
        let level = self.record.level(Level::Info);
        log!(level, "{}: found {set}", self.name());
        self.try_or_go_on(set, origin, now);
    }

    /// What is published was judged again: what there is to say of it changes with time alone.
    fn renew(&mut self, set: &Set) {
        let current = self.current.as_ref();
        if current.is_some_and(|current| current.checked != set.checked) {
            self.record.installed(self.generation, &set.checked);
        }
        let pending = self.pending.as_mut().map(|pending| &mut pending.set);
        let held = [self.current.as_mut(), self.good.as_mut(), pending];
        for held in held.into_iter().flatten() {
            if held.contents == set.contents {
                *held = set.clone();
            }
        }
    }

    /// Takes what was published in an earlier life, where the files are of no use.
    fn fall_back(&mut self, now: Instant, wall: SystemTime) {
        let Some(contents) = self.kept.take() else {
            return;
        };
        let set = Set::of(&contents, None, wall, Age::Valid).or_else(|refusal| match self.duty {
            Duty::Gate => Err(refusal),
            Duty::Listener => Set::of(&contents, None, wall, Age::Any),
        });
        match set {
            Ok(set) => {
                warn!(
                    "{}: going on with what an earlier run published",
                    self.name()
                );
                // But for a staple that is over.
                let same = set.contents == contents;
                let origin = if same {
                    Origin::EarlierRun
                } else {
                    Origin::LastResort
                };
                self.try_or_go_on(set, origin, now);
            }
            // Out of date, if the clock on the wall is right.
            Err(refusal) if refusal.term != Term::default() => {
                self.watch.limit(refusal.term);
                self.kept = Some(contents);
            }
            Err(_) => {}
        }
    }

    /// Takes what is only out of date, where there is nothing else.
    fn make_do(&mut self, now: Instant, wall: SystemTime) {
        let nothing = self.current.is_none() && matches!(self.phase, SetPhase::Watching);
        let (Duty::Listener, true, Some(Ok(contents))) = (self.duty, nothing, self.watch.seen())
        else {
            return;
        };
        if let Ok(set) = Set::of(contents, None, wall, Age::Any) {
            error!(
                "{}: Envoy gets the set though it is expired or not valid yet: there is no other",
                self.name()
            );
            self.try_or_go_on(set, Origin::LastResort, now);
        }
    }

    /// An Envoy that runs, or is going to, refuses a bad set by itself, and a second one beside it
    /// costs memory and time: a candidate is tried only where a set would replace another with no
    /// Envoy to say so at once, where Envoy cannot start without the set, or where nobody has seen
    /// that the key is the leaf's.
    fn try_or_go_on(&mut self, set: Set, origin: Origin, now: Instant) {
        let replaces = origin != Origin::EarlierRun && (self.kept.is_some() || self.good.is_some());
        let harmless = self.envoy_runs || self.duty == Duty::Listener && !replaces;
        if harmless && set.is_sure() {
            self.go_on(set, origin, now);
        } else {
            self.phase = SetPhase::Try(set, origin);
        }
    }

    fn go_on(&mut self, set: Set, origin: Origin, now: Instant) {
        match origin {
            Origin::EarlierRun => self.installed(set, origin, None, now),
            _ if self.envoy_runs => self.phase = SetPhase::Before(set, origin),
            _ => self.phase = SetPhase::Publish(set, origin, None, now),
        }
    }

    fn name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }
}

#[cfg(test)]
mod tests;
