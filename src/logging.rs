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

use line::{LineStyle, LogReader};

/// Lines that wait to be written.
const QUEUE: usize = 256;

/// After a panic of the thread that writes, this long before it goes on.
const PANIC_PAUSE: Duration = Duration::from_millis(100);

/// How many bytes a write to a pipe that polls as writable takes without blocking (PIPE_BUF).
const ATOMIC: usize = 4096;

enum Item {
    Line(Vec<u8>),
    /// The last line: what comes after it is dropped.
    Verdict(Vec<u8>),
    Flush(Mailbox<()>),
}

/// What the thread that writes is sent; none where it could not be started.
static QUEUED: OnceLock<Mailbox<Item>> = OnceLock::new();
/// How lines look, once somebody logs.
static STYLE: OnceLock<LineStyle> = OnceLock::new();
static LOST: AtomicU64 = AtomicU64::new(0);

/// Starts to log. Where no level is given, `RUST_LOG` counts.
pub fn start(options: &Options) {
    let level = options.log_level;
    let style = LineStyle {
        format: options.log_format,
        reader: LogReader::of_stderr(|name| std::env::var(name).ok()),
    };
    // Only a second logger in the same process would find it set.
    let _ = STYLE.set(style);
    start_writer();
    let mut builder = Builder::new();
    builder.target(Target::Pipe(Box::new(LogWriter(style))));
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

/// Logs the verdict, whatever the level: it is of interest to whoever wants to see anything. It is
/// the last line: threads that are not done yet may have more to say.
pub fn verdict(level: Level, message: &str, fields: Map<String, Value>) {
    if let Some(style) = STYLE.get()
        && log::max_level() > LevelFilter::Off
    {
        let mut item = style.lost_lines();
        item.extend((style.say(level, message, fields) + "\n").bytes());
        match QUEUED.get() {
            // Even if others wait: it is one line, and comes once.
            Some(queue) => queue.send(Item::Verdict(item)),
            None => write_if_ready(&item),
        }
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

impl LineStyle {
    /// What precedes the next line: that others were lost, if any were.
    fn lost_lines(self) -> Vec<u8> {
        match LOST.swap(0, Ordering::Relaxed) {
            0 => Vec::new(),
            lost => (self.lost(lost) + "\n").into(),
        }
    }
}

/// Where env_logger writes to.
struct LogWriter(LineStyle);

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match QUEUED.get() {
            Some(queue) if queue.pending() >= QUEUE => {
                LOST.fetch_add(1, Ordering::Relaxed);
            }
            queue => {
                let mut item = self.0.lost_lines();
                item.extend_from_slice(line);
                match queue {
                    Some(queue) => queue.send(Item::Line(item)),
                    None => write_if_ready(&item),
                }
            }
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
        let mut over = false;
        // A panic costs the line it came with, and none of those that wait.
        while catch_unwind(AssertUnwindSafe(|| write(&lines, &mut over))).is_err() {
            thread::sleep(PANIC_PAUSE);
        }
    };
    if process::start_thread("log", 64 * 1024, Box::new(work)).is_ok() {
        // Only a second logger would find it set.
        let _ = QUEUED.set(sender);
    }
}

fn write(items: &Inbox<Item>, over: &mut bool) {
    loop {
        let item = items.next();
        fault::point("log");
        write_item(item, over, &mut io::stderr());
    }
}

/// Writes what was queued, unless the log is `over`.
fn write_item(item: Item, over: &mut bool, out: &mut impl Write) {
    match item {
        Item::Flush(done) => done.send(()),
        Item::Line(_) | Item::Verdict(_) if *over => {}
        // A closed stderr, or a reader that is gone, must end nothing.
        Item::Line(line) => drop(out.write_all(&line)),
        Item::Verdict(line) => {
            *over = true;
            drop(out.write_all(&line));
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
    fn nothing_comes_after_the_verdict() {
        let (mut over, mut out) = (false, Vec::new());
        let line = |text: &str| Item::Line(text.into());
        for item in [
            line("a line\n"),
            Item::Verdict(b"the verdict\n".into()),
            line("a thread that is late\n"),
        ] {
            write_item(item, &mut over, &mut out);
        }
        assert_eq!(out, b"a line\nthe verdict\n");
        let (done, written) = Mailbox::new(None);
        write_item(Item::Flush(done), &mut over, &mut out);
        assert!(written.take().is_some(), "nobody waits in vain");
    }

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
