//! The rule, by its numbers.

use super::*;

const fn at(seconds: u64) -> Time {
    Duration::from_secs(seconds)
}

fn door(name: &str, port: u16, (connections, answers): (u64, u64)) -> Door {
    Door {
        name: name.into(),
        locals: vec![Local::Ip(([0, 0, 0, 0], port).into())],
        connections,
        answers,
    }
}

/// What an Envoy has done by then.
fn traffic(answers: (u64, u64), connects: (u64, u64), uses: u64) -> Traffic {
    let share = |(of, bad)| Share { of, bad };
    Traffic {
        answers: share(answers),
        connects: share(connects),
        doors: vec![door("web", 80, (uses, answers.0))],
    }
}

/// A generation that was looked at four times, so long after each other, and did so much in between.
fn record(answers: (u64, u64), connects: (u64, u64), uses: u64) -> TrackRecord {
    let mut record = TrackRecord::default();
    for look in 0..4 {
        let times = |(of, bad): (u64, u64)| (of * look, bad * look);
        record.on_look(
            at(look * 10),
            traffic(times(answers), times(connects), uses * look),
        );
    }
    record
}

/// What is said at the end of its time of a generation that does the same in each two seconds.
fn judged(
    record: TrackRecord,
    answers: (u64, u64),
    connects: (u64, u64),
    uses: u64,
) -> Option<String> {
    let mut probation = Probation::new(record, at(40));
    (1..=15).find_map(|look| {
        let times = |(of, bad): (u64, u64)| (of * look, bad * look);
        let now = at(40 + 2 * look);
        probation.on_look(now, traffic(times(answers), times(connects), uses * look))
    })
}

const NONE: (u64, u64) = (0, 0);

#[test]
fn more_answers_that_went_wrong_are_worse_and_a_few_are_not() {
    let old = || record((1_000, 1), (100, 0), 100);
    let said = judged(old(), (200, 86), (20, 0), 20).unwrap();
    assert_eq!(
        said,
        "43.0 % of 200 answers are 5xx or have no route, against 0.1 % before"
    );
    assert_eq!(judged(old(), (200, 0), (20, 0), 20), None);
    // Nine of any number, and four points of a hundred.
    assert_eq!(judged(old(), (200, 8), (20, 0), 20), None);
    let mut few = Probation::new(old(), at(40));
    assert_eq!(few.on_look(at(42), traffic((9, 9), NONE, 9)), None);
}

#[test]
fn what_was_as_bad_before_is_not_worse() {
    let old = || record((1_000, 400), (100, 0), 100);
    assert_eq!(judged(old(), (200, 80), NONE, 20), None);
    // Half as much again is no third of what went well.
    assert_eq!(judged(old(), (200, 130), NONE, 20), None);
    assert!(judged(old(), (200, 190), NONE, 20).is_some());
    assert_eq!(judged(old(), (200, 0), NONE, 20), None);
}

#[test]
fn with_nothing_to_compare_with_nothing_is_worse() {
    let nobody = || record(NONE, NONE, 0);
    assert_eq!(judged(nobody(), (200, 200), (20, 20), 20), None);
    assert_eq!(
        judged(TrackRecord::default(), (200, 200), (20, 20), 20),
        None
    );
    // It was busy in its life, and quiet of late.
    let mut quiet = TrackRecord::default();
    for look in 0..4 {
        quiet.on_look(at(look * 10), traffic((5_000, 5), (400, 0), 500));
    }
    assert!(judged(quiet, (200, 100), (20, 0), 20).is_some());
}

#[test]
fn a_moment_at_the_start_is_forgiven() {
    let mut probation = Probation::new(record((1_000, 0), (100, 0), 100), at(40));
    let mut all = traffic((100, 9), (10, 5), 20);
    assert_eq!(probation.on_look(at(42), all.clone()), None);
    for look in 2..=15 {
        all.answers.of += 100;
        all.doors[0].connections += 20;
        all.doors[0].answers += 100;
        assert_eq!(probation.on_look(at(40 + 2 * look), all.clone()), None);
    }
}

#[test]
fn failed_connections_to_upstreams_are_worse_where_no_request_tells() {
    let old = || record(NONE, (100, 1), 100);
    let said = judged(old(), NONE, (20, 20), 20).unwrap();
    assert_eq!(
        said,
        "100.0 % of 20 connections to upstreams failed, against 1.0 % before"
    );
    assert_eq!(judged(old(), NONE, (20, 5), 20), None, "a host of four");
}

#[test]
fn a_listener_that_had_traffic_and_is_gone_is_worse_and_an_idle_one_is_not() {
    let old = |uses| record((uses, 0), (10, 0), uses);
    let without = |doors: Vec<Door>, look: u64| Traffic {
        doors,
        ..traffic((10 * look, 0), (look, 0), look)
    };
    let judge = |uses, doors: Vec<Door>| {
        let mut probation = Probation::new(old(uses), at(40));
        let first = probation.on_look(at(42), without(doors.clone(), 1));
        (first, probation.on_look(at(44), without(doors, 2)))
    };
    let gone = "listener web, which had traffic, is gone".to_owned();
    let other = || vec![door("other", 81, NONE)];
    assert_eq!(judge(100, other()), (None, Some(gone)), "seen twice");
    assert_eq!(judge(1, other()), (None, None));
    assert_eq!(
        judge(1, Vec::new()).1.as_deref(),
        Some("Envoy has no listener any more")
    );
    assert_eq!(judge(100, vec![door("renamed", 80, NONE)]), (None, None));
}

#[test]
fn answers_that_stop_although_clients_come_are_worse() {
    let old = || record((1_000, 0), (100, 0), 100);
    let said = judged(old(), (1, 0), NONE, 20).unwrap();
    assert!(said.contains("next to no answers"), "{said}");
    assert_eq!(judged(old(), (1, 0), NONE, 1), None, "nobody comes");
}
