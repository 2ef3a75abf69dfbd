//! What is due, and when to look again.

use std::time::Duration;

use super::ending::{KILL_PATIENCE, Then};
use super::generations::{Next, RISE};
use super::{Action, Core, Phase};
use crate::drain::{self, Answer, Ask, Time};
use crate::process::Exit;

/// An Envoy that was told to reopen its logs before it had a handler would die of that. It has
/// one when the kernel says so, or its admin interface answers, and surely this long after its
/// start.
pub(super) const HANDLERS_READY: Duration = Duration::from_secs(5);

impl Core {
    /// Does what is due, and says when there will be more.
    pub(super) fn advance(&mut self, now: Time, actions: &mut Vec<Action>) -> Option<Time> {
        if let Phase::Running { .. } = self.phase {
            let wake_at = self.advance_running(now, actions);
            if let Phase::Running { .. } = self.phase {
                return wake_at;
            }
        }
        if self.phase == Phase::Outlived
            && let Some(wake_at) = self.advance_outlived(now, actions)
        {
            return Some(wake_at);
        }
        if let Phase::Judging { until, .. } = self.phase {
            if now < until {
                return Some(until);
            }
            self.take_judgement(now, None, actions);
        }
        match self.phase {
            Phase::Backoff { until } if now < until => return Some(until),
            Phase::Backoff { .. } => self.phase = Phase::Spawning,
            Phase::Stopping { since, killed, .. } => {
                let rest = self.terminate_rest(now, actions);
                let due = match killed {
                    Some(at) => at + KILL_PATIENCE,
                    None => since + self.rules.kill_timeout,
                };
                if now < due {
                    return Some(rest.map_or(due, |rest| rest.min(due)));
                }
                if killed.is_none() {
                    self.kill(now, actions);
                    return Some(now + KILL_PATIENCE);
                }
                self.phase = Phase::Over(Exit::Signal(9).code());
            }
            _ => {}
        }
        match self.phase {
            Phase::Spawning => actions.push(Action::Spawn),
            Phase::Over(code) => actions.push(Action::Exit(code)),
            _ => {}
        }
        None
    }

    /// The drain goes on that waits for the old generation. The one that took over has told it to
    /// drain, and nobody can be asked but the kernel.
    fn advance_outlived(&mut self, now: Time, actions: &mut Vec<Action>) -> Option<Time> {
        let stops = loop {
            let drain = self.drain.as_mut()?;
            drain.set_known(true);
            match drain.next(now, self.asked.is_none()) {
                drain::Next::Ask(Ask::Stats | Ask::Sockets) => {
                    let horizon = drain.horizon(now);
                    self.ask(Ask::Sockets, actions);
                    return Some(horizon);
                }
                drain::Next::Ask(ask) => drain.answer(now, ask, Some(&Answer::Done)),
                drain::Next::Wait(until) => return Some(until),
                drain::Next::Over(_) => break drain.stops(),
            }
        };
        self.phase = Phase::Down;
        self.asked = None;
        if stops {
            self.end(now, Exit::Code(0), actions);
        }
        None
    }

    fn advance_running(&mut self, now: Time, actions: &mut Vec<Action>) -> Option<Time> {
        if self.next == Some(Next::Spawning) {
            // It comes in the same breath, and is the one to ask then.
            return None;
        }
        let due = [
            self.advance_rise(now, actions),
            self.advance_logs(now, actions),
            self.advance_drain(now, actions),
            self.advance_probe(now, actions),
        ];
        due.into_iter().flatten().min()
    }

    /// A generation that is not live in time is given up.
    fn advance_rise(&mut self, now: Time, actions: &mut Vec<Action>) -> Option<Time> {
        let Some(Next::Rising(rise)) = &mut self.next else {
            return None;
        };
        let due = rise.since + RISE;
        if now < due {
            return (!rise.ended).then_some(due);
        }
        if !rise.ended {
            rise.ended = true;
            actions.push(Action::KillNewest);
        }
        None
    }

    /// Logs are reopened once that does no harm.
    fn advance_logs(&mut self, now: Time, actions: &mut Vec<Action>) -> Option<Time> {
        let Phase::Running { since } = self.phase else {
            return None;
        };
        if !self.reopen || self.is_rising() {
            return None;
        }
        let ready = since + HANDLERS_READY;
        if now < ready && !self.has_handlers() {
            return Some(ready);
        }
        self.reopen_now(actions);
        None
    }

    /// The drain goes on.
    fn advance_drain(&mut self, now: Time, actions: &mut Vec<Action>) -> Option<Time> {
        let free = self.asked.is_none() && !self.is_unsettled();
        let (known, degraded) = (self.knows_all(), self.is_degraded());
        let drain = self.drain.as_mut()?;
        drain.set_known(known);
        match drain.next(now, free) {
            drain::Next::Ask(ask) => {
                let horizon = drain.horizon(now);
                let ask = match ask {
                    Ask::Stats if degraded => Ask::Sockets,
                    ask => ask,
                };
                self.ask(ask, actions);
                Some(horizon)
            }
            drain::Next::Wait(until) => Some(until),
            drain::Next::Over(_) => {
                if drain.stops() {
                    self.terminate(now, Then::Exit, actions);
                }
                None
            }
        }
    }

    /// Envoy is asked how it is, unless the drain's own questions tell that.
    fn advance_probe(&mut self, now: Time, actions: &mut Vec<Action>) -> Option<Time> {
        let told = |drain: &drain::Drain| !drain.is_delayed(now) && drain.outcome().is_none();
        let told = self.drain.as_ref().is_some_and(told) && !self.is_unsettled();
        let running = matches!(self.phase, Phase::Running { .. });
        if told || !running || self.asked.is_some() {
            return None;
        }
        if self.live.is_some() && !self.version_asked && !self.is_rising() {
            self.version_asked = true;
            self.ask(Ask::ServerInfo, actions);
            return None;
        }
        let due = self.probe_due?;
        if now < due {
            return Some(due);
        }
        let ask = match self.look_wanted {
            true if self.is_degraded() || self.is_rising() => Ask::Sockets,
            true => Ask::Stats,
            false => Ask::Ready,
        };
        self.ask(ask, actions);
        None
    }

    fn ask(&mut self, ask: Ask, actions: &mut Vec<Action>) {
        self.asked = Some(ask);
        actions.push(Action::Ask(ask));
    }
}
