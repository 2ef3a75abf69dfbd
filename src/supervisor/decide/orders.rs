//! Signals, and requests that mean the same, in every phase of Envoy's life.

use super::ending::Then;
use super::generations::Next;
use super::{Action, Core, Order, Phase, Reloaded};
use crate::drain::{Drain, Outcome, Time};
use crate::process::Exit;

impl Core {
    pub(super) fn take_order(
        &mut self,
        now: Time,
        order: Order,
        from: &str,
        actions: &mut Vec<Action>,
    ) {
        match order {
            Order::Stop => self.stops = self.stops.saturating_add(1),
            Order::StopNow => self.stops = self.stops.saturating_add(1).max(2),
            Order::Drain => {}
            Order::ReopenLogs => {
                self.reopen = true;
                return;
            }
        }
        match self.phase {
            Phase::Waiting | Phase::Spawning | Phase::Backoff { .. } | Phase::Down => {
                self.reason = from.into();
                self.take_order_down(now, order != Order::Drain, actions);
            }
            Phase::Running { since } => {
                if self.drain.is_none() {
                    self.reason = from.into();
                }
                self.take_order_running(now, since, order, actions);
            }
            Phase::Stopping { killed, then, .. } => {
                if then == Then::StartAnew {
                    self.take_order_replacing(now, order, from);
                }
                if killed.is_none() && order != Order::Drain && self.stops >= 3 {
                    self.kill(now, actions);
                }
            }
            Phase::Over(_) => {}
        }
    }

    /// Without an Envoy there is nothing to drain, and none is started any more. An old generation
    /// ends with the newest, and what it had is cut.
    fn take_order_down(&mut self, now: Time, stops: bool, actions: &mut Vec<Action>) {
        let limits = &self.rules.limits;
        let outcome = match self.parent {
            Some(_) => Outcome::EnvoyExited,
            None => Outcome::NeverLive,
        };
        self.drain
            .get_or_insert_with(|| Drain::new(limits, now, now, false, stops))
            .end(outcome);
        self.phase = Phase::Down;
        if stops {
            self.end(now, Exit::Code(0), actions);
        }
    }

    fn take_order_running(
        &mut self,
        now: Time,
        since: Time,
        order: Order,
        actions: &mut Vec<Action>,
    ) {
        match (&mut self.drain, order) {
            (None, Order::StopNow) => self.terminate(now, Then::Exit, actions),
            (None, _) => {
                // With an old generation, that one has been.
                let live = self.live.is_some() || self.is_unsettled();
                let stops = order == Order::Stop;
                self.drain = Some(Drain::new(&self.rules.limits, now, since, live, stops));
                self.tell(Reloaded::Draining);
                self.next = self.next.filter(|next| *next != Next::Trying);
            }
            (Some(_), Order::Drain | Order::ReopenLogs) => {}
            (Some(drain), order) => {
                if drain.stops() || order == Order::StopNow {
                    drain.end(Outcome::SecondSignal);
                }
                drain.join_stop();
            }
        }
    }
}
