//! Reads the files.

use std::fmt;
use std::fs::OpenOptions;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::fcntl::OFlag;

use super::secret::SecretBytes;
use crate::pulse::Pulse;

/// The most that is read of a file, in bytes: a bundle of all public CAs has 0.25 MB.
const LIMIT: usize = 1 << 20;

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
    /// This file is to blame, whatever the time.
    pub fn of(file: File, why: impl Into<String>) -> Refusal {
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

/// The bytes of a set's files. A key may be in any of them: some writers put all into one file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// The leaf and its chain, PEM.
    pub cert: SecretBytes,
    /// Its key, PEM.
    pub key: SecretBytes,
    /// The CA bundle, PEM, in a set that has one.
    pub ca: Option<SecretBytes>,
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
    /// All of them.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        let pair = [&self.cert, &self.key].into_iter();
        pair.chain(&self.ca).map(PathBuf::as_path)
    }

    /// Reads all files. The answer names a file that was replaced on the host behind a bind
    /// mount, so that no change will ever be seen.
    ///
    /// # Errors
    /// When a file is missing, not a file, too large or cannot be read. Never waits for another
    /// process, only for the file system, as `pulse` shows.
    pub fn read(&self, pulse: &Pulse) -> Result<(Contents, Option<&Path>), Refusal> {
        let mut stale = None;
        let mut read = |file, path| match pulse.during(path, || read_file(path)) {
            Ok((bytes, true)) => Ok(bytes),
            Ok((bytes, false)) => {
                stale = Some(path);
                Ok(bytes)
            }
            Err(why) => Err(Refusal::of(file, format!("{}: {why}", path.display()))),
        };
        let contents = Contents {
            cert: read(File::Certificate, self.cert.as_path())?,
            key: read(File::Key, self.key.as_path())?,
            ca: match &self.ca {
                Some(ca) => Some(read(File::Ca, ca.as_path())?),
                None => None,
            },
        };
        Ok((contents, stale))
    }
}

/// Reads a file; whether its name is still there.
fn read_file(path: &Path) -> Result<(SecretBytes, bool), String> {
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

    #[test]
    fn what_is_no_file_is_refused_without_waiting() {
        let dir = std::env::temp_dir().join(format!("drainit-read-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let fifo = dir.join("fifo");
        let _ = std::fs::remove_file(&fifo);
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let large = dir.join("large");
        std::fs::write(&large, vec![b'x'; (1 << 20) + 1]).unwrap();
        let why = |path: &Path| read_file(path).unwrap_err();
        assert_eq!(why(&fifo), "is not a file");
        assert_eq!(why(&dir), "is not a file");
        assert_eq!(why(Path::new("/dev/null")), "is not a file");
        assert_eq!(why(&dir.join("none")), "is missing");
        assert_eq!(why(&large), "is larger than 1 MiB");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
