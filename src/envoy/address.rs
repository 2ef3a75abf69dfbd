//! How drainit learns where Envoy's admin interface is.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, fchmod};
use nix::time::{ClockId, clock_gettime};

use super::kin;
use crate::client::{Address, Peer};
use crate::pulse::Pulse;

/// What gives an Envoy an admin interface, in its configuration.
pub const ADMIN_BLOCK: &str =
    "`admin: { address: { socket_address: { address: 127.0.0.1, port_value: 9901 } } }`";

/// What is wrong with an Envoy that has told nothing.
pub const NOT_TOLD: &str = "envoy has not told its admin address";

/// Where to look for the address.
#[derive(Clone, Debug)]
pub enum Place {
    /// At this address, says the operator. Where a restart epoch is given, the Envoy of that epoch has to
    /// answer there: the one before does until its successor has taken the address over.
    Known(Address, Option<u32>),
    /// At this address, says Envoy: it must be Envoy that answers. A path may be relative to
    /// Envoy's working directory.
    Told(Address),
    /// In the file that the operator named with `--admin-address-path`.
    File(Arc<AddressFile>),
    /// Nowhere yet.
    Unknown,
}

impl Place {
    /// Who may answer there. What an Envoy that shares a volume with ours told last is not ours:
    /// its drain would be begun, and its silence taken for ours.
    pub fn peer(&self) -> Peer {
        match self {
            Place::Told(_) => Peer::Descendant,
            _ => Peer::Anyone,
        }
    }

    /// The address of the Envoy that `owner` is or has started, as far as it can be known now. May
    /// hang where the file system does, as `pulse` shows.
    ///
    /// # Errors
    /// One line that says why there is none.
    pub fn find(&self, owner: Option<i32>, pulse: &Pulse) -> Result<Address, String> {
        match self {
            Place::Known(address, _) => Ok(address.clone()),
            Place::Told(address) => absolute(address.clone(), owner),
            Place::Unknown => Err(NOT_TOLD.into()),
            Place::File(told) => absolute(pulse.during(&told.path, || told.read())?, owner),
        }
    }
}

/// What Envoy tells as its admin address: an IP address and port, or a path as it is configured.
fn told(text: &str) -> Result<Address, String> {
    let text = text.trim();
    if text.is_empty() || text.starts_with(['/', '@']) || text.parse::<SocketAddr>().is_ok() {
        return text.parse();
    }
    Ok(Address::Unix(text.into()))
}

/// A path that is relative to the working directory of the Envoy that `owner` is or has started,
/// made absolute.
fn absolute(address: Address, owner: Option<i32>) -> Result<Address, String> {
    match (address, owner) {
        (Address::Unix(path), Some(owner)) if path.is_relative() => {
            kin::socket(owner, &path).map(Address::Unix)
        }
        (address, _) => Ok(address),
    }
}

/// What tells a file from another one of its name: inode, size and times.
type Stamp = (u64, u64, i64, i64);

/// The file that an Envoy writes its admin address to, and that an earlier one may have left.
#[derive(Debug)]
pub struct AddressFile {
    path: PathBuf,
    /// When this Envoy was about to be spawned, in seconds and nanoseconds of the clock that file
    /// systems use.
    spawned: (i64, i64),
    /// The file that an earlier Envoy left, as it was at the first look; none where there was none.
    left: OnceLock<Option<Stamp>>,
}

impl AddressFile {
    /// The file of an Envoy that is going to be spawned now.
    pub fn new(path: PathBuf) -> AddressFile {
        // The exact one: since Linux 6.13 a file's time may be ahead of the coarse clock.
        let now = clock_gettime(ClockId::CLOCK_REALTIME);
        let spawned = now.map_or((i64::MAX, 0), |now| (now.tv_sec(), now.tv_nsec()));
        AddressFile {
            path,
            spawned,
            left: OnceLock::new(),
        }
    }

    fn read(&self) -> Result<Address, String> {
        let unknown =
            |why: String| format!("envoy's admin address, in {}: {why}", self.path.display());
        let file = fs::metadata(&self.path);
        let file = file.ok().map(|file| {
            let stamp = (file.ino(), file.size(), file.mtime(), file.mtime_nsec());
            (stamp, (file.ctime(), file.ctime_nsec()))
        });
        let left = self.left.get_or_init(|| {
            // The first look may come late.
            file.filter(|(_, changed)| *changed <= self.spawned)
                .map(|(stamp, _)| stamp)
        });
        if file.is_none_or(|(stamp, _)| Some(stamp) == *left) {
            return Err(unknown("not written yet".into()));
        }
        let mut text = String::new();
        // A FIFO that nobody writes would block for ever. Envoy's user could make a link to what root
        // alone may read: what is told is shown to everybody.
        let flags = OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW;
        OpenOptions::new()
            .read(true)
            .custom_flags(flags.bits())
            .open(&self.path)
            .and_then(|file| file.take(4096).read_to_string(&mut text))
            .map_err(|error| unknown(error.to_string()))?;
        told(&text).map_err(unknown)
    }
}

