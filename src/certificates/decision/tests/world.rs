//! A simulated world: files, an Envoy that judges as the real one does, a clock.

use super::*;
use crate::certificates::pem;
use crate::certificates::serial::Serial;
use crate::testing::data;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::collections::HashSet;

const CHECK: Duration = Duration::from_secs(1);

/// What a writer may leave behind. Good ones are told apart by their chain or their kind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Ec(u8),
    Rsa,
    Other,
    /// A good set whose key does not say whose it is.
    Ed25519,
    /// Good for us, and not for Envoy.
    Poison(u8),
    Torn(u8),
    Mismatched,
    Expired,
    Missing,
    /// A certificate and its key by this name, and the OCSP response in this file.
    Stapled(&'static str, &'static str),
    /// CAs in these files.
    Cas(&'static [&'static str]),
    /// Two CAs, each with a list; the second one's list begins half a minute into the world.
    Listed,
}

impl Kind {
    pub(super) fn files(self) -> Result<Contents, Refusal> {
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
            Kind::Cas(names) => {
                let ca: Vec<_> = names.iter().flat_map(|name| data(name)).collect();
                vec![trust(&ca, None)]
            }
            Kind::Listed => {
                let ca = [data("ca.crt"), data("ca-second.crt")].concat();
                let lists = [data("crl.pem"), later_list()].concat();
                vec![trust(&ca, Some(&lists))]
            }
            Kind::Missing => {
                return Err(Refusal {
                    file: None,
                    why: "is missing".to_owned(),
                    term: lifetime::Term::default(),
                });
            }
        })
    }

    pub(super) fn is_good(self) -> bool {
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
pub(super) fn whole(chain: &[u8], key: &[u8]) -> Contents {
    vec![
        Material::Pair {
            cert: secret(chain),
            key: secret(key),
            staple: None,
        },
        trust(&data("ca.crt"), None),
    ]
}

fn trust(ca: &[u8], crl: Option<&[u8]>) -> Material {
    Material::Trust {
        ca: secret(ca),
        crl: crl.map(secret),
        leaf_only: false,
    }
}

/// The second CA's list, from half a minute into the world on.
fn later_list() -> Vec<u8> {
    let pem = data("crl-second.pem");
    let mut der = pem::blocks(&pem).unwrap()[0].der.to_vec();
    let [since, later] = [b"240101000000Z", b"250101000030Z"];
    let at = der.windows(since.len()).position(|bytes| bytes == since);
    der[at.unwrap()..][..later.len()].copy_from_slice(later);
    let body = STANDARD.encode(&der);
    format!("-----BEGIN X509 CRL-----\n{body}\n-----END X509 CRL-----\n").into()
}

pub(super) fn clean(contents: &Contents) -> Contents {
    let clean = contents.iter().map(crate::certificates::check::cleaned);
    clean.collect::<Result<_, _>>().unwrap()
}

pub(super) fn secret(bytes: &[u8]) -> SecretBytes {
    SecretBytes::copy(bytes).unwrap()
}

/// An Envoy that reads its files at once, and judges them as the real one does.
#[derive(Default)]
pub(super) struct ScenarioEnvoy {
    pub(super) taken: Option<(u64, Option<Serial>)>,
    pub(super) refusals: u64,
}

impl ScenarioEnvoy {
    pub(super) fn take(&mut self, generation: u64, contents: &Contents, wall: SystemTime) {
        if is_poison(contents) {
            self.refusals += 1;
        } else {
            let set = Set::of(contents, None, wall, Age::Any).unwrap();
            self.taken = Some((generation, set.serial().cloned()));
        }
    }
}

pub(super) struct Scenario {
    pub(super) duty: Duty,
    pub(super) start: Instant,
    /// What the clock on the wall shows at the start.
    pub(super) wall_start: SystemTime,
    pub(super) now: Instant,
    pub(super) decision: Decision,
    pub(super) files: Kind,
    pub(super) envoy: Option<ScenarioEnvoy>,
    pub(super) admin_answers: bool,
    /// Whether anything in Envoy's configuration uses the secrets.
    pub(super) used: bool,
    /// Whether a `stats_matcher` hides the secrets' statistics.
    pub(super) hides: bool,
    /// Whether Envoy is not live so far, and has not come to its files.
    pub(super) starting: bool,
    /// How often Envoy was asked.
    pub(super) asked: u64,
    /// Whether the clock on the wall was ever set.
    pub(super) stepped: bool,
    pub(super) disk_full: bool,
    pub(super) published: Option<(u64, Arc<Contents>)>,
    /// The last generation that was to be published: one file of a set may hold it.
    pub(super) attempted: u64,
    /// Whether the files of the set are of one generation.
    pub(super) whole: bool,
    /// Whether the SDS file holds nothing.
    pub(super) vacant: bool,
    pub(super) publications: u64,
    pub(super) candidates: u64,
}

impl Scenario {
    pub(super) fn new(files: Kind) -> Scenario {
        Scenario::of(Duty::Gate, files)
    }

    pub(super) fn of(duty: Duty, files: Kind) -> Scenario {
        let now = Instant::now();
        Scenario::going_on(duty, files, now, now, 0, None)
    }

    /// The world of a listener's set whose files are looked at so rarely.
    pub(super) fn looked_at_every(check: Duration, files: Kind) -> Scenario {
        let mut world = Scenario::of(Duty::Listener, files);
        let names = world.decision.names.clone();
        world.decision = Decision::new(names, world.duty, check, world.now, 0, None);
        world
    }

    pub(super) fn going_on(
        duty: Duty,
        files: Kind,
        start: Instant,
        now: Instant,
        generation: u64,
        kept: Option<Contents>,
    ) -> Scenario {
        let names = vec!["leaf".to_owned(), "ca".to_owned()];
        Scenario {
            duty,
            start,
            wall_start: SystemTime::UNIX_EPOCH + Duration::from_secs(1_735_689_600),
            now,
            decision: Decision::new(names, duty, CHECK, now, generation, kept),
            files,
            envoy: None,
            admin_answers: true,
            used: true,
            hides: false,
            starting: false,
            asked: 0,
            stepped: false,
            disk_full: false,
            published: None,
            attempted: generation,
            whole: true,
            vacant: false,
            publications: 0,
            candidates: 0,
        }
    }

    pub(super) fn live(files: Kind) -> Scenario {
        let mut world = Scenario::new(files);
        world.run(Duration::from_secs(1));
        world.start_envoy();
        world.run(Duration::from_secs(1));
        assert_eq!(world.decision.record.status()[0].last_result, Some("ok"));
        world
    }

    pub(super) fn wall(&self) -> SystemTime {
        self.wall_start + (self.now - self.start)
    }

    pub(super) fn fresh_envoy(&self) -> ScenarioEnvoy {
        let mut envoy = ScenarioEnvoy::default();
        if let Some((generation, contents)) = &self.published {
            envoy.take(*generation, contents, self.wall());
        }
        envoy.refusals += u64::from(self.vacant);
        envoy
    }

    pub(super) fn start_envoy(&mut self) {
        self.envoy = Some(match self.starting {
            true => ScenarioEnvoy::default(),
            false => self.fresh_envoy(),
        });
        self.decision.envoy_started(self.now);
    }

    /// Envoy comes to its files, if it has not, and is live.
    pub(super) fn come_live(&mut self) {
        if std::mem::take(&mut self.starting) && self.envoy.is_some() {
            self.envoy = Some(self.fresh_envoy());
        }
    }

    pub(super) fn replace_envoy(&mut self) {
        self.starting = false;
        self.envoy = Some(self.fresh_envoy());
        self.decision.envoy_replaced(self.now);
    }

    pub(super) fn stop_envoy(&mut self) {
        self.envoy = None;
        self.decision.envoy_gone();
    }

    /// Does a step; returns false when there is none at this time.
    pub(super) fn step(&mut self) -> bool {
        match self.decision.next(self.now) {
            SetStep::Wait(until) => return until <= self.now,
            SetStep::Read => {
                self.decision
                    .read(self.now, self.wall(), self.files.files());
            }
            SetStep::Validate(contents) => {
                self.candidates += 1;
                let verdict = if is_poison(&contents) {
                    Err("no".to_owned())
                } else {
                    Ok(())
                };
                self.decision.validated(self.now, self.wall(), verdict);
            }
            SetStep::Observe => {
                self.asked += 1;
                let answer = match &self.envoy {
                    Some(envoy) if self.admin_answers => {
                        let taken = envoy.taken.as_ref();
                        let secret = SecretSeen {
                            known: self.used && !self.hides,
                            version: taken.map(|(generation, _)| version(*generation)),
                            refusals: envoy.refusals,
                        };
                        let serials = taken.iter().filter_map(|(_, serial)| serial.clone());
                        Ok(Observation {
                            starting: self.starting,
                            hidden: self.hides,
                            secrets: vec![secret.clone(), secret],
                            serials: Ok(HashSet::from_iter(serials)),
                        })
                    }
                    _ => Err("connection refused".to_owned()),
                };
                self.decision.observed(self.now, self.now, answer);
            }
            SetStep::Vacate(generation) => {
                assert_eq!(self.duty, Duty::Listener);
                assert!(self.attempted < generation);
                self.attempted = generation;
                if self.disk_full {
                    self.decision.vacated(self.now, Err("disk full".to_owned()));
                    return true;
                }
                self.published = None;
                self.vacant = true;
                if let (Some(envoy), false) = (&mut self.envoy, self.starting) {
                    envoy.refusals += 1;
                }
                self.decision.vacated(self.now, Ok(()));
            }
            SetStep::Publish(generation, contents) => {
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
                        || (self.duty == Duty::Listener || self.stepped)
                            && Set::of(&contents, None, wall, Age::Any).is_ok()
                );
                if let (Some(envoy), false) = (&mut self.envoy, self.starting) {
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

    pub(super) fn run(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            let mut steps = 0;
            while self.step() {
                steps += 1;
                assert!(steps < 100, "it spins");
            }
            let SetStep::Wait(next) = self.decision.next(self.now) else {
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

    pub(super) fn write(&mut self, files: Kind, then: Duration) {
        self.files = files;
        self.run(then);
    }

    pub(super) fn published(&self) -> Contents {
        clean(&self.published.as_ref().unwrap().1)
    }

    /// The number of changes that ended so: ok, refused, rejected, unconfirmed.
    pub(super) fn results(&self) -> [u64; 4] {
        self.decision.record.status()[0].reloads
    }

    pub(super) fn shows(&self, kind: Kind) -> bool {
        self.published() == clean(&kind.files().unwrap())
    }
}
