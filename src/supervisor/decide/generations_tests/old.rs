//! The old Envoy: how long it is waited for, and how it is ended.

use super::*;
use crate::envoy::load::OldOpen;

/// An old generation drains, and the newest has crashed twice and waits to be started again.
fn crashed() -> Play {
    let mut play = two(Rules {
        restart: true,
        ..hot()
    });
    play.exit(KILLED);
    play.put(Input::Spawned);
    play.exit(KILLED);
    assert_eq!(play.state(), State::Restarting);
    play
}

#[test]
fn an_old_generation_is_waited_for_by_its_sockets_while_the_newest_waits_to_be_started() {
    let sessions = |connections| {
        Answer::Stats(Load {
            tcp_sessions: connections,
            listeners: vec![ListenerLoad {
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
    assert!(!play.did(Action::HotRestart(RestartStep::TerminateOld)));
    for _ in 0..3 {
        play.answer(sessions(1));
        assert_eq!(play.state(), State::Draining);
        play.now = play.core.wake_at().unwrap();
        play.put(Input::Tick);
    }
    play.answer(sessions(0));
    play.answer(sessions(0));
    assert!(play.did(Action::HotRestart(RestartStep::TerminateOld)));
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
    assert!(late.did(Action::HotRestart(RestartStep::TerminateOld)));
    assert_eq!(outcome(&late), Some(Outcome::Deadline));

    let mut twice = crashed();
    twice.order(Order::Stop);
    assert!(!twice.did(Action::HotRestart(RestartStep::TerminateOld)));
    twice.now += SAME_ORDER;
    twice.order(Order::Stop);
    assert!(twice.did(Action::HotRestart(RestartStep::TerminateOld)));
    assert_eq!(outcome(&twice), Some(Outcome::SecondSignal));

    // USR2: it stays, and a later TERM finds nothing to wait for.
    let mut stays = crashed();
    stays.order(Order::Drain);
    stays.answer(sessions(0));
    assert_eq!(stays.state(), State::Drained);
    stays.order(Order::Stop);
    assert!(stays.did(Action::HotRestart(RestartStep::TerminateOld)));
}

#[test]
fn an_old_generation_that_is_cut_with_a_newest_that_crashes_is_not_called_drained() {
    let mut play = crashed();
    play.order(Order::StopNow);
    assert!(play.did(Action::HotRestart(RestartStep::TerminateOld)));
    let outcome = play.core.drain().and_then(Drain::outcome);
    assert_eq!(outcome, Some(Outcome::SecondSignal));
}

#[test]
fn an_old_generation_is_waited_for_while_the_newest_is_about_to_be_spawned_again() {
    for order in [Order::Stop, Order::Drain] {
        let mut play = two(hot());
        let actions = play
            .core
            .handle(play.now, Input::Exited(Who::Newest, KILLED));
        assert_eq!(actions, [Action::Spawn]);
        // The spawn waits for a look at the certificates on disk.
        play.order(order);
        assert_eq!(play.done, [Action::Ask(Ask::Sockets)]);
        assert_eq!(play.state(), State::Draining);
        while play.asked().is_some() {
            play.answer(Answer::Stats(Load::default()));
        }
        let ended = play.core.drain().and_then(Drain::outcome);
        assert_eq!(ended, Some(Outcome::Drained));
        let stops = play.did(Action::HotRestart(RestartStep::TerminateOld));
        assert_eq!(stops, order == Order::Stop);
        play.put(Input::Exited(Who::Old, Exit::Code(0)));
        assert_eq!(play.did(Action::Exit(0)), order == Order::Stop);
        assert!(!play.did(Action::Spawn));
    }
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

/// What the newest tells when it was up so long at its last flush, and what the kernel sees of the
/// old one.
fn beside(uptime: u64, clients: Option<u64>) -> impl FnMut(Ask) -> Option<Answer> {
    let old_open = clients.map(|clients| OldOpen {
        clients,
        is_exact: true,
        is_all: true,
        ends: false,
    });
    let mut answers = idle(uptime);
    move |ask| {
        answers(ask).map(|answer| match answer {
            Answer::Stats(load) => Answer::Stats(Load {
                old_open,
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
        !play.did(Action::HotRestart(RestartStep::RelieveOld)),
        "its own word is not known"
    );
    for left in [Some(1), None] {
        pass(&mut play, 3, 65, left);
        assert!(
            !play.did(Action::HotRestart(RestartStep::RelieveOld)),
            "{left:?}"
        );
    }
    while !play.did(Action::HotRestart(RestartStep::RelieveOld)) {
        pass(&mut play, 1, 65, Some(0));
    }
    play.put(Input::HotRestart(News::Reload));
    play.put(Input::HotRestart(News::OldRelieved(true)));
    assert!(!play.did(Action::HotRestart(RestartStep::TerminateOld)));
    play.now += MOMENT;
    play.put(Input::Tick);
    assert!(
        play.did(Action::HotRestart(RestartStep::TerminateOld))
            && !play.did(Action::HotRestart(RestartStep::Try))
    );
    play.done.clear();
    play.put(Input::Exited(Who::Old, Exit::Code(0)));
    assert_eq!(
        play.done,
        [Action::HotRestart(RestartStep::Try)],
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
    assert!(play.did(Action::HotRestart(RestartStep::RelieveOld)));
    play.put(Input::HotRestart(News::OldRelieved(false)));
    play.done.clear();
    let end = play.now + Duration::from_secs(9);
    play.until(end, beside(70, Some(0)));
    assert!(
        !play.did(Action::HotRestart(RestartStep::TerminateOld))
            && !play.did(Action::HotRestart(RestartStep::RelieveOld))
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
    assert_eq!(play.done, [Action::HotRestart(RestartStep::KillOld)]);
    assert_eq!(play.state(), State::Restarting);
}

#[test]
fn who_goes_back_waits_for_an_old_generation_until_then_and_ends_it() {
    let mut play = two(hot());
    let by = play.now + Duration::from_secs(5);
    play.put(Input::HotRestart(News::GoBack(by)));
    assert_eq!(play.done, [Action::HotRestart(RestartStep::Keep)]);
    play.until(by, beside(60, Some(1)));
    assert!(
        play.did(Action::HotRestart(RestartStep::RelieveOld))
            && !play.did(Action::HotRestart(RestartStep::TerminateOld))
    );
    play.put(Input::HotRestart(News::OldRelieved(true)));
    let end = play.now + MOMENT;
    play.until(end, beside(65, Some(1)));
    assert!(play.did(Action::HotRestart(RestartStep::TerminateOld)));
    play.put(Input::Exited(Who::Old, Exit::Code(0)));
    assert!(play.did(Action::HotRestart(RestartStep::Try)));
}

/// A drain or a hold with an old generation beside the newest, from 5 s before the old one's time: all
/// is told by then.
fn waits_beside_an_old_one(input: Input) -> Play {
    let mut play = two(hot());
    let first = play.now + Duration::from_secs(4);
    play.until(first, beside(60, Some(3)));
    let late = play.now + Duration::from_secs(16);
    play.until(late, beside(65, Some(3)));
    play.put(input);
    play
}

fn waits() -> [Input; 2] {
    [
        Input::Order(Order::Stop, "a signal".into()),
        Input::Hold("a person".into()),
    ]
}

/// The newest's word on the old one, which is as old as its last flush, and what the kernel sees.
fn has(word: u64, sockets: Option<u64>) -> impl FnMut(Ask) -> Option<Answer> {
    let mut answers = beside(70, sockets);
    move |ask| match answers(ask) {
        Some(Answer::Stats(load)) => Some(Answer::Stats(Load {
            old_connections: word,
            health_failed: true,
            ..load
        })),
        answer => answer,
    }
}

/// How the wait ends after the old one's end, and what was lost.
fn end(mut play: Play) -> (Option<Outcome>, Loss) {
    play.put(Input::Exited(Who::Old, Exit::Code(0)));
    let end = play.now + Duration::from_secs(1);
    play.until(end, has(0, None));
    let wait = play.core.drain().or(play.core.hold()).unwrap();
    (wait.outcome(), wait.loss())
}

#[test]
fn what_an_old_generation_has_when_its_time_ends_is_lost_to_who_waits_for_it() {
    for input in waits() {
        let mut play = waits_beside_an_old_one(input);
        let time = play.now + Duration::from_secs(5);
        play.until(time, has(3, Some(2)));
        let lost = Loss::Connections(2);
        assert_eq!(end(play), (Some(Outcome::EnvoyExited), lost));
    }
    // The end itself is what closes them, and a look may see that.
    for input in waits() {
        let mut play = waits_beside_an_old_one(input);
        let time = play.now + Duration::from_millis(4_900);
        play.until(time, has(3, Some(2)));
        let time = play.now + Duration::from_millis(300);
        play.until(time, has(0, Some(0)));
        let lost = Loss::Connections(2);
        assert_eq!(end(play), (Some(Outcome::EnvoyExited), lost));
    }
    // Where the kernel does not tell of all, the newest's word is gone by.
    for input in waits() {
        let mut play = waits_beside_an_old_one(input);
        let time = play.now + Duration::from_secs(5);
        play.until(time, has(1, None));
        let lost = Loss::Connections(1);
        assert_eq!(end(play), (Some(Outcome::EnvoyExited), lost));
    }
}

#[test]
fn what_had_ended_before_an_old_generations_time_is_not_lost_whatever_the_newest_told_last() {
    for input in waits() {
        let mut play = waits_beside_an_old_one(input);
        let time = play.now + Duration::from_secs(4);
        play.until(time, has(3, Some(3)));
        let time = play.now + Duration::from_secs(1);
        play.until(time, has(3, Some(0)));
        assert_eq!(end(play), (Some(Outcome::Drained), Loss::None));
    }
}

#[test]
fn an_old_generation_that_takes_long_to_end_has_cut_what_its_workers_had() {
    for (before, lost) in [(3, Loss::Connections(3)), (0, Loss::None)] {
        for input in waits() {
            let mut play = waits_beside_an_old_one(input);
            let time = play.now + Duration::from_secs(4);
            play.until(time, has(3, Some(before)));
            let time = play.now + Duration::from_secs(3);
            play.until(time, |ask| match has(before, Some(0))(ask) {
                Some(Answer::Stats(load)) => Some(Answer::Stats(Load {
                    old_open: load.old_open.map(|open| OldOpen { ends: true, ..open }),
                    ..load
                })),
                answer => answer,
            });
            assert_eq!(end(play).1, lost);
        }
    }
}

#[test]
fn what_an_old_generations_workers_closed_before_anybody_waited_is_no_loss() {
    for input in waits() {
        let mut play = two(hot());
        let first = play.now + Duration::from_secs(4);
        play.until(first, beside(60, Some(3)));
        let mut answers = beside(65, Some(0));
        let ending = play.now + Duration::from_secs(5);
        play.until(ending, |ask| match answers(ask) {
            Some(Answer::Stats(load)) => Some(Answer::Stats(Load {
                old_open: load.old_open.map(|open| OldOpen { ends: true, ..open }),
                ..load
            })),
            answer => answer,
        });
        play.put(input);
        assert_eq!(end(play).1, Loss::None);
    }
}

#[test]
fn beside_a_udp_listener_the_kernels_word_on_tcp_is_gone_by() {
    // The newest's word is as old as its last flush.
    for (word, tcp, lost) in [(2, 2, Loss::None), (3, 2, Loss::None), (0, 0, Loss::None)] {
        let [stop, _] = waits();
        let mut play = two(hot());
        let seen = |tcp| {
            let mut answers = has(word, None);
            move |ask| match answers(ask) {
                Some(Answer::Stats(load)) => Some(Answer::Stats(Load {
                    old_open: Some(OldOpen {
                        clients: tcp,
                        is_exact: true,
                        is_all: false,
                        ends: false,
                    }),
                    ..load
                })),
                answer => answer,
            }
        };
        let first = play.now + Duration::from_secs(4);
        play.until(first, seen(tcp));
        play.put(stop);
        let time = play.now + Duration::from_secs(2);
        play.until(time, seen(0));
        assert_eq!(end(play).1, lost, "{word} told");
    }
}

#[test]
fn an_old_generation_is_looked_at_while_a_drain_is_delayed() {
    let mut rules = hot();
    rules.limits.delay = Duration::from_secs(20);
    let mut play = two(rules);
    let first = play.now + Duration::from_secs(4);
    play.until(first, has(3, Some(3)));
    play.order(Order::Stop);
    let time = play.now + Duration::from_secs(8);
    play.until(time, has(3, Some(3)));
    let time = play.now + Duration::from_secs(2);
    play.until(time, has(3, Some(0)));
    play.put(Input::Exited(Who::Old, Exit::Code(0)));
    assert_eq!(play.core.drain().map(Drain::loss), Some(Loss::None));
}

#[test]
fn the_kernels_word_on_an_old_generation_alone_drains_nothing() {
    let [stop, _] = waits();
    let mut play = waits_beside_an_old_one(stop);
    let time = play.now + Duration::from_secs(4);
    play.until(time, |ask| match ask {
        Ask::Sockets => has(0, Some(0))(Ask::Stats),
        _ => None,
    });
    assert_eq!(play.state(), State::Draining);
}
