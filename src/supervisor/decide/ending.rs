//! How Envoy is ended, and what follows.

use super::life::{AfterStop, Life, Phase};
use super::service::Service;
use super::{Action, Order, RestartStep, Turn, View};
use crate::drain::{Drain, Outcome, Time};
use crate::process::Exit;

impl Life {
    pub fn terminate(&mut self, turn: &mut Turn, then: AfterStop) {
        self.phase = Phase::Stopping {
            since: turn.now,
            rest: false,
            killed: None,
            then,
        };
        turn.act(Action::Terminate);
    }

    /// Envoy has had half of its time: what else there is of its tree is told, too, so that a
    /// script which would go on (a loop around Envoy, say) has the other half.
    pub fn terminate_rest(&mut self, turn: &mut Turn) -> Option<Time> {
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
        if turn.now < *since + due {
            return Some(*since + due);
        }
        *rest = true;
        turn.act(Action::TerminateRest);
        None
    }

    pub fn kill(&mut self, turn: &mut Turn) {
        if let Phase::Stopping { killed, .. } = &mut self.phase {
            *killed = Some(turn.now);
            turn.act(Action::Kill);
        }
    }

    /// An order while Envoy is ended to be started anew: it is not, then.
    pub fn on_order_replacing(&mut self, now: Time, order: Order, from: &str) {
        let stops = order != Order::Drain;
        let limits = &self.rules.limits;
        if self.service.drain().is_none() {
            self.reason = from.into();
            let drain = Drain::new(limits, now, now, true, stops).caused_by(from);
            self.service = Service::Leaving(drain);
        }
        let Some(drain) = self.service.drain_mut() else {
            return;
        };
        drain.end(Outcome::EnvoyExited);
        if stops {
            drain.join_stop();
        }
    }

    /// The Envoy that was told to end has exited.
    pub fn on_stopped(&mut self, turn: &mut Turn, view: View, exit: Exit, then: AfterStop) {
        match (then, self.drain()) {
            (AfterStop::StartAnew, None) => self.phase = Phase::Spawning,
            (AfterStop::StartAnew, Some(drain)) if !drain.stops() => self.phase = Phase::Down,
            (AfterStop::ExitAs(served), _) => self.end(turn, view, served),
            (AfterStop::Exit | AfterStop::StartAnew, _) => self.end(turn, view, exit),
        }
    }

    /// Envoy is over. Another Envoy that still drains is ended before drainit is.
    pub fn end(&mut self, turn: &mut Turn, view: View, exit: Exit) {
        if !view.another {
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
            _ => (turn.now, false, None),
        };
        self.phase = Phase::Stopping {
            since,
            rest,
            killed,
            then: AfterStop::ExitAs(exit),
        };
        turn.step(RestartStep::TerminateOld);
    }
}
