//! The rules of a hot restart, one by one.

mod degraded;
mod old;

use super::asking::PROBE_REST;
use super::generations::{MOMENT, START_LIMIT};
use super::orders::SAME_ORDER;
use super::tests::{Play, rules, with};
use super::*;
use std::time::Duration;

use crate::drain::{Answer, Loss, Outcome, Readiness};
use crate::envoy::load::{ListenerLoad, Load};
use crate::process::Exit;

fn hot() -> Rules {
    Rules {
        old_time: Some(Duration::from_secs(25)),
        ..rules()
    }
}

const KILLED: Exit = Exit::Signal(9);

/// An Envoy with nothing in flight, which last flushed its statistics when it was up so long.
fn idle(uptime: u64) -> impl FnMut(Ask) -> Option<Answer> {
    let mut answers = with(0);
    move |ask| {
        answers(ask).map(|answer| match answer {
            Answer::Stats(load) => Answer::Stats(Load {
                uptime: Some(uptime),
                ..load
            }),
            answer => answer,
        })
    }
}

/// A generation rises beside one that is live.
fn rising(rules: Rules) -> Play {
    let mut play = Play::live(rules);
    play.put(Input::HotRestart(News::Reload));
    assert_eq!(play.done, [Action::HotRestart(RestartStep::Try)]);
    play.put(Input::HotRestart(News::Tried(true)));
    assert!(play.did(Action::HotRestart(RestartStep::SpawnNext)));
    play.put(Input::HotRestart(News::Spawned(true)));
    play.done.clear();
    play
}

/// A generation is live beside an old one.
fn two(rules: Rules) -> Play {
    let mut play = rising(rules);
    play.answer(Answer::Ready(Readiness::Live));
    assert!(play.did(Action::HotRestart(RestartStep::Reloaded(Reloaded::Live))));
    play.done.clear();
    play
}

#[test]
fn a_reload_is_refused_when_it_would_do_harm() {
    for (mut play, why) in [
        (Play::started(hot()), Reloaded::NotLive),
        (
            {
                let mut play = rising(hot());
                play.order(Order::Drain);
                play
            },
            Reloaded::Draining,
        ),
        (
            {
                let mut play = Play::live(hot());
                play.order(Order::Drain);
                play
            },
            Reloaded::Draining,
        ),
    ] {
        play.done.clear();
        play.put(Input::HotRestart(News::Reload));
        assert!(
            play.did(Action::HotRestart(RestartStep::Reloaded(why))),
            "{why:?}"
        );
        assert!(!play.did(Action::HotRestart(RestartStep::Try)), "{why:?}");
    }
    let mut play = Play::live(hot());
    play.put(Input::HotRestart(News::Reload));
    play.put(Input::HotRestart(News::Tried(false)));
    assert!(play.did(Action::HotRestart(RestartStep::Reloaded(Reloaded::Refused))));
    assert_eq!(play.state(), State::Live);
}

#[test]
fn nothing_is_asked_between_the_trial_and_the_spawn() {
    let mut play = Play::live(hot());
    play.put(Input::HotRestart(News::Reload));
    play.now += PROBE_REST;
    play.put(Input::Probe);
    assert_eq!(play.asked(), Some(Ask::Ready));
    play.answer(Answer::Ready(Readiness::Live));
    play.now += PROBE_REST;
    play.done.clear();
    play.put(Input::HotRestart(News::Tried(true)));
    assert_eq!(play.done, [Action::HotRestart(RestartStep::SpawnNext)]);
}

#[test]
fn a_drain_while_a_generation_rises_waits_until_it_can_be_known_what_is_in_flight() {
    let mut play = rising(hot());
    play.order(Order::Stop);
    assert!(play.did(Action::HotRestart(RestartStep::Reloaded(
        Reloaded::Draining
    ))));
    assert_eq!(play.asked(), Some(Ask::Ready), "not what is left");
    let live = play.now + START_LIMIT / 2;
    play.now = live;
    play.answer(Answer::Ready(Readiness::Live));
    play.until(live + Duration::from_secs(9), idle(60));
    assert!(!play.did(Action::Terminate), "a zero is believed too early");
    play.until(live + Duration::from_secs(10), idle(69));
    assert!(play.did(Action::Terminate));
    let told = |action: &&Action| matches!(action, Action::HotRestart(RestartStep::Reloaded(_)));
    assert_eq!(play.done.iter().filter(told).count(), 1);
}

