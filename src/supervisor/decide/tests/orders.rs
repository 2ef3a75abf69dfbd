//! Signals in every phase, and how Envoy ends.

use super::*;

/// Each phase of a life, by a way that leads there.
pub(super) fn phase(name: &str) -> Play {
    let gated = Rules {
        gated: true,
        ..rules()
    };
    match name {
        "waiting" => Play::new(gated),
        "starting" => Play::started(rules()),
        "live" => Play::live(rules()),
        "draining to stop" => {
            let mut play = Play::live(rules());
            play.order(Order::Stop);
            play.until(s(1), with(1));
            play
        }
        "draining to stay" => {
            let mut play = Play::live(rules());
            play.order(Order::Drain);
            play.until(s(1), with(1));
            play
        }
        "drained" => {
            let mut play = Play::live(rules());
            play.order(Order::Drain);
            play.until(s(1), with(0));
            play
        }
        "stopping" => {
            let mut play = Play::live(rules());
            play.order(Order::StopNow);
            play.until(SAME_ORDER, silent);
            play
        }
        "stopping after a drain" => {
            let mut play = Play::live(rules());
            play.order(Order::Stop);
            play.until(s(1), with(0));
            play
        }
        "restarting" => {
            let mut play = Play::live(restarting());
            play.exit(KILLED);
            play
        }
        "down" => {
            let mut play = Play::new(gated);
            play.order(Order::Drain);
            play
        }
        "gone" => {
            let mut play = Play::live(rules());
            play.exit(CODE_0);
            play
        }
        _ => panic!("{name}"),
    }
}

#[test]
fn every_signal_does_in_every_phase_what_the_manual_says() {
    use Order::*;
    use State::*;
    const TERM: &[Action] = &[Action::Terminate];
    const EXIT_0: &[Action] = &[Action::Exit(0)];
    let fail = &[Action::Ask(Ask::FailHealthCheck)][..];
    for (from, order, actions, state) in [
        ("waiting", Stop, EXIT_0, Gone),
        ("waiting", StopNow, EXIT_0, Gone),
        ("waiting", Drain, &[], Drained),
        ("waiting", ReopenLogs, &[], Waiting),
        ("starting", Stop, &[], Draining),
        ("starting", StopNow, TERM, Stopping),
        ("starting", Drain, &[], Draining),
        ("starting", ReopenLogs, &[], Starting),
        ("live", Stop, fail, Draining),
        ("live", StopNow, TERM, Stopping),
        ("live", Drain, fail, Draining),
        ("live", ReopenLogs, &[Action::ReopenLogs], Live),
        ("draining to stop", Stop, TERM, Stopping),
        ("draining to stop", StopNow, TERM, Stopping),
        (
            "draining to stop",
            ReopenLogs,
            &[Action::ReopenLogs],
            Draining,
        ),
        ("draining to stay", StopNow, TERM, Stopping),
        (
            "draining to stay",
            ReopenLogs,
            &[Action::ReopenLogs],
            Draining,
        ),
        ("drained", Stop, TERM, Stopping),
        ("drained", StopNow, TERM, Stopping),
        ("drained", Drain, &[], Drained),
        ("drained", ReopenLogs, &[Action::ReopenLogs], Drained),
        // QUIT was as good as two.
        ("stopping", Stop, &[Action::Kill], Stopping),
        ("stopping", StopNow, &[Action::Kill], Stopping),
        ("stopping", Drain, &[], Stopping),
        ("stopping", ReopenLogs, &[], Stopping),
        ("stopping after a drain", Stop, &[], Stopping),
        ("stopping after a drain", Drain, &[], Stopping),
        ("restarting", Stop, EXIT_0, Gone),
        ("restarting", StopNow, EXIT_0, Gone),
        ("restarting", Drain, &[], Drained),
        ("restarting", ReopenLogs, &[], Restarting),
        ("down", Stop, EXIT_0, Gone),
        ("down", StopNow, EXIT_0, Gone),
        ("down", Drain, &[], Drained),
        ("down", ReopenLogs, &[], Drained),
        ("gone", Stop, EXIT_0, Gone),
        ("gone", StopNow, EXIT_0, Gone),
        ("gone", Drain, EXIT_0, Gone),
    ] {
        let mut play = phase(from);
        play.done.clear();
        play.order(order);
        assert_eq!(play.done, actions, "{from}: {order:?}");
        assert_eq!(play.state(), state, "{from}: {order:?}");
    }
}

#[test]
fn a_signal_that_joins_a_drain_changes_nothing_but_its_end() {
    for (from, order, stops) in [
        ("draining to stop", Order::Drain, true),
        ("draining to stay", Order::Drain, false),
        ("draining to stay", Order::Stop, true),
    ] {
        let mut play = phase(from);
        let deadline = play.core.drain().unwrap().deadline();
        play.done.clear();
        play.order(order);
        assert!(
            play.done
                .iter()
                .all(|action| matches!(action, Action::Ask(_)))
        );
        assert_eq!(play.state(), State::Draining, "{from}: {order:?}");
        let drain = play.core.drain().unwrap();
        assert_eq!((drain.deadline(), drain.stops()), (deadline, stops));
    }
}

