//! The helper threads: started, noticed when they end, started again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::copies::{self, Copies};
use super::event::{Event, Thread};
use crate::certificates::read::{Files, Source};
use crate::certificates::{self, CertificateCommand, CheckTimes};
use crate::envoy::admin::{self, AdminReport, Job};
use crate::envoy::fetch;
use crate::envoy::kernel::Measure;
use crate::http::{self, BoundSockets, Listen, control};
use crate::mailbox::{Mailbox, Waker, Wakeups};
use crate::options::Options;
use crate::process;
use crate::pulse::Pulse;
use crate::status::SharedSnapshot;

/// Before a thread that ended is started again: this at first, doubling up to [`PAUSE_LAST`].
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_LAST: Duration = Duration::from_secs(5);

/// A thread that lasted this long starts the pauses anew.
const LASTED: Duration = Duration::from_secs(60);

/// musl's default is 128 KB; ours are shallow, and nothing recurses.
const STACK: usize = 128 * 1024;

/// Tells the main thread when a helper thread ends, also by a panic.
struct Notice {
    mailbox: Mailbox<Event>,
    thread: Thread,
}

impl Drop for Notice {
    fn drop(&mut self) {
        self.mailbox.send(Event::ThreadEnded(self.thread));
    }
}

/// A helper thread.
struct Helper {
    thread: Thread,
    /// When to start the thread (again); none while it runs, or when it is not wanted.
    due: Option<Instant>,
    started: Instant,
    pause: Duration,
}

impl Helper {
    fn new(thread: Thread, wanted: bool, now: Instant) -> Helper {
        Helper {
            thread,
            due: wanted.then_some(now),
            started: now,
            pause: PAUSE_FIRST,
        }
    }

    fn on_end(&mut self, now: Instant) {
        if now.saturating_duration_since(self.started) >= LASTED {
            self.pause = PAUSE_FIRST;
        }
        self.due = Some(now + self.pause);
        self.pause = (self.pause * 2).min(PAUSE_LAST);
    }

    fn start(
        &mut self,
        mailbox: &Mailbox<Event>,
        now: Instant,
        body: Box<dyn FnOnce() + Send>,
    ) -> bool {
        self.due = None;
        self.started = now;
        let notice = Notice {
            mailbox: mailbox.clone(),
            thread: self.thread,
        };
        // If it cannot start, the notice is dropped with the closure, and tells.
        let body = move || {
            let _notice = notice;
            body();
        };
        match process::start_thread(self.thread.name(), STACK, Box::new(body)) {
            Ok(()) => true,
            Err(error) => {
                log::warn!("thread {} cannot be started: {error}", self.thread.name());
                false
            }
        }
    }
}

/// What files the threads are at: they may hang there.
#[derive(Clone, Debug, Default)]
pub struct Pulses {
    /// The thread that asks Envoy's admin interface, whose address may be in a file.
    pub admin: Pulse,
    /// The thread that keeps the certificates fresh.
    pub certificates: Pulse,
    /// The thread that compares the configuration file.
    pub configuration: Pulse,
}

/// All helper threads.
pub struct Helpers {
    mailbox: Mailbox<Event>,
    board: SharedSnapshot,
    options: Arc<Options>,
    http_wakeups: Arc<Wakeups>,
    /// What wakes the thread that asks Envoy's admin interface.
    job_waker: Waker,
    job_wakeups: Arc<Wakeups>,
    jobs: Option<Mailbox<Job>>,
    commands: Option<Mailbox<CertificateCommand>>,
    envoy_runs: bool,
    /// What files the threads are at that look at some.
    pulses: Pulses,
    admin: Helper,
    http: Helper,
    certificates: Helper,
    /// Compares the configuration file.
    configuration: Helper,
    copies: Option<Copies>,
    /// Where the configuration thread is told that Envoy was started.
    started: Option<Mailbox<()>>,
}

impl Helpers {
    /// The helper threads, of which none runs yet.
    pub fn new(
        options: Arc<Options>,
        board: SharedSnapshot,
        http_wakeups: Wakeups,
        (job_waker, job_wakeups): (Waker, Wakeups),
        mailbox: Mailbox<Event>,
        copies: Option<Copies>,
    ) -> Helpers {
        let now = Instant::now();
        let certificates = Helper::new(Thread::Certificates, options.has_certificates(), now);
        if let Some(config) = certificates_config(&options) {
            board.update_quietly(|snapshot| snapshot.certificates = config.unread());
        }
        Helpers {
            mailbox,
            board,
            options,
            http_wakeups: Arc::new(http_wakeups),
            job_waker,
            job_wakeups: Arc::new(job_wakeups),
            jobs: None,
            commands: None,
            envoy_runs: false,
            pulses: Pulses::default(),
            certificates,
            configuration: Helper::new(Thread::Configuration, copies.is_some(), now),
            copies,
            started: None,
            admin: Helper::new(Thread::Admin, true, now),
            http: Helper::new(Thread::Http, true, now),
        }
    }

