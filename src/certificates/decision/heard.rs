//! What a set hears: that Envoy begins, is replaced and ends, that files changed, that somebody asks.

use std::time::Instant;

use super::super::notify::FileEvent;
use super::{Decision, Origin, Pending, SetPhase};

impl Decision {
    /// A new Envoy runs: it reads what is published, and is asked whether it did.
    pub fn envoy_started(&mut self, now: Instant) {
        self.envoy_runs = true;
        let pending = self.pending.take().or_else(|| {
            let current = self.current.clone()?;
            Some(Pending::new(current, Origin::EarlierRun, None, now))
        });
        self.pending = pending.map(|pending| pending.restarted(now));
        self.try_again(now);
    }

    /// Has what the last Envoy did not take, and did not refuse either, tried by the next one.
    fn try_again(&mut self, now: Instant) {
        let rolled_back = self.current.as_ref().zip(self.wanted.as_ref());
        if self.record.is_unconfirmed()
            && rolled_back.is_some_and(|(current, wanted)| current.contents != *wanted)
        {
            self.watch.forget(now);
        }
    }

    /// Another Envoy runs in this one's place, which has read what is published: it is asked
    /// whether it did.
    pub fn envoy_replaced(&mut self, now: Instant) {
        let set = match self.pending.take() {
            Some(pending) => Some((pending.set, pending.origin)),
            None => self
                .current
                .clone()
                .map(|current| (current, Origin::EarlierRun)),
        };
        self.pending = set.map(|(set, origin)| Pending::new(set, origin, None, now));
        self.try_again(now);
    }

    /// Envoy is gone: nobody is there to ask.
    pub fn envoy_gone(&mut self) {
        self.envoy_runs = false;
        // A candidate judges in its place.
        match std::mem::replace(&mut self.phase, SetPhase::Watching) {
            SetPhase::Before(set, origin @ (Origin::Files | Origin::LastResort))
            | SetPhase::Publish(set, origin @ (Origin::Files | Origin::LastResort), ..) => {
                self.phase = SetPhase::Try(set, origin);
            }
            phase => self.phase = phase,
        }
        if let Some(pending) = &mut self.pending {
            pending.suspend();
        }
    }

    /// The SDS files do not hold any more what was published.
    pub fn lost(&mut self) {
        match self.current {
            Some(_) => self.astray = true,
            None => self.holds = false,
        }
    }

    /// The kernel said this of the files.
    pub fn hear(&mut self, now: Instant, word: FileEvent) {
        self.watch.hear(now, word);
    }

    /// Whether the kernel tells of every change of the files, and looks may be rare.
    pub fn rely_on_kernel(&mut self, yes: bool) {
        self.watch.rely_on_kernel(yes);
    }

    /// Somebody wants the files looked at now, and acted on, refused before or not.
    pub fn check_now(&mut self, now: Instant) {
        self.watch.check_now(now);
    }
}
