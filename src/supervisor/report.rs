//! What people see of the decisions: the snapshot and the log, kept up to date.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant, SystemTime};

use nix::libc;

use crate::clock;
use crate::drain::{self, Answer, Ask, Loss, Outcome, Time};
use crate::envoy::address;
use crate::envoy::admin::AdminReply;
use crate::envoy::load::Load;
use crate::envoy::question::Failure;
use crate::notify::{Notifier, Wanted};
use crate::process::End;
use crate::status::{ADMIN_LOST, DrainStatus, SharedSnapshot, Snapshot, State};

use super::callers::Callers;
use super::complaints::Complaints;
use super::envoys::{self, Advice};
use super::hot_restart;
use super::notes;
use super::progress::Progress;
use super::sentences;
use super::verdict::{Ending, Verdict};

/// An Envoy that starts has this long before its silence is worth a warning.
const START: Duration = Duration::from_secs(10);

/// An Envoy that has told no admin address by then has none to tell, or was not asked to.
const ADVICE: Duration = Duration::from_secs(2);

/// Between two looks whether there is an Envoy by now.
const ADVICE_AGAIN: Duration = Duration::from_secs(1);

/// Where a container's last words go; Kubernetes shows them.
const TERMINATION_LOG: &str = "/dev/termination-log";

/// How many bytes of the last words Kubernetes keeps.
const TERMINATION_MAX: usize = 4096;

/// What the snapshot is brought up to.
#[derive(PartialEq)]
struct LastShown {
    state: State,
    reason: String,
    /// Whether a drain stops Envoy, and how it ended.
    drain: Option<(bool, Option<Outcome>)>,
    /// When a hold's wait began, and how it ended.
    hold: Option<(Time, Option<Outcome>)>,
}

/// Keeps snapshot and log up to date.
pub struct Reporter {
    born: Instant,
    /// When Envoy was spawned.
    started: Instant,
    /// What the snapshot was last brought up to.
    seen: LastShown,
    starts: u64,
    exit: Option<End>,
    failure: Option<String>,
    /// Whether Envoy was told to stop.
    stopped: bool,
    /// The last complaints about Envoy's admin interface.
    complaints: Complaints,
    /// What Envoy hides of its load, as the log has told: the lines.
    hidden: Vec<String>,
    /// Why Envoy's counters were not told last.
    counters: Option<String>,
    /// Who asked for a drain over HTTP.
    callers: Callers,
    progress: Progress,
    notifier: Notifier,
    /// What systemd should know.
    wanted: Wanted,
    kill_timeout: Duration,
    /// When to look whether Envoy lacks what it takes to ask it.
    advice_due: Option<Instant>,
}

impl Reporter {
    /// A reporter of a drainit that was born then, and stops Envoy within this time.
    pub fn new(born: Instant, notifier: Notifier, kill_timeout: Duration) -> Reporter {
        Reporter {
            born,
            started: born,
            seen: LastShown {
                state: State::Starting,
                reason: String::new(),
                drain: None,
                hold: None,
            },
            starts: 0,
            exit: None,
            failure: None,
            stopped: false,
            complaints: Complaints::default(),
            hidden: Vec::new(),
            counters: None,
            callers: Callers::default(),
            progress: Progress::default(),
            notifier,
            wanted: Wanted::default(),
            kill_timeout,
            advice_due: None,
        }
    }

