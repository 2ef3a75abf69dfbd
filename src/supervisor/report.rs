//! What people see of the decisions: the snapshot and the log, kept up to date.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use nix::libc;

use crate::drain::{self, Answer, Ask, Outcome};
use crate::duration::show;
use crate::envoy::admin::Reply;
use crate::envoy::stats::Load;
use crate::process::Exit;
use crate::status::{Board, Drain, Snapshot, State};

/// A progress line when something changed, at the most this often.
const PROGRESS_MIN: Duration = Duration::from_secs(1);

/// A progress line at the least this often.
const PROGRESS_MAX: Duration = Duration::from_secs(5);

/// The same complaint about Envoy's admin interface at the most this often.
const COMPLAINT: Duration = Duration::from_secs(5);

/// So many different complaints in that time are enough.
const COMPLAINTS_MAX: usize = 8;

/// An Envoy that starts has this long before its silence is worth a warning.
const START: Duration = Duration::from_secs(10);

/// Where a container's last words go; Kubernetes shows them.
const TERMINATION_LOG: &str = "/dev/termination-log";

/// How much of them Kubernetes keeps.
const TERMINATION_MAX: usize = 4096;

/// Keeps snapshot and log up to date.
pub struct Reporter {
    born: Instant,
    /// What the snapshot was last brought up to.
    seen: (State, String, Option<(bool, Option<Outcome>)>),
    starts: u64,
    exit: Option<Exit>,
    failure: Option<String>,
    /// The last complaints about Envoy's admin interface, and when each was made.
    complaints: Vec<(String, Instant)>,
    /// When the last progress line was written, and what it said about the load.
    progress: Option<(Instant, Option<Load>)>,
    progress_due: Option<Instant>,
}

impl Reporter {
    /// A reporter of a drainit that was born then.
    pub fn new(born: Instant) -> Reporter {
        Reporter {
            born,
            seen: (State::Starting, String::new(), None),
            starts: 0,
            exit: None,
            failure: None,
            complaints: Vec::new(),
            progress: None,
            progress_due: None,
        }
    }

    /// When there is something to say even if nothing happens.
    pub fn wake_at(&self) -> Option<Instant> {
        self.progress_due
    }

    /// Envoy was spawned; whether that was not the first time.
    pub fn take_start(&mut self) -> bool {
        self.starts += 1;
        self.exit = None;
        self.starts > 1
    }

    /// Envoy is gone.
    pub fn take_exit(&mut self, exit: Exit) {
        self.exit = Some(exit);
        log::info!(exit_code = exit.code(); "envoy exited: {exit}");
    }

    /// Envoy could not be started.
    pub fn cannot_start(&mut self, why: String) {
        self.failure = Some(why);
    }

    /// Logs what is worth it of an answer.
    pub fn take_answer(&mut self, now: Instant, reply: &Reply, state: State) {
        match &reply.answer {
            Err(why) => self.complain(now, why, state),
            Ok(answer) => {
                if !std::mem::take(&mut self.complaints).is_empty()
                    && !matches!(reply.ask, Ask::Ready)
                {
                    log::info!("envoy's admin interface answers again");
                }
                match (reply.ask, answer) {
                    (Ask::FailHealthCheck, _) => log::info!("envoy's health check is failed"),
                    (Ask::DrainListeners, _) => log::info!("envoy's listeners drain"),
                    (Ask::StopListeners, _) => log::info!("envoy stops accepting"),
                    (_, Answer::Version(version)) => log::info!("envoy's version is {version}"),
                    _ => {}
                }
            }
        }
    }

    fn complain(&mut self, now: Instant, why: &str, state: State) {
        let starting = state == State::Starting && now.saturating_duration_since(self.born) < START;
        // A drain has several questions, and each may fail in its own way again and again.
        self.complaints
            .retain(|(_, at)| now.saturating_duration_since(*at) < COMPLAINT);
        let repeated = self.complaints.iter().any(|(last, _)| last == why)
            || self.complaints.len() >= COMPLAINTS_MAX;
        if starting || repeated {
            log::debug!("{why}");
        } else {
            log::warn!("{why}");
            self.complaints.push((why.to_owned(), now));
        }
    }

