//! Word from the kernel when a TCP connection ends, so that the last one is seen at once.
//!
//! The kernel sends it to the multicast groups SKNLGRP_INET_TCP_DESTROY and
//! SKNLGRP_INET6_TCP_DESTROY, for every TCP socket of the network namespace as it is freed, without
//! any privilege (Linux 4.4). A filter in the kernel lets through those with the local addresses
//! that matter, so that a busy host costs nothing.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{SockFlag, setsockopt, sockopt::RcvBuf};

use super::socket;

/// The bits of both groups: the first and the third.
const GROUPS: u32 = 1 | 1 << 2;

/// What waits to be read, at the most, in bytes: that something was lost is word as well.
const WAITING: usize = 64 * 1024;

/// How many listeners a filter may have: the kernel translates its instructions, and keeps no more of
/// them than net.core.optmem_max.
pub const DOORS: usize = 250;

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
    /// Subscribes to the end of the connections of listeners at these addresses, and no others but
    /// at IPv6 addresses with the same ports. None where the kernel does not tell, or a sandbox
    /// denies it; then nothing but a look does.
    pub fn new(doors: &[SocketAddr]) -> Option<Ends> {
        // The filter comes first: nothing else gets in.
        let socket = socket::open(SockFlag::SOCK_NONBLOCK).ok()?;
        setsockopt(&socket, RcvBuf, &WAITING).ok()?;
        let ends = Ends { socket };
        ends.listen(doors).ok()?;
        socket::join(&ends.socket, GROUPS).ok()?;
        Some(ends)
    }

    /// Replaces the addresses.
    ///
    /// # Errors
    /// When they are too many for a filter: the ones before are kept.
    pub fn listen(&self, doors: &[SocketAddr]) -> Result<(), Errno> {
        if doors.len() > DOORS {
            return Err(Errno::E2BIG);
        }
        let mut program = filter(doors);
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

    /// Takes what the kernel has sent. Returns how many connections may have ended since the last
    /// call, at the least.
    pub fn drain(&self) -> u64 {
        let mut message = [0; MESSAGE];
        let mut ended = 0;
        for _ in 0..MESSAGES {
            match socket::read(self.socket.as_fd(), &mut message) {
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                // ENOBUFS: there was more than could wait.
                Ok(_) | Err(_) => ended += 1,
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

/// A classic BPF program. Behind the message's header, of 16 bytes, are the family, and at 4 the
/// local port and at 8 the local address, which is an IPv4 address' only word.
fn filter(doors: &[SocketAddr]) -> Vec<libc::sock_filter> {
    const FAMILY: u32 = 16;
    const PORT: u32 = 16 + 4;
    const ADDRESS: u32 = 16 + 8;
    let instruction = |code: u32, jf: u8, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf,
        k,
    };
    let load = |size, at| instruction(libc::BPF_LD | size | libc::BPF_ABS, 0, at);
    // Where it is not, the next `skip` instructions are passed over.
    let is = |value, skip| instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, skip, value);
    let give = |bytes| instruction(libc::BPF_RET | libc::BPF_K, 0, bytes);
    let mut program = Vec::new();
    for door in doors {
        program.push(load(libc::BPF_H, PORT));
        match door.ip() {
            IpAddr::V4(ip) if !ip.is_unspecified() => program.extend([
                is(door.port().into(), 5),
                load(libc::BPF_B, FAMILY),
                is(libc::AF_INET.unsigned_abs(), 2),
                load(libc::BPF_W, ADDRESS),
                is(ip.into(), 1),
            ]),
            _ => program.push(is(door.port().into(), 1)),
        }
        program.push(give(u32::MAX));
    }
    program.push(give(0));
    program
}

#[cfg(test)]
#[path = "ends_tests.rs"]
mod tests;