    /// When there is something to say even if nothing happens.
    pub fn wake_at(&self) -> Option<Instant> {
        [
            self.progress.due(),
            self.callers.due(),
            self.advice_due,
            self.notifier.wake_at(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Whether systemd waits for a sign of life.
    pub fn is_beat_due(&self, now: Instant) -> bool {
        self.notifier.is_beat_due(now)
    }

    /// Somebody asked for a drain over HTTP.
    pub fn on_caller(&mut self, now: Instant, peer: &str) {
        if let Some(line) = self.callers.on_call(now, peer) {
            log::info!("{line}");
        }
    }

    /// A reload begins.
    pub fn begin_reload(&mut self) {
        self.notifier.begin_reload();
    }

    /// A reload has ended, with this result; `kept` is whether the next one follows at once.
    pub fn end_reload(&mut self, result: &Result<String, String>, kept: bool) {
        self.wanted.reload_failed = result.as_ref().err().map_or_else(String::new, |why| {
            let at = clock::rfc3339_seconds(SystemTime::now());
            format!("; reload failed at {at}: {why}")
        });
        if !kept {
            self.notifier.end_reload();
        }
    }

    /// Shows an Envoy that was just spawned, or again the one that was shown before it.
    pub fn on_other_envoy(&mut self, now: Instant) {
        self.started = now;
        self.hidden.clear();
        self.advice_due = Some(now + ADVICE);
    }

    /// Whether it is time to look why Envoy has told no admin address.
    pub fn is_advice_due(&self, now: Instant) -> bool {
        self.advice_due.is_some_and(|due| due <= now)
    }

    /// Says once what is to be changed, if anything is.
    pub fn advise(&mut self, now: Instant, advice: Advice) {
        self.advice_due = None;
        match advice {
            Advice::None => {}
            Advice::Change(what) => log::warn!("{what}"),
            Advice::Wait if now.saturating_duration_since(self.started) < START => {
                self.advice_due = Some(now + ADVICE_AGAIN);
            }
            Advice::Wait => log::warn!("{}", envoys::NO_ENVOY),
        }
    }

    /// Envoy was spawned; whether that was not the first time.
    pub fn on_start(&mut self) -> bool {
        self.starts += 1;
        self.exit = None;
        self.stopped = false;
        self.starts > 1
    }

    /// The Envoy that ran last has exited.
    pub fn on_exit(&mut self, end: End) {
        self.exit = Some(end);
        self.advice_due = None;
        log::info!(exit_code = end.exit.code(); "{} exited: {end}", end.who());
    }

    /// Envoy could not be started.
    pub fn cannot_start(&mut self, why: String) {
        self.failure = Some(why);
    }

    /// Logs what is worth it of an answer: that an Envoy which `starts`, or has its `admin_away`,
    /// gives none is not.
    pub fn on_answer(&mut self, now: Instant, reply: &AdminReply, starts: bool, admin_away: bool) {
        match &reply.answer {
            Err(failure) => {
                let why = &failure.why;
                match reply.ask {
                    ask if admin_away && ask.is_to_envoy() => log::debug!("{why}"),
                    // What to do about that is said once, by the advice.
                    _ if why == address::NOT_TOLD => log::debug!("{why}"),
                    Ask::ServerInfo => log::debug!("/server_info: {why}"),
                    // The interface answers; that it hides its counters is said once.
                    Ask::Activity => {
                        let is_new = self.counters.as_ref() != Some(why);
                        let level = if is_new {
                            log::Level::Warn
                        } else {
                            log::Level::Debug
                        };
                        log::log!(level, "{why}");
                        self.counters = Some(why.clone());
                    }
                    _ => self.complain(now, failure, starts),
                }
            }
            Ok(Answer::Closed) => self.complain(now, &hot_restart::CLOSED.to_owned().into(), false),
            Ok(_) if !reply.ask.is_to_envoy() => {}
            Ok(answer) => {
                self.advice_due = None;
                if self.complaints.end_silence() && !matches!(reply.ask, Ask::Ready) {
                    log::info!("envoy's admin interface answers again");
                }
                match (reply.ask, answer) {
                    (Ask::FailHealthCheck, _) => log::info!("envoy's health check is failed"),
                    (Ask::PassHealthCheck, _) => log::info!("envoy's health check passes again"),
                    (Ask::DrainListeners, _) => log::info!("envoy's listeners drain"),
                    (Ask::StopListeners, _) => log::info!("envoy stops accepting"),
                    (_, Answer::Version(version)) => log::info!("envoy's version is {version}"),
                    (Ask::Stats, Answer::Stats(load)) => self.tell_hidden(load),
                    _ => {}
                }
            }
        }
    }

    /// What Envoy does not tell is said once, with the remedy, and again where it is more or less.
    fn tell_hidden(&mut self, load: &Load) {
        if let Some(why) = &load.hidden
            && !self.hidden.contains(why)
        {
            log::warn!("{why}");
            self.hidden.push(why.clone());
        }
    }

    fn complain(&mut self, now: Instant, what: &Failure, starts: bool) {
        let starting = starts && now.saturating_duration_since(self.started) < START;
        let level = match !starting && self.complaints.is_news(now, what) {
            true => log::Level::Warn,
            false => log::Level::Debug,
        };
        log::log!(level, "{}", what.why);
    }

    /// Brings the snapshot up to date, and logs what has changed.
    pub fn publish(
        &mut self,
        now: Instant,
        board: &SharedSnapshot,
        state: State,
        reason: &str,
        (drain, hold): (Option<&drain::Drain>, Option<&drain::Drain>),
        code: Option<u8>,
    ) {
        let seen = LastShown {
            state,
            reason: reason.to_owned(),
            drain: drain.map(|drain| (drain.stops(), drain.outcome())),
            hold: hold.map(|hold| (hold.started(), hold.outcome())),
        };
        let over = matches!(state, State::Drained | State::Stopping | State::Gone);
        if let Some(line) = self.callers.count(now, over && self.seen.state != state) {
            log::info!("{line}");
        }
        self.stopped |= state == State::Stopping;
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
                self.note_hold(snapshot, now, hold);
                if let (State::Gone, Some(code)) = (state, code) {
                    snapshot.verdict = Some(self.verdict(snapshot, code).line);
                }
            });
            let held_anew = self.seen.hold != seen.hold && hold.is_some() && state == State::Held;
            if (self.seen.state, self.seen.reason.as_str()) != (state, reason) || held_anew {
                let snapshot = board.read().clone();
                let line = sentences::state(&snapshot);
                if self.seen.state != state || held_anew {
                    tell_state(&snapshot, &line);
                }
                self.wanted.status = line;
            }
            self.seen = seen;
            self.want(now, state, drain);
        }
        let waits = hold.is_some_and(|hold| hold.outcome().is_none());
        if state == State::Draining || state == State::Held && waits {
            let rate = drain.and_then(drain::Drain::arrival_rate);
            // Looked at, not copied: there may be thousands of listeners, and this is every turn.
            if let Some(line) = self.progress.tell(now, &board.read(), rate) {
                self.wanted.status = line;
            }
        } else {
            self.progress.end();
        }
        if self.notifier.is_beat_due(now) {
            self.notifier.beat(now, !is_stuck(&board.read(), now));
        }
        self.notifier.tell(now, &self.wanted);
    }