    /// Brings the snapshot up to date, and logs what has changed.
    pub fn publish(
        &mut self,
        now: Instant,
        board: &Board,
        state: State,
        reason: &str,
        drain: Option<&drain::Drain>,
    ) {
        let seen = (
            state,
            reason.to_owned(),
            drain.map(|drain| (drain.stops(), drain.outcome())),
        );
        if self.seen != seen {
            board.update(|snapshot| {
                if snapshot.state != state {
                    snapshot.state = state;
                    snapshot.since = now;
                }
                reason.clone_into(&mut snapshot.reason);
                if let Some(drain) = drain {
                    self.note_drain(snapshot, now, drain);
                }
            });
            if self.seen.0 != state {
                tell_state(&board.read());
            }
            self.seen = seen;
        }
        if state == State::Draining {
            let snapshot = board.read().clone();
            self.tell_progress(now, &snapshot);
        } else {
            self.progress_due = None;
        }
    }

    fn note_drain(&self, snapshot: &mut Snapshot, now: Instant, drain: &drain::Drain) {
        let shown = snapshot
            .drain
            .get_or_insert_with(|| self.begin_drain(drain, &snapshot.reason));
        shown.stops = drain.stops();
        if let (None, Some(outcome)) = (shown.ended, drain.outcome()) {
            shown.ended = Some((now, outcome));
            let drains = &mut snapshot.drains;
            match outcome {
                Outcome::EnvoyExited => drains.exited += 1,
                outcome if outcome.is_clean() => drains.drained += 1,
                _ => drains.cut += 1,
            }
        }
    }

    fn begin_drain(&self, drain: &drain::Drain, reason: &str) -> Drain {
        Drain {
            cause: reason.to_owned(),
            started: self.born + drain.started(),
            deadline: self.born + drain.deadline(),
            stops: drain.stops(),
            health_failed: None,
            listeners_draining: None,
            last_connection: None,
            first: None,
            ended: None,
        }
    }

    fn tell_progress(&mut self, now: Instant, snapshot: &Snapshot) {
        let Some(drain) = &snapshot.drain else {
            return;
        };
        let current = drain.first.as_ref().and(snapshot.load.clone());
        let due = match &self.progress {
            None if current.is_some() => true,
            None => now.saturating_duration_since(drain.started) >= PROGRESS_MIN,
            Some((at, said)) => {
                let passed = now.saturating_duration_since(*at);
                passed >= PROGRESS_MAX || passed >= PROGRESS_MIN && *said != current
            }
        };
        if due {
            let line = progress(now, drain, current.as_ref());
            log::info!(
                connections = current.as_ref().map(Load::connections),
                requests = current.as_ref().map(|load| load.requests),
                elapsed = seconds(now, drain.started),
                limit = seconds(drain.deadline, drain.started);
                "{line}"
            );
            self.progress = Some((now, current));
        }
        let last = self
            .progress
            .as_ref()
            .map_or(drain.started + PROGRESS_MIN, |(at, _)| *at + PROGRESS_MAX);
        self.progress_due = Some(last);
    }

    /// The one line that says why it is over.
    pub fn summary(&self, snapshot: &Snapshot, code: u8) -> String {
        let why = match (&self.failure, &snapshot.drain, self.exit) {
            (Some(why), _, _) => why.clone(),
            (None, Some(drain), _) => ending(drain, snapshot),
            (None, None, _) => snapshot.reason.clone(),
        };
        let end = match self.exit {
            _ if self.starts == 0 => "envoy was not started".into(),
            Some(exit) => format!("envoy's {exit}"),
            None => "envoy did not end".into(),
        };
        format!("drainit is over: {why}; {end}; exit code {code}")
    }
}

fn tell_state(snapshot: &Snapshot) {
    let name = snapshot.state.name();
    match (snapshot.state, &snapshot.drain) {
        (State::Live, _) => log::info!(state = name; "envoy is {}", snapshot.reason),
        (State::Delaying, Some(drain)) => {
            log::info!(state = name; "{}: envoy serves on for the drain delay, then drains until {} at the latest", drain.cause, limit(drain));
        }
        (State::Draining, Some(drain)) => {
            log::info!(state = name; "{}: draining for {} at the most", drain.cause, limit(drain));
        }
        (State::Drained, Some(drain)) => {
            log::info!(state = name; "{}; envoy stays until it is told to stop", ending(drain, snapshot));
        }
        (State::Waiting | State::Restarting, _) => {
            log::warn!(state = name; "{name}: {}", snapshot.reason)
        }
        _ => log::debug!(state = name; "{name}"),
    }
}

