//! What must hold of those who look at Envoy: nobody is forgotten.

use super::rules::{Judgement, must};
use super::*;

impl World {
    /// Whether whoever wants to know how Envoy is, or what is open, learns it in time.
    pub(super) fn judge_looks(&self, now: Time, event: Happening, from: &World) -> Judgement {
        let core = &self.core;
        let (Some(asking), Some(before)) = (core.asking(), from.core.asking()) else {
            return Ok(());
        };
        let wait = core.life.service.wait();
        let waits = wait.is_some_and(|wait| core.drain().is_some() || wait.outcome().is_none());
        if !core.life.is_running() || core.generations.is_spawning() || waits {
            return Ok(());
        }
        let figures = core.asks().is_some_and(Ask::tells_open);
        let told = matches!(event, Happening::Answer(ask, _) if ask != Ask::ServerInfo);
        let planned = |by: Time| asking.next.is_some_and(|next| next.due <= by.max(now));
        let owed = |by: Time| figures || asking.owes_figures() && planned(by);
        match event {
            Happening::Look if from.core.life.is_live() => {
                must(owed(now + PROBE_REST), "a look is ignored")?;
            }
            Happening::Probe => must(
                figures || core.asks() == Some(Ask::Ready) || planned(now + PROBE_REST),
                "a probe is ignored",
            )?,
            _ => {}
        }
        match before.next {
            Some(next) if next.figures => {
                let figures = matches!(
                    event,
                    Happening::Answer(ask, says) if ask.tells_open() && says != Says::Nothing
                );
                must(figures || owed(next.due), "a look is forgotten")
            }
            Some(next) => must(
                told || core.asked().is_some() || planned(next.due),
                "a probe is forgotten",
            ),
            None => Ok(()),
        }
    }
}
