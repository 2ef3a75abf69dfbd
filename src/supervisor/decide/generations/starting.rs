//! The next Envoy, from the wish for it until it is live or given up.

use std::time::Duration;

use super::super::asking::{Asking, PROBE_REST, Requester};
use super::super::life::{Life, Phase, serves};
use super::super::service::Service;
use super::super::{Action, Turn};
use super::{
    AdminAccess, Beside, Generations, Kept, LOOK, Left, Open, Reloaded, RestartStep, Told, newest,
};
use crate::drain::{Answer, Ask, Readiness, Time};
use crate::duration::show;
use crate::process::Exit;

/// An Envoy that is not live by then, next to one that serves, is given up.
pub const START_LIMIT: Duration = Duration::from_millis(if cfg!(test) { 500 } else { 60_000 });

/// The next Envoy while it starts beside the one that serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in super::super) struct Starting {
    /// When the next Envoy was spawned.
    pub since: Time,
    /// Whether this is the second attempt.
    pub second: bool,
    /// Whether the next Envoy was given up, and killed.
    pub given_up: bool,
    /// Whether the Envoy that serves was seen to accept no connections any more.
    pub accepts_nothing: bool,
    /// Whether logs are to be reopened as soon as nothing starts: the next Envoy would die of the
    /// signal.
    pub reopen: bool,
    /// What the next Envoy is asked; the figures are those of the Envoy that serves.
    pub asking: Asking,
}

impl Starting {
    /// Gives up an Envoy that is not live in time, and asks how it is until then.
    ///
    /// Where the Envoy that serves is held, this one is told to fail its health check before it is
    /// asked how it is. Envoy keeps that word through its initialization, so that nobody finds it in
    /// service (seen on 1.36.4 and 1.40.0).
    pub fn advance(&mut self, turn: &mut Turn, fails: Option<bool>) -> Option<Time> {
        let due = self.since + START_LIMIT;
        if turn.now >= due && !self.given_up {
            self.given_up = true;
            turn.step(RestartStep::KillNewest);
        }
        let health = fails.and_then(|fails| self.asking.advance_health(turn, fails));
        let look = self.asking.advance(turn, Ask::Sockets);
        let due = (!self.given_up).then_some(due);
        [due, health, look].into_iter().flatten().min()
    }
}

impl Generations {
    /// Somebody wants a reload; if it is urgent, by then.
    pub(super) fn on_reload(&mut self, life: &Life, turn: &mut Turn, by: Option<Time>) {
        if life.drain().is_some() {
            turn.step(RestartStep::Reloaded(Reloaded::Draining));
        } else if self.beside != Beside::Nobody && life.is_running() {
            // It would cut what the old Envoy has, or come too late for the one that starts.
            self.kept = Some(Kept {
                by: by.or(self.hurry()),
            });
            turn.step(RestartStep::Keep);
        } else if life.is_live() {
            self.begin(turn);
        } else {
            turn.step(RestartStep::Reloaded(Reloaded::NotLive));
        }
    }

    fn begin(&mut self, turn: &mut Turn) {
        self.beside = Beside::Trying;
        self.waited = true;
        turn.step(RestartStep::Try);
    }

    /// Begins the reload that was kept, where nothing stands in its way any more.
    pub(super) fn begin_kept(&mut self, life: &Life, turn: &mut Turn) {
        let free = self.beside == Beside::Nobody && life.is_live() && life.drain().is_none();
        if free && self.kept.take().is_some() {
            turn.tell_reloaded();
            self.begin(turn);
        }
    }

    pub(super) fn on_tried(&mut self, turn: &mut Turn, passed: bool) {
        if passed {
            self.beside = Beside::Spawning {
                second: false,
                reopen: false,
            };
            turn.step(RestartStep::SpawnNext);
        } else {
            self.beside = Beside::Nobody;
            self.tell(turn, Reloaded::Refused);
        }
    }

