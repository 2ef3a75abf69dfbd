use super::tests::{Play, rules, with};
use super::*;
use crate::drain::{Answer, Outcome, Readiness};
use crate::testing::s;

fn hold(play: &mut Play) {
    play.put(Input::Hold("a person".into()));
}

fn resume(play: &mut Play) {
    play.put(Input::Resume("a person".into()));
}

#[test]
fn a_hold_fails_the_health_check_and_nothing_else_and_a_resume_takes_that_back() {
    let mut play = Play::live(rules());
    hold(&mut play);
    assert_eq!(play.state(), State::Held);
    play.until(s(1), with(0));
    assert!(play.did(Action::HoldEnded(HoldEnd::Over(Outcome::Drained))));
    for ask in [Ask::DrainListeners, Ask::StopListeners] {
        assert!(!play.did(Action::Ask(ask)), "{ask:?}");
    }
    play.until(s(100), with(0));
    assert_eq!(play.state(), State::Held);
    resume(&mut play);
    assert_eq!(play.asked(), Some(Ask::PassHealthCheck));
    assert_eq!(
        play.state(),
        State::Held,
        "not before Envoy has heard of it"
    );
    play.answer(Answer::Done);
    assert!(play.did(Action::ResumeEnded(ResumeEnd::Serving)));
    assert_eq!(
        (play.state(), play.asked()),
        (State::Live, Some(Ask::Ready))
    );
}

#[test]
fn nobody_is_believed_to_have_gone_from_an_envoy_that_has_not_heard_of_the_hold() {
    let mut play = Play::live(rules());
    hold(&mut play);
    play.until(s(24), |ask| match ask {
        Ask::FailHealthCheck => None,
        ask => with(0)(ask),
    });
    // The question that hangs keeps the others from being asked.
    play.fail();
    play.until(s(26), |ask| match ask {
        Ask::FailHealthCheck => None,
        ask => with(0)(ask),
    });
    let ended = |action: &&Action| matches!(action, Action::HoldEnded(_));
    let ended = play.done.iter().find(ended);
    let Some(Action::HoldEnded(HoldEnd::Over(outcome))) = ended else {
        panic!("{ended:?}");
    };
    assert!(!outcome.is_clean(), "{outcome:?}");
    assert_eq!(play.state(), State::Held);
}

#[test]
fn a_question_hurries_while_a_wait_or_a_resume_cannot_go_on_without_its_end() {
    let mut delayed = rules();
    delayed.limits.delay = s(5);
    let mut play = Play::live(delayed);
    let hurries = |play: &Play| play.core.hurries(play.now);
    play.put(Input::Probe);
    play.until(s(2), |_| None);
    assert_eq!((play.asked(), hurries(&play)), (Some(Ask::Ready), false));
    play.order(Order::Drain);
    assert!(!hurries(&play), "the delay is not over");
    play.until(s(5), |_| None);
    assert!(!hurries(&play));
    play.until(s(7), |_| None);
    assert_eq!((play.asked(), hurries(&play)), (Some(Ask::Ready), true));
    play.until(s(60), |_| None);
    assert!(!hurries(&play), "the drain is over");

    // A look of the drain's own has its time.
    let mut play = Play::live(rules());
    play.order(Order::Drain);
    while play.asked() != Some(Ask::Stats) {
        assert!(hurries(&play));
        play.answer(Answer::Done);
    }
    assert!(!hurries(&play));

    let mut play = Play::live(rules());
    hold(&mut play);
    assert!(hurries(&play));
    play.until(s(1), with(0));
    assert!(!hurries(&play), "nobody waits any more");
    resume(&mut play);
    assert!(hurries(&play));
    play.answer(Answer::Done);
    assert!(!hurries(&play));
}

#[test]
fn a_resume_of_what_is_not_held_changes_nothing_and_is_answered() {
    let mut play = Play::live(rules());
    let before = play.core.clone();
    resume(&mut play);
    assert_eq!(play.core, before);
    assert_eq!(play.done, [Action::ResumeEnded(ResumeEnd::Serving)]);
}

#[test]
fn an_envoy_that_starts_while_held_is_told_before_it_is_asked_how_it_is() {
    let mut play = Play::started(rules());
    hold(&mut play);
    play.fail();
    assert_eq!(play.asked(), Some(Ask::FailHealthCheck));
    play.answer(Answer::Done);
    play.until(s(1), |ask| match ask {
        Ask::Ready => Some(Answer::Ready(Readiness::Draining)),
        ask => with(0)(ask),
    });
    assert_eq!(play.state(), State::Held);
}
