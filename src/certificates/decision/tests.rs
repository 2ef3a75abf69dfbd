//! The decisions against a simulated world.

use super::super::confirm::{Observation, SecretSeen};
use super::super::publish::version;
use super::super::read::Material;
use super::super::secret::SecretBytes;
use super::*;
use crate::testing::ms;
use world::{Kind, Scenario, ScenarioEnvoy, clean};

mod any_order;
mod bundles;
mod clock;
mod envoys_word;
mod listeners;
mod world;

#[test]
fn a_first_set_is_tried_by_a_candidate_and_published_at_once() {
    let mut world = Scenario::new(Kind::Ec(0));
    world.run(ms(1));
    assert!(world.decision.is_ready());
    assert_eq!((world.candidates, world.publications), (1, 1));
}

#[test]
fn without_a_usable_set_envoy_waits_and_is_told_for_what() {
    let mut world = Scenario::new(Kind::Missing);
    assert_eq!(world.decision.waiting_for(), None, "nobody has looked yet");
    world.run(ms(100));
    let waiting = |world: &Scenario| world.decision.waiting_for().unwrap();
    assert_eq!(waiting(&world), "is missing");
    for kind in [
        Kind::Expired,
        Kind::Mismatched,
        Kind::Torn(3),
        Kind::Poison(1),
    ] {
        world.write(kind, ms(2000));
        assert!(!world.decision.is_ready(), "{kind:?}");
    }
    assert!(waiting(&world).contains("a candidate Envoy refused it"));
    world.write(Kind::Ec(1), ms(200));
    assert!(world.decision.is_ready());
}

#[test]
fn a_change_is_loaded_within_two_seconds_whenever_it_comes() {
    for offset in (0..1000).step_by(50) {
        let mut world = Scenario::live(Kind::Ec(0));
        world.run(ms(offset));
        world.write(Kind::Rsa, ms(1800));
        assert!(world.shows(Kind::Rsa), "{offset}");
        assert_eq!(world.results(), [2, 0, 0, 0]);
        assert_eq!(world.candidates, 1, "a running Envoy judges by itself");
    }
}

#[test]
fn a_torn_writer_of_two_seconds_is_refused_and_then_loaded() {
    let mut world = Scenario::live(Kind::Ec(0));
    world.write(Kind::Torn(1), ms(2000));
    world.write(Kind::Mismatched, ms(300));
    assert!(world.shows(Kind::Ec(0)));
    world.write(Kind::Rsa, ms(1800));
    assert!(world.shows(Kind::Rsa));
    assert_eq!(world.publications, 2);
}

#[test]
fn of_twenty_changes_in_four_seconds_the_last_one_wins() {
    let mut world = Scenario::live(Kind::Ec(0));
    for number in 1..=20 {
        world.write(Kind::Ec(number), ms(200));
    }
    world.run(ms(1800));
    assert!(world.shows(Kind::Ec(20)));
    assert!(world.publications <= 3);
}

#[test]
fn the_same_bytes_are_nothing_new() {
    let mut world = Scenario::live(Kind::Ec(0));
    world.write(Kind::Ec(0), ms(60_000));
    assert_eq!(world.publications, 1);
    assert_eq!(world.results(), [1, 0, 0, 0]);
}

#[test]
fn what_is_refused_is_said_once_and_tried_again_when_it_changes() {
    let mut world = Scenario::live(Kind::Ec(0));
    world.write(Kind::Expired, ms(30_000));
    assert_eq!(world.results(), [1, 1, 0, 0]);
    assert!(world.decision.record.error().unwrap().contains("expired"));
    world.write(Kind::Missing, ms(5000));
    world.write(Kind::Ec(1), ms(2000));
    assert_eq!(world.results(), [2, 2, 0, 0]);
    assert_eq!(world.decision.record.error(), None);
}

