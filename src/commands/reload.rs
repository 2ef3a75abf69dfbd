//! `drainit reload`: systemd's ExecReload, or a person who has just changed a file.

use std::thread;
use std::time::{Duration, Instant};

use nix::libc::SIGHUP;
use serde_json::Value;

use super::status::view::JsonView;
use super::{complain, find, read_status, say};
use crate::envoy::hot_restart;
use crate::options::Options;
use crate::process::Handle;
use crate::status::plural;

/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(50);

/// A reload that nothing stands in the way of, and that is done in less time, needs no word before.
const LASTS: Duration = Duration::from_secs(1);

/// A line at the least this often, though nothing has changed.
const LINE: Duration = Duration::from_secs(5);

/// A hot restart has 10 s for each of three trials, 60 s for the next generation, as much for a
/// second attempt, and then 30 s for what the new Envoy makes of the certificates.
const LIMIT: Duration = Duration::from_secs(180);

/// Asks the running drainit to reload, and waits, or only until that has begun; 0, or 1 and why.
pub fn run(options: &Options, waits: bool) -> u8 {
    match reload(options, waits) {
        Ok(line) => {
            say(&line);
            0
        }
        Err(why) => {
            complain(&why);
            1
        }
    }
}

fn reload(options: &Options, waits: bool) -> Result<String, String> {
    let target = find::target(options)?;
    let pid = target
        .pid()
        .ok_or("that drainit runs in another container: say `drainit reload` in there")?;
    let gone = |error| format!("process {pid} cannot be told to reload: {error}");
    // Before the next look: then it is the process that was looked at, or none.
    let process = Handle::open(pid).map_err(gone)?;
    let before = read_status(&target, true)?;
    if let (Some(version), Some(envoy)) = (
        before.pointer("/envoy/version").and_then(Value::as_str),
        before.pointer("/envoy/pid").and_then(Value::as_i64),
    ) && let Some(warning) = i32::try_from(envoy)
        .ok()
        .and_then(|envoy| hot_restart::warning(version, envoy))
    {
        complain(&warning);
    }
    process.signal(SIGHUP).map_err(gone)?;
    let begun = Instant::now();
    let mut until = begun + LIMIT;
    let mut asked = None;
    let mut said: Option<(String, Instant)> = None;
    while Instant::now() < until {
        // Before the first look, too: another's may have come first.
        thread::sleep(LOOK);
        let now = read_status(&target, true)?;
        let view = JsonView(&now);
        let count = |path| view.count(path).unwrap_or_default();
        let is_new =
            count("/reloads_asked") > JsonView(&before).count("/reloads_asked").unwrap_or(0);
        let Some(number) = asked.or(is_new.then(|| count("/reloads_asked"))) else {
            continue;
        };
        asked = Some(number);
        if count("/reload/number") >= number {
            let message = view.text("/reload/message").unwrap_or_default();
            return match view.holds("/reload/ok") {
                true => Ok(message),
                false => Err(message),
            };
        }
        let (stage, time) = stage(view);
        if !waits {
            return Ok(format!("{stage}{time}"));
        }
        if view.holds("/reload_kept") {
            // As long as the old generation takes.
            until = Instant::now() + LIMIT;
        }
        let is_said = |(line, at): &(String, Instant)| *line == stage && at.elapsed() < LINE;
        let lasts = view.holds("/reload_kept") || begun.elapsed() >= LASTS;
        if lasts && !said.as_ref().is_some_and(is_said) {
            say(&format!("{stage}{time}"));
            said = Some((stage, Instant::now()));
        }
    }
    Err("the reload has not come to an end yet: see `drainit status`".into())
}

/// What the reload is at, and how long that takes at the most, where that is known.
fn stage(view: JsonView<'_>) -> (String, String) {
    if !view.holds("/reload_kept") {
        return ("reloading".into(), String::new());
    }
    if view.holds("/reloading") {
        return (
            "kept until the reload under way has ended".into(),
            String::new(),
        );
    }
    let pid = view.count("/envoy/old_generation_pid").unwrap_or_default();
    let left = match view.count("/old_generation_connections") {
        Some(count) if count > 0 => format!(" with {}", plural(count, "connection")),
        _ => String::new(),
    };
    let time = match view.span("/envoy/old_generation_left_seconds") {
        Some(_) => format!(
            ", {} at the most",
            view.shown("/envoy/old_generation_left_seconds")
        ),
        None => String::new(),
    };
    (
        format!("kept until the old generation, pid {pid}, has ended, which still drains{left}"),
        time,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn it_is_told_what_a_reload_waits_for() {
        let mut status = json!({
            "reloading": true,
            "reload_kept": false,
            "old_generation_connections": 2,
            "envoy": { "old_generation_pid": 12, "old_generation_left_seconds": 14.2 },
        });
        let line = |status: &Value| {
            let (stage, time) = stage(JsonView(status));
            format!("{stage}{time}")
        };
        assert_eq!(line(&status), "reloading");
        status["reload_kept"] = true.into();
        assert_eq!(line(&status), "kept until the reload under way has ended");
        status["reloading"] = false.into();
        assert_eq!(
            line(&status),
            "kept until the old generation, pid 12, has ended, which still drains with 2 \
             connections, 14.2 s at the most"
        );
    }
}
