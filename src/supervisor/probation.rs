//! Whether the generation that runs a changed configuration does worse than the one before did.
//!
//! The rule, which must never blame a good configuration and need not find every bad one:
//!
//! - Two shares are compared: HTTP answers with 5xx or without a route, of all answers; and
//!   connections to upstreams that failed, of all that were tried. `old` is what the generation
//!   before did in its last 30 to 40 s, or in its whole life where those had fewer than 20 of a
//!   kind; with fewer than 20 even so, that share is not compared. `new` is everything since the new
//!   generation's start, which holds the last seconds of the old one, too: Envoy hands those over.
//! - `new` is worse if all of this holds: at least 10 went wrong (a few requests never return a
//!   configuration); the rate is higher by [`ANSWERS_MARGIN`] or [`CONNECTS_MARGIN`] (5 or 30 points
//!   of 100: a pool that finds one host of ten dead is no worse configuration); it is three times
//!   the old one, or what goes well is less than half of what did; and chance does not explain it:
//!   the two rates are more than four standard deviations apart (one in 30,000).
//! - And since the look before, it is still so: what went wrong for a moment, while hosts were being
//!   looked up, does not count.
//! - A listener to which 20 connections and requests came in the old one's last 30 to 40 s, and
//!   at whose port none listens now, is worse in itself: its clients are refused. So is a generation
//!   without any listener where there was one. Two looks must show it.
//! - Answers that have stopped are worse: a listener gave at least 100 in the old one's last 30 to 40 s,
//!   and from its 10th second on, for 6 s or more, less than a twentieth of that rate, although 20
//!   clients have connected to it.

use std::time::Duration;

use crate::connections::Local;
use crate::drain::Time;
use crate::envoy::traffic::{Door, Share, Traffic};

/// How long a new generation is watched.
pub const LASTS: Duration = Duration::from_secs(30);

/// The time between two looks at a generation that is watched.
pub const LOOK: Duration = Duration::from_secs(2);

/// The time between two looks at a generation that is not watched, so that its rates are known when
/// another follows it.
pub const LOOK_AT_REST: Duration = Duration::from_secs(10);

/// The most looks that are kept: the oldest is 30 to 40 s old.
const LOOKS: usize = 4;

/// A share of fewer than these says nothing.
const FEW: u64 = 20;

/// What went wrong less often than this may have had any cause.
const FEW_BAD: u64 = 10;

const ANSWERS_MARGIN: f64 = 0.05;
const CONNECTS_MARGIN: f64 = 0.3;

/// How far apart two rates are that chance does not explain, in standard deviations.
const CHANCE: f64 = 4.0;

/// A rate of answers is only told of that many, and only after that time.
const ANSWERS_FEW: u64 = 100;
const ANSWERS_AFTER: Duration = Duration::from_secs(10);
const ANSWERS_FOR: Duration = Duration::from_secs(6);

/// What a generation did before another followed it.
#[derive(Clone, Debug, Default)]
pub struct TrackRecord {
    /// The last looks, the oldest first.
    looks: Vec<(Time, Traffic)>,
}

impl TrackRecord {
    /// Somebody looked at the generation.
    pub fn on_look(&mut self, now: Time, traffic: Traffic) {
        if self.looks.len() >= LOOKS {
            self.looks.remove(0);
        }
        self.looks.push((now, traffic));
    }

    /// What the generation did of late, or in its whole life where that says nothing.
    fn share(&self, of: impl Fn(&Traffic) -> Share) -> Option<Share> {
        let (first, last) = (self.looks.first()?, self.looks.last()?);
        let (life, before) = (of(&last.1), of(&first.1));
        let shares = [life.since(before), life];
        shares.into_iter().find(|share| share.of >= FEW)
    }

    /// What came to each listener of late, and in what time.
    fn doors(&self) -> (f64, Vec<Door>) {
        let (Some(first), Some(last)) = (self.looks.first(), self.looks.last()) else {
            return (0.0, Vec::new());
        };
        let time = last.0.saturating_sub(first.0).as_secs_f64();
        (time, since(&first.1.doors, &last.1.doors))
    }
}

/// A new generation that is watched.
#[derive(Clone, Debug)]
pub struct Probation {
    before: TrackRecord,
    since: Time,
    last: Traffic,
    /// What the listeners had seen when nothing of the old one's came in any more.
    calm: Option<(Time, Vec<Door>)>,
    /// What the look before found to be missing.
    missing: Option<String>,
}

impl Probation {
    /// A generation that is live since then, and what the one before did.
    pub fn new(before: TrackRecord, since: Time) -> Probation {
        Probation {
            before,
            since,
            last: Traffic::default(),
            calm: None,
            missing: None,
        }
    }

