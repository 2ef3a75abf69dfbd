//! What a drain or a hold that somebody waits for has left, and where: a line whenever that changes.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::find::Target;
use super::status::view::JsonView;
use super::{BODY, FOREVER, STACK, read_status, say};
use crate::client::{ExchangeLimits, Head, Method, exchange_with};
use crate::drain::Outcome;
use crate::duration::show;
use crate::process;
use crate::status::{clients, plural};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// A line at the least this often, though nothing has changed.
const LINE: Duration = Duration::from_secs(5);

/// The most clients that a line names: those who were heard of last.
const CLIENTS: usize = 3;

/// The most listeners that a line names: those with the most connections.
const NAMED: usize = 10;

/// What was left when somebody last looked; none before the first look.
#[derive(Clone, Default)]
pub struct LastSeen(Arc<Mutex<Option<String>>>);

impl LastSeen {
    fn note(&self, left: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(left);
    }

    /// `2 connections (https 1, tcp 1)`
    pub fn left(&self) -> Option<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// How an order was answered.
pub struct OrderAnswer {
    /// How the drain or the wait ended: `drained`.
    pub result: String,
    /// Whether nothing was left that counts.
    pub is_clean: bool,
}

impl OrderAnswer {
    /// An end of this name. A drainit before 1.1 does not tell whether that `is_clean`.
    pub fn new(result: String, is_clean: Option<bool>) -> OrderAnswer {
        let by_name = || NOTHING_LEFT.contains(&result.as_str());
        OrderAnswer {
            is_clean: is_clean.unwrap_or_else(by_name),
            result,
        }
    }

    /// How this answer tells it; by this name, where it tells none.
    pub fn of(head: Head, unnamed: &str) -> OrderAnswer {
        let result = head.drain_result.unwrap_or_else(|| unnamed.into());
        OrderAnswer::new(result, head.drain_clean)
    }
}

/// The names of ends by which nothing was left.
const NOTHING_LEFT: [&str; 3] = [
    Outcome::Drained.name(),
    Outcome::Idle.name(),
    Outcome::NeverLive.name(),
];

/// An order that was answered, as far as somebody saw who waited for it.
pub struct Over {
    /// How it ended.
    pub end: OrderAnswer,
    took: Duration,
    last: LastSeen,
}

impl Over {
    /// `drained after 3.2 s`, or `CUT after 20.0 s: deadline; last seen: 2 connections (tcp 2)`:
    /// `cut` is the word for what was not clean.
    pub fn line(&self, cut: &str) -> String {
        let result = self.end.result.as_str();
        let is_told = NOTHING_LEFT.contains(&result);
        let (word, why) = match (self.end.is_clean, is_told) {
            (true, true) => (result, ""),
            (true, false) => ("ended", result),
            (false, true) => (cut, "as --open-connections allows"),
            (false, false) => (cut, result),
        };
        let mut line = format!("{word} after {}", show(self.took));
        let left = self.last.left().filter(|_| !self.end.is_clean);
        let left = left.as_deref().map(|left| ("; last seen: ", left));
        let why = Some((": ", why)).filter(|(_, why)| !why.is_empty());
        for (before, what) in why.into_iter().chain(left) {
            line.push_str(before);
            line.push_str(what);
        }
        line
    }
}

/// An order that waits for its answer, however long that takes.
pub struct Waiting {
    start: Instant,
    last: LastSeen,
}

impl Waiting {
    /// From now on, what is left is printed.
    pub fn begin(target: &Target) -> Waiting {
        let (watched, last) = (target.clone(), LastSeen::default());
        let seen = last.clone();
        // Without a thread, it waits in silence.
        let look = move || tell(&watched, &seen);
        let _ = process::start_thread("progress", STACK, Box::new(look));
        Waiting {
            start: Instant::now(),
            last,
        }
    }

