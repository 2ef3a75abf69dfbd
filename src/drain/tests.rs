use super::*;
use crate::envoy::load::{Counters, Load, Sight};
use crate::testing::{LIMITS, listener, ms};
use proptest::prelude::*;

/// A load of so many connections, requests among them, and TCP and UDP sessions.
fn load(connections: u64, requests: u64, tcp_sessions: u64, udp_sessions: u64) -> Answer {
    Answer::Stats(Load {
        listeners: vec![listener("0.0.0.0_80", connections)],
        requests,
        tcp_sessions,
        udp_sessions,
        health_failed: true,
        ..Load::default()
    })
}

/// Counters that say that so many requests and connections came.
fn moved(count: u64) -> Answer {
    Answer::Activity(Counters {
        activity: count,
        arrivals: count,
    })
}

fn still() -> Answer {
    moved(0)
}

/// An Envoy that answers at once, for as long as the drain asks.
struct Play {
    drain: Drain,
    now: Time,
    asked: Vec<Ask>,
}

impl Play {
    fn new(limits: &Limits, stops: bool) -> Play {
        Play {
            drain: Drain::new(limits, ms(0), ms(0), true, stops),
            now: ms(0),
            asked: Vec::new(),
        }
    }

    /// Plays on until the drain is over or the clock shows `until`; what Envoy answers is up to
    /// `envoy`, which is told the time.
    fn until(
        &mut self,
        until: Time,
        mut envoy: impl FnMut(Time, Ask) -> Option<Answer>,
    ) -> Option<Outcome> {
        while self.now < until {
            match self.drain.next(self.now, true) {
                Next::Ask(ask) => {
                    self.asked.push(ask);
                    let answer = envoy(self.now, ask);
                    self.drain.answer(self.now, ask, answer.as_ref());
                }
                Next::Wait(due) => {
                    assert!(due > self.now, "it would spin");
                    self.now = due.min(until);
                }
                Next::Over(outcome) => return Some(outcome),
            }
        }
        None
    }

    fn count(&self, ask: Ask) -> usize {
        self.asked.iter().filter(|asked| **asked == ask).count()
    }
}

fn envoy_with(load: &Answer) -> impl FnMut(Time, Ask) -> Option<Answer> {
    move |_, ask| match ask {
        Ask::Stats => Some(load.clone()),
        Ask::Activity => Some(still()),
        Ask::Ready => Some(Answer::Ready(Readiness::Live)),
        _ => Some(Answer::Done),
    }
}

#[test]
fn an_idle_envoy_is_drained_at_once_and_stops_accepting_before_the_last_look() {
    let mut play = Play::new(&LIMITS, true);
    assert_eq!(
        play.until(ms(1), envoy_with(&load(0, 0, 0, 0))),
        Some(Outcome::Drained)
    );
    use Ask::*;
    assert_eq!(
        play.asked,
        [FailHealthCheck, DrainListeners, Stats, StopListeners, Stats]
    );
}

#[test]
fn word_of_an_end_brings_the_next_poll_forward_and_no_further_than_its_rest() {
    let limits = Limits {
        check_interval: ms(10_000),
        ..LIMITS
    };
    let mut play = Play::new(&limits, true);
    play.until(ms(1), envoy_with(&load(1, 1, 0, 0)));
    assert_eq!(play.drain.next(ms(1), true), Next::Wait(ms(10_000)));
    // A question that shows nothing of it is in flight: it is told again.
    play.drain.asked = Some((Ask::Activity, ms(1)));
    play.drain.take_end();
    play.drain.asked = None;
    assert_eq!(play.drain.next(ms(1), true), Next::Wait(ms(10_000)));
    play.drain.take_end();
    assert_eq!(
        play.until(ms(2), envoy_with(&load(0, 0, 0, 0))),
        Some(Outcome::Drained)
    );
    // Each poll took 100 ms.
    let mut play = Play::new(&limits, true);
    play.until(ms(1), envoy_with(&load(1, 1, 0, 0)));
    play.drain.costs = [ms(100); USUAL];
    play.drain.poll.due = ms(1) + play.drain.pace();
    play.drain.take_end();
    assert_eq!(play.drain.next(ms(1), true), Next::Wait(ms(2_001)));
}

#[test]
fn a_drain_that_stays_never_stops_accepting() {
    let mut play = Play::new(&LIMITS, false);
    assert_eq!(
        play.until(ms(1), envoy_with(&load(0, 0, 0, 0))),
        Some(Outcome::Drained)
    );
    assert_eq!(play.count(Ask::StopListeners), 0);
}

