//! What drainit decides, apart from all I/O: inputs with a time in, actions out.
//!
//! Together with the drain this is the whole of the decision core. It has no clock, no process
//! and no socket, so that its tests can walk through every order of events. `life` is the life of
//! one Envoy; `generations` has all that `--hot-restart` adds; `others` is the narrow door between
//! the two.

mod asking;
mod ending;
mod generations;
mod hold;
mod life;
mod messages;
mod orders;
mod others;
mod service;

use crate::drain::{Ask, Drain, Time};
use crate::status::State;

pub use asking::Question;
pub use generations::{Generations, START_LIMIT};
pub use life::KILL_PATIENCE;
pub use messages::{Action, HoldEnd, Input, Order, ResumeEnd, Rules};
pub use others::{News, Reloaded, RestartStep, Who};

use asking::Requester;
use hold::Waiters;
use life::{Life, Phase};
use others::{View, Visibility};

/// The decision core.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Core {
    life: Life,
    generations: Generations,
    /// How many questions there were.
    questions: u64,
    wake_at: Option<Time>,
}

/// A call of [`Core::handle`]: when it is, and what is to be done.
struct Turn {
    now: Time,
    actions: Vec<Action>,
    questions: u64,
    /// How a reload ended, which is told last.
    reloaded: Option<Reloaded>,
}

impl Turn {
    fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    fn ask(&mut self, ask: Ask, asker: Requester) -> Question {
        self.questions += 1;
        self.act(Action::Ask(ask));
        Question {
            number: self.questions,
            ask,
            at: self.now,
            asker,
        }
    }
}

impl Core {
    /// A core at the start of drainit's life. `seed` spreads the restarts of many nodes.
    pub fn new(rules: Rules, seed: u64) -> Core {
        Core {
            generations: Generations::new(rules.old_time),
            life: Life::new(rules, seed),
            questions: 0,
            wake_at: None,
        }
    }

    /// Why drainit is in its state.
    pub fn reason(&self) -> &str {
        &self.life.reason
    }

    /// The drain, once one was asked for.
    pub fn drain(&self) -> Option<&Drain> {
        self.life.drain()
    }

    /// The wait of a hold, while Envoy is held.
    pub fn hold(&self) -> Option<&Drain> {
        self.life.service.hold()
    }

    /// Whether a drain is under way, or the wait of a hold.
    pub fn is_draining(&self) -> bool {
        let wait = self.life.service.wait();
        wait.is_some_and(|wait| wait.outcome().is_none())
    }

    /// Whether a drain, a hold or a resume waits for the end of the question in flight, and that is not
    /// what it wants to know.
    pub fn hurries(&self, now: Time) -> bool {
        if self.asked().is_some_and(Question::is_drains_look) {
            return false;
        }
        let waits = |wait: &Drain| wait.outcome().is_none() && !wait.is_delayed(now);
        let wait = self.life.service.wait();
        // While the next Envoy starts, they can ask nothing.
        !self.generations.is_starting() && (wait.is_some_and(waits) || self.life.is_resuming())
    }

    /// The question in flight: what Envoy was asked and has not answered yet.
    pub fn asked(&self) -> Option<Question> {
        self.generations.asked().or(self.life.asked())
    }

    /// Whether Envoy has handlers for its signals, as far as is known.
    pub fn has_handlers(&self) -> bool {
        self.life.envoy().is_some_and(|envoy| envoy.handlers)
    }

    /// Whether an Envoy starts.
    pub fn is_starting(&self, now: Time) -> bool {
        self.generations.is_starting() || self.state(now) == State::Starting
    }

    /// Whether the Envoy that serves may not be there to be asked.
    pub fn is_admin_away(&self) -> bool {
        self.generations.is_admin_away()
    }

    /// Whether an Envoy runs that has been live.
    pub fn is_live(&self) -> bool {
        self.life.is_live()
    }

    /// Whether an end of this Envoy now would be one that nobody here asked for, of an Envoy that had
    /// been live.
    pub fn serves_unasked(&self, who: Who) -> bool {
        who != Who::Next && self.life.is_live() && self.life.drain().is_none()
    }

    /// Whether Envoy is out of service by a hold, or not back yet after one.
    pub fn is_held(&self) -> bool {
        self.life.is_held()
    }

    /// Whether Envoy is held, and has not confirmed that its health check fails.
    pub fn is_hold_unconfirmed(&self) -> bool {
        self.life.service.hold().is_some() && self.life.is_unconfirmed()
    }

    /// When to call [`Core::handle`] with [`Input::Tick`], if nothing else happens before.
    pub fn wake_at(&self) -> Option<Time> {
        self.wake_at
    }

    /// What drainit is doing.
    pub fn state(&self, now: Time) -> State {
        self.life.state(now)
    }

    /// Whether an order says nothing that the one before it has not said.
    pub fn repeats(&self, now: Time, order: Order) -> bool {
        self.life.repeats(now, order)
    }

    /// What is known of a second Envoy.
    pub fn generations(&self) -> &Generations {
        &self.generations
    }

    /// Takes an input, and says what to do.
    pub fn handle(&mut self, now: Time, input: Input) -> Vec<Action> {
        if let Phase::Over(code) = self.life.phase {
            return vec![Action::Exit(code)];
        }
        let mut turn = Turn {
            now,
            actions: Vec::new(),
            questions: self.questions,
            reloaded: None,
        };
        let (waited, asked) = (self.life.waiters(), Waiters::of(&input));
        self.on_input(&mut turn, input);
        self.generations.settle(&mut self.life, &mut turn);
        self.life.settle_hold();
        self.wake_at = self.advance(&mut turn);
        self.life.answer_waiters(&mut turn, waited, asked);
        self.questions = turn.questions;
        turn.tell_reloaded();
        turn.actions
    }

    fn on_input(&mut self, turn: &mut Turn, input: Input) {
        if let Input::Order(order, _) = input
            && !self.life.heeds(turn.now, order)
        {
            return;
        }
        let was_live = self.life.is_live();
        if let Some(input) = self.generations.on_input(&mut self.life, turn, input) {
            let view = self.generations.view(&self.life);
            self.life.on_input(turn, view, input);
            if self.life.is_live() && !was_live {
                self.generations.on_live(&mut self.life, turn.now);
            }
        }
    }

    /// Does what is due, and says when there will be more.
    fn advance(&mut self, turn: &mut Turn) -> Option<Time> {
        if self.generations.is_spawning() {
            // It comes in the same breath, and is the one to ask then.
            return None;
        }
        let view = self.generations.view(&self.life);
        let mut life = self.life.advance(turn, view);
        if let Phase::Over(_) = self.life.phase {
            return None;
        }
        let questions = turn.questions;
        let others = self.generations.advance(&mut self.life, turn);
        let after = self.generations.view(&self.life);
        if turn.questions > questions || after != view {
            // What the life has planned waits for that answer, or nobody else is there any more.
            life = self.life.advance(turn, after);
        }
        let due = [life, others];
        due.into_iter().flatten().min()
    }
}

#[cfg(test)]
mod explore;
#[cfg(test)]
mod generations_tests;
#[cfg(test)]
mod service_tests;
#[cfg(test)]
mod tests;
