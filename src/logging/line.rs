//! A line of the log: for people, for programs, for a terminal and for systemd's journal.

use std::io::{self, IsTerminal};
use std::time::SystemTime;

use log::kv::{Key, Value, VisitSource, VisitValue};
use log::{Level, Record};
use nix::sys::stat::fstat;
use serde_json::Map;

use crate::clock::rfc3339;
use crate::options::LogFormat;

/// Who says what the log says, whichever module it comes from.
const TARGET: &str = "drainit";

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineStyle {
    /// What is in a line.
    pub format: LogFormat,
    /// Who reads it.
    pub reader: LogReader,
}

/// Who reads the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogReader {
    /// A pipe or a file.
    File,
    /// A terminal that has colours.
    Terminal,
    /// systemd's journal: it has a time of its own, and takes the priority from `<N>` at a line's
    /// begin (sd-daemon(3)).
    Journal,
}

impl LogReader {
    /// Who reads standard error.
    pub fn of_stderr(env: impl Fn(&str) -> Option<String>) -> LogReader {
        let stderr = io::stderr();
        // A service may hand its JOURNAL_STREAM on to a child whose stderr is another file: only
        // device and inode tell (systemd.exec(5)).
        let identity = || fstat(&stderr).map(|stat| format!("{}:{}", stat.st_dev, stat.st_ino));
        if env("JOURNAL_STREAM").is_some_and(|stream| identity() == Ok(stream)) {
            return LogReader::Journal;
        }
        let plain = env("NO_COLOR").is_some_and(|value| !value.is_empty())
            || env("TERM").is_some_and(|term| term == "dumb");
        if !plain && stderr.is_terminal() {
            LogReader::Terminal
        } else {
            LogReader::File
        }
    }
}

impl LineStyle {
    /// The line of a record, without its end.
    pub fn record(self, record: &Record<'_>) -> String {
        let mut fields = Map::new();
        if self.format == LogFormat::Json {
            // A value that cannot be visited is left out.
            let _ = record.key_values().visit(&mut Fields(&mut fields));
        }
        let target = record.target().split("::").next().unwrap_or(TARGET);
        self.line(record.level(), target, &record.args().to_string(), fields)
    }

    /// A line of drainit's with these fields, without its end.
    pub fn say(
        self,
        level: Level,
        message: &str,
        fields: Map<String, serde_json::Value>,
    ) -> String {
        self.line(level, TARGET, message, fields)
    }

    fn line(
        self,
        level: Level,
        target: &str,
        message: &str,
        mut fields: Map<String, serde_json::Value>,
    ) -> String {
        let time = rfc3339(SystemTime::now());
        let journal = self.reader == LogReader::Journal;
        let priority = if journal { priority(level) } else { "" };
        if self.format == LogFormat::Json {
            fields.insert("time".into(), time.into());
            fields.insert("level".into(), level.as_str().to_lowercase().into());
            fields.insert("message".into(), message.into());
            return format!("{priority}{}", serde_json::Value::from(fields));
        }
        // What an argument or a peer put into it must not make two lines of one, or reach a terminal.
        let message = message.replace(char::is_control, " ");
        match self.reader {
            LogReader::Journal => format!("{priority}{target}: {message}"),
            LogReader::File => format!("[{time} {level:<5} {target}] {message}"),
            LogReader::Terminal => {
                let colour = colour(level);
                format!("[{time} {colour}{level:<5}\x1b[0m {target}] {message}")
            }
        }
    }

    /// The line that says that so many are missing.
    pub fn lost(self, count: u64) -> String {
        let text = format!("{count} log lines were lost: nobody read them");
        self.say(Level::Warn, &text, Map::new())
    }
}

/// The priorities of syslog(3).
fn priority(level: Level) -> &'static str {
    match level {
        Level::Error => "<3>",
        Level::Warn => "<4>",
        Level::Info => "<6>",
        Level::Debug | Level::Trace => "<7>",
    }
}

fn colour(level: Level) -> &'static str {
    match level {
        Level::Error => "\x1b[1;31m",
        Level::Warn => "\x1b[33m",
        Level::Info => "\x1b[32m",
        Level::Debug | Level::Trace => "\x1b[2m",
    }
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
    /// Is called for a value that is given with `:%` or `:?`, as none is here. The text of such a
    /// value would bring along how Rust prints a floating-point number, 10 kB of code.
    fn visit_any(&mut self, value: Value<'_>) -> Result<(), log::kv::Error> {
        debug_assert!(false, "a field without a type: {value}");
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

    fn visit_str(&mut self, value: &str) -> Result<(), log::kv::Error> {
        self.0 = value.into();
        Ok(())
    }

    fn visit_bool(&mut self, value: bool) -> Result<(), log::kv::Error> {
        self.0 = value.into();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn style(format: LogFormat, reader: LogReader) -> LineStyle {
        LineStyle { format, reader }
    }

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
            .level(Level::Warn)
            .args(format_args!("two\nlines \"quoted\""))
            .key_values(&fields)
            .build();
        let line = style(LogFormat::Json, LogReader::File).record(&record);
        assert!(!line.contains('\n'));
        let mut object: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert!(object["time"].take().is_string());
        assert_eq!(
            object,
            json!({
                "time": null,
                "level": "warn",
                "message": "two\nlines \"quoted\"",
                "pid": 7,
                "elapsed_seconds": 4.25,
                "connections": null,
                "known": true,
                "state": "live",
            })
        );
        let journal = style(LogFormat::Json, LogReader::Journal).record(&record);
        assert!(journal.starts_with("<4>{"), "{journal}");
    }

    #[test]
    fn a_line_is_told_by_drainit_and_not_by_a_module_of_it() {
        let record = |target| {
            log::Record::builder()
                .level(Level::Info)
                .target(target)
                .args(format_args!("a\x1b[31m\nb"))
                .build()
        };
        let line = style(LogFormat::Text, LogReader::File).record(&record("drainit::http::server"));
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(time.starts_with("[2") && time.ends_with('Z'), "{line}");
        assert_eq!(rest, "INFO  drainit] a [31m b");
        let line = style(LogFormat::Text, LogReader::File).record(&record("ureq::unversioned"));
        assert!(line.contains("INFO  ureq] "), "{line}");
        let line = style(LogFormat::Text, LogReader::Terminal).record(&record("drainit"));
        assert!(
            line.ends_with(" \x1b[32mINFO \x1b[0m drainit] a [31m b"),
            "{line}"
        );
    }

    #[test]
    fn the_journal_gets_priorities_and_no_time_of_ours() {
        let style = style(LogFormat::Text, LogReader::Journal);
        for (level, line) in [
            (Level::Error, "<3>drainit: x"),
            (Level::Warn, "<4>drainit: x"),
            (Level::Info, "<6>drainit: x"),
            (Level::Debug, "<7>drainit: x"),
        ] {
            assert_eq!(style.say(level, "x", Map::new()), line);
        }
    }

    #[test]
    fn lost_lines_are_told_in_the_lines_own_format() {
        let line = style(LogFormat::Json, LogReader::File).lost(3);
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(object["message"], "3 log lines were lost: nobody read them");
        assert_eq!(object["level"], "warn");
        let text = style(LogFormat::Text, LogReader::Journal).lost(3);
        assert!(text.starts_with("<4>drainit: 3 "), "{text}");
    }
}
