//! `--help`, made from the table.

use std::fmt::Write;

use super::flags::{FLAGS, Value};
use crate::commands::bootstrap;

const HEAD: &str = "\
drainit: pid 1 of an Envoy container. It lets Envoy finish before it stops.

Usage:
  drainit [OPTIONS] [--] ENVOY [ARGS]...   run ENVOY (a path, or a name on PATH)
  drainit shutdown                         ask the running drainit to drain, and wait;
                                           0 drained, 1 cut by the deadline, 2 nothing runs
  drainit health [live|ready]              0 or 1, and one line why
  drainit status [--watch] [--json]        what it is doing, for a person; --watch redraws it
                                           in place, --json is for programs
  drainit reload                           read the certificates again; with --hot-restart,
                                           bring up a new Envoy; 0, or 1 and why
  drainit bootstrap [OPTIONS] PATH         write an Envoy bootstrap for an xDS server with
                                           mutual TLS (the flags of `contour bootstrap`)
  drainit install PATH                     copy itself there
  drainit help, --help, --version
shutdown, health, status and reload speak to pid 1 of their container, or to the only drainit
that runs there; --pid N or --listen ADDR say which.

Options. The environment variable in brackets does the same; the command line wins.
Durations as in Go: 500ms, 25s, 1m30s.
";

const TAIL: &str = "
Signals:
  TERM, INT   drain, then stop Envoy and exit; a second one stops Envoy now, a third
              kills it. One within a second of the last that counted is the same
  USR2        drain and stay; a TERM when that drain is over stops Envoy at once
  QUIT        stop Envoy now
  USR1        Envoy reopens its access logs
  HUP         read the certificates again; with --hot-restart, reload

HTTP: GET /healthz, /ready, /status, /metrics; GET or POST /shutdown.
Exit code: Envoy's own, or its start script's; 128+n when signal n killed it;
127 not found, 126 not executable, 2 usage. What it did last is on stderr, and in /dev/termination-log
where that exists.
";

/// Every option with its default and environment variable, on one page.
pub fn help() -> String {
    let mut page = String::from(HEAD);
    for flag in FLAGS {
        let value = match flag.value {
            Value::Switch => "",
            Value::One(name) | Value::Each(name) => name,
        };
        let mut variables = flag.variables().next().unwrap_or_default();
        if let Some(name) = flag.env {
            let _ = write!(variables, ", {name}");
        }
        let space = if value.is_empty() { "" } else { " " };
        let _ = writeln!(page, "\n  --{}{space}{value}  [{variables}]", flag.name);
        let mut doc = flag.doc.to_owned();
        for name in flag.aliases {
            let _ = write!(doc, " Also --{name}.");
        }
        if let Value::Each(_) = flag.value {
            doc.push_str(" In the environment, white space separates several.");
        }
        let default = if flag.default.is_empty() {
            "none"
        } else {
            flag.default
        };
        let _ = write!(doc, " Default: {default}.");
        for line in wrap(&doc, 84) {
            let _ = writeln!(page, "      {line}");
        }
    }
    page.push_str("\nOptions of `drainit bootstrap`, with their defaults in brackets:\n");
    page.push_str(bootstrap::OPTIONS);
    page.push_str(TAIL);
    page
}

/// `drainit 1.0.0`
pub fn version() -> String {
    format!("drainit {}", env!("CARGO_PKG_VERSION"))
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.into()),
        }
    }
    lines
}
