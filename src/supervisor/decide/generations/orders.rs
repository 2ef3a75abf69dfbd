//! Orders that are about a second Envoy, and the drain that waits for an old one alone.

use std::time::Duration;

use super::super::asking::Requester;
use super::super::life::{Life, Phase};
use super::super::service::Service;
use super::super::{Order, Turn};
use super::{Beside, Generations, Left, Open, Told};
use crate::drain::{self, Answer, Ask, Drain, Limits, Outcome, Time};
use crate::process::Exit;

impl Generations {
    /// Takes an order, or hands it on.
    pub(super) fn on_order(
        &mut self,
        life: &mut Life,
        turn: &mut Turn,
        order: Order,
        from: &str,
    ) -> bool {
        match &mut self.beside {
            Beside::Starting(next) if order == Order::ReopenLogs && life.is_running() => {
                next.reopen = true;
                false
            }
            Beside::Last { .. } => {
                on_order_last(life, order);
                false
            }
            Beside::Old { since, .. }
                if matches!(order, Order::Stop | Order::Drain) && is_between(life) =>
            {
                life.reason = from.into();
                // Nothing serves that could go on to.
                let limits = Limits {
                    delay: Duration::ZERO,
                    ..life.rules.limits.clone()
                };
                let stops = order == Order::Stop;
                let drain = Drain::new(&limits, turn.now, turn.now, true, stops);
                life.service = Service::Leaving(drain.caused_by(from));
                life.phase = Phase::Down;
                self.beside = Beside::Last {
                    since: *since,
                    asked: None,
                };
                false
            }
            _ => true,
        }
    }

    /// The drain goes on that waits for the old Envoy. The one that took over has told it to drain,
    /// and nobody can be asked but the kernel.
    pub(super) fn advance_last(&mut self, life: &mut Life, turn: &mut Turn) -> Option<Time> {
        let (Beside::Last { since, asked }, Some(drain)) =
            (&mut self.beside, life.service.drain_mut())
        else {
            return None;
        };
        drain.set_known(true);
        loop {
            match drain.next(turn.now, asked.is_none(), asked.map(|asked| asked.at)) {
                drain::Next::Ask(ask) if ask.tells_open() => {
                    *asked = Some(turn.ask(Ask::Sockets, Requester::Drain));
                    return Some(drain.horizon(turn.now));
                }
                drain::Next::Ask(ask) => {
                    drain.on_answer(turn.now, turn.now, ask, Some(&Answer::Done))
                }
                drain::Next::Wait(until) => return Some(until),
                drain::Next::Over(_) => break,
            }
        }
        let stops = drain.stops();
        self.beside = Beside::Old {
            since: *since,
            told: Told::Nothing,
            left: Left::Something,
            open: Open::Unknown,
            look: turn.now,
            second: true,
        };
        if !stops {
            return None;
        }
        let view = self.view(life);
        life.end(turn, view, Exit::Code(0));
        life.advance(turn, view)
    }
}

/// Whether the life is between two Envoys: an old one is all that a drain can wait for. A spawn may
/// wait for a look at the certificates on disk.
fn is_between(life: &Life) -> bool {
    let between = match life.phase {
        Phase::Backoff { .. } | Phase::Spawning => true,
        Phase::Judging { .. } => life.rules.restart,
        _ => false,
    };
    between && life.drain().is_none()
}

/// What the old Envoy has is waited for no longer, or Envoy is stopped after that.
fn on_order_last(life: &mut Life, order: Order) {
    let Some(drain) = life.service.drain_mut() else {
        return;
    };
    match order {
        Order::Drain | Order::ReopenLogs => return,
        Order::StopNow => drain.end(Outcome::SecondSignal),
        Order::Stop if drain.stops() => drain.end(Outcome::SecondSignal),
        Order::Stop => {}
    }
    drain.join_stop();
}
