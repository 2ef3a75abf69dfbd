//! A netlink socket to the kernel's table of sockets.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, sendto,
    setsockopt, socket,
};
use nix::sys::time::TimeVal;

use super::netlink::{DumpRequest, Message, Messages};

/// The size of one read: the kernel makes its pieces as large as what is read into, up to this
/// size.
const PIECE: usize = 32 * 1024;

/// The most bytes of one answer: a connection has about 400.
const ANSWER: usize = 256 * 1024 * 1024;

/// Opens a netlink socket.
pub(super) fn open(flags: SockFlag) -> Result<OwnedFd, Errno> {
    socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        flags | SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )
}

/// Binds the socket to the multicast groups with these bits.
pub(super) fn join(socket: &OwnedFd, groups: u32) -> Result<(), Errno> {
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))
}

/// Reads once; None where the bytes are not the kernel's, or more than fit.
pub(super) fn read<'a>(
    socket: BorrowedFd,
    buffer: &'a mut [u8],
) -> Result<Option<&'a [u8]>, Errno> {
    let (length, from) = recvfrom::<NetlinkAddr>(socket.as_raw_fd(), buffer)?;
    let is_kernel = from.is_some_and(|from| from.pid() == 0);
    // What fills the buffer may have been cut.
    let fits = length < buffer.len();
    Ok(buffer.get(..length).filter(|_| is_kernel && fits))
}

/// Asks the kernel for rows of its table, one question after the other.
pub(super) struct DiagSocket {
    socket: OwnedFd,
    buffer: Vec<u8>,
    sequence: u32,
}

impl DiagSocket {
    pub fn new() -> Result<DiagSocket, String> {
        let socket = open(SockFlag::empty()).and_then(|socket| {
            // The kernel answers while it is asked, so that a wait is none in practice.
            setsockopt(&socket, ReceiveTimeout, &TimeVal::new(1, 0))?;
            Ok(socket)
        });
        Ok(DiagSocket {
            socket: socket.map_err(|error| format!("NETLINK_SOCK_DIAG: {}", error.desc()))?,
            // Larger than a piece: what fills it is cut.
            buffer: vec![0; PIECE + 4],
            sequence: 0,
        })
    }

    /// Hands over each row that answers the request; `take` returns none of one that it cannot read.
    ///
    /// # Errors
    /// One line, where not all of them came, or one is none: then they are worth nothing.
    pub fn ask(
        &mut self,
        request: &DumpRequest,
        until: Instant,
        mut take: impl FnMut(&[u8]) -> Option<()>,
    ) -> Result<(), String> {
        self.sequence += 1;
        let message = request.to_bytes(self.sequence);
        let refused = |errno: Errno| format!("NETLINK_SOCK_DIAG: {}", errno.desc());
        let kernel = NetlinkAddr::new(0, 0);
        sendto(
            self.socket.as_raw_fd(),
            &message,
            &kernel,
            MsgFlags::empty(),
        )
        .map_err(refused)?;
        let mut all: usize = 0;
        loop {
            let piece = match read(self.socket.as_fd(), &mut self.buffer) {
                Err(Errno::EINTR) => continue,
                piece => piece.map_err(refused)?,
            };
            let broken = || "NETLINK_SOCK_DIAG: an answer that is none".to_owned();
            let piece = piece.filter(|piece| !piece.is_empty()).ok_or_else(broken)?;
            for message in Messages::new(piece, self.sequence) {
                match message.ok_or_else(broken)? {
                    Message::Row(row) => take(row).ok_or_else(broken)?,
                    Message::Done => return Ok(()),
                    Message::Failed(errno) => return Err(refused(Errno::from_raw(errno))),
                    Message::Torn => {
                        return Err("NETLINK_SOCK_DIAG: the table changed too fast".into());
                    }
                }
            }
            all += piece.len();
            if all > ANSWER || Instant::now() > until {
                return Err("NETLINK_SOCK_DIAG: it is too long, or takes too long".into());
            }
        }
    }
}