#[test]
fn three_signals_drain_stop_and_kill() {
    let mut play = Play::live(rules());
    play.order(Order::Stop);
    play.until(s(1), with(1));
    assert!(!play.did(Action::Terminate));
    play.order(Order::Stop);
    assert!(play.did(Action::Terminate) && !play.did(Action::Kill));
    assert_eq!(play.outcome(), Some(Outcome::SecondSignal));
    play.until(s(2), silent);
    play.order(Order::Stop);
    assert!(play.did(Action::Kill));
    play.exit(KILLED);
    assert!(play.did(Action::Exit(137)));
}

/// `timeout` sends two; and who sends one again and again is heard all the same.
#[test]
fn a_stop_order_within_a_moment_of_one_that_counted_is_the_same() {
    let step = SAME_ORDER / 2;
    let mut play = Play::live(rules());
    play.order(Order::Stop);
    for (steps, terminated, killed) in [
        (0, false, false),
        (1, false, false),
        (2, true, false),
        (3, true, false),
        (4, true, true),
    ] {
        let at = step * steps;
        if at > play.now {
            play.until(at, with(1));
        }
        play.order(Order::Stop);
        let did = (play.did(Action::Terminate), play.did(Action::Kill));
        assert_eq!(did, (terminated, killed), "after {steps} steps");
    }
}

#[test]
fn a_quit_is_never_the_same_order() {
    let mut play = Play::live(rules());
    play.order(Order::Stop);
    play.order(Order::StopNow);
    assert!(play.did(Action::Terminate) && !play.did(Action::Kill));
    // What comes together with it is.
    play.order(Order::Stop);
    assert!(!play.did(Action::Kill));
    play.order(Order::StopNow);
    assert!(play.did(Action::Kill));
}

#[test]
fn the_rest_of_the_tree_is_told_when_half_the_kill_timeout_is_over() {
    let mut play = phase("stopping");
    play.until(ms(999), silent);
    assert!(!play.did(Action::TerminateRest));
    play.until(ms(1_999), silent);
    assert!(play.did(Action::TerminateRest) && !play.did(Action::Kill));
    let told = |action: &&Action| **action == Action::TerminateRest;
    assert_eq!(play.done.iter().filter(told).count(), 1);
}

#[test]
fn a_start_script_that_ends_before_envoy_has_it_drained_and_a_sigterm_joins() {
    let mut play = Play::live(rules());
    play.put(Input::ScriptEnded(CODE_1));
    play.until(s(1), with(1));
    assert_eq!(play.state(), State::Draining);
    let cause = "the start script ended before envoy: exit code 1";
    assert_eq!(play.core.drain().unwrap().cause(), cause);
    play.order(Order::Stop);
    assert_eq!(play.state(), State::Draining);
    play.until(s(2), with(1));
    play.order(Order::Stop);
    assert_eq!(play.outcome(), Some(Outcome::SecondSignal));

    // Who is to be kept up is up.
    let mut play = Play::live(restarting());
    play.put(Input::ScriptEnded(CODE_1));
    assert_eq!(play.state(), State::Live);
}

#[test]
fn a_drains_cause_is_what_asked_for_it_and_not_what_ended_it() {
    let mut play = Play::live(rules());
    play.put(Input::Order(Order::Stop, "SIGTERM".into()));
    play.exit(CODE_0);
    assert_eq!(play.core.drain().unwrap().cause(), "SIGTERM");
    assert_eq!(play.outcome(), Some(Outcome::EnvoyExited));
}

#[test]
fn envoys_exit_code_is_ours_after_a_drain() {
    for (exit, code) in [(CODE_0, 0), (CODE_1, 1), (KILLED, 137)] {
        let mut play = phase("stopping after a drain");
        play.exit(exit);
        assert!(play.did(Action::Exit(code)));
    }
}

#[test]
fn an_envoy_that_ends_in_a_drain_ends_the_drain_and_is_not_started_again() {
    let mut play = Play::live(restarting());
    play.order(Order::Drain);
    play.exit(KILLED);
    assert_eq!(play.outcome(), Some(Outcome::EnvoyExited));
    assert!(play.did(Action::Exit(137)) && !play.did(Action::Spawn));
}

#[test]
fn an_envoy_that_does_not_end_is_killed_after_the_kill_timeout_and_then_left() {
    let mut play = phase("stopping");
    play.until(ms(1_999), silent);
    assert!(!play.did(Action::Kill));
    play.until(s(2), silent);
    assert!(play.did(Action::Kill));
    play.until(s(2) + KILL_PATIENCE - ms(1), silent);
    assert_eq!(play.state(), State::Stopping);
    play.until(s(2) + KILL_PATIENCE, silent);
    assert_eq!(play.done.last(), Some(&Action::Exit(137)));
}

#[test]
fn logs_are_reopened_only_by_an_envoy_that_has_a_handler() {
    let mut play = Play::started(rules());
    play.until(ms(4_999), silent);
    play.order(Order::ReopenLogs);
    assert!(!play.did(Action::ReopenLogs));
    play.until(s(5), silent);
    play.order(Order::ReopenLogs);
    assert!(play.did(Action::ReopenLogs));

    let mut play = Play::started(rules());
    play.answer(Answer::Ready(Readiness::Initializing));
    play.order(Order::ReopenLogs);
    assert!(play.did(Action::ReopenLogs));
}
