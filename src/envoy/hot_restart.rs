//! Envoy's hot restart: its flags, and its shared memory.
//!
//! Two Envoys share a region in /dev/shm and four sockets, named after the base id. The second
//! takes the listeners' sockets over from the first, which then drains. An Envoy believes
//! whatever comes in at these sockets, so they lie in a directory that nobody else may enter.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown,
};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{SFlag, fstatat};
use nix::unistd::geteuid;

use super::{flags, kernel, kin};

/// Flags that say otherwise than `--hot-restart`.
const CONTRADICTIONS: [&str; 5] = [
    "--disable-hot-restart",
    "--restart-epoch",
    "--use-dynamic-base-id",
    "--base-id-path",
    "--skip-hot-restart-parent-stats",
];

/// The layout of Envoy's region that is known here: `HOT_RESTART_VERSION` in its
/// source/server/hot_restart_impl.cc, the same from 1.36 to 1.40.
const LAYOUT: u64 = 11;

/// The bit that an Envoy sets while it starts, and that keeps every other from starting.
const INITIALIZING: u64 = 1;

/// A flag among these that `--hot-restart` cannot go with.
pub fn contradiction(args: &[OsString]) -> Option<&'static str> {
    CONTRADICTIONS
        .into_iter()
        .find(|flag| flags::has(args, flag))
}

/// What all generations of an Envoy have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Family {
    /// Names the shared memory and the sockets. Another Envoy on the node must have another.
    pub base_id: u32,
    /// Worker threads: a change between generations resets connections.
    pub concurrency: usize,
    /// Envoy's `--drain-time-s`: see [`flags::drain_time`].
    pub drain_time: Duration,
    /// After how long an old generation ends, and cuts what is left (`--parent-shutdown-time-s`).
    pub parent_shutdown_time: Duration,
    /// What the paths of the sockets begin with; none where the operator gave `--socket-path`.
    sockets: Option<PathBuf>,
}

impl Family {
    /// The family of the Envoy that `args` start. The old generation is given as long as a drain,
    /// `timeout`.
    ///
    /// # Errors
    /// One line, when it cannot work: contradicting flags, or /dev/shm is missing or read-only.
    pub fn new(args: &[OsString], timeout: Duration) -> Result<Family, String> {
        if let Some(flag) = contradiction(args) {
            return Err(format!(
                "--hot-restart contradicts Envoy's {flag}: leave that out"
            ));
        }
        // Each is a number of 32 bits to Envoy.
        let given = |flag: &str| -> Result<Option<u32>, String> {
            let Some(value) = flags::value(args, flag) else {
                return Ok(None);
            };
            let number = value.to_str().and_then(|value| value.parse().ok());
            number
                .map(Some)
                .ok_or_else(|| format!("Envoy's {flag} needs a number from 0 to 4294967295"))
        };
        let seconds = |number: u32| Duration::from_secs(number.into());
        let drain = given("--drain-time-s")?.map(seconds);
        let parent = given("--parent-shutdown-time-s")?.map(seconds);
        // Where the operator says how long a drain takes, the old generation is given that long.
        // Envoy itself does not compare the two.
        let parent = parent.unwrap_or_else(|| {
            drain.map_or(timeout, |drain| timeout.max(drain + Duration::from_secs(5)))
        });
        // Envoy takes whole seconds, and 0 ends the old generation at once.
        let parent = Duration::from_secs(parent.as_secs() + u64::from(parent.subsec_nanos() > 0));
        let drain = drain.unwrap_or_else(|| flags::drain_time(timeout.max(parent)));
        let base_id = match given("--base-id")? {
            Some(id) => id,
            None => free_base_id(),
        };
        let concurrency = match given("--concurrency")? {
            Some(number) => usize::try_from(number).unwrap_or(1),
            None => std::thread::available_parallelism().map_or(1, usize::from),
        };
        let dir = sockets_directory()
            .map_err(|error| format!("--hot-restart needs a writable /dev/shm: {error}"))?;
        let sockets = if flags::has(args, SOCKET_PATH) {
            let _ = fs::remove_dir(dir);
            None
        } else {
            Some(dir.join(random_name()))
        };
        Ok(Family {
            base_id,
            concurrency,
            drain_time: drain,
            parent_shutdown_time: parent,
            sockets,
        })
    }

