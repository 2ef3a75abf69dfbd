//! The picture that `drainit status` shows: pure, from the JSON of `/status` to text.
//!
//! It is for somebody who is woken by it: what drainit does and waits for comes first, then what is
//! wrong, then where connections are left, and the rest after that.

use std::time::Duration;

use serde_json::Value;

use super::listeners;
use super::paint::{Line, Paint, Style};
use super::trouble::{self, waits_for};
use super::view::{JsonView, unknown};
use crate::duration::show;
use crate::status::plural;

/// What must be read is wrapped to so many lines at the most, or to this part of a window.
const WRAPPED: usize = 3;
const PARTS: usize = 2;

/// In a low window so many lines are the listeners' before there are details.
const LISTENERS: usize = 5;

/// What Envoy told longer ago than this is told with its age.
const FRESH_SECONDS: f64 = 3.0;

/// `status`, the JSON of `/status`, as a picture for a person. What is missing in it is left out or
/// called unknown; nothing in it reaches the terminal as a control character.
pub fn render(status: &Value, style: Style) -> String {
    let lines = picture(status, style.width, style.height);
    lines.into_iter().map(|line| line.draw(style)).collect()
}

/// The status in lines of so many columns at the most, so many of them at the most.
pub fn picture(status: &Value, width: usize, height: usize) -> Vec<Line> {
    let status = JsonView(status);
    let most = if height == usize::MAX {
        height
    } else {
        (height / PARTS).max(WRAPPED)
    };
    let mut lines = state(status).wrap(width, most);
    lines.extend(bar(status, width));
    for trouble in trouble::all(status) {
        lines.extend(trouble.line().wrap(width, most));
    }
    let room = height.saturating_sub(lines.len());
    let mut details = details(status, width);
    let needed = listeners::needed(status, width);
    let for_listeners = room
        .saturating_sub(details.len())
        .max(LISTENERS.min(needed));
    lines.extend(listeners::lines(status, width, for_listeners.min(room)));
    let room = height.saturating_sub(lines.len());
    if details.len() > room && room > 0 {
        let more = details.len() - room + 1;
        details.truncate(room - 1);
        details.push(Line::new(
            Paint::Dim,
            format!("... {}", plural(more as u64, "more line")),
        ));
    }
    lines.extend(details);
    lines.truncate(height);
    lines.into_iter().map(Line::end).collect()
}

/// The status in lines that are new when something has happened, and not when time has passed.
pub fn lines(status: &Value) -> Vec<String> {
    let status = JsonView(status);
    let state = status.text("/state").unwrap_or_else(unknown);
    let reason = status.text("/reason").unwrap_or_default();
    let wait = status.wait().filter(|wait| wait.at("/result").is_none());
    let counts = wait.is_some_and(|wait| wait.count("/first/connections").is_some());
    let first = match state.as_str() {
        "draining" | "held" if counts => format!("{state}: {}", left(status)),
        _ => match verdict(status) {
            Some(verdict) => format!("{state}: {verdict}"),
            None if reason.is_empty() => state,
            None => format!("{state}: {reason}"),
        },
    };
    let troubles = trouble::all(status);
    let troubles = troubles.iter().map(trouble::Trouble::event);
    std::iter::once(first).chain(troubles).collect()
}

/// Whether things move by themselves, so that it is worth looking often.
pub fn moves(status: &Value) -> bool {
    let status = JsonView(status);
    match status.text("/state").as_deref() {
        Some("delaying" | "draining" | "stopping" | "starting" | "restarting") => true,
        Some("held") => status.at("/hold/result").is_none(),
        _ => false,
    }
}

/// Why drainit is over, or how its drain ended.
pub fn verdict(status: JsonView<'_>) -> Option<String> {
    let verdict = status.text("/verdict");
    verdict
        .or_else(|| status.text("/drain/verdict"))
        .or_else(|| {
            let held = status.text("/state").as_deref() == Some("held");
            status.text("/hold/verdict").filter(|_| held)
        })
}