#[test]
fn the_delay_asks_nothing_of_envoy() {
    let mut play = Play::new(
        &Limits {
            delay: ms(3_000),
            ..LIMITS
        },
        true,
    );
    assert_eq!(play.until(ms(3_000), envoy_with(&load(0, 0, 0, 0))), None);
    assert!(play.asked.is_empty());
    assert!(play.drain.is_delayed(ms(2_999)));
    assert_eq!(
        play.until(ms(3_001), envoy_with(&load(0, 0, 0, 0))),
        Some(Outcome::Drained)
    );
}

#[test]
fn idle_connections_hold_nothing_up_after_the_settle_time() {
    let mut play = Play::new(&LIMITS, true);
    assert_eq!(play.until(ms(4_900), envoy_with(&load(7, 0, 0, 0))), None);
    assert_eq!(
        play.until(ms(5_300), envoy_with(&load(7, 0, 0, 0))),
        Some(Outcome::Idle)
    );
    let mut play = Play::new(
        &Limits {
            settle: ms(0),
            ..LIMITS
        },
        true,
    );
    assert_eq!(
        play.until(ms(30_000), envoy_with(&load(7, 0, 0, 0))),
        Some(Outcome::Deadline)
    );
}

#[test]
fn whatever_is_in_flight_starts_the_settle_time_anew() {
    for busy in [load(7, 1, 0, 0), load(7, 0, 1, 0), load(7, 0, 0, 1)] {
        let mut play = Play::new(&LIMITS, true);
        play.until(ms(4_000), envoy_with(&load(7, 0, 0, 0)));
        play.until(ms(4_300), envoy_with(&busy));
        assert_eq!(play.until(ms(9_200), envoy_with(&load(7, 0, 0, 0))), None);
        assert_eq!(
            play.until(ms(9_600), envoy_with(&load(7, 0, 0, 0))),
            Some(Outcome::Idle)
        );
    }
}

#[test]
fn udp_sessions_are_waited_for_without_any_connection() {
    let mut play = Play::new(&LIMITS, true);
    assert_eq!(play.until(ms(20_000), envoy_with(&load(0, 0, 0, 1))), None);
    assert_eq!(
        play.until(ms(20_600), envoy_with(&load(0, 0, 0, 0))),
        Some(Outcome::Drained)
    );
}

#[test]
fn so_many_open_connections_count_as_none() {
    let mut play = Play::new(
        &Limits {
            open_connections: 3,
            ..LIMITS
        },
        true,
    );
    assert_eq!(play.until(ms(2_000), envoy_with(&load(4, 4, 0, 0))), None);
    assert_eq!(
        play.until(ms(2_600), envoy_with(&load(3, 3, 0, 0))),
        Some(Outcome::Drained)
    );
}

#[test]
fn a_minimum_is_kept_with_nothing_left() {
    let mut play = Play::new(
        &Limits {
            min: MinDrain::For(ms(2_000)),
            ..LIMITS
        },
        true,
    );
    assert_eq!(play.until(ms(1_999), envoy_with(&load(0, 0, 0, 0))), None);
    assert_eq!(
        play.until(ms(2_300), envoy_with(&load(0, 0, 0, 0))),
        Some(Outcome::Drained)
    );
}

#[test]
fn it_accepts_until_nobody_sends_new_connections_any_more() {
    let limits = Limits {
        min: MinDrain::Auto(ms(20_000)),
        ..LIMITS
    };
    // Twenty a second for 3 s after the signal, each gone at once.
    let mut play = Play::new(&limits, true);
    let outcome = play.until(ms(25_000), |now, ask| match ask {
        Ask::Activity => Some(moved(7 + now.min(ms(3_000)).as_millis() as u64 / 50)),
        ask => envoy_with(&load(0, 0, 0, 0))(now, ask),
    });
    assert_eq!(outcome, Some(Outcome::Drained));
    assert!((ms(3_750)..ms(4_500)).contains(&play.now), "{:?}", play.now);
    // Nobody ever came.
    let mut play = Play::new(&limits, true);
    let outcome = play.until(ms(25_000), envoy_with(&load(0, 0, 0, 0)));
    assert_eq!((outcome, play.now), (Some(Outcome::Drained), ms(0)));
    // Nobody tells whether somebody comes.
    let mut play = Play::new(&limits, true);
    let outcome = play.until(ms(25_000), |now, ask| match ask {
        Ask::Activity => None,
        ask => envoy_with(&load(0, 0, 0, 0))(now, ask),
    });
    assert_eq!(outcome, Some(Outcome::Drained));
    assert!((ms(5_000)..ms(5_500)).contains(&play.now), "{:?}", play.now);
}

