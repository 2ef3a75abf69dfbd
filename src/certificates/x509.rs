//! What is needed of a certificate and a key, and not a byte more: Envoy judges the rest.

use std::time::SystemTime;

use super::der::{DerReader, Malformed, tag, whole_bytes};
use super::serial::Serial;

/// What is read of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The certificate's serial number.
    pub serial: Serial,
    /// From when it is valid.
    pub not_before: SystemTime,
    /// Until when it is valid.
    pub not_after: SystemTime,
    /// Whether the certificate demands an OCSP staple (RFC 7633).
    pub must_staple: bool,
    /// The certificate's subject, DER.
    subject: Vec<u8>,
    /// The identifier of the certificate's key, where the certificate has one.
    key_id: Option<Vec<u8>>,
    /// What of its public key identifies it: an RSA modulus, an EC point, an Ed25519 key.
    public: Vec<u8>,
}

impl Certificate {
    /// Reads a certificate.
    ///
    /// # Errors
    /// When `der` is not one certificate, whole and alone.
    pub fn parse(der: &[u8]) -> Result<Certificate, Malformed> {
        let mut outer = DerReader::new(der);
        let mut certificate = outer.sequence()?;
        if !outer.is_empty() {
            return Err(Malformed("something follows the certificate"));
        }
        let mut body = certificate.sequence()?;
        certificate.sequence()?; // the signature's algorithm
        certificate.bit_string()?; // the signature
        body.optional(tag::CONSTRUCTED_0)?; // the version
        let serial = Serial::of(body.integer()?);
        body.sequence()?; // the signature's algorithm again
        body.sequence()?; // the issuer
        let mut validity = body.sequence()?;
        let (not_before, not_after) = (validity.time()?, validity.time()?);
        let subject = body.expect(tag::SEQUENCE)?;
        let mut key = body.sequence()?;
        let algorithm = key.sequence()?.expect(tag::OBJECT_IDENTIFIER)?;
        let key = key.bit_string()?;
        let public = if algorithm == RSA {
            DerReader::new(key).sequence()?.integer()?
        } else {
            key
        };
        body.optional(tag::PRIMITIVE_1)?; // the issuer's number
        body.optional(tag::PRIMITIVE_2)?; // the subject's number
        let extensions = body.optional(tag::CONSTRUCTED_3)?.unwrap_or_default();
        let feature = extension(extensions, TLS_FEATURE).map(DerReader::new);
        let feature = feature.and_then(|mut features| features.sequence().ok());
        let key_id = extension(extensions, SUBJECT_KEY);
        let key_id = key_id.and_then(|id| DerReader::new(id).expect(tag::OCTET_STRING).ok());
        Ok(Certificate {
            serial,
            not_before,
            not_after,
            must_staple: feature.is_some_and(|mut features| {
                std::iter::from_fn(|| features.integer().ok())
                    .any(|feature| feature == [STATUS_REQUEST])
            }),
            subject: subject.to_vec(),
            key_id: key_id.map(<[u8]>::to_vec),
            public: public.to_vec(),
        })
    }

    /// Whether `key` is this certificate's; none when the key does not say what its public half
    /// is, as Ed25519 keys and some EC keys do not.
    pub fn has_key(&self, key: &Key) -> Option<bool> {
        let public = key.public.as_deref()?;
        let compressed = |point: &[u8]| matches!(point.first(), Some(2 | 3));
        if key.is_point && compressed(public) != compressed(&self.public) {
            return None;
        }
        Some(self.public == public)
    }
}

/// The value of the extension of this identifier, of all that are in `DER`; none also where they are
/// malformed, which is for Envoy to judge.
fn extension<'a>(extensions: &'a [u8], id: &[u8]) -> Option<&'a [u8]> {
    let mut extensions = DerReader::new(extensions).sequence().ok()?;
    loop {
        let mut extension = extensions.sequence().ok()?;
        let found = extension.expect(tag::OBJECT_IDENTIFIER).ok()?;
        extension.optional(tag::BOOLEAN).ok()?; // whether it is critical
        let value = extension.expect(tag::OCTET_STRING).ok()?;
        if found == id {
            return Some(value);
        }
    }
}

