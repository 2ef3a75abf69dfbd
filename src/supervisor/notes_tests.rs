use super::*;
use crate::client::Peer;

#[test]
fn only_an_envoy_that_may_answer_fails_to() {
    let now = Instant::now();
    let reply = AdminReply {
        number: 1,
        ask: Ask::Ready,
        address: None,
        peer: Peer::Anyone,
        answer: Err("envoy has not told its admin address".into()),
        listeners: None,
    };
    let mut snapshot = Snapshot::new(now);
    note_answer(&mut snapshot, now, &reply, false);
    assert_eq!(snapshot.admin.failing_since, None);
    note_answer(&mut snapshot, now, &reply, true);
    assert_eq!(snapshot.admin.failing_since, Some(now));
}