    /// Starts the threads that are due.
    pub fn start_due(&mut self, now: Instant) {
        let due = |helper: &Helper| helper.due.is_some_and(|due| due <= now);
        if due(&self.admin) {
            let (sender, jobs) = Mailbox::new(Some(self.job_waker.clone()));
            let (options, mailbox) = (self.options.clone(), self.mailbox.clone());
            let (wakeups, pulse) = (self.job_wakeups.clone(), self.pulses.admin.clone());
            let work = Box::new(move || {
                let measure = Measure {
                    excluded: &options.exclude_listeners,
                    settle: options.limits.settle,
                };
                let report = |report| {
                    mailbox.send(match report {
                        AdminReport::Reply(reply) => Event::Admin(reply),
                        AdminReport::ConnectionEnded => Event::ConnectionEnded,
                    });
                };
                admin::work((&jobs, &wakeups), measure, &report, &pulse);
            });
            let started = self.admin.start(&self.mailbox, now, work);
            self.jobs = started.then_some(sender);
        }
        if due(&self.certificates)
            && let Some(config) = certificates_config(&self.options)
        {
            // Without a descriptor for it there is none to watch the files with either.
            let (waker, wakeups) = Waker::new().ok().unzip();
            let (sender, commands) = Mailbox::new(waker);
            if self.envoy_runs {
                sender.send(CertificateCommand::EnvoyStarted);
            }
            let (board, mailbox) = (self.board.clone(), self.mailbox.clone());
            let pulse = self.pulses.certificates.clone();
            let work = Box::new(move || {
                let admin = |path: &str| get(&board, path);
                let report = |report| mailbox.send(Event::Certificates(report));
                let commands = (&commands, wakeups);
                certificates::run(&config, admin, &report, commands, &pulse);
            });
            let started = self.certificates.start(&self.mailbox, now, work);
            self.commands = started.then_some(sender);
        }
        if due(&self.configuration)
            && let Some(copies) = self.copies.clone()
        {
            let (sender, started) = Mailbox::new(None);
            if self.envoy_runs {
                sender.send(());
            }
            let (mailbox, pulse) = (self.mailbox.clone(), self.pulses.configuration.clone());
            let work = Box::new(move || {
                let report = |word| mailbox.send(Event::Configuration(word));
                copies::work(&copies, &started, &report, &pulse);
            });
            let runs = self.configuration.start(&self.mailbox, now, work);
            self.started = runs.then_some(sender);
        }
        if due(&self.http) {
            let (options, mailbox) = (self.options.clone(), self.mailbox.clone());
            let (board, wakeups) = (self.board.clone(), self.http_wakeups.clone());
            let work = Box::new(move || {
                serve(&options, &board, &wakeups, &mailbox);
            });
            self.http.start(&self.mailbox, now, work);
        }
    }

    /// Has the configuration file read: Envoy was started just now.
    pub fn note_configuration(&self) {
        if let Some(started) = &self.started {
            started.send_instead((), |_, _| true);
        }
    }

    /// What files the threads are at.
    pub fn pulses(&self) -> &Pulses {
        &self.pulses
    }

    /// When [`Helpers::start_due`] has something to do.
    pub fn wake_at(&self) -> Option<Instant> {
        let all = [
            &self.admin,
            &self.http,
            &self.certificates,
            &self.configuration,
        ];
        all.into_iter().filter_map(|helper| helper.due).min()
    }

    /// A thread ended.
    pub fn on_thread_end(&mut self, thread: Thread, now: Instant) {
        match thread {
            Thread::Admin => {
                self.jobs = None;
                self.admin.on_end(now);
            }
            Thread::Configuration => {
                self.started = None;
                self.configuration.on_end(now);
            }
            Thread::Http => self.http.on_end(now),
            Thread::Certificates => {
                self.commands = None;
                self.certificates.on_end(now);
            }
        }
    }

