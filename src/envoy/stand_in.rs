//! Answers the newest Envoy in the place of an old one that is ended before its time.
//!
//! An Envoy that has taken over asks the one before for its statistics at each flush, and tells it to
//! end when its parent shutdown time has come, or when it is itself taken over from. Where nobody
//! listens at that one's socket, its main thread waits for 10 s and then aborts
//! (`sendHotRestartMessage` in Envoy's source/server/hot_restarting_base.cc; seen on 1.36.4 and
//! 1.40.0). The messages are those of its hot_restart.proto, whose numbers are the same in both.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use nix::fcntl::{AT_FDCWD, OFlag, open, renameat};
use nix::sys::stat::Mode;

use super::hot_restart::own_directory;

/// An empty `Reply.Stats`, behind its length: no connection is left.
const NOTHING_LEFT: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 4, 0x12, 2, 0x1a, 0];

/// Where a request's kind stands: behind the length of 8 bytes, and the tag and length of `Request`.
const KIND: usize = 10;

/// The kinds that need something: `Request.Stats`, and `Request.Terminate`.
const STATS: u8 = 0x1a;
const TERMINATE: u8 = 0x2a;

/// The socket at which an old Envoy was.
#[derive(Debug)]
pub struct StandIn(UnixDatagram);

impl StandIn {
    /// Takes the place of whoever is at this path. Nobody can miss it in between: what is not
    /// there at all, an Envoy does not try twice.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn at(path: &Path) -> io::Result<StandIn> {
        let place = path.parent().and_then(Path::parent);
        // What is in Envoy's directory, Envoy's user can swap for a link to anything: the socket is
        // made beside that.
        let ours = own_directory(place.unwrap_or(Path::new("/")), "drainit-")?;
        let beside = ours.join("socket");
        let made = StandIn::make(&beside, path);
        let _ = fs::remove_file(beside);
        let _ = fs::remove_dir(ours);
        made
    }

    fn make(beside: &Path, path: &Path) -> io::Result<StandIn> {
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let socket = UnixDatagram::bind(beside)?;
        socket.set_nonblocking(true)?;
        // Envoy may be another user; its directory keeps everybody else out.
        fs::set_permissions(beside, Permissions::from_mode(0o666))?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let dir = open(dir, flags, Mode::empty())?;
        renameat(AT_FDCWD, beside, &dir, name)?;
        Ok(StandIn(socket))
    }

    /// Answers what has come; whether more may come.
    pub fn answer(&self) -> bool {
        let mut message = [0; 64];
        while let Ok((length, from)) = self.0.recv_from(&mut message) {
            let message = message.get(..length).unwrap_or_default();
            match message.get(KIND) {
                // It waits for that, and for nothing else.
                Some(&STATS) => {
                    let _ = self.0.send_to_addr(&NOTHING_LEFT, &from);
                }
                Some(&TERMINATE) => return false,
                _ => {}
            }
        }
        true
    }
}

impl AsFd for StandIn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn it_answers_in_the_place_of_whoever_was_there_until_it_is_told_to_end() {
        let dir = TempDir::new();
        let (old, new) = (dir.join("x_parent_10"), dir.join("x_child_11"));
        let parent = UnixDatagram::bind(&old).unwrap();
        let child = UnixDatagram::bind(&new).unwrap();
        let stand_in = StandIn::at(&old).unwrap();
        let request = |kind| [0, 0, 0, 0, 0, 0, 0, 4, 0x0a, 2, kind, 0];
        child.send_to(&request(STATS), &old).unwrap();
        child.send_to(&request(0x22), &old).unwrap();
        child.send_to(b"", &old).unwrap();
        assert!(stand_in.answer());
        let mut reply = [0; 64];
        let length = child.recv(&mut reply).unwrap();
        assert_eq!(reply[..length], NOTHING_LEFT);
        child.set_nonblocking(true).unwrap();
        assert!(child.recv(&mut reply).is_err(), "nobody waits for more");
        child.send_to(&request(TERMINATE), &old).unwrap();
        assert!(!stand_in.answer());
        parent.set_nonblocking(true).unwrap();
        assert!(parent.recv(&mut reply).is_err());
    }

    #[test]
    fn what_another_user_puts_where_it_is_made_is_opened_to_nobody() {
        let dir = TempDir::new();
        let (theirs, roots) = (dir.join("theirs"), dir.join("roots"));
        fs::create_dir(&theirs).unwrap();
        fs::create_dir(&roots).unwrap();
        fs::write(roots.join("shadow"), "root's").unwrap();
        fs::set_permissions(roots.join("shadow"), Permissions::from_mode(0o600)).unwrap();
        let path = theirs.join("x_parent_10");
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // As fast as can be, whatever appears is swapped for a link.
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    for entry in fs::read_dir(&theirs).unwrap().flatten() {
                        let _ = fs::remove_file(entry.path());
                        let _ = symlink(roots.join("shadow"), entry.path());
                    }
                }
            });
            for _ in 0..2_000 {
                let _ = StandIn::at(&path);
            }
            over.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&roots.join("shadow")), 0o600);
        // Nor does it go where a link in the place of the directory leads.
        fs::rename(&theirs, dir.join("before")).unwrap();
        symlink(&roots, &theirs).unwrap();
        assert!(StandIn::at(&path).is_err());
        assert_eq!(fs::read_dir(&roots).unwrap().count(), 1);
        let left: Vec<_> = fs::read_dir(&*dir).unwrap().flatten().collect();
        assert_eq!(left.len(), 3, "{left:?}");
    }
}
