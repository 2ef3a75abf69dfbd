//! Envoy's admin interface, asked by a thread of its own: it runs on Envoy's main thread, and may
//! answer late or never.

use std::time::{Duration, Instant};

use super::address::Place;
use super::listeners::{Census, Listeners};
use super::load::{Load, Sight};
use super::roll_call::{self, Hidden, RollCall};
use super::{kernel, stats};
use crate::client::{Address, Head, Limits, Method, Peer, exchange_with, fetch_from};
use crate::drain::{Answer, Ask};
use crate::event::Event;
use crate::fault;
use crate::mailbox::{Inbox, Mailbox};
use crate::pulse::Pulse;

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
    /// The process that is, or has started, the Envoy of that place.
    pub owner: Option<i32>,
    /// The process whose sockets to look at; none while there is no such.
    pub pid: Option<i32>,
    /// Whether that is an old generation, which another had taken over from that is gone.
    pub retired: bool,
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
    /// To [`Ask::Ready`], of an Envoy that is live: how many listeners it has.
    pub listeners: Option<Listeners>,
}

/// The thread: asks one question at a time, for ever. Listeners in `excluded` are marked in what it
/// reads; `pulse` shows when this is at a file.
pub fn work(jobs: &Inbox<Job>, excluded: &[String], mailbox: &Mailbox<Event>, pulse: &Pulse) {
    let mut asker = Asker {
        excluded,
        roll: None,
        known: kernel::Known::default(),
        census: Census::default(),
        was_live: false,
    };
    loop {
        let job = jobs.next();
        fault::point("admin");
        let found = job.place.find(job.owner, pulse);
        let address = found.as_ref().ok().cloned();
        let peer = job.place.peer();
        let answer = match (job.ask, found) {
            (Ask::Sockets, _) if job.retired => asker.look_at_retired(job.pid),
            (Ask::Sockets, found) => asker.look(job.pid, found.ok().as_ref()),
            (Ask::Stats, Ok(address)) => asker.ask_load(&address, peer, job.pid),
            (Ask::Ready, Ok(address)) => asker.ask_ready(&address, peer, job.owner),
            (question, Ok(address)) => ask(question, &address, peer),
            (_, Err(why)) => Err(why),
        };
        mailbox.send(Event::Admin(Reply {
            number: job.number,
            ask: job.ask,
            address,
            peer,
            answer,
            listeners: asker.census.told(),
        }));
    }
}

/// A roll call is believed for so long: listeners come and go.
const ROLL_CALL_LASTS: Duration = Duration::from_secs(30);

/// Whose listeners answer a roll call: an Envoy's pid, and how many listeners it has.
type Subject = (Option<i32>, Option<u64>);

/// Asks what is open, of Envoy and of the kernel.
struct Asker<'a> {
    excluded: &'a [String],
    /// What Envoy could tell when it was last asked for that, when, and of which Envoy.
    roll: Option<(RollCall, Instant, Subject)>,
    known: kernel::Known,
    /// How many listeners Envoy has.
    census: Census,
    /// Whether it said that it was live when it was last asked.
    was_live: bool,
}

