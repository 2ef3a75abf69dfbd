//! What Envoy is asked, and what it answers.

use super::load::{Counters, Load};

/// A question to Envoy's admin interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ask {
    /// `GET /ready`
    Ready,
    /// `GET /server_info`
    ServerInfo,
    /// `POST /healthcheck/fail`
    FailHealthCheck,
    /// `POST /drain_listeners?graceful&skip_exit`
    DrainListeners,
    /// `POST /drain_listeners`, which ends UDP sessions and no connections
    StopListeners,
    /// `GET /stats`, the gauges that say what is left
    Stats,
    /// `GET /stats`, the counters that move with every request and every connection
    Activity,
    /// No question to that interface but to the kernel, when the interface does not answer: which
    /// connections Envoy has
    Sockets,
}

/// What Envoy's admin interface answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To [`Ask::Ready`]: `LIVE`, `INITIALIZING`, ...
    Ready(String),
    /// To [`Ask::ServerInfo`]: Envoy's version, as in `1.40.0`.
    Version(String),
    /// What was asked for is done.
    Done,
    /// To [`Ask::Stats`] and [`Ask::Sockets`].
    Stats(Load),
    /// To [`Ask::Activity`].
    Activity(Counters),
    /// To [`Ask::Sockets`]: Envoy accepts no connections, and which it has cannot be told.
    Closed,
}
