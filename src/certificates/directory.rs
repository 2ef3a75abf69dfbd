//! The directory `sds` that the SDS files are in, by descriptor.
//!
//! It may lie in a directory of Envoy's user, who can put anything in its place at any time, and
//! drainit may be root: no path is walked twice, no link is followed where another user could
//! have made it, and only what was made here is given away.

use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, open, openat, readlinkat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, geteuid, unlinkat};

use super::secret::SecretBytes;

/// The most that is read of an SDS file, in bytes: three files of 1 MiB and some escaping.
const LIMIT: usize = 4 << 20;

/// As many links on the way as the kernel follows (path_resolution(7)).
pub const LINKS: u32 = 40;

/// Who may look at the directory and its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The files' owner alone: there are keys in them.
    Owner,
    /// Everybody.
    All,
}

impl Access {
    fn of_directory(self) -> Mode {
        Mode::from_bits_truncate(if self == Access::Owner { 0o700 } else { 0o755 })
    }

    fn of_file(self) -> Mode {
        Mode::from_bits_truncate(if self == Access::Owner { 0o600 } else { 0o644 })
    }
}

/// The directory of the SDS files, open.
#[derive(Debug)]
pub struct Sds {
    fd: OwnedFd,
    path: PathBuf,
    stat: FileStat,
    /// Whom the files are given to: an entrypoint may leave root before it execs Envoy, and then
    /// the resources directory is that user's.
    owner: Option<(Uid, Gid)>,
    access: Access,
    /// Whether everybody can put another directory in its place.
    shared: bool,
}

impl Sds {
    /// Opens the directory, where it is there.
    ///
    /// # Errors
    /// When it is not (`NotFound`), or when it, or the way to it, is not to be trusted: in one
    /// line, with the remedy.
    pub fn open(resources: &Path) -> io::Result<Sds> {
        Sds::look(resources, Access::Owner, false)
    }

    /// Opens the directory, and makes it where it is not there.
    ///
    /// # Errors
    /// As for [`Sds::open`], and when it cannot be made.
    pub fn make(resources: &Path, access: Access) -> io::Result<Sds> {
        Sds::look(resources, access, true)
    }

    fn look(resources: &Path, access: Access, make: bool) -> io::Result<Sds> {
        let root = if geteuid().is_root() {
            walk(resources, access, make)?
        } else {
            if make {
                let mut builder = DirBuilder::new();
                builder
                    .recursive(true)
                    .mode(access.of_directory().bits())
                    .create(resources)?;
            }
            let flags = OFlag::O_DIRECTORY | OFlag::O_PATH | OFlag::O_CLOEXEC;
            open(resources, flags, Mode::empty())?
        };
        let above = fstat(&root)?;
        let given = geteuid().is_root() && above.st_uid != 0;
        let owner = given.then(|| (Uid::from_raw(above.st_uid), Gid::from_raw(above.st_gid)));
        let path = resources.join("sds");
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let opened = || openat(&root, "sds", flags, Mode::empty());
        let (fd, made) = match opened() {
            Err(Errno::ENOENT) if make => match mkdirat(&root, "sds", access.of_directory()) {
                Ok(()) => (opened(), true),
                Err(Errno::EEXIST) => (opened(), false),
                Err(error) => return Err(error.into()),
            },
            other => (other, false),
        };
        let fd = fd.map_err(|error| match error {
            Errno::ELOOP | Errno::ENOTDIR => refuse(&path, "is a link or no directory: remove it"),
            error => error.into(),
        })?;
        let mut stat = fstat(&fd)?;
        if let (true, Some((user, group))) = (made, owner) {
            // Its owner may have put something else there since.
            let more = stat.st_mode & 0o777 & !access.of_directory().bits();
            if stat.st_uid != 0 || more != 0 || !is_empty(&fd)? {
                return Err(refuse(&path, "was replaced while it was made"));
            }
            fchown(&fd, Some(user), Some(group))?;
            stat = fstat(&fd)?;
        }
        if geteuid().is_root() {
            check(&path, &stat, &above)?;
        }
        let everybody = above.st_mode & 0o1002 == 0o002;
        let sds = Sds {
            fd,
            path,
            stat,
            owner,
            access,
            shared: geteuid().is_root() && everybody,
        };
        if made {
            log::info!("{}", sds.describe());
        }
        Ok(sds)
    }

    /// What people should know of the directory: whose it is, and who may write to it.
    pub fn describe(&self) -> String {
        let (path, mode) = (self.path.display(), self.stat.st_mode & 0o7777);
        let whose = format!(
            "SDS files: {path}, of uid {}, mode {mode:04o}",
            self.stat.st_uid
        );
        match self.owner {
            Some((user, _)) => format!("{whose}; they are given to uid {user}"),
            None if self.shared => format!(
                "{whose}; everybody can replace it, because the directory above is writable for all: \
                 give --resources-dir a directory of root's below that one"
            ),
            None => whose,
        }
    }