#[test]
fn connections_that_have_all_been_silent_for_the_settle_time_hold_nothing_up() {
    let Answer::Stats(silent) = load(7, 0, 0, 0) else {
        unreachable!()
    };
    for (awake, least) in [(0, 0), (1, 5_000)] {
        let silent = Answer::Stats(Load {
            awake: Some(awake),
            ..silent.clone()
        });
        let mut play = Play::new(&LIMITS, true);
        let outcome = play.until(ms(25_000), envoy_with(&silent));
        assert_eq!(outcome, Some(Outcome::Idle));
        assert!(
            (ms(least)..ms(least + 300)).contains(&play.now),
            "{:?}",
            play.now
        );
    }
}

#[test]
fn a_minimum_as_long_as_the_timeout_is_no_cut() {
    let limits = Limits {
        min: MinDrain::For(ms(25_000)),
        ..LIMITS
    };
    let mut play = Play::new(&limits, true);
    assert_eq!(
        play.until(ms(30_000), envoy_with(&load(0, 0, 0, 0))),
        Some(Outcome::Drained)
    );
    assert_eq!(play.now, ms(25_000));
}

#[test]
fn without_any_time_nobody_is_asked_and_nothing_is_lost_but_time() {
    let limits = Limits {
        timeout: ms(0),
        ..LIMITS
    };
    let mut play = Play::new(&limits, true);
    assert_eq!(play.until(ms(1), |_, _| None), Some(Outcome::Deadline));
}

#[test]
fn a_connection_after_the_last_look_but_one_is_waited_for() {
    let mut play = Play::new(&LIMITS, true);
    let mut polls = 0;
    let outcome = play.until(ms(1_000), |_, ask| match ask {
        Ask::Stats => {
            polls += 1;
            Some(load(u64::from(polls == 2), 0, 0, 0))
        }
        _ => Some(Answer::Done),
    });
    assert_eq!((outcome, polls), (Some(Outcome::Drained), 3));
    assert_eq!(play.count(Ask::StopListeners), 1);
}

#[test]
fn near_the_deadline_an_envoy_that_is_stopped_stops_accepting_and_one_that_stays_does_not() {
    for stops in [true, false] {
        let mut play = Play::new(&LIMITS, stops);
        play.until(ms(23_900), envoy_with(&load(1, 1, 0, 0)));
        assert_eq!(play.count(Ask::StopListeners), 0);
        play.until(ms(24_100), envoy_with(&load(1, 1, 0, 0)));
        assert_eq!(play.count(Ask::StopListeners), usize::from(stops));
        assert_eq!(
            play.until(ms(25_001), envoy_with(&load(1, 1, 0, 0))),
            Some(Outcome::Deadline)
        );
        assert_eq!(play.now, ms(25_000));
    }
}

#[test]
fn an_envoy_with_udp_sessions_accepts_up_to_the_deadline_or_until_they_have_ended() {
    let mut play = Play::new(&LIMITS, true);
    let outcome = play.until(ms(25_001), envoy_with(&load(0, 0, 0, 1)));
    assert_eq!(outcome, Some(Outcome::Deadline));
    assert_eq!(play.count(Ask::StopListeners), 0);
    assert!(play.asked.len() < 200, "{}", play.asked.len());

    let mut play = Play::new(&LIMITS, true);
    play.until(ms(24_500), envoy_with(&load(1, 1, 0, 1)));
    assert_eq!(play.count(Ask::StopListeners), 0);
    play.until(ms(24_900), envoy_with(&load(1, 1, 0, 0)));
    assert_eq!(play.count(Ask::StopListeners), 1);
}

/// An Envoy with nothing in flight from `busy` on, which sends access logs somewhere.
fn envoy_with_logs(busy: Time) -> impl FnMut(Time, Ask) -> Option<Answer> {
    move |now, ask| match (
        ask,
        load(u64::from(now < busy), u64::from(now < busy), 0, 0),
    ) {
        (Ask::Stats, Answer::Stats(load)) => Some(Answer::Stats(Load {
            sends_logs: true,
            ..load
        })),
        _ => Some(Answer::Done),
    }
}

