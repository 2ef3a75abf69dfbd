//! The narrow door between the life of one Envoy and a second Envoy: what the life has to know, and
//! what a hot restart tells the decision core and is told by it.

use crate::drain::{Ask, Time};

/// How a reload ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reloaded {
    /// The next Envoy is live, and the old one drains.
    Live,
    /// The reload is refused, because Envoy is not live.
    NotLive,
    /// The reload is refused or given up, because a drain was asked for.
    Draining,
    /// Envoy refuses the configuration.
    Refused,
    /// The next Envoy ended, or was ended, before it was live.
    Failed,
}

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

/// How much can be told of what is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Visibility {
    /// Envoy tells of all that is in flight.
    Whole,
    /// Envoy does not tell yet what an old Envoy beside it has.
    Partial,
    /// Only the kernel tells: Envoy has lost its admin interface.
    Kernel,
    /// Nobody can be asked now.
    Nothing,
}

/// What the life of one Envoy has to know of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct View {
    pub sight: Visibility,
    /// Whether another Envoy, which drains, has something in flight of its own.
    pub another: bool,
}

impl View {
    /// Whether another Envoy starts beside this one, which cannot be asked meanwhile.
    pub fn is_starting(self) -> bool {
        self.sight == Visibility::Nothing && !self.another
    }

    /// Whether Envoy's admin interface is there to be asked.
    pub fn can_be_asked(self) -> bool {
        matches!(self.sight, Visibility::Whole | Visibility::Partial)
    }

    /// Whether Envoy's answers tell of all that is in flight.
    pub fn knows_all(self) -> bool {
        matches!(self.sight, Visibility::Whole | Visibility::Kernel)
    }

    /// What is asked in place of this question: where only the kernel tells, the kernel.
    pub fn in_place_of(self, ask: Ask) -> Ask {
        match (ask, self.sight) {
            (Ask::Stats, Visibility::Kernel) => Ask::Sockets,
            _ => ask,
        }
    }
}
