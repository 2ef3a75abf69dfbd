//! The log's lines on a drain that is under way.

use std::time::{Duration, Instant};

use super::words;
use crate::envoy::load::Load;
use crate::status::Snapshot;

/// A line when something changed, at the most this often.
const MIN: Duration = Duration::from_secs(1);

/// A line at the least this often.
const MAX: Duration = Duration::from_secs(5);

/// What the log has said of the drain.
#[derive(Debug, Default)]
pub struct Progress {
    /// When the last line was written, and what it said about the load.
    said: Option<(Instant, Option<Load>)>,
    due: Option<Instant>,
}

impl Progress {
    /// Logs a line if it is due, and returns it.
    pub fn tell(&mut self, now: Instant, snapshot: &Snapshot) -> Option<String> {
        let drain = snapshot.drain.as_ref()?;
        let current = drain.first.as_ref().and(snapshot.load.as_ref());
        let due = match &self.said {
            None if current.is_some() => true,
            None => now.saturating_duration_since(snapshot.since) >= MIN,
            Some((at, said)) => {
                let passed = now.saturating_duration_since(*at);
                passed >= MAX || passed >= MIN && said.as_ref() != current
            }
        };
        let line = due.then(|| words::progress(now, drain, current));
        if let Some(line) = &line {
            log::info!(
                connections = current.map(Load::connections),
                requests = current.map(|load| load.requests),
                udp_sessions = current.map(|load| load.udp_sessions),
                elapsed_seconds = words::seconds(now, drain.started),
                limit_seconds = words::seconds(drain.deadline, drain.started);
                "{line}"
            );
            self.said = Some((now, current.cloned()));
        }
        let last = self.said.as_ref().map(|(at, _)| *at + MAX);
        self.due = Some(last.unwrap_or(snapshot.since + MIN));
        line
    }

    /// The drain is not under way any more.
    pub fn end(&mut self) {
        self.due = None;
    }

    /// When the next line is due even if nothing changes.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }
}
