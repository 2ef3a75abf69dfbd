//! `drainit shutdown`: an exec hook, and systemd's ExecStop.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use nix::libc::SIGUSR2;
use serde_json::Value;

use super::{BODY, complain, pid_in, say, status};
use crate::client::{Address, Head, Limits, Method, exchange};
use crate::control;
use crate::options::Options;
use crate::process;

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
    let status = status(&address).map_err(nothing_runs)?;
    if let Some(pid) = pid_in(&status) {
        process::kill(pid, SIGUSR2);
    }
    // Over the control socket it is the user that counts; the port may be closed to our address.
    let control = pid_in(&status).and_then(|pid| u32::try_from(pid).ok());
    let asked = control
        .and_then(control::answering)
        .unwrap_or_else(|| address.clone());
    let (sender, over) = channel();
    thread::Builder::new()
        .spawn(move || {
            let limits = Limits {
                time: FOREVER,
                body: BODY,
            };
            let _ = sender.send(exchange(&asked, Method::Post, "/shutdown", limits, |_| {}));
        })
        .map_err(|error| (1, format!("cannot wait: {error}")))?;
    let mut said = None;
    loop {
        match over.recv_timeout(PROGRESS) {
            Err(RecvTimeoutError::Timeout) => tell_progress(&address, &mut said),
            Err(RecvTimeoutError::Disconnected) => return Err((1, "cannot wait".into())),
            Ok(Ok(Head {
                status: 200,
                drain_result,
                ..
            })) => {
                return Ok(drain_result.unwrap_or_else(|| "envoy exited".into()));
            }
            Ok(Ok(head)) => {
                return Err((1, format!("/shutdown was answered with {}", head.status)));
            }
            Ok(Err(why)) => {
                return Err((
                    1,
                    format!("it ended before it told how the drain went: {why}"),
                ));
            }
        }
    }
}

/// One line when the number of connections has changed.
fn tell_progress(address: &Address, said: &mut Option<u64>) {
    let Ok(status) = status(address) else {
        return;
    };
    let number = |path| status.pointer(path).and_then(Value::as_u64);
    let left = number("/connections");
    if left.is_some() && left != *said {
        let requests = number("/requests").unwrap_or(0);
        say(&format!(
            "draining: {} connections left, {requests} requests in flight",
            left.unwrap_or(0)
        ));
        *said = left;
    }
}
