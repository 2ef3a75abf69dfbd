//! Reads the files of a set.

use std::fmt;
use std::fs::OpenOptions;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use super::lifetime::Term;
use super::secret::SecretBytes;
use crate::pulse::Pulse;

/// The most that is read of a file, in bytes: a bundle of all public CAs has 0.25 MB.
const LIMIT: usize = 1 << 20;

/// A file of a set, by what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum File {
    /// The leaf and its chain.
    Certificate,
    /// The leaf's private key.
    Key,
    /// The OCSP response that is stapled to the leaf.
    Staple,
    /// The CAs that the other side's certificate is checked against.
    Ca,
    /// What these CAs have revoked.
    Crl,
}

impl fmt::Display for File {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            File::Certificate => "the certificate",
            File::Key => "the key",
            File::Staple => "the OCSP staple",
            File::Ca => "the CA",
            File::Crl => "the CRL",
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
    /// How long the refusal stands: a certificate that is not valid yet will be, and one that has
    /// expired was valid when the clock on the wall was wrong.
    pub term: Term,
}

impl Refusal {
    /// A refusal for which this file is to blame, whatever the time.
    pub fn of(file: File, why: impl Into<String>) -> Refusal {
        Refusal {
            file: Some(file),
            why: why.into(),
            term: Term::default(),
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

/// What one SDS secret is made of. A key may be in any file of certificates: some writers put all
/// into one.
#[derive(Debug, PartialEq, Eq)]
pub enum Material {
    /// A certificate of Envoy's own.
    Pair {
        /// The leaf and its chain, PEM.
        cert: SecretBytes,
        /// The certificate's key, PEM.
        key: SecretBytes,
        /// The OCSP response for the leaf, DER, or why its file could not be read, where it has one.
        staple: Option<Result<SecretBytes, String>>,
    },
    /// Whom Envoy believes.
    Trust {
        /// The CA bundle, PEM.
        ca: SecretBytes,
        /// What the CAs have revoked, PEM.
        crl: Option<SecretBytes>,
        /// Whether only the other side's own certificate, and no CA's, is looked for in the lists.
        leaf_only: bool,
    },
}

impl Material {
    /// How many blocks of PEM are in its files: of certificates, and of lists.
    pub fn blocks(&self) -> [usize; 2] {
        let (certificates, lists) = match self {
            Material::Pair { cert, .. } => (cert, None),
            Material::Trust { ca, crl, .. } => (ca, crl.as_ref()),
        };
        let blocks = |text: &[u8]| text.windows(11).filter(|at| at == b"-----BEGIN ").count();
        [blocks(certificates), lists.map_or(0, |lists| blocks(lists))]
    }
}

/// What a set's secrets are made of, in their order.
pub type Contents = Vec<Material>;

/// Where the files of one SDS secret are.
#[derive(Clone, Debug)]
pub enum Source {
    /// A certificate of Envoy's own.
    Pair {
        /// The leaf and its chain.
        cert: PathBuf,
        /// The certificate's key file.
        key: PathBuf,
        /// The OCSP response for the leaf.
        staple: Option<PathBuf>,
    },
    /// Whom Envoy believes.
    Trust {
        /// The CA bundle.
        ca: PathBuf,
        /// What the CAs have revoked.
        crl: Option<PathBuf>,
    },
}

impl Source {
    /// The files, and what they are.
    pub fn each(&self) -> impl Iterator<Item = (File, &Path)> {
        let files = match self {
            Source::Pair { cert, key, staple } => [
                Some((File::Certificate, cert)),
                Some((File::Key, key)),
                staple.as_ref().map(|staple| (File::Staple, staple)),
            ],
            Source::Trust { ca, crl } => [
                Some((File::Ca, ca)),
                crl.as_ref().map(|crl| (File::Crl, crl)),
                None,
            ],
        };
        let files = files.into_iter().flatten();
        files.map(|(file, path)| (file, path.as_path()))
    }
}

/// Where a set's files are, secret by secret.
#[derive(Clone, Debug)]
pub struct Files(pub Vec<Source>);

impl Files {
    /// All files of the set, and what they are.
    pub fn each(&self) -> impl Iterator<Item = (File, &Path)> {
        self.0.iter().flat_map(Source::each)
    }

    /// Reads all files. The answer names a file that was replaced on the host behind a bind
    /// mount, so that no change will ever be seen.
    ///
    /// # Errors
    /// When a file is missing, not a file, too large or cannot be read; of a staple that is told in
    /// its place. Never waits for another process, only for the file system, as `pulse` shows.
    pub fn read(&self, pulse: &Pulse) -> Result<(Contents, Option<&Path>), Refusal> {
        let mut replaced = None;
        let mut read = |path| match pulse.during(path, || read_file(path)) {
            Ok((bytes, named)) => {
                if !named {
                    replaced = Some(path);
                }
                Ok(bytes)
            }
            Err(why) => Err(format!("{}: {why}", path.display())),
        };
        let of = |file| move |why: String| Refusal::of(file, why);
        let mut contents = Contents::with_capacity(self.0.len());
        for source in &self.0 {
            contents.push(match source {
                Source::Pair { cert, key, staple } => Material::Pair {
                    cert: read(cert).map_err(of(File::Certificate))?,
                    key: read(key).map_err(of(File::Key))?,
                    staple: staple.as_ref().map(|staple| read(staple)),
                },
                Source::Trust { ca, crl } => Material::Trust {
                    ca: read(ca).map_err(of(File::Ca))?,
                    crl: crl
                        .as_ref()
                        .map(|crl| read(crl))
                        .transpose()
                        .map_err(of(File::Crl))?,
                    leaf_only: false,
                },
            });
        }
        Ok((contents, replaced))
    }
}

/// Reads a file; whether its name is still there.
pub(super) fn read_file(path: &Path) -> Result<(SecretBytes, bool), String> {
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
    let expected = usize::try_from(metadata.len()).unwrap_or(LIMIT);
    let bytes = SecretBytes::read(file, expected, LIMIT + 1).map_err(explain)?;
    if bytes.len() > LIMIT {
        return Err("is larger than 1 MiB".to_owned());
    }
    Ok((bytes, metadata.nlink() > 0))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn what_is_no_file_is_refused_without_waiting() {
        let dir = TempDir::new();
        let fifo = dir.join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let large = dir.join("large");
        std::fs::write(&large, vec![b'x'; (1 << 20) + 1]).unwrap();
        let why = |path: &Path| read_file(path).unwrap_err();
        assert_eq!(why(&fifo), "is not a file");
        assert_eq!(why(&dir), "is not a file");
        assert_eq!(why(Path::new("/dev/null")), "is not a file");
        assert_eq!(why(&dir.join("none")), "is missing");
        assert_eq!(why(&large), "is larger than 1 MiB");
    }
}
