//! The table that `drainit status` shows: pure, from the JSON of `/status` to text.

use std::collections::HashMap;

use serde_json::Value;

use super::view::{View, unknown};
use crate::duration::show;

/// How the table is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Whether with colours.
    pub color: bool,
    /// Columns; what is longer is cut.
    pub width: usize,
    /// Rows; where they do not do, details are left out.
    pub height: usize,
}

/// What a piece of text is to the eye.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Paint {
    Plain,
    Bold,
    Dim,
    Good,
    Busy,
    Bad,
}

impl Paint {
    fn code(self) -> &'static str {
        match self {
            Paint::Plain => "",
            Paint::Bold => "\x1b[1m",
            Paint::Dim => "\x1b[2m",
            Paint::Good => "\x1b[1;32m",
            Paint::Busy => "\x1b[1;33m",
            Paint::Bad => "\x1b[1;31m",
        }
    }
}

type Line = Vec<(Paint, String)>;

/// `status`, the JSON of `/status`, as a table for a person. What is missing in it is left out or
/// called unknown; nothing in it reaches the terminal as a control character.
pub fn render(status: &Value, style: Style) -> String {
    let status = View(status);
    let head = [title, state, envoy, admin, connections].map(|line| line(status));
    let (mut drain, mut timeline) = (Vec::new(), Vec::new());
    if let Some(found) = status.at("/drain").map(View) {
        drain = self::drain(status, found, style.width);
        timeline = self::timeline(found);
    }
    let certificates = certificates(status);
    let mut listeners = listeners(status);
    // In a low window the listeners come before what has happened, and that from its end.
    let room = style
        .height
        .saturating_sub(head.len() + drain.len() + certificates.len());
    listeners.truncate(room);
    timeline.drain(..timeline.len().saturating_sub(room - listeners.len()));
    let lines = head.into_iter().chain(listeners);
    let lines = lines.chain(drain).chain(timeline).chain(certificates);
    lines
        .take(style.height)
        .map(|line| draw(&line, style))
        .collect()
}

/// `status` in one line, with what changes at every look left out.
pub fn line(status: &Value) -> String {
    let status = View(status);
    let state = status.text("/state").unwrap_or_else(unknown);
    let reason = status.text("/reason").unwrap_or_default();
    match status.count("/drain/first/connections") {
        Some(first) if state == "draining" => {
            let left = left(status, Some(first));
            format!("draining: {left}")
        }
        _ if reason.is_empty() => state,
        _ => format!("{state}: {reason}"),
    }
}

/// Whether things move by themselves, so that it is worth looking often.
pub fn moves(status: &Value) -> bool {
    let state = View(status).text("/state");
    matches!(
        state.as_deref(),
        Some("delaying" | "draining" | "stopping" | "starting")
    )
}

fn title(status: View<'_>) -> Line {
    let version = status.text("/drainit/version").unwrap_or_else(unknown);
    let pid = status.count("/drainit/pid").unwrap_or(0);
    let up = status.shown("/drainit/uptime_seconds");
    plain(format!("drainit {version}, pid {pid}, up {up}"))
}

fn state(status: View<'_>) -> Line {
    let state = status.text("/state").unwrap_or_else(unknown);
    let paint = match state.as_str() {
        "live" => Paint::Good,
        "gone" | "restarting" => Paint::Bad,
        _ => Paint::Busy,
    };
    let since = status.text("/since").unwrap_or_else(unknown);
    let age = status.shown("/since_seconds");
    let mut text = format!("for {age}, since {since}");
    if let Some(reason) = status.text("/reason").filter(|reason| !reason.is_empty()) {
        text = format!("{text}: {reason}");
    }
    vec![
        label("state"),
        (paint, state),
        (Paint::Plain, format!(" {text}")),
    ]
}

fn envoy(status: View<'_>) -> Line {
    let restarts = match status.count("/envoy/restarts") {
        None | Some(0) => (Paint::Plain, "never restarted".to_owned()),
        Some(1) => (Paint::Bad, "restarted once".to_owned()),
        Some(count) => (Paint::Bad, format!("restarted {count} times")),
    };
    let text = match status.count("/envoy/pid") {
        None => "not running, ".to_owned(),
        Some(pid) => format!(
            "pid {pid}, version {}, up {}, ",
            status.text("/envoy/version").unwrap_or_else(unknown),
            status.shown("/envoy/uptime_seconds"),
        ),
    };
    vec![label("envoy"), (Paint::Plain, text), restarts]
}

