//! Envoy's admin interface, asked by a thread of its own: it runs on Envoy's main thread, and may
//! answer late or never.

use std::time::Duration;

use super::address::Place;
use super::{sockets, stats};
use crate::client::{Address, Limits, Method, Peer, exchange_with, fetch_from};
use crate::drain::{Answer, Ask};
use crate::event::Event;
use crate::fault;
use crate::mailbox::{Inbox, Mailbox};

/// A probe waits no longer: a kubelet's own patience is a second.
const PROBE: Duration = Duration::from_secs(1);

/// A busy Envoy may take this long for a step of the drain: one with 10,000 clusters needs 36 ms
/// for the page, and an answer that is lost on the way should not cost much of the deadline.
const STEP: Duration = Duration::from_secs(3);

/// The answers that are kept are short.
const SHORT: u64 = 256 * 1024;

/// A page of gauges: a line is about 60 bytes, and with many listeners each worker has its own.
const PAGE: u64 = 8 * 1024 * 1024;

/// One question, and where to ask it.
#[derive(Debug)]
pub struct Job {
    /// Tells a late answer of an Envoy that is gone from one of its successor.
    pub number: u64,
    /// What to ask.
    pub ask: Ask,
    /// Where Envoy's admin interface is.
    pub place: Place,
    /// The process whose sockets to look at; none while there is no such.
    pub pid: Option<i32>,
}

/// What became of a [`Job`].
#[derive(Debug)]
pub struct Reply {
    /// The job's number.
    pub number: u64,
    /// What was asked.
    pub ask: Ask,
    /// Where it was asked.
    pub address: Option<Address>,
    /// Who was to answer there.
    pub peer: Peer,
    /// The answer, or why there is none, in one line.
    pub answer: Result<Answer, String>,
}

/// The thread: asks one question at a time, for ever. Listeners in `excluded` are marked in what it
/// reads.
pub fn work(jobs: &Inbox<Job>, excluded: &[String], mailbox: &Mailbox<Event>) {
    loop {
        let job = jobs.next();
        fault::point("admin");
        let found = job.place.find();
        let address = found.as_ref().ok().cloned();
        let peer = job.place.peer();
        let answer = match job.ask {
            Ask::Sockets => look(job.pid, address.as_ref(), excluded),
            question => found.and_then(|address| ask(question, &address, peer, excluded)),
        };
        mailbox.send(Event::Admin(Reply {
            number: job.number,
            ask: job.ask,
            address,
            peer,
            answer,
        }));
    }
}

fn look(pid: Option<i32>, admin: Option<&Address>, excluded: &[String]) -> Result<Answer, String> {
    let pid = pid.ok_or("there is no envoy to look at")?;
    let load = sockets::look(pid, admin, excluded)?;
    Ok(load.map_or(Answer::Closed, Answer::Stats))
}

/// Asks Envoy one question.
///
/// # Errors
/// One line that says why there is no answer, or none that can be believed.
fn ask(ask: Ask, address: &Address, peer: Peer, excluded: &[String]) -> Result<Answer, String> {
    let short = |method, path, time| {
        let limits = Limits { time, body: SHORT };
        fetch_from(peer, address, method, path, limits)
    };
    match ask {
        Ask::Ready => {
            short(Method::Get, "/ready", PROBE).and_then(|(status, body)| ready(status, &body))
        }
        // Nice to have, and 124 kB: a drain that begins now must not wait for it for long.
        Ask::ServerInfo => short(Method::Get, "/server_info", PROBE)
            .and_then(|(status, body)| version(status, &body)),
        Ask::FailHealthCheck => done(short(Method::Post, "/healthcheck/fail", STEP)?),
        Ask::DrainListeners => done(short(
            Method::Post,
            "/drain_listeners?graceful&skip_exit",
            STEP,
        )?),
        Ask::StopListeners => done(short(Method::Post, "/drain_listeners", STEP)?),
        Ask::Sockets => Err("that is a question to the kernel".into()),
        Ask::Stats => {
            let mut page = stats::Page::default();
            let limits = Limits {
                time: STEP,
                body: PAGE,
            };
            let head = exchange_with(peer, address, Method::Get, stats::QUERY, limits, |piece| {
                page.feed(piece, excluded);
            })?;
            if head.status != 200 {
                return Err(refused(head.status, "to /stats"));
            }
            if head.is_envoy {
                page.check_own()?;
            }
            page.finish(excluded).map(Answer::Stats)
        }
    }
}

/// GETs a path, for what is no question of a drain.
///
/// # Errors
/// One line: no answer within 3 s, none with 200, or one that is longer than a page of gauges.
pub fn get(peer: Peer, address: &Address, path: &str) -> Result<String, String> {
    let limits = Limits {
        time: STEP,
        body: PAGE,
    };
    match fetch_from(peer, address, Method::Get, path, limits)? {
        (200, body) => Ok(body),
        (status, body) => Err(refused(status, &body)),
    }
}

fn done((status, body): (u16, String)) -> Result<Answer, String> {
    if status == 200 {
        Ok(Answer::Done)
    } else {
        Err(refused(status, &body))
    }
}

fn ready(status: u16, body: &str) -> Result<Answer, String> {
    match (status, body.trim()) {
        (200, state @ "LIVE")
        | (503, state @ ("PRE_INITIALIZING" | "INITIALIZING" | "DRAINING")) => {
            Ok(Answer::Ready(state.into()))
        }
        // `admin.allow_paths` without it: its main thread answers, and may be serving.
        (400..=499, _) => Ok(Answer::Ready(format!("UNKNOWN ({status})"))),
        _ => Err(refused(status, body)),
    }
}

/// `/server_info` tells `<revision>/1.40.0/Clean/RELEASE/BoringSSL`.
fn version(status: u16, body: &str) -> Result<Answer, String> {
    let info: serde_json::Value = serde_json::from_str(body).map_err(|_| refused(status, body))?;
    info.get("version")
        .and_then(|version| version.as_str()?.split('/').nth(1))
        .map(|version| Answer::Version(version.chars().take(64).collect()))
        .ok_or_else(|| refused(status, body))
}

/// The status and the first line of the body, cut to what a log line bears.
fn refused(status: u16, body: &str) -> String {
    let line: String = body
        .lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(100)
        .collect();
    format!("envoy's admin interface answered {status} {line}")
        .trim_end()
        .to_owned()
}
