//! `drainit shutdown`: an exec hook, and systemd's ExecStop.

use std::thread;
use std::time::{Duration, Instant};

use nix::libc::SIGUSR2;

use super::progress::{self, LastSeen};
use super::{BODY, complain, pid_in, say, status_now};
use crate::client::{Head, Limits, Method, exchange};
use crate::control;
use crate::duration::show;
use crate::options::Options;
use crate::process;

/// A drain lasts no longer: the longest `--drain-timeout` is 30 days.
const FOREVER: Duration = Duration::from_secs(31 * 86_400);

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
    let address = control::find(options).map_err(nothing_runs)?;
    let status = status_now(&address).map_err(nothing_runs)?;
    let pid = pid_in(&status);
    if let Some(pid) = pid {
        process::kill(pid, SIGUSR2);
    }
    // Over the control socket it is the user that counts; the port may be closed to our address.
    let asked = pid
        .and_then(|pid| control::answering(u32::try_from(pid).ok()?))
        .unwrap_or_else(|| address.clone());
    say("draining: asked for");
    // Without a thread, it waits in silence.
    let last = LastSeen::default();
    let seen = last.clone();
    let start = Instant::now();
    let _ = thread::Builder::new().spawn(move || progress::tell(&address, &seen));
    let limits = Limits {
        time: FOREVER,
        body: BODY,
    };
    match exchange(&asked, Method::Post, "/shutdown", limits, |_| {}) {
        Ok(Head {
            status: 200,
            drain_result,
            ..
        }) => Ok(Over {
            result: drain_result.unwrap_or_else(|| "envoy exited".into()),
            took: start.elapsed(),
            last,
        }),
        Ok(head) => Err((1, format!("/shutdown was answered with {}", head.status))),
        Err(why) => Err((
            1,
            format!("it ended before it told how the drain went: {why}"),
        )),
    }
}
