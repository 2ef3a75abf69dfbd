//! Envoy's admin interface, asked by a thread of its own: it runs on Envoy's main thread, and may
//! answer late or never.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::address::Place;
use super::epoch;
use super::fetch::{HasTime, STEP, fetch_page, refused};
use super::kernel::Measure;
use super::listeners::{Census, ListenerCount};
use super::question::{Answer, Ask, Failure, Processes, Readiness};
use super::witnesses::Witnesses;
use crate::client::{Address, ExchangeLimits, GoesOn, Method, Peer, fetch_while};
use crate::fault;
use crate::mailbox::{Inbox, Wakeups};
use crate::pulse::Pulse;

/// How long a probe waits for its answer where something else waits for the probe. Else it has the
/// time of a step: an Envoy that is slow is not silent.
const PROBE: Duration = Duration::from_secs(1);

/// The limits on the answer to a probe or a step. `/server_info` has 124 kB.
const LIMITS: ExchangeLimits = ExchangeLimits {
    time: STEP,
    body: 256 * 1024,
};

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
    /// Whether somebody waits for the end of this question. May change meanwhile.
    pub hurries: Arc<AtomicBool>,
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
    /// The answer, or why there is none.
    pub answer: Result<Answer, Failure>,
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
        believed: None,
        checked: None,
    };
    loop {
        let watch = &mut asker.witnesses.watch;
        let job = watch.next(jobs, || report(AdminReport::ConnectionEnded));
        watch.set_on(job.drains);
        fault::point("admin");
        // What it said of that before is worth nothing now.
        asker.was_live &= job.ask != Ask::FailHealthCheck;
        let mut found = job.place.find(job.owner, pulse);
        let address = found.as_ref().ok().cloned();
        let peer = job.place.peer();
        // Who waits for a drain's step need not, where nothing is left. Of what is beside an old
        // generation one process tells nothing.
        let is_alone = job.processes == Processes::Serving(job.owner);
        let watched = job.owner.filter(|_| job.drains && is_alone);
        let has_time = |waited| has_time(jobs.0, &job.hurries, waited);
        if job.ask.is_to_envoy() {
            found = found.and_then(|address| asker.believe(&job, address, &has_time));
        }
        // At that address the Envoy of another job may have answered.
        let believed = found.as_ref().ok().cloned();
        let checkable = believed.filter(|_| job.ask == Ask::Ready);
        let answer = match (step(job.ask), found) {
            (Some(path), Ok(address)) => {
                let told = asker
                    .witnesses
                    .patiently(watched, &address, &|_| true, |goes_on| {
                        fetch_while(peer, &address, Method::Post, path, LIMITS, goes_on)
                    });
                told.map_err(Failure::from).and_then(done)
            }
            (_, found) => {
                let answer = asker.ask(&job, found, peer, watched, &has_time);
                answer.map_err(Failure::from)
            }
        };
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
            asker.check_excluded(&address, peer, job.owner, &has_time);
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
    /// The process whose Envoy has shown its restart epoch.
    believed: Option<i32>,
    /// The Envoy that has been held against what `--exclude-listener` names.
    checked: Option<i32>,
}