fn admin(status: View<'_>) -> Line {
    let address = status.text("/admin/address");
    let mut text = address.unwrap_or_else(|| "address not known yet".into());
    if let Some(ago) = status.span("/admin/answered_seconds_ago") {
        text = format!("{text}, answered {} ago", show(ago));
    }
    if let Some(ready) = status.text("/admin/ready") {
        text = format!("{text}, /ready said {}", ready.trim());
    }
    let mut line = vec![label("admin"), (Paint::Plain, text)];
    if status.holds("/degraded") {
        let lost = ", lost to a hot restart that failed: degraded until the next good reload";
        line.push((Paint::Bad, lost.to_owned()));
    }
    if let Some(failing) = status.span("/admin/failing_seconds") {
        let why = status.text("/admin/error").unwrap_or_default();
        let colon = if why.is_empty() { "" } else { ": " };
        line.push((
            Paint::Bad,
            format!(", failing for {}{colon}{why}", show(failing)),
        ));
    }
    line
}

fn connections(status: View<'_>) -> Line {
    let first = status.count("/drain/first/connections");
    let text = match status.count("/connections") {
        Some(_) => (Paint::Plain, left(status, first)),
        None => (Paint::Dim, "not known".into()),
    };
    let mut line = vec![label("connections"), text];
    line.extend(
        status
            .text("/hidden")
            .map(|why| (Paint::Bad, format!(", {why}"))),
    );
    line
}

fn listeners(status: View<'_>) -> Vec<Line> {
    let mut lines = Vec::new();
    // There may be thousands.
    let before: HashMap<_, _> = status
        .items("/drain/first/listeners")
        .filter_map(|one| Some((one.at("/name")?.as_str()?, one.count("/connections")?)))
        .collect();
    for listener in status.items("/listeners") {
        let name = listener.text("/name").unwrap_or_else(unknown);
        let count = listener.count("/connections").unwrap_or(0);
        let own = listener.at("/name").and_then(Value::as_str);
        let before = own.and_then(|name| before.get(name).copied());
        let mut text = format!("  {name}: {count}");
        if let Some(before) = before.filter(|before| *before >= count) {
            text = format!("{text} of {before}");
        }
        if listener.holds("/excluded") {
            lines.push(vec![(
                Paint::Dim,
                format!("{text} (excluded: these do not count)"),
            )]);
        } else {
            lines.push(plain(text));
        }
    }
    lines
}

/// `12 of 340 left, 3 requests in flight, 2 UDP sessions`; before a drain, `12 open`
fn left(status: View<'_>, first: Option<u64>) -> String {
    let now = status.count("/connections").unwrap_or(0);
    let mut text = match first {
        Some(first) => format!("{now} of {} left", first.max(now)),
        None => format!("{now} open"),
    };
    for (path, one, many) in [
        ("/requests", "request in flight", "requests in flight"),
        ("/tcp_sessions", "TCP session", "TCP sessions"),
        ("/udp_sessions", "UDP session", "UDP sessions"),
    ] {
        if let Some(count) = status.count(path).filter(|count| *count > 0) {
            let name = if count == 1 { one } else { many };
            text = format!("{text}, {count} {name}");
        }
    }
    text
}

fn drain(status: View<'_>, drain: View<'_>, width: usize) -> Vec<Line> {
    let elapsed = drain.shown("/elapsed_seconds");
    let timeout = drain.shown("/timeout_seconds");
    let after = if drain.holds("/stops") {
        "then envoy is stopped"
    } else {
        "then envoy stays"
    };
    let cause = drain.text("/cause").unwrap_or_else(unknown);
    let mut line = vec![label("drain"), (Paint::Plain, format!("{cause}: "))];
    match (drain.text("/result"), drain.span("/left_seconds")) {
        (Some(result), _) => {
            let clean = drain.holds("/clean");
            let paint = if clean { Paint::Good } else { Paint::Bad };
            line.push((paint, result));
            line.push((Paint::Plain, format!(" after {elapsed} of {timeout}")));
        }
        (None, left) => {
            let left = left.map_or_else(unknown, show);
            let deadline = drain.text("/deadline").unwrap_or_else(unknown);
            line.push((Paint::Bold, format!("{left} left")));
            line.push((
                Paint::Plain,
                format!(" of {timeout}, until {deadline} at the latest, {after}"),
            ));
        }
    }
    let mut lines = vec![line];
    if drain.at("/result").is_none() {
        lines.extend(bars(status, drain, width));
    }
    lines
}

fn timeline(drain: View<'_>) -> Vec<Line> {
    let line = |moment: View<'_>| {
        let at = moment.text("/at").unwrap_or_else(unknown);
        let after = moment.shown("/after_seconds");
        let event = moment.text("/event").unwrap_or_else(unknown);
        plain(format!("  {at}  {:>8}  {event}", format!("+{after}")))
    };
    drain.items("/timeline").map(line).collect()
}

