//! How a drain has Envoy stop accepting before it ends.

use super::Drain;

/// Whether Envoy has stopped to accept. Once is enough: one that cannot must not hold anything up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Closing {
    Not,
    Wanted,
    Tried,
}

impl Drain {
    /// Whether Envoy is to stop accepting at `closing_at`: what comes later is refused, not cut.
    pub(super) fn closes_early(&self) -> bool {
        self.stops && self.closing == Closing::Not && !self.has_udp_sessions
    }

    /// An Envoy that stays must go on accepting; one that is stopped must not accept what it would
    /// then cut, and is asked once more after it has stopped to.
    pub(super) fn has_looked_last(&self) -> bool {
        !self.stops || !self.live || self.closing == Closing::Tried
    }
}