    /// The wait is over.
    pub fn end(self, end: OrderAnswer) -> Over {
        Over {
            end,
            took: self.start.elapsed(),
            last: self.last,
        }
    }
}

/// Posts an order, and waits for the answer for as long as drainit takes.
///
/// # Errors
/// One line: the connection ended before.
pub fn order(target: &Target, path: &str) -> Result<(Head, String), String> {
    let limits = ExchangeLimits {
        time: FOREVER,
        body: BODY,
    };
    let (peer, address) = target.door();
    let mut body = Vec::new();
    let sink = |piece: &[u8]| body.extend_from_slice(piece);
    let head = exchange_with(peer, address, Method::Post, path, limits, sink)?;
    Ok((head, String::from_utf8_lossy(&body).trim().to_owned()))
}

/// Prints what is left while it drains or is held, until the process ends.
pub fn tell(target: &Target, last: &LastSeen) {
    let mut said: Option<(String, Instant)> = None;
    let start = Instant::now();
    loop {
        thread::sleep(LOOK);
        let Ok(status) = read_status(target, true) else {
            continue;
        };
        let held = held(&status);
        if let Some(left) = left(&status) {
            last.note(format!("{left}{held}"));
        }
        let Some((what, time)) = line(&status) else {
            continue;
        };
        let is_new = said
            .as_ref()
            .is_none_or(|(before, at)| *before != what || at.elapsed() >= LINE);
        if is_new {
            // Nearly everybody has a connection in the first moments.
            let is_late = start.elapsed() >= LINE;
            say(&format!("{what}{time}{}", if is_late { &held } else { "" }));
            said = Some((what, Instant::now()));
        }
    }
}

/// What the drain is at, and how far its time has come; none once it is over: how it ended is the
/// answer's to tell.
fn line(status: &Value) -> Option<(String, String)> {
    let view = JsonView(status);
    let wait = view.wait();
    if wait.is_some_and(|wait| wait.text("/result").is_some()) {
        return None;
    }
    let state = view.text("/state").unwrap_or_default();
    let what = match (state.as_str(), left(status)) {
        ("delaying", _) => "delaying: envoy serves on for the drain delay".into(),
        ("draining" | "held", Some(left)) => {
            let first = wait.and_then(|wait| wait.count("/first/connections"));
            // Some may have come since.
            let first = first.max(view.count("/connections")).unwrap_or(0);
            format!("{state}: {left} left of {first}")
        }
        ("draining" | "held", None) => format!("{state}: envoy has not told what is left"),
        (state, _) => state.to_owned(),
    };
    let time = wait.map(|wait| {
        let (elapsed, timeout) = (
            wait.shown("/elapsed_seconds"),
            wait.shown("/timeout_seconds"),
        );
        format!(", {elapsed} of {timeout}")
    });
    Some((what, time.unwrap_or_default()))
}

/// `2 connections (https 1, tcp 1; 1 request in flight)`: what counts; none where it is not known.
fn left(status: &Value) -> Option<String> {
    let view = JsonView(status);
    let connections = plural(view.count("/connections")?, "connection");
    let mut open: Vec<(u64, String)> = view
        .items("/listeners")
        .filter(|listener| !listener.holds("/excluded"))
        .filter_map(|listener| Some((listener.count("/connections")?, listener.text("/name")?)))
        .filter(|(count, _)| *count > 0)
        .collect();
    open.sort_unstable_by(|one, other| other.0.cmp(&one.0).then_with(|| one.1.cmp(&other.1)));
    let mut listeners: Vec<String> = open
        .iter()
        .take(NAMED)
        .map(|(count, name)| format!("{name} {count}"))
        .collect();
    if open.len() > NAMED {
        listeners.push(format!("and {} more", open.len() - NAMED));
    }
    let mut details = Vec::new();
    if !listeners.is_empty() {
        details.push(listeners.join(", "));
    }
    for (path, name) in [("/requests", "request"), ("/udp_sessions", "UDP session")] {
        if let Some(count) = view.count(path).filter(|count| *count > 0) {
            details.push(format!("{} in flight", plural(count, name)));
        }
    }
    let details = match details.is_empty() {
        true => String::new(),
        false => format!(" ({})", details.join("; ")),
    };
    Some(format!("{connections}{details}"))
}

/// `; held by tcp: 10.1.2.3:51234, silent 12 s; and 7 more`; empty where nobody is known, or may be.
fn held(status: &Value) -> String {
    let view = JsonView(status);
    let named: Vec<_> = view
        .items("/clients")
        .map(JsonView::client)
        .take(CLIENTS)
        .collect();
    let open = view.items("/clients").take(CLIENTS);
    let open = open.filter(|client| !client.holds("/closed"));
    let all = view.count("/connections").unwrap_or_default();
    let more = all.saturating_sub(open.count() as u64);
    match clients::list(&named, more) {
        list if list.is_empty() => list,
        list => format!("; held by {list}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_left_is_told_with_where_the_most_first() {
        let mut status = json!({
            "state": "draining",
            "connections": 5,
            "requests": 1,
            "udp_sessions": 0,
            "listeners": [
                { "name": "tcp", "connections": 1, "excluded": false },
                { "name": "https", "connections": 4, "excluded": false },
                { "name": "idle", "connections": 0, "excluded": false },
                { "name": "metrics", "connections": 7, "excluded": true },
            ],
            "drain": {
                "elapsed_seconds": 4.2,
                "timeout_seconds": 25.0,
                "first": { "connections": 8 },
            },
        });
        let (what, time) = line(&status).unwrap();
        let left = "5 connections (https 4, tcp 1; 1 request in flight)";
        assert_eq!(what, format!("draining: {left} left of 8"));
        assert_eq!(time, ", 4.2 s of 25 s");
        status["connections"] = 9.into();
        assert!(line(&status).unwrap().0.ends_with(" left of 9"));
        status["connections"] = Value::Null;
        let what = |status: &Value| line(status).unwrap().0;
        assert_eq!(what(&status), "draining: envoy has not told what is left");
        status["state"] = "delaying".into();
        assert!(what(&status).contains("the drain delay"));
        // Whether that was `drained` or `CUT`, the last line says.
        status["state"] = "drained".into();
        status["drain"]["result"] = "deadline".into();
        assert_eq!(line(&status), None);
    }

    #[test]
    fn the_last_line_goes_by_whether_something_was_cut_and_not_by_what_ended_it() {
        let line = |result: &str, is_clean| {
            let last = LastSeen::default();
            last.note("1 connection (tcp 1)".into());
            let over = Over {
                end: OrderAnswer::new(result.into(), is_clean),
                took: Duration::from_secs(3),
                last,
            };
            over.line("CUT")
        };
        let left = "; last seen: 1 connection (tcp 1)";
        assert_eq!(line("drained", Some(true)), "drained after 3 s");
        assert_eq!(line("deadline", Some(true)), "ended after 3 s: deadline");
        for (clean, result, why) in [
            (Some(false), "deadline", "deadline"),
            (Some(false), "drained", "as --open-connections allows"),
            // An older drainit's.
            (None, "deadline", "deadline"),
        ] {
            let cut = format!("CUT after 3 s: {why}{left}");
            assert_eq!(line(result, clean), cut);
        }
        assert_eq!(line("idle", None), "idle after 3 s");
    }

    #[test]
    fn three_are_named_of_those_who_hold_it() {
        let mut status = json!({ "connections": 5, "clients": [] });
        assert_eq!(held(&status), "");
        let client = |port| json!({ "listener": "tcp", "address": format!("10.1.2.3:{port}") });
        status["clients"] = (1..=4).map(client).collect();
        assert_eq!(
            held(&status),
            "; held by tcp: 10.1.2.3:1; 10.1.2.3:2; 10.1.2.3:3; and 2 more"
        );
        // A closed one is none of the five.
        status["clients"][2]["closed"] = true.into();
        assert!(held(&status).ends_with("; and 3 more"));
    }

    #[test]
    fn of_many_listeners_ten_are_named() {
        let listeners: Vec<_> = (1..=12)
            .map(|n| json!({ "name": format!("l{n:02}"), "connections": n, "excluded": false }))
            .collect();
        let status = json!({ "connections": 78, "listeners": listeners });
        let left = left(&status).unwrap();
        assert!(
            left.starts_with("78 connections (l12 12, l11 11, "),
            "{left}"
        );
        assert!(left.ends_with(", l03 3, and 2 more)"), "{left}");
    }
}
