//! The secrets of listeners: Envoy does not wait for them.

use super::*;

#[test]
fn without_a_listeners_set_envoy_starts_and_takes_it_when_it_is_there() {
    for bad in [Kind::Missing, Kind::Mismatched, Kind::Torn(3)] {
        let mut world = Scenario::of(Duty::Listener, bad);
        world.run(ms(1));
        assert!(world.decision.is_ready(), "{bad:?}");
        assert!(world.vacant, "{bad:?}");
        world.start_envoy();
        world.run(ms(2000));
        assert_eq!(world.results(), [0, 1, 0, 0], "{bad:?}");
        assert!(world.decision.is_stale(world.wall()));
        world.write(Kind::Ec(1), ms(1100));
        assert_eq!(world.results(), [1, 1, 0, 0], "{bad:?}");
        assert!(world.shows(Kind::Ec(1)));
        assert!(!world.decision.is_stale(world.wall()));
        assert_eq!(world.candidates, 0, "the running Envoy judges");
    }
}

#[test]
fn a_listeners_first_set_is_there_at_once_and_envoy_judges_it() {
    let mut world = Scenario::of(Duty::Listener, Kind::Rsa);
    world.run(ms(1));
    assert!(world.decision.is_ready() && world.shows(Kind::Rsa));
    assert_eq!((world.publications, world.candidates), (1, 0));

    let mut world = Scenario::of(Duty::Listener, Kind::Poison(0));
    world.run(ms(1));
    world.start_envoy();
    world.run(Duration::from_secs(61));
    assert!(world.decision.is_stale(world.wall()));
    assert!(world.decision.record.error().is_some());
    world.write(Kind::Rsa, ms(2000));
    assert_eq!(world.results()[0], 1);
    assert!(!world.decision.is_stale(world.wall()));
}

#[test]
fn a_listeners_expired_certificate_is_published_where_there_is_no_other() {
    let mut world = Scenario::of(Duty::Listener, Kind::Expired);
    world.run(ms(1000));
    world.start_envoy();
    world.run(ms(2000));
    assert!(world.shows(Kind::Expired));
    assert_eq!(world.results(), [0, 1, 0, 0]);
    assert!(world.decision.record.error().unwrap().contains("expired"));
    assert!(world.decision.is_stale(world.wall()));
    world.write(Kind::Ec(0), ms(2000));
    assert!(world.shows(Kind::Ec(0)));
    world.write(Kind::Expired, ms(2000));
    assert!(world.shows(Kind::Ec(0)), "there is a better one");

    let now = Instant::now();
    let kept = Some(Kind::Expired.files().unwrap());
    let mut world = Scenario::going_on(Duty::Listener, Kind::Missing, now, now, 7, kept);
    world.run(ms(1));
    assert!(world.decision.is_ready());
    assert!(!world.vacant, "what was published before it had expired");

    let mut world = Scenario::new(Kind::Expired);
    world.run(ms(5000));
    assert!(
        !world.decision.is_ready(),
        "the xDS client needs a good one"
    );
}

#[test]
fn an_envoy_is_not_started_before_a_listeners_file_can_be_written() {
    for files in [Kind::Missing, Kind::Rsa] {
        // However rarely the files are looked at.
        let mut world = Scenario::looked_at_every(Duration::from_secs(86_400), files);
        world.disk_full = true;
        world.run(ms(5000));
        assert!(!world.decision.is_ready());
        world.disk_full = false;
        world.run(ms(2000));
        assert!(world.decision.is_ready());
    }
}

#[test]
fn a_staple_comes_and_goes_and_the_certificate_is_never_without_envoy() {
    let published = |world: &Scenario| {
        let Material::Pair { cert, staple, .. } = &world.published.as_ref().unwrap().1[0] else {
            panic!("no pair");
        };
        (cert.to_vec(), staple.is_some())
    };
    let stapled = |staple| Kind::Stapled("ec", staple);
    let told = |world: &Scenario| {
        let status = &world.decision.record.status()[0];
        (status.last_result, status.last_error.clone())
    };
    let mut world = Scenario::of(Duty::Listener, stapled("staple-later.der"));
    world.run(ms(500));
    world.start_envoy();
    world.run(ms(500));
    let (ec, staple) = published(&world);
    assert!(!staple);
    let later = "the OCSP staple: is no answer: its responder failed with 3";
    assert_eq!(told(&world), (Some("ok"), Some(later.to_owned())));
    assert!(world.decision.is_stale(world.wall()));
    assert_eq!(world.results(), [1, 1, 0, 0]);

    world.write(stapled("staple-good.der"), ms(5000));
    assert_eq!(published(&world), (ec.clone(), true));
    assert_eq!(told(&world), (Some("ok"), None));
    assert!(!world.decision.is_stale(world.wall()));

    // One that is bad changes nothing, and is said once.
    let before = world.publications;
    world.write(stapled("staple-revoked.der"), ms(60_000));
    assert_eq!(
        (published(&world), world.publications),
        ((ec.clone(), true), before)
    );
    assert_eq!(told(&world).0, Some("refused"));
    assert_eq!(world.results(), [2, 2, 0, 0]);
    world.write(stapled("staple-good.der"), ms(5000));
    assert_eq!(told(&world).1, None);
    assert_eq!(world.publications, before);

    // The next certificate does not wait for its own.
    world.write(Kind::Stapled("other", "staple-good.der"), ms(5000));
    assert!(!published(&world).1 && published(&world).0 != ec);
    let foreign = "the OCSP staple: is of serial a1b2c3, not of this certificate";
    assert_eq!(told(&world), (Some("ok"), Some(foreign.to_owned())));
}
