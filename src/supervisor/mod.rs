//! The main loop: events in over one channel, decisions, actions out.
//!
//! A signal, a helper's report, the end of a child or the passing of time becomes an [`Input`];
//! the decision core ([`decide`]) answers with [`Action`]s, and this loop carries them out. It
//! waits in one place, `poll`, and for nothing else: whatever may block, a helper thread does.

mod backoff;
pub mod decide;
mod helpers;
mod report;
mod validator;
mod words;

use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::certificates::{Command, Report};
use crate::drain::{Ask, Time};
use crate::envoy::address::{Pipe, Place, stamp};
use crate::envoy::admin::{Job, Reply};
use crate::envoy::flags;
use crate::event::Event;
use crate::fault;
use crate::logging;
use crate::mailbox::{Mailbox, Waker};
use crate::notify::Notifier;
use crate::options::{Options, Restart};
use crate::process::{self, Exit, Signals, Spawn};
use crate::status::{Admin, Board, Envoy, Reload, Snapshot};

use decide::{Action, Core, Input, Order, Rules};
use helpers::Helpers;
use report::Reporter;
use validator::Validator;

/// Not for Envoy: they are between systemd and us.
const OURS: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// After a panic of the main loop itself, which must not happen, this long before the next turn:
/// if it happens again and again, it must not take the processor from Envoy.
const PANIC_PAUSE: Duration = Duration::from_millis(100);

/// How long the last answers and log lines may take.
const FAREWELL: Duration = Duration::from_millis(300);

/// Runs Envoy until it is over, and returns the exit code.
pub fn run(options: Options, line: Vec<OsString>, signals: Signals, waker: Waker) -> u8 {
    logging::start(options.log_format, options.log_level);
    process::become_subreaper();
    let mut supervisor = match Supervisor::new(options, line, signals, waker) {
        Ok(supervisor) => supervisor,
        Err(error) => {
            log::error!("cannot start: {error}");
            logging::flush(FAREWELL);
            return 1;
        }
    };
    supervisor.handle(Input::Tick);
    // From here on nothing ends this process but the decision to.
    loop {
        let turn = catch_unwind(AssertUnwindSafe(|| supervisor.turn()));
        if turn.is_err() {
            std::thread::sleep(PANIC_PAUSE);
        }
        if let Some(code) = supervisor.exit {
            supervisor.say_farewell(code);
            return code;
        }
    }
}

/// Envoy, while it runs.
struct Child {
    pid: i32,
    place: Place,
    pipe: Option<Pipe>,
}

struct Supervisor {
    options: Arc<Options>,
    line: Vec<OsString>,
    signals: Signals,
    events: Receiver<Event>,
    helpers: Helpers,
    core: Core,
    reporter: Reporter,
    validator: Validator,
    board: Board,
    born: Instant,
    child: Option<Child>,
    /// The number of the last question to Envoy's admin interface.
    job: u64,
    exit: Option<u8>,
}

impl Supervisor {
    fn new(
        options: Options,
        line: Vec<OsString>,
        signals: Signals,
        waker: Waker,
    ) -> std::io::Result<Supervisor> {
        let born = Instant::now();
        let (mailbox, events) = Mailbox::new(waker);
        let (http_waker, http_wakeups) = Waker::new()?;
        let mut snapshot = Snapshot::new(born);
        snapshot.excluded.clone_from(&options.exclude_listeners);
        let board = Board::new(snapshot, http_waker);
        let options = Arc::new(options);
        let rules = Rules {
            limits: options.limits.clone(),
            kill_timeout: options.kill_timeout,
            restart: options.restart == Restart::OnFailure,
            gated: options.has_certificates(),
        };
        let mut helpers = Helpers::new(options.clone(), board.clone(), http_wakeups, mailbox);
        helpers.start_due(born);
        let notifier = Notifier::new(|name| std::env::var_os(name), std::process::id(), born);
        let reporter = Reporter::new(born, notifier, options.kill_timeout);
        let seed = u64::from(std::process::id()) ^ born.elapsed().as_nanos() as u64;
        Ok(Supervisor {
            options,
            line,
            signals,
            events,
            helpers,
            core: Core::new(rules, seed),
            reporter,
            validator: Validator::default(),
            board,
            born,
            child: None,
            job: 0,
            exit: None,
        })
    }

    fn now(&self) -> Time {
        self.born.elapsed()
    }

    /// Waits for something to happen, and does what it calls for.
    fn turn(&mut self) {
        self.wait();
        fault::point("main");
        for signal in self.signals.take() {
            self.take_signal(signal);
        }
        while let Ok(event) = self.events.try_recv() {
            self.take_event(event);
        }
        self.read_admin_address();
        self.handle(Input::Tick);
        let now = Instant::now();
        if let Some((id, verdict)) = self.validator.proceed(&self.line, now) {
            self.helpers.tell(Command::Validated { id, verdict });
        }
        if self.reporter.is_beat_due(now) {
            // A sign of life is worth as much as is known of Envoy.
            self.handle(Input::Probe);
        }
        self.helpers.start_due(now);
        self.publish(now);
    }