#[test]
fn what_the_old_generation_has_is_known_from_the_first_flush_on_when_a_drain_comes_later() {
    let mut play = two(hot());
    let first = play.now + Duration::from_secs(2);
    play.until(first, idle(60));
    let view = play.core.generations.view(&play.core.life);
    assert!(!view.knows_all());
    play.now += Duration::from_secs(10);
    play.order(Order::Stop);
    let end = play.now + Duration::from_millis(600);
    play.until(end, idle(65));
    assert!(play.did(Action::Terminate));
}

#[test]
fn a_drain_goes_on_with_the_old_generation_when_the_rising_one_ends() {
    let mut play = rising(hot());
    play.order(Order::Stop);
    play.exit(KILLED);
    assert!(
        !play.did(Action::HotRestart(RestartStep::SpawnNext)),
        "raised although it drains"
    );
    assert_eq!(play.state(), State::Draining);
    let end = play.now + Duration::from_secs(1);
    play.until(end, with(0));
    assert!(play.did(Action::Terminate));
}

#[test]
fn a_generation_that_crashes_while_it_rises_is_tried_once_more() {
    let mut play = rising(hot());
    play.exit(KILLED);
    assert_eq!(play.done, [Action::HotRestart(RestartStep::SpawnNext)]);
    play.put(Input::HotRestart(News::Spawned(true)));
    play.done.clear();
    play.exit(KILLED);
    assert!(play.did(Action::HotRestart(RestartStep::Reloaded(Reloaded::Failed))));
    assert!(!play.did(Action::HotRestart(RestartStep::SpawnNext)));
    assert!(play.core.generations.is_admin_away());
    assert_eq!(play.state(), State::Live);

    let mut refused = rising(hot());
    refused.exit(Exit::Code(1));
    assert!(refused.did(Action::HotRestart(RestartStep::Reloaded(Reloaded::Failed))));
    assert!(!refused.did(Action::HotRestart(RestartStep::SpawnNext)));
}

#[test]
fn a_generation_that_does_not_come_up_is_given_up() {
    let mut play = rising(hot());
    let end = play.now + START_LIMIT;
    play.until(end, |ask| {
        (ask == Ask::Ready).then_some(Answer::Ready(Readiness::Initializing))
    });
    assert!(play.did(Action::HotRestart(RestartStep::KillNewest)));
    assert!(play.core.generations().has_given_up());
    play.exit(KILLED);
    assert!(!play.did(Action::HotRestart(RestartStep::SpawnNext)));
    assert!(play.did(Action::HotRestart(RestartStep::Reloaded(Reloaded::Failed))));

    let mut killed = rising(hot());
    killed.put(Input::Exited(Who::Old, KILLED));
    assert!(killed.did(Action::HotRestart(RestartStep::KillNewest)));
    assert!(!killed.core.generations().has_given_up());
}

#[test]
fn without_its_old_generation_the_whole_envoy_is_replaced() {
    for (mut play, exit) in [
        (rising(hot()), KILLED),
        (two(hot()), KILLED),
        (two(hot()), Exit::Code(0)),
    ] {
        play.put(Input::Exited(Who::Old, exit));
        assert!(play.did(Action::HotRestart(RestartStep::KillNewest)));
        play.exit(KILLED);
        assert!(play.did(Action::Spawn));
    }
    // An order in between counts.
    let mut play = two(hot());
    play.put(Input::Exited(Who::Old, KILLED));
    play.order(Order::Stop);
    play.exit(KILLED);
    assert!(play.did(Action::Exit(137)) && !play.did(Action::Spawn));

    let mut play = two(hot());
    play.now += Duration::from_secs(25);
    play.put(Input::Exited(Who::Old, Exit::Code(0)));
    assert!(play.done.is_empty(), "its time had come");
}