    /// Tells the certificate thread something; whether there is one to be told.
    pub fn tell(&mut self, command: CertificateCommand) -> bool {
        match command {
            CertificateCommand::EnvoyStarted => self.envoy_runs = true,
            CertificateCommand::EnvoyGone => self.envoy_runs = false,
            _ => {}
        }
        let Some(commands) = &self.commands else {
            return false;
        };
        commands.send_instead(command, CertificateCommand::replaces);
        true
    }

    /// Whether the HTTP thread runs.
    pub fn runs_http(&self) -> bool {
        self.http.due.is_none()
    }

    /// Hands a question to the admin thread; gives it back if that is not there.
    pub fn ask(&mut self, job: Job) -> Result<(), Job> {
        // The first question comes with Envoy's start, and the threads are started after that.
        if self.jobs.is_none() {
            self.start_due(Instant::now());
        }
        match &self.jobs {
            Some(jobs) => {
                // Who asks another has no use for the answer to the one before.
                jobs.send_instead(job, |_, _| true);
                Ok(())
            }
            None => Err(job),
        }
    }
}

fn serve(options: &Options, board: &SharedSnapshot, wakeups: &Wakeups, mailbox: &Mailbox<Event>) {
    let [known, secret] = control::own_names().map(Listen::Abstract);
    let mut listeners = BoundSockets::new([options.listen.clone(), known, secret]);
    if let Err(error) = http::serve(
        &mut listeners,
        board,
        wakeups,
        &|wish| mailbox.send(Event::Http(wish)),
        &options.shutdown_from,
    ) {
        log::warn!("health, status and metrics cannot be served: {error}");
    }
}

/// What the certificate thread asks of Envoy.
fn get(board: &SharedSnapshot, path: &str) -> Result<String, String> {
    let (address, peer) = {
        let admin = &board.read().admin;
        (admin.address.clone(), admin.peer)
    };
    let address = address.ok_or("envoy's admin address is not known yet")?;
    fetch::get(peer, &address, path)
}

fn certificates_config(options: &Options) -> Option<certificates::CertificateSettings> {
    let xds = options.cert_file.as_ref().zip(options.key_file.as_ref());
    let xds = xds.map(|(cert, key)| {
        let pair = Source::Pair {
            cert: cert.clone(),
            key: key.clone(),
            staple: None,
        };
        let trust = options
            .ca_file
            .clone()
            .map(|ca| Source::Trust { ca, crl: None });
        Files(std::iter::once(pair).chain(trust).collect())
    });
    Some(certificates::CertificateSettings {
        xds,
        secrets: [&*options.secrets, &options.validations].concat(),
        resources: options.resources_dir.clone()?,
        check: CheckTimes {
            every: options.certificate_check,
            given: options.certificate_check_given,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificates::CertificateCommand::*;
    use crate::status::Snapshot;

    #[test]
    fn a_thread_that_hangs_has_few_commands_to_take_whatever_it_was_told_and_in_their_order() {
        let (waker, wakeups) = Waker::new().unwrap();
        let (job_waker, job_wakeups) = Waker::new().unwrap();
        let mut helpers = Helpers::new(
            Arc::default(),
            SharedSnapshot::new(Snapshot::new(Instant::now()), waker),
            wakeups,
            (job_waker, job_wakeups),
            Mailbox::new(None).0,
            None,
        );
        let (mailbox, commands) = Mailbox::new(None);
        assert!(!helpers.tell(CheckNow(1)), "nobody is there");
        helpers.commands = Some(mailbox);
        let verdict = Ok(());
        assert!(helpers.tell(Validated { id: 1, verdict }));
        for number in 1..=100_000 {
            helpers.tell(EnvoyReplaced);
            helpers.tell(CheckNow(number));
            helpers.tell(EnvoyGone);
            helpers.tell(CheckPublished(number));
            helpers.tell(EnvoyStarted);
        }
        assert!(matches!(commands.take(), Some(Validated { id: 1, .. })));
        assert!(matches!(commands.take(), Some(CheckNow(100_000))));
        assert!(matches!(commands.take(), Some(EnvoyGone)));
        assert!(matches!(commands.take(), Some(CheckPublished(100_000))));
        assert!(matches!(commands.take(), Some(EnvoyStarted)));
        assert!(commands.take().is_none());
        for command in [EnvoyReplaced, CheckNow(1), CheckNow(2)] {
            helpers.tell(command);
        }
        // What the Envoy before had read is not to be confirmed by the next one.
        assert!(matches!(commands.take(), Some(EnvoyReplaced)));
        assert!(matches!(commands.take(), Some(CheckNow(2))));
    }
}
