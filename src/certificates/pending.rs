//! A set that is published and waits for Envoy's word.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::check::{self, Checked};
use super::confirm::{self, Confirmation, Expected, Observation, SecretSeen};
use super::lifetime::Term;
use super::read::{Contents, Refusal};
use super::serial::Serial;
use super::usable::Age;
use crate::clock::rfc3339_seconds;

/// How long Envoy has to take what was published; it takes 1 to 40 ms.
const WITHIN: Duration = Duration::from_secs(10);
/// How long an Envoy that starts has to take what was published, from its start and from when it was
/// last known not to be live: it may have to wait for name servers, or for its control plane.
const START_WITHIN: Duration = Duration::from_secs(60);
/// Between two questions to Envoy, at first; doubled each time.
const ASK_FIRST: Duration = Duration::from_millis(2);
/// Between two questions to an Envoy that starts, at first.
const ASK_STARTING: Duration = Duration::from_millis(100);
/// Between two questions to Envoy, at the most.
const ASK_AT_MOST: Duration = Duration::from_millis(500);
/// Between two questions to Envoy, once its answer is late.
const ASK_LATE: Duration = Duration::from_secs(30);
/// Between two questions to an Envoy that is slow to answer, or to start, at the most.
const ASK_SLOW: Duration = Duration::from_secs(2);
/// What Envoy has refused by the first look, and not taken so long after it, is this set.
const IN_DOUBT: Duration = Duration::from_secs(1);

/// A set that passed the checks, with nothing in it that Envoy does not need.
#[derive(Clone, Debug)]
pub struct Set {
    pub contents: Arc<Contents>,
    /// What was read of each secret, in their order.
    pub checked: Vec<Checked>,
    /// Which file the set has not as it is, and why.
    pub lacks: Option<Refusal>,
    /// How long that stands, though no file changes.
    pub term: Term,
}

impl Set {
    /// The set in these files, when it can be used at this time; `loaded` is what Envoy has.
    ///
    /// # Errors
    /// When it cannot: which file, and why.
    pub fn of(
        files: &Contents,
        loaded: Option<&Contents>,
        now: SystemTime,
        age: Age,
    ) -> Result<Set, Refusal> {
        let mut contents = Contents::with_capacity(files.len());
        let (mut checked, mut lacks, mut term) = (Vec::new(), None, Term::default());
        for (at, material) in files.iter().enumerate() {
            let loaded = loaded.and_then(|loaded| loaded.get(at));
            let found = check::check(material, loaded, now, age)?;
            contents.push(found.material);
            checked.push(found.checked);
            lacks = lacks.or(found.lacks);
            term = term.and(found.term);
        }
        Ok(Set {
            contents: Arc::new(contents),
            checked,
            lacks,
            term,
        })
    }

    /// The leaf's serial number, in a set that has one.
    pub fn serial(&self) -> Option<&Serial> {
        self.checked.iter().find_map(Checked::serial)
    }

    /// Whether nothing is left to know of the set that only Envoy can tell.
    pub fn is_sure(&self) -> bool {
        self.checked.iter().all(Checked::is_sure)
    }
}

impl fmt::Display for Set {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(first) = self.checked.first() else {
            return Ok(());
        };
        match first {
            Checked::Leaf(leaf) => write!(out, "serial {}", leaf.serial)?,
            Checked::Bundle(bundle) => {
                let cas = bundle.cas;
                write!(out, "{cas} CA{}", if cas == 1 { "" } else { "s" })?;
                if bundle.listed > 0 {
                    write!(out, ", {} of them with a revocation list", bundle.listed)?;
                }
            }
        }
        let [_, until] = first.validity();
        write!(out, ", valid until {}", rfc3339_seconds(until))
    }
}

/// Where a set comes from that is to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The files hold it.
    Files,
    /// The set was published before this Envoy, or this thread, began.
    EarlierRun,
    /// The last good set: Envoy did not take the one after it.
    Rollback,
    /// The set is out of date, and there is no other.
    LastResort,
}

/// A set that is published, and not confirmed.
#[derive(Debug)]
pub struct Pending {
    pub set: Set,
    pub origin: Origin,
    /// When Envoy is asked next.
    pub ask: Instant,
    before: Option<Vec<SecretSeen>>,
    /// Whether the set was published before this Envoy started: that Envoy can have refused nothing
    /// else.
    first: bool,
    /// Until when an Envoy that starts is waited for to tell of the set, before another one comes.
    unheard: Option<Instant>,
    /// From when on whatever Envoy has refused is this set: the counters were not seen before it.
    doubt: Option<Instant>,
    /// When Envoy's word is late; none while no Envoy runs, or once the word is late.
    deadline: Option<Instant>,
    late: bool,
    /// Whether Envoy said that it uses no such secret, when it was last asked.
    unused: bool,
    /// Whether Envoy was not live when it was last asked, and had not come to all of the secrets yet.
    starting: bool,
    pause: Duration,
}

