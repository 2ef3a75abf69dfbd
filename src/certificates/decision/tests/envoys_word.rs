//! What Envoy, or a candidate Envoy, says of a set.

use super::*;

#[test]
fn what_envoy_rejects_is_followed_by_the_last_good_set_and_not_tried_again() {
    let mut world = Scenario::live(Kind::Ec(0));
    world.write(Kind::Poison(1), ms(60_000));
    assert!(world.shows(Kind::Ec(0)));
    assert_eq!(world.publications, 3);
    let leaf = &world.decision.record.status()[0];
    assert_eq!((leaf.last_result, leaf.generation), (Some("rejected"), 3));
    assert_eq!(world.envoy.as_ref().unwrap().taken.as_ref().unwrap().0, 3);
    world.write(Kind::Ec(0), ms(5000));
    assert_eq!(world.publications, 3, "the old bytes are there already");
    assert_eq!(world.decision.record.error(), None);
    world.write(Kind::Rsa, ms(2000));
    assert_eq!(world.results(), [2, 0, 1, 0]);
}

#[test]
fn what_envoy_rejects_right_after_its_start_is_told_as_soon_as_it_answers() {
    for offset in (0..1500).step_by(50) {
        let mut world = Scenario::new(Kind::Ec(0));
        world.run(ms(1000));
        world.admin_answers = false;
        world.start_envoy();
        world.run(ms(offset));
        world.write(Kind::Poison(1), ms(1500 - offset));
        assert!(world.shows(Kind::Ec(0)), "Envoy may not have read that");
        world.admin_answers = true;
        world.run(ms(2000));
        assert_eq!(world.results()[1..], [0, 1, 0], "{offset}");
        assert!(world.shows(Kind::Ec(0)));
        world.write(Kind::Rsa, ms(2000));
        assert!(world.shows(Kind::Rsa), "{offset}");
    }
}

#[test]
fn what_a_candidate_refuses_while_envoy_starts_stays_told_once_envoy_has_the_set_before() {
    let mut world = Scenario::new(Kind::Ec(0));
    world.run(ms(1000));
    world.files = Kind::Poison(1);
    while !matches!(world.decision.next(world.now), SetStep::Validate(_)) {
        world.step();
        world.now += ms(10);
    }
    world.start_envoy();
    let refused = Err("no".to_owned());
    world.decision.validated(world.now, world.wall(), refused);
    world.run(ms(5000));
    let status = &world.decision.record.status()[0];
    assert_eq!(status.last_result, Some("refused"));
    assert!(status.last_error.is_some() && world.decision.is_stale(world.wall()));
    assert_eq!(world.results(), [1, 1, 0, 0]);
}

#[test]
fn an_envoy_that_never_answers_holds_a_change_up_for_ten_seconds() {
    let mut world = Scenario::new(Kind::Ec(0));
    world.run(ms(1000));
    world.admin_answers = false;
    world.start_envoy();
    world.write(Kind::Rsa, ms(9000));
    assert!(world.shows(Kind::Ec(0)));
    world.run(ms(2000));
    assert!(world.shows(Kind::Rsa));
}

#[test]
fn what_envoy_rejects_when_it_comes_to_use_it_is_told_within_two_seconds() {
    let mut world = Scenario::of(Duty::Listener, Kind::Rsa);
    world.used = false;
    world.run(ms(1000));
    world.start_envoy();
    world.envoy = Some(ScenarioEnvoy::default());
    world.write(Kind::Poison(1), ms(2000));
    world.envoy = Some(world.fresh_envoy());
    world.used = true;
    world.run(ms(2000));
    assert_eq!(world.results(), [0, 0, 1, 0]);
}

#[test]
fn a_silent_admin_is_no_reason_to_go_back() {
    let mut world = Scenario::live(Kind::Ec(0));
    world.admin_answers = false;
    world.write(Kind::Rsa, ms(20_000));
    assert!(world.shows(Kind::Rsa));
    assert_eq!(world.results(), [1, 0, 0, 1]);
    world.write(Kind::Other, ms(3000));
    assert!(
        world.shows(Kind::Other),
        "the next change does not wait for it"
    );
    world.admin_answers = true;
    world.run(ms(60_000));
    assert_eq!(world.decision.record.status()[0].last_result, Some("ok"));
}

