//! The main loop: events in over one channel, decisions, actions out.
//!
//! A signal, a helper's report, the end of a child or the passing of time becomes an [`Input`];
//! the decision core ([`decide`]) answers with [`Action`]s, and this loop carries them out. It
//! waits in one place, `poll`, and for nothing else: whatever may block, a helper thread does.

mod backoff;
mod callers;
mod child;
mod complaints;
mod copies;
pub mod decide;
mod endings;
mod envoys;
mod event;
mod follow;
mod hangs;
mod helpers;
mod holds;
mod hot_restart;
mod inputs;
mod leaving;
mod notes;
mod probation;
mod progress;
mod reload;
mod report;
mod sds_files;
mod sentences;
mod trials;
mod verdict;

use std::ffi::OsString;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::certificates::CertificateCommand;
use crate::drain::Time;
use crate::envoy::admin::Job;
use crate::fault;
use crate::logging;
use crate::mailbox::{Inbox, Mailbox, Waker};
use crate::notify::Notifier;
use crate::options::{self, Options, Restart};
use crate::process::{self, Signals, cgroup};
use crate::status::hot_restart::HotRestart;
use crate::status::{Admin, EnvoyStatus, SharedSnapshot, Snapshot, State};

use copies::Copies;
use decide::{Action, Core, Input, Rules};
use envoys::Envoys;
use event::Event;
use follow::Follow;
use hangs::Hangs;
use helpers::Helpers;
use holds::Holds;
use leaving::{Leaving, Sent};
use reload::Reloading;
use report::Reporter;
use sds_files::SdsFiles;
use trials::Trials;

/// Variables that Envoy does not get: they are between systemd and us.
const OURS: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// After a panic of the main loop itself, which must not happen, this long before the next turn:
/// if it happens again and again, it must not take the processor from Envoy.
const PANIC_PAUSE: Duration = Duration::from_millis(100);

/// The exit code of a command line that cannot work.
const USAGE: u8 = 2;

/// `--watch-config` without a file.
const NO_FILE: &str =
    "--watch-config watches the file of Envoy's -c: give that, as in `-- envoy -c envoy.yaml`";

/// How long the last answers and log lines may take.
const FAREWELL: Duration = Duration::from_millis(300);

/// Runs Envoy until it is over, and returns the exit code.
pub fn run(options: Options, line: Vec<OsString>, signals: Signals, waker: Waker) -> u8 {
    logging::start(&options);
    let variables = std::env::vars_os().map(|(name, value)| (name.to_string_lossy().into(), value));
    for stray in options::stray_variables(variables.collect()) {
        log::warn!("{stray}");
    }
    process::become_subreaper();
    let mut supervisor = match Supervisor::new(options, line, signals, waker) {
        Ok(supervisor) => supervisor,
        Err((code, why)) => {
            log::error!("{why}");
            logging::flush(FAREWELL);
            return code;
        }
    };
    // From here on nothing ends this process but the decision to.
    loop {
        let turn = catch_unwind(AssertUnwindSafe(|| supervisor.turn()));
        if let Some(code) = supervisor.exit {
            supervisor.say_farewell(code);
            return code;
        }
        match turn {
            Ok(()) => supervisor.wait(),
            Err(_) => std::thread::sleep(PANIC_PAUSE),
        }
    }
}

struct Supervisor {
    options: Arc<Options>,
    signals: Signals,
    events: Inbox<Event>,
    helpers: Helpers,
    core: Core,
    /// Whether somebody waits for the end of the question in flight.
    hurries: Arc<AtomicBool>,
    reporter: Reporter,
    trials: Trials,
    envoys: Envoys,
    board: SharedSnapshot,
    born: Instant,
    /// How many processes here the kernel had killed for their memory when Envoy was spawned.
    oom_kills: Option<u64>,
    reloading: Reloading,
    sds_files: SdsFiles,
    holds: Holds,
    follow: Option<Follow>,
    hangs: Hangs,
    /// Whether drainit has looked for an Envoy behind a start script.
    identified: bool,
    sent: Sent,
    /// Envoy is over; what it leaves behind is not yet.
    leaving: Option<Leaving>,
    exit: Option<u8>,
}

