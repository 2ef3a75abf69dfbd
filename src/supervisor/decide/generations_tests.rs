//! The rules of a hot restart, one by one.

use super::asking::PROBE_REST;
use super::generations::{MOMENT, START_LIMIT};
use super::orders::SAME_ORDER;
use super::tests::{Play, rules, with};
use super::*;
use std::time::Duration;

use crate::drain::{Answer, Outcome, Readiness};
use crate::envoy::load::{Listener, Load};
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
    assert_eq!(play.done, [Action::HotRestart(Step::Try)]);
    play.put(Input::HotRestart(News::Tried(true)));
    assert!(play.did(Action::HotRestart(Step::SpawnNext)));
    play.put(Input::HotRestart(News::Spawned(true)));
    play.done.clear();
    play
}

/// A generation is live beside an old one.
fn two(rules: Rules) -> Play {
    let mut play = rising(rules);
    play.answer(Answer::Ready(Readiness::Live));
    assert!(play.did(Action::HotRestart(Step::Reloaded(Reloaded::Live))));
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
        assert!(play.did(Action::HotRestart(Step::Reloaded(why))), "{why:?}");
        assert!(!play.did(Action::HotRestart(Step::Try)), "{why:?}");
    }
    let mut play = Play::live(hot());
    play.put(Input::HotRestart(News::Reload));
    play.put(Input::HotRestart(News::Tried(false)));
    assert!(play.did(Action::HotRestart(Step::Reloaded(Reloaded::Refused))));
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
    assert_eq!(play.done, [Action::HotRestart(Step::SpawnNext)]);
}

#[test]
fn a_drain_while_a_generation_rises_waits_until_it_can_be_known_what_is_in_flight() {
    let mut play = rising(hot());
    play.order(Order::Stop);
    assert!(play.did(Action::HotRestart(Step::Reloaded(Reloaded::Draining))));
    assert_eq!(play.asked(), Some(Ask::Ready), "not what is left");
    let live = play.now + START_LIMIT / 2;
    play.now = live;
    play.answer(Answer::Ready(Readiness::Live));
    play.until(live + Duration::from_secs(9), idle(60));
    assert!(!play.did(Action::Terminate), "a zero is believed too early");
    play.until(live + Duration::from_secs(10), idle(69));
    assert!(play.did(Action::Terminate));
    let told = |action: &&Action| matches!(action, Action::HotRestart(Step::Reloaded(_)));
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
        !play.did(Action::HotRestart(Step::SpawnNext)),
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
    assert_eq!(play.done, [Action::HotRestart(Step::SpawnNext)]);
    play.put(Input::HotRestart(News::Spawned(true)));
    play.done.clear();
    play.exit(KILLED);
    assert!(play.did(Action::HotRestart(Step::Reloaded(Reloaded::Failed))));
    assert!(!play.did(Action::HotRestart(Step::SpawnNext)));
    assert!(play.core.generations.is_admin_away());
    assert_eq!(play.state(), State::Live);

    let mut refused = rising(hot());
    refused.exit(Exit::Code(1));
    assert!(refused.did(Action::HotRestart(Step::Reloaded(Reloaded::Failed))));
    assert!(!refused.did(Action::HotRestart(Step::SpawnNext)));
}

#[test]
fn a_generation_that_does_not_come_up_is_given_up() {
    let mut play = rising(hot());
    let end = play.now + START_LIMIT;
    play.until(end, |ask| {
        (ask == Ask::Ready).then_some(Answer::Ready(Readiness::Initializing))
    });
    assert!(play.did(Action::HotRestart(Step::KillNewest)));
    play.exit(KILLED);
    assert!(!play.did(Action::HotRestart(Step::SpawnNext)));
    assert!(play.did(Action::HotRestart(Step::Reloaded(Reloaded::Failed))));
}