impl Asker<'_> {
    /// Asks what is no step, of the Envoy at the address that was `found`. A probe goes on for as long
    /// as it `has_time`; for `watched` see [`Witnesses::patiently`].
    fn ask(
        &mut self,
        job: &Job,
        found: Result<Address, String>,
        peer: Peer,
        watched: Option<i32>,
        has_time: HasTime<'_>,
    ) -> Result<Answer, String> {
        let witnesses = &mut self.witnesses;
        let known = found.as_ref().map_err(Clone::clone);
        match job.ask {
            Ask::Sockets => witnesses.look(job.processes, found.as_ref().ok(), job.winds_down),
            Ask::Activity => witnesses.ask_counters(known?, peer, watched),
            Ask::Traffic => {
                let address = known?;
                match probe(READY, address, peer, has_time)? {
                    Answer::Ready(Readiness::Live) => {
                        witnesses.ask_traffic(address, peer, has_time)
                    }
                    _ => Err("envoy is not live".into()),
                }
            }
            Ask::Stats => witnesses.ask(known?, peer, job.processes, watched, has_time),
            Ask::ServerInfo => probe(SERVER_INFO, known?, peer, has_time),
            Ask::Ready
            | Ask::FailHealthCheck
            | Ask::PassHealthCheck
            | Ask::DrainListeners
            | Ask::StopListeners => self.ask_ready(known?, peer, job.owner, has_time),
        }
    }

    /// The address, where the Envoy answers there that the job means.
    fn believe(
        &mut self,
        job: &Job,
        address: Address,
        has_time: HasTime<'_>,
    ) -> Result<Address, String> {
        if let Place::Known(_, Some(expected)) = job.place
            && self.believed != job.owner
        {
            let ask = |path| fetch_page(job.place.peer(), &address, path, has_time);
            let (status, info) = ask("/server_info")?;
            if (400..=499).contains(&status) {
                // `admin.allow_paths` lacks it, of this one or of the one before.
                let (_, gauge) = ask(epoch::GAUGE)?;
                let Some(told) = epoch::of_gauge(&gauge) else {
                    // Nobody tells; once the other one is gone, it need not be asked again.
                    if job.processes == Processes::Serving(job.owner) {
                        self.believed = job.owner;
                    }
                    return Ok(address);
                };
                epoch::check(Some(told), expected)?;
            } else {
                epoch::check(epoch::of_info(&info), expected)?;
            }
            self.believed = job.owner;
        }
        Ok(address)
    }

    /// Warns, once for each Envoy that is live, of an excluded listener that it does not have.
    fn check_excluded(
        &mut self,
        address: &Address,
        peer: Peer,
        owner: Option<i32>,
        has_time: HasTime<'_>,
    ) {
        let due = self.was_live && owner.is_some() && self.checked != owner;
        if due && !self.witnesses.measure.excluded.is_empty() {
            let began = Instant::now();
            self.witnesses.check_excluded(address, peer, has_time);
            // It may have been given up for something else.
            self.checked = owner.filter(|_| has_time(began.elapsed()));
        }
    }

    /// How Envoy is, or in turn with that how many listeners it has.
    fn ask_ready(
        &mut self,
        address: &Address,
        peer: Peer,
        owner: Option<i32>,
        has_time: HasTime<'_>,
    ) -> Result<Answer, String> {
        let live = || Ok(Answer::Ready(Readiness::Live));
        let excluded = self.witnesses.measure.excluded;
        if self.census.takes_turn(owner, Instant::now())
            && self.was_live
            && self.census.ask(peer, address, excluded, has_time)
        {
            // It answers, and nothing else has changed for all that is known.
            return live();
        }
        let answer = probe(READY, address, peer, has_time);
        self.was_live = answer == live();
        if self.was_live && self.census.is_new() {
            self.census.ask(peer, address, excluded, has_time);
        }
        answer
    }
}

/// Whether a probe that has `waited` so long may go on: for longer than [`PROBE`] only while nobody
/// `hurries`, and no other of the `jobs` waits. The question of an Envoy that is gone is given up so.
fn has_time<J>(jobs: &Inbox<J>, hurries: &AtomicBool, waited: Duration) -> bool {
    waited < PROBE || !hurries.load(Ordering::Relaxed) && jobs.is_empty()
}

/// What Envoy is asked about itself: where, and how its answer is read.
type Probe = (&'static str, fn(u16, &str) -> Result<Answer, String>);

const READY: Probe = ("/ready", ready);

const SERVER_INFO: Probe = ("/server_info", version);

/// Asks Envoy about itself, for as long as the question `has_time`.
///
/// # Errors
/// One line that says why there is no answer, or none that can be believed.
fn probe(
    (path, read): Probe,
    address: &Address,
    peer: Peer,
    has_time: HasTime<'_>,
) -> Result<Answer, String> {
    let goes_on: GoesOn<'_> = Some(&mut |waited| has_time(waited));
    let (status, body) = fetch_while(peer, address, Method::Get, path, LIMITS, goes_on)?;
    read(status, &body)
}

/// Where a step is POSTed.
fn step(ask: Ask) -> Option<&'static str> {
    match ask {
        Ask::FailHealthCheck => Some("/healthcheck/fail"),
        Ask::PassHealthCheck => Some("/healthcheck/ok"),
        Ask::DrainListeners => Some("/drain_listeners?graceful&skip_exit"),
        Ask::StopListeners => Some("/drain_listeners"),
        Ask::Ready | Ask::ServerInfo | Ask::Stats | Ask::Activity | Ask::Traffic | Ask::Sockets => {
            None
        }
    }
}

