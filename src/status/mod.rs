//! The one snapshot of what drainit is doing: written by the supervisor, read by everybody.
//!
//! Whoever wants to know looks here; nobody asks a thread.

pub mod clients;
pub mod hot_restart;
pub mod json;
pub mod metrics;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::client::{Address, Peer};
use crate::drain::{Loss, Outcome};
use crate::envoy::listeners::ListenerCount;
use crate::envoy::load::Load;
use crate::envoy::question::Readiness;
use crate::mailbox::Waker;
use crate::process::End;
use hot_restart::HotRestart;

/// How long Envoy's admin interface may fail before that is more than a bad moment.
pub const ADMIN_LOST: Duration = Duration::from_secs(60);

/// What drainit is doing. The metric `drainit_state` has one series for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Envoy is not started before its certificates are there.
    Waiting,
    /// Envoy runs and has not been live yet.
    Starting,
    /// Envoy has been live, and nothing is draining.
    Live,
    /// Envoy has been live, and is held out of service until a resume.
    Held,
    /// A drain was asked for; Envoy serves and stays ready until the drain delay is over.
    Delaying,
    /// Envoy finishes what is in flight.
    Draining,
    /// The drain is over, and Envoy stays until it is told to stop.
    Drained,
    /// Envoy was sent a signal that ends it.
    Stopping,
    /// Envoy ended and is started again after a pause.
    Restarting,
    /// Envoy is gone, and drainit is about to be.
    Gone,
}

impl State {
    /// Every state, in the order of a life.
    pub const ALL: [State; 10] = [
        State::Waiting,
        State::Starting,
        State::Live,
        State::Held,
        State::Delaying,
        State::Draining,
        State::Drained,
        State::Stopping,
        State::Restarting,
        State::Gone,
    ];

    /// The state's name in the log, the status and the metrics.
    pub fn name(self) -> &'static str {
        match self {
            State::Waiting => "waiting",
            State::Starting => "starting",
            State::Live => "live",
            State::Held => "held",
            State::Delaying => "delaying",
            State::Draining => "draining",
            State::Drained => "drained",
            State::Stopping => "stopping",
            State::Restarting => "restarting",
            State::Gone => "gone",
        }
    }
}

/// The running Envoy.
#[derive(Clone, Debug)]
pub struct EnvoyStatus {
    /// Envoy's process id, as drainit sees it.
    pub pid: i32,
    /// Envoy's version as `/server_info` tells it (`1.40.0`), once it has.
    pub version: Option<String>,
    /// When Envoy was spawned.
    pub started: Instant,
}

/// What the admin interface last said.
#[derive(Clone, Debug, Default)]
pub struct Admin {
    /// The interface's address, once known.
    pub address: Option<Address>,
    /// Who may answer there.
    pub peer: Peer,
    /// When the interface last answered anything at all.
    pub answered: Option<Instant>,
    /// Since when every request has failed; none while the last one succeeded.
    pub failing_since: Option<Instant>,
    /// How many requests have failed.
    pub errors: u64,
    /// Why Envoy refused to fail its health check, or to pass it, when it was last told to; none where
    /// it did, or did not answer.
    pub refusal: Option<String>,
    /// What `/ready` last said, or why it could not be asked, and when it was asked.
    pub ready: Option<(Instant, Result<Readiness, String>)>,
    /// How many listeners Envoy has, once it is live.
    pub listeners: Option<ListenerCount>,
}

/// How an Envoy ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastEnd {
    /// How the Envoy ended.
    pub end: End,
    /// When the Envoy ended.
    pub at: Instant,
    /// How long the Envoy had run.
    pub lived: Duration,
}

/// A drain, or the wait of a hold, under way or over.
#[derive(Clone, Debug)]
pub struct DrainStatus {
    /// Why the drain began: `SIGTERM`, `/shutdown from 127.0.0.1`.
    pub cause: String,
    /// When the drain was asked for.
    pub started: Instant,
    /// When the drain is cut at the latest.
    pub deadline: Instant,
    /// Whether Envoy is stopped when the drain is over.
    pub stops: bool,
    /// When Envoy's health check was failed.
    pub health_failed: Option<Instant>,
    /// When Envoy's listeners began to drain.
    pub listeners_draining: Option<Instant>,
    /// When the last connection that counts, or UDP session, was seen to be gone.
    pub last_connection: Option<Instant>,
    /// What was open when the drain began.
    pub first: Option<Load>,
    /// How many new connections came meanwhile; none where they were not counted.
    pub came: Option<u64>,
    /// What has ended with its process while the drain waited for it.
    pub lost: Loss,
    /// How the drain ended, once it has.
    pub ended: Option<DrainEnd>,
}