    /// What systemd should know of a new state.
    fn want(&mut self, now: Instant, state: State, drain: Option<&drain::Drain>) {
        let stops = drain.is_some_and(drain::Drain::stops);
        let wanted = &mut self.wanted;
        let serves = matches!(state, State::Live | State::Held);
        wanted.ready |= serves;
        if !serves {
            wanted.reload_failed.clear();
        }
        match state {
            State::Delaying | State::Draining => {
                wanted.stopping |= stops;
                let deadline = drain.map(|drain| self.born + drain.deadline());
                wanted.until = deadline.map(|deadline| deadline + self.kill_timeout);
            }
            State::Stopping => {
                wanted.stopping = true;
                wanted.until.get_or_insert(now + self.kill_timeout);
            }
            _ => wanted.until = None,
        }
    }

    fn note_drain(&self, snapshot: &mut Snapshot, now: Instant, drain: &drain::Drain) {
        let shown = snapshot
            .drain
            .get_or_insert_with(|| self.begin_drain(drain));
        shown.stops = drain.stops();
        if let (None, Some(outcome)) = (&shown.ended, drain.outcome()) {
            shown.came = drain.came();
            let lost = drain.loss();
            shown.lost = lost;
            let drain = snapshot.drain.as_ref();
            let ended = drain.map(|drain| sentences::end(drain, now, outcome, snapshot));
            if let Some(end) = &ended {
                notes::count_drain(&mut snapshot.drains, end, lost);
            }
            if let Some(drain) = &mut snapshot.drain {
                drain.ended = ended;
            }
        }
    }

