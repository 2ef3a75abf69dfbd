//! An Envoy that answers late, hides something, or says nothing at all.

use super::*;

#[test]
fn an_admin_that_answers_nothing_is_asked_until_the_deadline_and_then_lost() {
    let mut play = DrainPlay::new(&LIMITS, true);
    assert_eq!(
        play.until(ms(60_000), |_, _| None),
        Some(Outcome::AdminLost)
    );
    assert_eq!(play.now, ms(25_000));
    // With pauses of up to a second, three questions a round.
    assert!(
        (40..200).contains(&play.asked.len()),
        "{}",
        play.asked.len()
    );
}

#[test]
fn an_answer_that_never_comes_does_not_move_the_deadline() {
    let mut drain = Drain::new(&LIMITS, ms(0), ms(0), true, true);
    assert_eq!(
        drain.next(ms(0), true, None),
        Next::Ask(Ask::FailHealthCheck)
    );
    assert_eq!(drain.next(ms(1), true, Some(ms(0))), Next::Wait(ms(25_000)));
    assert_eq!(
        drain.next(ms(25_000), true, Some(ms(0))),
        Next::Over(Outcome::AdminLost)
    );
}

#[test]
fn a_reverted_health_failure_is_posted_again() {
    let mut play = DrainPlay::new(&LIMITS, true);
    let Answer::Stats(mut reverted) = load(1, 1, 0, 0) else {
        unreachable!()
    };
    reverted.health_failed = false;
    play.until(ms(1_000), envoy_with(&load(1, 1, 0, 0)));
    assert_eq!(play.count(Ask::FailHealthCheck), 1);
    play.until(ms(1_050), envoy_with(&Answer::Stats(reverted)));
    assert_eq!(play.count(Ask::FailHealthCheck), 2);
}

#[test]
fn polls_take_under_a_twentieth_of_a_dear_admins_time() {
    let limits = Limits {
        min: auto(20_000, 0),
        ..LIMITS
    };
    let mut drain = Drain::new(&limits, ms(0), ms(0), true, true);
    let (mut now, mut polls, mut spent) = (ms(0), 0, ms(0));
    while now < ms(20_000) {
        match drain.next(now, true, None) {
            Next::Ask(ask) => {
                let (took, answer) = match ask {
                    Ask::Stats => (ms(36), load(1, 1, 0, 0)),
                    // Whether somebody comes.
                    Ask::Activity => (ms(54), moved(polls)),
                    _ => (ms(0), Answer::Done),
                };
                let asked = now;
                now += took;
                polls += u64::from(ask == Ask::Stats);
                spent += took;
                drain.on_answer(now, asked, ask, Some(&answer));
            }
            Next::Wait(due) => now = due,
            Next::Over(_) => break,
        }
    }
    assert!(
        polls >= 10 && spent * 20 <= now + ms(2_000),
        "{polls} polls in {now:?}"
    );
}

#[test]
fn an_envoy_that_initializes_is_stopped_at_once() {
    let mut drain = Drain::new(&LIMITS, ms(5_000), ms(0), false, true);
    assert_eq!(drain.next(ms(5_000), true, None), Next::Ask(Ask::Ready));
    drain.on_answer(
        ms(5_001),
        ms(5_000),
        Ask::Ready,
        Some(&Answer::Ready(Readiness::Initializing)),
    );
    assert_eq!(
        drain.next(ms(5_001), true, None),
        Next::Over(Outcome::NeverLive)
    );
}

#[test]
fn an_envoy_that_never_answered_is_given_the_time_that_it_has_been_up() {
    for (uptime, given) in [(0, 1_000), (3_000, 3_000), (86_400_000, 25_000)] {
        let start = ms(uptime);
        let mut drain = Drain::new(&LIMITS, start, ms(0), false, true);
        let mut now = start;
        let outcome = loop {
            match drain.next(now, true, None) {
                Next::Ask(ask) => drain.on_answer(now, now, ask, None),
                Next::Wait(due) => now = due,
                Next::Over(outcome) => break outcome,
            }
        };
        assert_eq!(now - start, ms(given), "up for {uptime} ms");
        let unknown = matches!(outcome, Outcome::Unknown | Outcome::Deadline);
        assert!(unknown, "{outcome:?}");
    }
}