/// What drainit does, and what it waits for.
fn state(status: JsonView<'_>) -> Line {
    let state = status.text("/state").unwrap_or_else(unknown);
    let reason = status.text("/reason").unwrap_or_default();
    let mut paint = match state.as_str() {
        "live" => Paint::Good,
        "gone" | "restarting" => Paint::Bad,
        _ => Paint::Busy,
    };
    let mut word = state.clone();
    let what = match state.as_str() {
        "live" => open(status),
        "waiting" => format!("waits for certificates: {reason}"),
        "starting" => match status.text("/admin/ready") {
            Some(ready) => format!("waits for envoy to be live; it is {}", ready.trim()),
            None => "waits for envoy to be live; it has not answered yet".into(),
        },
        "restarting" => match status.span("/envoy/next_start_seconds") {
            Some(next) if next < SOON => "envoy is about to be started again".into(),
            Some(next) => format!("envoy is started again in {}", show(next)),
            None => "why envoy ended is being found out".into(),
        },
        "delaying" => format!("envoy serves on for the drain delay; {}", open(status)),
        "held" => match (verdict(status), status.wait()) {
            (Some(verdict), _) => format!("{verdict}; out of service until `drainit resume`"),
            (None, Some(_)) => format!("out of service; {}{}", waits_for(status), age(status)),
            (None, None) => "envoy is being told that it is in service again".into(),
        },
        "draining" => format!("{}{}", waits_for(status), age(status)),
        "drained" | "stopping" | "gone" => {
            let clean = status.at("/drain/clean").and_then(Value::as_bool);
            let verdict = verdict(status);
            // One that was cut is no drain that is done.
            if state == "drained" && clean == Some(false) {
                (paint, word) = (Paint::Bad, "not drained".into());
            } else if clean == Some(true) {
                paint = Paint::Good;
            }
            let what = verdict.unwrap_or(reason);
            match state.as_str() {
                "drained" if status.at("/envoy/pid").is_some() => {
                    format!("{what}; envoy stays until it is told to stop")
                }
                "drained" => format!("{what}; waits to be told to stop"),
                "stopping" => format!("waits for envoy's end; {what}"),
                _ => what,
            }
        }
        _ => reason,
    };
    let since = status.shown("/since_seconds");
    let colon = if what.is_empty() { "" } else { ": " };
    Line::new(paint, word).and(Paint::Plain, format!(" for {since}{colon}{what}"))
}

/// `12 connections, 3 requests in flight`
fn open(status: JsonView<'_>) -> String {
    match status.count("/connections") {
        None => "what is open is not known".into(),
        Some(connections) => format!(
            "{}{}{}",
            plural(connections, "connection"),
            in_flight(status),
            age(status)
        ),
    }
}

/// `12 of 340 left, 3 requests in flight, 2 UDP sessions`
fn left(status: JsonView<'_>) -> String {
    let now = status.count("/connections").unwrap_or(0);
    let first = status
        .wait()
        .and_then(|wait| wait.count("/first/connections"));
    let first = first.unwrap_or(0);
    format!("{now} of {} left{}", first.max(now), in_flight(status))
}