/// How a drain, or the wait of a hold, ended. Whoever tells of that tells this.
#[derive(Clone, Debug)]
pub struct DrainEnd {
    /// When the drain ended.
    pub at: Instant,
    /// What ended the drain.
    pub outcome: Outcome,
    /// Whether something was left that counts, as far as anybody knows.
    pub is_cut: bool,
    /// The end in one line, with what was left.
    pub verdict: String,
}

impl DrainEnd {
    /// What is told to whoever waits for the end.
    pub fn result(&self) -> OrderResult {
        OrderResult {
            name: self.outcome.name(),
            is_clean: !self.is_cut,
        }
    }
}

/// How many drains ended how, since drainit started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Drains {
    /// Nothing that counts was left, or idle connections only.
    pub drained: u64,
    /// Something was left: the deadline came, or a second signal, or the admin was lost.
    pub cut: u64,
    /// Nobody told what was left.
    pub unknown: u64,
    /// Envoy ended by itself meanwhile.
    pub exited: u64,
}

/// A secret that is kept fresh.
#[derive(Clone, Debug, Default)]
pub struct SecretStatus {
    /// The SDS secret's name.
    pub secret: String,
    /// The generation that Envoy was last given; 0 before the first.
    pub generation: u64,
    /// The leaf's serial number in lower-case hex without leading zeros; none for a CA bundle.
    pub serial: Option<String>,
    /// When the leaf's validity begins, or that of the certificate of a bundle that expires first.
    pub not_before: Option<SystemTime>,
    /// When the validity ends that begins at `not_before`.
    pub not_after: Option<SystemTime>,
    /// Whether what is in the files now is not what Envoy has, or nothing usable is there.
    pub stale: bool,
    /// What became of the last change: `ok`, `refused`, `rejected`, `unconfirmed`.
    pub last_result: Option<&'static str>,
    /// Why the last change did not succeed.
    pub last_error: Option<String>,
    /// When the last error was first known, or the last change was through.
    pub changed: Option<Instant>,
    /// How many changes ended `ok`, `refused`, `rejected`, `unconfirmed`, in this order.
    pub reloads: [u64; 4],
}

/// What came of the last reload that somebody asked for.
#[derive(Clone, Debug)]
pub struct Reload {
    /// Which one since drainit started, from 1.
    pub number: u64,
    /// When the reload ended.
    pub at: Instant,
    /// In one line: what was done, or why nothing was.
    pub result: Result<String, String>,
    /// Whether the certificates alone are what failed, if anything did.
    pub of_certificates: bool,
}

/// Which configuration Envoy runs, where its file is followed.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// Why it runs the last good one instead of the file's; none where it runs the file's.
    pub worse: Option<String>,
    /// Since when.
    pub since: Instant,
    /// Until when it is watched whether it does worse than the one before, if it is.
    pub watched: Option<Instant>,
}

/// Which order to hold or to resume, in the order in which they came over HTTP.
pub type OrderNumber = u64;

/// What a verdict says, with the reason behind it, of an Envoy that may not have failed its health check.
pub const UNCONFIRMED: &str = "; envoy has not confirmed that its health check fails";

/// How a resume ends that took a hold back while no Envoy was live.
pub const NOT_LIVE: &str = "not live";

/// What became of an order that was obeyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrderResult {
    /// How the drain or the hold's wait ended; or `resumed`, [`NOT_LIVE`] or `not held`.
    pub name: &'static str,
    /// Whether nothing was left that counts.
    pub is_clean: bool,
}

/// What became of an order to hold or to resume, or why nothing did.
pub type OrderEnd = Result<OrderResult, String>;

