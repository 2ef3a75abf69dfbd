use super::*;
use crate::client::Peer;
use crate::envoy::load::Load;
use crate::status::Admin;
use crate::supervisor::sentences;
use crate::testing;

#[test]
fn only_an_envoy_that_may_answer_fails_to() {
    let now = Instant::now();
    let reply = AdminReply {
        number: 1,
        ask: Ask::Ready,
        address: None,
        peer: Peer::Anyone,
        answer: Err("envoy has not told its admin address".to_owned().into()),
        listeners: None,
        more_failed: 0,
    };
    let mut snapshot = Snapshot::new(now);
    note_answer(&mut snapshot, now, &reply, false);
    assert_eq!(snapshot.admin.failing_since, None);
    note_answer(&mut snapshot, now, &reply, true);
    assert_eq!(snapshot.admin.failing_since, Some(now));
    assert_eq!(snapshot.admin.errors, 0);
    // A version that is not told is no silence, but a request that failed, as are those beside it.
    let mut snapshot = Snapshot::new(now);
    let reply = AdminReply {
        ask: Ask::ServerInfo,
        more_failed: 2,
        ..reply
    };
    note_answer(&mut snapshot, now, &reply, true);
    assert_eq!(snapshot.admin.failing_since, None);
    assert_eq!(snapshot.admin.errors, 3);
    // Nor is a refusal.
    let reply = AdminReply {
        ask: Ask::FailHealthCheck,
        answer: Err(Failure {
            why: "403".into(),
            is_refusal: true,
        }),
        more_failed: 0,
        ..reply
    };
    snapshot.admin.failing_since = Some(now);
    note_answer(&mut snapshot, now, &reply, true);
    let Admin {
        answered,
        failing_since,
        errors,
        refusal,
        ..
    } = snapshot.admin;
    assert_eq!((answered, failing_since, errors), (Some(now), None, 3));
    assert_eq!(refusal.as_deref(), Some("403"));
}

#[test]
fn a_drain_is_counted_as_its_sentence_has_it() {
    let now = Instant::now();
    let with_loss = |outcome, last: Load, lost| {
        let mut snapshot = Snapshot::new(now);
        let mut drain = testing::drain(Some(testing::load(3)), now);
        drain.lost = lost;
        snapshot.load = Some(last);
        let end = sentences::end(&drain, now, outcome, &snapshot);
        let mut drains = Drains::default();
        count_drain(&mut drains, &end, lost);
        let told = end.verdict.split(' ').next().unwrap_or_default().to_owned();
        (
            told,
            [drains.drained, drains.cut, drains.unknown, drains.exited],
        )
    };
    let result = |outcome, last| with_loss(outcome, last, Loss::None);
    let (nothing, some) = (Load::default(), testing::load(2));
    let (told, counts) = with_loss(Outcome::EnvoyExited, nothing.clone(), Loss::Connections(2));
    assert_eq!((told.as_str(), counts), ("CUT", [0, 1, 0, 0]));
    for outcome in [Outcome::Deadline, Outcome::SecondSignal] {
        let (told, counts) = result(outcome, nothing.clone());
        assert_eq!((told.as_str(), counts), ("ended", [1, 0, 0, 0]));
        let (told, counts) = result(outcome, some.clone());
        assert_eq!((told.as_str(), counts), ("CUT", [0, 1, 0, 0]));
    }
    // With `--open-connections` requests may be in flight at the end.
    assert_eq!(result(Outcome::Drained, some.clone()).1, [0, 1, 0, 0]);
    assert_eq!(result(Outcome::Drained, nothing).1, [1, 0, 0, 0]);
    assert_eq!(result(Outcome::Unknown, some.clone()).1, [0, 0, 1, 0]);
    assert_eq!(result(Outcome::EnvoyExited, some).1, [0, 0, 0, 1]);
}