/// Notes in the snapshot what Envoy answered.
pub fn note_answer(snapshot: &mut Snapshot, now: Instant, reply: &Reply) {
    if let Some(address) = &reply.address {
        snapshot.admin.address = Some(address.clone());
    }
    match &reply.answer {
        Ok(_) => {
            snapshot.admin.answered = Some(now);
            snapshot.admin.failing_since = None;
        }
        Err(_) => {
            // Before it knows its address, an Envoy that starts has failed nothing.
            snapshot.admin.errors += u64::from(reply.address.is_some());
            snapshot.admin.failing_since.get_or_insert(now);
        }
    }
    if reply.ask == Ask::Ready {
        let state = match &reply.answer {
            Ok(Answer::Ready(state)) => Ok(state.clone()),
            Ok(_) => Err("no answer to the question".into()),
            Err(why) => Err(why.clone()),
        };
        snapshot.admin.ready = Some((now, state));
    }
    match (reply.ask, &reply.answer, &mut snapshot.drain) {
        (Ask::ServerInfo, Ok(Answer::Version(version)), _) => {
            if let Some(envoy) = &mut snapshot.envoy {
                envoy.version = Some(version.clone());
            }
        }
        (Ask::FailHealthCheck, Ok(_), Some(drain)) => drain.health_failed = Some(now),
        (Ask::DrainListeners, Ok(_), Some(drain)) => drain.listeners_draining = Some(now),
        (Ask::Stats, Ok(Answer::Stats(load)), drain) => {
            if let Some(drain) = drain {
                drain.first.get_or_insert_with(|| load.clone());
                if load.connections() > 0 {
                    drain.last_connection = None;
                } else {
                    drain.last_connection.get_or_insert(now);
                }
            }
            snapshot.load = Some(load.clone());
        }
        _ => {}
    }
}

fn seconds(to: Instant, from: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64()
}

fn limit(drain: &Drain) -> String {
    show(drain.deadline.saturating_duration_since(drain.started))
}

/// `draining: 12 of 340 connections left (3 requests in flight; https 9, tcp 3), 4.2 s of 25 s`
fn progress(now: Instant, drain: &Drain, load: Option<&Load>) -> String {
    let mut line = String::from("draining: ");
    match load {
        None => line.push_str("envoy has not told what is left"),
        Some(load) => {
            let first = drain.first.as_ref().map_or(0, Load::connections);
            let now = load.connections();
            let _ = write!(
                line,
                "{now} of {} left",
                plural(first.max(now), "connection")
            );
            let mut details = Vec::new();
            if load.requests > 0 {
                details.push(format!("{} in flight", plural(load.requests, "request")));
            }
            if load.udp_sessions > 0 {
                details.push(plural(load.udp_sessions, "UDP session"));
            }
            let listeners = by_listener(load);
            if !listeners.is_empty() {
                details.push(listeners);
            }
            if !details.is_empty() {
                let _ = write!(line, " ({})", details.join("; "));
            }
        }
    }
    let _ = write!(
        line,
        ", {:.1} s of {}",
        seconds(now, drain.started),
        limit(drain)
    );
    line
}

/// `drained after 3.2 s (SIGTERM): 12 connections at the start, 0 at the end`
fn ending(drain: &Drain, snapshot: &Snapshot) -> String {
    let Some((at, outcome)) = drain.ended else {
        return "not drained".into();
    };
    let took = show(at.saturating_duration_since(drain.started));
    let mut line = format!("{} after {took} ({})", outcome.name(), drain.cause);
    if let (Some(first), Some(last)) = (&drain.first, &snapshot.load) {
        let start = plural(first.connections(), "connection");
        let _ = write!(
            line,
            ": {start} at the start, {} at the end",
            last.connections()
        );
        let left = by_listener(last);
        if !left.is_empty() {
            let cut = if outcome.is_clean() { "idle" } else { "cut" };
            let _ = write!(
                line,
                " ({cut}: {left}; {} in flight)",
                plural(last.requests, "request")
            );
        }
    }
    line
}

/// `https 9, tcp 3`: the listeners that count and have something open.
fn by_listener(load: &Load) -> String {
    let open = load
        .listeners
        .iter()
        .filter(|listener| !listener.excluded && listener.connections > 0);
    open.map(|listener| format!("{} {}", listener.name, listener.connections))
        .collect::<Vec<_>>()
        .join(", ")
}

fn plural(count: u64, name: &str) -> String {
    format!("{count} {name}{}", if count == 1 { "" } else { "s" })
}

/// Leaves the last words where an orchestrator looks for them, if there is such a place.
pub fn write_termination_log(summary: &str) {
    let file = OpenOptions::new()
        .write(true)
        .truncate(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(TERMINATION_LOG);
    if let Ok(mut file) = file {
        let words = summary.as_bytes();
        let _ = file.write_all(words.get(..TERMINATION_MAX).unwrap_or(words));
    }
}