/// Everything that is known.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// What drainit is doing.
    pub state: State,
    /// Since when.
    pub since: Instant,
    /// Why drainit is doing that, in a few words.
    pub reason: String,
    /// When drainit started.
    pub born: Instant,
    /// Where drainit is to listen, as `--listen` spells it.
    pub listen: String,
    /// The running Envoy, while there is one.
    pub envoy: Option<EnvoyStatus>,
    /// How often Envoy was started again after it had ended.
    pub restarts: u64,
    /// How the last Envoy ended.
    pub last_end: Option<LastEnd>,
    /// When Envoy is started again, while it is not running.
    pub next_start: Option<Instant>,
    /// What Envoy's admin interface says.
    pub admin: Admin,
    /// The listeners whose connections do not count (`--exclude-listener`).
    pub excluded: Vec<String>,
    /// What was open when Envoy was last asked.
    pub load: Option<Load>,
    /// When Envoy was last asked what is open.
    pub load_at: Option<Instant>,
    /// The drain, once one was asked for.
    pub drain: Option<DrainStatus>,
    /// The wait of the hold, under way or over, while Envoy is held.
    pub hold: Option<DrainStatus>,
    /// Whether Envoy is held, and has not confirmed that its health check fails.
    pub hold_unconfirmed: bool,
    /// What became of the last orders to hold and to resume.
    pub orders: VecDeque<(OrderNumber, OrderEnd)>,
    /// The drains that are over.
    pub drains: Drains,
    /// How many processes were reaped, Envoy's own included.
    pub reaped: u64,
    /// The secrets that are kept fresh.
    pub certificates: Vec<SecretStatus>,
    /// Why nothing is known of the secrets' files any more: a file system does not answer.
    pub certificates_hang: Option<String>,
    /// The last reload, if there was one.
    pub reload: Option<Reload>,
    /// How many reloads were asked for.
    pub reloads_asked: u64,
    /// Which configuration Envoy runs, where its file is followed (`--watch-config`).
    pub configuration: Option<Configuration>,
    /// Why the configuration file is not read any more, where its file system hangs.
    pub configuration_hangs: Option<String>,
    /// What is known of hot restarts, with `--hot-restart`.
    pub hot_restart: Option<HotRestart>,
    /// Why drainit is over, in one line, once it is.
    pub verdict: Option<String>,
}

impl Snapshot {
    /// A snapshot of a drainit that starts now.
    pub fn new(now: Instant) -> Snapshot {
        Snapshot {
            state: State::Starting,
            since: now,
            reason: String::new(),
            born: now,
            listen: String::new(),
            envoy: None,
            restarts: 0,
            last_end: None,
            next_start: None,
            admin: Admin::default(),
            excluded: Vec::new(),
            load: None,
            load_at: None,
            drain: None,
            hold: None,
            hold_unconfirmed: false,
            orders: VecDeque::new(),
            drains: Drains::default(),
            reaped: 0,
            certificates: Vec::new(),
            certificates_hang: None,
            configuration_hangs: None,
            reload: None,
            configuration: None,
            reloads_asked: 0,
            hot_restart: None,
            verdict: None,
        }
    }

    /// What waits for what is in flight: a drain, or a hold.
    pub fn wait(&self) -> Option<&DrainStatus> {
        self.drain.as_ref().or(self.hold.as_ref())
    }

    /// What waits for what is in flight, to change it.
    pub fn wait_mut(&mut self) -> Option<&mut DrainStatus> {
        self.drain.as_mut().or(self.hold.as_mut())
    }

    /// What is open, as far as it can be so now: not what an Envoy had that is gone.
    pub fn open(&self) -> Option<&Load> {
        let lives = self.envoy.is_some() || self.has_old();
        self.load.as_ref().filter(|_| lives)
    }

    /// How long the admin interface of the Envoy that runs has not answered; zero where it answers,
    /// or is known to be gone, which the state tells.
    pub fn silence(&self, now: Instant) -> Duration {
        match self.admin.failing_since {
            Some(since) if self.envoy.is_some() && !self.is_degraded() => {
                now.saturating_duration_since(since)
            }
            _ => Duration::ZERO,
        }
    }
}

/// A number of things, as people write it: `1 connection`, `2 connections`.
pub fn plural(count: u64, name: &str) -> String {
    format!("{count} {name}{}", if count == 1 { "" } else { "s" })
}

/// The snapshot behind its lock, and the reader that is woken when it changes.
#[derive(Clone, Debug)]
pub struct SharedSnapshot {
    snapshot: Arc<Mutex<Snapshot>>,
    reader: Waker,
}

impl SharedSnapshot {
    /// A shared snapshot that wakes `reader` at every change.
    pub fn new(snapshot: Snapshot, reader: Waker) -> SharedSnapshot {
        SharedSnapshot {
            snapshot: Arc::new(Mutex::new(snapshot)),
            reader,
        }
    }

    /// The snapshot, to look at: hold it for as long as it takes to copy or render, no longer.
    pub fn read(&self) -> MutexGuard<'_, Snapshot> {
        // A reader that panicked cannot have left the snapshot half written: only the main
        // thread writes, and what it writes are whole fields.
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what nobody waits for. For the main thread alone.
    pub fn update_quietly(&self, change: impl FnOnce(&mut Snapshot)) {
        change(&mut self.read());
    }

    /// Changes the snapshot and wakes the reader. For the main thread alone.
    pub fn update(&self, change: impl FnOnce(&mut Snapshot)) {
        change(&mut self.read());
        self.reader.wake();
    }
}
