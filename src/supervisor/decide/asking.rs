//! What Envoy is asked about itself, and when: how it is, what is open, which version it is.
//!
//! The drain's questions go through here, too: Envoy is asked one thing at a time.

use std::time::Duration;

use super::Turn;
use crate::drain::{self, Ask, Time};

/// Between two looks at an Envoy that is not live yet: this at first, growing to [`PROBE_REST`].
const PROBE_FIRST: Duration = Duration::from_millis(20);

/// At rest Envoy's admin interface is asked no more often than this.
pub(super) const PROBE_REST: Duration = Duration::from_secs(1);

/// Who asks a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Requester {
    /// Somebody who looks at Envoy.
    Look,
    /// The drain, or the wait of a hold.
    Drain,
    /// A wait that is over, or that another has followed: the answer is none to that.
    Past,
    /// Whoever sees to it that Envoy's health check fails, or passes, as it should.
    HealthCheck,
}

/// A question that was asked and is not answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// Which question since drainit started: an answer says which one it is to.
    pub number: u64,
    /// What was asked.
    pub ask: Ask,
    /// When it was asked.
    pub at: Time,
    pub(super) asker: Requester,
}

impl Question {
    /// Whether a drain, or the wait of a hold, looks at what is left.
    pub(super) fn is_drains_look(self) -> bool {
        self.asker == Requester::Drain && self.ask == Ask::Stats
    }
}

/// A look at Envoy that is planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Look {
    pub due: Time,
    /// Whether somebody wants to know what is open; if not, how Envoy is.
    pub figures: bool,
}

/// What Envoy has been told of its health check, a drain's word apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum HealthCheck {
    /// Envoy was told nothing, or to pass its health check, which is as Envoy and others have it.
    Own,
    /// Envoy was told something that it has not confirmed, after so many failures, and is told
    /// again at `due`.
    Doubtful { due: Time, failures: u32 },
    /// Envoy was told to fail its health check, and has confirmed that.
    Failed,
}

impl HealthCheck {
    /// Whether Envoy may have a failed health check because it was told to.
    pub fn is_in_hand(self) -> bool {
        self != HealthCheck::Own
    }
}

/// What one Envoy is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Asking {
    /// The question in flight.
    pub asked: Option<Question>,
    /// The next look at Envoy.
    pub next: Option<Look>,
    /// How long to wait after a look that did not show what was hoped for.
    pub pause: Duration,
    /// When Envoy was last looked at.
    pub looked: Option<Time>,
    pub version_asked: bool,
    pub health: HealthCheck,
}

impl Asking {
    /// What an Envoy is asked that was just spawned: first of all, how it is.
    pub fn from_start(now: Time) -> Asking {
        Asking {
            asked: None,
            next: Some(Look {
                due: now,
                figures: false,
            }),
            pause: PROBE_FIRST,
            looked: None,
            version_asked: false,
            health: HealthCheck::Own,
        }
    }

    /// Forgets the question in flight and all plans.
    pub fn rest(&mut self) {
        self.asked = None;
        self.next = None;
    }

    /// The drain's questions, or the hold's, tell all that anybody may want to know. After those of a
    /// hold, Envoy is looked at anew.
    pub fn leave_to_wait(&mut self, now: Time, holds: bool) {
        let figures = false;
        self.next = holds.then_some(Look { due: now, figures });
        self.looked = None;
    }

    /// Asks a question.
    pub fn ask(&mut self, turn: &mut Turn, ask: Ask, asker: Requester) {
        self.asked = Some(turn.ask(ask, asker));
    }

    /// Takes the question that an answer of this number is to, if it is still in flight.
    pub fn take(&mut self, number: u64) -> Option<Question> {
        self.asked.take_if(|asked| asked.number == number)
    }

    /// When the wait's question was asked that is in flight.
    pub fn wait_asked(&self) -> Option<Time> {
        let asked = self.asked.filter(|asked| asked.asker == Requester::Drain)?;
        Some(asked.at)
    }

    /// Has the question in flight belong to no wait any more, because another wait begins or none
    /// goes on.
    pub fn leave_wait(&mut self) {
        if let Some(asked) = &mut self.asked
            && asked.asker == Requester::Drain
        {
            asked.asker = Requester::Past;
        }
    }

    /// Whether a look is in flight: its answer serves whoever wants one now.
    fn is_looking(&self, asks: impl Fn(Ask) -> bool) -> bool {
        self.asked
            .is_some_and(|asked| asked.asker == Requester::Look && asks(asked.ask))
    }

    /// When the next look may be, for Envoy to have its rest.
    pub fn rested(&self, now: Time) -> Time {
        self.looked.map_or(now, |at| now.max(at + PROBE_REST))
    }

    /// Somebody wants to know how Envoy is.
    pub fn on_probe(&mut self, now: Time) {
        if self.next.is_none() && !self.is_looking(|ask| ask != Ask::ServerInfo) {
            self.look_at(self.rested(now));
        }
    }

    /// Somebody wants to know what is open. The answer also tells how Envoy is, so that both
    /// together ask no more often.
    pub fn on_look(&mut self, now: Time) {
        if self.is_looking(Ask::tells_open) {
            return;
        }
        let rested = self.rested(now);
        let due = self.next.map_or(rested, |next| next.due.min(rested));
        self.figures_at(due.max(now));
    }

