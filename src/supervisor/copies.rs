//! Envoy's configuration file, whoever writes it, and copies of what it held, in shared memory.
//!
//! The contents are compared, as those of certificates are, so that every writer and mount is
//! seen: in place, by a rename, by kubelet's swap of a symbolic link. What was the same for a
//! moment is whole.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::libc;
use nix::unistd::geteuid;

use crate::certificates::secret::SecretBytes;
use crate::envoy::hot_restart::{SHARED, own_directory};
use crate::file;
use crate::mailbox::Inbox;
use crate::pulse::Pulse;

/// Between two looks at the file.
const CHECK: Duration = Duration::from_secs(1);

/// Between two looks at contents that have changed, and how long they stay the same before they are
/// whole: as for certificates.
const QUICK: Duration = Duration::from_millis(100);
const SETTLE: Duration = Duration::from_millis(600);

/// Every so manieth look reads the file, whatever its file system says of it.
const READ_EVERY: u32 = 10;

/// The most that is read, in bytes: 10,000 clusters are 4 MB.
const LIMIT: usize = 16 << 20;

/// What the name of a directory of copies begins with.
const BEGIN: &str = "drainit-config-";

/// The root directory, by a name below which Envoy 1.36.4 takes a file of /dev, too, as 1.40.0 does
/// by any name: it lets /dev/fd/ pass before it resolves a path.
const DETOUR: &str = "/dev/fd/../root";

/// What tells contents from others: their length, and a hash of them by a key of this drainit's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Print(u64, u64, u64);

/// What the file held, and where that is kept: in a file of its own, for its owner alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// What tells these contents from others.
    pub print: Print,
    /// Where the copy is.
    pub path: PathBuf,
    /// Who could read the file: its owner, its group, and its mode.
    pub readers: Readers,
}

/// Who may read a file, as far as its mode tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readers {
    uid: u32,
    gid: u32,
    mode: u32,
}

impl Readers {
    fn of(file: &Metadata) -> Readers {
        Readers {
            uid: file.uid(),
            gid: file.gid(),
            mode: file.mode(),
        }
    }

    /// Whether a user with these groups is one of them.
    pub fn include(&self, uid: u32, groups: &[u32]) -> bool {
        let bit = match () {
            () if self.uid == uid => 0o400,
            () if groups.contains(&self.gid) => 0o040,
            () => 0o004,
        };
        self.mode & bit != 0
    }
}

/// What the thread tells.
#[derive(Debug)]
pub enum ConfigurationReport {
    /// Envoy was started a moment ago: this is what it reads.
    Read(Copy),
    /// The file has changed, and stayed so.
    Changed(Copy),
    /// The file cannot be read any more, or not be kept; why.
    Lost(String),
}

/// Where the file is, where its copies are, and how they are compared.
#[derive(Clone, Debug)]
pub struct Copies {
    file: PathBuf,
    dir: PathBuf,
    /// The directory, locked for as long as we live.
    _lock: Arc<Flock<File>>,
    keys: [RandomState; 2],
    /// How many copies there were, whichever thread made them: an earlier one may still be in use.
    made: Arc<AtomicU64>,
}

