use std::time::Duration;

use super::asking::PROBE_REST;
use super::life::JUDGEMENT;
use super::life::KILL_PATIENCE;
use super::orders::SAME_ORDER;
use super::*;
use crate::drain::{Answer, Limits, Outcome, Readiness};
use crate::envoy::load::Load;
use crate::process::Exit;
use crate::testing::{self, LIMITS, ms, s};

const CODE_0: Exit = Exit::Code(0);
const CODE_1: Exit = Exit::Code(1);
const KILLED: Exit = Exit::Signal(9);

pub(super) fn rules() -> Rules {
    Rules {
        limits: LIMITS,
        kill_timeout: s(2),
        restart: false,
        gated: false,
        old_time: None,
    }
}

fn restarting() -> Rules {
    Rules {
        restart: true,
        ..rules()
    }
}

fn load(connections: u64) -> Answer {
    Answer::Stats(Load {
        health_failed: true,
        ..testing::load(connections)
    })
}

/// A core, its clock, and everything it has had done.
pub(super) struct Play {
    pub core: Core,
    pub now: Time,
    pub done: Vec<Action>,
}

impl Play {
    /// From the first turn on; Envoy can be spawned.
    fn new(rules: Rules) -> Play {
        let mut play = Play {
            core: Core::new(rules, 1),
            now: ms(0),
            done: Vec::new(),
        };
        play.put(Input::Tick);
        play
    }

    /// Envoy has just been spawned, and its first question hangs.
    pub fn started(rules: Rules) -> Play {
        let play = Play::new(rules);
        assert_eq!(play.done, [Action::Spawn, Action::Ask(Ask::Ready)]);
        play
    }

    /// Envoy is live, and has told its version.
    pub fn live(rules: Rules) -> Play {
        let mut play = Play::started(rules);
        play.answer(Answer::Ready(Readiness::Live));
        play.answer(Answer::Version("1.40.0".into()));
        assert_eq!(play.state(), State::Live);
        play.done.clear();
        play
    }

    pub fn put(&mut self, input: Input) {
        let actions = self.core.handle(self.now, input);
        self.done.extend(&actions);
        if actions.contains(&Action::Spawn) {
            self.put(Input::Spawned);
        }
    }

    /// The Envoy that was spawned last ends.
    pub fn exit(&mut self, exit: Exit) {
        self.put(Input::Exited(self.core.generations().newest(), exit));
    }

    pub fn order(&mut self, order: Order) {
        self.put(Input::Order(order, "a signal".into()));
    }

    /// The question in flight.
    pub fn asked(&self) -> Option<Ask> {
        self.core.asked().map(|question| question.ask)
    }

    pub fn reply(&mut self, answer: Option<Answer>) {
        let question = self.core.asked().expect("a question");
        self.put(Input::Answer(question.number, answer));
    }

    pub fn answer(&mut self, answer: Answer) {
        self.reply(Some(answer));
    }

    pub fn fail(&mut self) {
        self.reply(None);
    }

    /// Lets the time pass, and wakes the core whenever it wants to be; Envoy answers at once, by
    /// `envoy`, or not at all.
    pub fn until(&mut self, end: Time, mut envoy: impl FnMut(Ask) -> Option<Answer>) {
        loop {
            if let Some(ask) = self.asked()
                && let Some(answer) = envoy(ask)
            {
                self.answer(answer);
                continue;
            }
            let wake = self.core.wake_at().unwrap_or(end);
            assert!(wake > self.now, "it spins");
            self.now = wake.min(end);
            self.put(Input::Tick);
            if self.now == end {
                return;
            }
        }
    }

    pub fn state(&self) -> State {
        self.core.state(self.now)
    }

    fn outcome(&self) -> Option<Outcome> {
        self.core.drain().and_then(Drain::outcome)
    }

    pub fn did(&self, action: Action) -> bool {
        self.done.contains(&action)
    }
}

/// An Envoy with so many requests in flight.
pub(super) fn with(requests: u64) -> impl FnMut(Ask) -> Option<Answer> {
    move |ask| {
        Some(match ask {
            Ask::Ready => Answer::Ready(Readiness::Live),
            Ask::ServerInfo => Answer::Version("1.40.0".into()),
            Ask::Stats => load(requests),
            _ => Answer::Done,
        })
    }
}

fn silent(_: Ask) -> Option<Answer> {
    None
}

/// Each phase of a life, by a way that leads there.
fn phase(name: &str) -> Play {
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

#[test]
fn a_drain_before_envoy_is_live_ends_when_it_tells_that_nothing_is_open_yet() {
    let mut play = Play::started(rules());
    play.order(Order::Stop);
    play.answer(Answer::Ready(Readiness::Initializing));
    assert_eq!(play.outcome(), Some(Outcome::NeverLive));
    assert!(play.did(Action::Terminate));
}

/// It was taken for one that had never been live, and stopped a second later.
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

/// It slept until the deadline.
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

/// It showed only when the answer came, or never did.
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

/// That look and every later one was lost until somebody probed.
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
fn the_end_of_an_envoy_that_is_not_there_is_ignored() {
    for name in ["waiting", "restarting", "down"] {
        let mut play = phase(name);
        let before = play.core.clone();
        play.exit(CODE_1);
        assert_eq!(play.core, before, "{name}");
    }
}

#[test]
fn over_is_over() {
    let mut play = phase("gone");
    for input in [
        Input::Tick,
        Input::Probe,
        Input::Spawned,
        Input::AdminKnown,
        Input::CertificatesReady,
        Input::SpawnFailed(1),
        Input::Exited(Who::Newest, CODE_1),
    ] {
        let shown = format!("{input:?}");
        play.done.clear();
        play.put(input);
        assert_eq!(play.done, [Action::Exit(0)], "{shown}");
    }
}