    /// What the generation before did.
    pub fn before(&self) -> TrackRecord {
        self.before.clone()
    }

    /// When the new generation has passed.
    pub fn until(&self) -> Time {
        self.since + LASTS
    }

    /// Somebody looked at the new generation: why it is worse, if it is.
    pub fn on_look(&mut self, now: Time, traffic: Traffic) -> Option<String> {
        let before = std::mem::replace(&mut self.last, traffic);
        let last = &self.last;
        let worse = |of: fn(&Traffic) -> Share, margin| {
            let old = self.before.share(of)?;
            let lately = of(last).since(of(&before));
            is_worse(old, of(last), lately, margin).then_some((of(last), old))
        };
        if let Some((new, old)) = worse(|it| it.answers, ANSWERS_MARGIN) {
            return Some(format!(
                "{} of {} answers are 5xx or have no route, against {} before",
                percent(new.rate()),
                new.of,
                percent(old.rate())
            ));
        }
        if let Some((new, old)) = worse(|it| it.connects, CONNECTS_MARGIN) {
            return Some(format!(
                "{} of {} connections to upstreams failed, against {} before",
                percent(new.rate()),
                new.of,
                percent(old.rate())
            ));
        }
        let missing = self.missing(now);
        let again = missing.is_some() && missing == self.missing;
        self.missing = missing;
        self.missing.clone().filter(|_| again)
    }

    /// What the generation before had, and the new one lacks.
    fn missing(&mut self, now: Time) -> Option<String> {
        let doors = &self.last.doors;
        let (time, before) = self.before.doors();
        if !before.is_empty() && doors.is_empty() {
            return Some("Envoy has no listener any more".into());
        }
        let gone = before.iter().find(|old| {
            let uses = old.connections.saturating_add(old.answers);
            uses >= FEW && !doors.iter().any(|new| is_same(new, old))
        });
        if let Some(Door { name, .. }) = gone {
            return Some(format!("listener {name}, which had traffic, is gone"));
        }
        if now < self.since + ANSWERS_AFTER || time < 1.0 {
            return None;
        }
        let (calm, seen) = self.calm.get_or_insert_with(|| (now, doors.clone()));
        let lately = now.saturating_sub(*calm);
        if lately < ANSWERS_FOR {
            return None;
        }
        let doors = since(seen, doors);
        let mute = before.iter().find(|old| {
            let pace = old.answers as f64 / time;
            let few = |new: &Door| (new.answers as f64) < pace / 20.0 * lately.as_secs_f64();
            let mut same = doors.iter().filter(|new| is_same(new, old));
            old.answers >= ANSWERS_FEW && same.any(|new| new.connections >= FEW && few(new))
        });
        mute.map(|Door { name, .. }| {
            format!("listener {name} gives next to no answers, though clients connect")
        })
    }
}

/// What came to each of the listeners since an earlier look.
fn since(before: &[Door], now: &[Door]) -> Vec<Door> {
    let mut doors = now.to_vec();
    for door in &mut doors {
        if let Some(before) = before.iter().find(|it| it.name == door.name) {
            door.connections = door.connections.saturating_sub(before.connections);
            door.answers = door.answers.saturating_sub(before.answers);
        }
    }
    doors
}

/// Whether clients of `old` come to `new`.
fn is_same(new: &Door, old: &Door) -> bool {
    let is_same = |new: &Local, old: &Local| match (new, old) {
        (Local::Ip(new), Local::Ip(old)) => new.port() == old.port(),
        (new, old) => new == old,
    };
    let mut locals = new.locals.iter();
    locals.any(|new| old.locals.iter().any(|old| is_same(new, old)))
}

/// The rule for a share.
fn is_worse(old: Share, new: Share, lately: Share, margin: f64) -> bool {
    if new.bad < FEW_BAD || new.of == 0 {
        return false;
    }
    let (was, is) = (old.rate(), new.rate());
    let all = (old.of + new.of) as f64;
    let mean = (old.bad + new.bad) as f64 / all;
    let parts = 1.0 / old.of.max(1) as f64 + 1.0 / new.of as f64;
    let deviation = (mean * (1.0 - mean) * parts).max(0.0).sqrt();
    let much = is >= was * 3.0 || 1.0 - is <= (1.0 - was) / 2.0;
    is - was >= margin
        && much
        && is - was > CHANCE * deviation
        && lately.of > 0
        && lately.rate() - was >= margin / 2.0
}

fn percent(rate: f64) -> String {
    // Printing a floating-point number would take 20 kB of code.
    let tenths = (rate * 1_000.0).round() as u64;
    format!("{}.{} %", tenths / 10, tenths % 10)
}

#[cfg(test)]
#[path = "probation_tests.rs"]
mod tests;
