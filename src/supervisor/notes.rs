//! What is noted in the snapshot of what others tell: Envoy, and the certificate thread.

use std::time::Instant;

use crate::drain::{Answer, Ask, Loss, Outcome};
use crate::envoy::admin::AdminReply;
use crate::envoy::load::Load;
use crate::envoy::question::{Failure, Readiness};
use crate::status::{DrainEnd, Drains, SecretStatus, Snapshot};

/// Notes in the snapshot what Envoy answered, or that it did not; whether an answer was `expected`
/// from it at all.
pub fn note_answer(snapshot: &mut Snapshot, now: Instant, reply: &AdminReply, expected: bool) {
    if let Some(address) = &reply.address {
        snapshot.admin.address = Some(address.clone());
        snapshot.admin.peer = reply.peer;
    }
    snapshot.admin.errors += reply.more_failed;
    match &reply.answer {
        _ if !reply.ask.is_to_envoy() => {}
        Ok(_)
        | Err(Failure {
            is_refusal: true, ..
        }) => {
            snapshot.admin.answered = Some(now);
            snapshot.admin.failing_since = None;
        }
        // The version is nice to have. The interface may answer all the same, and tell that it hides
        // its counters.
        Err(_) if matches!(reply.ask, Ask::ServerInfo | Ask::Activity | Ask::Traffic) => {
            snapshot.admin.errors += 1;
        }
        // What is open is only looked at while it rests: if it cannot be told, the next `/ready`
        // tells whether that is all.
        Err(_) if reply.ask == Ask::Stats && snapshot.wait().is_none() => {
            snapshot.admin.errors += 1;
        }
        Err(_) => {
            // Before it knows its address, an Envoy that starts has failed nothing.
            snapshot.admin.errors += u64::from(reply.address.is_some());
            // And one without such an interface will never fail.
            if expected {
                snapshot.admin.failing_since.get_or_insert(now);
            }
        }
    }
    if reply.ask == Ask::Ready {
        let state = match &reply.answer {
            Ok(Answer::Ready(readiness)) => Ok(*readiness),
            Ok(_) => Err("no answer to the question".into()),
            Err(failure) => Err(failure.why.clone()),
        };
        snapshot.admin.ready = Some((now, state));
        snapshot.admin.listeners = reply.listeners.or(snapshot.admin.listeners);
    }
    match (reply.ask, &reply.answer) {
        (Ask::ServerInfo, Ok(Answer::Version(version))) => {
            if let Some(envoy) = &mut snapshot.envoy {
                envoy.version = Some(version.clone());
            }
        }
        // What it said before is true no more.
        (Ask::PassHealthCheck, Ok(_)) => snapshot.admin.ready = None,
        // It was asked for that first.
        (Ask::Traffic, Ok(_)) => {
            if let Some((at, Ok(Readiness::Live))) = &mut snapshot.admin.ready {
                *at = now;
            }
        }
        _ => {}
    }
    if let Ask::FailHealthCheck | Ask::PassHealthCheck = reply.ask {
        let refusal = reply.answer.as_ref().err().filter(|it| it.is_refusal);
        snapshot.admin.refusal = refusal.map(|it| it.why.clone());
    }
    match (reply.ask, &reply.answer, snapshot.wait_mut()) {
        (Ask::FailHealthCheck, Ok(_), Some(drain)) => drain.health_failed = Some(now),
        (Ask::DrainListeners, Ok(_), Some(drain)) => drain.listeners_draining = Some(now),
        (ask, Ok(Answer::Stats(load)), drain) if ask.tells_open() => {
            if let Some(drain) = drain {
                drain.first.get_or_insert_with(|| load.clone());
                if load.connections() > 0 || load.udp_sessions > 0 {
                    drain.last_connection = None;
                } else {
                    drain.last_connection.get_or_insert(now);
                }
            }
            // Once live it can only have become unready by a failed health check.
            if let Some((at, Ok(state))) = &mut snapshot.admin.ready
                && *state == Readiness::Live
                && !load.health_failed
            {
                *at = now;
            }
            // A look that failed does not mean that all bytes have come.
            let before = snapshot.load.take().and_then(|load| load.unsent);
            snapshot.load = Some(Load {
                unsent: load.unsent.or(before),
                ..load.clone()
            });
            snapshot.load_at = Some(now);
        }
        _ => {}
    }
}

/// Counts a drain that is over, with what it has lost.
pub fn count_drain(drains: &mut Drains, end: &DrainEnd, lost: Loss) {
    match end.outcome {
        // With a loss it is an old generation that has ended, and Envoy may run on.
        Outcome::EnvoyExited if lost == Loss::None => drains.exited += 1,
        Outcome::Unknown => drains.unknown += 1,
        _ if end.is_cut => drains.cut += 1,
        _ => drains.drained += 1,
    }
}

/// Notes in the snapshot what is known of the certificates, and when that changed.
pub fn note_certificates(snapshot: &mut Snapshot, now: Instant, secrets: Vec<SecretStatus>) {
    let before = std::mem::replace(&mut snapshot.certificates, secrets);
    let what = |it: &SecretStatus| {
        (
            it.generation,
            it.last_result,
            it.last_error.clone(),
            it.reloads,
        )
    };
    // They are always the same, in the same order.
    for (at, certificate) in snapshot.certificates.iter_mut().enumerate() {
        certificate.changed = match before.get(at) {
            Some(known) if what(known) == what(certificate) => known.changed,
            _ => Some(now),
        };
    }
}

#[cfg(test)]
#[path = "notes_tests.rs"]
mod tests;
