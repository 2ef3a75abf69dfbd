//! How far a set is, for those who ask.

use std::time::SystemTime;

use super::super::check::Checked;
use super::super::duty::Duty;
use super::super::lifetime;
use super::super::read::Contents;
use super::{Decision, Pending, SetPhase};

impl Decision {
    /// Whether Envoy may start, as far as this set is concerned.
    pub fn is_ready(&self) -> bool {
        match self.duty {
            Duty::Gate => self.current.is_some(),
            Duty::Listener => self.holds,
        }
    }

    /// Whether a set is published.
    pub fn has_set(&self) -> bool {
        self.current.is_some()
    }

    /// What the SDS files are to hold: the generation, and the set, or none where they are to say
    /// that there is none. Nothing where nothing is published, or it is to be published again
    /// anyway.
    pub fn published_as(&self) -> Option<(u64, Option<&Contents>)> {
        // Of a gate's nothing was published where there is no set.
        let vacant = self.holds && self.duty == Duty::Listener;
        let there = self.current.is_some() || vacant;
        (there && !self.astray && self.kept.is_none()).then(|| (self.generation, self.loaded()))
    }

    /// Whether the SDS files may hold something else than the set that is published.
    pub fn is_astray(&self) -> bool {
        self.astray
    }

    /// Whether nothing is under way, and nothing waits for Envoy's word in vain.
    pub fn is_through(&self) -> bool {
        self.is_idle() && self.pending.as_ref().is_none_or(Pending::is_late)
    }

    /// Whether the next observation must not be older than now: Envoy may have refused the late set
    /// since, and that would be taken for a refusal of the set that is about to be published.
    pub fn wants_fresh_answer(&self) -> bool {
        let late = |pending: &Pending| pending.is_late() && !pending.is_unused();
        matches!(self.phase, SetPhase::Before(..)) && self.pending.as_ref().is_some_and(late)
    }

    /// Whether what is in the files now is not what Envoy has, as far as is known, or nothing usable
    /// is there.
    pub fn is_stale(&self, wall: SystemTime) -> bool {
        let current = self.current.as_ref().zip(self.wanted.as_ref());
        let loaded = current.is_some_and(|(current, wanted)| {
            let mut ends = current.checked.iter().map(Checked::validity);
            current.contents == *wanted && !ends.any(|[_, end]| lifetime::is_over(end, wall))
        });
        !loaded || self.pending.is_some() || self.watch.is_news() || self.record.error().is_some()
    }

    /// Whether nothing is under way: the last change is through, well or badly, or cannot be
    /// published.
    pub fn is_idle(&self) -> bool {
        match self.phase {
            SetPhase::Watching => !self.watch.is_news() && !self.awaits_word(),
            SetPhase::Publish(..) => self.record.error().is_some(),
            _ => false,
        }
    }

    /// What the files lack, or what is being done about it; none before they were read.
    pub fn waiting_for(&self) -> Option<String> {
        if let Some((_, why)) = &self.cannot_vacate {
            return Some(why.clone());
        }
        let what = match (&self.phase, self.record.error(), self.watch.seen()) {
            (SetPhase::Watching, None, None) => return None,
            (SetPhase::Watching, _, Some(Err(refusal))) => refusal.to_string(),
            (SetPhase::Watching, Some(why), _) => why.to_owned(),
            (SetPhase::Watching, None, _) => "a certificate that can be used".to_owned(),
            (SetPhase::Publish(..), Some(why), _) => why.to_owned(),
            _ => "the verdict of a candidate Envoy".to_owned(),
        };
        Some(what)
    }
}
