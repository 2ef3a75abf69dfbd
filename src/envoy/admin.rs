//! Envoy's admin interface, asked by a thread of its own: it runs on Envoy's main thread, and may
//! answer late or never.

use std::mem;
use std::time::{Duration, Instant};

use super::address::Place;
use super::fetch::{STEP, refused};
use super::kernel::Measure;
use super::listeners::{Census, ListenerCount};
use super::question::{Answer, Ask, Processes, Readiness};
use super::witnesses::Witnesses;
use crate::client::{Address, ExchangeLimits, GoesOn, Method, Peer, fetch_while};
use crate::fault;
use crate::mailbox::{Inbox, Wakeups};
use crate::pulse::Pulse;

/// How long a probe waits for its answer: a kubelet's own patience is a second.
const PROBE: Duration = Duration::from_secs(1);

/// The longest answer that is kept, in bytes.
const SHORT: u64 = 256 * 1024;

/// A question, and where to ask it.
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
    /// The processes whose sockets to look at.
    pub processes: Processes,
    /// Whether a drain is under way, which wants to know when its last connection ends.
    pub drains: bool,
    /// Whether there was or is a drain, or the wait of a hold: what closed listeners have left
    /// counts.
    pub winds_down: bool,
}

/// What became of a [`Job`].
#[derive(Debug)]
pub struct AdminReply {
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
    pub listeners: Option<ListenerCount>,
    /// How many requests beside the question's own had no answer since the last reply: for the
    /// listeners, and for what Envoy could tell. A refusal is an answer.
    pub more_failed: u64,
}

/// What the thread has to say.
// Nearly always a reply, and a few at a time: a box would save nothing.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
pub enum AdminReport {
    /// What became of a job.
    Reply(Box<AdminReply>),
    /// A connection of Envoy's has ended during a drain: the last one, perhaps.
    ConnectionEnded,
}

/// The thread: asks one question at a time, for ever, and hands what became of it to `report`.
/// `measure` says what counts; `pulse` shows when this is at a file.
pub fn work(
    jobs: (&Inbox<Job>, &Wakeups),
    measure: Measure<'_>,
    report: &dyn Fn(AdminReport),
    pulse: &Pulse,
) {
    let mut asker = Asker {
        witnesses: Witnesses::new(measure),
        census: Census::default(),
        was_live: false,
        checked: None,
    };
    loop {
        let watch = &mut asker.witnesses.watch;
        let job = watch.next(jobs, || report(AdminReport::ConnectionEnded));
        watch.set_on(job.drains);
        fault::point("admin");
        // What it said of that before is worth nothing now.
        asker.was_live &= job.ask != Ask::FailHealthCheck;
        let found = job.place.find(job.owner, pulse);
        let address = found.as_ref().ok().cloned();
        let peer = job.place.peer();
        // Who waits for a drain's step need not, where nothing is left. Of what is beside an old
        // generation one process tells nothing.
        let is_alone = job.processes == Processes::Serving(job.owner);
        let watched = job.owner.filter(|_| job.drains && is_alone);
        let answer = match (job.ask, found) {
            (Ask::Sockets, found) => {
                let admin = found.ok();
                let witnesses = &mut asker.witnesses;
                witnesses.look(job.processes, admin.as_ref(), job.winds_down)
            }
            (Ask::Activity, Ok(address)) => asker.witnesses.ask_counters(&address, peer, watched),
            (Ask::Traffic, Ok(address)) => match ask(Ask::Ready, &address, peer, None) {
                Ok(Answer::Ready(Readiness::Live)) => asker.witnesses.ask_traffic(&address, peer),
                Ok(_) => Err("envoy is not live".into()),
                Err(why) => Err(why),
            },
            (Ask::Stats, Ok(address)) => {
                let witnesses = &mut asker.witnesses;
                witnesses.ask(&address, peer, job.processes, watched)
            }
            (Ask::Ready, Ok(address)) => asker.ask_ready(&address, peer, job.owner),
            (question, Ok(address)) => asker.witnesses.patiently(watched, &address, |goes_on| {
                ask(question, &address, peer, goes_on)
            }),
            (_, Err(why)) => Err(why),
        };
        let checkable = address.clone().filter(|_| job.ask == Ask::Ready);
        report(AdminReport::Reply(Box::new(AdminReply {
            number: job.number,
            ask: job.ask,
            address,
            peer,
            answer,
            listeners: asker.census.told(),
            more_failed: mem::take(&mut asker.witnesses.more_failed)
                + mem::take(&mut asker.census.failed),
        })));
        if let Some(address) = checkable {
            // Nobody waits for that.
            asker.check_excluded(&address, peer, job.owner);
            if asker.was_live && !job.drains {
                asker.witnesses.rest(job.processes.serving(), &address);
            }
        }
    }
}

