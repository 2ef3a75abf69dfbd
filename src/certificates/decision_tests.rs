//! The decisions against a simulated world: files, an Envoy that judges as the real one does, a
//! clock.

use super::super::confirm::Seen;
use super::super::publish::version;
use super::super::read::Material;
use super::super::secret::SecretBytes;
use super::*;
use proptest::prelude::*;
use std::collections::HashSet;

const CHECK: Duration = Duration::from_secs(1);

fn data(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// What a writer may leave behind. Good ones are told apart by their chain or their kind.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Ec(u8),
    Rsa,
    Other,
    /// Its key does not say whose it is.
    Ed25519,
    /// Good for us, and not for Envoy.
    Poison(u8),
    Torn(u8),
    Mismatched,
    Expired,
    Missing,
    /// A certificate and its key by this name, and the OCSP response in this file.
    Stapled(&'static str, &'static str),
}

impl Kind {
    fn files(self) -> Result<Contents, Refusal> {
        let set = |cert: &str, key: &str, chain: Vec<&str>| {
            let chain = chain
                .into_iter()
                .fold(data(cert), |all, next| [all, data(next)].concat());
            whole(&chain, &data(key))
        };
        let number = |n: u8| {
            (0..5).map(move |bit| {
                if n >> bit & 1 == 0 {
                    "ca.crt"
                } else {
                    "rsa.crt"
                }
            })
        };
        Ok(match self {
            Kind::Ec(n) => set("ec.crt", "ec.key", number(n).collect()),
            Kind::Poison(n) => set("ec.crt", "ec.key", number(n).chain([POISON]).collect()),
            Kind::Rsa => set("rsa.crt", "rsa.key", Vec::new()),
            Kind::Other => set("other.crt", "other.key", Vec::new()),
            Kind::Ed25519 => set("ed25519.crt", "ed25519.key", Vec::new()),
            Kind::Mismatched => set("rsa.crt", "other.key", Vec::new()),
            Kind::Expired => set("expired.crt", "ec.key", Vec::new()),
            Kind::Torn(n) => whole(
                &data("ec.crt"),
                &data("ec.key")[..100 + usize::from(n % 50)],
            ),
            Kind::Stapled(name, staple) => vec![Material::Pair {
                cert: secret(&data(&format!("{name}.crt"))),
                key: secret(&data(&format!("{name}.key"))),
                staple: Some(Ok(secret(&data(staple)))),
            }],
            Kind::Missing => {
                return Err(Refusal {
                    file: None,
                    why: "is missing".to_owned(),
                    until: None,
                });
            }
        })
    }

    fn is_good(self) -> bool {
        matches!(self, Kind::Ec(_) | Kind::Rsa | Kind::Other | Kind::Ed25519)
    }
}

/// What this world's Envoy does not take in a chain.
const POISON: &str = "ed25519.crt";

fn is_poison(contents: &Contents) -> bool {
    let poison = clean(&whole(&data(POISON), &data("ec.key")));
    let (Material::Pair { cert: poison, .. }, Material::Pair { cert, .. }) =
        (&poison[0], &contents[0])
    else {
        return false;
    };
    cert.ends_with(poison) && cert.len() > 2000
}

/// A set of this chain and key, and a CA.
fn whole(chain: &[u8], key: &[u8]) -> Contents {
    vec![
        Material::Pair {
            cert: secret(chain),
            key: secret(key),
            staple: None,
        },
        Material::Trust {
            ca: secret(&data("ca.crt")),
            crl: None,
            leaf_only: false,
        },
    ]
}

fn clean(contents: &Contents) -> Contents {
    let clean = contents.iter().map(crate::certificates::check::cleaned);
    clean.collect::<Result<_, _>>().unwrap()
}

fn secret(bytes: &[u8]) -> SecretBytes {
    SecretBytes::copy(bytes).unwrap()
}

/// An Envoy that reads its files at once, and judges them as the real one does.
#[derive(Default)]
struct Envoy {
    taken: Option<(u64, String)>,
    refusals: u64,
}

