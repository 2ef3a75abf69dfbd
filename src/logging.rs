//! The log: on stderr, one line an event, and never in the way.
//!
//! A pipe that nobody reads blocks its writer, and the main thread of pid 1 must not be that: so a
//! thread of its own writes, from a queue of bounded length. What does not fit is counted.

mod line;

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use env_logger::{Builder, Target};
use log::{Level, LevelFilter};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Map, Value};

use crate::fault;
use crate::mailbox::{Inbox, Mailbox};
use crate::options::Options;
use crate::process;

use line::{Reader, Style};

/// Lines that wait to be written.
const QUEUE: usize = 256;

/// After a panic of the thread that writes, this long before it goes on.
const PANIC_PAUSE: Duration = Duration::from_millis(100);

/// What a write to a pipe that polls as writable takes without blocking (PIPE_BUF).
const ATOMIC: usize = 4096;

enum Item {
    Line(Vec<u8>),
    Flush(Mailbox<()>),
}

/// What the thread that writes is sent; none where it could not be started.
static QUEUED: OnceLock<Mailbox<Item>> = OnceLock::new();
/// How lines look, once somebody logs.
static STYLE: OnceLock<Style> = OnceLock::new();
static LOST: AtomicU64 = AtomicU64::new(0);

/// Starts to log. Where no level is given, `RUST_LOG` counts.
pub fn start(options: &Options) {
    let level = options.log_level;
    let style = Style {
        format: options.log_format,
        reader: Reader::of_stderr(|name| std::env::var(name).ok()),
    };
    // Only a second logger in the same process would find it set.
    let _ = STYLE.set(style);
    start_writer();
    let mut builder = Builder::new();
    builder.target(Target::Pipe(Box::new(Queue(style))));
    let wanted = if options.log_level_given {
        String::new()
    } else {
        std::env::var("RUST_LOG").unwrap_or_default()
    };
    let (filters, ignored) = sift(&wanted);
    match filters {
        Some(filters) => builder.parse_filters(&filters),
        // What the libraries below say is for their developers.
        None => builder
            .filter_level(level.min(LevelFilter::Warn))
            .filter_module("drainit", level),
    };
    builder.format(move |out, record| writeln!(out, "{}", style.record(record)));
    // Only a second logger in the same process could make this fail.
    let _ = builder.try_init();
    std::panic::set_hook(Box::new(|panic| {
        let thread = thread::current();
        let name = thread.name().unwrap_or("?");
        // A line an event.
        let panic = panic.to_string().replace('\n', " ");
        log::error!("thread {name} panicked: {panic}");
    }));
    if !ignored.is_empty() {
        log::warn!("RUST_LOG: '{}' is ignored: {EXPECTED}", ignored.join(","));
    }
}

/// Logs the verdict, whatever the level: it is of interest to whoever wants to see anything.
pub fn verdict(level: Level, message: &str, fields: Map<String, Value>) {
    if let Some(style) = STYLE.get()
        && log::max_level() > LevelFilter::Off
    {
        let line = style.say(level, message, fields) + "\n";
        // It cannot fail.
        let _ = Queue(*style).write(line.as_bytes());
    }
}

/// The modules that say anything.
const MODULES: [&str; 4] = ["drainit", "tiny_http", "ureq", "ureq_proto"];
const EXPECTED: &str = "neither a level (error, warn, info, debug, trace or off) nor one for drainit, as in drainit::http=debug";

/// The directives of a `RUST_LOG` that env_logger can use, and those that it cannot. None where
/// nobody here is meant: a slip of the pen must not silence the log.
fn sift(filters: &str) -> (Option<String>, Vec<&str>) {
    let (directives, pattern) = filters.split_at(filters.find('/').unwrap_or(filters.len()));
    if pattern.matches('/').count() > 1 {
        return (None, vec![filters]);
    }
    let is_level = |text: &str| text.trim().parse::<LevelFilter>().is_ok();
    let (valid, mut ignored): (Vec<_>, Vec<_>) = directives
        .split(',')
        .map(str::trim)
        .filter(|directive| !directive.is_empty())
        .partition(|directive| match directive.split_once('=') {
            Some((_, level)) => level.trim().is_empty() || is_level(level),
            None => true,
        });
    let concerns_us = |directive: &&str| {
        // A name stands for all that begin with it.
        let name = directive.split('=').next().unwrap_or_default();
        let is_ours = |module: &&str| name.starts_with(module) || module.starts_with(name);
        is_level(directive) || MODULES.iter().any(is_ours)
    };
    if valid.iter().any(concerns_us) {
        return (Some(valid.join(",") + pattern), ignored);
    }
    ignored.extend(valid);
    (None, ignored)
}

/// Waits until what was logged so far is written, `limit` at the most.
pub fn flush(limit: Duration) {
    if let Some(queue) = QUEUED.get() {
        let (done, written) = Mailbox::new(None);
        queue.send(Item::Flush(done));
        written.wait(limit);
    }
}

/// Where env_logger writes to.
struct Queue(Style);

impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let lost = LOST.swap(0, Ordering::Relaxed);
        let mut item = Vec::new();
        if lost > 0 {
            let _ = writeln!(item, "{}", self.0.lost(lost));
        }
        item.extend_from_slice(line);
        match QUEUED.get() {
            Some(queue) if queue.pending() < QUEUE => queue.send(Item::Line(item)),
            Some(_) => {
                LOST.fetch_add(lost + 1, Ordering::Relaxed);
            }
            None => write_if_ready(&item),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn start_writer() {
    let (sender, lines) = Mailbox::new(None);
    // Without a thread, lines are written where they come up, if that does not block.
    let work = move || {
        // A panic costs the line it came with, and none of those that wait.
        while catch_unwind(AssertUnwindSafe(|| write(&lines))).is_err() {
            thread::sleep(PANIC_PAUSE);
        }
    };
    if process::start_thread("log", 64 * 1024, Box::new(work)).is_ok() {
        // Only a second logger would find it set.
        let _ = QUEUED.set(sender);
    }
}

fn write(items: &Inbox<Item>) {
    loop {
        let item = items.next();
        fault::point("log");
        match item {
            // A closed stderr, or a reader that is gone, must end nothing.
            Item::Line(line) => drop(io::stderr().write_all(&line)),
            Item::Flush(done) => done.send(()),
        }
    }
}

fn write_if_ready(line: &[u8]) {
    let stderr = io::stderr();
    let mut fds = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    if matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1)) {
        let _ = io::stderr().write_all(line.get(..ATOMIC).unwrap_or(line));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_rust_log_what_cannot_be_meant_is_ignored() {
        for (filters, used, ignored) in [
            ("", None, ""),
            (" , ", None, ""),
            ("bogus", None, "bogus"),
            ("inof,drainit=inof", None, "drainit=inof,inof"),
            ("hyper=debug", None, "hyper=debug"),
            ("INFO,hyper=debug", Some("INFO,hyper=debug"), ""),
            ("off", Some("off"), ""),
            ("drainit", Some("drainit"), ""),
            ("drainit::http=", Some("drainit::http="), ""),
            ("ureq=trace", Some("ureq=trace"), ""),
            ("info/a/b", None, "info/a/b"),
            ("info=debug", None, "info=debug"),
            (
                "warn, drainit=loud/a,b=c",
                Some("warn/a,b=c"),
                "drainit=loud",
            ),
        ] {
            let (found, left_out) = sift(filters);
            assert_eq!(found.as_deref(), used, "{filters}");
            assert_eq!(left_out.join(","), ignored, "{filters}");
        }
    }
}