#[test]
fn what_nobody_confirmed_is_known_as_soon_as_somebody_does() {
    let mut world = Scenario::live(Kind::Ec(0));
    world.stop_envoy();
    world.admin_answers = false;
    world.start_envoy();
    world.run(ms(70_000));
    let shown = |world: &Scenario| {
        let status = &world.decision.record.status()[0];
        (status.last_result, status.last_error.is_some())
    };
    assert_eq!(shown(&world), (Some("unconfirmed"), true));
    world.admin_answers = true;
    world.run(ms(31_000));
    assert_eq!(shown(&world), (Some("ok"), false));

    world.admin_answers = false;
    world.write(Kind::Rsa, ms(20_000));
    assert_eq!(shown(&world), (Some("unconfirmed"), true));
    world.admin_answers = true;
    world.replace_envoy();
    assert!(
        !world.decision.is_idle(),
        "the next Envoy's word is waited for"
    );
    world.run(ms(10));
    assert!(world.decision.is_idle());
    assert_eq!(shown(&world), (Some("ok"), false));
}

#[test]
fn the_next_change_waits_for_envoys_word_on_the_last() {
    let mut world = Scenario::live(Kind::Ec(0));
    world.admin_answers = false;
    world.write(Kind::Rsa, ms(3000));
    world.write(Kind::Other, ms(3000));
    assert!(world.shows(Kind::Rsa));
    world.admin_answers = true;
    world.run(ms(2000));
    assert!(world.shows(Kind::Other));
    assert_eq!(world.results(), [3, 0, 0, 0]);
}

#[test]
fn an_envoy_that_keeps_another_version_gets_the_last_good_set() {
    let mut world = Scenario::live(Kind::Ec(0));
    // It reads its files no more.
    let deaf = world.envoy.take();
    world.files = Kind::Rsa;
    for _ in 0..40 {
        world.envoy = None;
        world.admin_answers = true;
        while matches!(
            world.decision.next(world.now),
            SetStep::Read | SetStep::Publish(..)
        ) {
            world.step();
        }
        world.envoy = deaf.as_ref().map(|envoy| ScenarioEnvoy {
            taken: envoy.taken.clone(),
            refusals: 0,
        });
        while matches!(world.decision.next(world.now), SetStep::Observe) {
            world.step();
        }
        world.now += ms(500);
    }
    assert!(world.shows(Kind::Ec(0)));
    assert_eq!(world.results()[3], 1);
    let why = world.decision.record.error().unwrap();
    assert!(why.contains("must be started again"), "{why}");

    // As somebody does.
    world.stop_envoy();
    world.start_envoy();
    world.run(ms(3000));
    assert!(world.shows(Kind::Rsa), "the next Envoy reads its files");
}

#[test]
fn a_key_that_nobody_can_match_is_tried_by_a_candidate() {
    let mut world = Scenario::live(Kind::Ec(0));
    world.write(Kind::Ed25519, ms(2000));
    assert_eq!(world.candidates, 2);
    assert!(world.shows(Kind::Ed25519));
}

#[test]
fn without_a_verdict_of_the_candidate_it_goes_on() {
    let mut world = Scenario::new(Kind::Ec(0));
    world.step();
    assert!(matches!(
        world.decision.next(world.now),
        SetStep::Validate(_)
    ));
    world.run(ms(9000));
    assert!(!world.decision.is_ready());
    world.run(ms(2000));
    assert!(world.decision.is_ready());
}

#[test]
fn before_a_change_a_late_set_has_envoy_asked_anew() {
    for late in [false, true] {
        let mut world = Scenario::live(Kind::Ec(0));
        world.admin_answers = !late;
        world.write(Kind::Rsa, ms(20_000));
        world.files = Kind::Other;
        let mut steps = 0;
        while !matches!(world.decision.phase, SetPhase::Before(..)) {
            assert!(!world.decision.wants_fresh_answer());
            world.step();
            world.now += ms(10);
            steps += 1;
            assert!(steps < 1000);
        }
        assert_eq!(world.decision.wants_fresh_answer(), late);
    }
}

#[test]
fn what_envoy_rejects_is_followed_by_the_last_good_set_though_the_statistics_are_hidden() {
    let mut world = Scenario::live(Kind::Rsa);
    world.hides = true;
    world.write(Kind::Poison(1), ms(20_000));
    assert!(world.shows(Kind::Rsa));
    assert_eq!(world.results(), [1, 0, 0, 1]);
    let why = world.decision.record.error().unwrap();
    assert!(why.contains("include the prefix sds."), "{why}");
    world.write(Kind::Ec(0), ms(2000));
    assert!(world.shows(Kind::Ec(0)));
    assert_eq!(world.results(), [2, 0, 0, 1]);

    // Of another set with the same leaf nothing is known, and nothing is said.
    world.write(Kind::Poison(1), ms(20_000));
    assert_eq!(world.results(), [2, 0, 0, 2]);
    let why = world.decision.record.error().unwrap();
    assert!(why.contains("include the prefix sds."), "{why}");
}

