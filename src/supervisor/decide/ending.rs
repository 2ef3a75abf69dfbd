//! How Envoy is ended, and what follows.

use std::time::Duration;

use super::generations::Next;
use super::{Action, Core, Order, Phase, Reloaded};
use crate::drain::{Drain, Outcome, Time};
use crate::process::Exit;

/// How long SIGKILL may take. A process in an uninterruptible sleep does not die of it, but pid 1
/// must: then the kernel ends what is left.
pub const KILL_PATIENCE: Duration = Duration::from_millis(800);

/// What follows when Envoy has ended that was told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Then {
    /// drainit exits as Envoy did.
    Exit,
    /// drainit exits with this, as the generation did that served: only another is still to end.
    ExitAs(Exit),
    /// The whole Envoy is started anew, unless an order comes that forbids it.
    StartAnew,
}

impl Core {
    pub(super) fn terminate(&mut self, now: Time, then: Then, actions: &mut Vec<Action>) {
        self.next = self.next.filter(|next| *next != Next::Trying);
        self.tell(Reloaded::NotLive);
        self.phase = Phase::Stopping {
            since: now,
            rest: false,
            killed: None,
            then,
        };
        actions.push(Action::Terminate);
    }

    /// Envoy has had half of its time: what else there is of its tree is told, too, so that a
    /// script which would go on (a loop around Envoy, say) has the other half.
    pub(super) fn terminate_rest(&mut self, now: Time, actions: &mut Vec<Action>) -> Option<Time> {
        let due = self.rules.kill_timeout / 2;
        let Phase::Stopping {
            since,
            rest: rest @ false,
            killed: None,
            ..
        } = &mut self.phase
        else {
            return None;
        };
        if now < *since + due {
            return Some(*since + due);
        }
        *rest = true;
        actions.push(Action::TerminateRest);
        None
    }

    pub(super) fn kill(&mut self, now: Time, actions: &mut Vec<Action>) {
        if let Phase::Stopping { killed, .. } = &mut self.phase {
            *killed = Some(now);
            actions.push(Action::Kill);
        }
    }

    /// Ends the newest generation without asking it.
    pub(super) fn kill_newest(&mut self, now: Time, then: Then, actions: &mut Vec<Action>) {
        self.phase = Phase::Stopping {
            since: now,
            rest: false,
            killed: Some(now),
            then,
        };
        actions.push(Action::KillNewest);
        self.tell(Reloaded::Failed);
    }

    /// An order while the whole Envoy is ended to be started anew: it is not, then.
    pub(super) fn take_order_replacing(&mut self, now: Time, order: Order, from: &str) {
        let stops = order != Order::Drain;
        let limits = &self.rules.limits;
        let drain = self.drain.get_or_insert_with(|| {
            self.reason = from.into();
            Drain::new(limits, now, now, true, stops).caused_by(from)
        });
        drain.end(Outcome::EnvoyExited);
        if stops {
            drain.join_stop();
        }
    }

    /// Envoy is gone that was to be ended.
    pub(super) fn take_stop(
        &mut self,
        now: Time,
        exit: Exit,
        then: Then,
        actions: &mut Vec<Action>,
    ) {
        match (then, &self.drain) {
            (Then::StartAnew, None) => self.phase = Phase::Spawning,
            (Then::StartAnew, Some(drain)) if !drain.stops() => self.phase = Phase::Down,
            (Then::ExitAs(served), _) => self.end(now, served, actions),
            (Then::Exit | Then::StartAnew, _) => self.end(now, exit, actions),
        }
    }

    /// Envoy is over, but for an old generation.
    pub(super) fn end(&mut self, now: Time, exit: Exit, actions: &mut Vec<Action>) {
        if self.parent.is_none() {
            self.phase = Phase::Over(exit.code());
            return;
        }
        let (since, rest, killed) = match self.phase {
            Phase::Stopping {
                since,
                rest,
                killed,
                ..
            } => (since, rest, killed),
            _ => (now, false, None),
        };
        self.phase = Phase::Stopping {
            since,
            rest,
            killed,
            then: Then::ExitAs(exit),
        };
        actions.push(Action::TerminateParent);
    }
}
