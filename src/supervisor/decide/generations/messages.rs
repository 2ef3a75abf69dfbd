//! What a hot restart tells the decision core, and is told by it.

use super::super::{Action, Turn};
use super::Reloaded;
use crate::drain::Time;

/// Which Envoy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    /// The Envoy whose life it is: the only one, or the newest of two.
    Newest,
    /// The next Envoy, which starts beside the one that serves.
    Next,
    /// The Envoy before: it serves until the next one is live, and drains from then on.
    Old,
}

/// What happens in a hot restart, an Envoy's answers and its end apart.
#[derive(Clone, Copy, Debug)]
pub enum News {
    /// Somebody wants the next Envoy.
    Reload,
    /// The next Envoy is wanted by then, because the one that serves is worse than the one before.
    GoBack(Time),
    /// The next Envoy's configuration was tried: Envoy takes it, or refuses it.
    Tried(bool),
    /// The next Envoy was spawned, or could not be.
    Spawned(bool),
    /// Somebody answers in the old Envoy's place from now on, or nobody can.
    OldRelieved(bool),
}

/// What is to be done for a hot restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RestartStep {
    /// Try the next Envoy's configuration.
    Try,
    /// Spawn the next Envoy.
    SpawnNext,
    /// Send the newest Envoy SIGKILL: it starts for too long, or is useless without the one before.
    KillNewest,
    /// Answer the newest Envoy in the old one's place: it asks until its parent shutdown time.
    RelieveOld,
    /// Send the old Envoy SIGTERM.
    TerminateOld,
    /// Send an old Envoy that has nothing left SIGKILL. It counts as gone from now on.
    KillOld,
    /// The reload that somebody asked for just now is done as soon as nothing stands in its way.
    Keep,
    /// Tell whoever asked for a reload how it ended: the one under way, or else the kept one.
    Reloaded(Reloaded),
}

impl Turn {
    /// Has a step of a hot restart done.
    pub fn step(&mut self, step: RestartStep) {
        self.act(Action::HotRestart(step));
    }

    /// Tells now how the reload under way ended, before another begins or ends.
    pub fn tell_reloaded(&mut self) {
        if let Some(how) = self.reloaded.take() {
            self.step(RestartStep::Reloaded(how));
        }
    }
}
