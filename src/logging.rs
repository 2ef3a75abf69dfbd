//! The log: on stderr, one line an event, and never in the way.
//!
//! A pipe that nobody reads blocks its writer, and the main thread of pid 1 must not be that: so a
//! thread of its own writes, from a queue of bounded length. What does not fit is counted.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use env_logger::{Builder, Target};
use log::kv::{Key, Value, VisitSource, VisitValue};
use log::{Level, LevelFilter};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::fault;
use crate::mailbox::{Inbox, Mailbox};
use crate::options::{LogFormat, Options};
use crate::process;
use crate::status::clock::rfc3339;

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
static LOST: AtomicU64 = AtomicU64::new(0);

/// Starts to log. Where no level is given, `RUST_LOG` counts.
pub fn start(options: &Options) {
    let (format, level) = (options.log_format, options.log_level);
    start_writer();
    let mut builder = Builder::new();
    builder.target(Target::Pipe(Box::new(Queue(format))));
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
    builder.format(move |out, record| writeln!(out, "{}", line(format, record)));
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

/// Logs a line that is of interest to whoever wants to see any.
pub fn insist(format: LogFormat, message: &str) {
    const TARGET: &str = "drainit";
    if log::log_enabled!(target: TARGET, Level::Info) {
        log::info!(target: TARGET, "{message}");
    } else if log::max_level() > LevelFilter::Off {
        let mut record = log::Record::builder();
        record.level(Level::Info).target(TARGET);
        let mut line = line(format, &record.args(format_args!("{message}")).build());
        line.push('\n');
        // It cannot fail.
        let _ = Queue(format).write(line.as_bytes());
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

/// A line without its end.
fn line(format: LogFormat, record: &log::Record<'_>) -> String {
    let time = rfc3339(SystemTime::now());
    match format {
        LogFormat::Text => text(&time, record),
        LogFormat::Json => json(&time, record).to_string(),
    }
}

/// The line as env_logger has it.
fn text(time: &str, record: &log::Record<'_>) -> String {
    let (level, target, message) = (record.level(), record.target(), record.args());
    format!("[{time} {level:<5} {target}] {message}")
}

fn json(time: &str, record: &log::Record<'_>) -> serde_json::Value {
    let mut object = serde_json::Map::new();
    object.insert("time".into(), time.into());
    object.insert(
        "level".into(),
        record.level().as_str().to_lowercase().into(),
    );
    object.insert("message".into(), record.args().to_string().into());
    // A value that cannot be visited is left out.
    let _ = record.key_values().visit(&mut Fields(&mut object));
    object.into()
}

struct Fields<'a>(&'a mut serde_json::Map<String, serde_json::Value>);

impl<'kvs> VisitSource<'kvs> for Fields<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
        let mut field = Field(serde_json::Value::Null);
        value.visit(&mut field)?;
        self.0.insert(key.as_str().into(), field.0);
        Ok(())
    }
}

/// A value, as JSON has it.
struct Field(serde_json::Value);

impl VisitValue<'_> for Field {
    fn visit_any(&mut self, value: Value<'_>) -> Result<(), log::kv::Error> {
        self.0 = value.to_string().into();
        Ok(())
    }

    fn visit_null(&mut self) -> Result<(), log::kv::Error> {
        self.0 = serde_json::Value::Null;
        Ok(())
    }

    fn visit_u64(&mut self, value: u64) -> Result<(), log::kv::Error> {
        self.0 = value.into();
        Ok(())
    }

    fn visit_i64(&mut self, value: i64) -> Result<(), log::kv::Error> {
        self.0 = value.into();
        Ok(())
    }

    fn visit_f64(&mut self, value: f64) -> Result<(), log::kv::Error> {
        self.0 = value.into();
        Ok(())
    }

    fn visit_bool(&mut self, value: bool) -> Result<(), log::kv::Error> {
        self.0 = value.into();
        Ok(())
    }
}

/// Where env_logger writes to.
struct Queue(LogFormat);

impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let lost = LOST.swap(0, Ordering::Relaxed);
        let mut item = Vec::new();
        if lost > 0 {
            let _ = writeln!(item, "{}", lost_lines(lost, self.0));
        }
        // What an argument or a peer put into it must not make two lines of one.
        let (text, end) = line.split_at(line.len() - usize::from(line.ends_with(b"\n")));
        item.extend(
            text.iter()
                .map(|byte| if *byte == b'\n' { b' ' } else { *byte }),
        );
        item.extend_from_slice(end);
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

/// The line that says that so many are missing.
fn lost_lines(count: u64, format: LogFormat) -> String {
    let text = format!("{count} log lines were lost: nobody read them");
    match format {
        LogFormat::Text => format!("drainit: {text}"),
        LogFormat::Json => {
            let time = rfc3339(SystemTime::now());
            serde_json::json!({"time": time, "level": "warn", "message": text}).to_string()
        }
    }
}

fn start_writer() {
    let (sender, lines) = Mailbox::new(None);
    let thread = thread::Builder::new()
        .name("log".into())
        .stack_size(64 * 1024);
    // Without a thread, lines are written where they come up, if that does not block.
    let work = move || {
        // A panic costs the line it came with, and none of those that wait.
        while catch_unwind(AssertUnwindSafe(|| write(&lines))).is_err() {
            thread::sleep(PANIC_PAUSE);
        }
    };
    if process::without_signals(|| thread.spawn(work)).is_ok() {
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
    fn a_record_is_one_object_whose_values_keep_their_types() {
        let fields: [(&str, Value<'_>); 5] = [
            ("pid", 7.into()),
            ("elapsed_seconds", 4.25.into()),
            ("connections", Value::null()),
            ("known", true.into()),
            ("state", "live".into()),
        ];
        let fields = &fields[..];
        let record = log::Record::builder()
            .level(log::Level::Warn)
            .args(format_args!("two\nlines \"quoted\""))
            .key_values(&fields)
            .build();
        let line = json("2026-01-31T23:59:59.250Z", &record).to_string();
        assert!(!line.contains('\n'));
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            object,
            serde_json::json!({
                "time": "2026-01-31T23:59:59.250Z",
                "level": "warn",
                "message": "two\nlines \"quoted\"",
                "pid": 7,
                "elapsed_seconds": 4.25,
                "connections": null,
                "known": true,
                "state": "live",
            })
        );
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

    #[test]
    fn lost_lines_are_told_in_the_lines_own_format() {
        let line = lost_lines(3, LogFormat::Json);
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(object["message"], "3 log lines were lost: nobody read them");
        assert!(lost_lines(3, LogFormat::Text).starts_with("drainit: 3 "));
    }
}