/// An Envoy without an admin interface, of which the kernel says this.
fn blind(kernel: impl Fn(Time) -> Option<Answer>) -> (Option<Outcome>, Time) {
    let mut play = DrainPlay::new(&LIMITS, true);
    play.drain = Drain::new(&LIMITS, ms(3_000), ms(0), false, true);
    play.now = ms(3_000);
    let outcome = play.until(ms(60_000), |now, ask| match ask {
        Ask::Sockets => kernel(now),
        _ => None,
    });
    (outcome, play.now)
}

#[test]
fn an_envoy_that_never_answers_is_waited_for_by_what_the_kernel_tells() {
    let until = |end| move |now| Some(load(u64::from(now < end), 0, 0, 0));
    let (outcome, ended) = blind(until(ms(9_000)));
    assert_eq!(outcome, Some(Outcome::Drained));
    assert!((ms(9_000)..ms(9_400)).contains(&ended), "{ended:?}");
    // It may have no handler for SIGTERM yet.
    assert_eq!(blind(until(ms(0))), (Some(Outcome::Drained), ms(4_000)));
    assert_eq!(
        blind(until(ms(90_000))),
        (Some(Outcome::Deadline), ms(28_000))
    );
    // Its listeners are not open, or nobody tells.
    let closed = blind(|_| Some(Answer::Closed));
    assert_eq!(closed, (Some(Outcome::NeverLive), ms(6_000)));
    assert_eq!(blind(|_| None), (Some(Outcome::Unknown), ms(6_000)));
}

#[test]
fn an_envoy_that_never_answers_has_lost_nothing_where_log_entries_alone_were_waited_for() {
    let deadline = ms(3_000) + LIMITS.timeout;
    let until = |end| move |now| envoy_with_logs(end)(now, Ask::Stats);
    let (outcome, ended) = blind(until(deadline - ms(500)));
    assert_eq!((outcome, ended), (Some(Outcome::Drained), deadline));
    let (outcome, _) = blind(until(deadline + ms(500)));
    assert_eq!(outcome, Some(Outcome::Deadline));
}

#[test]
fn an_admin_that_stops_answering_costs_nothing_when_the_kernel_tells_that_nothing_is_left() {
    let mut play = DrainPlay::new(&LIMITS, true);
    let outcome = play.until(ms(60_000), |now, ask| match ask {
        Ask::Sockets => Some(load(u64::from(now < ms(4_000)), 0, 1, 0)),
        _ => None,
    });
    assert_eq!(outcome, Some(Outcome::Drained));
    assert!(play.now < ms(6_000), "{:?}", play.now);
}

#[test]
fn steps_that_hang_do_not_keep_the_kernel_from_being_asked() {
    let limits = Limits {
        timeout: ms(60_000),
        ..LIMITS
    };
    let mut drain = Drain::new(&limits, ms(0), ms(0), true, true);
    let mut now = ms(0);
    let ended = loop {
        match drain.next(now, true, None) {
            Next::Ask(Ask::Sockets) => {
                drain.on_answer(now, now, Ask::Sockets, Some(&load(0, 0, 0, 0)));
            }
            Next::Ask(ask) => {
                // As long as drainit waits for it.
                let asked = now;
                now += ms(3_000);
                drain.on_answer(now, asked, ask, None);
            }
            Next::Wait(due) => now = due,
            Next::Over(outcome) => break outcome,
        }
    };
    // Each step twice, and three looks.
    assert_eq!(ended, Outcome::Drained);
    assert!(now <= ms(30_000), "{now:?}");
}

#[test]
fn nothing_left_is_not_believed_while_something_is_hidden_from_everybody() {
    let Answer::Stats(load) = load(0, 0, 0, 0) else {
        unreachable!()
    };
    for (sight, outcome) in [
        (Sight::Whole, Outcome::Drained),
        (Sight::Kernel, Outcome::Drained),
        (Sight::Partial, Outcome::Deadline),
    ] {
        let answer = Answer::Stats(Load {
            sight,
            ..load.clone()
        });
        let mut play = DrainPlay::new(&LIMITS, true);
        assert_eq!(play.until(ms(60_000), envoy_with(&answer)), Some(outcome));
    }
}

