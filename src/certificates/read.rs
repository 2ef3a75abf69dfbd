//! Reads the files, and refuses what can be seen to be bad. Envoy judges the rest.

use std::fmt;
use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::fcntl::OFlag;

use super::lifetime;
use super::pem::{self, Block};
use super::x509::{Certificate, Key};
use crate::status::clock::rfc3339_seconds;

/// The most that is read of a file, in bytes: a bundle of all public CAs has 0.25 MB.
const LIMIT: u64 = 1 << 20;

/// One of the files of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum File {
    /// The leaf and its chain.
    Certificate,
    /// The leaf's private key.
    Key,
    /// The CAs that the other side's certificate is checked against.
    Ca,
}

impl fmt::Display for File {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            File::Certificate => "the certificate",
            File::Key => "the key",
            File::Ca => "the CA",
        })
    }
}

/// Why a set is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The file that is to blame; none where it is the set.
    pub file: Option<File>,
    /// Why, in a few words, without the file's name.
    pub why: String,
    /// When the same bytes may be good: a certificate that is not valid yet will be.
    pub until: Option<SystemTime>,
}

impl Refusal {
    fn of(file: File, why: impl Into<String>) -> Refusal {
        Refusal {
            file: Some(file),
            why: why.into(),
            until: None,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.file {
            Some(file) => write!(out, "{file}: {}", self.why),
            None => out.write_str(&self.why),
        }
    }
}

/// The bytes of a set's files.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// The leaf and its chain, PEM.
    pub cert: Vec<u8>,
    /// Its key, PEM.
    pub key: Vec<u8>,
    /// The CA bundle, PEM, in a set that has one.
    pub ca: Option<Vec<u8>>,
}

impl fmt::Debug for Contents {
    // There is a key in it: its bytes are never shown.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ca = self.ca.as_ref().map(Vec::len);
        write!(
            out,
            "{}, {} and {ca:?} bytes",
            self.cert.len(),
            self.key.len()
        )
    }
}

/// Where a set's files are.
#[derive(Clone, Debug)]
pub struct Files {
    /// The leaf and its chain.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The CA bundle, in a set that has one.
    pub ca: Option<PathBuf>,
}

impl Files {
    /// Reads all files into `into`, whose buffers are used again. The answer names a file that
    /// was replaced on the host behind a bind mount, so that no change will ever be seen.
    ///
    /// # Errors
    /// When a file is missing, not a file, too large or cannot be read. Never waits for another
    /// process, only for the file system.
    pub fn read(&self, into: &mut Contents) -> Result<Option<&Path>, Refusal> {
        let mut stale = None;
        let mut read = |file, path, buffer| match read_file(path, buffer) {
            Ok(true) => Ok(()),
            Ok(false) => {
                stale = Some(path);
                Ok(())
            }
            Err(why) => Err(Refusal::of(file, format!("{}: {why}", path.display()))),
        };
        read(File::Certificate, self.cert.as_path(), &mut into.cert)?;
        read(File::Key, self.key.as_path(), &mut into.key)?;
        match &self.ca {
            Some(ca) => read(File::Ca, ca.as_path(), into.ca.get_or_insert_default())?,
            None => into.ca = None,
        }
        Ok(stale)
    }
}

/// Reads a file; whether its name is still there.
fn read_file(path: &Path, into: &mut Vec<u8>) -> Result<bool, String> {
    into.clear();
    // A FIFO would block the open without the flag; what else may block is no regular file.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits() | OFlag::O_NOCTTY.bits())
        .open(path)
        .map_err(explain)?;
    let metadata = file.metadata().map_err(explain)?;
    if !metadata.is_file() {
        return Err("is not a file".to_owned());
    }
    // The size is a hint only: the file may grow while it is read.
    file.take(LIMIT + 1).read_to_end(into).map_err(explain)?;
    if into.len() as u64 > LIMIT {
        return Err("is larger than 1 MiB".to_owned());
    }
    Ok(metadata.nlink() > 0)
}

// A function to pass by name: `map_err` gives the error away.
#[allow(clippy::needless_pass_by_value)]
fn explain(error: std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "is missing".to_owned(),
        std::io::ErrorKind::PermissionDenied => "may not be read".to_owned(),
        _ => error.to_string(),
    }
}

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

