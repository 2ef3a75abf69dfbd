//! `drainit shutdown`: an exec hook, and systemd's ExecStop.

use std::thread;
use std::time::{Duration, Instant};

use nix::libc::{ESRCH, SIGUSR2};
use serde_json::Value;

use super::find::{self, Target};
use super::progress::{self, LastSeen};
use super::{BODY, FOREVER, complain, read_status, say};
use crate::client::{Head, Limits, Method, exchange_with};
use crate::duration::show;
use crate::options::Options;
use crate::process::Handle;

/// Between two looks at whether it is over.
const LOOK: Duration = Duration::from_millis(100);

/// Asks the running drainit to drain, and waits: 0 drained, 1 cut by the deadline, 2 nothing runs.
pub fn run(options: &Options) -> u8 {
    match drain(options) {
        Ok(over) => {
            say(&over.line());
            u8::from(!over.is_clean())
        }
        Err((code, why)) => {
            complain(&why);
            code
        }
    }
}

/// A drain that is over, as far as somebody saw who waited for it.
struct Over {
    result: String,
    took: Duration,
    last: LastSeen,
}

impl Over {
    fn is_clean(&self) -> bool {
        matches!(self.result.as_str(), "drained" | "idle" | "never live")
    }

    /// `drained after 3.2 s`, or `CUT after 20.0 s: deadline; last seen: 2 connections (tcp 2)`
    fn line(&self) -> String {
        let took = show(self.took);
        if self.is_clean() {
            return format!("{} after {took}", self.result);
        }
        let left = match self.last.left() {
            Some(left) => format!("; last seen: {left}"),
            None => String::new(),
        };
        format!("CUT after {took}: {}{left}", self.result)
    }
}

fn drain(options: &Options) -> Result<Over, (u8, String)> {
    let nothing_runs = |why| (2, why);
    let target = find::target(options).map_err(nothing_runs)?;
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
    let last = LastSeen::default();
    let seen = last.clone();
    let start = Instant::now();
    let _ = thread::Builder::new().spawn(move || progress::tell(&watched, &seen));
    let over = |result| Over {
        result,
        took: start.elapsed(),
        last,
    };
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
        }) => Ok(over(drain_result.unwrap_or_else(|| "envoy exited".into()))),
        // Who comes from another user namespace may have the right to signal it, and no name here.
        Ok(Head { status: 403, .. }) if signalled => {
            await_end(&target).map(over).map_err(|why| (1, why))
        }
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
