//! Signals, and requests that mean the same, in every phase of Envoy's life.

use std::time::Duration;

use super::ending::Then;
use super::generations::Next;
use super::{Action, Core, Order, Phase, Reloaded};
use crate::drain::{Drain, Limits, Outcome, Time};
use crate::process::Exit;

/// A TERM or INT this soon after the last order to stop that counted is that order once more:
/// `timeout` sends two, a terminal and a supervisor before us may send one each. Short in tests,
/// where each time multiplies the states of the exploration.
pub(super) const SAME_ORDER: Duration = Duration::from_millis(if cfg!(test) { 500 } else { 1_000 });

impl Core {
    /// Whether an order says nothing that the one before it has not said.
    pub fn repeats(&self, now: Time, order: Order) -> bool {
        order == Order::Stop
            && self
                .ordered
                .is_some_and(|at| now.saturating_sub(at) < SAME_ORDER)
    }

    pub(super) fn take_order(
        &mut self,
        now: Time,
        order: Order,
        from: &str,
        actions: &mut Vec<Action>,
    ) {
        if self.repeats(now, order) {
            return;
        }
        match order {
            Order::Stop | Order::StopNow => {
                let least = if order == Order::StopNow { 2 } else { 1 };
                self.stops = self.stops.saturating_add(1).max(least);
                self.ordered = Some(now);
            }
            Order::Drain => {}
            Order::ReopenLogs => {
                self.reopen = true;
                return;
            }
        }
        match self.phase {
            Phase::Waiting
            | Phase::Spawning
            | Phase::Judging { .. }
            | Phase::Backoff { .. }
            | Phase::Down => {
                self.reason = from.into();
                self.take_order_down(now, order, from, actions);
            }
            Phase::Outlived => self.take_order_outlived(order),
            Phase::Running { since } => {
                if self.drain.is_none() {
                    self.reason = from.into();
                }
                self.take_order_running(now, since, order, from, actions);
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
    /// that still drains is waited for, unless there is no time for that.
    fn take_order_down(&mut self, now: Time, order: Order, from: &str, actions: &mut Vec<Action>) {
        if let Phase::Judging { exit, .. } = self.phase
            && !self.rules.restart
        {
            // It has ended, and all that is still asked is why.
            self.end(now, exit, actions);
            return;
        }
        let stops = order != Order::Drain;
        let drain = match (self.parent, &self.drain) {
            (Some(_), None) if order != Order::StopNow => {
                // Nothing serves that could go on to.
                let limits = Limits {
                    delay: Duration::ZERO,
                    ..self.rules.limits.clone()
                };
                self.drain = Some(Drain::new(&limits, now, now, true, stops).caused_by(from));
                self.phase = Phase::Outlived;
                return;
            }
            (parent, _) => {
                let limits = &self.rules.limits;
                let drain = Drain::new(limits, now, now, false, stops).caused_by(from);
                let outcome = match parent {
                    Some(_) => Outcome::SecondSignal,
                    None => Outcome::NeverLive,
                };
                let drain = self.drain.get_or_insert(drain);
                drain.end(outcome);
                drain
            }
        };
        if stops {
            drain.join_stop();
        }
        self.phase = Phase::Down;
        if stops {
            self.end(now, Exit::Code(0), actions);
        }
    }

    /// What the old generation has is waited for no longer, or Envoy is stopped after that.
    fn take_order_outlived(&mut self, order: Order) {
        let Some(drain) = &mut self.drain else {
            return;
        };
        if order == Order::StopNow || order == Order::Stop && drain.stops() {
            drain.end(Outcome::SecondSignal);
        }
        if order != Order::Drain {
            drain.join_stop();
        }
    }

    fn take_order_running(
        &mut self,
        now: Time,
        since: Time,
        order: Order,
        from: &str,
        actions: &mut Vec<Action>,
    ) {
        match (&mut self.drain, order) {
            (None, Order::StopNow) => self.terminate(now, Then::Exit, actions),
            (None, _) => self.begin_drain(now, since, order == Order::Stop, from),
            (Some(_), Order::Drain | Order::ReopenLogs) => {}
            (Some(drain), _) => {
                if self.stops >= 2 {
                    drain.end(Outcome::SecondSignal);
                }
                drain.join_stop();
            }
        }
    }

    fn begin_drain(&mut self, now: Time, since: Time, stops: bool, cause: &str) {
        // With an old generation, that one has been.
        let live = self.live.is_some() || self.is_unsettled();
        let drain = Drain::new(&self.rules.limits, now, since, live, stops);
        self.drain = Some(drain.caused_by(cause));
        self.tell(Reloaded::Draining);
        self.next = self.next.filter(|next| *next != Next::Trying);
    }

    /// The start script is gone, and Envoy lives on. As with any init, the end of what was started
    /// is the container's, but what Envoy has in flight finishes first. Where Envoy is to be kept
    /// up (`--restart on-failure`), it is up.
    pub(super) fn take_script_end(&mut self, now: Time, exit: Exit) {
        if let (Phase::Running { since }, None, false) =
            (self.phase, &self.drain, self.rules.restart)
        {
            let cause = format!("the start script ended before envoy: {exit}");
            self.begin_drain(now, since, true, &cause);
            self.reason = cause;
        }
    }
}
