//! The decision core without a second Envoy, by hand.

mod answers;
mod orders;
mod starts;

use std::time::Duration;

use super::asking::PROBE_REST;
use super::life::JUDGEMENT;
use super::life::KILL_PATIENCE;
use super::orders::SAME_ORDER;
use super::*;
use crate::drain::{Answer, Limits, Outcome, Readiness};
use crate::envoy::load::Load;
use crate::process::Exit;
use crate::testing::{self, LIMITS, ms, s};
use orders::phase;

const CODE_0: Exit = Exit::Code(0);
const CODE_1: Exit = Exit::Code(1);
const KILLED: Exit = Exit::Signal(9);

pub(super) fn rules() -> Rules {
    Rules {
        limits: LIMITS,
        kill_timeout: s(2),
        restart: false,
        gated: false,
        old_time: None,
    }
}

fn restarting() -> Rules {
    Rules {
        restart: true,
        ..rules()
    }
}

fn load(connections: u64) -> Answer {
    Answer::Stats(Load {
        health_failed: true,
        ..testing::load(connections)
    })
}

/// A core, its clock, and everything it has had done.
pub(super) struct Play {
    pub core: Core,
    pub now: Time,
    pub done: Vec<Action>,
}

impl Play {
    /// From the first turn on; Envoy can be spawned.
    fn new(rules: Rules) -> Play {
        let mut play = Play {
            core: Core::new(rules, 1),
            now: ms(0),
            done: Vec::new(),
        };
        play.put(Input::Tick);
        play
    }

    /// Envoy has just been spawned, and its first question hangs.
    pub fn started(rules: Rules) -> Play {
        let play = Play::new(rules);
        assert_eq!(play.done, [Action::Spawn, Action::Ask(Ask::Ready)]);
        play
    }

    /// Envoy is live, and has told its version.
    pub fn live(rules: Rules) -> Play {
        let mut play = Play::started(rules);
        play.answer(Answer::Ready(Readiness::Live));
        play.answer(Answer::Version("1.40.0".into()));
        assert_eq!(play.state(), State::Live);
        play.done.clear();
        play
    }

    pub fn put(&mut self, input: Input) {
        let actions = self.core.handle(self.now, input);
        self.done.extend(&actions);
        if actions.contains(&Action::Spawn) {
            self.put(Input::Spawned);
        }
    }

    /// The Envoy that was spawned last ends.
    pub fn exit(&mut self, exit: Exit) {
        self.put(Input::Exited(self.core.generations().newest(), exit));
    }

    pub fn order(&mut self, order: Order) {
        self.put(Input::Order(order, "a signal".into()));
    }

    /// The question in flight.
    pub fn asked(&self) -> Option<Ask> {
        self.core.asked().map(|question| question.ask)
    }

    pub fn reply(&mut self, answer: Option<Answer>) {
        let question = self.core.asked().expect("a question");
        self.put(Input::Answer(question.number, answer));
    }

    pub fn answer(&mut self, answer: Answer) {
        self.reply(Some(answer));
    }

    pub fn fail(&mut self) {
        self.reply(None);
    }

    /// Lets the time pass, and wakes the core whenever it wants to be; Envoy answers at once, by
    /// `envoy`, or not at all.
    pub fn until(&mut self, end: Time, mut envoy: impl FnMut(Ask) -> Option<Answer>) {
        loop {
            if let Some(ask) = self.asked()
                && let Some(answer) = envoy(ask)
            {
                self.answer(answer);
                continue;
            }
            let wake = self.core.wake_at().unwrap_or(end);
            assert!(wake > self.now, "it spins");
            self.now = wake.min(end);
            self.put(Input::Tick);
            if self.now == end {
                return;
            }
        }
    }

    pub fn state(&self) -> State {
        self.core.state(self.now)
    }

    fn outcome(&self) -> Option<Outcome> {
        self.core.drain().and_then(Drain::outcome)
    }

    pub fn did(&self, action: Action) -> bool {
        self.done.contains(&action)
    }
}

/// An Envoy with so many requests in flight.
pub(super) fn with(requests: u64) -> impl FnMut(Ask) -> Option<Answer> {
    move |ask| {
        Some(match ask {
            Ask::Ready => Answer::Ready(Readiness::Live),
            Ask::ServerInfo => Answer::Version("1.40.0".into()),
            Ask::Stats => load(requests),
            _ => Answer::Done,
        })
    }
}

fn silent(_: Ask) -> Option<Answer> {
    None
}

#[test]
fn the_end_of_an_envoy_that_is_not_there_is_ignored() {
    for name in ["waiting", "restarting", "down"] {
        let mut play = phase(name);
        let before = play.core.clone();
        play.exit(CODE_1);
        assert_eq!(play.core, before, "{name}");
    }
}

#[test]
fn over_is_over() {
    let mut play = phase("gone");
    for input in [
        Input::Tick,
        Input::Probe,
        Input::Spawned,
        Input::AdminKnown,
        Input::CertificatesReady,
        Input::SpawnFailed(1),
        Input::Exited(Who::Newest, CODE_1),
    ] {
        let shown = format!("{input:?}");
        play.done.clear();
        play.put(input);
        assert_eq!(play.done, [Action::Exit(0)], "{shown}");
    }
}