fn in_flight(status: JsonView<'_>) -> String {
    let mut text = String::new();
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

/// How old the figures are, where they are old.
fn age(status: JsonView<'_>) -> String {
    let ago = status.span("/looked_seconds_ago");
    match ago.filter(|ago| ago.as_secs_f64() > FRESH_SECONDS) {
        Some(ago) => format!(" ({} ago)", show(ago)),
        None => String::new(),
    }
}

/// What is due in less than this is about to be done.
const SOON: Duration = Duration::from_millis(50);

/// The longest bar, in characters.
const BAR: usize = 40;

/// How much of a drain's time is gone, with what is left beside it.
fn bar(status: JsonView<'_>, width: usize) -> Option<Line> {
    let drain = status.wait()?;
    let times = drain
        .span("/elapsed_seconds")
        .zip(drain.span("/timeout_seconds"));
    let (elapsed, timeout) = times.filter(|(_, timeout)| !timeout.is_zero())?;
    if drain.at("/result").is_some() {
        return None;
    }
    let part = (elapsed.as_secs_f64() / timeout.as_secs_f64()).clamp(0.0, 1.0);
    let left = drain.shown("/left_seconds");
    let connections = status.count("/connections").map(|now| {
        let udp = |view: JsonView<'_>, path| view.count(path).unwrap_or(0);
        let now = now.saturating_add(udp(status, "/udp_sessions"));
        let first = drain.count("/first/connections").unwrap_or(now);
        let first = first.saturating_add(udp(drain, "/first/udp_sessions"));
        format!("{now} of {} left, ", first.max(now))
    });
    let beside = format!("] {}{left} to go", connections.unwrap_or_default());
    let length = width.saturating_sub(1 + beside.len()).clamp(8, BAR);
    // Rounded down: a bar that is full is over.
    let full = (part * length as f64) as usize;
    let paint = if part < 0.8 { Paint::Busy } else { Paint::Bad };
    Some(
        Line::new(Paint::Plain, "[")
            .and(paint, "#".repeat(full))
            .and(Paint::Dim, "-".repeat(length.saturating_sub(full)))
            .and(Paint::Plain, beside)
            .cut(width),
    )
}

/// The width of the first column.
const LABEL: usize = 13;

/// A detail takes so many lines at the most.
const DETAIL: usize = 2;

fn details(status: JsonView<'_>, width: usize) -> Vec<Line> {
    let details = [
        drain(status),
        steps(status),
        envoy(status),
        old_envoy(status),
        last_end(status),
        reload(status),
        configuration(status),
        admin(status),
        drainit(status),
    ];
    let mut details: Vec<Line> = details.into_iter().flatten().collect();
    details.extend(certificates(status));
    let wrapped = details
        .into_iter()
        .flat_map(|line| line.wrap(width, DETAIL));
    wrapped.collect()
}

fn detail(label: &str, text: impl Into<String>) -> Option<Line> {
    let label = format!("{label:<LABEL$}");
    Some(Line::new(Paint::Bold, label).and(Paint::Plain, text))
}

/// A drain that is under way: its cause and its end. One that is over has a verdict.
fn drain(status: JsonView<'_>) -> Option<Line> {
    let drain = status.wait()?;
    if drain.at("/result").is_some() {
        return None;
    }
    let cause = drain.text("/cause").unwrap_or_else(unknown);
    let deadline = drain.text("/deadline").unwrap_or_else(unknown);
    let timeout = drain.shown("/timeout_seconds");
    let (label, after) = match drain.holds("/stops") {
        _ if status.at("/drain").is_none() => ("hold", "the wait is over, and envoy stays held,"),
        true => ("drain", "envoy is stopped"),
        false => ("drain", "it is over, and envoy stays,"),
    };
    let time = time_of_day(&deadline);
    detail(
        label,
        format!("{cause}; {after} by {time}, after {timeout}"),
    )
}

/// `2026-01-31T23:59:59.250Z` as `23:59:59 UTC`
fn time_of_day(timestamp: &str) -> String {
    match timestamp.get(11..19) {
        Some(time) => format!("{time} UTC"),
        None => timestamp.to_owned(),
    }
}

fn steps(status: JsonView<'_>) -> Option<Line> {
    let step = |moment: JsonView<'_>| {
        let event = moment.text("/event").unwrap_or_else(unknown);
        format!("{event} +{}", moment.shown("/after_seconds"))
    };
    // The first is the order itself.
    let steps: Vec<String> = status
        .wait()?
        .items("/timeline")
        .skip(1)
        .map(step)
        .collect();
    if steps.is_empty() {
        return None;
    }
    detail("steps", steps.join(", "))
}

fn envoy(status: JsonView<'_>) -> Option<Line> {
    let Some(pid) = status.count("/envoy/pid") else {
        return detail("envoy", "not running");
    };
    let version = match status.text("/envoy/version") {
        Some(version) => format!("{version}, "),
        None => String::new(),
    };
    let up = status.shown("/envoy/uptime_seconds");
    let restarts = match status.count("/envoy/restarts") {
        None | Some(0) => String::new(),
        Some(1) => ", restarted once".into(),
        Some(count) => format!(", restarted {count} times"),
    };
    detail("envoy", format!("{version}pid {pid}, up {up}{restarts}"))
}

fn old_envoy(status: JsonView<'_>) -> Option<Line> {
    let pid = status.count("/envoy/old_generation_pid")?;
    let count = status.count("/old_generation_connections");
    let count = count.filter(|count| *count > 0);
    let count = count.map(|count| format!(", {} left", plural(count, "connection")));
    detail(
        "old envoy",
        format!("pid {pid} drains{}", count.unwrap_or_default()),
    )
}

fn last_end(status: JsonView<'_>) -> Option<Line> {
    if trouble::is_news(status) {
        return None;
    }
    detail("last end", trouble::last_end(status)?.line().text())
}

fn configuration(status: JsonView<'_>) -> Option<Line> {
    let mut text = status.text("/configuration/runs")?;
    if let Some(worse) = status.text("/configuration/worse") {
        let ago = status.shown("/configuration/since_seconds");
        text = format!("{text}, for {ago}: the file's was worse: {worse}");
    } else if status.span("/configuration/watched_seconds").is_some() {
        let left = status.shown("/configuration/watched_seconds");
        text = format!("{text}, watched for {left} more");
    }
    if let Some(hangs) = status.text("/configuration/hangs") {
        text = format!("{text}; {hangs}");
    }
    detail("config", text)
}