impl Envoy {
    fn take(&mut self, generation: u64, contents: &Contents, wall: SystemTime) {
        if is_poison(contents) {
            self.refusals += 1;
        } else {
            let set = Set::of(contents, None, wall, Age::Any).unwrap();
            self.taken = Some((generation, set.serial().unwrap_or_default().to_owned()));
        }
    }
}

struct World {
    duty: Duty,
    start: Instant,
    now: Instant,
    decision: Decision,
    files: Kind,
    envoy: Option<Envoy>,
    admin_answers: bool,
    disk_full: bool,
    published: Option<(u64, Arc<Contents>)>,
    /// The last generation that was to be published: one file of a set may hold it.
    attempted: u64,
    /// Whether the files of the set are of one generation.
    whole: bool,
    /// Whether the SDS file holds nothing.
    vacant: bool,
    publications: u64,
    candidates: u64,
}

impl World {
    fn new(files: Kind) -> World {
        World::of(Duty::Gate, files)
    }

    fn of(duty: Duty, files: Kind) -> World {
        let now = Instant::now();
        World::going_on(duty, files, now, now, 0, None)
    }

    fn going_on(
        duty: Duty,
        files: Kind,
        start: Instant,
        now: Instant,
        generation: u64,
        kept: Option<Contents>,
    ) -> World {
        let names = vec!["leaf".to_owned(), "ca".to_owned()];
        World {
            duty,
            start,
            now,
            decision: Decision::new(names, duty, CHECK, now, generation, kept),
            files,
            envoy: None,
            admin_answers: true,
            disk_full: false,
            published: None,
            attempted: generation,
            whole: true,
            vacant: false,
            publications: 0,
            candidates: 0,
        }
    }

    fn live(files: Kind) -> World {
        let mut world = World::new(files);
        world.run(Duration::from_secs(1));
        world.start_envoy();
        world.run(Duration::from_secs(1));
        assert_eq!(world.decision.record.status()[0].last_result, Some("ok"));
        world
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_735_689_600) + (self.now - self.start)
    }

    fn fresh_envoy(&self) -> Envoy {
        let mut envoy = Envoy::default();
        if let Some((generation, contents)) = &self.published {
            envoy.take(*generation, contents, self.wall());
        }
        envoy.refusals += u64::from(self.vacant);
        envoy
    }

    fn start_envoy(&mut self) {
        self.envoy = Some(self.fresh_envoy());
        self.decision.envoy_started(self.now);
    }

    fn replace_envoy(&mut self) {
        self.envoy = Some(self.fresh_envoy());
        self.decision.envoy_replaced(self.now);
    }

    fn stop_envoy(&mut self) {
        self.envoy = None;
        self.decision.envoy_gone();
    }

    /// One step; false when there is none at this time.
    fn step(&mut self) -> bool {
        match self.decision.next(self.now) {
            Step::Wait(until) => return until <= self.now,
            Step::Read => {
                self.decision
                    .read(self.now, self.wall(), self.files.files());
            }
            Step::Validate(contents) => {
                self.candidates += 1;
                let verdict = if is_poison(&contents) {
                    Err("no".to_owned())
                } else {
                    Ok(())
                };
                self.decision.validated(self.now, self.wall(), verdict);
            }
            Step::Observe => {
                let answer = match &self.envoy {
                    Some(envoy) if self.admin_answers => {
                        let taken = envoy.taken.as_ref();
                        let secret = Seen {
                            known: true,
                            version: taken.map(|(generation, _)| version(*generation)),
                            refusals: envoy.refusals,
                        };
                        let serials = taken.iter().map(|(_, serial)| serial.clone());
                        Ok(Observation {
                            secrets: vec![secret.clone(), secret],
                            serials: Ok(HashSet::from_iter(serials)),
                        })
                    }
                    _ => Err("connection refused".to_owned()),
                };
                self.decision.observed(self.now, self.now, answer);
            }
            Step::Vacate(generation) => {
                assert_eq!(self.duty, Duty::Listener);
                assert!(self.attempted < generation);
                self.attempted = generation;
                if self.disk_full {
                    self.decision.vacated(self.now, Err("disk full".to_owned()));
                    return true;
                }
                self.published = None;
                self.vacant = true;
                if let Some(envoy) = &mut self.envoy {
                    envoy.refusals += 1;
                }
                self.decision.vacated(self.now, Ok(()));
            }
            Step::Publish(generation, contents) => {
                // What must hold of everything that is ever published.
                assert!(self.attempted < generation);
                self.attempted = generation;
                if self.disk_full {
                    self.decision
                        .published(self.now, Err("disk full".to_owned()));
                    return true;
                }
                let wall = self.wall();
                assert!(
                    Set::of(&contents, None, wall, Age::Valid).is_ok()
                        || self.duty == Duty::Listener
                            && Set::of(&contents, None, wall, Age::Any).is_ok()
                );
                if let Some(envoy) = &mut self.envoy {
                    envoy.take(generation, &contents, wall);
                }
                self.publications += 1;
                self.published = Some((generation, contents));
                self.whole = true;
                self.vacant = false;
                self.decision.published(self.now, Ok(()));
            }
        }
        true
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            let mut steps = 0;
            while self.step() {
                steps += 1;
                assert!(steps < 100, "it spins");
            }
            let Step::Wait(next) = self.decision.next(self.now) else {
                continue;
            };
            assert!(next > self.now);
            if next > until {
                self.now = until;
                return;
            }
            self.now = next;
        }
    }

    fn write(&mut self, files: Kind, then: Duration) {
        self.files = files;
        self.run(then);
    }

    fn published(&self) -> Contents {
        clean(&self.published.as_ref().unwrap().1)
    }

    /// The number of changes that ended so: ok, refused, rejected, unconfirmed.
    fn results(&self) -> [u64; 4] {
        self.decision.record.status()[0].reloads
    }

    fn shows(&self, kind: Kind) -> bool {
        self.published() == clean(&kind.files().unwrap())
    }
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