impl Copies {
    /// Copies of this file, in a directory of their own.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn new(file: PathBuf) -> io::Result<Copies> {
        let new = || places().find_map(|place| own(place).ok());
        // A sweep of another's may have come between.
        let (mut dir, lock) = match new().or_else(new) {
            Some(own) => own,
            None => own(Path::new(SHARED)).or_else(|_| own(Path::new(SHARED)))?,
        };
        // Envoy may be another user, to whom a copy is given; nobody can guess the directory's name
        // or list it.
        let mode = if geteuid().is_root() { 0o711 } else { 0o700 };
        fs::set_permissions(&dir, Permissions::from_mode(mode))?;
        let detour = Path::new(DETOUR).join(dir.strip_prefix("/").unwrap_or(&dir));
        if dir.starts_with("/dev") && detour.exists() {
            dir = detour;
        }
        Ok(Copies {
            file,
            dir,
            _lock: Arc::new(lock),
            keys: [RandomState::new(), RandomState::new()],
            made: Arc::default(),
        })
    }

    /// The file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Removes all copies.
    pub fn remove(&self) {
        let _ = fs::remove_dir_all(&self.dir);
    }

    /// Removes what drainits left that were killed: there may be keys in it.
    fn sweep(pulse: &Pulse) {
        for place in places().chain([Path::new(SHARED)]) {
            pulse.during(place, || sweep(place));
        }
    }

    fn print(&self, bytes: &[u8]) -> Print {
        let hash = |key: &RandomState| {
            let mut hasher = key.build_hasher();
            hasher.write(bytes);
            hasher.finish()
        };
        let [one, other] = &self.keys;
        Print(bytes.len() as u64, hash(one), hash(other))
    }

    fn read(&self) -> Result<(SecretBytes, Readers), String> {
        let explain = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => "is missing".to_owned(),
            io::ErrorKind::PermissionDenied => "may not be read".into(),
            _ => error.to_string(),
        };
        // A FIFO would block the open without the flag; what else may block is no regular file.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(&self.file)
            .map_err(explain)?;
        let metadata = file.metadata().map_err(explain)?;
        if !metadata.is_file() {
            return Err("is not a file".into());
        }
        let expected = usize::try_from(metadata.len()).unwrap_or(LIMIT);
        // A key may be in it.
        let bytes = SecretBytes::read(file, expected, LIMIT + 1).map_err(explain)?;
        if bytes.len() > LIMIT {
            return Err("is larger than 16 MiB".into());
        }
        Ok((bytes, Readers::of(&metadata)))
    }

    /// Envoy tells the format by the file's extension, so that the copy has the same.
    fn keep(&self, (bytes, readers): &(SecretBytes, Readers)) -> io::Result<Copy> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let mut path = self.dir.join(number.to_string());
        if let Some(extension) = self.file.extension() {
            path.set_extension(extension);
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        file.write_all(bytes)?;
        let print = self.print(bytes);
        let readers = *readers;
        Ok(Copy {
            print,
            path,
            readers,
        })
    }
}

/// Where copies are, in memory, besides [`SHARED`], where Envoy takes no file by its own name.
fn places() -> impl Iterator<Item = &'static Path> {
    let mounts = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let mounts = String::from_utf8_lossy(&mounts).into_owned();
    let places = ["/run", "/tmp"].into_iter();
    places
        .filter(move |place| is_memory(&mounts, place))
        .map(Path::new)
}

/// Whether a tmpfs is mounted here, by `/proc/self/mountinfo` (proc(5)): to ask a file system that
/// hangs for its type would hang, too.
fn is_memory(mounts: &str, place: &str) -> bool {
    let kind = |line: &str| {
        let (mount, system) = line.split_once(" - ")?;
        (mount.split(' ').nth(4) == Some(place)).then(|| system.starts_with("tmpfs "))
    };
    // What was mounted last is on top.
    mounts.lines().rev().find_map(kind) == Some(true)
}

/// Removes what drainits left in this place that were killed.
fn sweep(place: &Path) {
    let us = geteuid().as_raw();
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        if !entry.file_name().as_bytes().starts_with(BEGIN.as_bytes()) {
            continue;
        }
        let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let path = entry.path();
        let mut open = OpenOptions::new();
        if let Ok(dir) = open.read(true).custom_flags(flags).open(&path)
            && dir.metadata().is_ok_and(|dir| dir.uid() == us)
            && let Ok(_lock) = lock(dir)
        {
            log::info!("removing {}, left behind", path.display());
            let _ = fs::remove_dir_all(path);
        }
    }
}

