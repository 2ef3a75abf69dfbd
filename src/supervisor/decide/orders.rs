//! Signals, and requests that mean the same, in every phase of Envoy's life.

use std::time::Duration;

use super::life::{AfterStop, Life, Phase};
use super::service::Service;
use super::{Order, Turn, View, Visibility};
use crate::drain::{Drain, Outcome, Time};
use crate::process::Exit;

/// A TERM or INT this soon after the last order to stop that counted is that order once more:
/// `timeout` sends two, a terminal and a supervisor before us may send one each. Short in tests,
/// where each time multiplies the states of the exploration.
pub(super) const SAME_ORDER: Duration = Duration::from_millis(if cfg!(test) { 500 } else { 1_000 });

impl Life {
    pub fn repeats(&self, now: Time, order: Order) -> bool {
        order == Order::Stop
            && self
                .ordered
                .is_some_and(|at| now.saturating_sub(at) < SAME_ORDER)
    }

    /// Counts an order to stop; whether it is an order that says anything new.
    pub fn heeds(&mut self, now: Time, order: Order) -> bool {
        if self.repeats(now, order) {
            return false;
        }
        if let Order::Stop | Order::StopNow = order {
            let least = if order == Order::StopNow { 2 } else { 1 };
            self.stops = self.stops.saturating_add(1).max(least);
            self.ordered = Some(now);
        }
        true
    }

    pub fn on_order(&mut self, turn: &mut Turn, view: View, order: Order, from: &str) {
        match (&mut self.phase, order) {
            (Phase::Running(envoy), Order::ReopenLogs) => envoy.reopen = true,
            (_, Order::ReopenLogs) | (Phase::Over(_), _) => {}
            (Phase::Running(_), _) => self.on_order_running(turn, view, order, from),
            (Phase::Stopping { killed, then, .. }, _) => {
                let killed = killed.is_some();
                if *then == AfterStop::StartAnew {
                    self.on_order_replacing(turn.now, order, from);
                }
                if !killed && order != Order::Drain && self.stops >= 3 {
                    self.kill(turn);
                }
            }
            (
                Phase::Waiting
                | Phase::Spawning
                | Phase::Judging { .. }
                | Phase::Backoff { .. }
                | Phase::Down,
                _,
            ) => {
                self.reason = from.into();
                self.on_order_down(turn, view, order, from);
            }
        }
    }

    /// Without an Envoy there is nothing to drain, and Envoy is not started any more.
    fn on_order_down(&mut self, turn: &mut Turn, view: View, order: Order, from: &str) {
        if let Phase::Judging { exit, .. } = self.phase
            && !self.rules.restart
        {
            // It has ended, and all that is still asked is why.
            return self.end(turn, view, exit);
        }
        let stops = order != Order::Drain;
        let now = turn.now;
        let limits = &self.rules.limits;
        if self.service.drain().is_none() {
            let drain = Drain::new(limits, now, now, false, stops).caused_by(from);
            self.service = Service::Leaving(drain);
        }
        let Some(drain) = self.service.drain_mut() else {
            return;
        };
        drain.end(match view.another {
            true => Outcome::SecondSignal,
            false => Outcome::NeverLive,
        });
        if stops {
            drain.join_stop();
        }
        self.phase = Phase::Down;
        if stops {
            self.end(turn, view, Exit::Code(0));
        }
    }

    fn on_order_running(&mut self, turn: &mut Turn, view: View, order: Order, from: &str) {
        if self.drain().is_none() {
            self.reason = from.into();
        }
        match (self.service.drain_mut(), order) {
            (None, Order::StopNow) => self.terminate(turn, AfterStop::Exit),
            (None, _) => self.begin_drain(turn.now, view, order == Order::Stop, from),
            (Some(_), Order::Drain | Order::ReopenLogs) => {}
            (Some(drain), _) => {
                if self.stops >= 2 {
                    drain.end(Outcome::SecondSignal);
                }
                drain.join_stop();
            }
        }
    }

    fn begin_drain(&mut self, now: Time, view: View, stops: bool, cause: &str) {
        let Phase::Running(envoy) = &mut self.phase else {
            return;
        };
        envoy.asking.leave_wait();
        let since = envoy.since;
        // Where nobody can be asked, another Envoy has been.
        let live = envoy.live.is_some() || view.sight == Visibility::Nothing;
        let mut limits = self.rules.limits.clone();
        if self.is_held() {
            // Those who send traffic were told when the hold began.
            limits.delay = Duration::ZERO;
        }
        let drain = Drain::new(&limits, now, since, live, stops);
        self.service = Service::Leaving(drain.caused_by(cause));
    }

    /// The start script is gone, and Envoy lives on. As with any init, the end of what was started
    /// is the container's, but what Envoy has in flight finishes first. Where Envoy is to be kept
    /// up (`--restart on-failure`), it is up.
    pub fn on_script_end(&mut self, turn: &mut Turn, view: View, exit: Exit) {
        if self.drain().is_none() && !self.rules.restart {
            let cause = format!("the start script ended before envoy: {exit}");
            self.begin_drain(turn.now, view, true, &cause);
            self.reason = cause;
        }
    }
}