/// Whether a certificate and its key can be used at this time.
///
/// # Errors
/// When they cannot: which file, and why.
pub fn check_pair(cert: &[u8], key: &[u8], now: SystemTime) -> Result<Leaf, Refusal> {
    let leaf = certificates(File::Certificate, cert)?.into_iter().next();
    let leaf = leaf.ok_or_else(|| holds_none(File::Certificate))?;
    let key = private_key(key).map_err(|why| Refusal::of(File::Key, why))?;
    let matched = match leaf.has_key(&key) {
        Some(false) => return Err(Refusal::of(File::Key, "is not the certificate's")),
        matched => matched.is_some(),
    };
    check_dates(File::Certificate, &leaf, now)?;
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
        match check_dates(File::Ca, &ca, now) {
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
        if matches!(block.label, "CERTIFICATE" | "X509 CERTIFICATE") {
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

fn check_dates(file: File, certificate: &Certificate, now: SystemTime) -> Result<(), Refusal> {
    if certificate.not_before > now {
        let since = certificate.not_before;
        return Err(Refusal {
            until: Some(since),
            ..Refusal::of(
                file,
                format!("is not valid before {}", rfc3339_seconds(since)),
            )
        });
    }
    if lifetime::is_over(certificate.not_after, now) {
        let until = rfc3339_seconds(certificate.not_after);
        return Err(Refusal::of(file, format!("expired at {until}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn data(name: &str) -> Vec<u8> {
        std::fs::read(format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    }

    /// 2025-01-01.
    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_735_689_600)
    }

    fn pair(cert: &str, key: &str) -> Result<(String, bool), String> {
        check_pair(&data(cert), &data(key), now())
            .map(|leaf| (leaf.serial, leaf.matched))
            .map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn good_pairs_of_every_kind_are_taken() {
        for (cert, key, serial, matched) in [
            ("ec.crt", "ec.key", "a1b2c3", true),
            ("ec.crt", "ec-sec1.key", "a1b2c3", true),
            ("ec.crt", "ec-bare.key", "a1b2c3", false),
            ("chain.crt", "ec.key", "a1b2c3", true),
            ("other.crt", "other.key", "700", true),
            ("ed25519.crt", "ed25519.key", "ed", false),
        ] {
            assert_eq!(
                pair(cert, key),
                Ok((serial.to_owned(), matched)),
                "{cert} {key}"
            );
        }
        assert!(pair("rsa.crt", "rsa.key").unwrap().1);
        assert!(pair("rsa.crt", "rsa-pkcs1.key").unwrap().1);
    }

    #[test]
    fn bad_pairs_are_refused_with_the_file_and_the_reason() {
        for (cert, key, why) in [
            ("ec.crt", "other.key", "the key: is not the certificate's"),
            (
                "expired.crt",
                "ec.key",
                "the certificate: expired at 2024-04-01T00:00:00Z",
            ),
            (
                "future.crt",
                "ec.key",
                "the certificate: is not valid before 2098-01-01T00:00:00Z",
            ),
            ("ec.crt", "ec-encrypted.key", "the key: is encrypted"),
            ("ec.crt", "ec-sec1-encrypted.key", "the key: is encrypted"),
            ("ec.crt", "ec.crt", "the key: holds no private key"),
            ("ec.key", "ec.key", "the certificate: holds no certificate"),
        ] {
            assert_eq!(pair(cert, key), Err(why.to_owned()), "{cert} {key}");
        }
        let why = |cert: &[u8]| check_pair(cert, &data("ec.key"), now()).unwrap_err().why;
        assert_eq!(why(b" \n"), "is empty");
        assert_eq!(why(b"garbage"), "holds no certificate");
        let whole = data("ec.crt");
        assert_eq!(why(&whole[..200]), "a CERTIFICATE block is cut off");
        let forged = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(why(forged).starts_with("is no certificate: "));
    }

    #[test]
    fn one_valid_ca_makes_a_bundle_and_none_does_not() {
        let bundle = [
            data("ca-expired.crt"),
            b"\r\n# new\r\n".to_vec(),
            data("ca.crt"),
        ]
        .concat();
        assert!(check_bundle(&bundle, now()).is_ok());
        let why = |ca: &[u8]| check_bundle(ca, now()).unwrap_err().to_string();
        assert_eq!(
            why(&data("ca-expired.crt")),
            "the CA: expired at 2024-04-01T00:00:00Z"
        );
        assert_eq!(why(b"# nothing yet"), "the CA: holds no certificate");
        assert_eq!(why(&data("ec.key")), "the CA: holds no certificate");
        assert_eq!(why(b""), "the CA: is empty");
    }

    #[test]
    fn what_is_no_file_is_refused_without_waiting() {
        let dir = std::env::temp_dir().join(format!("drainit-read-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let fifo = dir.join("fifo");
        let _ = std::fs::remove_file(&fifo);
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let large = dir.join("large");
        std::fs::write(&large, vec![b'x'; (1 << 20) + 1]).unwrap();
        let mut into = Vec::new();
        let mut why = |path: &Path| read_file(path, &mut into).unwrap_err();
        assert_eq!(why(&fifo), "is not a file");
        assert_eq!(why(&dir), "is not a file");
        assert_eq!(why(Path::new("/dev/null")), "is not a file");
        assert_eq!(why(&dir.join("none")), "is missing");
        assert_eq!(why(&large), "is larger than 1 MiB");
        std::fs::remove_dir_all(&dir).unwrap();
    }

    proptest! {
        #[test]
        fn no_input_makes_it_panic(cert: Vec<u8>, key: Vec<u8>) {
            let _ = check_pair(&cert, &key, now());
            let _ = check_bundle(&cert, now());
        }

        #[test]
        fn no_cut_or_flipped_byte_makes_it_panic(cut in 0usize..2000, at in 0usize..2000, with: u8) {
            let mut cert = data("chain.crt");
            let mut key = data("rsa.key");
            for text in [&mut cert, &mut key] {
                let length = text.len();
                text[at % length] = with;
                text.truncate(cut.max(1));
            }
            let _ = check_pair(&cert, &key, now());
            let _ = check_bundle(&cert, now());
        }
    }
}
