//! `drainit check`: the whole bargain before it is struck, for a person and for CI.

mod running;

use std::ffi::OsString;
use std::io::Write;
use std::time::Duration;

use serde_json::{Map, Value};

use super::status::paint::{Line, Paint, Style};
use super::{clean, complain, status};
use crate::check::facts::Facts;
use crate::check::report::{Prospect, Report};
use crate::check::{gather, judge};
use crate::duration::show;
use crate::options::Options;
use crate::status::plural;

/// Checks what this command line would start or, where it is empty, what runs: 0, 1 and what is
/// wrong, or 2 when nothing runs there.
pub fn run(options: Options, line: &[OsString], json: bool) -> u8 {
    let facts = match line {
        [] => running::facts(options),
        line => Ok(gather::facts(options, line)),
    };
    let facts = match facts {
        Ok(facts) => facts,
        Err(why) => {
            complain(&why);
            return 2;
        }
    };
    let report = judge::judge(&facts);
    let text = match json {
        true => status::json_line(&as_json(&facts, &report)) + "\n",
        false => {
            let style = status::scrolling();
            let width = style.width.min(COLUMNS);
            render(&facts, &report, Style { width, ..style })
        }
    };
    let _ = write!(std::io::stdout(), "{text}");
    u8::from(!report.findings.is_empty())
}

/// A person reads no longer lines.
const COLUMNS: usize = 80;

fn as_json(facts: &Facts, report: &Report) -> Value {
    let mut listeners = Vec::new();
    for one in &report.prospects {
        let mut listener = object(&[
            ("name", &one.name),
            ("address", &one.address),
            ("kind", one.kind),
            ("told", one.told),
            ("waits_for", &one.waits),
            ("cut", one.cut),
        ]);
        listener.insert("excluded".into(), Value::Bool(one.excluded));
        listeners.push(Value::Object(listener));
    }
    let mut findings = Vec::new();
    for one in &report.findings {
        let texts = [
            ("rule", one.rule),
            ("what", &one.what),
            ("remedy", &one.remedy),
        ];
        let mut finding = object(&texts);
        finding.insert("where".into(), one.places.clone().into());
        findings.push(Value::Object(finding));
    }
    let mut all = object(&[]);
    let seconds = |time: Duration| Value::from(time.as_secs_f64());
    for (name, value) in [
        ("ok", Value::Bool(report.findings.is_empty())),
        ("envoy_version", facts.version.clone().into()),
        ("drain_timeout_seconds", seconds(facts.deadline())),
        ("kill_timeout_seconds", seconds(facts.options.kill_timeout)),
        ("listeners", Value::Array(listeners)),
        ("findings", Value::Array(findings)),
        ("not_looked_at", report.unseen.clone().into()),
    ] {
        all.insert(name.into(), value);
    }
    Value::Object(all)
}

fn object(texts: &[(&str, &str)]) -> Map<String, Value> {
    let mut object = Map::new();
    for (name, text) in texts {
        object.insert((*name).to_owned(), Value::String((*text).to_owned()));
    }
    object
}

/// A name of a place is no longer than this in a line, in characters.
const PLACE: usize = 200;

/// The most places that a finding names.
const NAMED: usize = 5;