#[test]
fn a_bundle_whose_statistics_are_hidden_is_told_as_not_known() {
    let mut world = Scenario::of(Duty::Listener, Kind::Cas(&["ca.crt"]));
    world.hides = true;
    world.run(ms(1000));
    world.start_envoy();
    world.run(ms(70_000));
    assert_eq!(world.results(), [0, 0, 0, 1]);
    let why = world.decision.record.error().unwrap();
    assert!(why.contains("include the prefix sds."), "{why}");
}

#[test]
fn what_envoy_makes_of_a_set_is_not_known_before_it_is_live_and_no_change_waits_for_that() {
    for used in [false, true] {
        let mut world = Scenario::of(Duty::Listener, Kind::Rsa);
        world.run(ms(1000));
        // Its control plane is away.
        (world.starting, world.used) = (true, used);
        world.start_envoy();
        world.run(ms(600_000));
        assert_eq!(world.results(), [0, 0, 0, 0]);
        assert_eq!(world.decision.record.error(), None);
        assert!(world.asked < 320, "{} questions", world.asked);
        assert!(world.decision.is_stale(world.wall()), "Envoy has nothing");
        assert!(world.decision.is_idle(), "whoever reloads is told");
        world.write(Kind::Ec(0), ms(2000));
        assert!(world.shows(Kind::Ec(0)));
        world.run(ms(600_000));
        assert_eq!(world.results(), [0, 0, 0, 0]);

        world.used = true;
        world.come_live();
        world.run(ms(2500));
        assert_eq!(world.results(), [1, 0, 0, 0], "{used}");
        assert!(!world.decision.is_stale(world.wall()));
    }
}

#[test]
fn an_envoy_that_starts_and_has_come_to_the_set_is_told_when_it_does_not_take_the_next_one() {
    let mut world = Scenario::new(Kind::Ec(0));
    world.run(ms(1000));
    world.start_envoy();
    // Its control plane is away, and the directory that it watches was replaced.
    world.starting = true;
    world.run(ms(1000));
    assert_eq!(world.results(), [1, 0, 0, 0]);
    world.write(Kind::Rsa, ms(15_000));
    assert_eq!(world.results(), [1, 0, 0, 1]);
    let why = world.decision.record.error().unwrap();
    assert!(why.contains("must be started again"), "{why}");
    world.run(ms(15_000));
    assert!(world.shows(Kind::Ec(0)));
    assert!(world.decision.is_idle(), "whoever reloads is told");
}

#[test]
fn an_envoy_that_is_live_and_uses_no_such_secret_is_told_a_minute_later() {
    let mut world = Scenario::of(Duty::Listener, Kind::Rsa);
    (world.starting, world.used) = (true, false);
    world.run(ms(1000));
    world.start_envoy();
    world.run(ms(300_000));
    world.come_live();
    world.run(ms(55_000));
    assert_eq!(world.results(), [0, 0, 0, 0]);
    world.run(ms(10_000));
    assert_eq!(world.results(), [0, 0, 0, 1]);
}

#[test]
fn of_an_envoy_that_starts_again_and_again_nothing_is_said_and_the_set_stays() {
    let mut world = Scenario::of(Duty::Listener, Kind::Rsa);
    world.run(ms(1000));
    world.starting = true;
    for _ in 0..5 {
        world.start_envoy();
        world.run(ms(90_000));
        world.stop_envoy();
        world.run(ms(10_000));
    }
    assert_eq!((world.results(), world.publications), ([0, 0, 0, 0], 1));
    // Also where it could not be asked for so long that this was said.
    world.admin_answers = false;
    world.start_envoy();
    world.run(ms(70_000));
    assert_eq!(world.results(), [0, 0, 0, 1]);
    world.admin_answers = true;
    world.run(ms(300_000));
    assert_eq!((world.results(), world.publications), ([0, 0, 0, 1], 1));
    world.come_live();
    world.run(ms(32_000));
    assert_eq!(world.decision.record.error(), None);
}

#[test]
fn what_was_refused_is_over_once_the_files_hold_again_what_envoy_then_confirms() {
    let mut world = Scenario::live(Kind::Ec(0));
    world.admin_answers = false;
    world.replace_envoy();
    world.run(ms(6000));
    world.write(Kind::Mismatched, ms(5000));
    world.decision.check_now(world.now);
    world.run(ms(10));
    assert_eq!(world.results(), [1, 2, 0, 1]);
    world.write(Kind::Ec(0), ms(2000));
    world.admin_answers = true;
    world.run(ms(31_000));
    assert_eq!(world.decision.record.error(), None);
    assert!(!world.decision.is_stale(world.wall()));
}