#[test]
fn without_its_old_generation_the_whole_envoy_is_replaced() {
    for (mut play, exit) in [
        (rising(hot()), KILLED),
        (two(hot()), KILLED),
        (two(hot()), Exit::Code(0)),
    ] {
        play.put(Input::Exited(Who::Old, exit));
        assert!(play.did(Action::HotRestart(Step::KillNewest)));
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
    assert_eq!(play.done, [Action::HotRestart(Step::TerminateOld)]);
    play.put(Input::Exited(Who::Old, Exit::Code(0)));
    assert!(play.did(Action::Exit(137)));
}

#[test]
fn a_start_that_fails_beside_an_old_generation_leaves_none_behind() {
    let mut play = two(hot());
    play.core
        .handle(play.now, Input::Exited(Who::Newest, KILLED));
    let actions = play.core.handle(play.now, Input::SpawnFailed(127));
    assert_eq!(actions, [Action::HotRestart(Step::TerminateOld)]);
    // It has all of the kill timeout, and whatever is beside it half of that.
    assert_eq!(play.core.wake_at(), Some(play.now + Duration::from_secs(1)));
    play.put(Input::Exited(Who::Old, Exit::Code(0)));
    assert!(play.did(Action::Exit(127)));
}

#[test]
fn a_signal_to_stop_now_ends_both_in_order() {
    let mut play = rising(hot());
    play.order(Order::StopNow);
    assert!(play.did(Action::Terminate));
    assert!(play.did(Action::HotRestart(Step::Reloaded(Reloaded::NotLive))));
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

/// One that serves after two generations have ended beside it, and has lost its admin interface.
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
fn an_old_generation_is_waited_for_by_its_sockets_while_the_newest_waits_to_be_started() {
    let crashed = || {
        let mut play = two(Rules {
            restart: true,
            ..hot()
        });
        play.exit(KILLED);
        play.put(Input::Spawned);
        play.exit(KILLED);
        assert_eq!(play.state(), State::Restarting);
        play
    };
    let sessions = |connections| {
        Answer::Stats(Load {
            tcp_sessions: connections,
            listeners: vec![Listener {
                name: "elsewhere".into(),
                address: None,
                connections,
                excluded: false,
            }],
            ..Load::default()
        })
    };
    let mut play = crashed();
    play.order(Order::Stop);
    assert_eq!(play.asked(), Some(Ask::Sockets));
    assert!(!play.did(Action::HotRestart(Step::TerminateOld)));
    for _ in 0..3 {
        play.answer(sessions(1));
        assert_eq!(play.state(), State::Draining);
        play.now = play.core.wake_at().unwrap();
        play.put(Input::Tick);
    }
    play.answer(sessions(0));
    play.answer(sessions(0));
    assert!(play.did(Action::HotRestart(Step::TerminateOld)));
    let outcome = |play: &Play| play.core.drain().and_then(Drain::outcome);
    assert_eq!(outcome(&play), Some(Outcome::Drained));
    play.put(Input::Exited(Who::Old, Exit::Code(0)));
    assert!(play.did(Action::Exit(0)));

    // Until the deadline, and no longer than the one who waits.
    let mut late = crashed();
    late.order(Order::Stop);
    late.answer(sessions(1));
    late.now += Duration::from_secs(25);
    late.put(Input::Tick);
    assert!(late.did(Action::HotRestart(Step::TerminateOld)));
    assert_eq!(outcome(&late), Some(Outcome::Deadline));

    let mut twice = crashed();
    twice.order(Order::Stop);
    assert!(!twice.did(Action::HotRestart(Step::TerminateOld)));
    twice.now += SAME_ORDER;
    twice.order(Order::Stop);
    assert!(twice.did(Action::HotRestart(Step::TerminateOld)));
    assert_eq!(outcome(&twice), Some(Outcome::SecondSignal));

    // USR2: it stays, and a later TERM finds nothing to wait for.
    let mut stays = crashed();
    stays.order(Order::Drain);
    stays.answer(sessions(0));
    assert_eq!(stays.state(), State::Drained);
    stays.order(Order::Stop);
    assert!(stays.did(Action::HotRestart(Step::TerminateOld)));
}

#[test]
fn an_old_generation_that_is_cut_with_a_newest_that_crashes_is_not_called_drained() {
    let mut play = two(Rules {
        restart: true,
        ..hot()
    });
    play.exit(KILLED);
    play.put(Input::Spawned);
    play.exit(KILLED);
    assert_eq!(play.state(), State::Restarting);
    play.order(Order::StopNow);
    assert!(play.did(Action::HotRestart(Step::TerminateOld)));
    let outcome = play.core.drain().and_then(Drain::outcome);
    assert_eq!(outcome, Some(Outcome::SecondSignal));
}

#[test]
fn an_attempt_that_cannot_be_spawned_leaves_the_same_doubt() {
    let mut play = rising(hot());
    play.exit(KILLED);
    play.put(Input::HotRestart(News::Spawned(false)));
    assert!(play.did(Action::HotRestart(Step::Reloaded(Reloaded::Failed))));
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
            && play.did(Action::HotRestart(Step::Reloaded(Reloaded::Live)))
    );
}

#[test]
fn it_is_known_how_long_an_old_generation_drains() {
    let mut play = two(hot());
    let until = play.now + Duration::from_secs(25);
    play.now += Duration::from_secs(7);
    assert_eq!(play.core.generations.old_ends_at(), Some(until));
    play.put(Input::Exited(Who::Old, Exit::Code(0)));
    assert_eq!(play.core.generations.old_ends_at(), None);
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
            Action::HotRestart(Step::Keep),
            Action::HotRestart(Step::Keep)
        ]
    );
    play.done.clear();
    play.answer(Answer::Ready(Readiness::Live));
    assert!(
        play.did(Action::HotRestart(Step::Reloaded(Reloaded::Live)))
            && !play.did(Action::HotRestart(Step::Try))
    );
    play.now += Duration::from_secs(25);
    play.put(Input::Exited(Who::Old, Exit::Code(0)));
    assert!(play.did(Action::HotRestart(Step::Try)));
    play.done.clear();
    play.put(Input::HotRestart(News::Tried(false)));
    assert_eq!(
        play.done,
        [Action::HotRestart(Step::Reloaded(Reloaded::Refused))]
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
            Action::HotRestart(Step::Reloaded(Reloaded::Refused)),
            Action::HotRestart(Step::Try)
        ]
    );

    // A drain ends both.
    let mut play = rising(hot());
    play.put(Input::HotRestart(News::Reload));
    play.done.clear();
    play.order(Order::Drain);
    let told =
        |action: &&Action| **action == Action::HotRestart(Step::Reloaded(Reloaded::Draining));
    assert_eq!(play.done.iter().filter(told).count(), 2);
}

