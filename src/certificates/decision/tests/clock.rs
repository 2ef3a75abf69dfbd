//! The clock on the wall is set forward and back: what was judged by a wrong one is judged again.

use super::*;

const YEARS: Duration = Duration::from_secs(100 * 366 * 86_400);

/// A world whose clock on the wall is a hundred years ahead.
fn ahead(duty: Duty, files: Kind, kept: Option<Kind>) -> Scenario {
    let (now, generation) = (Instant::now(), u64::from(kept.is_some()));
    let clean = || kept.map(|kind| clean(&kind.files().unwrap()));
    let mut world = Scenario::going_on(duty, files, now, now, generation, clean());
    world.published = clean().map(|contents| (generation, Arc::new(contents)));
    world.wall_start += YEARS;
    world
}

fn error(world: &Scenario) -> Option<&str> {
    world.decision.record.error()
}

#[test]
fn an_envoy_that_waits_for_an_expired_certificate_starts_once_the_clock_is_right() {
    // In the files, or only where an earlier life has published it.
    for (files, kept) in [
        (Kind::Rsa, None),
        (Kind::Rsa, Some(Kind::Rsa)),
        (Kind::Missing, Some(Kind::Rsa)),
    ] {
        let mut world = ahead(Duty::Gate, files, kept);
        world.run(ms(20_000));
        assert!(!world.decision.is_ready(), "{files:?}");
        assert_eq!(world.results(), [0, 1, 0, 0]);
        world.wall_start -= YEARS;
        world.run(ms(200));
        assert!(world.decision.is_ready(), "{files:?}, {kept:?}");
        world.start_envoy();
        world.run(ms(1000));
        assert_eq!(error(&world).is_none(), files == Kind::Rsa, "{kept:?}");
    }
    // Nor is a certificate lost that an earlier life published where the clock begins too early.
    let mut world = ahead(Duty::Gate, Kind::Missing, Some(Kind::Rsa));
    world.wall_start = SystemTime::UNIX_EPOCH;
    world.run(ms(20_000));
    assert!(!world.decision.is_ready());
    world.wall_start += YEARS * 11 / 20;
    world.run(ms(200));
    assert!(world.decision.is_ready());
}

#[test]
fn a_rotation_while_the_clock_is_ahead_is_loaded_once_it_is_right() {
    for duty in [Duty::Gate, Duty::Listener] {
        let mut world = Scenario::of(duty, Kind::Ec(0));
        world.run(ms(1000));
        world.start_envoy();
        world.run(ms(1000));
        world.wall_start += YEARS;
        world.write(Kind::Rsa, ms(5000));
        assert!(error(&world).unwrap().contains("expired at"));
        assert!(world.decision.is_stale(world.wall()));
        world.wall_start -= YEARS;
        world.run(ms(2000));
        assert!(world.shows(Kind::Rsa));
        assert!(error(&world).is_none() && !world.decision.is_stale(world.wall()));
        // What is wrong at any time is refused once.
        world.write(Kind::Mismatched, ms(2000));
        world.wall_start -= ms(3_600_000);
        world.run(ms(5000));
        assert_eq!(world.results(), [2, 2, 0, 0]);
    }
}

#[test]
fn a_bundle_that_ended_while_the_clock_was_ahead_is_no_longer_stale_once_it_is_right() {
    let mut world = Scenario::of(Duty::Listener, Kind::Listed);
    world.run(ms(1000));
    world.start_envoy();
    world.run(ms(40_000));
    assert!(!world.decision.is_stale(world.wall()));
    world.wall_start += YEARS;
    world.run(ms(2000));
    assert!(error(&world).unwrap().contains("expired at"));
    world.wall_start -= YEARS;
    world.run(ms(2000));
    assert!(error(&world).is_none() && !world.decision.is_stale(world.wall()));
    assert_eq!(world.publications, 1);
}

#[test]
fn a_staple_that_was_left_out_while_the_clock_was_ahead_is_back_once_it_is_right() {
    let mut world = Scenario::of(Duty::Listener, Kind::Stapled("ec", "staple-expired.der"));
    let right = world.wall_start;
    let staple = |world: &Scenario| {
        let Material::Pair { staple, .. } = &world.published.as_ref().unwrap().1[0] else {
            panic!("no pair");
        };
        staple.is_some()
    };
    world.run(ms(1000));
    world.start_envoy();
    world.run(ms(1000));
    assert!(!staple(&world) && error(&world).is_some());
    // 2024-03-01.
    world.wall_start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_709_251_200);
    world.run(ms(2000));
    assert!(staple(&world) && error(&world).is_none());
    world.wall_start = right;
    world.run(ms(2000));
    assert!(!staple(&world) && error(&world).is_some());
}

#[test]
fn a_loaded_certificate_that_is_not_valid_yet_after_all_is_told() {
    let mut world = Scenario::live(Kind::Ec(0));
    let right = world.wall_start;
    world.wall_start = SystemTime::UNIX_EPOCH;
    world.run(ms(2000));
    assert!(error(&world).unwrap().contains("is not valid before"));
    world.wall_start = right;
    world.run(ms(2000));
    assert!(error(&world).is_none() && !world.decision.is_stale(world.wall()));
    assert_eq!(world.publications, 1);
}
