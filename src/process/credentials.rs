//! Who is at the other end of a unix socket, and who of them is believed or obeyed.
//!
//! Names in the abstract namespace belong to whoever binds them first, of any user and any
//! container in the network namespace; so both ends of the control socket ask the kernel, which
//! keeps who connected, and who listens (SO_PEERCRED in unix(7)).

use std::os::fd::AsFd;
use std::sync::Once;

use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::geteuid;

use crate::process;

/// Who is at the other end, as the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The process's pid here; 0 where our pid namespace does not hold it.
    pid: i32,
    /// The process' user. A user that our user namespace does not know is 65534.
    uid: u32,
}

/// Where the process at the other end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessPlace {
    /// In our pid namespace, with this pid.
    Here(i32),
    /// In another one.
    Elsewhere,
    /// Nobody knows: the kernel tells us ourselves, as some gVisors do.
    Untold,
}

impl Credentials {
    /// The credentials of a connected socket's other end.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn of(socket: &impl AsFd) -> nix::Result<Credentials> {
        let peer = getsockopt(&socket.as_fd(), sockopt::PeerCredentials)?;
        Ok(Credentials {
            pid: peer.pid(),
            uid: peer.uid(),
        })
    }

    /// Where the process is.
    pub fn place(self) -> ProcessPlace {
        if self.is_untold() {
            ProcessPlace::Untold
        } else if self.pid > 0 && process::shares_pid_namespace(self.pid) {
            ProcessPlace::Here(self.pid)
        } else {
            ProcessPlace::Elsewhere
        }
    }

    /// Nothing of drainit's connects to itself.
    fn is_untold(self) -> bool {
        u32::try_from(self.pid) == Ok(std::process::id())
    }

    /// Whether the process may give orders: it is root's or our own user's, in our pid namespace.
    /// Its name for the log is given either way.
    ///
    /// # Errors
    /// The name, when it may not.
    pub fn authorize(self) -> Result<String, String> {
        let trusted = self.is_trusted();
        let uid = self.uid;
        match self.place() {
            ProcessPlace::Here(pid) if trusted => Ok(format!("pid {pid} of uid {uid}")),
            ProcessPlace::Here(pid) => Err(format!("pid {pid} of uid {uid}")),
            ProcessPlace::Elsewhere => {
                Err(format!("a process of uid {uid} in another pid namespace"))
            }
            ProcessPlace::Untold => {
                static SAID: Once = Once::new();
                SAID.call_once(|| {
                    log::warn!(
                        "this kernel does not tell which process is at the other end of a unix socket: drainit goes by the process's user alone"
                    );
                });
                let name = format!("a process of uid {uid}");
                if trusted { Ok(name) } else { Err(name) }
            }
        }
    }

    /// Whether the process that listens is believed: it is root's or our own user's, or we are
    /// root; and where `pid` is given, it is that one. Where it is.
    ///
    /// # Errors
    /// One line that says who it is instead.
    pub fn believe(self, pid: Option<i32>) -> Result<ProcessPlace, String> {
        // Strangers may have bound thousands of names: what costs least decides first.
        if let Some(pid) = pid.filter(|pid| self.pid != *pid && !self.is_untold()) {
            return Err(match self.pid {
                0 => format!("a process of another pid namespace answers for process {pid}"),
                other => format!("process {other} answers for process {pid}"),
            });
        }
        let place = self.place();
        let who = match place {
            ProcessPlace::Here(pid) => format!("process {pid} of uid {}", self.uid),
            _ => format!("a process of uid {}", self.uid),
        };
        if pid.is_some() && place == ProcessPlace::Elsewhere {
            return Err(format!("{who} in another pid namespace answers"));
        }
        let us = geteuid();
        let believed = self.is_trusted() || us.is_root() && place != ProcessPlace::Untold;
        if !believed {
            return Err(format!(
                "{who} answers, and is neither root's nor of our uid {us}"
            ));
        }
        // Who listened may be gone, its socket another's, and its pid a drainit's by now.
        if let ProcessPlace::Here(pid) = place
            && process::owner(pid).is_some_and(|uid| uid != self.uid)
        {
            return Err(format!("{who} listened there, and is gone"));
        }
        Ok(place)
    }

    fn is_trusted(self) -> bool {
        self.uid == 0 || self.uid == geteuid().as_raw()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    use crate::testing::Sleeper;

    fn ours() -> u32 {
        geteuid().as_raw()
    }

    #[test]
    fn a_kernel_that_tells_ourselves_is_noticed_and_the_user_alone_counts() {
        let (socket, _other) = UnixStream::pair().unwrap();
        let us = Credentials::of(&socket).unwrap();
        assert_eq!(us.place(), ProcessPlace::Untold);
        assert!(us.authorize().is_ok());
        assert_eq!(us.believe(Some(1)), Ok(ProcessPlace::Untold));
        let stranger = Credentials { uid: 4711, ..us };
        assert!(stranger.authorize().is_err());
        // Not even by root: any process's pid may have been ours before.
        assert!(stranger.believe(Some(1)).is_err());
    }

    #[test]
    fn a_process_that_our_pid_namespace_does_not_hold_is_neither_obeyed_nor_taken_for_another() {
        for uid in [0, ours(), 65_534] {
            let stranger = Credentials { pid: 0, uid };
            assert_eq!(stranger.place(), ProcessPlace::Elsewhere);
            assert!(stranger.authorize().is_err());
            assert!(stranger.believe(Some(1)).is_err());
        }
    }

    #[test]
    fn who_listens_is_believed_for_itself_alone() {
        let child = Sleeper::start();
        let pid = child.pid();
        let peer = Credentials { pid, uid: ours() };
        assert_eq!(peer.believe(Some(pid)), Ok(ProcessPlace::Here(pid)));
        assert_eq!(peer.believe(None), Ok(ProcessPlace::Here(pid)));
        assert!(peer.authorize().is_ok());
        let why = peer.believe(Some(1)).unwrap_err();
        assert!(why.contains("answers for process 1"), "{why}");
        // The pid of one who listened, which another process has now.
        let gone = Credentials { pid, uid: 4711 };
        assert!(gone.believe(Some(pid)).is_err());
        assert!(gone.authorize().is_err());
    }
}
