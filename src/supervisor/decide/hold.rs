//! What a hold, a resume and a drain do in the life of an Envoy, and who waits for them.

use super::asking::{HealthCheck, Requester};
use super::life::{AfterStop, Envoy, Life, Phase};
use super::service::Service;
use super::{Action, HoldEnd, Input, ResumeEnd, Turn, View, Visibility};
use crate::drain::{self, Drain, Outcome, Time};

/// Who waits for an answer to a hold, or to a resume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiters {
    hold: bool,
    resume: bool,
}

impl Life {
    /// The drain, once one was asked for.
    pub fn drain(&self) -> Option<&Drain> {
        self.service.drain()
    }

    /// Whether Envoy is out of service by a hold, or not back yet after one.
    pub fn is_held(&self) -> bool {
        self.service.hold().is_some() || self.is_resuming()
    }

    /// Whether Envoy is still to be told that its health check passes again.
    pub fn is_resuming(&self) -> bool {
        self.service == Service::Serving
            && self
                .envoy()
                .is_some_and(|envoy| envoy.asking.health.is_in_hand())
    }

    /// Whether drainit is about to end, or Envoy is not started any more.
    pub fn is_leaving(&self) -> bool {
        self.drain().is_some()
            || match self.phase {
                Phase::Stopping { then, .. } => then != AfterStop::StartAnew,
                Phase::Judging { .. } => !self.rules.restart,
                Phase::Down | Phase::Over(_) => true,
                _ => false,
            }
    }

    /// Who waits for an answer now, of those who asked before.
    pub fn waiters(&self) -> Waiters {
        let stays = !self.is_leaving();
        let waits = |wait: &Drain| wait.outcome().is_none();
        Waiters {
            hold: stays && self.service.hold().is_some_and(waits),
            resume: stays && self.is_resuming(),
        }
    }

    /// Somebody asks for a hold. One that comes while another waits joins that; later than that, it
    /// waits anew.
    pub fn on_hold(&mut self, turn: &Turn, view: View, from: &str) {
        if self.is_leaving() || self.waiters().hold {
            return;
        }
        let (now, limits) = (turn.now, &self.rules.limits);
        let wait = match &mut self.phase {
            Phase::Running(envoy) => {
                envoy.asking.hurry_health(now);
                envoy.asking.leave_wait();
                let live = envoy.live.is_some();
                if live {
                    self.reason = from.into();
                }
                Drain::hold(
                    limits,
                    now,
                    envoy.since,
                    live || view.sight == Visibility::Nothing,
                )
            }
            // There is no Envoy, and the next one will be held from its start.
            _ => {
                let mut wait = Drain::hold(limits, now, now, false);
                wait.end(match view.another {
                    true => Outcome::Unknown,
                    false => Outcome::NeverLive,
                });
                wait
            }
        };
        self.service = Service::Held(wait.caused_by(from));
    }

    /// Somebody asks for a resume.
    pub fn on_resume(&mut self, turn: &Turn, from: &str) {
        if self.is_leaving() || self.service.hold().is_none() {
            return;
        }
        self.service = Service::Serving;
        if let Phase::Running(envoy) = &mut self.phase {
            envoy.asking.leave_wait();
            envoy.asking.hurry_health(turn.now);
            if envoy.live.is_some() {
                self.reason = format!("live again: {from}");
            }
        }
    }

    /// With Envoy, what was in flight is gone.
    pub fn settle_hold(&mut self) {
        let running = self.is_running();
        if let Service::Held(wait) = &mut self.service
            && !running
        {
            wait.end(Outcome::EnvoyExited);
        }
    }

    /// Envoy's health check is seen to, unless that is the drain's business.
    pub fn advance_health(&mut self, turn: &mut Turn, view: View) -> Option<Time> {
        let fails = self.service.wants_failed()?;
        match &mut self.phase {
            Phase::Running(envoy) if !view.is_starting() => {
                envoy.asking.advance_health(turn, fails)
            }
            _ => None,
        }
    }

    /// Tells the drain, or the wait of a hold, whether the figures are all that there is: nobody is
    /// believed to have gone while Envoy's health check may pass.
    pub fn tell_wait(&mut self, view: View) {
        let known = view.knows_all() && !(self.is_unconfirmed() && self.service.hold().is_some());
        if let Some(wait) = self.service.wait_mut() {
            wait.set_known(known);
        }
    }

    /// Whether Envoy has not confirmed that its health check fails, a drain's word apart.
    pub fn is_unconfirmed(&self) -> bool {
        let failed = |envoy: &Envoy| envoy.asking.health == HealthCheck::Failed;
        !self.envoy().is_some_and(failed)
    }

    /// The drain goes on, or the wait of a hold.
    pub fn advance_wait(&mut self, turn: &mut Turn, view: View) -> Option<Time> {
        self.tell_wait(view);
        let (Phase::Running(envoy), Some(drain)) = (&mut self.phase, self.service.wait_mut())
        else {
            return None;
        };
        let free = envoy.asking.asked.is_none() && view.sight != Visibility::Nothing;
        match drain.next(turn.now, free, envoy.asking.wait_asked()) {
            drain::Next::Ask(ask) => {
                let horizon = drain.horizon(turn.now);
                let ask = view.in_place_of(ask);
                envoy.asking.ask(turn, ask, Requester::Drain);
                Some(horizon)
            }
            drain::Next::Wait(until) => Some(until),
            drain::Next::Over(_) => {
                if drain.stops() {
                    self.terminate(turn, AfterStop::Exit);
                }
                None
            }
        }
    }

    /// Tells those who asked for a hold or a resume, now or before, how that ended, if it did.
    pub fn answer_waiters(&self, turn: &mut Turn, before: Waiters, asked: Waiters) {
        let now = self.waiters();
        let hold = before.hold || asked.hold;
        if hold && !now.hold {
            turn.act(Action::HoldEnded(
                match self.service.hold().and_then(Drain::outcome) {
                    _ if self.is_leaving() => HoldEnd::Leaving,
                    Some(outcome) => HoldEnd::Over(outcome),
                    None => HoldEnd::Resumed,
                },
            ));
        }
        if (before.resume || asked.resume) && !now.resume {
            turn.act(Action::ResumeEnded(match self.service {
                _ if self.is_leaving() => ResumeEnd::Leaving,
                Service::Serving => ResumeEnd::Serving,
                Service::Held(_) | Service::Leaving(_) => ResumeEnd::Held,
            }));
        }
    }
}

impl Waiters {
    /// Who asks by this input.
    pub fn of(input: &Input) -> Waiters {
        Waiters {
            hold: matches!(input, Input::Hold(_)),
            resume: matches!(input, Input::Resume(_)),
        }
    }
}
