//! Whose a socket is: the inodes behind /proc/PID/fd.
//!
//! To look behind a descriptor costs 3 µs and more, so what was seen is remembered while the
//! kernel's table shows that the socket is still there: a socket that was connected does not
//! change hands. Reading the directory needs the same user, or a privilege, and a process that is
//! `dumpable`.

use std::fs::{self, File};
use std::io;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::readlinkat;

use crate::process;

/// How long a listening socket that the process had not is taken for another's: a new generation of
/// a hot restart is handed those of the old one. This at first, doubling up to
/// [`TAKEN_FOR_FOREIGN_LAST`]: to look for it in 10,000 descriptors takes 15 ms and more.
const TAKEN_FOR_FOREIGN: Duration = Duration::from_secs(5);
const TAKEN_FOR_FOREIGN_LAST: Duration = Duration::from_secs(60);

/// Why the sockets of a process are not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Our process may not look, for all of that process' life.
    Denied(String),
    /// Something else: it has ended, or it takes too long.
    Failed(String),
}

/// The sockets of one process.
#[derive(Debug)]
pub struct Descriptors {
    path: String,
    /// The socket's inode behind each descriptor's number; 0 where none is, or none was seen.
    by_number: Vec<u64>,
    /// The inodes in `by_number`, sorted.
    own: Vec<u64>,
    /// Sockets that the process has not, sorted by inode.
    foreign: Vec<ForeignSocket>,
}

#[derive(Clone, Copy, Debug)]
struct ForeignSocket {
    inode: u64,
    /// When the process was last seen not to have the socket.
    at: Instant,
    /// Whether that was seen twice: between an accept's giving a socket its inode and its
    /// descriptor lies a moment.
    twice: bool,
    /// For how long to believe what was seen; none of a connection, which does not change hands.
    patience: Option<Duration>,
}

impl Descriptors {
    /// The sockets of the process with this pid; nothing is read yet.
    pub fn new(pid: i32) -> Descriptors {
        Descriptors {
            path: format!("/proc/{pid}/fd"),
            by_number: Vec::new(),
            own: Vec::new(),
            foreign: Vec::new(),
        }
    }

    /// The inodes of the process' sockets, sorted. Those that the last [`Descriptors::update`] was
    /// given are in it if they are the process'; others may be missing, or gone.
    pub fn own(&self) -> &[u64] {
        &self.own
    }

    /// Finds out which of the inodes in `seen` (sorted) are the process'. Those in `anew` (sorted)
    /// are looked at again though they were known: a listening socket may be closed by this
    /// process, and live on in another.
    ///
    /// # Errors
    /// When the descriptors cannot be read, or not before `until`: then the owner of no socket is
    /// known.
    pub fn update(&mut self, seen: &[u64], anew: &[u64], until: Instant) -> Result<(), Unreadable> {
        let has = |sorted: &[u64], inode: &u64| sorted.binary_search(inode).is_ok();
        if !process::is_proc_ours() {
            let why = format!("{} may be another process's: /proc is not ours", self.path);
            return Err(Unreadable::Denied(why));
        }
        let directory = File::open(&self.path).map_err(|error| self.unreadable(error))?;
        let again: Vec<usize> = (0..self.by_number.len())
            .filter(|number| {
                self.by_number
                    .get(*number)
                    .is_some_and(|inode| has(anew, inode))
            })
            .collect();
        for number in again {
            self.look_at(&directory, number)?;
        }
        if !anew.is_empty() {
            self.sort();
        }
        let now = Instant::now();
        let is_foreign = |inode: &u64| {
            self.place(*inode)
                .ok()
                .and_then(|at| self.foreign.get(at))
                .is_some_and(|it| {
                    // While connections are not in `seen`, each descriptor would have to be read.
                    let is_over = |patience| anew.is_empty() && now - it.at >= patience;
                    it.twice && !it.patience.is_some_and(is_over)
                })
        };
        let mut missing: Vec<u64> = seen
            .iter()
            .filter(|inode| **inode != 0 && !has(&self.own, inode) && !is_foreign(inode))
            .copied()
            .collect();
        missing.dedup();
        if missing.is_empty() && !self.own.is_empty() {
            return Ok(());
        }
        let mut found = vec![false; missing.len()];
        let mut left = missing.len();
        // A new socket gets the lowest number that is free, and the directory is sorted by number.
        for entry in fs::read_dir(&self.path).map_err(|error| self.unreadable(error))? {
            let entry = entry.map_err(|error| self.unreadable(error))?;
            let name = entry.file_name();
            let Some(number) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let known = self.by_number.get(number).is_some_and(|i| has(seen, i));
            if known {
                continue;
            }
            let inode = self.look_at(&directory, number)?;
            if let Ok(at) = missing.binary_search(&inode)
                && let Some(found @ false) = found.get_mut(at)
            {
                *found = true;
                left -= 1;
                if left == 0 {
                    break;
                }
            }
            if Instant::now() > until {
                return Err(Unreadable::Failed(format!(
                    "{} cannot be read: it takes too long",
                    self.path
                )));
            }
        }
        self.sort();
        if self.own.is_empty() {
            // An Envoy that can be restarted hot has some.
            return Err(Unreadable::Failed(format!(
                "{} cannot be read: no socket is in it",
                self.path
            )));
        }
        missing.retain(|inode| !has(&self.own, inode));
        for inode in missing {
            match self.place(inode) {
                Ok(at) => {
                    if let Some(it) = self.foreign.get_mut(at) {
                        let longer = |time: Duration| (time * 2).min(TAKEN_FOR_FOREIGN_LAST);
                        it.patience = it
                            .patience
                            .map(|time| if it.twice { longer(time) } else { time });
                        (it.at, it.twice) = (now, true);
                    }
                }
                Err(at) => self.foreign.insert(
                    at,
                    ForeignSocket {
                        inode,
                        at: now,
                        twice: false,
                        patience: has(anew, &inode).then_some(TAKEN_FOR_FOREIGN),
                    },
                ),
            }
        }
        Ok(())
    }