/// The identifier of the extension with what a certificate demands of TLS, 1.3.6.1.5.5.7.1.24.
const TLS_FEATURE: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x01, 0x18];
/// The demand for an OCSP staple: the number of TLS's own extension for that (RFC 6066).
const STATUS_REQUEST: u8 = 5;
/// The identifier of the extension that names a certificate's key, 2.5.29.14.
const SUBJECT_KEY: &[u8] = &[0x55, 0x1d, 0x0e];
/// The identifier of the extension that names the issuer's key, 2.5.29.35.
const AUTHORITY_KEY: &[u8] = &[0x55, 0x1d, 0x23];

/// What is read of a certificate revocation list (RFC 5280, 5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crl {
    /// From when it is valid.
    pub since: SystemTime,
    /// Until when it is valid; none where it does not end.
    pub until: Option<SystemTime>,
    issuer: Vec<u8>,
    key_id: Option<Vec<u8>>,
}

impl Crl {
    /// Reads a list.
    ///
    /// # Errors
    /// When `der` is not one list, whole and alone.
    pub fn parse(der: &[u8]) -> Result<Crl, Malformed> {
        let mut outer = DerReader::new(der);
        let mut list = outer.sequence()?;
        if !outer.is_empty() {
            return Err(Malformed("something follows the list"));
        }
        let mut body = list.sequence()?;
        list.sequence()?; // the signature's algorithm
        list.bit_string()?; // the signature
        body.optional(tag::INTEGER)?; // the version
        body.sequence()?; // the signature's algorithm again
        let issuer = body.expect(tag::SEQUENCE)?;
        let since = body.time()?;
        let until = body.is_time().then(|| body.time()).transpose()?;
        body.optional(tag::SEQUENCE)?; // what is revoked
        let extensions = body.optional(tag::CONSTRUCTED_0)?.unwrap_or_default();
        let authority = extension(extensions, AUTHORITY_KEY).map(DerReader::new);
        let key_id =
            authority.and_then(|mut key| key.sequence().ok()?.expect(tag::PRIMITIVE_0).ok());
        Ok(Crl {
            since,
            until,
            issuer: issuer.to_vec(),
            key_id: key_id.map(<[u8]>::to_vec),
        })
    }

    /// Whether the list is this CA's: a name may be of several keys, of which one was replaced.
    pub fn is_of(&self, ca: &Certificate) -> bool {
        match (&self.key_id, &ca.key_id) {
            (Some(key), Some(of)) => key == of,
            _ => self.issuer == ca.subject,
        }
    }
}

/// The algorithm's identifier of RSA keys, 1.2.840.113549.1.1.1.
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
/// The algorithm's identifier of EC keys, 1.2.840.10045.2.1.
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];

/// What is read of a private key: its public half, where it is there to be read.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    public: Option<Vec<u8>>,
    is_point: bool,
}

impl Key {
    /// Reads a key from a PEM block of this label; none where the label is not a key's.
    ///
    /// # Errors
    /// When `der` is not a key of that kind.
    pub fn parse(label: &str, der: &[u8]) -> Option<Result<Key, Malformed>> {
        match label {
            "PRIVATE KEY" => Some(pkcs8(der)),
            "RSA PRIVATE KEY" => Some(rsa(der)),
            "EC PRIVATE KEY" => Some(ec(der)),
            _ => None,
        }
    }
}

/// PKCS #8: a version, an algorithm, and the key in that algorithm's own shape.
fn pkcs8(der: &[u8]) -> Result<Key, Malformed> {
    let mut key = DerReader::new(der).sequence()?;
    key.integer()?;
    let algorithm = key.sequence()?.expect(tag::OBJECT_IDENTIFIER)?;
    let inner = key.expect(tag::OCTET_STRING)?;
    if algorithm == RSA {
        return rsa(inner);
    }
    if algorithm == EC {
        return ec(inner);
    }
    key.optional(tag::CONSTRUCTED_0)?; // attributes
    let public = key
        .optional(tag::PRIMITIVE_1)?
        .map(whole_bytes)
        .transpose()?;
    Ok(Key {
        public: public.map(<[u8]>::to_vec),
        is_point: false,
    })
}