#[test]
fn a_request_that_no_connection_carries_has_one_that_nobody_tells_of() {
    for sight in [Sight::Whole, Sight::Kernel] {
        let stray = Answer::Stats(Load {
            sight,
            requests: 1,
            ..Load::default()
        });
        let mut play = DrainPlay::new(&LIMITS, true);
        let outcome = play.until(ms(60_000), |now, ask| match ask {
            Ask::Stats if now < ms(9_000) => Some(stray.clone()),
            ask => envoy_with(&load(0, 0, 0, 0))(now, ask),
        });
        assert_eq!(outcome, Some(Outcome::Drained));
        assert!(play.now >= ms(9_000), "{:?}", play.now);
    }
}

#[test]
fn what_was_lost_is_not_called_drained() {
    let limits = Limits {
        min: MinDrain::For(ms(4_000)),
        ..LIMITS
    };
    let mut play = DrainPlay::new(&limits, true);
    assert_eq!(play.until(ms(2_000), envoy_with(&load(0, 0, 0, 0))), None);
    play.drain.on_loss(Loss::None);
    assert_eq!(play.drain.loss(), Loss::None);
    play.drain.on_loss(Loss::Connections(2));
    let ended = play.until(ms(60_000), envoy_with(&load(0, 0, 0, 0)));
    assert_eq!(ended, Some(Outcome::EnvoyExited));
    assert_eq!(play.drain.loss(), Loss::Connections(2));
}

#[test]
fn what_may_be_udp_sessions_is_kept_to_the_deadline() {
    let mut asked = Vec::new();
    let hidden = Answer::Stats(Load {
        sight: Sight::Partial,
        ..Load::default()
    });
    let mut play = DrainPlay::new(&LIMITS, true);
    let outcome = play.until(ms(60_000), |now, ask| {
        asked.push(ask);
        envoy_with(&hidden)(now, ask)
    });
    assert_eq!(outcome, Some(Outcome::Deadline));
    assert!(!asked.contains(&Ask::StopListeners));
}

#[test]
fn connections_on_which_requests_come_and_go_between_two_looks_are_not_idle() {
    let mut play = DrainPlay::new(&LIMITS, true);
    let mut answered = 0;
    let outcome = play.until(ms(60_000), |now, ask| match ask {
        // One more each time, until 9 s.
        Ask::Activity if now < ms(9_000) => {
            answered += 1;
            Some(moved(answered))
        }
        Ask::Activity => Some(moved(answered)),
        ask => envoy_with(&load(1, 0, 0, 0))(now, ask),
    });
    assert_eq!(outcome, Some(Outcome::Idle));
    assert!(
        (ms(10_000)..ms(16_000)).contains(&play.now),
        "{:?}",
        play.now
    );
}

#[test]
fn counters_that_are_hidden_make_nothing_idle() {
    let mut play = DrainPlay::new(&LIMITS, true);
    let outcome = play.until(ms(60_000), |now, ask| match ask {
        Ask::Activity => None,
        ask => envoy_with(&load(1, 0, 0, 0))(now, ask),
    });
    assert_eq!(outcome, Some(Outcome::Deadline));
}

#[test]
fn one_slow_answer_does_not_slow_the_polls_down() {
    for slow in [ms(250), ms(1_200), ms(2_900)] {
        let mut drain = Drain::new(&LIMITS, ms(0), ms(0), true, true);
        let (mut now, mut polls) = (ms(0), 0);
        while now < ms(6_000) {
            match drain.next(now, true, None) {
                Next::Ask(Ask::Stats) => {
                    polls += 1;
                    let asked = now;
                    now += if polls == 3 { slow } else { ms(1) };
                    drain.on_answer(now, asked, Ask::Stats, Some(&load(1, 1, 0, 0)));
                }
                Next::Ask(ask) => drain.on_answer(now, now, ask, Some(&Answer::Done)),
                Next::Wait(due) => now = due,
                Next::Over(outcome) => panic!("{outcome:?}"),
            }
        }
        let expected = (ms(6_000) - slow).as_millis() / 260;
        assert!(polls >= expected, "{polls} of {expected} after {slow:?}");
    }
}

#[test]
fn an_envoy_that_turns_out_to_be_live_is_drained() {
    let mut play = DrainPlay::new(&LIMITS, true);
    play.drain = Drain::new(&LIMITS, ms(0), ms(0), false, true);
    assert_eq!(play.until(ms(1_000), envoy_with(&load(1, 1, 0, 0))), None);
    assert_eq!(play.asked.first(), Some(&Ask::Ready));
    assert_eq!(play.asked.get(1), Some(&Ask::FailHealthCheck));
}
