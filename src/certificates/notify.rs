//! The kernel's word that a set's files may have changed (inotify(7)), so that nobody has to look
//! for that.
//!
//! One instance serves all sets: a user may have only 128, and Envoy needs one for each SDS file.
//! Watched is every step of the way to a file: directories, which may be moved; the names that
//! links and the file itself have in theirs; and the file, whichever name it is written by (a file
//! that is mounted by itself has another one on the host). Whoever mounts something over a step
//! shows in `/proc/self/mountinfo` (proc(5)).
//!
//! The word is only ever good for looking sooner: what counts is what the files hold.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use log::info;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat, readlinkat};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::sys::statfs::fstatfs;
use nix::sys::time::TimeSpec;

use super::CertificateCommand;
use super::directory::{LINKS, steps};
use crate::mailbox::{Inbox, Wakeups};
use crate::pulse::Pulse;

/// The most reads in a row: whoever never stops changing files holds nothing else up.
const BATCHES: usize = 16;

/// What happens to a directory itself.
const MOVES: AddWatchFlags = AddWatchFlags::IN_DELETE_SELF.union(AddWatchFlags::IN_MOVE_SELF);
/// What happens to the names in it.
const NAMES: AddWatchFlags = MOVES
    .union(AddWatchFlags::IN_CREATE)
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MOVE);
/// What happens to a file.
const WRITES: AddWatchFlags = MOVES
    .union(AddWatchFlags::IN_MODIFY)
    .union(AddWatchFlags::IN_CLOSE_WRITE)
    .union(AddWatchFlags::IN_ATTRIB);
/// Adds to what is watched of an inode already (`IN_MASK_ADD`, which nix has no name for).
const MORE: AddWatchFlags = AddWatchFlags::from_bits_retain(0x2000_0000);

/// The file systems (statfs(2)) whose files nobody can change behind this kernel's back: ext2 to
/// ext4, tmpfs, XFS, Btrfs, F2FS and ramfs. On NFS, SMB, 9P, FUSE (virtiofs too) and in a gVisor's
/// mounts others do, and no word comes of that.
const SEEN: [u32; 6] = [
    0xef53,
    0x0102_1994,
    0x5846_5342,
    0x9123_683e,
    0xf2f5_2010,
    0x8584_58f6,
];
/// The file system of most containers' images. Its links and directories are not changed from
/// below, which is forbidden (Linux's overlayfs.rst), but a file may be all the same.
const OVERLAY: u32 = 0x794c_7630;

/// What happened to one of a set's files, by its number, which is below 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileEvent {
    /// A name on the way to it leads to something that was there before, or to nothing.
    Renamed(u8),
    /// A name on the way to it is new: the file may not be whole yet.
    Created(u8),
    /// Somebody writes it.
    Writing(u8),
    /// Whoever wrote it has closed it.
    Written(u8),
    /// Something that does not matter by itself, such as its mode.
    Touched,
    /// Anything may have happened: words were lost, or something was mounted.
    Unknown,
}

/// Waits for the main thread's commands and for the kernel's word at once.
#[derive(Debug)]
pub struct Notify {
    /// What wakes whoever waits for the mailbox's commands.
    wakeups: Option<Wakeups>,
    kernel: Option<KernelWatch>,
}

#[derive(Debug)]
struct KernelWatch {
    inotify: Inotify,
    /// In an exceptional state for whoever polls it once something was mounted or unmounted.
    mounts: File,
    /// What is to be asked for words.
    mounted: bool,
    spoke: bool,
    watched: Vec<Watched>,
    /// Why something could not be watched, as it was said last.
    told: Option<Errno>,
}

/// What a watch means to a file of a set.
#[derive(Debug)]
struct Watched {
    watch: WatchDescriptor,
    /// The set's number.
    set: usize,
    file: u8,
    /// The name that matters in a directory; none where the watch is for this file alone, or for a
    /// directory that must stay where it is.
    name: Option<OsString>,
}

impl Notify {
    /// Watches nothing so far, and never will where `watch` is false or without `wakeups`.
    pub fn new(wakeups: Option<Wakeups>, watch: bool) -> Notify {
        let kernel = (watch && wakeups.is_some()).then(KernelWatch::new);
        let kernel = kernel.and_then(|kernel| {
            kernel
                .map_err(|error| info!("certificate files cannot be watched: inotify: {error}"))
                .ok()
        });
        Notify { wakeups, kernel }
    }