    /// Appends what generation `epoch` is to be started with.
    pub fn complete(&self, args: &mut Vec<OsString>, epoch: u32) {
        let numbers = [
            ("--restart-epoch", u64::from(epoch)),
            ("--base-id", u64::from(self.base_id)),
            ("--concurrency", self.concurrency as u64),
            ("--drain-time-s", self.drain_time.as_secs()),
            (
                "--parent-shutdown-time-s",
                self.parent_shutdown_time.as_secs(),
            ),
        ];
        for (flag, number) in numbers {
            if !flags::has(args, flag) {
                args.extend([flag.into(), number.to_string().into()]);
            }
        }
        if let Some(sockets) = &self.sockets {
            args.extend([SOCKET_PATH.into(), sockets.into()]);
            if !flags::has(args, SOCKET_MODE) {
                args.extend([SOCKET_MODE, "600"].map(OsString::from));
            }
        }
    }

    /// Gives the sockets' directory to the user that Envoy runs as, once it has made them, and to
    /// nobody else. Which user that is cannot be known before: a start script may leave root.
    pub fn close_directory(&self) {
        let Some((dir, paths)) = self.socket_paths() else {
            return;
        };
        // Whoever was given it can put anything in its place.
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(flags.bits())
            .open(dir);
        let Ok((now, dir)) = opened.and_then(|dir| Ok((dir.metadata()?, dir))) else {
            return;
        };
        if now.uid() != geteuid().as_raw() || now.mode() & 0o077 == 0 {
            return;
        }
        let made = paths.iter().find_map(|path| {
            let made = fstatat(&dir, path.file_name()?, AtFlags::AT_SYMLINK_NOFOLLOW).ok()?;
            let kind = SFlag::from_bits_truncate(made.st_mode & SFlag::S_IFMT.bits());
            (kind == SFlag::S_IFSOCK).then_some(made)
        });
        if let Some(owner) = made
            && (owner.st_uid == now.uid()
                || fchown(&dir, Some(owner.st_uid), Some(owner.st_gid)).is_ok())
        {
            let _ = dir.set_permissions(Permissions::from_mode(0o700));
        }
    }

    /// Where the generation after `epoch` asks it; none where the operator says where that is.
    pub fn socket_of(&self, epoch: u32) -> Option<PathBuf> {
        let path = self.sockets.as_ref()?;
        let number = u64::from(self.base_id) * 10 + u64::from(epoch % 3);
        let mut path = path.clone().into_os_string();
        path.push(format!("_parent_{number}"));
        Some(path.into())
    }

    /// The directory of the sockets, and the paths that they may have in it: Envoy adds whose a
    /// socket is and a number, ten times the base id and the epoch modulo three
    /// (`createDomainSocketAddress` in its source/server/hot_restarting_base.cc).
    fn socket_paths(&self) -> Option<(&Path, Vec<PathBuf>)> {
        let sockets = self.sockets.as_ref()?;
        let path = |role: &str, number: u64| {
            let mut path = sockets.clone().into_os_string();
            path.push(format!("_{role}_{}", u64::from(self.base_id) * 10 + number));
            PathBuf::from(path)
        };
        let roles = ["child", "parent", "udp_child", "udp_parent"];
        let paths = roles
            .iter()
            .flat_map(|role| (0..3).map(move |number| (role, number)))
            .map(|(role, number)| path(role, number));
        Some((sockets.parent()?, paths.collect()))
    }

    /// Clears the mark of a generation that ended while it started: with it, every later one
    /// would exit with `previous envoy process is still initializing`. Only when no other starts.
    ///
    /// # Errors
    /// One line, when the region is none that is known here; then nothing was written.
    pub fn mend(&self) -> Result<(), String> {
        let path = region(self.base_id);
        let unknown = |why: String| format!("{}: {why}", path.display());
        // In a directory where anybody may put something.
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags.bits())
            .open(&path);
        let file = file.map_err(|error| unknown(error.to_string()))?;
        let size = file
            .metadata()
            .map_err(|error| unknown(error.to_string()))?
            .len();
        let at = |offset: u64| {
            let mut word = [0; 8];
            file.read_exact_at(&mut word, offset)
                .map(|()| u64::from_ne_bytes(word))
        };
        let read =
            || -> io::Result<(u64, u64, u64)> { Ok((at(0)?, at(8)?, at(size.saturating_sub(8))?)) };
        let (told, layout, flags) = read().map_err(|error| unknown(error.to_string()))?;
        // Size, layout, two mutexes and the flags: 104 bytes on x86_64, 120 on aarch64.
        if told != size || layout != LAYOUT || !(104..=120).contains(&size) || flags & !0b11 != 0 {
            return Err(unknown(format!(
                "an unknown layout: {told} bytes of version {layout}"
            )));
        }
        let mended = (flags & !INITIALIZING).to_ne_bytes();
        file.write_all_at(&mended, size - 8)
            .map_err(|error| unknown(error.to_string()))
    }

    /// Removes the region and the sockets, which Envoy leaves behind.
    pub fn remove(&self) {
        let _ = fs::remove_file(region(self.base_id));
        if let Some((dir, paths)) = self.socket_paths() {
            for path in paths {
                let _ = fs::remove_file(path);
            }
            let _ = fs::remove_dir(dir);
        }
    }
}

