//! Refuses what can be seen to be bad, and leaves out what does not belong in. Envoy judges the
//! rest.

use std::time::SystemTime;

use super::lifetime::Term;
use super::ocsp::{Response, Status};
use super::pem::{self, Block};
use super::read::{File, Material, Refusal};
use super::secret::SecretBytes;
use super::serial::Serial;
use super::trust::{self, Bundle};
use super::usable::{Age, certificate_label, certificates, check_dates, crl_label, holds_none};
use super::x509::Key;

/// A leaf that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The leaf's serial number.
    pub serial: Serial,
    /// From when the leaf is valid.
    pub not_before: SystemTime,
    /// Until when the leaf is valid.
    pub not_after: SystemTime,
    /// Whether the key was seen to be the leaf's; otherwise only Envoy can tell.
    pub matched: bool,
    /// Whether Envoy refuses the leaf without a staple.
    pub must_staple: bool,
}

/// What was read of a secret that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checked {
    /// A certificate of Envoy's own.
    Leaf(Leaf),
    /// Whom Envoy believes.
    Bundle(Bundle),
}

impl Checked {
    /// The leaf's serial number.
    pub fn serial(&self) -> Option<&Serial> {
        match self {
            Checked::Leaf(leaf) => Some(&leaf.serial),
            Checked::Bundle(_) => None,
        }
    }

    /// From when and until when the leaf or the bundle is valid.
    pub fn validity(&self) -> [SystemTime; 2] {
        match self {
            Checked::Leaf(leaf) => [leaf.not_before, leaf.not_after],
            Checked::Bundle(bundle) => [bundle.not_before, bundle.not_after],
        }
    }

    /// Whether nothing is left to know of the secret that only Envoy can tell.
    pub fn is_sure(&self) -> bool {
        matches!(
            self,
            Checked::Bundle(_) | Checked::Leaf(Leaf { matched: true, .. })
        )
    }
}

/// What was found in the files of a secret.
#[derive(Debug)]
pub struct Found {
    /// What was read of the secret.
    pub checked: Checked,
    /// What Envoy is given: see [`cleaned`].
    pub material: Material,
    /// Which of its files Envoy is not given as it is, and why.
    pub lacks: Option<Refusal>,
    /// How long all that stands, where nothing changes.
    pub term: Term,
}

/// Whether a secret can be used at this time. Where its staple cannot, Envoy is given the one that it
/// has `loaded` for this leaf, or none, which keeps the certificate from nobody; but for a leaf that
/// demands one.
///
/// # Errors
/// When it cannot: which file, and why.
pub fn check(
    material: &Material,
    loaded: Option<&Material>,
    now: SystemTime,
    age: Age,
) -> Result<Found, Refusal> {
    let mut clean = cleaned(material)?;
    let found = |checked, material, lacks, term| Found {
        checked,
        material,
        lacks,
        term,
    };
    let (cert, key) = match material {
        Material::Pair { cert, key, .. } => (cert, key),
        Material::Trust { ca, crl, .. } => {
            let (bundle, lacks, term) = trust::check(ca, crl.as_deref(), now, age)?;
            return Ok(found(Checked::Bundle(bundle), clean, lacks, term));
        }
    };
    let leaf = match age {
        Age::Valid => check_pair(cert, key, now)?,
        Age::Any => pair(cert, key)?,
    };
    let (mut lacks, mut term) = (None, Term::default());
    // The end of a leaf is seen without judging it again.
    term.note(leaf.not_before, now);
    if let Material::Pair { cert, staple, .. } = &mut clean
        && let Some(given) = staple
    {
        match check_staple(given, &leaf, now) {
            Ok(of_it) => term = term.and(of_it),
            Err(mut refusal) if leaf.must_staple => {
                refusal.why += "; the certificate demands one";
                return Err(refusal);
            }
            Err(why) => {
                *staple = None;
                term = term.and(why.term);
                if let Some(Material::Pair {
                    cert: of,
                    staple: Some(has),
                    ..
                }) = loaded
                    && *of == *cert
                    && let (Ok(of_it), Ok(bytes)) = (check_staple(has, &leaf, now), has)
                {
                    *staple = Some(Ok(copy(bytes)?));
                    term = term.and(of_it);
                }
                lacks = Some(why);
            }
        }
    }
    Ok(found(Checked::Leaf(leaf), clean, lacks, term))
}

