//! Whom Envoy believes: a bundle of CAs, and what they have revoked.
//!
//! Envoy 1.36 and 1.40 take nearly all of it in silence, and then refuse every handshake: with a list
//! that is not valid, of another CA, or with none for a CA in the chain. So that is judged here.

use std::time::{Duration, SystemTime};

use super::lifetime::{self, Term};
use super::pem;
use super::read::{File, Refusal};
use super::usable::{Age, certificates, check_dates, crl_label, holds_none};
use super::x509::{Certificate, Crl};

/// Some thousand years on: the end of what has none.
const NEVER: Duration = Duration::from_secs(1 << 37);

/// A CA bundle that can be used, with the revocation lists beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// From when the part of the bundle is valid that expires first.
    pub not_before: SystemTime,
    /// Until when the part of the bundle is valid that expires first.
    pub not_after: SystemTime,
    /// How many CAs the bundle has that are valid.
    pub cas: usize,
    /// How many of these CAs have a revocation list.
    pub listed: usize,
}

/// Whether a CA bundle can be used at this time: one of its CAs can, and one of its revocation lists,
/// where it has any. Besides, which of the lists cannot, and how long all that stands: until the next
/// part of it begins to be valid, or the first one ends that is.
///
/// # Errors
/// When it cannot: which file, and why, and how long that stands.
pub fn check(
    ca: &[u8],
    crl: Option<&[u8]>,
    now: SystemTime,
    age: Age,
) -> Result<(Bundle, Option<Refusal>, Term), Refusal> {
    let all = certificates(File::Ca, ca)?;
    let lists = lists(ca, crl)?;
    let never = SystemTime::UNIX_EPOCH + NEVER;
    let life = |list: &Crl| [list.since, list.until.unwrap_or(never)];
    let lives = all.iter().map(|ca| [ca.not_before, ca.not_after]);
    let mut term = Term::default();
    for [since, until] in lives.chain(lists.iter().map(|(_, list)| life(list))) {
        term.note(since, now);
        // What ends later, and is no part of what counts, changes nothing.
        if lifetime::is_over(until, now) {
            term.note(lifetime::end(until), now);
        }
    }
    let refuse = |why: Refusal| Refusal { term, ..why };
    let dates = |file, dates| match age {
        Age::Valid => check_dates(file, dates, now).map(|_| ()),
        Age::Any => Ok(()),
    };
    let (mut refusal, mut lacks) = (None, None);
    let mut first: Option<[SystemTime; 2]> = None;
    let mut note = |life: [SystemTime; 2]| {
        if first.is_none_or(|[_, until]| life[1] < until) {
            first = Some(life);
        }
    };
    let (mut cas, mut listed) = (0, 0);
    for ca in &all {
        if let Err(why) = dates(File::Ca, [ca.not_before, ca.not_after]) {
            refusal = Some(why);
            continue;
        }
        cas += 1;
        note([ca.not_before, ca.not_after]);
        let mut best: Option<[SystemTime; 2]> = None;
        let mut bad = None;
        for (file, list) in lists.iter().filter(|(_, list)| list.is_of(ca)) {
            let life = life(list);
            match dates(*file, life) {
                Ok(()) if best.is_some_and(|[_, until]| life[1] <= until) => {}
                Ok(()) => best = Some(life),
                Err(why) => bad = Some(why),
            }
        }
        match best {
            Some(life) => {
                listed += 1;
                note(life);
            }
            None => lacks = lacks.or(bad),
        }
    }
    let Some([not_before, not_after]) = first else {
        return Err(refuse(refusal.unwrap_or_else(|| holds_none(File::Ca))));
    };
    if let (0, Some((file, _))) = (listed, lists.first()) {
        let why = "no list in it is of a CA in the bundle: Envoy would refuse all clients; put the \
                   certificate of the list's issuer beside the CAs";
        return Err(refuse(lacks.unwrap_or_else(|| Refusal::of(*file, why))));
    }
    let bundle = Bundle {
        not_before,
        not_after,
        cas,
        listed,
    };
    term.note(lifetime::end(not_after), now);
    Ok((bundle, lacks, term))
}

/// Whether Envoy is to look for the other side's own certificate alone in the lists, as one of the
/// CAs has none: it would refuse every chain with such a CA in it.
pub fn is_leaf_only(ca: &[u8], crl: Option<&[u8]>) -> bool {
    let lists = lists(ca, crl).unwrap_or_default();
    let unlisted = |ca: &Certificate| !lists.iter().any(|(_, list)| list.is_of(ca));
    !lists.is_empty() && certificates(File::Ca, ca).is_ok_and(|cas| cas.iter().any(unlisted))
}

/// The revocation lists, and the files that they are in.
fn lists(ca: &[u8], crl: Option<&[u8]>) -> Result<Vec<(File, Crl)>, Refusal> {
    let mut lists = Vec::new();
    for (file, text) in [(File::Ca, Some(ca)), (File::Crl, crl)] {
        let Some(text) = text else { continue };
        for block in pem::blocks(text).map_err(|why| Refusal::of(file, why))? {
            if crl_label(&block).is_some() {
                let list = Crl::parse(&block.der);
                let list = list.map_err(|error| {
                    Refusal::of(file, format!("is no revocation list: {}", error.0))
                })?;
                lists.push((file, list));
            }
        }
        if file == File::Crl && !lists.iter().any(|(of, _)| *of == File::Crl) {
            return Err(Refusal::of(file, "holds no revocation list"));
        }
    }
    Ok(lists)
}

#[cfg(test)]
#[path = "trust_tests.rs"]
mod tests;
