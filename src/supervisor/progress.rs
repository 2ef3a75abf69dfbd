//! The log's lines on a drain that is under way.

use std::time::{Duration, Instant};

use super::sentences;
use crate::envoy::load::Load;
use crate::status::Snapshot;

/// The log has a line when something changed, at the most this often.
const MIN: Duration = Duration::from_secs(1);

/// The log has a line at the least this often.
const MAX: Duration = Duration::from_secs(5);

/// Clients are named this often.
const NAMED: Duration = Duration::from_secs(30);

/// What the log has said of the drain.
#[derive(Debug, Default)]
pub struct Progress {
    /// When the last line was written, and what it said is left.
    said: Option<(Instant, String)>,
    /// When clients were last named.
    named: Option<Instant>,
    due: Option<Instant>,
}

impl Progress {
    /// Logs a line on what is left of a drain, or of a hold's wait, if it is due, and returns it.
    /// `rate` is how many new connections still come in a second, where that keeps Envoy up.
    pub fn tell(&mut self, now: Instant, snapshot: &Snapshot, rate: Option<u64>) -> Option<String> {
        let drain = snapshot.wait()?;
        let current = drain.first.as_ref().and(snapshot.load.as_ref());
        let left = sentences::left(snapshot.state, drain, current);
        let due = match &self.said {
            None if current.is_some() => true,
            None => now.saturating_duration_since(snapshot.since) >= MIN,
            Some((at, said)) => {
                let passed = now.saturating_duration_since(*at);
                passed >= MAX || passed >= MIN && *said != left
            }
        };
        let line = due.then(|| {
            let arriving = sentences::arriving(rate, current);
            format!("{left}{arriving}{}", sentences::elapsed(now, drain))
        });
        if let Some(line) = &line {
            let clients = self.clients(now, snapshot, current);
            log::info!(
                connections = current.map(Load::connections),
                requests = current.and_then(Load::known_requests),
                udp_sessions = current.map(|load| load.udp_sessions),
                elapsed_seconds = sentences::seconds(now, drain.started),
                limit_seconds = sentences::seconds(drain.deadline, drain.started);
                "{line}{clients}"
            );
            self.said = Some((now, left));
        }
        let last = self.said.as_ref().map(|(at, _)| *at + MAX);
        self.due = Some(last.unwrap_or(snapshot.since + MIN));
        line
    }

    /// Who holds the drain up, once in a while: not in its first moments, when nearly everybody does.
    fn clients(&mut self, now: Instant, snapshot: &Snapshot, load: Option<&Load>) -> String {
        let last = self.named.unwrap_or(snapshot.since);
        let clients = load.map(sentences::clients).unwrap_or_default();
        if clients.is_empty() || now.saturating_duration_since(last) < NAMED {
            return String::new();
        }
        self.named = Some(now);
        format!("; held by {clients}")
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
