//! `drainit shutdown`: an exec hook, and systemd's ExecStop.

use std::thread;
use std::time::Duration;

use nix::libc::{ESRCH, SIGUSR2};
use serde_json::Value;

use super::find::{self, Target};
use super::progress::{self, OrderAnswer, Over, Waiting};
use super::{complain, read_status, say};
use crate::client::Address;
use crate::options::Options;
use crate::process::Handle;

/// Between two looks at whether it is over.
const LOOK: Duration = Duration::from_millis(100);

/// Asks the running drainit to drain, and waits: 0 drained, 1 cut by the deadline, 2 nothing runs.
pub fn run(options: &Options) -> u8 {
    match drain(options) {
        Ok(over) => {
            say(&over.line("CUT"));
            u8::from(!over.end.is_clean)
        }
        Err((code, why)) => {
            complain(&why);
            code
        }
    }
}

fn drain(options: &Options) -> Result<Over, (u8, String)> {
    let nothing_runs = |why| (2, why);
    let target = find::target(options).map_err(nothing_runs)?;
    if target.pid().is_none() && matches!(target.door().1, Address::Tcp(_)) {
        // Whoever took the port may say so, and answer that all is drained.
        let why =
            "nothing proves that a drainit answers there: say `drainit shutdown` in its container";
        return Err((1, why.into()));
    }
    let gone = |error| nothing_runs(format!("that drainit has just ended: {error}"));
    // Before the next look: then it is the process that was looked at, or none.
    let process = target.pid().map(Handle::open).transpose().map_err(gone)?;
    read_status(&target, true).map_err(nothing_runs)?;
    let signalled = match process.map(|process| process.signal(SIGUSR2)) {
        Some(Err(error)) if error.raw_os_error() == Some(ESRCH) => return Err(gone(error)),
        // It has the order by /shutdown, too: root without CAP_KILL may give it that way alone.
        signalled => matches!(signalled, Some(Ok(()))),
    };
    say("asked drainit to drain Envoy");
    let waiting = Waiting::begin(&target);
    match progress::order(&target, "/shutdown") {
        Ok((head, _)) if head.status == 200 => {
            Ok(waiting.end(OrderAnswer::of(head, "envoy exited")))
        }
        // Who comes from another user namespace may have the right to signal it, and no name here.
        Ok((head, _)) if head.status == 403 && signalled => await_end(&target)
            .map(|end| waiting.end(end))
            .map_err(|why| (1, why)),
        Ok((_, why)) => Err((1, why)),
        Err(why) => Err((1, unheard(&why))),
    }
}

/// What is said where drainit ended without an answer.
fn unheard(why: &str) -> String {
    format!("that drainit ended before it told how the drain went: {why}")
}

/// How the drain ended that the signal asked for.
fn await_end(target: &Target) -> Result<OrderAnswer, String> {
    loop {
        let status = read_status(target, true).map_err(|why| unheard(&why))?;
        let result = status.pointer("/drain/result").and_then(Value::as_str);
        if let Some(result) = result {
            let clean = status.pointer("/drain/clean").and_then(Value::as_bool);
            return Ok(OrderAnswer::new(result.to_owned(), clean));
        }
        thread::sleep(LOOK);
    }
}
