//! The help, made from the tables of commands and options. No line is longer than 80 columns.

use std::fmt::Write;

use super::print;
use crate::options::{BOOTSTRAP, ENTRIES, Entry, FLAGS, Flag, Settings, Topic, bootstrap};

mod manpage;

/// Prints the page on `topic`, and returns the exit code.
pub fn run(topic: Topic) -> u8 {
    print(page(topic).trim_end());
    0
}

const COLUMNS: usize = 80;

const ABOUT: &str = "drainit: pid 1 of an Envoy container. It lets Envoy finish before it stops.";

/// How the main command is called.
const USAGE: &str = "drainit [OPTIONS] [--] ENVOY [ARGS]...";

/// What each signal does.
const SIGNALS: [(&str, &str); 5] = [
    (
        "TERM, INT",
        "drain, then stop Envoy; again after 1 s: stop now; a third: kill",
    ),
    (
        "USR2",
        "drain and stay; a TERM after that stops Envoy at once",
    ),
    ("QUIT", "stop Envoy now"),
    ("USR1", "Envoy reopens its access logs"),
    (
        "HUP",
        "read the certificates again; with --hot-restart, reload",
    ),
];

/// What drainit serves, and what it exits with.
const REST: [&str; 2] = [
    "HTTP: GET /healthz, /ready, /status, /metrics; GET or POST /shutdown; on unix sockets POST /hold, \
     /resume.",
    "Exit code: Envoy's own, or its start script's; 128+n when signal n killed it; 127 not found, 126 not executable, 2 \
     usage, 1 drainit cannot start. The last line of the log says how the drain went; it is in \
     /dev/termination-log, too, where that exists.",
];

/// How the environment comes in.
const VARIABLES: &str = "The environment variable in brackets does the same; the command \
    line wins. Durations are as in Go: 500ms, 25s, 1m30s. A repeatable option's values are separated \
    by white space in the environment.";

/// The page on `topic`.
pub fn page(topic: Topic) -> String {
    match topic {
        Topic::First => first(),
        Topic::All => all(),
        Topic::Of(entry) => one(entry),
        Topic::Man => manpage::render(),
    }
}

fn first() -> String {
    let mut page = format!("{ABOUT}\n\n  {USAGE}   as in: drainit -- envoy -c envoy.yaml\n\n");
    page.push_str("Commands:\n");
    for entry in ENTRIES {
        let usage = entry.usage();
        let usage = usage.trim_start_matches("drainit ");
        let _ = writeln!(page, "  {usage:<25} {}", entry.brief);
    }
    page.push_str("\nOptions that people use, with their defaults:\n");
    for flag in FLAGS {
        if let Some(brief) = flag.brief {
            let _ = write!(page, "  {:<27} {brief}", flag.usage());
            if !flag.unset {
                let _ = write!(page, " [{}]", flag.default);
            }
            page.push('\n');
        }
    }
    page.push_str("\nSignals:\n");
    signals(&mut page);
    page.push_str("\n`drainit help all`: every option. `drainit help COMMAND`: that command's.\n");
    page
}

fn signals(page: &mut String) {
    for (name, does) in SIGNALS {
        let _ = writeln!(page, "  {name:<10} {does}");
    }
}

fn all() -> String {
    let mut page = format!("{ABOUT}\n\n");
    for usage in std::iter::once(USAGE.to_owned()).chain(ENTRIES.iter().map(Entry::usage)) {
        let _ = writeln!(page, "  {usage}");
    }
    page.push('\n');
    paragraph(&mut page, 0, VARIABLES);
    describe_all(&mut page, FLAGS);
    page.push_str("\nOptions of `drainit bootstrap`:\n");
    describe_all(&mut page, bootstrap::FLAGS);
    page.push_str("\nSignals:\n");
    signals(&mut page);
    page.push('\n');
    for text in REST {
        paragraph(&mut page, 0, text);
    }
    page
}

fn one(entry: &Entry) -> String {
    let mut page = format!("Usage: {}\n\n", entry.usage());
    paragraph(&mut page, 0, entry.doc);
    let takes = || FLAGS.iter().filter(|flag| entry.takes.contains(&flag.name));
    let bootstrap = entry.name == BOOTSTRAP;
    if bootstrap || takes().count() + entry.switches.len() > 0 {
        page.push_str("\nOptions:\n");
    }
    for (name, does) in entry.switches {
        let _ = writeln!(page, "  --{name}");
        paragraph(&mut page, 6, does);
    }
    takes().for_each(|flag| describe(&mut page, flag));
    if bootstrap {
        describe_all(&mut page, bootstrap::FLAGS);
    }
    page
}

/// Every option, below its group's heading.
fn describe_all<T: Settings>(page: &mut String, flags: &[Flag<T>]) {
    for flag in flags {
        if let Some(heading) = flag.heading {
            let _ = writeln!(page, "\n{heading}:");
        }
        describe(page, flag);
    }
}

/// An option with its variables, what it does, and its default.
fn describe<T: Settings>(page: &mut String, flag: &Flag<T>) {
    let variables: Vec<String> = flag.variables().collect();
    let mut line = flag.usage();
    if !variables.is_empty() {
        let _ = write!(line, " [{}]", variables.join(", "));
    }
    paragraph(page, 2, &line);
    paragraph(page, 6, &sentences(flag));
}

/// What an option does, its other spellings, and its default.
fn sentences<T: Settings>(flag: &Flag<T>) -> String {
    let mut doc = flag.doc.to_owned();
    for name in flag.aliases {
        let _ = write!(doc, " Also --{name}.");
    }
    if !flag.default.is_empty() {
        let _ = write!(doc, " Default: {}.", flag.default);
    }
    doc
}

/// `text` in lines that begin `indent` columns in.
fn paragraph(page: &mut String, indent: usize, text: &str) {
    let mut used = COLUMNS;
    for word in text.split_whitespace() {
        let width = word.chars().count();
        if used + 1 + width > COLUMNS {
            if !page.is_empty() && !page.ends_with('\n') {
                page.push('\n');
            }
            let _ = write!(page, "{:indent$}{word}", "");
            used = indent + width;
        } else {
            let _ = write!(page, " {word}");
            used += 1 + width;
        }
    }
    page.push('\n');
}

#[cfg(test)]
mod tests;
