//! New connections that never stop.

use super::*;

/// Twenty a second come. How a drain ends, when, and when Envoy was told to stop accepting; each
/// connection is gone at once, or one is always `open` until then.
fn ends(limits: &Limits, stops: bool, open: bool) -> (Outcome, Time, Option<Time>) {
    let mut play = DrainPlay::new(limits, stops);
    let mut closed = None;
    let outcome = play.until(ms(60_000), |now, ask| match ask {
        Ask::Activity => Some(moved(7 + now.as_millis() as u64 / 50)),
        Ask::StopListeners => {
            closed = Some(now);
            Some(Answer::Done)
        }
        ask => {
            let left = u64::from(open && closed.is_none());
            envoy_with(&load(left, left, 0, 0))(now, ask)
        }
    });
    (outcome.unwrap(), play.now, closed)
}

#[test]
fn those_that_never_stop_leave_the_reserve_to_who_came_last() {
    // A pod's, with a delay and with none; a lone one's, and those of one with little time.
    for (delay, timeout, most, reserve, until) in [
        (10_000, 25_000, 25_000, 5_000, 20_000),
        (0, 25_000, 25_000, 5_000, 20_000),
        (22_000, 25_000, 25_000, 5_000, 22_000),
        (10_000, 25_000, 5_000, 5_000, 15_000),
        (0, 5_000, 5_000, 2_500, 2_500),
        (1_000, 2_000, 5_000, 1_000, 1_000),
    ] {
        let limits = Limits {
            delay: ms(delay),
            timeout: ms(timeout),
            min: auto(most, reserve),
            ..LIMITS
        };
        for stops in [true, false] {
            let (outcome, at, closed) = ends(&limits, stops, false);
            assert_eq!(outcome, Outcome::Drained, "{limits:?}");
            let soon = ms(until)..ms(until + 300);
            assert!(soon.contains(&at), "{limits:?}: {at:?}");
            assert_eq!(closed.is_some(), stops, "{limits:?}");
        }
    }
}

#[test]
fn nobody_is_waited_for_who_can_come_no_more() {
    for reserve in [5_000, 0] {
        let limits = Limits {
            min: auto(25_000, reserve),
            ..LIMITS
        };
        let (outcome, at, closed) = ends(&limits, true, true);
        assert_eq!((outcome, closed), (Outcome::Drained, Some(ms(24_000))));
        assert_eq!(at, ms(24_000));
    }
}
