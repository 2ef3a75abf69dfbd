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
        let beside = path.with_extension("new");
        let _ = fs::remove_file(&beside);
        let socket = UnixDatagram::bind(&beside)?;
        socket.set_nonblocking(true)?;
        // Envoy may be another user; its directory keeps everybody else out.
        fs::set_permissions(&beside, Permissions::from_mode(0o666))?;
        fs::rename(&beside, path)?;
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
    use super::*;

    #[test]
    fn it_answers_in_the_place_of_whoever_was_there_until_it_is_told_to_end() {
        let dir = std::env::temp_dir().join(format!("drainit-stand-in-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
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
        fs::remove_dir_all(&dir).unwrap();
    }
}
