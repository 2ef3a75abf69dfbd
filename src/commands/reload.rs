//! `drainit reload`: systemd's ExecReload, or a person who has just changed a file.

use std::thread;
use std::time::{Duration, Instant};

use nix::libc::SIGHUP;
use serde_json::Value;

use super::find;
use super::{complain, read_status, say};
use crate::envoy::hot_restart;
use crate::options::Options;
use crate::process::Handle;

/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(50);

/// A hot restart has 10 s for each of three trials, 60 s for the next generation, as much for a
/// second attempt, and then 30 s for what the new Envoy makes of the certificates.
const LIMIT: Duration = Duration::from_secs(180);

/// Asks the running drainit to reload, and waits; 0, or 1 and why.
pub fn run(options: &Options) -> u8 {
    match reload(options) {
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

fn reload(options: &Options) -> Result<String, String> {
    let target = find::target(options)?;
    let pid = target
        .pid()
        .ok_or("that drainit runs in another container: say `drainit reload` in there")?;
    let gone = |error| format!("process {pid} cannot be told to reload: {error}");
    // Before the next look: then it is the process that was looked at, or none.
    let process = Handle::open(pid).map_err(gone)?;
    let before = read_status(&target, true)?;
    let number = |status: &Value| status.pointer("/reload/number").and_then(Value::as_u64);
    if before.get("reloading").and_then(Value::as_bool) == Some(true) {
        return Err("another reload is under way".into());
    }
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
    let until = Instant::now() + LIMIT;
    while Instant::now() < until {
        let now = read_status(&target, true)?;
        if number(&now) != number(&before) {
            let text = |path| now.pointer(path).and_then(Value::as_str).map(str::to_owned);
            let message = text("/reload/message").unwrap_or_default();
            let succeeded = now.pointer("/reload/ok").and_then(Value::as_bool) == Some(true);
            return if succeeded { Ok(message) } else { Err(message) };
        }
        thread::sleep(LOOK);
    }
    Err("the reload has not come to an end yet: see `drainit status`".into())
}
