//! What is shown of hot restarts.

use std::time::Instant;

use super::Snapshot;

/// What is known of hot restarts, of a drainit that makes some (`--hot-restart`).
#[derive(Clone, Copy, Debug, Default)]
pub struct HotRestart {
    /// The newest generation's number (`--restart-epoch`).
    pub epoch: u32,
    /// The old generation's pid, while it drains beside the newest.
    pub old: Option<i32>,
    /// When its time ends the old generation.
    pub old_until: Option<Instant>,
    /// What one generation has handed over to the next.
    pub handover: Handover,
    /// Whether a reload is under way: there is one at a time.
    pub reloading: bool,
    /// Whether another reload is kept until nothing stands in its way.
    pub kept: bool,
    /// How many reloads ended with the next generation in place of the one before.
    pub done: u64,
    /// How many reloads started no generation, because Envoy refused the configuration or the
    /// moment was wrong; or a drain came before the generation was live.
    pub refused: u64,
    /// How many generations ended before they were live, or were not live in time.
    pub failed: u64,
}

/// What one generation of Envoy has handed over to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handover {
    /// Whether nobody can be asked although the old generation serves: until the next one is
    /// live, and after one that ended before it was.
    pub admin_away: bool,
    /// Whether Envoy serves without its admin interface, which it had handed over to a generation
    /// that ended.
    pub degraded: bool,
}

impl Snapshot {
    /// Whether an old generation lives beside the newest.
    pub fn has_old(&self) -> bool {
        self.hot_restart.is_some_and(|hot| hot.old.is_some())
    }

    /// Whether an Envoy serves that nobody can ask now ([`Handover::admin_away`]).
    pub fn is_admin_away(&self) -> bool {
        self.hot_restart.is_some_and(|hot| hot.handover.admin_away)
    }

    /// Whether Envoy serves without its admin interface ([`Handover::degraded`]).
    pub fn is_degraded(&self) -> bool {
        self.hot_restart.is_some_and(|hot| hot.handover.degraded)
    }

    /// No reload with a hot restart is under way any more.
    pub fn end_hot_restart(&mut self) {
        if let Some(hot_restart) = &mut self.hot_restart {
            hot_restart.reloading = false;
        }
    }

    /// Whether a reload with a hot restart is under way.
    pub fn is_reloading(&self) -> bool {
        self.hot_restart.is_some_and(|hot| hot.reloading)
    }
}
