//! What a set of files is for.

/// What a set is for, and so what happens without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// Envoy has no configuration without it, as it is the xDS client's: Envoy is not started
    /// before a candidate took a set that can be used.
    Gate,
    /// The set is a listener's, which alone refuses handshakes without it: nothing else is kept
    /// from being served.
    ///
    /// Until there is a set, its SDS file holds no resource. Envoy 1.36.4 and 1.40.0 count that as
    /// `update_rejected`, are LIVE at once, close that listener's connections in the handshake,
    /// serve all others, and take the set as soon as it is there; likewise where they refuse the
    /// first set. Without any file they exit with 1 at once where the listener is a static one, and
    /// one from xDS they refuse for good. No listener waits for its `initial_fetch_timeout` either
    /// way. So Envoy need not be kept waiting, nor a candidate be tried while there is nothing that
    /// a bad set could replace.
    ///
    /// A set that is only out of date is published where there is no other: some peers do not mind,
    /// and the others are no worse off.
    Listener,
}