impl Pending {
    /// A set that a running Envoy is to take from now on; `before` is what it said just before.
    pub fn new(set: Set, origin: Origin, before: Option<Vec<SecretSeen>>, now: Instant) -> Pending {
        Pending {
            set,
            origin,
            // The sets that change together are all published by then.
            ask: now + ASK_FIRST,
            before,
            first: false,
            unheard: None,
            doubt: None,
            deadline: Some(now + WITHIN),
            late: false,
            unused: false,
            starting: false,
            pause: ASK_FIRST,
        }
    }

    /// This set for an Envoy that starts now: its counters begin at nothing, and it reads the
    /// files before its admin answers.
    pub fn restarted(self, now: Instant) -> Pending {
        Pending {
            before: None,
            first: true,
            unheard: Some(now + WITHIN),
            doubt: None,
            deadline: Some(now + START_WITHIN),
            late: false,
            unused: false,
            starting: false,
            ask: now + ASK_STARTING,
            pause: ASK_STARTING,
            ..self
        }
    }

    /// Waits for Envoy's word without a deadline, because no Envoy is there to take the set.
    pub fn suspend(&mut self) {
        self.deadline = None;
    }

    /// Whether nobody waits for the word any more.
    pub fn is_late(&self) -> bool {
        self.late
    }

    /// Whether an Envoy that starts may have read it, and has not told of it yet: with another set
    /// in its place nobody would know which one it refused.
    pub fn is_unheard(&self) -> bool {
        self.unheard.is_some()
    }

    /// Whether Envoy uses no such secret, so that it can refuse nothing.
    pub fn is_unused(&self) -> bool {
        self.unused
    }

    /// Whether Envoy is not live, for however long, and has not come to the set's secrets yet.
    pub fn is_starting(&self) -> bool {
        self.starting
    }

    /// What Envoy's answer shows, which came at `now` to what was asked at `asked`; and whether its
    /// time to take the set is over. `good` is the leaf of the last good set, where that is another.
    ///
    /// An Envoy whose time is over may have another set. Where what it has cannot be known in time,
    /// nothing says that this one is bad: it stays, and Envoy is asked now and then.
    pub fn judge(
        &mut self,
        generation: u64,
        names: &[String],
        good: Option<&Serial>,
        [asked, now]: [Instant; 2],
        answer: Result<Observation, String>,
    ) -> (Confirmation, bool) {
        let shown = match &answer {
            Ok(observed) => {
                let nothing = [SecretSeen::NOTHING; 2];
                let took = |seen: &SecretSeen| seen.version.is_some();
                let first = self.first && !observed.secrets.iter().any(took)
                    || self.doubt.is_some_and(|doubt| doubt <= asked);
                let expected = Expected {
                    generation,
                    serial: self.set.serial(),
                    names,
                    good,
                    before: if first {
                        Some(nothing.as_slice())
                    } else {
                        self.before.as_deref()
                    },
                };
                confirm::judge(&expected, observed)
            }
            Err(why) => Confirmation::Accepted(format!("Envoy cannot be asked: {why}")),
        };
        self.unused = matches!(shown, Confirmation::Unused(_));
        self.starting = answer.as_ref().is_ok_and(|observed| {
            // With some version of each secret Envoy has come to them, and takes the next one at once.
            observed.starting && observed.secrets.iter().any(|seen| seen.version.is_none())
        });
        if self.starting && !self.late {
            self.deadline = Some(now + START_WITHIN);
        }
        let over = self.deadline.is_some_and(|deadline| deadline <= now);
        match shown {
            Confirmation::Taken | Confirmation::Rejected(_) => return (shown, over),
            Confirmation::Other(_) if over => return (shown, over),
            Confirmation::Accepted(_) | Confirmation::Unused(_) if over => {
                self.late = true;
                self.deadline = None;
            }
            Confirmation::Other(_) if self.late && self.deadline.is_none() && !self.starting => {
                // It could not be asked for long, and may not have come to its files either.
                self.deadline = Some(now + WITHIN);
                self.pause = ASK_STARTING;
            }
            Confirmation::Other(_) | Confirmation::Accepted(_) | Confirmation::Unused(_) => {}
        }
        let known = |secrets: &[SecretSeen]| secrets.iter().all(|seen| seen.known);
        if let Ok(observed) = answer
            && known(&observed.secrets)
            && !self.before.as_deref().is_some_and(known)
        {
            // A counter moves after the first look, or it was up before.
            self.before = Some(observed.secrets);
            self.doubt = Some(now + IN_DOUBT);
            self.unheard = None;
        }
        self.unheard = self.unheard.filter(|until| now < *until);
        let pause = if self.late && self.deadline.is_none() {
            ASK_LATE
        } else {
            self.pause
        };
        // Envoy's main thread answers: it has other things to do.
        let took = now.duration_since(asked);
        self.ask = now + pause.max((took * 10).min(ASK_SLOW));
        // It may be without its control plane for hours.
        let most = if self.starting { ASK_SLOW } else { ASK_AT_MOST };
        self.pause = (self.pause * 2).min(most);
        (shown, over)
    }
}