    /// The next command; waits for one, for a word, and for `limit` at the most.
    pub fn wait(
        &mut self,
        commands: &Inbox<CertificateCommand>,
        limit: Duration,
    ) -> Option<CertificateCommand> {
        let Some(wakeups) = &self.wakeups else {
            return commands.wait(limit);
        };
        let command = commands.take();
        if command.is_some() {
            return command;
        }
        let mut fds = vec![PollFd::new(wakeups.as_fd(), PollFlags::POLLIN)];
        if let Some(kernel) = &self.kernel {
            fds.push(PollFd::new(kernel.inotify.as_fd(), PollFlags::POLLIN));
            fds.push(PollFd::new(kernel.mounts.as_fd(), PollFlags::POLLPRI));
        }
        // Whatever else ends it, nothing is to be done.
        let polled = ppoll(&mut fds, Some(TimeSpec::from_duration(limit)), None);
        let came = |at: usize| {
            let fd = fds.get(at).filter(|_| polled.is_ok());
            fd.is_some_and(|fd| fd.any().unwrap_or(true))
        };
        let [command, spoke, mounted] = [0, 1, 2].map(came);
        if let Some(kernel) = &mut self.kernel {
            kernel.spoke |= spoke;
            kernel.mounted |= mounted;
        }
        if !command {
            return None;
        }
        wakeups.clear();
        commands.take()
    }

    /// What happened since the last call, each with the set that it is about, or none for all.
    pub fn words(&mut self) -> Vec<(Option<usize>, FileEvent)> {
        self.kernel
            .as_mut()
            .map_or_else(Vec::new, KernelWatch::words)
    }

    /// Watches these files of a set, and nothing else of it any more; whether every change of them
    /// will be told. `pulse` shows which file is looked at.
    pub fn watch<'a>(
        &mut self,
        set: usize,
        files: impl Iterator<Item = &'a Path>,
        pulse: &Pulse,
    ) -> bool {
        let Some(kernel) = &mut self.kernel else {
            return false;
        };
        let mut now = Vec::new();
        let mut all = true;
        for (file, path) in (0..).zip(files) {
            let mut walk = Walk::new(&kernel.inotify, set, file, &mut now);
            let walked = pulse.during(path, || walk.to(path));
            all &= walked.unwrap_or_else(|error| {
                // What is not there is nothing to tell of: the names that it lacks are watched.
                if !matches!(error, Errno::ENOENT | Errno::ENOTDIR) && kernel.told != Some(error) {
                    kernel.told = Some(error);
                    info!("{} cannot be watched: {error}", path.display());
                }
                false
            });
        }
        kernel.replace(set, now);
        all
    }
}

impl KernelWatch {
    fn new() -> io::Result<KernelWatch> {
        let flags = InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK;
        Ok(KernelWatch {
            mounts: File::open("/proc/self/mountinfo")?,
            inotify: Inotify::init(flags)?,
            mounted: false,
            spoke: false,
            watched: Vec::new(),
            told: None,
        })
    }

    fn words(&mut self) -> Vec<(Option<usize>, FileEvent)> {
        let mut words = Vec::new();
        if std::mem::take(&mut self.mounted) {
            words.push((None, FileEvent::Unknown));
        }
        // What is left is told by the next poll.
        for _ in 0..BATCHES {
            if !std::mem::take(&mut self.spoke) {
                break;
            }
            match self.inotify.read_events() {
                Ok(events) => {
                    self.spoke = true;
                    events.iter().for_each(|event| self.tell(event, &mut words));
                }
                Err(Errno::EINTR) => self.spoke = true,
                Err(_) => {}
            }
        }
        words
    }

    fn tell(&self, event: &InotifyEvent, words: &mut Vec<(Option<usize>, FileEvent)>) {
        let has = |flags| event.mask.intersects(flags);
        if has(AddWatchFlags::IN_Q_OVERFLOW) {
            words.push((None, FileEvent::Unknown));
            return;
        }
        let gone = has(MOVES | AddWatchFlags::IN_IGNORED | AddWatchFlags::IN_UNMOUNT);
        let of_it =
            |watched: &&Watched| watched.watch == event.wd && (gone || watched.name == event.name);
        for watched in self.watched.iter().filter(of_it) {
            let file = watched.file;
            let word = if gone || has(AddWatchFlags::IN_MOVE | AddWatchFlags::IN_DELETE) {
                FileEvent::Renamed(file)
            } else if has(AddWatchFlags::IN_CREATE) {
                FileEvent::Created(file)
            } else if has(AddWatchFlags::IN_CLOSE_WRITE) {
                FileEvent::Written(file)
            } else if has(AddWatchFlags::IN_MODIFY) {
                FileEvent::Writing(file)
            } else {
                FileEvent::Touched
            };
            words.push((Some(watched.set), word));
        }
    }

