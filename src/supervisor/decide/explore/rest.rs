//! What must hold of a state, whatever led to it.

use super::rules::{Judgement, must};
use super::*;

/// The number of no question that is in flight.
const STALE: u64 = 99;

impl World {
    /// Whether the core may rest until it is woken.
    pub(super) fn judge_rest(&self, now: Time, actions: &[Action]) -> Judgement {
        let core = &self.core;
        let over = matches!(core.life.phase, Phase::Over(_));
        let exits = actions.iter().any(|a| matches!(a, Action::Exit(_)));
        must(
            over == exits,
            "over without an exit, or the other way round",
        )?;
        if let Some(at) = core.wake_at {
            must(at >= now + ms(1), "it spins")?;
        }
        let wakes_by = |at: Time, what: &str| {
            must(now < at, &format!("{what} is overdue"))?;
            let wakes = core.wake_at.is_some_and(|wake| wake <= at);
            must(wakes, &format!("{what} will be overslept"))
        };
        if let Some(drain) = core.life.service.wait() {
            if drain.outcome().is_none() {
                let Some(seen) = &self.record.drain else {
                    return Err("a drain that nobody asked for".into());
                };
                must(seen.deadline == drain.deadline(), "the deadline moved")?;
                must(
                    seen.stops == drain.stops(),
                    "whether it stops was forgotten",
                )?;
                if !core.generations.is_spawning() {
                    wakes_by(seen.deadline, "the deadline")?;
                }
            } else if let Phase::Running(_) = core.life.phase {
                must(!drain.stops(), "the drain is over and Envoy goes on")?;
            }
        }
        match core.life.phase {
            Phase::Spawning => must(actions.contains(&Action::Spawn), "not spawned")?,
            Phase::Backoff { until } => wakes_by(until, "the restart")?,
            Phase::Judging { until, .. } => wakes_by(until, "the restart")?,
            Phase::Down if core.is_last() => {
                must(self.record.old, "waits for nobody")?;
                let looks = core.asked().is_some() || core.wake_at.is_some();
                must(looks, "no look any more")?;
            }
            Phase::Stopping { .. } => {
                let end = match (self.record.killed, self.record.terminated) {
                    (Some(at), _) => at + KILL_PATIENCE,
                    (None, Some(at)) => at + core.life.rules.kill_timeout,
                    (None, None) => return Err("stopping without a SIGTERM".into()),
                };
                wakes_by(end, "the end")?;
                if let (None, Some(at), false) =
                    (self.record.killed, self.record.terminated, self.record.rest)
                {
                    wakes_by(
                        at + core.life.rules.kill_timeout / 2,
                        "the rest of the tree",
                    )?;
                }
            }
            Phase::Over(_) | Phase::Down => {
                must(core.wake_at.is_none(), "woken for nothing")?;
                must(self.record.drain.is_none(), "a waiter is forgotten")?;
            }
            Phase::Running(_) if !core.life.is_live() && core.life.drain().is_none() => {
                must(
                    core.asked().is_some() || core.wake_at.is_some(),
                    "no look any more",
                )?;
            }
            _ => {}
        }
        if let Some(at) = self.record.old_ended.filter(|_| !over) {
            let patience = core.life.rules.kill_timeout.max(KILL_PATIENCE);
            wakes_by(at + patience, "the old generation's SIGKILL")?;
        } else if let Some(at) = self.record.relieved.filter(|_| !over) {
            wakes_by(at + MOMENT, "the old generation's end")?;
        }
        let running = matches!(core.life.phase, Phase::Running(_));
        let accepts = core.life.is_live() && !self.record.spent;
        let ends = over || core.life.drain().is_some();
        must(
            accepts
                || ends
                || core.life.phase == Phase::Waiting
                || core.asked().is_some()
                || core.wake_at.is_some()
                || core.life.phase == Phase::Spawning
                || actions.contains(&Action::HotRestart(RestartStep::SpawnNext)),
            "nothing may accept, and nothing is planned",
        )?;
        must(
            core.asked().is_none()
                || running
                || core.is_last()
                || self.record.terminated.is_some()
                || self.record.killed.is_some(),
            "asks nobody",
        )
    }

    /// What holds for a state, whatever led to it.
    pub(super) fn judge_state(&self) -> Judgement {
        let asked = [self.core.generations.asked(), self.core.life.asked()];
        must(asked.contains(&None), "two questions in flight")?;
        // The loop ends every turn with a tick: another one finds nothing to do.
        let mut again = self.core.clone();
        let actions = again.handle(BASE, Input::Tick);
        if let Phase::Over(code) = self.core.life.phase {
            return must(actions == [Action::Exit(code)], "it is not over");
        }
        must(
            actions.is_empty(),
            &format!("a second tick does {actions:?}"),
        )?;
        must(
            again.wake_at == self.core.wake_at,
            &format!(
                "a second tick wakes at {:?} instead of {:?}",
                again.wake_at, self.core.wake_at
            ),
        )?;
        must(again == self.core, "a second tick changes the state")?;
        for says in [Says::Nothing, Says::Live, Says::Zero, Says::Closed] {
            let actions = again.handle(BASE, Input::Answer(STALE, says.answer()));
            must(
                actions.is_empty() && again == self.core,
                "a stale answer was taken",
            )?;
        }
        Ok(())
    }
}
