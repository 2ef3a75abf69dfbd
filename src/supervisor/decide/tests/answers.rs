//! What Envoy is asked, and what an answer, an error or a silence leads to.

use super::*;

#[test]
fn a_drain_before_envoy_is_live_ends_when_it_tells_that_nothing_is_open_yet() {
    let mut play = Play::started(rules());
    play.order(Order::Stop);
    play.answer(Answer::Ready(Readiness::Initializing));
    assert_eq!(play.outcome(), Some(Outcome::NeverLive));
    assert!(play.did(Action::Terminate));
}

/// An Envoy that tells that it is live as a drain begins was once taken for one that had never been
/// live, and stopped a second later.
#[test]
fn an_envoy_that_tells_that_it_is_live_as_a_drain_begins_is_drained() {
    let mut play = Play::started(rules());
    play.order(Order::Stop);
    // The answer to the question from before the drain.
    play.answer(Answer::Ready(Readiness::Live));
    play.until(s(24), silent);
    assert!(!play.did(Action::Terminate));
    play.until(s(25), silent);
    assert_eq!(play.outcome(), Some(Outcome::AdminLost));
    assert!(play.did(Action::Terminate));
}

/// The core once slept until the deadline where a silent Envoy had never been live.
#[test]
fn a_silent_envoy_that_was_never_live_is_not_waited_for_until_the_deadline() {
    let mut play = Play::started(rules());
    play.fail();
    play.order(Order::Stop);
    assert_eq!(play.asked(), Some(Ask::Ready));
    assert_eq!(play.core.wake_at(), Some(s(1)));
    play.until(s(1), silent);
    assert!(play.did(Action::Terminate));
}

/// The end of the delay showed only when the answer came, or never did.
#[test]
fn the_end_of_the_delay_is_not_overslept_while_a_question_hangs() {
    let delay = s(3);
    let limits = Limits {
        delay,
        ..rules().limits
    };
    let mut play = Play::live(Rules { limits, ..rules() });
    play.order(Order::Stop);
    assert_eq!(play.state(), State::Delaying);
    play.now = s(2);
    play.put(Input::Probe);
    play.put(Input::Tick);
    assert_eq!(play.asked(), Some(Ask::Ready));
    assert_eq!(play.core.wake_at(), Some(s(3)));
    play.until(s(3), silent);
    assert_eq!(play.state(), State::Draining);
}

#[test]
fn an_error_is_never_nothing_left() {
    let mut play = Play::live(rules());
    play.order(Order::Stop);
    play.until(ms(24_999), |ask| match ask {
        Ask::Stats => None,
        _ => Some(Answer::Done),
    });
    assert!(!play.did(Action::Terminate));
}

#[test]
fn at_rest_envoy_is_asked_when_somebody_wants_to_know_and_at_most_once_a_second() {
    let mut play = Play::live(rules());
    let mut asked = Vec::new();
    for tenth in 0..100 {
        play.now = ms(tenth * 100);
        play.done.clear();
        play.put(Input::Probe);
        if play.did(Action::Ask(Ask::Ready)) {
            asked.push(play.now);
            play.answer(Answer::Ready(Readiness::Live));
        }
    }
    assert!(asked.len() >= 9, "{asked:?}");
    assert!(asked.windows(2).all(|two| two[1] - two[0] >= PROBE_REST));
    // Who came too early hears as soon as Envoy has had its rest.
    play.done.clear();
    play.until(s(11), with(0));
    assert_eq!(play.done, [Action::Ask(Ask::Ready)]);
    play.done.clear();
    play.until(s(100), with(0));
    assert!(play.done.is_empty(), "asked although nobody wants to know");
    assert_eq!(play.core.wake_at(), None);
}

/// A look that came while a probe was in flight was once lost, with every later look, until
/// somebody probed.
#[test]
fn a_look_while_a_probe_is_in_flight_gets_its_figures() {
    let mut play = Play::live(rules());
    play.now = s(5);
    play.put(Input::Probe);
    assert_eq!(play.asked(), Some(Ask::Ready));
    play.now += ms(100);
    play.put(Input::Look);
    play.now += ms(200);
    play.answer(Answer::Ready(Readiness::Live));
    assert_eq!(
        play.core.wake_at(),
        Some(s(6)),
        "within the patience of a scrape"
    );
    play.until(s(6), silent);
    assert_eq!(play.asked(), Some(Ask::Stats));
    play.answer(Answer::Stats(Load::default()));
    play.now = s(20);
    play.put(Input::Look);
    assert_eq!(play.asked(), Some(Ask::Stats), "a later one is heard, too");
}

#[test]
fn an_envoy_that_does_not_answer_is_asked_once_a_second_until_it_does() {
    let mut play = Play::live(rules());
    play.put(Input::Probe);
    play.now = s(2);
    play.put(Input::Probe);
    for _ in 0..5 {
        play.fail();
        let due = play.core.wake_at().unwrap();
        assert_eq!(due, play.now + PROBE_REST);
        play.now = due;
        play.put(Input::Tick);
    }
    play.answer(Answer::Ready(Readiness::Live));
    assert_eq!((play.asked(), play.core.wake_at()), (None, None));
}

#[test]
fn an_envoy_that_starts_is_asked_less_and_less_often_and_at_once_when_its_address_is_known() {
    let mut play = Play::started(rules());
    let mut last = ms(0);
    for _ in 0..20 {
        play.fail();
        let due = play.core.wake_at().unwrap();
        let pause = due - play.now;
        assert!(pause >= last && pause <= PROBE_REST);
        (last, play.now) = (pause, due);
        play.put(Input::Tick);
    }
    assert_eq!(last, PROBE_REST);
    play.fail();
    assert_eq!(play.asked(), None);
    play.put(Input::AdminKnown);
    assert_eq!(play.asked(), Some(Ask::Ready));
}

#[test]
fn an_answer_that_nobody_waits_for_is_ignored() {
    for name in [
        "waiting",
        "starting",
        "live",
        "drained",
        "stopping",
        "restarting",
        "down",
    ] {
        let mut play = phase(name);
        play.done.clear();
        let before = play.core.clone();
        let asked = before.asked().map(|question| question.number);
        for number in (0..99).filter(|number| Some(*number) != asked) {
            for answer in [None, Some(load(0)), Some(Answer::Ready(Readiness::Live))] {
                play.put(Input::Answer(number, answer));
            }
        }
        assert_eq!(play.core, before, "{name}");
        assert!(play.done.is_empty(), "{name}");
    }
}

#[test]
fn an_answer_of_the_wrong_kind_is_no_answer() {
    let mut play = Play::live(rules());
    play.order(Order::Stop);
    play.until(ms(24_999), |_| Some(Answer::Done));
    assert!(!play.did(Action::Terminate));
}

#[test]
fn an_answer_to_what_a_hold_has_asked_ends_no_drain_that_came_meanwhile() {
    let mut play = Play::live(rules());
    play.put(Input::Hold("a person".into()));
    play.answer(Answer::Done);
    assert_eq!(play.asked(), Some(Ask::Stats));
    play.order(Order::Drain);
    play.answer(load(0));
    assert_eq!(play.core.drain().and_then(Drain::outcome), None);
    assert_eq!(play.asked(), Some(Ask::FailHealthCheck));
}
