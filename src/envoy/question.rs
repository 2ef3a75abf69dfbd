//! What Envoy is asked, and what it answers.

use std::fmt;

use super::load::{Counters, Load};
use super::traffic::Traffic;

/// The processes that have connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processes {
    /// The Envoy that serves, or has served last; none while there is no such.
    Serving(Option<i32>),
    /// The Envoy that serves, and an old generation that drains.
    Both {
        /// The one that serves.
        newest: i32,
        /// The one that drains.
        old: i32,
    },
    /// An old generation that drains. The one that had taken over from it is gone.
    Retired(i32),
}

impl Processes {
    /// The process that serves, or has served last.
    pub fn serving(self) -> Option<i32> {
        match self {
            Processes::Serving(pid) => pid,
            Processes::Both { newest, .. } => Some(newest),
            Processes::Retired(old) => Some(old),
        }
    }
}

/// A question on Envoy: to its admin interface or, where that does not answer, to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ask {
    /// `GET /ready`
    Ready,
    /// `GET /server_info`
    ServerInfo,
    /// `POST /healthcheck/fail`
    FailHealthCheck,
    /// `POST /healthcheck/ok`
    PassHealthCheck,
    /// `POST /drain_listeners?graceful&skip_exit`
    DrainListeners,
    /// `POST /drain_listeners`, which ends UDP sessions and no connections
    StopListeners,
    /// `GET /stats`, the gauges that say what is left
    Stats,
    /// `GET /stats`, the counters that move with every request and every connection
    Activity,
    /// `GET /stats`, the counters that say how well it serves; and `GET /ready`, and `/listeners`
    Traffic,
    /// A look at the kernel's table of sockets, which tells what connections Envoy has
    Sockets,
}

impl Ask {
    /// Whether Envoy itself is asked, and not the kernel.
    pub fn is_to_envoy(self) -> bool {
        self != Ask::Sockets
    }

    /// Whether the answer tells what is open.
    pub fn tells_open(self) -> bool {
        matches!(self, Ask::Stats | Ask::Sockets)
    }
}

/// How ready Envoy is, as `/ready` of its admin interface tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Readiness {
    /// Envoy serves (`LIVE`).
    Live,
    /// Envoy serves, and somebody has failed its health check (`DRAINING`).
    Draining,
    /// Envoy waits for its configuration; its listeners are not open (`INITIALIZING`).
    Initializing,
    /// Envoy waits for what its configuration needs; its listeners are not open
    /// (`PRE_INITIALIZING`).
    PreInitializing,
    /// Envoy answers with this HTTP status instead, as where `admin.allow_paths` lacks `/ready`:
    /// its main thread runs, and it may serve.
    Other(u16),
}

impl Readiness {
    /// Reads an answer to `GET /ready`; none where no Envoy answers so.
    pub fn read(status: u16, body: &str) -> Option<Readiness> {
        match (status, body.trim()) {
            (200, "LIVE") => Some(Readiness::Live),
            (503, "DRAINING") => Some(Readiness::Draining),
            (503, "INITIALIZING") => Some(Readiness::Initializing),
            (503, "PRE_INITIALIZING") => Some(Readiness::PreInitializing),
            (400..=499, _) => Some(Readiness::Other(status)),
            _ => None,
        }
    }

    /// Whether Envoy serves, for all that it tells.
    pub fn serves(self) -> bool {
        matches!(self, Readiness::Live | Readiness::Draining)
    }

    /// Whether Envoy's listeners are not open yet.
    pub fn is_starting(self) -> bool {
        matches!(self, Readiness::Initializing | Readiness::PreInitializing)
    }
}

/// Envoy's own word, or `UNKNOWN (403)`.
impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Readiness::Live => "LIVE",
            Readiness::Draining => "DRAINING",
            Readiness::Initializing => "INITIALIZING",
            Readiness::PreInitializing => "PRE_INITIALIZING",
            Readiness::Other(status) => return write!(f, "UNKNOWN ({status})"),
        })
    }
}

/// Why there is no answer that says what was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The reason, in one line.
    pub why: String,
    /// Whether Envoy has answered, and refuses what it was told to do: that is no silence.
    pub is_refusal: bool,
}

impl From<String> for Failure {
    fn from(why: String) -> Failure {
        Failure {
            why,
            is_refusal: false,
        }
    }
}

/// What Envoy's admin interface answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To [`Ask::Ready`].
    Ready(Readiness),
    /// To [`Ask::ServerInfo`]: Envoy's version, as in `1.40.0`.
    Version(String),
    /// What was asked for is done.
    Done,
    /// To [`Ask::Stats`] and [`Ask::Sockets`].
    Stats(Load),
    /// To [`Ask::Activity`].
    Activity(Counters),
    /// To [`Ask::Traffic`], of an Envoy that is live.
    Traffic(Box<Traffic>),
    /// To [`Ask::Sockets`]: Envoy accepts no connections, and which it has cannot be told.
    Closed,
}