    /// Forgets the sockets of others that are not in `seen` (sorted).
    pub fn forget_others(&mut self, seen: &[u64]) {
        self.foreign
            .retain(|it| seen.binary_search(&it.inode).is_ok());
    }

    /// Forgets the listening sockets of others that are not in `listening` (sorted).
    pub fn forget_other_listeners(&mut self, listening: &[u64]) {
        self.foreign
            .retain(|it| it.patience.is_none() || listening.binary_search(&it.inode).is_ok());
    }

    fn place(&self, inode: u64) -> Result<usize, usize> {
        self.foreign.binary_search_by_key(&inode, |it| it.inode)
    }

    /// The socket's inode behind this number; 0 where none is.
    fn look_at(&mut self, directory: &File, number: usize) -> Result<u64, Unreadable> {
        let inode = match readlinkat(directory, number.to_string().as_str()) {
            Ok(target) => target.to_str().and_then(socket_inode).unwrap_or(0),
            // Closed since.
            Err(Errno::ENOENT) => 0,
            Err(error) => return Err(self.unreadable(error.into())),
        };
        if number >= self.by_number.len() && inode != 0 {
            self.by_number.resize(number + 1, 0);
        }
        if let Some(place) = self.by_number.get_mut(number) {
            *place = inode;
        }
        Ok(inode)
    }

    fn sort(&mut self) {
        self.own.clear();
        self.own
            .extend(self.by_number.iter().filter(|inode| **inode != 0));
        self.own.sort_unstable();
    }

    fn unreadable(&self, error: io::Error) -> Unreadable {
        let why = format!("{} cannot be read: {error}", self.path);
        match error.kind() {
            io::ErrorKind::PermissionDenied => Unreadable::Denied(why),
            _ => Unreadable::Failed(why),
        }
    }
}

/// The inodes of this process' own sockets, sorted.
pub fn ours() -> Vec<u64> {
    let directory = fs::read_dir("/proc/self/fd").into_iter().flatten();
    let targets = directory.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let inodes = targets.filter_map(|target| socket_inode(target.to_str()?));
    let mut inodes: Vec<u64> = inodes.collect();
    inodes.sort_unstable();
    inodes
}

/// `socket:[4711]`
fn socket_inode(target: &str) -> Option<u64> {
    target
        .strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

#[cfg(test)]
#[path = "descriptors_tests.rs"]
mod tests;