/// A pipe that Envoy writes its admin address to, once it knows it: the real one, with the port
/// that the kernel chose.
///
/// Given as `--admin-address-path /proc/self/fd/N`, it needs no writable file system, and wakes
/// who polls it.
#[derive(Debug)]
pub struct Pipe {
    read: File,
    write: Option<OwnedFd>,
}

impl Pipe {
    /// A pipe for the next Envoy.
    ///
    /// # Errors
    /// When the process is out of descriptors, or /proc is not there.
    pub fn new() -> io::Result<Pipe> {
        fs::metadata("/proc/self/fd")?;
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        // An entrypoint may change the user before it execs Envoy, which then opens the pipe anew
        // by its path. Nobody can do so who may not look into Envoy's /proc anyway. A kernel that
        // refuses this (gVisor does) may do without.
        let _ = fchmod(&write, Mode::from_bits_truncate(0o222));
        Ok(Pipe {
            read: read.into(),
            write: Some(write),
        })
    }

    /// The end that Envoy inherits.
    pub fn write_end(&self) -> Option<&OwnedFd> {
        self.write.as_ref()
    }

    /// The path of the write end, as Envoy sees it.
    pub fn path(&self) -> Option<OsString> {
        let write = self.write.as_ref()?;
        Some(format!("/proc/self/fd/{}", write.as_raw_fd()).into())
    }

    /// Closes our copy of Envoy's end, once Envoy has been spawned.
    pub fn close_write_end(&mut self) {
        self.write = None;
    }

    /// Reads the address; none while there is nothing to read. Envoy writes it at once.
    ///
    /// # Errors
    /// One line, when what is there is no address, or when nothing will come any more.
    pub fn read(&mut self) -> Result<Option<Address>, String> {
        let mut bytes = [0; 512];
        match self.read.read(&mut bytes) {
            Ok(0) => {
                Err("envoy has told no admin address: has its configuration an `admin`?".into())
            }
            Ok(length) => {
                let text =
                    String::from_utf8_lossy(bytes.get(..length).unwrap_or_default()).into_owned();
                told(&text)
                    .map(Some)
                    .map_err(|why| format!("envoy's admin address: {why}"))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(format!("envoy's admin address: {error}")),
        }
    }
}

impl AsFd for Pipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    use crate::testing::TempDir;

    #[test]
    fn what_is_written_to_the_pipes_path_is_the_address() {
        let mut pipe = Pipe::new().unwrap();
        assert_eq!(pipe.read(), Ok(None));
        let mut envoys = fs::OpenOptions::new()
            .write(true)
            .open(pipe.path().unwrap())
            .unwrap();
        pipe.close_write_end();
        envoys.write_all(b"127.0.0.1:9901").unwrap();
        assert_eq!(pipe.read(), Ok(Some(Address::Tcp("127.0.0.1:9901".into()))));
        assert_eq!(pipe.read(), Ok(None));
        drop(envoys);
        assert!(pipe.read().unwrap_err().contains("admin"));
    }

    #[test]
    fn what_is_no_ip_address_is_a_path() {
        let path = |path: &str| Ok(Address::Unix(path.into()));
        assert_eq!(told("admin.sock\n"), path("admin.sock"));
        assert_eq!(told("run:1"), path("run:1"));
        assert_eq!(told("/run/a"), path("/run/a"));
        assert_eq!(told("[::1]:9901"), Ok(Address::Tcp("[::1]:9901".into())));
        assert_eq!(told("@a"), Ok(Address::Abstract("a".into())));
        assert!(told(" ").is_err());
    }

    #[test]
    fn a_file_of_an_earlier_envoy_is_not_believed() {
        let dir = TempDir::new();
        let path = dir.join("address");
        fs::write(&path, "127.0.0.1:1\n").unwrap();
        let find = |place: &Place| place.find(None, &Pulse::default());
        let place = Place::File(Arc::new(AddressFile::new(path.clone())));
        assert!(find(&place).is_err());
        fs::write(&path, "/run/admin.sock").unwrap();
        let written = Ok(Address::Unix("/run/admin.sock".into()));
        assert_eq!(find(&place), written);
        // Written before the first look, though after Envoy was spawned.
        let mut late = AddressFile::new(path.clone());
        late.spawned.0 -= 1;
        assert_eq!(find(&Place::File(Arc::new(late))), written);
        fs::remove_file(&path).unwrap();
        assert!(find(&place).is_err());
        // A link to what an Envoy has not written.
        fs::write(dir.join("secret"), "a secret").unwrap();
        std::os::unix::fs::symlink("secret", &path).unwrap();
        let why = find(&place).unwrap_err();
        assert!(!why.contains("a secret"), "{why}");
    }
}