    fn wait(&self) {
        let until = [
            self.core.wake_at().map(|at| self.born + at),
            self.helpers.wake_at(),
            self.reporter.wake_at(),
            self.validator.wake_at(),
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
        let pipe = self.child.as_ref().and_then(|child| child.pipe.as_ref());
        fds.extend(pipe.map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
        // EINTR is a signal, which is looked for anyway.
        let _ = poll(&mut fds, timeout);
    }

    fn take_signal(&mut self, signal: i32) {
        let name = process::signal_name(signal);
        let order = match signal {
            libc::SIGCHLD => return self.reap(),
            libc::SIGTERM | libc::SIGINT => Order::Stop,
            libc::SIGQUIT => Order::StopNow,
            libc::SIGUSR2 => Order::Drain,
            libc::SIGUSR1 => Order::ReopenLogs,
            libc::SIGHUP => return self.reload(),
            _ => {
                log::debug!("{name} means nothing here, and is not forwarded");
                return;
            }
        };
        log::info!(signal = name.as_str(); "{name}");
        self.handle(Input::Order(order, name));
    }

    fn take_event(&mut self, event: Event) {
        match event {
            Event::Shutdown(peer) => {
                log::info!("/shutdown from {peer}");
                self.handle(Input::Order(Order::Drain, format!("/shutdown from {peer}")));
            }
            Event::Probe => self.handle(Input::Probe),
            Event::Admin(reply) => self.take_reply(reply),
            Event::Certificates(report) => self.take_certificates(report),
            Event::ThreadEnded(name) => {
                self.helpers.ended(name, Instant::now());
                if name == "admin" {
                    // With it went the question that it was asked, if any.
                    self.answer_missing(self.job);
                }
            }
        }
    }

    fn take_reply(&mut self, reply: Reply) {
        if reply.number != self.job {
            return;
        }
        let now = Instant::now();
        if let (Some(child), Some(address)) = (&mut self.child, &reply.address)
            && let Place::File(..) = child.place
        {
            child.place = Place::Known(address.clone());
        }
        let state = self.core.state(self.now());
        self.reporter.take_answer(now, &reply, state);
        self.board
            .update(|snapshot| report::note_answer(snapshot, now, &reply));
        self.handle(Input::Answer(reply.ask, reply.answer.ok()));
    }

    /// The question of this number will get no answer.
    fn answer_missing(&mut self, number: u64) {
        if let Some(ask) = self.core.asked() {
            self.take_reply(Reply {
                number,
                ask,
                address: None,
                answer: Err("the thread that asks envoy's admin interface is not there".into()),
            });
        }
    }

    fn reap(&mut self) {
        let mut reaped = 0;
        let mut ended = None;
        while let Some((pid, exit)) = process::reap() {
            reaped += 1;
            if self.child.as_ref().is_some_and(|child| child.pid == pid) {
                ended = Some(exit);
            } else if let Some((id, verdict)) = self.validator.take_exit(pid, exit) {
                self.helpers.tell(Command::Validated { id, verdict });
            } else {
                log::debug!("reaped {pid}: {exit}");
            }
        }
        self.board
            .update_quietly(|snapshot| snapshot.reaped += reaped);
        if let Some(exit) = ended {
            self.take_exit(exit);
        }
    }

    fn take_certificates(&mut self, report: Report) {
        match report {
            Report::Waiting(which) => self.handle(Input::CertificatesMissing(which)),
            Report::FirstSetReady => self.handle(Input::CertificatesReady),
            Report::Validate { id, config } => self.validator.ask(id, config),
            Report::Status(secrets) => self
                .board
                .update(|snapshot| snapshot.certificates = secrets),
            Report::Reloaded(result) => self.reloaded(result),
        }
    }

    /// SIGHUP: somebody changed a file, and wants it read now.
    fn reload(&mut self) {
        log::info!("SIGHUP");
        self.reporter.begin_reload();
        if !self.helpers.tell(Command::CheckNow) {
            self.reloaded(if self.options.has_certificates() {
                Err("the certificate thread is not there; it is being started again".into())
            } else {
                Ok("no certificates are kept fresh here: nothing to reload".into())
            });
        }
    }

    fn reloaded(&mut self, result: Result<String, String>) {
        self.reporter.end_reload();
        match &result {
            Ok(line) => log::info!("reloaded: {line}"),
            Err(why) => log::warn!("not reloaded: {why}"),
        }
        self.board.update(|snapshot| {
            let number = snapshot.reload.as_ref().map_or(0, |reload| reload.number) + 1;
            snapshot.reload = Some(Reload { number, result });
        });
    }

    fn take_exit(&mut self, exit: Exit) {
        self.child = None;
        self.helpers.tell(Command::EnvoyGone);
        self.reporter.take_exit(exit);
        self.board.update(|snapshot| snapshot.envoy = None);
        self.handle(Input::Exited(exit));
    }

    fn read_admin_address(&mut self) {
        let Some(child) = &mut self.child else {
            return;
        };
        let Some(pipe) = &mut child.pipe else {
            return;
        };
        match pipe.read() {
            Ok(None) => {}
            Ok(Some(address)) => {
                log::debug!("envoy's admin interface is {address}");
                child.place = Place::Told(address);
                child.pipe = None;
                self.handle(Input::AdminKnown);
            }
            Err(why) => {
                log::debug!("{why}");
                child.pipe = None;
            }
        }
    }

    /// Lets the core decide, and does what it says.
    fn handle(&mut self, input: Input) {
        let now = self.now();
        for action in self.core.handle(now, input) {
            match action {
                Action::Spawn => self.spawn(),
                Action::Ask(ask) => self.ask(ask),
                Action::Terminate => self.signal_envoy(libc::SIGTERM),
                Action::Kill => {
                    log::warn!(
                        "envoy did not end on SIGTERM within {}: SIGKILL",
                        crate::duration::show(self.options.kill_timeout)
                    );
                    self.signal_envoy(libc::SIGKILL);
                }
                Action::ReopenLogs => self.signal_envoy(libc::SIGUSR1),
                Action::Exit(code) => self.exit = Some(code),
            }
        }
    }

    fn signal_envoy(&self, signal: i32) {
        if let Some(child) = &self.child {
            process::kill(child.pid, signal);
        }
    }

    fn ask(&mut self, ask: Ask) {
        self.job += 1;
        let place = self
            .child
            .as_ref()
            .map_or(Place::Unknown, |child| child.place.clone());
        let job = Job {
            number: self.job,
            ask,
            place,
        };
        if let Err(job) = self.helpers.ask(job) {
            self.answer_missing(job.number);
        }
    }

    fn spawn(&mut self) {
        let Some((program, args)) = self.line.split_first() else {
            return;
        };
        let program = program.clone();
        let mut args = args.to_vec();
        let mut pipe = None;
        let mut place = Place::Unknown;
        if let Some(address) = &self.options.admin_address {
            place = Place::Known(address.clone());
        } else if let Some(path) = flags::value(&args, "--admin-address-path") {
            let path = std::path::PathBuf::from(path);
            let before = stamp(&path);
            place = Place::File(path, before);
        } else if self.options.add_envoy_flags {
            pipe = Pipe::new()
                .inspect_err(|error| log::warn!("envoy cannot tell its admin address: {error}"))
                .ok();
        }
        if self.options.add_envoy_flags {
            let path = pipe.as_ref().and_then(Pipe::path);
            let limits = &self.options.limits;
            let drain_time = flags::drain_time(limits.timeout, limits.delay);
            flags::complete(&mut args, drain_time, path);
        }
        let spawned = process::spawn(&Spawn {
            program: &program,
            args: &args,
            without: &OURS,
            inherit: pipe.as_ref().and_then(Pipe::write_end),
            output: None,
        });
        match spawned {
            Ok(pid) => {
                if let Some(pipe) = &mut pipe {
                    pipe.close_write_end();
                }
                log::info!(pid = pid; "envoy started, pid {pid}: {}", show_line(&program, &args));
                let again = self.reporter.take_start();
                self.child = Some(Child { pid, place, pipe });
                self.board.update(|snapshot| {
                    snapshot.restarts += u64::from(again);
                    snapshot.admin = Admin {
                        errors: snapshot.admin.errors,
                        ..Default::default()
                    };
                    snapshot.envoy = Some(Envoy {
                        pid,
                        version: None,
                        started: Instant::now(),
                    });
                });
                self.helpers.tell(Command::EnvoyStarted);
                self.handle(Input::Spawned);
            }
            Err(error) => {
                let (code, why) = process::spawn_failure(&program, &error);
                log::error!("{why}");
                self.reporter.cannot_start(why);
                self.handle(Input::SpawnFailed(code));
            }
        }
    }

    /// Brings snapshot and log up to what the core has decided.
    fn publish(&mut self, now: Instant) {
        let state = self.core.state(self.now());
        let drain = self.core.drain();
        self.reporter
            .publish(now, &self.board, state, self.core.reason(), drain);
    }

    /// Everybody who waits gets an answer, and the log its last line.
    fn say_farewell(&mut self, code: u8) {
        self.publish(Instant::now());
        let summary = self.reporter.summary(&self.board.read().clone(), code);
        self.reporter.say_last(Instant::now(), &summary);
        // The HTTP thread ends once it has answered everybody.
        let until = Instant::now() + FAREWELL;
        while self.helpers.runs_http() {
            let left = until.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(Event::ThreadEnded(name)) => self.helpers.ended(name, until),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        logging::flush(FAREWELL);
    }
}

fn show_line(program: &OsStr, args: &[OsString]) -> String {
    let words = std::iter::once(program).chain(args.iter().map(OsString::as_os_str));
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}
