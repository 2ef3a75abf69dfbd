mod arriving;
mod sending;
mod silent;
mod weather;

use super::looks::{OWED, SHARE};
use super::*;
use crate::envoy::load::{Counters, Load, Sight};
use crate::testing::{LIMITS, listener, ms};

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

/// `--min-drain auto`, with these limits in milliseconds.
fn auto(most: u64, reserve: u64) -> MinDrain {
    MinDrain::Auto {
        most: ms(most),
        reserve: ms(reserve),
    }
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
struct DrainPlay {
    drain: Drain,
    now: Time,
    asked: Vec<Ask>,
}

impl DrainPlay {
    fn new(limits: &Limits, stops: bool) -> DrainPlay {
        DrainPlay {
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
            match self.drain.next(self.now, true, None) {
                Next::Ask(ask) => {
                    self.asked.push(ask);
                    let answer = envoy(self.now, ask);
                    self.drain
                        .on_answer(self.now, self.now, ask, answer.as_ref());
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
    let mut play = DrainPlay::new(&LIMITS, true);
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
fn word_of_an_end_brings_the_next_poll_forward() {
    let limits = Limits {
        check_interval: ms(10_000),
        ..LIMITS
    };
    let mut play = DrainPlay::new(&limits, true);
    play.until(ms(1), envoy_with(&load(1, 1, 0, 0)));
    assert_eq!(play.drain.next(ms(1), true, None), Next::Wait(ms(10_000)));
    // A question that shows nothing of it is in flight: it is told again.
    play.drain.on_end(true);
    assert_eq!(play.drain.next(ms(1), true, None), Next::Wait(ms(10_000)));
    play.drain.on_end(false);
    assert_eq!(
        play.until(ms(2), envoy_with(&load(0, 0, 0, 0))),
        Some(Outcome::Drained)
    );
}

/// Envoy rests from a few polls at once afterwards, so that polls take no more of it than they may.
#[test]
fn word_of_ends_has_envoy_asked_at_once_and_no_more_often_on_the_whole_than_it_may_be() {
    let cost = ms(5);
    let limits = Limits {
        timeout: ms(60_000),
        ..LIMITS
    };
    let mut drain = Drain::new(&limits, ms(0), ms(0), true, true);
    let busy = load(1, 1, 0, 0);
    let mut envoy = envoy_with(&busy);
    let (mut now, mut polls) = (ms(0), Vec::new());
    // One ends in each millisecond, but not at first.
    while now < ms(22_000) {
        match drain.next(now, true, None) {
            Next::Ask(ask) => {
                let asked = now;
                if ask == Ask::Stats {
                    polls.push(now);
                    now += cost;
                }
                drain.on_answer(now, asked, ask, envoy(now, ask).as_ref());
            }
            Next::Wait(_) => {
                now += ms(1);
                if now >= ms(2_000) {
                    // It is told again after each answer that is to another question.
                    drain.on_end(false);
                }
            }
            Next::Over(outcome) => panic!("{outcome:?}"),
        }
    }
    let before = polls.iter().rposition(|at| *at < ms(2_000)).unwrap();
    let burst = &polls[before + 1..before + 4];
    assert!(burst.iter().all(|at| *at < ms(2_030)), "{burst:?}");
    let may = (ms(20_000) + OWED).div_duration_f64(cost * SHARE) as usize;
    let more = polls.len() - 1 - before;
    assert!(more <= may + 1 && more > may * 9 / 10, "{more} of {may}");
}

#[test]
fn a_drain_that_stays_never_stops_accepting() {
    let mut play = DrainPlay::new(&LIMITS, false);
    assert_eq!(
        play.until(ms(1), envoy_with(&load(0, 0, 0, 0))),
        Some(Outcome::Drained)
    );
    assert_eq!(play.count(Ask::StopListeners), 0);
}

#[test]
fn the_delay_asks_nothing_of_envoy() {
    let mut play = DrainPlay::new(
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
    let mut play = DrainPlay::new(&LIMITS, true);
    assert_eq!(play.until(ms(4_900), envoy_with(&load(7, 0, 0, 0))), None);
    assert_eq!(
        play.until(ms(5_300), envoy_with(&load(7, 0, 0, 0))),
        Some(Outcome::Idle)
    );
    let mut play = DrainPlay::new(
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
        let mut play = DrainPlay::new(&LIMITS, true);
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
    let mut play = DrainPlay::new(&LIMITS, true);
    assert_eq!(play.until(ms(20_000), envoy_with(&load(0, 0, 0, 1))), None);
    assert_eq!(
        play.until(ms(20_600), envoy_with(&load(0, 0, 0, 0))),
        Some(Outcome::Drained)
    );
}

#[test]
fn so_many_open_connections_count_as_none() {
    let mut play = DrainPlay::new(
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
    let mut play = DrainPlay::new(
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
        min: auto(20_000, 5_000),
        ..LIMITS
    };
    // Twenty a second for 3 s after the signal, each gone at once.
    let mut play = DrainPlay::new(&limits, true);
    let outcome = play.until(ms(25_000), |now, ask| match ask {
        Ask::Activity => Some(moved(7 + now.min(ms(3_000)).as_millis() as u64 / 50)),
        ask => envoy_with(&load(0, 0, 0, 0))(now, ask),
    });
    assert_eq!(outcome, Some(Outcome::Drained));
    assert!((ms(3_750)..ms(4_500)).contains(&play.now), "{:?}", play.now);
    // Nobody ever came.
    let mut play = DrainPlay::new(&limits, true);
    let outcome = play.until(ms(25_000), envoy_with(&load(0, 0, 0, 0)));
    assert_eq!((outcome, play.now), (Some(Outcome::Drained), ms(0)));
    // Nobody tells whether somebody comes.
    let mut play = DrainPlay::new(&limits, true);
    let outcome = play.until(ms(25_000), |now, ask| match ask {
        Ask::Activity => None,
        ask => envoy_with(&load(0, 0, 0, 0))(now, ask),
    });
    assert_eq!(outcome, Some(Outcome::Drained));
    assert!((ms(5_000)..ms(5_500)).contains(&play.now), "{:?}", play.now);
}

#[test]
fn it_accepts_as_long_as_somebody_comes_however_late_a_look_is() {
    let limits = Limits {
        min: auto(20_000, 5_000),
        ..LIMITS
    };
    // How long the first poll takes, and each later one.
    for (first, later) in [(100, 100), (1_200, 1)] {
        let mut drain = Drain::new(&limits, ms(0), ms(0), true, true);
        let (mut now, mut took, mut closed) = (ms(0), first, None);
        loop {
            match drain.next(now, true, None) {
                Next::Ask(ask) => {
                    let asked = now;
                    if ask == Ask::Stats {
                        now += ms(took);
                        took = later;
                    }
                    // Twenty a second for 5 s after the signal, each gone at once.
                    let answer = match ask {
                        Ask::Activity => moved(7 + now.min(ms(5_000)).as_millis() as u64 / 50),
                        Ask::Stats => load(0, 0, 0, 0),
                        _ => Answer::Done,
                    };
                    if ask == Ask::StopListeners {
                        closed = Some(now);
                    }
                    drain.on_answer(now, asked, ask, Some(&answer));
                }
                Next::Wait(due) => now = due,
                Next::Over(_) => break,
            }
        }
        let closed = closed.unwrap();
        assert!((ms(5_000)..ms(8_000)).contains(&closed), "{closed:?}");
    }
}

#[test]
fn an_envoy_at_which_nothing_happened_for_a_while_is_gone_at_once() {
    let Answer::Stats(left) = load(0, 0, 0, 0) else {
        unreachable!()
    };
    let quiet = Answer::Stats(Load {
        quiet: true,
        ..left
    });
    let limits = Limits {
        min: auto(20_000, 5_000),
        ..LIMITS
    };
    let mut play = DrainPlay::new(&limits, true);
    let outcome = play.until(ms(25_000), |now, ask| match ask {
        Ask::Activity => Some(moved(700)),
        ask => envoy_with(&quiet)(now, ask),
    });
    assert_eq!((outcome, play.now), (Some(Outcome::Drained), ms(0)));
    assert_eq!(play.count(Ask::Activity), 0);
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
        let mut play = DrainPlay::new(&LIMITS, true);
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
    let mut play = DrainPlay::new(&limits, true);
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
    let mut play = DrainPlay::new(&limits, true);
    assert_eq!(play.until(ms(1), |_, _| None), Some(Outcome::Deadline));
}

#[test]
fn a_connection_after_the_last_look_but_one_is_waited_for() {
    let mut play = DrainPlay::new(&LIMITS, true);
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
        let mut play = DrainPlay::new(&LIMITS, stops);
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
    let mut play = DrainPlay::new(&LIMITS, true);
    let outcome = play.until(ms(25_001), envoy_with(&load(0, 0, 0, 1)));
    assert_eq!(outcome, Some(Outcome::Deadline));
    assert_eq!(play.count(Ask::StopListeners), 0);
    assert!(play.asked.len() < 200, "{}", play.asked.len());

    let mut play = DrainPlay::new(&LIMITS, true);
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
    let mut play = DrainPlay::new(&LIMITS, true);
    assert_eq!(play.until(ms(4_100), envoy_with_logs(ms(3_000))), None);
    let outcome = play.until(ms(4_600), envoy_with_logs(ms(3_000)));
    assert_eq!(outcome, Some(Outcome::Drained));

    let mut play = DrainPlay::new(&LIMITS, true);
    let outcome = play.until(ms(25_001), envoy_with_logs(ms(24_300)));
    assert_eq!((outcome, play.now), (Some(Outcome::Drained), ms(25_000)));

    // An Envoy that stays sends them by itself.
    let mut play = DrainPlay::new(&LIMITS, false);
    let outcome = play.until(ms(1), envoy_with_logs(ms(0)));
    assert_eq!(outcome, Some(Outcome::Drained));
}