    /// What a file holds; none where there is none that is one.
    ///
    /// # Errors
    /// When it cannot be read. Never waits for another process.
    pub fn read(&self, name: &OsStr) -> io::Result<Option<SecretBytes>> {
        // A FIFO would block the open without O_NONBLOCK.
        let flags = OFlag::O_RDONLY
            | OFlag::O_NOFOLLOW
            | OFlag::O_NONBLOCK
            | OFlag::O_NOCTTY
            | OFlag::O_CLOEXEC;
        let file = match openat(&self.fd, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::ENOENT) => return Ok(None),
            Err(Errno::ELOOP) => return Err(self.no_file(name)),
            Err(error) => return Err(error.into()),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(self.no_file(name));
        }
        let expected = usize::try_from(metadata.len()).unwrap_or(LIMIT);
        SecretBytes::read(file, expected, LIMIT).map(Some)
    }

    fn no_file(&self, name: &OsStr) -> io::Error {
        refuse(
            &self.path.join(name),
            "is no file, and will be replaced by one",
        )
    }

    /// Replaces a file as a whole: readers see the old one or the new one.
    ///
    /// # Errors
    /// When it cannot be written: the old one stays.
    pub fn replace(&self, name: &OsStr, bytes: &[u8]) -> io::Result<()> {
        let mut temporary = OsString::from(".");
        temporary.push(name);
        temporary.push(".tmp");
        self.remove(&temporary)?;
        let written = self
            .create(&temporary)
            .and_then(|mut file| {
                if let Some((user, group)) = self.owner {
                    fchown(&file, Some(user), Some(group))?;
                }
                file.write_all(bytes)
            })
            .and_then(|()| Ok(renameat(&self.fd, &*temporary, &self.fd, name)?));
        if written.is_err() {
            let _ = self.remove(&temporary);
        }
        written
    }

    /// A new file: whoever may write to the directory cannot have us open one of theirs.
    fn create(&self, name: &OsStr) -> io::Result<File> {
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(openat(&self.fd, name, flags, self.access.of_file())?.into())
    }

    fn remove(&self, name: &OsStr) -> io::Result<()> {
        match unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes what an earlier drainit left that was killed: half a file, or the candidates that
    /// drainit 1.0 wrote. There are keys in them.
    ///
    /// # Errors
    /// When the directory cannot be read, or a file not removed.
    pub fn sweep(&self) -> io::Result<()> {
        for name in names(&self.fd)? {
            let left = [&b".json.tmp"[..], b".candidate.json"];
            if name.as_bytes().starts_with(b".")
                && left.iter().any(|end| name.as_bytes().ends_with(end))
            {
                log::info!("removing {}, left behind", self.path.join(&name).display());
                self.remove(&name)?;
            }
        }
        Ok(())
    }
}

/// Whether a directory can be written to by root: nobody but root and the user whose directory it
/// is in may have a say there.
fn check(path: &Path, stat: &FileStat, above: &FileStat) -> io::Result<()> {
    if stat.st_uid != 0 && stat.st_uid != above.st_uid {
        return Err(refuse(
            path,
            &format!(
                "belongs to uid {}, which is neither root nor the owner of the directory that it \
                 is in (uid {}): remove it",
                stat.st_uid, above.st_uid
            ),
        ));
    }
    if stat.st_mode & 0o002 != 0 {
        return Err(refuse(path, "can be written to by everybody: chmod o-w"));
    }
    Ok(())
}

/// Opens a directory for root, and makes what is missing of it. Once the way led through what
/// belongs to another user, it may not lead to anybody else's: that user could lead it there.
fn walk(path: &Path, access: Access, make: bool) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut here = openat(AT_FDCWD, ".", flags, Mode::empty())?;
    let mut left: Vec<OsString> = steps(path);
    let mut user: Option<u32> = None;
    let mut links = 0;
    while let Some(name) = left.pop() {
        let step = || openat(&here, &*name, flags, Mode::empty());
        let next = match step() {
            Err(Errno::ENOENT) if make => {
                match mkdirat(&here, &*name, access.of_directory()) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                step()?
            }
            other => other?,
        };
        let stat = fstat(&next)?;
        if let Some(user) = user
            && stat.st_uid != user
        {
            return Err(refuse(
                path,
                &format!(
                    "the path leads through a directory or link of uid {user}, who could make it lead \
                     anywhere: give all of the path to root, or all after that part to uid {user}"
                ),
            ));
        }
        // Who owns the root directory can do anything anyway, and in some images that is anybody.
        if stat.st_uid != 0 && name != "/" {
            user = Some(stat.st_uid);
        }
        match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
            SFlag::S_IFDIR => here = next,
            SFlag::S_IFLNK if links < LINKS => {
                links += 1;
                // By the descriptor: the link that was looked at.
                left.extend(steps(Path::new(&readlinkat(&next, "")?)));
            }
            SFlag::S_IFLNK => return Err(Errno::ELOOP.into()),
            _ => return Err(Errno::ENOTDIR.into()),
        }
    }
    Ok(here)
}

/// The names in a path, the last one first.
pub fn steps(path: &Path) -> Vec<OsString> {
    path.components()
        .rev()
        .filter(|step| *step != Component::CurDir)
        .map(|step| step.as_os_str().to_owned())
        .collect()
}

fn names(fd: &OwnedFd) -> io::Result<Vec<OsString>> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let mut dir = Dir::openat(fd.as_fd(), ".", flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in dir.iter() {
        let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    Ok(names)
}

fn is_empty(fd: &OwnedFd) -> io::Result<bool> {
    Ok(names(fd)?.is_empty())
}

fn refuse(path: &Path, why: &str) -> io::Error {
    io::Error::other(format!("{} {why}", path.display()))
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
