//! An Envoy that has handed its admin interface over to another one, which ended.

use super::*;

/// An Envoy that serves after two generations have ended beside it, and has lost its admin interface.
fn degraded(rules: Rules) -> Play {
    let mut play = rising(rules);
    play.exit(KILLED);
    play.put(Input::HotRestart(News::Spawned(true)));
    assert_eq!(play.asked(), Some(Ask::Sockets), "does it still accept");
    play.exit(KILLED);
    assert!(
        !play.core.generations.is_degraded(),
        "it has not been asked"
    );
    assert_eq!(play.asked(), Some(Ask::Ready));
    play.fail();
    assert!(play.core.generations.is_degraded());
    assert_eq!(play.asked(), Some(Ask::Sockets));
    play.done.clear();
    play
}

#[test]
fn a_degraded_envoy_is_drained_by_what_the_kernel_counts() {
    let mut play = degraded(hot());
    let answer = |ask, connections| match ask {
        Ask::Sockets => with(connections)(Ask::Stats),
        _ => None,
    };
    let fails = |play: &mut Play, end: Time, connections| {
        while play.now < end {
            if let Some(ask) = play.asked() {
                play.reply(answer(ask, connections));
            } else {
                play.now = play.core.wake_at().unwrap_or(end).min(end);
                play.put(Input::Tick);
            }
        }
    };
    let end = play.now + Duration::from_secs(40);
    fails(&mut play, end, 1);
    assert_eq!(play.state(), State::Live, "it serves on");
    assert!(!play.did(Action::Ask(Ask::Stats)));
    play.order(Order::Stop);
    let end = play.now + Duration::from_secs(10);
    fails(&mut play, end, 1);
    assert_eq!(play.state(), State::Draining);
    let end = play.now + Duration::from_secs(2);
    fails(&mut play, end, 0);
    assert!(play.did(Action::Terminate));
    assert!(!play.did(Action::Ask(Ask::Stats)));
}

#[test]
fn an_admin_interface_that_answers_after_all_ends_degraded_mode() {
    let mut play = degraded(hot());
    play.answer(with(1)(Ask::Stats).unwrap());
    play.now = play.core.wake_at().unwrap();
    play.put(Input::Tick);
    assert_eq!(play.asked(), Some(Ask::Ready));
    play.answer(Answer::Ready(Readiness::Live));
    assert!(!play.core.generations.is_degraded());
    play.order(Order::Stop);
    assert!(play.did(Action::Ask(Ask::FailHealthCheck)));
}

#[test]
fn an_envoy_that_accepts_nothing_is_started_anew_unless_something_else_is_planned() {
    let mut play = degraded(hot());
    play.answer(Answer::Closed);
    assert_eq!(play.done, [Action::Terminate]);
    assert_eq!(play.state(), State::Stopping);
    play.exit(Exit::Code(0));
    assert!(play.did(Action::Spawn));
    assert!(!play.core.generations.is_degraded());

    let mut reloading = degraded(hot());
    reloading.put(Input::HotRestart(News::Reload));
    reloading.answer(Answer::Closed);
    assert_eq!(reloading.state(), State::Live);
    reloading.put(Input::HotRestart(News::Tried(false)));
    reloading.now = reloading.core.wake_at().expect("another look");

    let mut draining = degraded(hot());
    draining.order(Order::Stop);
    draining.answer(Answer::Closed);
    assert_eq!(draining.state(), State::Draining);
}

#[test]
fn an_attempt_that_cannot_be_spawned_leaves_the_same_doubt() {
    let mut play = rising(hot());
    play.exit(KILLED);
    play.put(Input::HotRestart(News::Spawned(false)));
    assert!(play.did(Action::HotRestart(RestartStep::Reloaded(Reloaded::Failed))));
    assert!(play.core.generations.is_admin_away());
    assert_eq!(play.asked(), Some(Ask::Ready));
}

#[test]
fn it_is_seen_that_the_old_one_accepts_no_more_while_another_attempt_rises() {
    let mut play = rising(hot());
    play.exit(KILLED);
    play.put(Input::HotRestart(News::Spawned(true)));
    play.answer(Answer::Closed);
    assert!(play.core.generations.accepts_nothing() && play.core.generations.is_starting());
    assert_eq!(play.asked(), Some(Ask::Ready));
    play.answer(Answer::Ready(Readiness::Live));
    assert!(
        !play.core.generations.accepts_nothing()
            && play.did(Action::HotRestart(RestartStep::Reloaded(Reloaded::Live)))
    );
}