#[test]
fn a_first_set_is_tried_by_a_candidate_and_published_at_once() {
    let mut world = World::new(Kind::Ec(0));
    world.run(ms(1));
    assert!(world.decision.is_ready());
    assert_eq!((world.candidates, world.publications), (1, 1));
}

#[test]
fn without_a_usable_set_envoy_waits_and_is_told_for_what() {
    let mut world = World::new(Kind::Missing);
    world.run(ms(100));
    assert_eq!(world.decision.waiting_for(), "is missing");
    for kind in [
        Kind::Expired,
        Kind::Mismatched,
        Kind::Torn(3),
        Kind::Poison(1),
    ] {
        world.write(kind, ms(2000));
        assert!(!world.decision.is_ready(), "{kind:?}");
    }
    assert!(
        world
            .decision
            .waiting_for()
            .contains("a candidate Envoy refused it")
    );
    world.write(Kind::Ec(1), ms(200));
    assert!(world.decision.is_ready());
}

#[test]
fn a_change_is_loaded_within_two_seconds_whenever_it_comes() {
    for offset in (0..1000).step_by(50) {
        let mut world = World::live(Kind::Ec(0));
        world.run(ms(offset));
        world.write(Kind::Rsa, ms(1800));
        assert!(world.shows(Kind::Rsa), "{offset}");
        assert_eq!(world.results(), [2, 0, 0, 0]);
        assert_eq!(world.candidates, 1, "a running Envoy judges by itself");
    }
}

#[test]
fn a_torn_writer_of_two_seconds_is_refused_and_then_loaded() {
    let mut world = World::live(Kind::Ec(0));
    world.write(Kind::Torn(1), ms(2000));
    world.write(Kind::Mismatched, ms(300));
    assert!(world.shows(Kind::Ec(0)));
    world.write(Kind::Rsa, ms(1800));
    assert!(world.shows(Kind::Rsa));
    assert_eq!(world.publications, 2);
}