/// Whether a staple can be used, and how long that stands.
fn check_staple(
    staple: &Result<SecretBytes, String>,
    leaf: &Leaf,
    now: SystemTime,
) -> Result<Term, Refusal> {
    let refuse = |why: String| Refusal::of(File::Staple, why);
    let der = staple.as_ref().map_err(|why| refuse(why.clone()))?;
    if der.is_empty() {
        return Err(refuse("is empty".to_owned()));
    }
    let response = Response::parse(der).map_err(refuse)?;
    if response.serial != leaf.serial {
        let why = format!("is of serial {}, not of this certificate", response.serial);
        return Err(refuse(why));
    }
    match (response.status, response.until) {
        (Status::Revoked, _) => Err(refuse("says that the certificate is revoked".to_owned())),
        (Status::Unknown, _) => Err(refuse("says that the certificate is unknown".to_owned())),
        (Status::Good, None) => {
            let why = "does not say until when it is valid, which Envoy takes for expired";
            Err(refuse(why.to_owned()))
        }
        (Status::Good, Some(until)) => check_dates(File::Staple, [response.since, until], now),
    }
}

/// A secret with nothing in it but what it is for: certificates in the chain and the CA bundle (and
/// there the revocation lists, which Envoy obeys), and the key that was checked. A key that a file of
/// certificates holds besides would be shown by Envoy's `/config_dump`.
///
/// # Errors
/// When a file is no PEM, or the kernel has no memory.
pub fn cleaned(material: &Material) -> Result<Material, Refusal> {
    let chosen = |file, text: &SecretBytes, most, label: Label| {
        let blocks = pem::blocks(text).map_err(|why| Refusal::of(file, why))?;
        let of_it = blocks.iter().filter(|block| label(block).is_some());
        pem::write(of_it.take(most), label).map_err(|error| Refusal::of(file, error.to_string()))
    };
    let all = usize::MAX;
    Ok(match material {
        Material::Pair { cert, key, staple } => Material::Pair {
            cert: chosen(File::Certificate, cert, all, certificate_label)?,
            key: chosen(File::Key, key, 1, key_label)?,
            staple: match staple {
                None => None,
                Some(Ok(staple)) => Some(Ok(copy(staple)?)),
                Some(Err(why)) => Some(Err(why.clone())),
            },
        },
        Material::Trust { ca, crl, .. } => Material::Trust {
            ca: chosen(File::Ca, ca, all, ca_label)?,
            crl: crl
                .as_ref()
                .map(|crl| chosen(File::Crl, crl, all, crl_label))
                .transpose()?,
            leaf_only: trust::is_leaf_only(ca, crl.as_deref()),
        },
    })
}

fn copy(staple: &[u8]) -> Result<SecretBytes, Refusal> {
    SecretBytes::copy(staple).map_err(|error| Refusal::of(File::Staple, error.to_string()))
}

/// Under which label a block is published, if it is.
type Label = fn(&Block<'_>) -> Option<&'static str>;

fn ca_label(block: &Block<'_>) -> Option<&'static str> {
    certificate_label(block).or_else(|| crl_label(block))
}

fn key_label(block: &Block<'_>) -> Option<&'static str> {
    let labels = ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"];
    labels.into_iter().find(|label| *label == block.label)
}

/// Whether a certificate and its key can be used at this time.
///
/// # Errors
/// When they cannot: which file, and why.
pub fn check_pair(cert: &[u8], key: &[u8], now: SystemTime) -> Result<Leaf, Refusal> {
    let leaf = pair(cert, key)?;
    check_dates(File::Certificate, [leaf.not_before, leaf.not_after], now)?;
    Ok(leaf)
}

/// A certificate and its key, whatever the time.
fn pair(cert: &[u8], key: &[u8]) -> Result<Leaf, Refusal> {
    let mut chain = certificates(File::Certificate, cert)?.into_iter();
    let leaf = chain.next().ok_or_else(|| holds_none(File::Certificate))?;
    let key = private_key(key).map_err(|why| Refusal::of(File::Key, why))?;
    let matched = match leaf.has_key(&key) {
        Some(false) if chain.any(|other| other.has_key(&key) == Some(true)) => {
            let why = "does not begin with the leaf: the key is that of a later certificate";
            return Err(Refusal::of(File::Certificate, why));
        }
        Some(false) => return Err(Refusal::of(File::Key, "is not the certificate's")),
        matched => matched.is_some(),
    };
    Ok(Leaf {
        serial: leaf.serial,
        not_before: leaf.not_before,
        not_after: leaf.not_after,
        matched,
        must_staple: leaf.must_staple,
    })
}

/// The first private key of a PEM file, as Envoy takes it.
fn private_key(text: &[u8]) -> Result<Key, String> {
    if text.trim_ascii().is_empty() {
        return Err("is empty".to_owned());
    }
    let key = |block: &Block<'_>| match block.label {
        "ENCRYPTED PRIVATE KEY" => Some(Err("is encrypted".to_owned())),
        label if label.ends_with("PRIVATE KEY") && block.encrypted => {
            Some(Err("is encrypted".to_owned()))
        }
        label => Key::parse(label, &block.der)
            .map(|key| key.map_err(|error| format!("is no private key: {}", error.0))),
    };
    let blocks = pem::blocks(text)?;
    let found = blocks.iter().find_map(key);
    found.unwrap_or_else(|| Err("holds no private key".to_owned()))
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