#[test]
fn the_last_entries_of_access_logs_are_given_time_up_to_the_deadline() {
    let mut play = Play::new(&LIMITS, true);
    assert_eq!(play.until(ms(4_100), envoy_with_logs(ms(3_000))), None);
    let outcome = play.until(ms(4_600), envoy_with_logs(ms(3_000)));
    assert_eq!(outcome, Some(Outcome::Drained));

    let mut play = Play::new(&LIMITS, true);
    let outcome = play.until(ms(25_001), envoy_with_logs(ms(24_300)));
    assert_eq!((outcome, play.now), (Some(Outcome::Drained), ms(25_000)));

    // An Envoy that stays sends them by itself.
    let mut play = Play::new(&LIMITS, false);
    let outcome = play.until(ms(1), envoy_with_logs(ms(0)));
    assert_eq!(outcome, Some(Outcome::Drained));
}

#[test]
fn an_admin_that_answers_nothing_is_asked_until_the_deadline_and_then_lost() {
    let mut play = Play::new(&LIMITS, true);
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
    assert_eq!(drain.next(ms(0), true), Next::Ask(Ask::FailHealthCheck));
    assert_eq!(drain.next(ms(1), true), Next::Wait(ms(25_000)));
    assert_eq!(drain.next(ms(25_000), true), Next::Over(Outcome::AdminLost));
}

