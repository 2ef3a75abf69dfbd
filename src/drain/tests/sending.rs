//! What the kernel still sends when Envoy is done with it.

use super::*;
use crate::envoy::load::Unsent;

/// An Envoy with so many idle connections, and these bytes that no client has acknowledged: on an idle
/// connection, if there is one.
fn envoy_sending(
    idle: u64,
    bytes: impl Fn(Time) -> u64,
) -> impl FnMut(Time, Ask) -> Option<Answer> {
    envoy_telling(idle, move |now| {
        let [mut open, mut closed] = [0, bytes(now) as u32];
        if idle > 0 {
            std::mem::swap(&mut open, &mut closed);
        }
        let gone = 0;
        Some(Unsent { open, closed, gone })
    })
}

/// An Envoy with so many idle connections, of whose last bytes the kernel tells what `unsent` says.
fn envoy_telling(
    idle: u64,
    unsent: impl Fn(Time) -> Option<Unsent>,
) -> impl FnMut(Time, Ask) -> Option<Answer> {
    move |now, ask| match (ask, load(idle, 0, 0, 0)) {
        (Ask::Stats, Answer::Stats(load)) => Some(Answer::Stats(Load {
            unsent: unsent(now),
            ..load
        })),
        (Ask::Activity, _) => Some(still()),
        _ => Some(Answer::Done),
    }
}

/// Bytes that clients take at a steady pace until then.
fn until(end: u64) -> impl Fn(Time) -> u64 {
    move |now| ms(end).saturating_sub(now).as_millis() as u64 * 20
}

#[test]
fn bytes_that_clients_still_take_hold_the_end_of_a_drain_and_nothing_else() {
    for stops in [true, false] {
        let mut play = DrainPlay::new(&LIMITS, stops);
        assert_eq!(play.until(ms(1), envoy_sending(0, until(8_000))), None);
        assert_eq!(play.count(Ask::StopListeners), usize::from(stops));
        let outcome = play.until(ms(25_001), envoy_sending(0, until(8_000)));
        assert_eq!(outcome, Some(Outcome::Drained));
        assert!((ms(8_000)..ms(8_300)).contains(&play.now), "{:?}", play.now);
    }
    // An answer that was written before the drain began leaves its connection open.
    let mut play = DrainPlay::new(&LIMITS, true);
    let outcome = play.until(ms(25_001), envoy_sending(1, until(9_000)));
    assert_eq!(outcome, Some(Outcome::Idle));
    assert!((ms(9_000)..ms(9_600)).contains(&play.now), "{:?}", play.now);
}

#[test]
fn a_client_that_takes_nothing_costs_the_settle_time_at_most_or_five_seconds_and_is_cut() {
    for (settle, most) in [(500, 1_000), (5_000, 5_000), (9_000, 5_000), (0, 5_000)] {
        let limits = Limits {
            settle: ms(settle),
            ..LIMITS
        };
        let mut play = DrainPlay::new(&limits, true);
        // From 1 s after the drain began.
        let bytes = |now: Time| until(8_000)(now.min(ms(1_000)));
        let outcome = play.until(ms(25_001), envoy_sending(0, bytes));
        assert_eq!(outcome, Some(Outcome::Stalled));
        let over = ms(1_000 + most) + DOUBT;
        assert!((over..over + ms(300)).contains(&play.now), "{:?}", play.now);
    }
}

#[test]
fn clients_that_go_and_are_given_up_one_after_the_other_are_no_progress_of_others() {
    let mut play = DrainPlay::new(&LIMITS, true);
    // A client goes each second, and is given up 3.5 s later; another one takes nothing.
    let told = |now: Time| {
        let went = |before: Time| now.saturating_sub(before).as_secs().min(20) as u32 * 100;
        Some(Unsent {
            open: 0,
            closed: 2_700 - went(ms(0)),
            gone: went(ms(0)) - went(ms(3_500)),
        })
    };
    let outcome = play.until(ms(25_001), envoy_telling(0, told));
    assert_eq!(outcome, Some(Outcome::Stalled));
    assert!(
        (ms(5_000)..ms(10_000)).contains(&play.now),
        "{:?}",
        play.now
    );
    // All of them are gone.
    let mut play = DrainPlay::new(&LIMITS, true);
    let told = |now: Time| {
        let gone = if now < ms(3_000) { 0 } else { 700 };
        Some(Unsent {
            closed: 700 - gone,
            open: 0,
            gone,
        })
    };
    let outcome = play.until(ms(25_001), envoy_telling(0, told));
    assert_eq!(outcome, Some(Outcome::Drained));
    assert!((ms(3_000)..ms(3_300)).contains(&play.now), "{:?}", play.now);
}

#[test]
fn with_a_client_that_takes_nothing_the_end_is_not_clean_though_the_minimum_is_as_long() {
    let limits = Limits {
        min: MinDrain::For(ms(25_000)),
        ..LIMITS
    };
    let mut play = DrainPlay::new(&limits, true);
    let outcome = play.until(ms(25_001), envoy_sending(0, |_| 700));
    assert_eq!(outcome, Some(Outcome::Stalled));
}

#[test]
fn with_bytes_under_way_the_deadline_is_no_clean_end_though_the_minimum_is_as_long() {
    for min in [0, 25_000] {
        let limits = Limits {
            min: MinDrain::For(ms(min)),
            ..LIMITS
        };
        let mut play = DrainPlay::new(&limits, true);
        let outcome = play.until(ms(25_001), envoy_sending(0, until(60_000)));
        assert_eq!(
            (outcome, play.now),
            (Some(Outcome::Deadline), ms(25_000)),
            "{min}"
        );
    }
}

fn one_counts_as_none() -> DrainPlay {
    let limits = Limits {
        open_connections: 1,
        ..LIMITS
    };
    DrainPlay::new(&limits, true)
}

#[test]
fn bytes_on_connections_that_count_as_none_hold_nothing_up() {
    let mut play = one_counts_as_none();
    let outcome = play.until(ms(1), envoy_sending(1, until(60_000)));
    assert_eq!(outcome, Some(Outcome::Drained));
}

#[test]
fn bytes_on_a_closed_connection_hold_the_end_though_an_open_one_counts_as_none() {
    let mut play = one_counts_as_none();
    let bytes = until(8_000);
    let told = move |now| {
        Some(Unsent {
            open: 9_000,
            closed: bytes(now) as u32,
            gone: 9_000,
        })
    };
    let outcome = play.until(ms(25_001), envoy_telling(1, told));
    assert_eq!(outcome, Some(Outcome::Drained));
    assert!((ms(8_000)..ms(8_300)).contains(&play.now), "{:?}", play.now);
}

#[test]
fn a_look_that_fails_does_not_mean_that_all_bytes_have_come() {
    let mut play = DrainPlay::new(&LIMITS, true);
    let bytes = until(8_000);
    let told = move |now: Time| {
        let is_told = now.as_millis() % 2_000 < 1_000;
        is_told.then(|| Unsent {
            closed: bytes(now) as u32,
            ..Unsent::default()
        })
    };
    let outcome = play.until(ms(25_001), envoy_telling(0, told));
    assert_eq!(outcome, Some(Outcome::Drained));
    assert!((ms(8_000)..ms(8_300)).contains(&play.now), "{:?}", play.now);
}