/// A new directory of our own, and its lock.
fn own(place: &Path) -> io::Result<(PathBuf, Flock<File>)> {
    let dir = own_directory(place, BEGIN)?;
    let lock = lock(File::open(&dir)?)?;
    fs::symlink_metadata(&dir)?;
    Ok((dir, lock))
}

/// Locks a directory of copies, unless a living drainit has.
fn lock(dir: File) -> io::Result<Flock<File>> {
    Flock::lock(dir, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error.into())
}

/// The thread: compares for ever. A message means that Envoy was started just now; `pulse` shows
/// when it looks at the file.
pub fn work(
    copies: &Copies,
    started: &Inbox<()>,
    report: &impl Fn(ConfigurationReport),
    pulse: &Pulse,
) {
    Copies::sweep(pulse);
    let keep = |read: &(SecretBytes, Readers)| copies.keep(read).map_err(|error| error.to_string());
    let mut seen: Option<(Result<Print, String>, Instant)> = None;
    let mut told: Option<Result<Print, String>> = None;
    let mut last = None;
    let mut looks = 0;
    let mut pause = Duration::ZERO;
    loop {
        let start = started.wait(pause).is_some();
        let now = Instant::now();
        let print = pulse.during(&copies.file, || file::stamp(&copies.file).ok());
        looks += 1;
        let calm = seen.as_ref().map(|(is, _)| is) == told.as_ref();
        pause = CHECK;
        if !start && calm && print == last && looks < READ_EVERY {
            continue;
        }
        (last, looks) = (print, 0);
        let read = pulse.during(&copies.file, || copies.read());
        let is = read.as_ref().map(|(bytes, _)| copies.print(bytes));
        let is = is.map_err(Clone::clone);
        if start {
            let kept = read.and_then(|read| keep(&read));
            report(kept.map_or_else(ConfigurationReport::Lost, ConfigurationReport::Read));
            told = Some(is.clone());
            seen = Some((is, now));
            continue;
        }
        let since = match &seen {
            Some((before, since)) if *before == is => *since,
            _ => now,
        };
        seen = Some((is.clone(), since));
        if told.is_none() {
            // Before Envoy's first start.
            continue;
        }
        if told.as_ref() == Some(&is) {
            continue;
        }
        pause = QUICK;
        if now.saturating_duration_since(since) < SETTLE {
            continue;
        }
        told = Some(is);
        report(match read {
            Ok(read) => {
                keep(&read).map_or_else(ConfigurationReport::Lost, ConfigurationReport::Changed)
            }
            Err(why) => ConfigurationReport::Lost(why),
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;
    use crate::mailbox::Mailbox;
    use crate::testing::TempDir;

    #[test]
    fn memory_is_told_from_disks_and_from_what_may_hang_by_the_kernels_list_alone() {
        let mounts = "22 1 8:1 / / rw - ext4 /dev/sda rw\n\
                      23 22 0:25 / /run rw,nosuid shared:5 - tmpfs tmpfs rw\n\
                      24 22 0:26 / /tmp rw - tmpfs tmpfs rw\n\
                      25 24 0:27 / /tmp rw - fuse.sshfs host:/ rw\n\
                      26 23 0:28 / /run/user rw - tmpfs tmpfs rw\n";
        for (place, is) in [
            ("/run", true),
            ("/tmp", false),
            ("/", false),
            ("/var", false),
        ] {
            assert_eq!(is_memory(mounts, place), is, "{place}");
        }
    }

    #[test]
    fn who_could_not_read_the_file_is_no_reader_of_its_copy() {
        let of = |mode| Readers {
            uid: 0,
            gid: 42,
            mode,
        };
        for (mode, groups, may) in [
            (0o100_644, &[101][..], true),
            (0o100_640, &[101, 42], true),
            (0o100_640, &[101], false),
            (0o100_600, &[42], false),
            (0o100_604, &[42], false),
        ] {
            assert_eq!(of(mode).include(101, groups), may, "{mode:o} {groups:?}");
        }
        assert!(of(0o100_600).include(0, &[]));
    }

    #[test]
    fn contents_that_changed_and_stayed_are_kept_whoever_writes_them() {
        let dir = TempDir::new();
        let mount = |name: &str, text: &str| {
            fs::create_dir_all(dir.join(name)).unwrap();
            fs::write(dir.join(name).join("envoy.yaml"), text).unwrap();
            let link = dir.join("..data_tmp");
            std::os::unix::fs::symlink(name, &link).unwrap();
            fs::rename(link, dir.join("..data")).unwrap();
        };
        mount("one", "one");
        let file = dir.join("envoy.yaml");
        std::os::unix::fs::symlink("..data/envoy.yaml", &file).unwrap();
        let copies = Copies::new(file).unwrap();
        let (start, started) = Mailbox::new(None);
        let (sender, words) = mpsc::channel();
        let of = copies.clone();
        let report = move |word| sender.send(word).unwrap_or(());
        thread::spawn(move || work(&of, &started, &report, &Pulse::default()));
        let held = |copy: &Copy| {
            assert_eq!(copy.path.extension(), Some("yaml".as_ref()));
            assert_eq!(fs::metadata(&copy.path).unwrap().mode() & 0o777, 0o600);
            fs::read_to_string(&copy.path).unwrap()
        };
        start.send(());
        let ConfigurationReport::Read(first) = words.recv().unwrap() else {
            panic!("what Envoy reads");
        };
        assert_eq!(held(&first), "one");
        mount("two", "two");
        let ConfigurationReport::Changed(second) = words.recv().unwrap() else {
            panic!("what it was changed to");
        };
        assert_eq!(held(&second), "two");
        fs::write(dir.join("two/envoy.yaml"), "one").unwrap();
        let ConfigurationReport::Changed(third) = words.recv().unwrap() else {
            panic!("what it was changed to");
        };
        assert_eq!(third.print, first.print);
        // A thread that is started anew leaves alone what its predecessor has kept.
        let (again, started) = Mailbox::new(None);
        let (sender, others) = mpsc::channel();
        let of = copies.clone();
        let report = move |word| sender.send(word).unwrap_or(());
        thread::spawn(move || work(&of, &started, &report, &Pulse::default()));
        fs::write(dir.join("two/envoy.yaml"), "three").unwrap();
        again.send(());
        let ConfigurationReport::Read(fourth) = others.recv().unwrap() else {
            panic!("what Envoy reads");
        };
        let all = [&first, &second, &third, &fourth].map(held);
        assert_eq!(all, ["one", "two", "one", "three"]);
        fs::remove_file(dir.join("envoy.yaml")).unwrap();
        assert!(
            matches!(words.recv().unwrap(), ConfigurationReport::Lost(why) if why == "is missing")
        );
        // What is not there when Envoy starts is told at once, and followed from then on.
        let (first, started) = Mailbox::new(None);
        let (sender, words) = mpsc::channel();
        let of = copies.clone();
        let report = move |word| sender.send(word).unwrap_or(());
        first.send(());
        thread::spawn(move || work(&of, &started, &report, &Pulse::default()));
        let patience = Duration::from_secs(20);
        let word = words.recv_timeout(patience);
        assert!(matches!(word, Ok(ConfigurationReport::Lost(why)) if why == "is missing"));
        fs::write(dir.join("envoy.yaml"), "four").unwrap();
        let word = words.recv_timeout(patience);
        assert!(matches!(word, Ok(ConfigurationReport::Changed(_))));
        // Who was killed has no lock.
        let left = own_directory(Path::new(SHARED), BEGIN).unwrap();
        fs::write(left.join("1.yaml"), "a key").unwrap();
        Copies::sweep(&Pulse::default());
        assert!(!left.exists() && copies.dir.exists());
        copies.remove();
    }
}
