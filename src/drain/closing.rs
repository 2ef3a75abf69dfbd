//! How a drain has Envoy stop accepting before it ends.

use std::time::Duration;

use super::{Drain, Time};
use crate::envoy::load::{Unsent, patience};

/// How long the last entry of an access log that Envoy sends elsewhere may take. Envoy sends what
/// it holds every second unless `buffer_flush_interval` says otherwise, and loses the rest on
/// SIGTERM. Seen on Envoy 1.36.4 and 1.40.0: entries of gRPC (HTTP and TCP) and OpenTelemetry
/// access logs came 0.96 to 1.00 s after their request.
pub const FLUSH: Duration = Duration::from_millis(1_200);

/// Whether Envoy has stopped to accept. Once is enough: one that cannot must not hold anything up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Closing {
    Not,
    Wanted,
    Tried,
}

/// How much longer than its [`patience`] a client that takes nothing is waited for. The kernel
/// tells before that of a client that is gone: it counts from the first bytes that it sends again,
/// some 0.5 s after the first ones.
pub const DOUBT: Duration = Duration::from_secs(1);

impl Drain {
    /// Whether Envoy is to stop accepting at `closing_at`: what comes later is refused, not cut.
    pub(super) fn closes_early(&self) -> bool {
        self.stops() && self.closing == Closing::Not && !self.may_have_udp_sessions
    }

    /// Whether SIGTERM might cost the last entries of an access log.
    pub(super) fn may_lose_entries(&self, now: Time) -> bool {
        self.stops() && self.entries_since.is_some_and(|since| now < since + FLUSH)
    }

    /// Whether the kernel still sends what Envoy has written, and somebody takes it. The network may
    /// end with drainit, as a container's does: then the rest is lost. Where no client has taken
    /// anything for its [`patience`], the drain ends without, as [`Outcome::Stalled`].
    pub(super) fn is_sending(&self, now: Time) -> bool {
        self.unsent
            .is_some_and(|(since, _)| now < since + patience(self.settle) + DOUBT)
    }

    /// Takes what a look has told of the last bytes; nothing else tells that they have come.
    pub(super) fn on_unsent(&mut self, now: Time, unsent: Unsent, counts_open: bool) {
        let open = if counts_open { unsent.open } else { 0 };
        let bytes = u64::from(open) + u64::from(unsent.closed);
        // By themselves, bytes of a client that is gone, or is given up, are no progress.
        let left = [bytes, bytes + u64::from(unsent.gone)];
        let is_same = |before: &[u64; 2]| before.iter().zip(&left).any(|(one, other)| one == other);
        let before = self.unsent.filter(|(_, before)| is_same(before));
        let since = before.map_or(now, |(since, _)| since);
        self.unsent = (bytes > 0).then_some((since, left));
    }

    /// An Envoy that stays must go on accepting; one that is stopped must not accept what it would
    /// then cut, and is asked once more after it has stopped to.
    pub(super) fn has_looked_last(&self) -> bool {
        !self.stops() || !self.live || self.closing == Closing::Tried
    }
}