fn reload(status: JsonView<'_>) -> Option<Line> {
    if status.holds("/reloading") {
        return detail("reload", "under way");
    }
    if status.holds("/reload_kept") {
        return detail("reload", "kept until the old generation has ended");
    }
    if !status.holds("/reload/ok") {
        return None;
    }
    let ago = status.shown("/reload/ended_seconds_ago");
    let what = status.text("/reload/message").unwrap_or_default();
    detail("reload", format!("{ago} ago: {what}"))
}

/// Where Envoy is asked; what it said of its readiness, only while that is a question.
fn admin(status: JsonView<'_>) -> Option<Line> {
    status.at("/envoy/pid")?;
    let address = status.text("/admin/address");
    detail(
        "admin",
        address.unwrap_or_else(|| "address not known yet".into()),
    )
}

fn drainit(status: JsonView<'_>) -> Option<Line> {
    let version = status.text("/drainit/version").unwrap_or_else(unknown);
    let pid = status.count("/drainit/pid").unwrap_or(0);
    let up = status.shown("/drainit/uptime_seconds");
    let listen = status.text("/drainit/listen");
    let listen = listen.map(|listen| format!(", listens on {listen}"));
    let text = format!(
        "{version}, pid {pid}, up {up}{}",
        listen.unwrap_or_default()
    );
    detail("drainit", text)
}

/// Certificates, the first to expire first.
fn certificates(status: JsonView<'_>) -> Vec<Line> {
    let mut all: Vec<JsonView<'_>> = status.items("/certificates").collect();
    let left = |one: &JsonView<'_>| one.at("/left_seconds").and_then(Value::as_f64);
    all.sort_unstable_by(|one, other| {
        let (one, other) = (left(one), left(other));
        one.partial_cmp(&other).unwrap_or(std::cmp::Ordering::Equal)
    });
    let starts = status.text("/state").as_deref() == Some("starting");
    all.into_iter()
        .map(|one| certificate(one, starts))
        .collect()
}

/// The longest serial number that is not cut, in digits, and how many of a longer one are shown.
const SERIAL: (usize, usize) = (12, 8);

/// `starts`: Envoy is not live so far.
fn certificate(certificate: JsonView<'_>, starts: bool) -> Line {
    let name = certificate.text("/secret").unwrap_or_else(unknown);
    let mut line = Line::new(Paint::Bold, format!("{:<LABEL$}", "certificate"));
    line.push(Paint::Plain, format!("{name}: "));
    let whole = certificate.span("/lifetime_seconds");
    let of = whole.map(|whole| format!(" of {}", show(whole)));
    let of = of.unwrap_or_default();
    match trouble::left(certificate) {
        None => line.push(Paint::Busy, "not loaded yet"),
        Some(Err(since)) => line.push(Paint::Bad, format!("expired {} ago", show(since))),
        Some(Ok(left)) if whole.is_some_and(|whole| left < whole / 3) => {
            line.push(Paint::Bad, format!("good only for {}{of}", show(left)));
        }
        Some(Ok(left)) => line.push(Paint::Good, format!("good for {}{of}", show(left))),
    }
    if let Some(until) = certificate.text("/not_after") {
        line.push(
            Paint::Plain,
            format!(", until {}", until.get(..10).unwrap_or(&until)),
        );
    }
    if let Some(serial) = certificate.text("/serial") {
        let (longest, shown) = SERIAL;
        let cut: String = serial.chars().take(shown).collect();
        let serial = match serial.chars().count() > longest {
            true => format!("{cut}..."),
            false => serial,
        };
        line.push(Paint::Plain, format!(", serial {serial}"));
    }
    let is_stale = certificate.holds("/stale") && certificate.text("/last_error").is_none();
    if is_stale && certificate.at("/not_after").is_some() {
        let why = match certificate.text("/last_result") {
            _ if starts => ", envoy has not confirmed it yet",
            Some(_) => ", its files hold another",
            // So it stays where the secret has another name in Envoy's configuration.
            None => ", envoy has not taken it: does a listener use it?",
        };
        line.push(Paint::Busy, why);
    }
    line
}

#[cfg(test)]
mod tests;
