//! What holds whatever Envoy answers, and whenever: on drains that are made at random.

use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Weather {
    Answers(Box<Answer>, u64),
    Fails(u64),
    Hangs,
}

fn weather() -> impl Strategy<Value = Weather> {
    let small = 0..3u64;
    prop_oneof![
        6 => (small.clone(), small.clone(), small.clone(), small, 0..3_000u64)
            .prop_map(|(a, b, c, d, took)| Weather::Answers(load(a, b, c.min(a), d).into(), took)),
        3 => (0..6_000u64).prop_map(Weather::Fails),
        1 => Just(Weather::Hangs),
    ]
}

fn any_limits() -> impl Strategy<Value = Limits> {
    (
        0..4_000u64,
        0..30_000u64,
        proptest::option::of(0..4_000u64),
        0..7_000u64,
        0..3u64,
        10..2_000u64,
    )
        .prop_map(
            |(delay, timeout, min, settle, open_connections, check)| Limits {
                delay: ms(delay.min(timeout)),
                timeout: ms(timeout),
                min: match min {
                    Some(min) => MinDrain::For(ms(min.min(timeout))),
                    None => auto(timeout, timeout / 3),
                },
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
        let mut asked = None;
        let outcome = loop {
            turns += 1;
            prop_assert!(turns < 20_000, "it spins");
            match drain.next(now, true, asked) {
                Next::Over(outcome) => break outcome,
                Next::Wait(due) => {
                    prop_assert!(due > now && due <= deadline);
                    now = due;
                }
                Next::Ask(ask) => {
                    prop_assert!(now < deadline);
                    prop_assert!(now >= start + limits.delay || !live);
                    prop_assert!(!done.contains(&ask), "{ask:?} again");
                    let at = now;
                    asked = Some(at);
                    let (answer, took) = match weather.next() {
                        Some(Weather::Answers(load, took)) => (Some(*load), took),
                        Some(Weather::Fails(took)) => (None, took),
                        _ => {
                            // It hangs: only the deadline is left.
                            let Next::Wait(due) = drain.next(now, true, asked) else {
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
                        match drain.next(now, true, asked) {
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
                    if ask.tells_open() {
                        last = answer.clone();
                    }
                    let late = drain.outcome().is_some();
                    spoke |= ask == Ask::Ready && answer.is_some() && !late;
                    drain.on_answer(now, at, ask, answer.as_ref());
                    asked = None;
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
                if let MinDrain::For(min) = limits.min {
                    prop_assert!(now >= start + min);
                }
                prop_assert!(!stops || !spoke || done.contains(&Ask::StopListeners));
            }
            Outcome::Deadline | Outcome::AdminLost => prop_assert_eq!(now, deadline),
            Outcome::Unknown => prop_assert!(!spoke),
            outcome => panic!("{outcome:?}"),
        }
    }
}
