//! Word from the kernel when a TCP connection ends, so that the last one is seen at once.
//!
//! The kernel sends it to the multicast groups SKNLGRP_INET_TCP_DESTROY and
//! SKNLGRP_INET6_TCP_DESTROY, for every TCP socket of the network namespace as it is freed, without
//! any privilege (Linux 4.4). A filter in the kernel lets through those with the local ports
//! that matter, so that a busy host costs nothing.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{SockFlag, setsockopt, sockopt::RcvBuf};

use super::socket;

/// The bits of both groups: the first and the third.
const GROUPS: u32 = 1 | 1 << 2;

/// What waits to be read, at the most, in bytes: that something was lost is word as well.
const WAITING: usize = 64 * 1024;

/// How many ports a filter may have: the kernel takes 4,096 instructions.
const PORTS: usize = 2_000;

/// So much is read at a time: a message has 400 bytes.
const MESSAGE: usize = 1024;

/// So many messages are read at a time.
const MESSAGES: usize = 1024;

/// A subscription to the end of connections. It is readable when one has ended.
#[derive(Debug)]
pub struct Ends {
    socket: OwnedFd,
}

impl Ends {
    /// Subscribes to the end of the connections with these local ports, and no others. None where
    /// the kernel does not tell, or a sandbox denies it; then nothing but a look does.
    pub fn new(ports: &[u16]) -> Option<Ends> {
        // The filter comes first: nothing else gets in.
        let socket = socket::open(SockFlag::SOCK_NONBLOCK).ok()?;
        setsockopt(&socket, RcvBuf, &WAITING).ok()?;
        let ends = Ends { socket };
        ends.listen(ports).ok()?;
        socket::join(&ends.socket, GROUPS).ok()?;
        Some(ends)
    }

    /// Replaces the ports.
    ///
    /// # Errors
    /// When they are too many for a filter: the ones before are kept.
    pub fn listen(&self, ports: &[u16]) -> Result<(), Errno> {
        if ports.len() > PORTS {
            return Err(Errno::E2BIG);
        }
        let mut program = filter(ports);
        let program = libc::sock_fprog {
            len: u16::try_from(program.len()).map_err(|_| Errno::E2BIG)?,
            filter: program.as_mut_ptr(),
        };
        let size = libc::socklen_t::try_from(size_of_val(&program)).map_err(|_| Errno::E2BIG)?;
        // SAFETY: nix has no call for it. The kernel copies `len` instructions from `filter`, which
        // lives until the call returns, and reads no more than `size` bytes of `program`.
        let attached = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                (&raw const program).cast(),
                size,
            )
        };
        Errno::result(attached).map(drop)
    }

    /// Takes what the kernel has sent. Returns whether a connection may have ended since the last
    /// call.
    pub fn drain(&self) -> bool {
        let mut message = [0; MESSAGE];
        let mut ended = false;
        for _ in 0..MESSAGES {
            match socket::read(self.socket.as_fd(), &mut message) {
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                // ENOBUFS: there was more than could wait.
                Ok(_) | Err(_) => ended = true,
            }
        }
        ended
    }
}

impl AsFd for Ends {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A classic BPF program: it loads the local port, which is 4 bytes behind the message's header, and
/// compares it with each.
fn filter(ports: &[u16]) -> Vec<libc::sock_filter> {
    let instruction = |code: u32, jf: u8, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf,
        k,
    };
    const SPORT: u32 = 16 + 4;
    let load = instruction(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 0, SPORT);
    let give = |bytes| instruction(libc::BPF_RET | libc::BPF_K, 0, bytes);
    let compare = |port| instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, port);
    let each = ports
        .iter()
        .flat_map(|port| [compare(u32::from(*port)), give(u32::MAX)]);
    let mut program = vec![load];
    program.extend(each);
    program.push(give(0));
    program
}

#[cfg(test)]
#[path = "ends_tests.rs"]
mod tests;
