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
    /// When the last line was written, what it said is left, and whether it told of new connections.
    said: Option<(Instant, String, bool)>,
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
        let arriving = sentences::arriving(rate, current);
        let arrives = !arriving.is_empty();
        let due = match &self.said {
            None if current.is_some() => true,
            None => now.saturating_duration_since(snapshot.since) >= MIN,
            Some((at, said, arrived)) => {
                let passed = now.saturating_duration_since(*at);
                passed >= MAX || passed >= MIN && (*said != left || *arrived != arrives)
            }
        };
        let line = due.then(|| format!("{left}{arriving}{}", sentences::elapsed(now, drain)));
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
            self.said = Some((now, left, arrives));
        }
        let last = self.said.as_ref().map(|(at, ..)| *at + MAX);
        self.due = Some(last.unwrap_or(snapshot.since + MIN));
        line
    }

    /// Who holds the drain up, once in a while: not in its first moments, when nearly everybody does.
    fn clients(&mut self, now: Instant, snapshot: &Snapshot, load: Option<&Load>) -> String {
        // Another drain, or hold, may have been told of before.
        let last = self
            .named
            .map_or(snapshot.since, |at| at.max(snapshot.since));
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::envoy::load::Client;
    use crate::status::State;
    use crate::testing::{self, s};

    thread_local! {
        /// What this thread has logged, once it has asked for that.
        static LOGGED: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
    }

    struct Logger;

    impl log::Log for Logger {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            LOGGED.with_borrow(Option::is_some)
        }

        fn log(&self, record: &log::Record<'_>) {
            LOGGED.with_borrow_mut(|lines| {
                lines
                    .iter_mut()
                    .for_each(|lines| lines.push(record.args().to_string()));
            });
        }

        fn flush(&self) {}
    }

    #[test]
    fn a_drain_that_lasts_names_who_holds_it_every_half_a_minute_and_not_at_first() {
        let _ = log::set_logger(&Logger);
        log::set_max_level(log::LevelFilter::Info);
        LOGGED.set(Some(Vec::new()));
        let begun = Instant::now();
        let load = Load {
            clients: vec![Client {
                listener: "https".into(),
                address: ([10, 1, 2, 3], 51_234).into(),
                is_closed: false,
                silent: Some(s(12)),
                age: Some(s(2_460)),
                rate: None,
            }],
            ..testing::load(2)
        };
        let mut snapshot = Snapshot::new(begun);
        snapshot.state = State::Draining;
        snapshot.load = Some(load.clone());
        snapshot.drain = Some(crate::status::DrainStatus {
            deadline: begun + s(600),
            ..testing::drain(Some(load), begun)
        });
        let mut progress = Progress::default();
        let who = "; held by https: 10.1.2.3:51234, over 41 min old, silent 12 s; and 1 more";
        let named_in = |progress: &mut Progress, snapshot: &Snapshot, from: Instant, until| {
            let mut named = Vec::new();
            for second in 0..=until {
                let told = progress.tell(from + s(second), snapshot, None);
                let logged = LOGGED.take().unwrap_or_default();
                LOGGED.set(Some(Vec::new()));
                assert_eq!(logged.len(), usize::from(told.is_some()), "{logged:?}");
                for line in logged {
                    // Nobody is named where others than the log's readers see it.
                    let told = told.as_deref().unwrap();
                    assert!(
                        told.starts_with("draining: 2 of 2 connections left ("),
                        "{told}"
                    );
                    if line != told {
                        assert_eq!(line, format!("{told}{who}"));
                        named.push(second);
                    }
                }
            }
            named
        };
        assert_eq!(named_in(&mut progress, &snapshot, begun, 95), [30, 60, 90]);
        // Nor at first in the next wait, as of a second hold.
        let later = begun + s(200);
        snapshot.since = later;
        assert_eq!(named_in(&mut progress, &snapshot, later, 40), [30]);
        // Where nobody is known, nobody is named.
        snapshot.load.as_mut().unwrap().clients.clear();
        let later = begun + s(300);
        assert_eq!(named_in(&mut progress, &snapshot, later, 40), [0; 0]);
    }
}
