//! Envoy's hot restart: its flags, and its shared memory.
//!
//! Two Envoys share a region in /dev/shm and a pair of abstract sockets, both named after the
//! base id. The second takes the listeners' sockets over from the first, which then drains.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::Duration;

use nix::libc;

use super::flags;
use crate::process;

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

/// What all generations of an Envoy have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Family {
    /// Names the shared memory and the sockets. Another Envoy on the node must have another.
    pub base_id: u32,
    /// Worker threads: a change between generations resets connections.
    pub concurrency: usize,
    /// How long an old generation drains.
    pub drain_time: Duration,
    /// When it ends, and cuts what is left.
    pub parent_shutdown_time: Duration,
}

impl Family {
    /// The family of the Envoy that `args` start. The old generation is given as long as a drain,
    /// `timeout`.
    ///
    /// # Errors
    /// One line, when it cannot work: contradicting flags, or /dev/shm is missing or read-only.
    pub fn new(
        args: &[OsString],
        drain_time: Duration,
        timeout: Duration,
    ) -> Result<Family, String> {
        if let Some(flag) = CONTRADICTIONS.iter().find(|flag| flags::has(args, flag)) {
            return Err(format!(
                "--hot-restart contradicts Envoy's {flag}: leave that out"
            ));
        }
        let given = |flag: &str| -> Result<Option<u64>, String> {
            let Some(value) = flags::value(args, flag) else {
                return Ok(None);
            };
            let number = value.to_str().and_then(|value| value.parse().ok());
            number
                .map(Some)
                .ok_or_else(|| format!("Envoy's {flag} lacks its number"))
        };
        let drain = given("--drain-time-s")?.map_or(drain_time, Duration::from_secs);
        let parent = given("--parent-shutdown-time-s")?.map(Duration::from_secs);
        // Its drain must be over by then, or it would cut what it has just asked to go.
        let parent = parent.unwrap_or(timeout.max(drain + Duration::from_secs(5)));
        if parent <= drain {
            return Err(format!(
                "Envoy's --parent-shutdown-time-s, {} s, must be longer than its --drain-time-s, \
                 {} s unless given otherwise",
                parent.as_secs(),
                drain.as_secs()
            ));
        }
        let base_id = match given("--base-id")? {
            Some(id) => u32::try_from(id).map_err(|_| "Envoy's --base-id is out of range")?,
            None => free_base_id(),
        };
        let family = Family {
            base_id,
            concurrency: match given("--concurrency")? {
                Some(number) => usize::try_from(number).unwrap_or(1),
                None => std::thread::available_parallelism().map_or(1, usize::from),
            },
            drain_time: drain,
            parent_shutdown_time: parent,
        };
        family.check_memory()?;
        Ok(family)
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
    }

    /// Clears the mark of a generation that ended while it started: with it, every later one
    /// would exit with `previous envoy process is still initializing`. Only when no other starts.
    ///
    /// # Errors
    /// One line, when the region is none that is known here; then nothing was written.
    pub fn mend(&self) -> Result<(), String> {
        let path = region(self.base_id);
        let unknown = |why: String| format!("{}: {why}", path.display());
        let file = OpenOptions::new().read(true).write(true).open(&path);
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

    /// Removes the region, which Envoy leaves behind.
    pub fn remove(&self) {
        let _ = fs::remove_file(region(self.base_id));
    }

    fn check_memory(&self) -> Result<(), String> {
        let probe = PathBuf::from(format!("/dev/shm/drainit-{}", std::process::id()));
        let made: io::Result<File> = OpenOptions::new()
            .write(true)
            .create_new(true)
            .custom_flags(libc::O_NOFOLLOW)
            .mode(0o600)
            .open(&probe);
        let _ = fs::remove_file(&probe);
        made.map(drop)
            .map_err(|error| format!("--hot-restart needs a writable /dev/shm: {error}"))
    }
}

/// Envoy multiplies the base id by ten.
fn region(base_id: u32) -> PathBuf {
    format!("/dev/shm/envoy_shared_memory_{}", u64::from(base_id) * 10).into()
}

/// One that no other Envoy has: they share /dev/shm on a node, and abstract sockets in a network
/// namespace, where several may have pid 1 as their parent.
fn free_base_id() -> u32 {
    // A prime, so that neighbouring namespaces are far from each other.
    let spread = process::pid_namespace().wrapping_mul(7_368_787) + u64::from(std::process::id());
    let first = u32::try_from(spread % 100_000_000).unwrap_or_default() + 1;
    (first..first + 1_000)
        .find(|id| !region(*id).exists())
        .unwrap_or(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn family(args: &[&str]) -> Result<Family, String> {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        Family::new(&args, Duration::from_secs(20), Duration::from_secs(25))
    }

    #[test]
    fn generations_share_what_they_must() {
        let family = family(&["--concurrency", "3", "--base-id", "7"]).unwrap();
        let mut args = vec!["--concurrency".into(), "3".into()];
        family.complete(&mut args, 2);
        let line: Vec<_> = args.iter().map(|word| word.to_str().unwrap()).collect();
        assert_eq!(
            line.join(" "),
            "--concurrency 3 --restart-epoch 2 --base-id 7 --drain-time-s 20 --parent-shutdown-time-s 25"
        );
    }

    #[test]
    fn what_cannot_work_is_refused() {
        for (args, why) in [
            (&["--disable-hot-restart"][..], "--disable-hot-restart"),
            (&["--restart-epoch", "1"], "--restart-epoch"),
            (&["--base-id", "x"], "--base-id"),
            (
                &["--drain-time-s 30", "--parent-shutdown-time-s", "30"],
                "longer",
            ),
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