/// What a hot restart costs this Envoy, where somebody should know before: up to 1.39 every
/// datagram to a UDP proxy is lost as long as the old generation lives, but none of HTTP/3 (seen on
/// 1.36.4 to 1.39.3, not on 1.40.0).
pub fn warning(version: &str, pid: i32) -> Option<String> {
    let minor: u32 = version
        .strip_prefix("1.")?
        .split('.')
        .next()?
        .parse()
        .ok()?;
    let loses = minor < 40
        && flags::has(&kin::arguments(pid), "--restart-epoch")
        && kernel::has_udp_listener(pid);
    loses.then(|| {
        format!(
            "envoy {version} loses all datagrams to its UDP listeners, those of HTTP/3 apart, from a \
             hot restart until the old generation has ended; envoy 1.40 does not"
        )
    })
}

/// Envoy's flags for the sockets.
const SOCKET_PATH: &str = "--socket-path";
const SOCKET_MODE: &str = "--socket-mode";

/// Envoy multiplies the base id by ten.
fn region(base_id: u32) -> PathBuf {
    format!("/dev/shm/envoy_shared_memory_{}", u64::from(base_id) * 10).into()
}

/// Shared memory, which hot restart needs anyway.
pub const SHARED: &str = "/dev/shm";

/// A new directory for the sockets. A root whose start script may leave root lets others make files
/// in it, but not list or replace any, until [`Family::close_directory`].
fn sockets_directory() -> io::Result<PathBuf> {
    let dir = own_directory(Path::new(SHARED), "drainit-")?;
    if geteuid().is_root() {
        fs::set_permissions(&dir, Permissions::from_mode(0o1733))?;
    }
    Ok(dir)
}

/// A new directory in this place, whose name begins so. Nobody but we may see what is in it.
///
/// # Errors
/// Those of the file system.
pub fn own_directory(place: &Path, begin: &str) -> io::Result<PathBuf> {
    let mut tries = 0;
    loop {
        let path = place.join(format!("{begin}{}", random_name()));
        match DirBuilder::new().mode(0o700).create(&path) {
            // Another one's, by chance.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tries < 16 => tries += 1,
            made => return made.map(|()| path),
        }
    }
}

/// A name that nobody can guess: 64 bits of a keyed hash, whose key is the kernel's randomness.
fn random_name() -> String {
    format!("{:016x}", random())
}

fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// A base id that no other Envoy has: they share /dev/shm on a node, and more than one may be pid
/// 1.
fn free_base_id() -> u32 {
    // Envoy multiplies it by ten, and what is above 31 bits then is negative to it (seen on 1.40.0).
    let any = || u32::try_from(random() % 200_000_000).unwrap_or_default() + 1;
    std::iter::repeat_with(any)
        .take(16)
        .find(|id| !region(*id).exists())
        .unwrap_or_else(any)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    fn family(args: &[&str]) -> Result<Family, String> {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        Family::new(&args, Duration::from_secs(25))
    }

    #[test]
    fn generations_share_what_they_must() {
        let family = family(&["--concurrency", "3", "--base-id", "7"]).unwrap();
        let mut args = vec!["--concurrency".into(), "3".into()];
        family.complete(&mut args, 2);
        let line: Vec<_> = args.iter().map(|word| word.to_str().unwrap()).collect();
        let line = line.join(" ");
        let numbers = "--concurrency 3 --restart-epoch 2 --base-id 7 --drain-time-s 600 \
                       --parent-shutdown-time-s 25 --socket-path /dev/shm/drainit-";
        assert!(line.starts_with(numbers), "{line}");
        assert!(line.ends_with(" --socket-mode 600"), "{line}");
        family.remove();
    }

    #[test]
    fn two_that_start_together_300_times_are_never_refused_and_share_nothing() {
        let starts = || {
            let all: Vec<_> = (0..300).map(|_| family(&[]).unwrap()).collect();
            all
        };
        let other = std::thread::spawn(starts);
        let mut all = starts();
        all.extend(other.join().unwrap());
        let ids: HashSet<_> = all.iter().map(|family| family.base_id).collect();
        let dirs: HashSet<_> = all.iter().map(|family| family.sockets.clone()).collect();
        for family in &all {
            family.remove();
            let (dir, _) = family.socket_paths().unwrap();
            assert!(!dir.exists(), "{}", dir.display());
        }
        assert_eq!(dirs.len(), 600);
        assert_eq!(ids.len(), 600);
    }

    #[test]
    fn the_directory_becomes_that_of_whoever_made_the_sockets_and_nobody_elses() {
        let family = family(&[]).unwrap();
        let (dir, paths) = family.socket_paths().unwrap();
        let mode = || fs::symlink_metadata(dir).unwrap().mode() & 0o7777;
        fs::write(&paths[0], "no socket").unwrap();
        let before = mode();
        family.close_directory();
        assert_eq!(mode(), before);
        fs::remove_file(&paths[0]).unwrap();
        let socket = UnixDatagram::bind(&paths[0]).unwrap();
        family.close_directory();
        assert_eq!(mode(), 0o700);
        drop(socket);
        family.remove();
        assert!(!dir.exists());
    }

    #[test]
    fn a_link_in_the_place_of_the_directory_gives_nobody_anything() {
        assert!(geteuid().is_root(), "this test runs as root");
        let family = family(&[]).unwrap();
        let (dir, paths) = family.socket_paths().unwrap();
        let other = own_directory(Path::new(SHARED), "drainit-other-").unwrap();
        fs::set_permissions(&other, Permissions::from_mode(0o755)).unwrap();
        let made = other.join(paths[0].file_name().unwrap());
        let _socket = UnixDatagram::bind(&made).unwrap();
        std::os::unix::fs::chown(&made, Some(54_321), Some(54_321)).unwrap();
        fs::remove_dir(dir).unwrap();
        std::os::unix::fs::symlink(&other, dir).unwrap();
        family.close_directory();
        let now = fs::metadata(&other).unwrap();
        assert_eq!((now.uid(), now.mode() & 0o7777), (0, 0o755));
        fs::remove_file(dir).unwrap();
        fs::remove_dir_all(other).unwrap();
    }

    #[test]
    fn an_operators_own_socket_path_is_kept() {
        let family = family(&["--socket-path", "/run/envoy/s"]).unwrap();
        let mut args = vec!["--socket-path".into(), "/run/envoy/s".into()];
        family.complete(&mut args, 0);
        assert_eq!(args.iter().filter(|arg| *arg == SOCKET_PATH).count(), 1);
        assert!(!flags::has(&args, SOCKET_MODE));
    }

    #[test]
    fn an_old_generation_is_given_as_long_as_it_drains() {
        for (args, drain, parent) in [
            (&["--parent-shutdown-time-s", "900"][..], 1_800, 900),
            (&["--drain-time-s", "60"], 60, 65),
            (&["--drain-time-s 9", "--parent-shutdown-time-s 9"], 9, 9),
        ] {
            let family = family(args).unwrap();
            let times = (family.drain_time, family.parent_shutdown_time);
            let of = Duration::from_secs;
            assert_eq!(times, (of(drain), of(parent)), "{args:?}");
        }
    }

    #[test]
    fn what_cannot_work_is_refused() {
        for (args, why) in [
            (&["--disable-hot-restart"][..], "--disable-hot-restart"),
            (&["--restart-epoch", "1"], "--restart-epoch"),
            (&["--base-id", "x"], "--base-id"),
            (&["--drain-time-s 30s"], "--drain-time-s"),
            (&["--parent-shutdown-time-s", "4294967296"], "to 4294967295"),
        ] {
            let refusal = family(args).unwrap_err();
            assert!(refusal.contains(why), "{refusal}");
        }
    }

    #[test]
    fn only_a_known_region_is_mended() {
        let family = Family {
            base_id: std::process::id() + 40_000_000,
            ..family(&[]).unwrap()
        };
        assert!(family.mend().is_err());
        let mut bytes = vec![0u8; 104];
        bytes[0] = 104;
        bytes[8] = 11;
        bytes[96] = 1;
        fs::write(region(family.base_id), &bytes).unwrap();
        family.mend().unwrap();
        assert_eq!(fs::read(region(family.base_id)).unwrap()[96], 0);
        bytes[8] = 12;
        fs::write(region(family.base_id), &bytes).unwrap();
        assert!(family.mend().unwrap_err().contains("version 12"));
        assert_eq!(fs::read(region(family.base_id)).unwrap(), bytes);
        family.remove();
        assert!(!region(family.base_id).exists());
    }
}
