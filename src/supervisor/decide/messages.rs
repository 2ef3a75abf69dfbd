//! What the decision core is told, and what it tells to do.

use std::time::Duration;

use super::{News, RestartStep, Who};
use crate::drain::{Answer, Ask, Limits, Outcome};
use crate::process::Exit;

/// What drainit was set up to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rules {
    /// The limits of a drain.
    pub limits: Limits,
    /// The time from Envoy's SIGTERM to SIGKILL.
    pub kill_timeout: Duration,
    /// Whether an Envoy that failed is started again.
    pub restart: bool,
    /// Whether to wait for certificates before Envoy's first start.
    pub gated: bool,
    /// With hot restart: when an old Envoy ends by itself.
    pub old_time: Option<Duration>,
}

/// A signal, by what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// TERM, INT: drain, then stop; at the second time stop, at the third kill. What comes within a
    /// second of the last one that counted is the same order.
    Stop,
    /// QUIT: stop now.
    StopNow,
    /// USR2 and /shutdown: drain, and stay.
    Drain,
    /// USR1: Envoy reopens its access logs.
    ReopenLogs,
}

/// What happens to drainit.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time has passed.
    Tick,
    /// A signal came, or a request that means the same. The text says from where.
    Order(Order, String),
    /// Envoy is to be out of service until a resume. The text says who wants that.
    Hold(String),
    /// Envoy is to be in service again.
    Resume(String),
    /// Somebody wants to know how Envoy is. The core sees to it that Envoy has its rest, and that
    /// who wants to know learns it.
    Probe,
    /// Somebody wants to know what is open.
    Look,
    /// A connection of Envoy's has ended, perhaps the last one of a drain.
    ConnectionEnded,
    /// Certificates are missing: these.
    CertificatesMissing(String),
    /// A usable set of certificates is there.
    CertificatesReady,
    /// Envoy was spawned.
    Spawned,
    /// Envoy could not be spawned; drainit would exit with this.
    SpawnFailed(u8),
    /// Envoy was seen to have handlers for its signals.
    HandlersSeen,
    /// Envoy's admin interface is known from now on.
    AdminKnown,
    /// The question of this number was answered; none stands for every failure there is.
    Answer(u64, Option<Answer>),
    /// Envoy lives on, and the start script that it was behind ended, so.
    ScriptEnded(Exit),
    /// An Envoy is gone: this one.
    Exited(Who, Exit),
    /// An Envoy that ended before it was live was asked whether it refuses its configuration or
    /// command line: this is why, or it does not, or cannot be asked.
    Judged(Option<String>),
    /// Somebody wants to know how well Envoy serves, if it can be asked now; urgently, so that it
    /// gets no rest for that, or not.
    Weigh(bool),
    /// Something has happened in a hot restart.
    HotRestart(News),
}

/// What is to be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Spawn Envoy.
    Spawn,
    /// Ask an Envoy that ended before it was live whether it refuses its configuration.
    Judge,
    /// Ask Envoy this, which is the question in flight from now on ([`super::Core::asked`]).
    Ask(Ask),
    /// Send Envoy SIGTERM.
    Terminate,
    /// Send SIGTERM to whatever else there is of Envoy's process tree: a start script that goes on
    /// although Envoy has ended, and what it started.
    TerminateRest,
    /// Send SIGKILL to Envoy and all of its process tree.
    Kill,
    /// Send Envoy SIGUSR1.
    ReopenLogs,
    /// End, with this code.
    Exit(u8),
    /// Do this for a hot restart.
    HotRestart(RestartStep),
    /// Tell whoever asked for a hold how that ended.
    HoldEnded(HoldEnd),
    /// Tell whoever asked for a resume how that ended.
    ResumeEnded(ResumeEnd),
}

/// What whoever asked for a hold is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HoldEnd {
    /// Envoy is held, and the wait for what was in flight ended so.
    Over(Outcome),
    /// Somebody asked for a resume.
    Resumed,
    /// A drain was asked for, or Envoy is being stopped: there is nothing to hold any more.
    Leaving,
}

/// What whoever asked for a resume is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResumeEnd {
    /// Envoy's health check passes again, or there is no Envoy that was told to fail it.
    Serving,
    /// Somebody asked for another hold before Envoy was told.
    Held,
    /// A drain was asked for, or Envoy is being stopped: nothing leads back.
    Leaving,
}