    /// The wait of a hold, of which there may be several, one after the other.
    fn note_hold(&self, snapshot: &mut Snapshot, now: Instant, hold: Option<&drain::Drain>) {
        let Some(hold) = hold else {
            snapshot.hold = None;
            return;
        };
        let started = self.born + hold.started();
        let known = snapshot
            .hold
            .take()
            .filter(|shown| shown.started == started);
        let mut shown = known.unwrap_or_else(|| self.begin_drain(hold));
        if let (None, Some(outcome)) = (&shown.ended, hold.outcome()) {
            shown.lost = hold.loss();
            shown.ended = Some(sentences::hold_end(&shown, now, outcome, snapshot));
        }
        snapshot.hold = Some(shown);
    }

    fn begin_drain(&self, drain: &drain::Drain) -> DrainStatus {
        DrainStatus {
            cause: drain.cause().to_owned(),
            started: self.born + drain.started(),
            deadline: self.born + drain.deadline(),
            stops: drain.stops(),
            health_failed: None,
            listeners_draining: None,
            last_connection: None,
            came: None,
            lost: Loss::None,
            first: None,
            ended: None,
        }
    }

    /// The verdict on a drainit that ends with this code.
    pub fn verdict(&self, snapshot: &Snapshot, code: u8) -> Verdict {
        let last = snapshot.last_end.map(|last| last.end);
        let ending = Ending {
            failure: self.failure.as_deref(),
            // What it was judged to be since stands in the snapshot.
            exit: self.exit.and(last).or(self.exit),
            ran: self.starts > 0,
            stopped: self.stopped,
        };
        Verdict::new(ending, snapshot, code)
    }

    /// Leaves the last words where an orchestrator looks for them.
    pub fn say_last(&mut self, now: Instant, summary: &str) {
        write_termination_log(summary);
        summary.clone_into(&mut self.wanted.status);
        self.wanted.reload_failed.clear();
        self.notifier.tell(now, &self.wanted);
    }
}

fn tell_state(snapshot: &Snapshot, line: &str) {
    let ended = snapshot.wait().and_then(|wait| wait.ended.as_ref());
    let level = match snapshot.state {
        State::Drained | State::Held if ended.is_some_and(|end| end.is_cut) => log::Level::Warn,
        State::Live
        | State::Held
        | State::Waiting
        | State::Delaying
        | State::Draining
        | State::Drained => log::Level::Info,
        State::Restarting => log::Level::Warn,
        State::Starting | State::Stopping | State::Gone => log::Level::Debug,
    };
    log::log!(level, state = snapshot.state.name(); "{line}");
}

/// Whether Envoy lives and does not answer, and nothing is under way that would end that.
fn is_stuck(snapshot: &Snapshot, now: Instant) -> bool {
    snapshot.silence(now) >= ADMIN_LOST
        && matches!(snapshot.state, State::Live | State::Held | State::Drained)
}

/// Kubernetes shows what is there; elsewhere there is no such place.
fn write_termination_log(summary: &str) {
    let file = OpenOptions::new()
        .write(true)
        .truncate(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(TERMINATION_LOG);
    if let Ok(mut file) = file {
        let whole = |end: &usize| summary.is_char_boundary(*end);
        let end = (0..=TERMINATION_MAX.min(summary.len())).rev().find(whole);
        let words = summary.get(..end.unwrap_or_default()).unwrap_or_default();
        let _ = file.write_all(words.as_bytes());
    }
}