impl Supervisor {
    fn new(
        options: Options,
        line: Vec<OsString>,
        signals: Signals,
        waker: Waker,
    ) -> Result<Supervisor, (u8, String)> {
        let born = Instant::now();
        let (mailbox, events) = Mailbox::new(Some(waker));
        let waker = || Waker::new().map_err(|error| (1, format!("cannot start: {error}")));
        let ((http_waker, http_wakeups), jobs) = (waker()?, waker()?);
        let mut snapshot = Snapshot::new(born);
        snapshot.excluded.clone_from(&options.exclude_listeners);
        snapshot.listen = options.listen.to_string();
        snapshot.hot_restart = options.hot_restart.then(HotRestart::default);
        let board = SharedSnapshot::new(snapshot, http_waker);
        let options = Arc::new(options);
        // What cannot work is refused as a wrong option is.
        let envoys = Envoys::new(options.clone(), line).map_err(|why| (USAGE, why))?;
        let follow = match envoys.config_file().filter(|_| options.watch_config) {
            Some(file) => {
                let copies = Copies::new(file)
                    .map_err(|error| (1, format!("cannot watch the configuration: {error}")))?;
                Some(Follow::new(copies))
            }
            None if options.watch_config => return Err((USAGE, NO_FILE.into())),
            None => None,
        };
        let rules = Rules {
            limits: options.limits.clone(),
            kill_timeout: options.kill_timeout,
            restart: options.restart == Restart::OnFailure,
            gated: options.has_certificates(),
            old_time: envoys.old_time(),
        };
        let helpers = Helpers::new(
            options.clone(),
            board.clone(),
            http_wakeups,
            jobs,
            mailbox,
            follow.as_ref().map(|follow| follow.copies().clone()),
        );
        let watched = options.has_certificates() || envoys.tells_by_file() || follow.is_some();
        let hangs = Hangs::new(helpers.pulses().clone(), watched.then_some(born));
        let notifier = Notifier::new(|name| std::env::var_os(name), std::process::id(), born);
        let reporter = Reporter::new(born, notifier, options.kill_timeout);
        // The kernel's randomness: every container's pid is 1, and all may start at once.
        let seed = RandomState::new().build_hasher().finish();
        Ok(Supervisor {
            options,
            signals,
            events,
            helpers,
            core: Core::new(rules, seed),
            hurries: Arc::default(),
            reporter,
            trials: Trials::default(),
            envoys,
            board,
            born,
            oom_kills: None,
            reloading: Reloading::default(),
            sds_files: SdsFiles::default(),
            holds: Holds::default(),
            follow,
            hangs,
            identified: false,
            sent: Sent::default(),
            leaving: None,
            exit: None,
        })
    }

    fn now(&self) -> Time {
        self.born.elapsed()
    }

    /// Does what everything that has happened calls for.
    fn turn(&mut self) {
        fault::point("main");
        for signal in self.signals.take() {
            self.on_signal(signal);
        }
        while let Some(event) = self.events.take() {
            self.on_event(event);
        }
        self.envoys.answer_for_old();
        if self.envoys.read_address() {
            self.handle(Input::AdminKnown);
        }
        let now = Instant::now();
        self.sds_files.hurry(now);
        self.handle(Input::Tick);
        while let Some(verdict) = self.trials.proceed(now) {
            self.on_verdict(verdict);
        }
        self.hurry_reload(now);
        self.go_on_trying();
        self.go_on_following();
        self.look_for_hangs(now);
        if self.reporter.is_beat_due(now) {
            // A sign of life is worth as much as is known of Envoy.
            self.handle(Input::Probe);
        }
        self.helpers.start_due(now);
        if self.reporter.is_advice_due(now) {
            let advice = self.envoys.advice();
            self.reporter.advise(now, advice);
        }
        self.publish(now);
        self.publish_answers();
        self.go_on_leaving();
    }