/// PKCS #1: a version, the modulus, and what is nobody's business.
fn rsa(der: &[u8]) -> Result<Key, Malformed> {
    let mut key = DerReader::new(der).sequence()?;
    key.integer()?;
    Ok(Key {
        public: Some(key.integer()?.to_vec()),
        is_point: false,
    })
}

/// SEC 1: a version, the secret number, the curve, and the point, which may be left out.
fn ec(der: &[u8]) -> Result<Key, Malformed> {
    let mut key = DerReader::new(der).sequence()?;
    key.integer()?;
    key.expect(tag::OCTET_STRING)?;
    key.optional(tag::CONSTRUCTED_0)?;
    let public = match key.optional(tag::CONSTRUCTED_1)? {
        Some(point) => Some(DerReader::new(point).bit_string()?.to_vec()),
        None => None,
    };
    Ok(Key {
        public,
        is_point: true,
    })
}

#[cfg(test)]
mod tests {
    use super::super::pem;
    use super::*;
    use crate::testing::data;
    use proptest::prelude::*;
    use std::time::Duration;

    fn certificate(name: &str) -> Certificate {
        let text = data(name);
        Certificate::parse(&pem::blocks(&text).unwrap()[0].der).unwrap()
    }

    fn key(name: &str) -> Key {
        let text = data(name);
        let blocks = pem::blocks(&text).unwrap();
        let key = |block: &pem::Block<'_>| Key::parse(block.label, &block.der);
        blocks.iter().find_map(key).unwrap().unwrap()
    }

    fn seconds(time: SystemTime) -> u64 {
        time.duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO)
            .as_secs()
    }

    #[test]
    fn serial_and_dates_are_read() {
        let leaf = certificate("ec.crt");
        assert_eq!(leaf.serial.to_string(), "a1b2c3");
        assert_eq!(seconds(leaf.not_before), 1_704_067_200); // 2024-01-01
        assert_eq!(seconds(leaf.not_after), 4_070_908_800); // 2099-01-01, a GeneralizedTime
        assert_eq!(
            certificate("rsa.crt").serial.to_string(),
            "f00000000000000000000000000000000000001"
        );
        assert_eq!(seconds(certificate("expired.crt").not_after), 1_711_929_600); // a UTCTime
    }

    #[test]
    fn the_key_of_a_certificate_is_told_from_another_one() {
        for (leaf, mine) in [
            ("ec.crt", "ec.key"),
            ("ec.crt", "ec-sec1.key"),
            ("rsa.crt", "rsa.key"),
            ("rsa.crt", "rsa-pkcs1.key"),
        ] {
            assert_eq!(
                certificate(leaf).has_key(&key(mine)),
                Some(true),
                "{leaf} {mine}"
            );
        }
        assert_eq!(
            certificate("ec.crt").has_key(&key("other.key")),
            Some(false)
        );
        assert_eq!(certificate("rsa.crt").has_key(&key("ec.key")), Some(false));
        assert_eq!(
            certificate("ed25519.crt").has_key(&key("ed25519.key")),
            None
        );
        assert_eq!(certificate("ec.crt").has_key(&key("ec-bare.key")), None);
    }

    #[test]
    fn a_certificate_that_is_cut_anywhere_is_refused() {
        let text = data("ec.crt");
        let der = &pem::blocks(&text).unwrap()[0].der;
        for length in 0..der.len() {
            assert!(Certificate::parse(&der[..length]).is_err(), "{length}");
        }
        assert!(Certificate::parse(&[&der[..], &[0]].concat()).is_err());
    }

    proptest! {
        #[test]
        fn no_flipped_byte_makes_it_panic(at in 0usize..400, with: u8) {
            for name in ["ec.crt", "ec-sec1.key", "rsa-pkcs1.key", "ed25519.key"] {
                let text = data(name);
                let mut der = pem::blocks(&text).unwrap().pop().unwrap().der;
                let length = der.len();
                der[at % length] = with;
                let _ = Certificate::parse(&der);
                for label in ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"] {
                    let _ = Key::parse(label, &der);
                }
            }
        }
    }
}