    /// Somebody wants to know how well Envoy serves. Whoever cannot be told now asks again.
    pub fn on_weigh(&mut self, turn: &mut Turn, urgent: bool) {
        if self.asked.is_none() && (urgent || self.rested(turn.now) <= turn.now) {
            self.put_off(turn.now);
            self.ask(turn, Ask::Traffic, Requester::Look);
        }
    }

    /// Envoy is looked at now, and has its rest before what is planned.
    pub fn put_off(&mut self, now: Time) {
        self.looked = Some(now);
        if let Some(next) = &mut self.next
            && !next.figures
        {
            next.due = next.due.max(now + PROBE_REST);
        }
    }

    /// Whether somebody waits for figures.
    pub fn owes_figures(&self) -> bool {
        self.next.is_some_and(|next| next.figures) || self.is_looking(Ask::tells_open)
    }

    /// What Envoy is to be told of its health check may be another thing now, or may be heard now.
    pub fn hurry_health(&mut self, now: Time) {
        if let HealthCheck::Doubtful { due, failures } = &mut self.health {
            (*due, *failures) = (now, 0);
        }
    }

    /// Envoy's health check was seen to pass. Where it should fail, somebody else has reverted that.
    pub fn on_passing(&mut self, now: Time, fails: bool) {
        self.health = match self.health {
            HealthCheck::Failed if fails => HealthCheck::Doubtful {
                due: now,
                failures: 0,
            },
            health if fails => health,
            _ => HealthCheck::Own,
        };
    }

    /// Envoy was told to fail its health check, or to pass it, and confirms that, or does not.
    pub fn on_health_answer(&mut self, now: Time, ask: Ask, confirmed: bool) {
        self.health = match (self.health, ask) {
            (HealthCheck::Doubtful { failures, .. }, _) if !confirmed => HealthCheck::Doubtful {
                due: now + drain::pause(failures),
                failures: failures.saturating_add(1),
            },
            (_, Ask::FailHealthCheck) if confirmed => HealthCheck::Failed,
            (_, Ask::PassHealthCheck) if confirmed => HealthCheck::Own,
            (health, _) => health,
        };
    }

    /// Tells Envoy to fail its health check, or to pass it, if that is due and nothing else is in
    /// flight.
    pub fn advance_health(&mut self, turn: &mut Turn, fails: bool) -> Option<Time> {
        let (due, failures) = match self.health {
            HealthCheck::Own if !fails => return None,
            HealthCheck::Failed if fails => return None,
            HealthCheck::Doubtful { due, .. } if turn.now < due => return Some(due),
            _ if self.asked.is_some() => return None,
            HealthCheck::Doubtful { due, failures } => (due, failures),
            HealthCheck::Own | HealthCheck::Failed => (turn.now, 0),
        };
        // Whatever becomes of the question, Envoy may do as it was told.
        self.health = HealthCheck::Doubtful { due, failures };
        let ask = match fails {
            true => Ask::FailHealthCheck,
            false => Ask::PassHealthCheck,
        };
        self.ask(turn, ask, Requester::HealthCheck);
        None
    }

    /// Has Envoy asked now, because there is more to be learned than when the next question was
    /// planned.
    pub fn hurry(&mut self, now: Time) {
        self.hurry_health(now);
        if let (None, Some(next)) = (self.asked, &mut self.next) {
            next.due = now;
        }
    }

    pub fn look_at(&mut self, due: Time) {
        let figures = false;
        self.next = Some(Look { due, figures });
    }

    /// Envoy is looked at now, for the figures where they are owed.
    pub fn look_soon(&mut self, now: Time) {
        match &mut self.next {
            Some(next) => next.due = next.due.min(now),
            None => self.look_at(now),
        }
    }

    pub fn figures_at(&mut self, due: Time) {
        let figures = true;
        self.next = Some(Look { due, figures });
    }

    /// Envoy is looked at again after a pause, each longer than the one before, up to `rest`.
    pub fn look_again(&mut self, now: Time, rest: Duration) {
        self.look_at(now + self.pause);
        self.pause = (self.pause * 3 / 2).min(rest);
    }

    /// Envoy told how it is, or did not: whoever wanted to know that, does.
    pub fn forget_probe(&mut self) {
        self.next = self.next.filter(|next| next.figures);
    }

    /// Envoy told what is open: whoever wanted to know that, does.
    pub fn forget_figures(&mut self) {
        self.next = self.next.filter(|next| !next.figures);
    }

    /// Looks at Envoy, if that is due and nothing else is in flight. `figures` is the question that
    /// tells what is open.
    pub fn advance(&mut self, turn: &mut Turn, figures: Ask) -> Option<Time> {
        let next = self.next?;
        if self.asked.is_some() {
            return None;
        }
        if turn.now < next.due {
            return Some(next.due);
        }
        self.next = None;
        self.looked = Some(turn.now);
        let ask = if next.figures { figures } else { Ask::Ready };
        self.ask(turn, ask, Requester::Look);
        None
    }
}
