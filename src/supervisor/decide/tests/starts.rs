//! How Envoy is started, and started again.

use super::*;

#[test]
fn envoy_waits_for_its_certificates_but_not_after_a_drain_was_asked_for() {
    let mut play = phase("waiting");
    assert!(play.done.is_empty());
    play.put(Input::CertificatesReady);
    assert!(play.did(Action::Spawn));
    play.done.clear();
    play.put(Input::CertificatesReady);
    assert!(play.done.is_empty());

    let mut play = phase("down");
    assert_eq!(play.outcome(), Some(Outcome::NeverLive));
    play.put(Input::CertificatesReady);
    assert!(!play.did(Action::Spawn));
}

#[test]
fn an_envoy_that_cannot_be_spawned_at_first_is_the_end() {
    for rules in [rules(), restarting()] {
        let mut core = Core::new(rules, 1);
        assert_eq!(core.handle(ms(0), Input::Tick), [Action::Spawn]);
        let actions = core.handle(ms(0), Input::SpawnFailed(127));
        assert_eq!(actions, [Action::Exit(127)]);
    }
}

#[test]
fn an_envoy_that_cannot_be_spawned_again_is_tried_again() {
    let mut core = phase("restarting").core;
    let due = core.wake_at().unwrap();
    assert_eq!(core.handle(due, Input::Tick), [Action::Spawn]);
    assert_eq!(core.handle(due, Input::SpawnFailed(126)), []);
    assert_eq!(core.state(due), State::Restarting);
    let next = core.wake_at().unwrap();
    assert!(next - due >= ms(300), "the pause has not grown");
    assert_eq!(core.handle(next, Input::Tick), [Action::Spawn]);
}

#[test]
fn an_envoy_that_failed_is_started_again_and_one_that_finished_is_not() {
    // Whether it is live, how it ended, whether it starts again.
    for (live, exit, again) in [
        (true, CODE_1, true),
        (true, KILLED, true),
        // Nobody here asked for it.
        (true, CODE_0, true),
        (false, CODE_0, false),
        (false, Exit::Signal(11), true),
    ] {
        let start = |rules| {
            let mut play = Play::started(rules);
            if live {
                play.answer(Answer::Ready(Readiness::Live));
            }
            play.exit(exit);
            play
        };
        let case = format!("live {live}, {exit:?}");
        let mut play = start(restarting());
        if again {
            assert_eq!(play.state(), State::Restarting, "{case}");
            play.now = play.core.wake_at().unwrap();
            play.put(Input::Tick);
            assert_eq!(play.state(), State::Starting, "{case}");
        } else {
            assert!(play.did(Action::Exit(exit.code())), "{case}");
        }
        assert!(start(rules()).did(Action::Exit(exit.code())), "{case}");
    }
}

#[test]
fn an_envoy_that_ends_before_it_is_live_is_asked_whether_it_refuses_its_configuration() {
    let judged = |rules, refusal: Option<&str>| {
        let mut play = Play::started(rules);
        // A clock does not tell: the look at a large configuration takes its time.
        play.now = s(30);
        play.exit(CODE_1);
        assert!(play.did(Action::Judge));
        play.put(Input::Judged(refusal.map(str::to_owned)));
        play
    };
    for rules in [restarting(), rules()] {
        let refused = judged(rules.clone(), Some("no such field"));
        assert!(refused.did(Action::Exit(1)));
        assert!(refused.core.reason().contains("no such field"));
        let taken = judged(rules.clone(), None);
        assert_eq!(taken.did(Action::Exit(1)), !rules.restart);
    }
    assert_eq!(judged(restarting(), None).state(), State::Restarting);

    // Nobody waits for ever for the answer, and a signal does not wait at all.
    let mut silent = Play::started(restarting());
    silent.exit(CODE_1);
    silent.now += JUDGEMENT;
    silent.put(Input::Tick);
    silent.now = silent.core.wake_at().unwrap();
    silent.put(Input::Tick);
    assert_eq!(silent.state(), State::Starting);
    for (rules, code) in [(restarting(), 0), (rules(), 1)] {
        let mut stopped = Play::started(rules);
        stopped.exit(CODE_1);
        stopped.order(Order::Stop);
        assert!(stopped.did(Action::Exit(code)));
    }
}

#[test]
fn pauses_grow_until_an_envoy_was_healthy_for_a_minute() {
    let mut play = Play::live(restarting());
    let pause = |play: &mut Play, healthy: Duration| {
        play.now += healthy;
        play.exit(KILLED);
        let due = play.core.wake_at().unwrap();
        let pause = due - play.now;
        play.now = due;
        play.put(Input::Tick);
        play.answer(Answer::Ready(Readiness::Live));
        pause
    };
    let mut last = ms(0);
    for _ in 0..4 {
        let next = pause(&mut play, s(59));
        assert!(next > last, "{next:?} after {last:?}");
        last = next;
    }
    assert!(pause(&mut play, s(60)) <= ms(250));
}