#[test]
fn of_twenty_changes_in_four_seconds_the_last_one_wins() {
    let mut world = World::live(Kind::Ec(0));
    for number in 1..=20 {
        world.write(Kind::Ec(number), ms(200));
    }
    world.run(ms(1800));
    assert!(world.shows(Kind::Ec(20)));
    assert!(world.publications <= 3);
}

#[test]
fn the_same_bytes_are_nothing_new() {
    let mut world = World::live(Kind::Ec(0));
    world.write(Kind::Ec(0), ms(60_000));
    assert_eq!(world.publications, 1);
    assert_eq!(world.results(), [1, 0, 0, 0]);
}

#[test]
fn what_envoy_rejects_is_followed_by_the_last_good_set_and_not_tried_again() {
    let mut world = World::live(Kind::Ec(0));
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
fn what_is_refused_is_said_once_and_tried_again_when_it_changes() {
    let mut world = World::live(Kind::Ec(0));
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
    let mut world = World::live(Kind::Ec(0));
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
    let mut world = World::of(Duty::Listener, Kind::Other);
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
fn a_silent_admin_is_no_reason_to_go_back() {
    let mut world = World::live(Kind::Ec(0));
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
    let mut world = World::live(Kind::Ec(0));
    world.stop_envoy();
    world.admin_answers = false;
    world.start_envoy();
    world.run(ms(70_000));
    let shown = |world: &World| {
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
    let mut world = World::live(Kind::Ec(0));
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
    let mut world = World::live(Kind::Ec(0));
    // It reads its files no more.
    let deaf = world.envoy.take();
    world.files = Kind::Rsa;
    for _ in 0..40 {
        world.envoy = None;
        world.admin_answers = true;
        while matches!(
            world.decision.next(world.now),
            Step::Read | Step::Publish(..)
        ) {
            world.step();
        }
        world.envoy = deaf.as_ref().map(|envoy| Envoy {
            taken: envoy.taken.clone(),
            refusals: 0,
        });
        while matches!(world.decision.next(world.now), Step::Observe) {
            world.step();
        }
        world.now += ms(500);
    }
    assert!(world.shows(Kind::Ec(0)));
    assert_eq!(world.results()[3], 1);
}

#[test]
fn a_key_that_nobody_can_match_is_tried_by_a_candidate() {
    let mut world = World::live(Kind::Ec(0));
    world.write(Kind::Ed25519, ms(2000));
    assert_eq!(world.candidates, 2);
    assert!(world.shows(Kind::Ed25519));
}

#[test]
fn a_full_disk_delays_and_loses_nothing() {
    let mut world = World::live(Kind::Ec(0));
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
fn without_a_verdict_of_the_candidate_it_goes_on() {
    let mut world = World::new(Kind::Ec(0));
    world.step();
    assert!(matches!(world.decision.next(world.now), Step::Validate(_)));
    world.run(ms(9000));
    assert!(!world.decision.is_ready());
    world.run(ms(2000));
    assert!(world.decision.is_ready());
}

#[test]
fn what_an_earlier_life_published_is_good_enough_to_start_with() {
    let kept = || Some(Kind::Rsa.files().unwrap());
    let now = Instant::now();
    let mut world = World::going_on(Duty::Gate, Kind::Missing, now, now, 7, kept());
    world.run(ms(10));
    assert!(world.decision.is_ready());
    assert_eq!(world.decision.record.status()[0].generation, 7);
    assert_eq!((world.publications, world.candidates), (0, 1));
    world.write(Kind::Ec(1), ms(2000));
    assert_eq!(world.decision.record.status()[0].generation, 8);

    let expired = Kind::Expired.files().unwrap();
    let mut world = World::going_on(Duty::Gate, Kind::Missing, now, now, 7, Some(expired));
    world.run(ms(2000));
    assert!(!world.decision.is_ready(), "it has expired since");

    let mut world = World::going_on(Duty::Gate, Kind::Poison(1), now, now, 7, kept());
    world.run(ms(10));
    assert!(world.decision.is_ready(), "a candidate refused the files");

    let mut world = World::going_on(Duty::Gate, Kind::Rsa, now, now, 7, kept());
    world.decision.envoy_started(now);
    world.run(ms(10));
    assert!(
        world.decision.is_ready(),
        "a thread that starts again beside a running Envoy"
    );
    assert_eq!((world.publications, world.candidates), (0, 0));
}

#[test]
fn without_a_listeners_set_envoy_starts_and_takes_it_when_it_is_there() {
    for bad in [Kind::Missing, Kind::Mismatched, Kind::Torn(3)] {
        let mut world = World::of(Duty::Listener, bad);
        world.run(ms(1));
        assert!(world.decision.is_ready(), "{bad:?}");
        assert!(world.vacant, "{bad:?}");
        world.start_envoy();
        world.run(ms(2000));
        assert_eq!(world.results(), [0, 1, 0, 0], "{bad:?}");
        assert!(world.decision.is_stale(world.wall()));
        world.write(Kind::Ec(1), ms(1000));
        assert_eq!(world.results(), [1, 1, 0, 0], "{bad:?}");
        assert!(world.shows(Kind::Ec(1)));
        assert!(!world.decision.is_stale(world.wall()));
        assert_eq!(world.candidates, 0, "the running Envoy judges");
    }
}

#[test]
fn a_listeners_first_set_is_there_at_once_and_envoy_judges_it() {
    let mut world = World::of(Duty::Listener, Kind::Rsa);
    world.run(ms(1));
    assert!(world.decision.is_ready() && world.shows(Kind::Rsa));
    assert_eq!((world.publications, world.candidates), (1, 0));

    let mut world = World::of(Duty::Listener, Kind::Poison(0));
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
    let mut world = World::of(Duty::Listener, Kind::Expired);
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
    let mut world = World::going_on(Duty::Listener, Kind::Missing, now, now, 7, kept);
    world.run(ms(1));
    assert!(world.decision.is_ready());
    assert!(!world.vacant, "what was published before it had expired");

    let mut world = World::new(Kind::Expired);
    world.run(ms(5000));
    assert!(
        !world.decision.is_ready(),
        "the xDS client needs a good one"
    );
}

#[test]
fn an_envoy_is_not_started_before_a_listeners_file_can_be_written() {
    for files in [Kind::Missing, Kind::Rsa] {
        let mut world = World::of(Duty::Listener, files);
        world.disk_full = true;
        world.run(ms(5000));
        assert!(!world.decision.is_ready());
        world.disk_full = false;
        world.run(ms(2000));
        assert!(world.decision.is_ready());
    }
}

#[test]
fn a_certificate_that_is_not_valid_yet_is_tried_again_when_it_is() {
    let mut world = World::live(Kind::Ec(0));
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

/// What may happen between any two steps.
#[derive(Clone, Debug, PartialEq)]
enum Fault {
    Write(Kind),
    EnvoyStarts,
    EnvoyEnds,
    EnvoyIsReplaced,
    AdminAnswers(bool),
    DiskFull(bool),
    Asked,
    ThreadStartsAgain,
    /// It died between the two files of a set: the CA's is of the next generation.
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
        1 => any::<bool>().prop_map(Fault::DiskFull),
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
        let mut world = World::of(duty, Kind::Missing);
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
                Fault::DiskFull(yes) => world.disk_full = yes,
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
                    let vacant = world.vacant;
                    world = World::going_on(duty, files, start, now, generation, kept);
                    world.vacant = vacant;
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
    }
}

#[test]
fn a_staple_comes_and_goes_and_the_certificate_is_never_without_envoy() {
    let published = |world: &World| {
        let Material::Pair { cert, staple, .. } = &world.published.as_ref().unwrap().1[0] else {
            panic!("no pair");
        };
        (cert.to_vec(), staple.is_some())
    };
    let stapled = |staple| Kind::Stapled("ec", staple);
    let told = |world: &World| {
        let status = &world.decision.record.status()[0];
        (status.last_result, status.last_error.clone())
    };
    let mut world = World::of(Duty::Listener, stapled("staple-later.der"));
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
