//! Bundles of CAs: what there is to say of one changes with time, though no file does.

use super::*;

fn live(files: Kind, wall_start: SystemTime) -> Scenario {
    let mut world = Scenario::of(Duty::Listener, files);
    world.wall_start = wall_start;
    world.run(ms(1000));
    world.start_envoy();
    world.run(ms(1000));
    assert_eq!(world.decision.record.status()[0].last_result, Some("ok"));
    world
}

#[test]
fn a_list_that_is_not_valid_yet_is_lacking_until_it_is() {
    // Also where Envoy says nothing of the set before its word is late.
    for silent in [false, true] {
        let mut world = Scenario::of(Duty::Listener, Kind::Listed);
        world.admin_answers = !silent;
        world.run(ms(1000));
        world.start_envoy();
        world.run(ms(1000));
        let why = world.decision.record.error().unwrap();
        assert_eq!(why, "the CRL: is not valid before 2025-01-01T00:00:30Z");
        world.run(ms(70_000));
        assert_eq!(world.decision.record.error().is_some(), silent);
        world.admin_answers = true;
        world.run(ms(32_000));
        assert_eq!(world.decision.record.error(), None, "{silent}");
        assert!(!world.decision.is_stale(world.wall()));
        assert_eq!(world.publications, 1);
    }
}

#[test]
fn a_ca_that_expires_among_others_makes_no_bundle_stale() {
    // 2024-03-31T23:59:50Z.
    let wall_start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_711_929_590);
    let mut world = live(Kind::Cas(&["ca-expired.crt", "ca.crt"]), wall_start);
    let end = |world: &Scenario| world.decision.record.status()[0].not_after.unwrap();
    let first = end(&world);
    assert!(first < wall_start + ms(20_000));
    world.run(ms(15_000));
    assert!(first + ms(1000) < world.wall() && world.wall() < end(&world));
    assert!(!world.decision.is_stale(world.wall()));
    assert_eq!(world.decision.record.error(), None);
    assert_eq!((world.publications, world.results()), (1, [1, 0, 0, 0]));

    // With the last one the bundle is over.
    let mut world = live(Kind::Cas(&["ca-expired.crt"]), wall_start);
    world.run(ms(15_000));
    assert!(world.decision.is_stale(world.wall()));
    let why = world.decision.record.error().unwrap();
    assert_eq!(why, "the CA: expired at 2024-04-01T00:00:00Z");
    assert_eq!(world.publications, 1, "there is no better one");
}
