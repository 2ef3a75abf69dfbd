//! Callers who ask for a hold or a resume over the control socket, and what they are told.

use std::time::Instant;

use super::Supervisor;
use super::decide::{HoldEnd, Input, ResumeEnd};
use crate::drain::Outcome;
use crate::status::{DrainEnd, NOT_LIVE, OrderEnd, OrderNumber, OrderResult, State};

/// The most callers that wait for a hold or a resume, and the most answers that are kept: as many
/// as there may be connections.
const MOST: usize = 512;

/// Who waits for an answer to a hold, or to a resume.
#[derive(Debug, Default)]
pub struct Holds {
    holders: Vec<OrderNumber>,
    resumers: Vec<OrderNumber>,
    /// Whether anything was held when the last resume came.
    held: bool,
    /// Answers that are not published yet: what they tell of shows in the snapshot before.
    answers: Vec<(OrderNumber, OrderEnd)>,
}

impl Supervisor {
    pub(super) fn on_hold(&mut self, number: OrderNumber, from: &str) {
        log::info!("/hold from {from}");
        push(&mut self.holds.holders, number);
        self.handle(Input::Hold(format!("/hold from {from}")));
    }

    pub(super) fn on_resume(&mut self, number: OrderNumber, from: &str) {
        log::info!("/resume from {from}");
        push(&mut self.holds.resumers, number);
        self.holds.held = self.core.is_held();
        self.handle(Input::Resume(format!("/resume from {from}")));
    }

    pub(super) fn answer_holders(&mut self, how: HoldEnd) {
        let end = match how {
            HoldEnd::Over(outcome) => Ok(self.hold_result(outcome)),
            HoldEnd::Resumed => Err("resumed meanwhile: envoy is in service again".into()),
            HoldEnd::Leaving => Err(self.why_not()),
        };
        let waiting = std::mem::take(&mut self.holds.holders);
        let answers = waiting.into_iter().map(|number| (number, end.clone()));
        self.holds.answers.extend(answers);
    }

    pub(super) fn answer_resumers(&mut self, how: ResumeEnd) {
        let done = |name| {
            Ok(OrderResult {
                name,
                is_clean: true,
            })
        };
        let end = match how {
            ResumeEnd::Serving if !self.holds.held => done("not held"),
            ResumeEnd::Serving if self.core.is_live() => done("resumed"),
            ResumeEnd::Serving => done(NOT_LIVE),
            ResumeEnd::Held => Err(format!("held again: {}", self.core.reason())),
            ResumeEnd::Leaving => Err(self.why_not()),
        };
        let waiting = std::mem::take(&mut self.holds.resumers);
        let answers = waiting.into_iter().map(|number| (number, end.clone()));
        self.holds.answers.extend(answers);
    }

    /// How the hold's wait ended that has just ended so, as the snapshot has it from now on.
    fn hold_result(&mut self, outcome: Outcome) -> OrderResult {
        self.publish(Instant::now());
        let snapshot = self.board.read();
        let hold = snapshot.hold.as_ref();
        let ended = hold.and_then(|hold| hold.ended.as_ref());
        ended.map_or(
            OrderResult {
                name: outcome.name(),
                is_clean: outcome.is_clean(),
            },
            DrainEnd::result,
        )
    }

    /// Why nothing can be held or resumed.
    fn why_not(&self) -> String {
        match (self.core.state(self.now()), self.core.drain()) {
            (State::Gone, _) => "envoy is gone".into(),
            (_, Some(drain)) => format!(
                "{} has drained envoy, or is about to: only a restart of drainit leads back",
                drain.cause()
            ),
            (state, None) => format!("drainit is {}", state.name()),
        }
    }

    /// Publishes the answers.
    pub(super) fn publish_answers(&mut self) {
        if self.holds.answers.is_empty() {
            return;
        }
        let answers = std::mem::take(&mut self.holds.answers);
        self.board.update(|snapshot| {
            snapshot.orders.extend(answers);
            while snapshot.orders.len() > MOST {
                snapshot.orders.pop_front();
            }
        });
    }
}

fn push(waiting: &mut Vec<OrderNumber>, number: OrderNumber) {
    if waiting.len() >= MOST {
        // Its caller is gone.
        waiting.remove(0);
    }
    waiting.push(number);
}
