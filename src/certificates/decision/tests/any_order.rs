//! Anything in any order.

use super::*;
use proptest::prelude::*;

/// What may happen between any two steps.
#[derive(Clone, Debug, PartialEq)]
enum Fault {
    Write(Kind),
    EnvoyStarts,
    EnvoyEnds,
    EnvoyIsReplaced,
    AdminAnswers(bool),
    /// An Envoy that starts has come to its files, or the next one will take long to.
    EnvoyIsLive(bool),
    /// The clock on the wall is so many years ahead, or behind.
    ClockIsSet(i8),
    DiskFull(bool),
    /// Somebody removed the SDS files.
    FilesLost,
    Asked,
    ThreadStartsAgain,
    /// The thread died between the two files of a set: the CA's is of the next generation.
    ThreadDiesPublishing,
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        (0..4u8).prop_map(Kind::Ec),
        Just(Kind::Rsa),
        Just(Kind::Other),
        Just(Kind::Ed25519),
        (0..4u8).prop_map(Kind::Poison),
        (0..4u8).prop_map(Kind::Torn),
        Just(Kind::Mismatched),
        Just(Kind::Expired),
        Just(Kind::Missing),
    ]
}

fn faults() -> impl Strategy<Value = Fault> {
    prop_oneof![
        4 => kinds().prop_map(Fault::Write),
        1 => Just(Fault::EnvoyStarts),
        1 => Just(Fault::EnvoyEnds),
        1 => Just(Fault::EnvoyIsReplaced),
        1 => any::<bool>().prop_map(Fault::AdminAnswers),
        1 => any::<bool>().prop_map(Fault::EnvoyIsLive),
        1 => prop_oneof![Just(-54), Just(0), Just(100)].prop_map(Fault::ClockIsSet),
        1 => any::<bool>().prop_map(Fault::DiskFull),
        1 => Just(Fault::FilesLost),
        1 => Just(Fault::Asked),
        1 => Just(Fault::ThreadStartsAgain),
        1 => Just(Fault::ThreadDiesPublishing),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever happens between any two steps: nothing bad is published, no generation is used
    /// twice (both asserted in `step`), and once the world is well the last good files win.
    #[test]
    fn in_the_end_the_last_good_files_win(
        faults in proptest::collection::vec((faults(), 0..30u64, 0..4usize), 1..25),
        last in kinds().prop_filter("good", |kind| kind.is_good()),
        duty in prop_oneof![Just(Duty::Gate), Just(Duty::Listener)],
    ) {
        let mut world = Scenario::of(duty, Kind::Missing);
        let right = world.wall_start;
        for (fault, pause, steps) in faults {
            match fault {
                Fault::Write(kind) => world.files = kind,
                Fault::EnvoyStarts if world.decision.is_ready() && world.envoy.is_none() => {
                    world.start_envoy();
                }
                Fault::EnvoyIsReplaced if world.envoy.is_some() => world.replace_envoy(),
                Fault::EnvoyStarts | Fault::EnvoyIsReplaced => {}
                Fault::EnvoyEnds => world.stop_envoy(),
                Fault::AdminAnswers(yes) => world.admin_answers = yes,
                Fault::EnvoyIsLive(true) => world.come_live(),
                Fault::EnvoyIsLive(false) => world.starting |= world.envoy.is_none(),
                Fault::ClockIsSet(years) => {
                    let by = Duration::from_secs(31_557_600) * u32::from(years.unsigned_abs());
                    world.wall_start = if years < 0 { right - by } else { right + by };
                    world.stepped = true;
                }
                Fault::DiskFull(yes) => world.disk_full = yes,
                Fault::FilesLost => {
                    if world.decision.published_as().is_some() {
                        world.decision.lost();
                    }
                }
                Fault::Asked => world.decision.check_now(world.now),
                Fault::ThreadStartsAgain | Fault::ThreadDiesPublishing => {
                    let dies = fault == Fault::ThreadDiesPublishing;
                    let whole = world.whole && !(dies && world.published.is_some());
                    let mut published = world.published.take();
                    if let Some((generation, _)) = &mut published {
                        *generation += u64::from(dies);
                    }
                    let generation = published.as_ref().map_or(0, |(generation, _)| *generation);
                    let kept = published.as_ref().map(|(_, contents)| clean(contents));
                    let kept = kept.filter(|_| whole);
                    let envoy = world.envoy.take();
                    let (start, now, files) = (world.start, world.now, world.files);
                    // What was tried in vain left no file, unless the thread died of it.
                    let generation = if whole && published.is_some() {
                        generation
                    } else {
                        generation.max(world.attempted)
                    };
                    let before = (world.vacant, world.starting, world.wall_start, world.stepped);
                    world = Scenario::going_on(duty, files, start, now, generation, kept);
                    (world.vacant, world.starting, world.wall_start, world.stepped) = before;
                    world.published = published;
                    world.whole = whole;
                    if let Some(envoy) = envoy {
                        world.envoy = Some(envoy);
                        world.decision.envoy_started(now);
                    }
                }
            }
            // A few steps, and then some time: faults come between any two of them.
            for _ in 0..steps {
                world.step();
            }
            if pause > 0 {
                world.run(ms(pause * pause * 10));
            }
        }
        world.admin_answers = true;
        world.come_live();
        world.wall_start = right;
        world.disk_full = false;
        // Longer than anything waits: 60 s for a starting Envoy, 30 s between late questions.
        world.write(last, ms(120_000));
        prop_assert!(world.decision.is_ready());
        prop_assert!(world.shows(last));
        if world.envoy.is_none() {
            world.start_envoy();
            world.run(ms(2000));
        }
        let (generation, _) = world.envoy.as_ref().unwrap().taken.clone().unwrap();
        prop_assert_eq!(generation, world.published.as_ref().unwrap().0);
        prop_assert!(world.decision.is_idle());
        prop_assert_eq!(world.decision.record.error(), None);
        prop_assert!(!world.decision.is_stale(world.wall()));
    }
}