/// What the newest tells when it was up so long at its last flush, and what the kernel sees of the
/// old one.
fn beside(uptime: u64, old_sockets: Option<u64>) -> impl FnMut(Ask) -> Option<Answer> {
    let mut answers = idle(uptime);
    move |ask| {
        answers(ask).map(|answer| match answer {
            Answer::Stats(load) => Answer::Stats(Load {
                old_sockets,
                health_failed: false,
                ..load
            }),
            answer => answer,
        })
    }
}

#[test]
fn an_old_generation_with_nothing_left_is_relieved_and_ended() {
    let mut play = two(hot());
    let pass = |play: &mut Play, seconds, uptime, left| {
        let end = play.now + Duration::from_secs(seconds);
        play.until(end, beside(uptime, left));
    };
    pass(&mut play, 3, 60, Some(0));
    assert!(
        !play.did(Action::HotRestart(Step::RelieveOld)),
        "its own word is not known"
    );
    for left in [Some(1), None] {
        pass(&mut play, 3, 65, left);
        assert!(!play.did(Action::HotRestart(Step::RelieveOld)), "{left:?}");
    }
    while !play.did(Action::HotRestart(Step::RelieveOld)) {
        pass(&mut play, 1, 65, Some(0));
    }
    play.put(Input::HotRestart(News::Reload));
    play.put(Input::HotRestart(News::OldRelieved(true)));
    assert!(!play.did(Action::HotRestart(Step::TerminateOld)));
    play.now += MOMENT;
    play.put(Input::Tick);
    assert!(
        play.did(Action::HotRestart(Step::TerminateOld))
            && !play.did(Action::HotRestart(Step::Try))
    );
    play.done.clear();
    play.put(Input::Exited(Who::Old, Exit::Code(0)));
    assert_eq!(
        play.done,
        [Action::HotRestart(Step::Try)],
        "and the newest lives on"
    );
}

#[test]
fn an_old_generation_that_nobody_can_answer_for_keeps_its_time() {
    let mut play = two(hot());
    let end = play.now + Duration::from_secs(3);
    play.until(end, beside(60, Some(0)));
    let end = play.now + Duration::from_secs(3);
    play.until(end, beside(65, Some(0)));
    assert!(play.did(Action::HotRestart(Step::RelieveOld)));
    play.put(Input::HotRestart(News::OldRelieved(false)));
    play.done.clear();
    let end = play.now + Duration::from_secs(9);
    play.until(end, beside(70, Some(0)));
    assert!(
        !play.did(Action::HotRestart(Step::TerminateOld))
            && !play.did(Action::HotRestart(Step::RelieveOld))
    );
}

#[test]
fn a_newest_that_ends_with_a_relieved_one_beside_it_is_alone() {
    let mut play = two(Rules {
        restart: true,
        ..hot()
    });
    let end = play.now + Duration::from_secs(2);
    play.until(end, beside(60, Some(0)));
    let end = play.now + Duration::from_secs(3);
    play.until(end, beside(65, Some(0)));
    play.put(Input::HotRestart(News::OldRelieved(true)));
    play.done.clear();
    play.exit(KILLED);
    assert_eq!(play.done, [Action::HotRestart(Step::KillOld)]);
    assert_eq!(play.state(), State::Restarting);
}

#[test]
fn who_goes_back_waits_for_an_old_generation_until_then_and_ends_it() {
    let mut play = two(hot());
    let by = play.now + Duration::from_secs(5);
    play.put(Input::HotRestart(News::GoBack(by)));
    assert_eq!(play.done, [Action::HotRestart(Step::Keep)]);
    play.until(by, beside(60, Some(1)));
    assert!(
        play.did(Action::HotRestart(Step::RelieveOld))
            && !play.did(Action::HotRestart(Step::TerminateOld))
    );
    play.put(Input::HotRestart(News::OldRelieved(true)));
    let end = play.now + MOMENT;
    play.until(end, beside(65, Some(1)));
    assert!(play.did(Action::HotRestart(Step::TerminateOld)));
    play.put(Input::Exited(Who::Old, Exit::Code(0)));
    assert!(play.did(Action::HotRestart(Step::Try)));
}