    fn wait(&self) {
        let until = [
            self.core.wake_at().map(|at| self.born + at),
            self.leaving
                .as_ref()
                .map(|leaving| self.born + leaving.wake_at()),
            self.helpers.wake_at(),
            self.reporter.wake_at(),
            self.trials.wake_at(),
            self.reloading.wake_at(),
            self.sds_files.wake_at(),
            self.follow_wake_at(),
            self.hangs.wake_at(),
        ];
        let timeout = until
            .into_iter()
            .flatten()
            .min()
            .map_or(PollTimeout::NONE, |until| {
                // Rounded up: a turn that comes too early would find nothing to do, and spin.
                let left =
                    until.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            });
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        let pipe = self.envoys.pipe().map(AsFd::as_fd);
        let stand_in = self.envoys.stand_in().map(AsFd::as_fd);
        let others = pipe.into_iter().chain(stand_in);
        fds.extend(others.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        // EINTR is a signal, which is looked for anyway.
        let _ = poll(&mut fds, timeout);
    }

    /// Lets the core decide, and does what it says.
    fn handle(&mut self, input: Input) {
        let now = self.now();
        let actions = self.core.handle(now, input);
        let hurries = self.core.hurries(now);
        self.hurries.store(hurries, Ordering::Relaxed);
        for action in actions {
            match action {
                Action::Spawn => self.spawn(),
                Action::Judge => self.judge(),
                Action::Ask(_) => self.ask(),
                Action::Terminate => {
                    self.sent.terminated.get_or_insert(now);
                    self.envoys.terminate();
                }
                Action::TerminateRest => self.envoys.terminate_rest(),
                Action::Kill => {
                    log::warn!("envoy has not ended on SIGTERM: it is sent SIGKILL");
                    self.sent.killed = Some(now);
                    self.envoys.kill_all();
                }
                Action::ReopenLogs => self.envoys.reopen_logs(),
                Action::Exit(code) => self.leave(now, code),
                Action::HotRestart(step) => self.on_step(now, step),
                Action::HoldEnded(how) => self.answer_holders(how),
                Action::ResumeEnded(how) => self.answer_resumers(how),
            }
        }
    }

    fn ask(&mut self) {
        let Some(question) = self.core.asked() else {
            return;
        };
        let starts = self.core.generations().is_starting();
        let job = Job {
            number: question.number,
            ask: question.ask,
            place: self.envoys.place(),
            owner: self.envoys.pid(),
            processes: self.envoys.processes(starts),
            drains: self.core.is_draining(),
            winds_down: self.core.is_draining() || self.core.drain().is_some(),
            hurries: self.hurries.clone(),
        };
        if self.helpers.ask(job).is_err() {
            self.on_missing_answer();
        }
    }

    fn spawn(&mut self) {
        if self.awaits_sds_files() {
            // The core says so again at each turn.
            return;
        }
        match self.envoys.spawn() {
            Ok(pid) => {
                let again = self.reporter.on_start();
                self.board
                    .update(|snapshot| snapshot.restarts += u64::from(again));
                self.note_start(pid);
                self.helpers.tell(CertificateCommand::EnvoyStarted);
                self.note_configuration();
                self.handle(Input::Spawned);
            }
            Err(error) => {
                let (code, why) = process::spawn_failure(self.envoys.program(), &error);
                log::error!("{why}");
                self.reporter.cannot_start(why);
                self.handle(Input::SpawnFailed(code));
            }
        }
    }

    /// From now on, this is the Envoy to ask and to show.
    fn note_start(&mut self, pid: i32) {
        self.oom_kills = cgroup::oom_kills();
        let now = Instant::now();
        self.identified = false;
        self.sent = Sent::default();
        self.reporter.on_other_envoy(now);
        self.board.update(|snapshot| {
            snapshot.admin = Admin {
                errors: snapshot.admin.errors,
                ..Admin::default()
            };
            snapshot.load = None;
            snapshot.load_at = None;
            snapshot.envoy = Some(EnvoyStatus {
                pid,
                version: None,
                started: now,
            });
        });
        self.note_generations();
    }

    /// Has the configuration file read, which the Envoy that was spawned just now reads.
    fn note_configuration(&self) {
        if !self.envoys.runs_copy() {
            self.helpers.note_configuration();
            self.begin_following();
        }
    }

    /// Brings snapshot and log up to what the core has decided.
    fn publish(&mut self, now: Instant) {
        self.publish_hot_restart();
        let state = self.core.state(self.now());
        let backs_off = state == State::Restarting && !self.trials.asks_of_start();
        let next = self.core.wake_at().filter(|_| backs_off);
        let next = next.map(|at| self.born + at);
        let unconfirmed = self.core.is_hold_unconfirmed();
        self.board.update_quietly(|snapshot| {
            snapshot.next_start = next;
            snapshot.hold_unconfirmed = unconfirmed;
        });
        let wait = (self.core.drain(), self.core.hold());
        let code = self.leaving.as_ref().map(|leaving| leaving.code);
        self.reporter
            .publish(now, &self.board, state, self.core.reason(), wait, code);
    }

    /// Everybody who waits gets an answer, and the log its last line.
    fn say_farewell(&mut self, code: u8) {
        self.publish(Instant::now());
        let verdict = self.reporter.verdict(&self.board.read().clone(), code);
        let line = match verdict.clients.as_str() {
            "" => verdict.line.clone(),
            clients => format!("{}; who was cut: {clients}", verdict.line),
        };
        logging::verdict(verdict.level, &line, verdict.fields);
        self.reporter.say_last(Instant::now(), &verdict.line);
        // The HTTP thread ends once it has answered everybody.
        let until = Instant::now() + FAREWELL;
        while self.helpers.runs_http() {
            let left = until.saturating_duration_since(Instant::now());
            match self.events.wait(left) {
                Some(Event::ThreadEnded(thread)) => self.helpers.on_thread_end(thread, until),
                Some(_) => {}
                None => break,
            }
        }
        self.envoys.clean_up();
        if let Some(follow) = &self.follow {
            follow.copies().remove();
        }
        logging::flush(FAREWELL);
    }
}