fn render(facts: &Facts, report: &Report, style: Style) -> String {
    let version = facts.version.as_deref().unwrap_or_default();
    let deadline = show(facts.deadline());
    let head = format!(
        "SIGTERM: Envoy {version} drains for {deadline} at the most, and is killed {} later",
        show(facts.options.kill_timeout)
    );
    let mut page = Page {
        style,
        text: String::new(),
    };
    page.add("", &head.replace("  ", " "));
    page.table(&report.prospects, &deadline);
    match report.findings.len() as u64 {
        0 if report.unseen.is_empty() => page.lines(Line::new(Paint::Good, "nothing wrong")),
        0 => page.lines(Line::new(
            Paint::Good,
            "nothing wrong in what was looked at",
        )),
        count => page.lines(Line::new(Paint::Bad, plural(count, "finding"))),
    }
    for one in &report.findings {
        page.lines(
            Line::new(Paint::Bad, one.rule).and(Paint::Plain, format!(": {}", shown(&one.what))),
        );
        if !one.places.is_empty() {
            let mut places = String::new();
            for (at, place) in one.places.iter().take(NAMED).enumerate() {
                places.push_str(if at == 0 { "" } else { ", " });
                places.push_str(&clean(place, PLACE));
            }
            if let more @ 1.. = one.places.len().saturating_sub(NAMED) {
                places.push_str(&format!(" and {more} more"));
            }
            page.add("  where: ", &places);
        }
        page.add("  remedy: ", &one.remedy);
    }
    if !report.unseen.is_empty() {
        page.lines(Line::new(Paint::Busy, "not looked at"));
    }
    for what in &report.unseen {
        page.add("  ", what);
    }
    page.text
}

/// The longest text, in characters.
const TEXT: usize = 1_000;

fn shown(text: &str) -> String {
    clean(text, TEXT)
}

/// What is printed.
struct Page {
    style: Style,
    text: String,
}

impl Page {
    fn add(&mut self, before: &str, text: &str) {
        self.lines(Line::new(Paint::Plain, format!("{before}{}", shown(text))));
    }

    fn lines(&mut self, line: Line) {
        for line in line.wrap(self.style.width, usize::MAX) {
            self.text.push_str(&line.draw(self.style));
        }
    }

    /// A row for each listener, below a head.
    fn table(&mut self, all: &[Prospect], deadline: &str) {
        let cut = format!("CUT AT {deadline}");
        let mut rows = vec![["LISTENER", "ADDRESS", "KIND", "TOLD", "WAITED FOR", &cut]];
        for one in all {
            rows.push([
                &one.name,
                &one.address,
                one.kind,
                one.told,
                &one.waits,
                one.cut,
            ]);
        }
        if all.is_empty() {
            return;
        }
        let mut widths = [0; 6];
        for row in &rows {
            for ((width, most), text) in widths.iter_mut().zip(COLUMN).zip(row) {
                *width = (*width).max(text.chars().count().min(most));
            }
        }
        // What is cut is told whole. A listener is known by its name, so its address gives way.
        let whole = widths.iter().sum::<usize>() + 2 * (widths.len() - 1);
        let over = whole.saturating_sub(self.style.width);
        widths[1] = widths[1].saturating_sub(over).max("ADDRESS".len());
        for (at, row) in rows.iter().enumerate() {
            let mut line = String::new();
            for (text, width) in row.iter().zip(widths) {
                let text = status::paint::short(&shown(text), width);
                line.push_str(&format!("{text:<width$}  "));
            }
            let paint = if at == 0 { Paint::Bold } else { Paint::Plain };
            let line = Line::new(paint, line).end().cut(self.style.width);
            self.text.push_str(&line.draw(self.style));
        }
    }
}

/// What a column takes at the most, in characters.
const COLUMN: [usize; 6] = [16, 21, 5, 13, 18, 14];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_address_is_cut_before_what_a_drain_cuts() {
        let style = Style {
            color: false,
            width: 80,
            height: 40,
        };
        let mut page = Page {
            style,
            text: String::new(),
        };
        let row = Prospect {
            name: "http".into(),
            address: "192.168.147.217:10000".into(),
            kind: "http",
            excluded: false,
            told: "next response",
            waits: "requests, sessions".into(),
            cut: "sessions",
        };
        page.table(&[row], "25 s");
        let lines: Vec<_> = page.text.lines().collect();
        assert!(lines[0].ends_with("  CUT AT 25 s"), "{lines:#?}");
        assert!(
            lines[1].contains("  192.168.147.2...  http  "),
            "{lines:#?}"
        );
        assert!(lines[1].trim_end().ends_with("  sessions"), "{lines:#?}");
    }
}
