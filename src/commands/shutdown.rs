//! `drainit shutdown`: an exec hook, and systemd's ExecStop.

use std::thread;
use std::time::Duration;

use nix::libc::{ESRCH, SIGUSR2};
use serde_json::Value;

use super::{BODY, complain, read_status, say};
use crate::client::{Head, Limits, Method, exchange_with};
use crate::control::{self, Target};
use crate::options::Options;
use crate::process::Handle;
use crate::status::plural;

/// Between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(1);

/// Between two looks at whether it is over.
const LOOK: Duration = Duration::from_millis(100);

/// A drain lasts no longer: the longest `--drain-timeout` is 30 days.
const FOREVER: Duration = Duration::from_secs(31 * 86_400);

/// Asks the running drainit to drain, and waits: 0 drained, 1 cut by the deadline, 2 nothing runs.
pub fn run(options: &Options) -> u8 {
    match drain(options) {
        Ok(result) => {
            say(&format!("the drain is over: {result}"));
            u8::from(!matches!(
                result.as_str(),
                "drained" | "idle" | "never live"
            ))
        }
        Err((code, why)) => {
            complain(&why);
            code
        }
    }
}

fn drain(options: &Options) -> Result<String, (u8, String)> {
    let nothing_runs = |why| (2, why);
    let target = control::find(options).map_err(nothing_runs)?;
    let gone = |error| nothing_runs(format!("that drainit has just ended: {error}"));
    // Before the next look: then it is the process that was looked at, or none.
    let process = target.pid().map(Handle::open).transpose().map_err(gone)?;
    read_status(&target, true).map_err(nothing_runs)?;
    let signalled = match process.map(|process| process.signal(SIGUSR2)) {
        Some(Err(error)) if error.raw_os_error() == Some(ESRCH) => return Err(gone(error)),
        // It has the order by /shutdown, too: root without CAP_KILL may give it that way alone.
        signalled => matches!(signalled, Some(Ok(()))),
    };
    say("draining: asked for");
    let watched = target.clone();
    // Without a thread, it waits in silence.
    let _ = thread::Builder::new().spawn(move || tell_progress(&watched));
    let limits = Limits {
        time: FOREVER,
        body: BODY,
    };
    let (peer, address) = target.door();
    match exchange_with(peer, address, Method::Post, "/shutdown", limits, |_| {}) {
        Ok(Head {
            status: 200,
            drain_result,
            ..
        }) => Ok(drain_result.unwrap_or_else(|| "envoy exited".into())),
        // Who comes from another user namespace may have the right to signal it, and no name here.
        Ok(Head { status: 403, .. }) if signalled => await_end(&target).map_err(|why| (1, why)),
        Ok(head) => Err((1, format!("/shutdown was answered with {}", head.status))),
        Err(why) => Err((
            1,
            format!("it ended before it told how the drain went: {why}"),
        )),
    }
}

/// How the drain ended that the signal asked for.
fn await_end(target: &Target) -> Result<String, String> {
    loop {
        let status = read_status(target, true)
            .map_err(|why| format!("it ended before it told how the drain went: {why}"))?;
        let result = status.pointer("/drain/result").and_then(Value::as_str);
        if let Some(result) = result {
            return Ok(result.to_owned());
        }
        thread::sleep(LOOK);
    }
}

/// One line a second while what is left changes, until the process ends.
fn tell_progress(target: &Target) {
    let mut said = None;
    loop {
        thread::sleep(PROGRESS);
        let Ok(status) = read_status(target, true) else {
            continue;
        };
        let number = |path| status.pointer(path).and_then(Value::as_u64);
        let udp_sessions = number("/udp_sessions").unwrap_or(0);
        let left = number("/connections").map(|connections| (connections, udp_sessions));
        if let Some((connections, _)) = left.filter(|_| left != said) {
            let requests = number("/requests").unwrap_or(0);
            let udp_sessions = match udp_sessions {
                0 => String::new(),
                count => format!(" and {}", plural(count, "UDP session")),
            };
            say(&format!(
                "draining: {}{udp_sessions} left, {} in flight",
                plural(connections, "connection"),
                plural(requests, "request")
            ));
            said = left;
        }
    }
}