    /// Watches this of a set, and what it was before no longer.
    fn replace(&mut self, set: usize, now: Vec<Watched>) {
        let before = |watched: &mut Watched| watched.set == set;
        let old: Vec<_> = self.watched.extract_if(.., before).collect();
        self.watched.extend(now);
        let mut old: Vec<_> = old.into_iter().map(|watched| watched.watch).collect();
        old.sort_unstable();
        old.dedup();
        for watch in old {
            if !self.watched.iter().any(|watched| watched.watch == watch) {
                // It may be gone with its file.
                let _ = self.inotify.rm_watch(watch);
            }
        }
    }
}

/// A walk along the way to a file, which watches each step.
struct Walk<'a> {
    inotify: &'a Inotify,
    set: usize,
    file: u8,
    watched: &'a mut Vec<Watched>,
}

impl<'a> Walk<'a> {
    fn new(inotify: &'a Inotify, set: usize, file: u8, watched: &'a mut Vec<Watched>) -> Walk<'a> {
        Walk {
            inotify,
            set,
            file,
            watched,
        }
    }

    /// Watches every step of it as the kernel goes it (path_resolution(7)); whether the file
    /// systems tell of all that happens there.
    fn to(&mut self, path: &Path) -> nix::Result<bool> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let open = |at: BorrowedFd, name: &OsStr| -> nix::Result<_> {
            let fd = openat(at, name, flags, Mode::empty())?;
            let stat = fstat(&fd)?;
            Ok((
                SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()),
                stat.st_dev,
                fd,
            ))
        };
        let (_, mut device, mut here) = open(AT_FDCWD, OsStr::new("."))?;
        let mut left = steps(path);
        let mut links = 0;
        // Whether the directories since the last mount point tell of all, and what led there.
        let (mut directories, mut before) = (true, true);
        while let Some(name) = left.pop() {
            let mut next = open(here.as_fd(), &name);
            if !matches!(&next, Ok((SFlag::S_IFDIR, ..))) {
                self.add(&here, NAMES, Some(&name))?;
                // What happens from here on is told; what it is now is seen here.
                next = open(here.as_fd(), &name);
            }
            let (kind, of_device, fd) = next?;
            match kind {
                SFlag::S_IFDIR => {
                    if of_device != device {
                        directories = true;
                    }
                    directories &= tells(&fd)? != Tells::Little;
                    if name != "/" {
                        self.add(&fd, MOVES, None)?;
                    }
                    (device, here) = (of_device, fd);
                }
                SFlag::S_IFLNK if links < LINKS => {
                    links += 1;
                    before &= directories && tells(&here)? != Tells::Little;
                    left.extend(steps(Path::new(&readlinkat(&fd, "")?)));
                }
                SFlag::S_IFREG if left.is_empty() => {
                    self.add(&fd, WRITES, None)?;
                    return Ok(before && directories && tells(&fd)? == Tells::All);
                }
                _ => return Err(Errno::ENOTDIR),
            }
        }
        Err(Errno::EISDIR)
    }

    fn add(&mut self, fd: &OwnedFd, what: AddWatchFlags, name: Option<&OsStr>) -> nix::Result<()> {
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        self.watched.push(Watched {
            watch: self.inotify.add_watch(path.as_str(), what | MORE)?,
            set: self.set,
            file: self.file,
            name: name.map(OsStr::to_owned),
        });
        Ok(())
    }
}

/// How much inotify tells of a file system.
#[derive(PartialEq, Eq)]
enum Tells {
    /// Every change.
    All,
    /// All that is done by its mount.
    Usual,
    /// What is done on this machine, at the best.
    Little,
}

fn tells(fd: &OwnedFd) -> nix::Result<Tells> {
    // Signed or not, and wider or not, by architecture and libc.
    let kind = fstatfs(fd)?.filesystem_type().0 as u32;
    Ok(match kind {
        kind if SEEN.contains(&kind) => Tells::All,
        OVERLAY => Tells::Usual,
        _ => Tells::Little,
    })
}

#[cfg(test)]
#[path = "notify_tests.rs"]
mod tests;
