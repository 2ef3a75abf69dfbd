//! OCSP responses (RFC 6960), as far as Envoy 1.36 and 1.40 look at one that they staple
//! (source/common/tls/ocsp/ocsp.cc), and as far as they should: one that Envoy would refuse, with the
//! certificate that it is for, is refused here.

use std::time::SystemTime;

use super::der::{DerReader, Malformed, hex, tag};
use super::serial::Serial;

/// The identifier of the one kind of response that is in use, 1.3.6.1.5.5.7.48.1.1.
const BASIC: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x01];

/// What a response says of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The certificate is not revoked.
    Good,
    /// The certificate is revoked.
    Revoked,
    /// The responder does not know it.
    Unknown,
}

/// What is read of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The certificate's serial number.
    pub serial: Serial,
    /// What the response says of the certificate.
    pub status: Status,
    /// From when the response is valid.
    pub since: SystemTime,
    /// Until when the response is valid; none where the responder always has a newer one, which
    /// Envoy takes for expired at once.
    pub until: Option<SystemTime>,
}

impl Response {
    /// Reads a response.
    ///
    /// # Errors
    /// In a few words, when `der` is not one response, whole and alone, on one certificate.
    pub fn parse(der: &[u8]) -> Result<Response, String> {
        const PEM: &[u8] = b"-----BEGIN ";
        if der.trim_ascii().starts_with(PEM) {
            return Err("is PEM: Envoy takes DER".to_owned());
        }
        let malformed = |error: Malformed| format!("is no OCSP response: {}", error.0);
        let (status, body) = outer(der).map_err(malformed)?;
        match (status, body) {
            ([0], Some(body)) => inner(body).map_err(malformed),
            // The names are RFC 6960's: internalError, tryLater, ...
            (status, _) => Err(format!(
                "is no answer: its responder failed with {}",
                hex(status)
            )),
        }
    }
}

/// A response's own status, and what it answers.
fn outer(der: &[u8]) -> Result<(&[u8], Option<&[u8]>), Malformed> {
    let mut outer = DerReader::new(der);
    let mut response = outer.sequence()?;
    if !outer.is_empty() {
        return Err(Malformed("something follows the response"));
    }
    let status = response.expect(tag::ENUMERATED)?;
    let Some(bytes) = response.optional(tag::CONSTRUCTED_0)? else {
        return Ok((status, None));
    };
    let mut bytes = DerReader::new(bytes).sequence()?;
    if bytes.expect(tag::OBJECT_IDENTIFIER)? != BASIC {
        return Err(Malformed("it is of another kind than the basic one"));
    }
    Ok((status, Some(bytes.expect(tag::OCTET_STRING)?)))
}

fn inner(der: &[u8]) -> Result<Response, Malformed> {
    let mut data = DerReader::new(der).sequence()?.sequence()?;
    if data.optional(tag::CONSTRUCTED_0)?.is_some() {
        // Not even the first version may be named: that is the default, which DER leaves out.
        return Err(Malformed("it names a version, which Envoy does not take"));
    }
    if !matches!(data.any()?.0, tag::CONSTRUCTED_1 | tag::CONSTRUCTED_2) {
        return Err(Malformed("it does not say who answers"));
    }
    data.generalized_time()?; // when
    let mut answers = data.sequence()?;
    let mut answer = answers.sequence()?;
    if !answers.is_empty() {
        return Err(Malformed("it is on several certificates"));
    }
    let mut of = answer.sequence()?;
    of.sequence()?; // the hashes' algorithm
    of.expect(tag::OCTET_STRING)?; // the issuer's name
    of.expect(tag::OCTET_STRING)?; // the issuer's key
    let serial = Serial::of(of.integer()?);
    let status = match answer.any()?.0 {
        tag::PRIMITIVE_0 => Status::Good,
        tag::CONSTRUCTED_1 => Status::Revoked,
        _ => Status::Unknown,
    };
    let since = answer.generalized_time()?;
    let until = answer.optional(tag::CONSTRUCTED_0)?;
    Ok(Response {
        serial,
        status,
        since,
        until: until
            .map(|until| DerReader::new(until).generalized_time())
            .transpose()?,
    })
}

#[cfg(test)]
#[path = "ocsp_tests.rs"]
mod tests;