fn done((status, body): (u16, String)) -> Result<Answer, Failure> {
    if status == 200 {
        Ok(Answer::Done)
    } else {
        Err(Failure {
            why: refused(status, &body),
            is_refusal: true,
        })
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

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;
    use std::sync::atomic::AtomicUsize;
    use std::sync::mpsc;
    use std::thread;

    use super::*;
    use crate::mailbox::{Mailbox, Waker};

    /// What comes of a probe that Envoy answers after two seconds.
    fn probe_late(hurries: bool, others: u8) -> Result<Answer, String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap().to_string());
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 1024]);
            thread::sleep(PROBE * 2);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nLIVE\n");
        });
        let (mailbox, jobs) = Mailbox::new(None);
        (0..others).for_each(|job| mailbox.send(job));
        let hurries = AtomicBool::new(hurries);
        let has_time = |waited| has_time(&jobs, &hurries, waited);
        probe(READY, &address, Peer::Anyone, &has_time)
    }

    #[test]
    fn a_slow_answer_is_one_unless_somebody_waits_for_the_next_question() {
        let live = Ok(Answer::Ready(Readiness::Live));
        thread::scope(|scope| {
            for (hurries, others) in [(false, 0), (true, 0), (false, 1)] {
                let live = &live;
                scope.spawn(move || {
                    let is_live = probe_late(hurries, others) == *live;
                    assert_eq!(is_live, !hurries && others == 0, "{hurries} {others}");
                });
            }
        });
    }

    #[test]
    fn excluded_names_are_held_against_the_generation_that_answers_and_not_the_one_before() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap().to_string());
        let (epoch, checks) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        thread::spawn({
            let (epoch, checks) = (epoch.clone(), checks.clone());
            move || {
                for client in listener.incoming() {
                    let mut client = client.unwrap();
                    let mut line = String::new();
                    BufReader::new(&client).read_line(&mut line).unwrap();
                    let body = match line.split(['?', ' ']).nth(1) {
                        Some("/ready") => "LIVE\n".into(),
                        Some("/server_info") => {
                            let epoch = epoch.load(Ordering::SeqCst);
                            format!("{{\"command_line_options\": {{\"restart_epoch\": {epoch}}}}}")
                        }
                        Some("/listeners") => {
                            let is_check = line.contains("format=json");
                            checks.fetch_add(is_check.into(), Ordering::SeqCst);
                            "web::127.0.0.1:80\n".into()
                        }
                        _ => String::new(),
                    };
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                    client.write_all((head + &body).as_bytes()).unwrap();
                }
            }
        });
        let (waker, wakeups) = Waker::new().unwrap();
        let (mailbox, jobs) = Mailbox::new(Some(waker));
        let (sender, reports) = mpsc::channel();
        thread::spawn(move || {
            let measure = Measure {
                excluded: &["probes".to_owned()],
                settle: Duration::ZERO,
            };
            let report = |report| sender.send(report).unwrap_or_default();
            work((&jobs, &wakeups), measure, &report, &Pulse::default());
        });
        let ask = |ask, generation: u32| {
            let owner = i32::try_from(generation).ok();
            mailbox.send(Job {
                number: 0,
                ask,
                place: Place::Known(address.clone(), Some(generation)),
                owner,
                processes: Processes::Serving(owner),
                drains: false,
                winds_down: false,
                hurries: Arc::default(),
            });
            match reports.recv().unwrap() {
                AdminReport::Reply(reply) => reply.answer.is_ok(),
                AdminReport::ConnectionEnded => panic!("no drain"),
            }
        };
        // The next job is begun when the check after the one before is over.
        let is_ready = |generation| {
            let is_ready = ask(Ask::Ready, generation);
            ask(Ask::PassHealthCheck, generation);
            (is_ready, checks.load(Ordering::SeqCst))
        };
        assert_eq!(is_ready(0), (true, 1));
        assert_eq!(is_ready(1), (false, 1));
        epoch.store(1, Ordering::SeqCst);
        assert_eq!(is_ready(1), (true, 2));
    }
}
