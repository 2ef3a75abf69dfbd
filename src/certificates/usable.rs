//! What a pair and a CA bundle are both checked for: the certificates of a file, and their dates.

use std::time::SystemTime;

use super::lifetime::{self, Term};
use super::pem::{self, Block};
use super::read::{File, Refusal};
use super::x509::Certificate;
use crate::clock::rfc3339_seconds;

/// How old what is used may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// The certificate must be valid.
    Valid,
    /// The certificate may be out of date.
    Any,
}

pub(super) fn certificate_label(block: &Block<'_>) -> Option<&'static str> {
    // OpenSSL's old name for the same.
    matches!(block.label, "CERTIFICATE" | "X509 CERTIFICATE").then_some("CERTIFICATE")
}

pub(super) fn crl_label(block: &Block<'_>) -> Option<&'static str> {
    (block.label == "X509 CRL").then_some("X509 CRL")
}

/// The certificates of a PEM file; at least one.
pub(super) fn certificates(file: File, text: &[u8]) -> Result<Vec<Certificate>, Refusal> {
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

pub(super) fn holds_none(file: File) -> Refusal {
    Refusal::of(file, "holds no certificate")
}

/// Whether `now` is between two dates, and how long that stands.
pub(super) fn check_dates(
    file: File,
    [since, until]: [SystemTime; 2],
    now: SystemTime,
) -> Result<Term, Refusal> {
    let mut term = Term::default();
    term.note(since, now);
    term.note(lifetime::end(until), now);
    let why = if since > now {
        format!("is not valid before {}", rfc3339_seconds(since))
    } else if lifetime::is_over(until, now) {
        format!("expired at {}", rfc3339_seconds(until))
    } else {
        return Ok(term);
    };
    Err(Refusal {
        term,
        ..Refusal::of(file, why)
    })
}
