//! Refuses what can be seen to be bad, and leaves out what does not belong in. Envoy judges the
//! rest.

use std::time::SystemTime;

use super::lifetime;
use super::pem::{self, Block};
use super::read::{Contents, File, Refusal};
use super::secret::SecretBytes;
use super::x509::{Certificate, Key};
use crate::clock::rfc3339_seconds;

/// A leaf that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Its serial number in lower-case hex without leading zeros.
    pub serial: String,
    /// From when it is valid.
    pub not_before: SystemTime,
    /// Until when it is valid.
    pub not_after: SystemTime,
    /// Whether the key was seen to be its own; otherwise only Envoy can tell.
    pub matched: bool,
}

/// A CA bundle that can be used: the validity of the first of its CAs to expire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// From when it is valid.
    pub not_before: SystemTime,
    /// Until when it is valid.
    pub not_after: SystemTime,
}

/// What was read of a set that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The leaf.
    pub leaf: Leaf,
    /// The CA bundle, in a set that has one.
    pub bundle: Option<Bundle>,
}

/// Whether a set can be used at this time.
///
/// # Errors
/// When it cannot: which file, and why.
pub fn check(contents: &Contents, now: SystemTime) -> Result<Checked, Refusal> {
    let leaf = check_pair(&contents.cert, &contents.key, now)?;
    let bundle = contents.ca.as_ref().map(|ca| check_bundle(ca, now));
    Ok(Checked {
        leaf,
        bundle: bundle.transpose()?,
    })
}

/// Whether a set without a CA can be used but for its age.
///
/// # Errors
/// When it could not be used at any time: which file, and why.
pub fn whenever(contents: &Contents) -> Result<Checked, Refusal> {
    Ok(Checked {
        leaf: pair(&contents.cert, &contents.key)?,
        bundle: None,
    })
}

/// A set that passed the checks, with nothing in it but what it is for: certificates in the chain
/// and the CA bundle (and there the revocation lists, which Envoy obeys), and the key that was
/// checked. A key that a file of certificates holds besides would be shown by Envoy's
/// `/config_dump`.
///
/// # Errors
/// When a file is no PEM, or the kernel has no memory.
pub fn cleaned(contents: &Contents) -> Result<Contents, Refusal> {
    let chosen = |file, text: &SecretBytes, most, label: Label| {
        let blocks = pem::blocks(text).map_err(|why| Refusal::of(file, why))?;
        let of_it = blocks.iter().filter(|block| label(block).is_some());
        pem::write(of_it.take(most), label).map_err(|error| Refusal::of(file, error.to_string()))
    };
    let all = usize::MAX;
    let ca = contents.ca.as_ref();
    Ok(Contents {
        cert: chosen(File::Certificate, &contents.cert, all, certificate_label)?,
        key: chosen(File::Key, &contents.key, 1, key_label)?,
        ca: ca
            .map(|ca| chosen(File::Ca, ca, all, ca_label))
            .transpose()?,
    })
}

/// Under which label a block is published, if it is.
type Label = fn(&Block<'_>) -> Option<&'static str>;

fn certificate_label(block: &Block<'_>) -> Option<&'static str> {
    // OpenSSL's old name for the same.
    matches!(block.label, "CERTIFICATE" | "X509 CERTIFICATE").then_some("CERTIFICATE")
}

fn ca_label(block: &Block<'_>) -> Option<&'static str> {
    let list = || (block.label == "X509 CRL").then_some("X509 CRL");
    certificate_label(block).or_else(list)
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
    let leaf = certificates(File::Certificate, cert)?.into_iter().next();
    let leaf = leaf.ok_or_else(|| holds_none(File::Certificate))?;
    let key = private_key(key).map_err(|why| Refusal::of(File::Key, why))?;
    let matched = match leaf.has_key(&key) {
        Some(false) => return Err(Refusal::of(File::Key, "is not the certificate's")),
        matched => matched.is_some(),
    };
    Ok(Leaf {
        serial: leaf.serial,
        not_before: leaf.not_before,
        not_after: leaf.not_after,
        matched,
    })
}

/// Whether a CA bundle can be used at this time: at least one of its CAs can.
///
/// # Errors
/// When it cannot: why.
pub fn check_bundle(ca: &[u8], now: SystemTime) -> Result<Bundle, Refusal> {
    let mut refusal = None;
    let mut first: Option<Certificate> = None;
    for ca in certificates(File::Ca, ca)? {
        match check_dates(File::Ca, [ca.not_before, ca.not_after], now) {
            Err(why) => refusal = Some(why),
            Ok(())
                if first
                    .as_ref()
                    .is_some_and(|first| first.not_after <= ca.not_after) => {}
            Ok(()) => first = Some(ca),
        }
    }
    match (first, refusal) {
        (Some(first), _) => Ok(Bundle {
            not_before: first.not_before,
            not_after: first.not_after,
        }),
        (None, Some(refusal)) => Err(refusal),
        (None, None) => Err(holds_none(File::Ca)),
    }
}

/// The certificates of a PEM file; at least one.
fn certificates(file: File, text: &[u8]) -> Result<Vec<Certificate>, Refusal> {
    let refuse = |why: String| Refusal::of(file, why);
    if text.trim_ascii().is_empty() {
        return Err(refuse("is empty".to_owned()));
    }
    let mut certificates = Vec::new();
    for block in pem::blocks(text).map_err(refuse)? {
        if certificate_label(&block).is_some() {
            let certificate = Certificate::parse(&block.der)
                .map_err(|error| refuse(format!("is no certificate: {}", error.0)))?;
            certificates.push(certificate);
        }
    }
    if certificates.is_empty() {
        return Err(holds_none(file));
    }
    Ok(certificates)
}

fn holds_none(file: File) -> Refusal {
    Refusal::of(file, "holds no certificate")
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

/// Whether `now` is between two dates.
fn check_dates(
    file: File,
    [since, until]: [SystemTime; 2],
    now: SystemTime,
) -> Result<(), Refusal> {
    if since > now {
        return Err(Refusal {
            until: Some(since),
            ..Refusal::of(
                file,
                format!("is not valid before {}", rfc3339_seconds(since)),
            )
        });
    }
    if lifetime::is_over(until, now) {
        let until = rfc3339_seconds(until);
        return Err(Refusal::of(file, format!("expired at {until}")));
    }
    Ok(())
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