#[test]
fn asked_for_it_looks_at_once_and_says_what_it_thinks() {
    let mut world = Scenario::live(Kind::Ec(0));
    world.files = Kind::Rsa;
    world.decision.check_now(world.now);
    assert!(!world.decision.is_idle());
    world.run(ms(10));
    assert!(world.decision.is_idle() && world.shows(Kind::Rsa));
    world.write(Kind::Expired, ms(3000));
    world.decision.check_now(world.now);
    world.run(ms(10));
    assert!(world.decision.is_idle() && world.decision.record.error().is_some());
}

#[test]
fn what_could_not_be_published_and_is_given_up_leaves_files_that_envoy_confirms() {
    let mut world = Scenario::of(Duty::Listener, Kind::Other);
    world.run(ms(10));
    world.disk_full = true;
    world.write(Kind::Poison(0), ms(1000));
    // A candidate is asked in the place of the Envoy that is gone, and refuses it.
    world.stop_envoy();
    world.run(ms(10));
    world.disk_full = false;
    world.write(Kind::Other, ms(3000));
    assert_eq!(world.decision.record.error(), None);
    world.start_envoy();
    world.run(ms(2000));
    assert!(world.decision.is_idle() && world.shows(Kind::Other));
}

#[test]
fn a_full_disk_delays_and_loses_nothing() {
    let mut world = Scenario::live(Kind::Ec(0));
    world.disk_full = true;
    world.write(Kind::Rsa, ms(10_000));
    assert!(world.decision.record.error().unwrap().contains("disk full"));
    assert!(world.decision.is_idle(), "that can be told");
    world.disk_full = false;
    world.run(ms(2000));
    assert!(world.shows(Kind::Rsa));
    assert_eq!(world.decision.record.error(), None);
}

#[test]
fn what_an_earlier_life_published_is_good_enough_to_start_with() {
    let kept = || Some(Kind::Rsa.files().unwrap());
    let now = Instant::now();
    let mut world = Scenario::going_on(Duty::Gate, Kind::Missing, now, now, 7, kept());
    world.run(ms(10));
    assert!(world.decision.is_ready());
    assert_eq!(world.decision.record.status()[0].generation, 7);
    assert_eq!((world.publications, world.candidates), (0, 1));
    world.write(Kind::Ec(1), ms(2000));
    assert_eq!(world.decision.record.status()[0].generation, 8);

    let expired = Kind::Expired.files().unwrap();
    let mut world = Scenario::going_on(Duty::Gate, Kind::Missing, now, now, 7, Some(expired));
    world.run(ms(2000));
    assert!(!world.decision.is_ready(), "it has expired since");

    let poison = Kind::Poison(0).files().unwrap();
    let mut world = Scenario::going_on(Duty::Gate, Kind::Missing, now, now, 7, Some(poison));
    world.run(ms(2000));
    assert!(!world.decision.is_ready(), "a candidate refused it");
    assert!(
        world.decision.published_as().is_none(),
        "nobody changed what is not held on to"
    );

    let mut world = Scenario::going_on(Duty::Gate, Kind::Poison(1), now, now, 7, kept());
    world.run(ms(10));
    assert!(world.decision.is_ready(), "a candidate refused the files");

    let mut world = Scenario::going_on(Duty::Gate, Kind::Rsa, now, now, 7, kept());
    world.decision.envoy_started(now);
    world.run(ms(10));
    assert!(
        world.decision.is_ready(),
        "a thread that starts again beside a running Envoy"
    );
    assert_eq!((world.publications, world.candidates), (0, 0));
}

#[test]
fn a_certificate_that_is_not_valid_yet_is_tried_again_when_it_is() {
    let mut world = Scenario::live(Kind::Ec(0));
    let early = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    for wall in [early, early] {
        world.now += ms(700);
        world.decision.read(world.now, wall, Kind::Rsa.files());
    }
    assert!(
        world
            .decision
            .record
            .error()
            .unwrap()
            .contains("is not valid before")
    );
    world.write(Kind::Rsa, ms(2000));
    assert!(world.shows(Kind::Rsa));
}