    pub(super) fn on_next_spawned(&mut self, life: &mut Life, turn: &mut Turn, spawned: bool) {
        let (Beside::Spawning { second, reopen }, Phase::Running(envoy)) =
            (self.beside, &mut life.phase)
        else {
            return;
        };
        if !spawned {
            self.beside = Beside::Nobody;
            if second {
                // The first attempt may have got further.
                self.serve_on(life, turn.now);
            }
            reopen_if(turn, reopen);
            return self.tell(turn, Reloaded::Failed);
        }
        let mut asking = Asking::from_start(turn.now);
        if second || envoy.asking.owes_figures() {
            // The Envoy that serves may have stopped accepting for the first attempt.
            asking.figures_at(turn.now);
        }
        envoy.asking.rest();
        self.beside = Beside::Starting(Starting {
            since: turn.now,
            second,
            given_up: false,
            accepts_nothing: false,
            reopen,
            asking,
        });
    }

    pub(super) fn on_answer_starting(
        &mut self,
        life: &mut Life,
        turn: &mut Turn,
        number: u64,
        answer: Option<&Answer>,
    ) {
        let (Beside::Starting(next), true) = (&mut self.beside, life.is_running()) else {
            return;
        };
        let Some(question) = next.asking.take(number) else {
            return;
        };
        if question.asker == Requester::HealthCheck {
            let confirmed = answer.is_some();
            next.asking
                .on_health_answer(turn.now, question.ask, confirmed);
        } else if !question.ask.is_to_envoy() {
            next.accepts_nothing = answer == Some(&Answer::Closed);
            next.asking.look_at(turn.now);
        } else if serves(answer) {
            let serving = life.service == Service::Serving;
            if answer == Some(&Answer::Ready(Readiness::Live)) {
                next.asking.on_passing(turn.now, !serving);
            }
            if serving && next.asking.health.is_in_hand() {
                // A resume came meanwhile, and it is about to hear of that.
                next.asking.look_again(turn.now, PROBE_REST);
                return;
            }
            let next = *next;
            self.take_over(life, turn, next);
        } else if !next.asking.owes_figures() {
            next.asking.look_again(turn.now, PROBE_REST);
            if answer.is_some() {
                next.asking.hurry_health(turn.now);
            }
        }
    }

    /// The next Envoy is live: from now on the life is its own.
    fn take_over(&mut self, life: &mut Life, turn: &mut Turn, next: Starting) {
        life.phase = Phase::Running(newest(next, turn.now));
        self.beside = Beside::Old {
            since: turn.now,
            told: Told::Nothing,
            left: Left::Something,
            open: Open::Unknown,
            look: turn.now + LOOK,
            second: false,
        };
        self.admin = AdminAccess::Own;
        if life.service == Service::Serving {
            life.reason = format!(
                "live {} after its start, next to the old generation",
                show(turn.now.saturating_sub(next.since))
            );
        }
        reopen_if(turn, next.reopen);
        self.tell(turn, Reloaded::Live);
    }

    /// The Envoy that started is gone, and the one before serves on, with its admin interface gone
    /// for good if the new one got as far as that.
    pub(super) fn fall_back(
        &mut self,
        life: &mut Life,
        turn: &mut Turn,
        exit: Exit,
        next: Starting,
    ) {
        self.beside = Beside::Nobody;
        if let Phase::Stopping { killed, .. } = life.phase {
            if killed.is_none() {
                turn.act(Action::Terminate);
            }
            return;
        }
        if let Phase::Running(envoy) = &mut life.phase
            && next.asking.next.is_some_and(|look| look.figures)
        {
            envoy.asking.figures_at(turn.now);
        }
        let crashed = matches!(exit, Exit::Signal(_)) && !next.given_up;
        if crashed && !next.second && life.drain().is_none() {
            // Not its configuration's fault, by the look of it; and the old one may have stopped
            // accepting for it.
            self.beside = Beside::Spawning {
                second: true,
                reopen: next.reopen,
            };
            turn.step(RestartStep::SpawnNext);
            return;
        }
        self.serve_on(life, turn.now);
        reopen_if(turn, next.reopen);
        self.tell(turn, Reloaded::Failed);
    }

    /// No other Envoy starts any more. How the one that serves is must be seen; what is open, too,
    /// if somebody waits for that.
    fn serve_on(&mut self, life: &mut Life, now: Time) {
        self.admin = AdminAccess::Doubtful;
        if let Phase::Running(envoy) = &mut life.phase {
            envoy.asking.pause = PROBE_REST;
            if !envoy.asking.owes_figures() {
                envoy.asking.look_at(now);
            }
        }
    }
}

fn reopen_if(turn: &mut Turn, reopen: bool) {
    if reopen {
        turn.act(Action::ReopenLogs);
    }
}