#[test]
fn a_reverted_health_failure_is_posted_again() {
    let mut play = Play::new(&LIMITS, true);
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
    let mut drain = Drain::new(&LIMITS, ms(0), ms(0), true, true);
    let (mut now, mut polls, mut spent) = (ms(0), 0, ms(0));
    while now < ms(20_000) {
        match drain.next(now, true) {
            Next::Ask(ask) => {
                let took = if ask == Ask::Stats { ms(90) } else { ms(0) };
                now += took;
                if ask == Ask::Stats {
                    polls += 1;
                    spent += took;
                }
                drain.answer(
                    now,
                    ask,
                    Some(&if ask == Ask::Stats {
                        load(1, 1, 0, 0)
                    } else {
                        Answer::Done
                    }),
                );
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
    assert_eq!(drain.next(ms(5_000), true), Next::Ask(Ask::Ready));
    drain.answer(
        ms(5_001),
        Ask::Ready,
        Some(&Answer::Ready(Readiness::Initializing)),
    );
    assert_eq!(drain.next(ms(5_001), true), Next::Over(Outcome::NeverLive));
}

#[test]
fn an_envoy_that_never_answered_is_given_the_time_that_it_has_been_up() {
    for (uptime, given) in [(0, 1_000), (3_000, 3_000), (86_400_000, 25_000)] {
        let start = ms(uptime);
        let mut drain = Drain::new(&LIMITS, start, ms(0), false, true);
        let mut now = start;
        let outcome = loop {
            match drain.next(now, true) {
                Next::Ask(ask) => drain.answer(now, ask, None),
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
    let mut play = Play::new(&LIMITS, true);
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
fn an_admin_that_stops_answering_costs_nothing_when_the_kernel_tells_that_nothing_is_left() {
    let mut play = Play::new(&LIMITS, true);
    let outcome = play.until(ms(60_000), |now, ask| match ask {
        Ask::Sockets => Some(load(u64::from(now < ms(4_000)), 0, 1, 0)),
        _ => None,
    });
    assert_eq!(outcome, Some(Outcome::Drained));
    assert!(play.now < ms(6_000), "{:?}", play.now);
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
        let mut play = Play::new(&LIMITS, true);
        assert_eq!(play.until(ms(60_000), envoy_with(&answer)), Some(outcome));
    }
}

#[test]
fn connections_on_which_requests_come_and_go_between_two_looks_are_not_idle() {
    let mut play = Play::new(&LIMITS, true);
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
    let mut play = Play::new(&LIMITS, true);
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
            match drain.next(now, true) {
                Next::Ask(Ask::Stats) => {
                    polls += 1;
                    now += if polls == 3 { slow } else { ms(1) };
                    drain.answer(now, Ask::Stats, Some(&load(1, 1, 0, 0)));
                }
                Next::Ask(ask) => drain.answer(now, ask, Some(&Answer::Done)),
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
    let mut play = Play::new(&LIMITS, true);
    play.drain = Drain::new(&LIMITS, ms(0), ms(0), false, true);
    assert_eq!(play.until(ms(1_000), envoy_with(&load(1, 1, 0, 0))), None);
    assert_eq!(play.asked.first(), Some(&Ask::Ready));
    assert_eq!(play.asked.get(1), Some(&Ask::FailHealthCheck));
}

#[derive(Clone, Debug)]
enum Weather {
    Answers(Answer, u64),
    Fails(u64),
    Hangs,
}

fn weather() -> impl Strategy<Value = Weather> {
    let small = 0..3u64;
    prop_oneof![
        6 => (small.clone(), small.clone(), small.clone(), small, 0..3_000u64)
            .prop_map(|(a, b, c, d, took)| Weather::Answers(load(a, b, c.min(a), d), took)),
        3 => (0..6_000u64).prop_map(Weather::Fails),
        1 => Just(Weather::Hangs),
    ]
}

fn any_limits() -> impl Strategy<Value = Limits> {
    (
        0..4_000u64,
        0..30_000u64,
        0..4_000u64,
        0..7_000u64,
        0..3u64,
        10..2_000u64,
    )
        .prop_map(
            |(delay, timeout, min, settle, open_connections, check)| Limits {
                delay: ms(delay.min(timeout)),
                timeout: ms(timeout),
                min: MinDrain::For(ms(min.min(timeout))),
                settle: ms(settle),
                open_connections,
                check_interval: ms(check),
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// For any limits and any weather: the deadline holds, no error ends it early, each step is
    /// asked for again only after it failed, and nothing is asked while an answer is due.
    #[test]
    fn whatever_happens_a_drain_keeps_its_word(
        limits in any_limits(),
        live in any::<bool>(),
        stops in any::<bool>(),
        weather in proptest::collection::vec(weather(), 1..60),
    ) {
        let start = ms(1_000);
        let deadline = start + limits.timeout;
        let mut drain = Drain::new(&limits, start, ms(0), live, stops);
        let mut now = start;
        let mut weather = weather.into_iter().cycle();
        let mut done = Vec::new();
        let mut last = None;
        let mut spoke = live;
        let mut turns = 0;
        let outcome = loop {
            turns += 1;
            prop_assert!(turns < 20_000, "it spins");
            match drain.next(now, true) {
                Next::Over(outcome) => break outcome,
                Next::Wait(due) => {
                    prop_assert!(due > now && due <= deadline);
                    now = due;
                }
                Next::Ask(ask) => {
                    prop_assert!(now < deadline);
                    prop_assert!(now >= start + limits.delay || !live);
                    prop_assert!(!done.contains(&ask), "{ask:?} again");
                    let (answer, took) = match weather.next() {
                        Some(Weather::Answers(load, took)) => (Some(load), took),
                        Some(Weather::Fails(took)) => (None, took),
                        _ => {
                            // It hangs: only the deadline is left.
                            let Next::Wait(due) = drain.next(now, true) else {
                                panic!("asked twice");
                            };
                            prop_assert!(due <= deadline);
                            now = due;
                            continue;
                        }
                    };
                    let ended = now + ms(took);
                    // Envoy is slow; the machine's own times come first.
                    while now < ended {
                        match drain.next(now, true) {
                            Next::Wait(due) => now = due.min(ended),
                            Next::Over(_) => break,
                            Next::Ask(_) => panic!("asked twice"),
                        }
                    }
                    let answer = answer.map(|load| match ask {
                        Ask::Stats | Ask::Sockets => load,
                        Ask::Activity => moved(took % 2),
                        Ask::Ready => Answer::Ready(Readiness::Live),
                        _ => Answer::Done,
                    });
                    let looks = matches!(ask, Ask::Stats | Ask::Activity | Ask::Sockets | Ask::Ready);
                    if answer.is_some() && !looks {
                        done.push(ask);
                    }
                    if ask == Ask::StopListeners && answer.is_none() {
                        done.push(ask);
                    }
                    if matches!(ask, Ask::Stats | Ask::Sockets) {
                        last = answer.clone();
                    }
                    let late = drain.outcome().is_some();
                    spoke |= ask == Ask::Ready && answer.is_some() && !late;
                    drain.answer(now, ask, answer.as_ref());
                }
            }
        };
        prop_assert!(now <= deadline);
        match outcome {
            Outcome::Drained | Outcome::Idle => {
                // Never on an error: the last look is what it says.
                let Some(Answer::Stats(last)) = last else { panic!("{outcome:?} without a look") };
                if outcome == Outcome::Drained {
                    prop_assert!(last.connections() <= limits.open_connections && last.udp_sessions == 0);
                } else {
                    prop_assert!(last.in_flight() == 0 && now >= start + limits.delay + limits.settle);
                }
                prop_assert!(now >= start + limits.min.longest());
                prop_assert!(!stops || !spoke || done.contains(&Ask::StopListeners));
            }
            Outcome::Deadline | Outcome::AdminLost => prop_assert_eq!(now, deadline),
            Outcome::Unknown => prop_assert!(!spoke),
            outcome => panic!("{outcome:?}"),
        }
    }
}
