//! `drainit hold` and `drainit resume`: out of service for maintenance, and back.

use super::find::{self, Target};
use super::progress::{self, OrderAnswer, Waiting};
use super::status::view::JsonView;
use super::{complain, read_status, say};
use crate::client::Head;
use crate::options::Options;
use crate::status::{NOT_LIVE, UNCONFIRMED};

/// Has the running drainit hold Envoy, and waits for what is in flight: 0 nothing is left, 1 and
/// why. At the deadline it is held all the same.
pub fn hold(options: &Options) -> u8 {
    end(begin(options, "hold").and_then(|target| {
        say("asked drainit to hold Envoy");
        let waiting = Waiting::begin(&target);
        let over = waiting.end(give(&target, "hold")?);
        match over.end.is_clean {
            true => Ok(format!("held: {}", over.line(""))),
            false => Err(format!(
                "held, and {}{}",
                over.line("not drained"),
                unconfirmed(&target)
            )),
        }
    }))
}

/// Has the running drainit take a hold back, and waits until Envoy has: 0, or 1 and why.
pub fn resume(options: &Options) -> u8 {
    end(begin(options, "resume").and_then(|target| {
        Ok(match give(&target, "resume")?.result.as_str() {
            "not held" => "envoy was not held".into(),
            NOT_LIVE => not_live(&target),
            result => format!("{result}: envoy is in service"),
        })
    }))
}

/// What the hold's verdict says of a health check that may still pass; empty where that fails.
fn unconfirmed(target: &Target) -> String {
    let verdict = read_status(target, true)
        .ok()
        .and_then(|status| JsonView(&status).text("/hold/verdict"));
    let verdict = verdict.unwrap_or_default();
    let at = verdict.find(UNCONFIRMED).unwrap_or(verdict.len());
    verdict.get(at..).unwrap_or_default().to_owned()
}

/// The hold is over, and no Envoy serves: why.
fn not_live(target: &Target) -> String {
    let why = read_status(target, true).ok().and_then(|status| {
        let text = |path| JsonView(&status).text(path);
        Some(format!("{}: {}", text("/state")?, text("/reason")?))
    });
    let why = why.map_or(String::new(), |why| format!(": {why}"));
    format!("not held any more; envoy is not live{why}")
}

fn end(result: Result<String, String>) -> u8 {
    match result {
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

/// The drainit that is to get the order.
fn begin(options: &Options, command: &str) -> Result<Target, String> {
    let target = find::target(options)?;
    read_status(&target, true)?;
    if target.pid().is_none() {
        let why =
            format!("that drainit runs in another container: say `drainit {command}` in there");
        return Err(why);
    }
    Ok(target)
}

/// Gives the order, and returns how it ended.
fn give(target: &Target, command: &str) -> Result<OrderAnswer, String> {
    match progress::order(target, &format!("/{command}")) {
        Ok((head @ Head { status: 200, .. }, _)) => Ok(OrderAnswer::of(head, "")),
        Ok((Head { status: 404, .. }, _)) => {
            Err(format!("that drainit is older, and knows no {command}"))
        }
        Ok((_, why)) => Err(why),
        Err(why) => Err(format!("that drainit ended before it answered: {why}")),
    }
}
