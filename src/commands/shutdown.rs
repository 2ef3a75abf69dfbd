//! `drainit shutdown`: an exec hook, and systemd's ExecStop.

use std::thread;
use std::time::Duration;

use nix::libc::SIGUSR2;
use serde_json::Value;

use super::{BODY, complain, pid_in, say, status_now};
use crate::client::{Address, Head, Limits, Method, exchange};
use crate::control;
use crate::options::Options;
use crate::process;
use crate::status::plural;

/// Between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(1);

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
    let _ = thread::Builder::new().spawn(move || tell_progress(&address));
    let limits = Limits {
        time: FOREVER,
        body: BODY,
    };
    match exchange(&asked, Method::Post, "/shutdown", limits, |_| {}) {
        Ok(Head {
            status: 200,
            drain_result,
            ..
        }) => Ok(drain_result.unwrap_or_else(|| "envoy exited".into())),
        Ok(head) => Err((1, format!("/shutdown was answered with {}", head.status))),
        Err(why) => Err((
            1,
            format!("it ended before it told how the drain went: {why}"),
        )),
    }
}

/// One line a second while what is left changes, until the process ends.
fn tell_progress(address: &Address) {
    let mut said = None;
    loop {
        thread::sleep(PROGRESS);
        let Ok(status) = status_now(address) else {
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