/// How much of the connections and UDP sessions is gone, and how much of the time.
fn bars(status: View<'_>, drain: View<'_>, width: usize) -> Vec<Line> {
    let mut lines = Vec::new();
    let udp_sessions = |view: View<'_>, path| view.count(path).unwrap_or(0);
    let left = drain
        .count("/first/connections")
        .map(|count| count.saturating_add(udp_sessions(drain, "/first/udp_sessions")))
        .zip(status.count("/connections"))
        .map(|(first, now)| {
            (
                first,
                now.saturating_add(udp_sessions(status, "/udp_sessions")),
            )
        });
    if let Some((first, now)) = left {
        let first = first.max(now);
        let done = match first {
            0 => 1.0,
            _ => (first - now) as f64 / first as f64,
        };
        lines.push(bar("drained", done, Paint::Good, width));
    }
    let times = drain
        .span("/elapsed_seconds")
        .zip(drain.span("/timeout_seconds"));
    if let Some((elapsed, timeout)) = times.filter(|(_, timeout)| !timeout.is_zero()) {
        let passed = elapsed.as_secs_f64() / timeout.as_secs_f64();
        let paint = if passed < 0.8 {
            Paint::Busy
        } else {
            Paint::Bad
        };
        lines.push(bar("deadline", passed, paint, width));
    }
    lines
}

/// The longest bar, in characters.
const BAR: usize = 50;

fn bar(name: &str, part: f64, paint: Paint, width: usize) -> Line {
    let part = part.clamp(0.0, 1.0);
    let length = width.saturating_sub(LABEL + 8).min(BAR);
    // Rounded down: a bar that is full is done.
    let full = (part * length as f64) as usize;
    vec![
        (
            Paint::Plain,
            format!("  {name:<width$}[", width = LABEL - 2),
        ),
        (paint, "#".repeat(full)),
        (Paint::Dim, "-".repeat(length.saturating_sub(full))),
        (Paint::Plain, format!("] {:>3} %", (part * 100.0) as u64)),
    ]
}

fn certificates(status: View<'_>) -> Vec<Line> {
    let mut lines = Vec::new();
    for certificate in status.items("/certificates") {
        let name = certificate.text("/secret").unwrap_or_else(unknown);
        let mut line = vec![label("certificate"), (Paint::Bold, name)];
        let generation = certificate.count("/generation").unwrap_or(0);
        let mut text = format!(", generation {generation}");
        if let Some(serial) = certificate.text("/serial") {
            text = format!("{text}, serial {serial}");
        }
        line.push((Paint::Plain, text));
        line.extend(lifetime(certificate));
        if let Some(result) = certificate.text("/last_result") {
            let paint = if result == "ok" {
                Paint::Good
            } else {
                Paint::Bad
            };
            line.push((Paint::Plain, ", last change ".into()));
            line.push((paint, result));
        }
        lines.push(line);
        if let Some(error) = certificate.text("/last_error") {
            lines.push(vec![(Paint::Bad, format!("  {error}"))]);
        }
    }
    lines
}

fn lifetime(certificate: View<'_>) -> Option<(Paint, String)> {
    let until = certificate.text("/not_after")?;
    let Some(left) = certificate.span("/left_seconds") else {
        return Some((Paint::Bad, format!(", expired since {until}")));
    };
    let whole = certificate.span("/lifetime_seconds");
    let late = whole.is_some_and(|whole| left < whole / 3);
    let paint = if late { Paint::Bad } else { Paint::Plain };
    let of = whole.map(|whole| format!(" of {}", show(whole)));
    let of = of.unwrap_or_default();
    Some((paint, format!(", {}{of} left, until {until}", show(left))))
}

/// The width of the first column.
const LABEL: usize = 13;

fn label(text: &str) -> (Paint, String) {
    (Paint::Bold, format!("{text:<LABEL$}"))
}

fn plain(text: String) -> Line {
    vec![(Paint::Plain, text)]
}

/// A line as it goes to the terminal, with its end.
fn draw(line: &Line, style: Style) -> String {
    let mut text = String::new();
    let mut room = style.width;
    for (paint, piece) in line {
        let cut: String = piece.chars().take(room).collect();
        room -= cut.chars().count();
        if style.color && *paint != Paint::Plain && !cut.is_empty() {
            text.push_str(paint.code());
            text.push_str(&cut);
            text.push_str("\x1b[0m");
        } else {
            text.push_str(&cut);
        }
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
