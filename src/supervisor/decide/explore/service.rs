//! What must hold of a hold and a resume.

use super::record::Health;
use super::rules::{Judgement, must};
use super::*;

impl Record {
    /// What the Envoy that is asked was told of its health check.
    fn told(&mut self, starts: bool) -> &mut Health {
        match starts {
            true => &mut self.next_health,
            false => &mut self.health,
        }
    }

    pub(super) fn note_health(&mut self, event: Happening, before: &Core) {
        let starts = before.generations.is_starting();
        let held = self.held;
        let health = self.told(starts);
        match event {
            Happening::Answer(Ask::FailHealthCheck, Says::Done) => *health = Health::Failed,
            Happening::Answer(Ask::PassHealthCheck, Says::Done) => *health = Health::Own,
            // It passes, whoever has seen to that.
            Happening::Answer(Ask::Ready, Says::Live)
            | Happening::Answer(Ask::Stats, Says::Reverted) => {
                *health = match (held, *health) {
                    (true, Health::Failed) => Health::Told,
                    (true, health) => health,
                    (false, _) => Health::Own,
                };
            }
            _ => {}
        }
        match event {
            Happening::Answer(Ask::Ready, Says::Live | Says::HealthFailed)
                if starts && (held || self.next_health == Health::Own) =>
            {
                self.health = std::mem::take(&mut self.next_health);
            }
            Happening::Exited(_) if starts => self.next_health = Health::Own,
            Happening::Spawned | Happening::Exited(_) => self.health = Health::Own,
            Happening::NextSpawned(true) => self.next_health = Health::Own,
            _ => {}
        }
    }
}

impl World {
    /// Whether Envoy was to be told that of its health check, and nothing that ends a service for
    /// good before a drain was asked for.
    pub(super) fn judge_health_check(&self, ask: Ask) -> Judgement {
        let core = &self.core;
        let drains = core.drain().is_some();
        let health = self
            .record
            .clone()
            .told(core.generations.is_starting())
            .to_owned();
        match ask {
            Ask::FailHealthCheck => must(
                drains || self.record.held && health != Health::Failed,
                "told to fail its health check without a hold",
            ),
            Ask::PassHealthCheck => must(
                !drains && !self.record.held && health != Health::Own,
                "told to pass its health check without a resume",
            ),
            Ask::DrainListeners | Ask::StopListeners => {
                must(drains, "listeners are touched without a drain")
            }
            _ => Ok(()),
        }
    }

    /// Whether a hold lasts until a resume, and nothing leads back from a drain; and whether
    /// whoever asked for one hears of its end.
    pub(super) fn judge_service(
        &mut self,
        event: Happening,
        from: &World,
        actions: &[Action],
    ) -> Judgement {
        let (core, record) = (&self.core, &mut self.record);
        let leaves = core.life.is_leaving();
        must(
            from.core.drain().is_none() || core.drain().is_some(),
            "back from a drain",
        )?;
        must(!from.core.life.is_leaving() || leaves, "back from an end")?;
        if leaves {
            (record.held, record.health, record.next_health) = Default::default();
        }
        for action in actions {
            if let Action::Ask(Ask::FailHealthCheck | Ask::PassHealthCheck) = action
                && !leaves
            {
                *record.told(core.generations.is_starting()) = Health::Told;
            }
        }
        let state = core.state(BASE);
        let held = record.held || record.health != Health::Own;
        if !leaves {
            must(
                core.hold().is_some() == record.held,
                "a hold is lost, or nobody's",
            )?;
            let (shown, serves) = (state == State::Held, state == State::Live);
            must(
                shown || serves || !core.life.is_live(),
                "not live, and not held",
            )?;
            must(!shown || held, "held for nothing")?;
            must(!serves || !held, "live although held")?;
        }
        self.judge_told()?;
        self.judge_waiters(event, actions)
    }

    /// Whether Envoy hears of a hold and of a resume: at once, or when it answers again.
    fn judge_told(&self) -> Judgement {
        let core = &self.core;
        let starts = core.generations.is_starting();
        let health = self.record.clone().told(starts).to_owned();
        let wanted = match self.record.held {
            true => Health::Failed,
            false => Health::Own,
        };
        let asks = core.life.is_running() && !core.generations.is_spawning();
        let pending = core.asked().is_some() || core.wake_at.is_some() && health == Health::Told;
        must(
            !asks || core.life.is_leaving() || health == wanted || pending,
            "Envoy is not told of a hold, or of a resume",
        )
    }

    fn judge_waiters(&mut self, event: Happening, actions: &[Action]) -> Judgement {
        let (core, record) = (&self.core, &mut self.record);
        let leaves = core.life.is_leaving();
        let running = core.life.is_running();
        record.holder |= event == Happening::Hold;
        record.resumer |= event == Happening::Resume;
        for action in actions {
            match *action {
                Action::HoldEnded(how) => {
                    must(
                        std::mem::take(&mut record.holder),
                        "a hold's end for nobody",
                    )?;
                    let over = core.hold().and_then(Drain::outcome);
                    let right = match how {
                        HoldEnd::Over(outcome) => over == Some(outcome) && !leaves,
                        HoldEnd::Resumed => event == Happening::Resume && !leaves,
                        HoldEnd::Leaving => leaves,
                    };
                    must(right, &format!("a hold's end is {how:?}"))?;
                }
                Action::ResumeEnded(how) => {
                    must(
                        std::mem::take(&mut record.resumer),
                        "a resume's end for nobody",
                    )?;
                    let right = match how {
                        ResumeEnd::Serving => {
                            !record.held && (!running || record.health == Health::Own)
                        }
                        ResumeEnd::Held => event == Happening::Hold,
                        ResumeEnd::Leaving => leaves,
                    };
                    must(right, &format!("a resume's end is {how:?}"))?;
                }
                _ => {}
            }
        }
        let waits = core.hold().is_some_and(|wait| wait.outcome().is_none());
        must(
            !record.holder || waits && !leaves,
            "waits for a hold in vain",
        )?;
        let resumes = running && !record.held && record.health != Health::Own;
        must(
            !record.resumer || resumes && !leaves,
            "waits for a resume in vain",
        )
    }
}