/// Asks what takes more than one question.
struct Asker<'a> {
    witnesses: Witnesses<'a>,
    /// How many listeners Envoy has.
    census: Census,
    /// Whether it said that it was live when it was last asked.
    was_live: bool,
    /// The Envoy that has been held against what `--exclude-listener` names.
    checked: Option<i32>,
}

impl Asker<'_> {
    /// Warns, once for each Envoy that is live, of an excluded listener that it does not have.
    fn check_excluded(&mut self, address: &Address, peer: Peer, owner: Option<i32>) {
        let due = self.was_live && owner.is_some() && self.checked != owner;
        if due && !self.witnesses.measure.excluded.is_empty() {
            self.checked = owner;
            self.witnesses.check_excluded(address, peer);
        }
    }

    /// How Envoy is, or in turn with that how many listeners it has.
    fn ask_ready(
        &mut self,
        address: &Address,
        peer: Peer,
        owner: Option<i32>,
    ) -> Result<Answer, String> {
        let live = || Ok(Answer::Ready(Readiness::Live));
        let excluded = self.witnesses.measure.excluded;
        if self.census.takes_turn(owner, Instant::now())
            && self.was_live
            && self.census.ask(peer, address, excluded)
        {
            // It answers, and nothing else has changed for all that is known.
            return live();
        }
        let answer = ask(Ask::Ready, address, peer, None);
        self.was_live = answer == live();
        if self.was_live && self.census.is_new() {
            self.census.ask(peer, address, excluded);
        }
        answer
    }
}

/// Asks Envoy one question, while `goes_on` says so.
///
/// # Errors
/// One line that says why there is no answer, or none that can be believed.
fn ask(ask: Ask, address: &Address, peer: Peer, goes_on: GoesOn<'_>) -> Result<Answer, String> {
    let short = |method, path, time| {
        let limits = ExchangeLimits { time, body: SHORT };
        fetch_while(peer, address, method, path, limits, goes_on)
    };
    match ask {
        Ask::Ready => {
            short(Method::Get, "/ready", PROBE).and_then(|(status, body)| ready(status, &body))
        }
        // Nice to have, and 124 kB: a drain that begins now must not wait for it for long.
        Ask::ServerInfo => short(Method::Get, "/server_info", PROBE)
            .and_then(|(status, body)| version(status, &body)),
        Ask::FailHealthCheck => done(short(Method::Post, "/healthcheck/fail", STEP)?),
        Ask::PassHealthCheck => done(short(Method::Post, "/healthcheck/ok", STEP)?),
        Ask::DrainListeners => done(short(
            Method::Post,
            "/drain_listeners?graceful&skip_exit",
            STEP,
        )?),
        Ask::StopListeners => done(short(Method::Post, "/drain_listeners", STEP)?),
        Ask::Stats | Ask::Activity | Ask::Traffic | Ask::Sockets => {
            Err("that takes more than one question".into())
        }
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
    Readiness::read(status, body)
        .map(Answer::Ready)
        .ok_or_else(|| refused(status, body))
}

/// `/server_info` tells `<revision>/1.40.0/Clean/RELEASE/BoringSSL`.
fn version(status: u16, body: &str) -> Result<Answer, String> {
    let info: serde_json::Value = serde_json::from_str(body).map_err(|_| refused(status, body))?;
    info.get("version")
        .and_then(|version| version.as_str()?.split('/').nth(1))
        .map(|version| Answer::Version(version.chars().take(64).collect()))
        .ok_or_else(|| refused(status, body))
}