impl Asker<'_> {
    /// How Envoy is, or in turn with that how many listeners it has.
    fn ask_ready(
        &mut self,
        address: &Address,
        peer: Peer,
        owner: Option<i32>,
    ) -> Result<Answer, String> {
        let live = || Ok(Answer::Ready("LIVE".into()));
        if self.census.takes_turn(owner, Instant::now()) && self.was_live {
            self.census.ask(peer, address, self.excluded);
            if let Some(Listeners::Count(_)) = self.census.told() {
                // It answers, and nothing else has changed for all that is known.
                return live();
            }
        }
        let answer = ask(Ask::Ready, address, peer);
        self.was_live = answer == live();
        if self.was_live && self.census.is_new() {
            self.census.ask(peer, address, self.excluded);
        }
        answer
    }

    /// What the kernel says alone.
    fn look(&mut self, pid: Option<i32>, admin: Option<&Address>) -> Result<Answer, String> {
        let (load, accepts) = self.count(pid, admin)?;
        Ok(if accepts {
            Answer::Stats(load)
        } else {
            Answer::Closed
        })
    }

    /// The same of an old generation that the one which took over from it had told to drain. It
    /// accepts nothing, and reads no UDP; its other connections at a listener's port are clients'.
    fn look_at_retired(&mut self, pid: Option<i32>) -> Result<Answer, String> {
        let (mut load, _) = self.count(pid, None)?;
        load.udp_sessions = 0;
        Ok(Answer::Stats(load))
    }

    fn count(&mut self, pid: Option<i32>, admin: Option<&Address>) -> Result<(Load, bool), String> {
        let pid = pid.ok_or("there is no envoy to look at")?;
        kernel::look(pid, admin, self.excluded, &mut self.known)
    }

    /// What is open: Envoy's word, and where that is not whole the kernel's beside it.
    ///
    /// # Errors
    /// One line that says why there is no answer, or none that can be believed.
    fn ask_load(
        &mut self,
        address: &Address,
        peer: Peer,
        pid: Option<i32>,
    ) -> Result<Answer, String> {
        let mut page = stats::Page::default();
        let head = ask_stats(peer, address, stats::QUERY, |piece| page.feed(piece))?;
        let figures = page.finish();
        let excluded = self.excluded;
        let told = match head.status {
            200 if head.is_envoy => figures.load(
                self.roll_call(peer, address, (pid, figures.listeners())),
                excluded,
            ),
            200 if figures.is_proven() => figures.load(&RollCall::of_a_stand_in(), excluded),
            200 => return Err("the answer lacks server.live: it is cut, or no statistics".into()),
            400..=499 if head.is_envoy => stats::Told::nothing(),
            status => return Err(refused(status, "to /stats")),
        };
        let stats::Told {
            mut load,
            http,
            mut hidden,
        } = told;
        if hidden.iter().any(|hidden| hidden.is_told_by_kernel()) {
            let known_udp = match &self.roll {
                Some((roll, ..)) if head.status == 200 => roll.udp_listeners() as u64,
                _ => 0,
            };
            match self.count(pid, Some(address)) {
                Ok((kernel, _)) => {
                    let udp_is_told = kernel.udp_sessions <= known_udp;
                    load = load.beside(kernel, http);
                    if !udp_is_told {
                        load.sight = Sight::Partial;
                    }
                }
                Err(why) => {
                    log::debug!("{why}");
                    hidden.retain(|hidden| *hidden != Hidden::Count || !figures.shows_itself());
                    if !hidden.is_empty() {
                        load.sight = Sight::Partial;
                    }
                }
            }
        }
        if hidden.contains(&Hidden::UdpSessions) {
            load.sight = Sight::Partial;
        }
        load.hidden = hidden.first().map(|hidden| match load.sight {
            Sight::Partial => format!(
                "{}; the kernel does not tell it either, so that a drain lasts until its deadline",
                hidden.sentence()
            ),
            _ => hidden.sentence().into(),
        });
        Ok(Answer::Stats(load))
    }

    /// What this Envoy could tell of its load.
    fn roll_call(&mut self, peer: Peer, address: &Address, of: Subject) -> &RollCall {
        let now = Instant::now();
        self.roll.take_if(|(_, at, before)| {
            *before != of || now.saturating_duration_since(*at) >= ROLL_CALL_LASTS
        });
        let (roll, ..) = self.roll.get_or_insert_with(|| {
            let roll = call_roll(peer, address).unwrap_or_else(|why| {
                log::debug!("what envoy could tell is not known: {why}");
                RollCall::default()
            });
            (roll, now, of)
        });
        roll
    }
}

fn call_roll(peer: Peer, address: &Address) -> Result<RollCall, String> {
    let mut reader = roll_call::Reader::default();
    let head = ask_stats(peer, address, roll_call::QUERY, |piece| reader.feed(piece))?;
    if head.status != 200 {
        return Err(refused(head.status, "to /stats"));
    }
    let mut roll = reader.finish();
    // `admin.allow_paths` may lack it, and the statistics tell how many there are.
    match get(peer, address, roll_call::LISTENERS) {
        Ok(json) => roll.take_listed(&json),
        Err(why) => log::debug!("/listeners: {why}"),
    }
    Ok(roll)
}

/// Asks for a page of statistics.
fn ask_stats(
    peer: Peer,
    address: &Address,
    query: &str,
    sink: impl FnMut(&[u8]),
) -> Result<Head, String> {
    let limits = Limits {
        time: STEP,
        body: PAGE,
    };
    exchange_with(peer, address, Method::Get, query, limits, sink)
}

/// Asks Envoy one question.
///
/// # Errors
/// One line that says why there is no answer, or none that can be believed.
fn ask(ask: Ask, address: &Address, peer: Peer) -> Result<Answer, String> {
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
        Ask::Activity => {
            let (mut lines, mut activity) = (stats::Lines::default(), stats::Activity::default());
            let head = ask_stats(peer, address, stats::ACTIVITY, |piece| {
                lines.feed(piece, |name, value| activity.take(name, value));
            })?;
            if head.status != 200 {
                return Err(refused(head.status, "to /stats"));
            }
            lines.end(|name, value| activity.take(name, value));
            activity.finish().map(Answer::Activity)
        }
        Ask::Stats | Ask::Sockets => Err("that takes more than one question".into()),
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