#[test]
fn a_newest_generation_that_ends_beside_an_old_one_is_started_again_once() {
    let mut play = two(hot());
    play.exit(KILLED);
    assert!(play.did(Action::Spawn));
    play.answer(Answer::Ready(Readiness::Live));
    play.done.clear();
    play.exit(KILLED);
    assert_eq!(play.done, [Action::HotRestart(RestartStep::TerminateOld)]);
    play.put(Input::Exited(Who::Old, Exit::Code(0)));
    assert!(play.did(Action::Exit(137)));
}

#[test]
fn a_start_that_fails_beside_an_old_generation_leaves_none_behind() {
    let mut play = two(hot());
    play.core
        .handle(play.now, Input::Exited(Who::Newest, KILLED));
    let actions = play.core.handle(play.now, Input::SpawnFailed(127));
    assert_eq!(actions, [Action::HotRestart(RestartStep::TerminateOld)]);
    // It has all of the kill timeout, and whatever is beside it half of that.
    assert_eq!(play.core.wake_at(), Some(play.now + Duration::from_secs(1)));
    play.put(Input::Exited(Who::Old, Exit::Code(0)));
    assert!(play.did(Action::Exit(127)));
}

#[test]
fn the_end_of_one_that_starts_beside_it_is_no_end_of_the_one_that_serves() {
    let core = rising(hot()).core;
    assert!(core.serves_unasked(Who::Newest) && !core.serves_unasked(Who::Next));
}

#[test]
fn a_signal_to_stop_now_ends_both_in_order() {
    let mut play = rising(hot());
    play.order(Order::StopNow);
    assert!(play.did(Action::Terminate));
    assert!(play.did(Action::HotRestart(RestartStep::Reloaded(Reloaded::NotLive))));
    play.done.clear();
    play.exit(Exit::Signal(15));
    assert_eq!(play.done, [Action::Terminate], "the one before is left");
    play.exit(Exit::Code(0));
    assert!(play.did(Action::Exit(0)));
}

#[test]
fn logs_are_reopened_once_nothing_rises() {
    let mut play = rising(hot());
    play.order(Order::ReopenLogs);
    assert!(!play.did(Action::ReopenLogs));
    play.answer(Answer::Ready(Readiness::Live));
    assert!(play.did(Action::ReopenLogs));
}

#[test]
fn a_reload_is_kept_until_nothing_stands_in_its_way_and_many_are_one() {
    let mut play = rising(hot());
    for _ in 0..2 {
        play.put(Input::HotRestart(News::Reload));
    }
    assert_eq!(
        play.done,
        [
            Action::HotRestart(RestartStep::Keep),
            Action::HotRestart(RestartStep::Keep)
        ]
    );
    play.done.clear();
    play.answer(Answer::Ready(Readiness::Live));
    assert!(
        play.did(Action::HotRestart(RestartStep::Reloaded(Reloaded::Live)))
            && !play.did(Action::HotRestart(RestartStep::Try))
    );
    play.now += Duration::from_secs(25);
    play.put(Input::Exited(Who::Old, Exit::Code(0)));
    assert!(play.did(Action::HotRestart(RestartStep::Try)));
    play.done.clear();
    play.put(Input::HotRestart(News::Tried(false)));
    assert_eq!(
        play.done,
        [Action::HotRestart(RestartStep::Reloaded(Reloaded::Refused))]
    );

    // One that is refused lets the next try at once, and is told of first.
    let mut play = Play::live(hot());
    play.put(Input::HotRestart(News::Reload));
    play.put(Input::HotRestart(News::Reload));
    play.done.clear();
    play.put(Input::HotRestart(News::Tried(false)));
    assert_eq!(
        play.done,
        [
            Action::HotRestart(RestartStep::Reloaded(Reloaded::Refused)),
            Action::HotRestart(RestartStep::Try)
        ]
    );

    // A drain ends both.
    let mut play = rising(hot());
    play.put(Input::HotRestart(News::Reload));
    play.done.clear();
    play.order(Order::Drain);
    let told = |action: &&Action| {
        **action == Action::HotRestart(RestartStep::Reloaded(Reloaded::Draining))
    };
    assert_eq!(play.done.iter().filter(told).count(), 2);
}
