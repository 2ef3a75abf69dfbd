//! The helper threads: started, noticed when they end, started again.

use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use crate::control;
use crate::envoy::admin::{self, Job};
use crate::event::Event;
use crate::http::{self, Listen, Listeners};
use crate::mailbox::{Mailbox, Wakeups};
use crate::options::Options;
use crate::status::Board;

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
    name: &'static str,
}

impl Drop for Notice {
    fn drop(&mut self) {
        self.mailbox.send(Event::ThreadEnded(self.name));
    }
}

/// One helper thread.
struct Helper {
    name: &'static str,
    /// When to start it (again); none while it runs, or when it is not wanted.
    due: Option<Instant>,
    started: Instant,
    pause: Duration,
}

impl Helper {
    fn new(name: &'static str, wanted: bool, now: Instant) -> Helper {
        Helper {
            name,
            due: wanted.then_some(now),
            started: now,
            pause: PAUSE_FIRST,
        }
    }

    fn ended(&mut self, now: Instant) {
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
        body: impl FnOnce() + Send + 'static,
    ) -> bool {
        self.due = None;
        self.started = now;
        let notice = Notice {
            mailbox: mailbox.clone(),
            name: self.name,
        };
        let thread = thread::Builder::new()
            .name(self.name.into())
            .stack_size(STACK);
        // If it cannot start, the notice is dropped with the closure, and tells.
        match thread.spawn(move || {
            let _notice = notice;
            body();
        }) {
            Ok(_) => true,
            Err(error) => {
                log::warn!("thread {} cannot be started: {error}", self.name);
                false
            }
        }
    }
}

/// All of them.
pub struct Helpers {
    mailbox: Mailbox<Event>,
    board: Board,
    options: Arc<Options>,
    http_wakeups: Arc<Wakeups>,
    jobs: Option<Sender<Job>>,
    admin: Helper,
    http: Helper,
}

impl Helpers {
    /// None of them runs yet.
    pub fn new(
        options: Arc<Options>,
        board: Board,
        http_wakeups: Wakeups,
        mailbox: Mailbox<Event>,
    ) -> Helpers {
        let now = Instant::now();
        Helpers {
            mailbox,
            board,
            options,
            http_wakeups: Arc::new(http_wakeups),
            jobs: None,
            admin: Helper::new("admin", true, now),
            http: Helper::new("http", true, now),
        }
    }

    /// Starts those that are due.
    pub fn start_due(&mut self, now: Instant) {
        let due = |helper: &Helper| helper.due.is_some_and(|due| due <= now);
        if due(&self.admin) {
            let (sender, jobs) = mpsc::channel();
            let (options, mailbox) = (self.options.clone(), self.mailbox.clone());
            let started = self.admin.start(&self.mailbox, now, move || {
                admin::work(&jobs, &options.exclude_listeners, &mailbox);
            });
            self.jobs = started.then_some(sender);
        }
        if due(&self.http) {
            let (options, mailbox) = (self.options.clone(), self.mailbox.clone());
            let (board, wakeups) = (self.board.clone(), self.http_wakeups.clone());
            self.http.start(&self.mailbox, now, move || {
                serve(&options, &board, &wakeups, &mailbox);
            });
        }
    }

    /// When [`Helpers::start_due`] has something to do.
    pub fn wake_at(&self) -> Option<Instant> {
        [self.admin.due, self.http.due].into_iter().flatten().min()
    }

    /// A thread ended.
    pub fn ended(&mut self, name: &str, now: Instant) {
        match name {
            "admin" => {
                self.jobs = None;
                self.admin.ended(now);
            }
            "http" => self.http.ended(now),
            _ => {}
        }
    }

    /// Whether the HTTP thread runs.
    pub fn runs_http(&self) -> bool {
        self.http.due.is_none()
    }

    /// Hands a question to the admin thread; gives it back if that is not there.
    pub fn ask(&mut self, job: Job) -> Result<(), Job> {
        match &self.jobs {
            Some(jobs) => jobs.send(job).map_err(|failed| failed.0),
            None => Err(job),
        }
    }
}

fn serve(options: &Options, board: &Board, wakeups: &Wakeups, mailbox: &Mailbox<Event>) {
    let control = Listen::Abstract(control::socket_name(std::process::id()));
    let mut listeners = Listeners::new([options.listen.clone(), control]);
    if let Err(error) = http::serve(
        &mut listeners,
        board,
        wakeups,
        mailbox,
        &options.shutdown_from,
    ) {
        log::warn!("health, status and metrics: {error}");
    }
}
