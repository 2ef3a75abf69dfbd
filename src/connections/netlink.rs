//! The messages of NETLINK_SOCK_DIAG: requests as bytes, answers read from bytes. Layouts are those
//! of linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h, linux/unix_diag.h and linux/tcp.h;
//! numbers are in the machine's byte order, ports and addresses in the network's.
//!
//! Nothing here does I/O, and no answer is trusted to be as long as it says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use nix::libc;

use super::rows::{InetRow, SocketKind, UnixRow, canonical};
use super::{Activity, ConnectionState};

/// Bytes of a message's header: length, type, flags, sequence number, port id.
const HEADER: usize = 16;

/// The request's and the rows' message type.
const SOCK_DIAG_BY_FAMILY: u16 = 20;

/// The kernel's question before 2012, for TCP sockets of every family: all kernels still answer it.
const TCPDIAG_GETSOCK: u16 = 18;

/// Bytes of an `inet_diag_sockid`.
const ID: usize = 48;

/// `INET_DIAG_INFO`, an attribute of a row; as a bit of the request's `idiag_ext` it is asked for.
const INFO: u16 = 2;

/// `INET_DIAG_REQ_BYTECODE`, an attribute of a request.
const BYTECODE: u16 = 1;

/// The operations of a bytecode: `INET_DIAG_BC_JMP`, `INET_DIAG_BC_S_GE`, `INET_DIAG_BC_S_LE`.
const JUMP: u8 = 1;
const SPORT_AT_LEAST: u8 = 2;
const SPORT_AT_MOST: u8 = 3;

/// A request's ports are so many ranges at the most: a longer bytecode's jumps do not reach.
const RANGES: usize = 2_000;

/// TCP's states by their numbers in linux/tcp_states.h. Unix sockets that are connected or listen
/// have the same; UDP sockets that are not connected are closed.
const ESTABLISHED: u8 = 1;
const FIN_WAIT1: u8 = 4;
const FIN_WAIT2: u8 = 5;
const CLOSE: u8 = 7;
const CLOSE_WAIT: u8 = 8;
const LAST_ACK: u8 = 9;
const LISTEN: u8 = 10;
const CLOSING: u8 = 11;

/// The address families of the TCP sockets that a dump has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    /// IPv4 sockets.
    V4,
    /// IPv6 sockets, those with an IPv4 address too.
    V6,
    /// IPv4 and IPv6 sockets, by the message that NETLINK_SOCK_DIAG had before it knew families.
    Both,
}

/// What the kernel is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DumpRequest<'a> {
    /// The TCP listeners.
    TcpListeners {
        /// IPv6 sockets, in place of IPv4 ones.
        v6: bool,
    },
    /// The TCP connections with a local port in any of these ranges; all, where they are too many.
    TcpConnections {
        /// The sockets' address families.
        family: Families,
        /// The local ports.
        ports: &'a [RangeInclusive<u16>],
    },
    /// The UDP sockets that are not connected.
    Udp {
        /// IPv6 sockets, in place of IPv4 ones.
        v6: bool,
    },
    /// The unix sockets that are connected or listen.
    Unix,
}

impl DumpRequest<'_> {
    /// The message. Answers to it have the same `sequence` number.
    pub fn to_bytes(&self, sequence: u32) -> Vec<u8> {
        let bit = |state: u8| 1_u32 << state;
        let mut kind = SOCK_DIAG_BY_FAMILY;
        let mut body = match self {
            DumpRequest::TcpListeners { v6 } => inet(*v6, libc::IPPROTO_TCP, 0, bit(LISTEN)),
            DumpRequest::TcpConnections { family, ports } => {
                let open = [ESTABLISHED, CLOSE_WAIT];
                let closed = [FIN_WAIT1, FIN_WAIT2, CLOSING, LAST_ACK];
                let states = open.into_iter().chain(closed);
                let states = states.fold(0, |all, state| all | bit(state));
                let extensions = 1 << (INFO - 1);
                let mut body = match family {
                    // inet_diag_req: family, lengths, extensions, a socket's id, states, dbs.
                    Families::Both => {
                        kind = TCPDIAG_GETSOCK;
                        let mut body = vec![low_byte(libc::AF_INET), 0, 0, extensions];
                        body.resize(body.len() + ID, 0);
                        body.extend(states.to_ne_bytes());
                        body.extend(0_u32.to_ne_bytes());
                        body
                    }
                    one => inet(*one == Families::V6, libc::IPPROTO_TCP, extensions, states),
                };
                body.extend(bytecode(ports));
                body
            }
            DumpRequest::Udp { v6 } => inet(*v6, libc::IPPROTO_UDP, 0, bit(CLOSE)),
            DumpRequest::Unix => {
                // unix_diag_req: family, protocol, padding, states, inode, what to show, cookie.
                let show: u32 = 1 | 1 << 4; // UDIAG_SHOW_NAME, UDIAG_SHOW_RQLEN
                let mut body = vec![low_byte(libc::AF_UNIX), 0, 0, 0];
                for word in [bit(ESTABLISHED) | bit(LISTEN), 0, show, 0, 0] {
                    body.extend(word.to_ne_bytes());
                }
                body
            }
        };
        let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
        let flags = low_half(libc::NLM_F_REQUEST | libc::NLM_F_DUMP);
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend(sequence.to_ne_bytes());
        message.extend(0_u32.to_ne_bytes());
        message.append(&mut body);
        message
    }
}

/// `inet_diag_req_v2`: family, protocol, extensions, padding, states, and a socket's id, of which
/// all is left open.
fn inet(v6: bool, protocol: i32, extensions: u8, states: u32) -> Vec<u8> {
    let family = if v6 { libc::AF_INET6 } else { libc::AF_INET };
    let mut body = vec![low_byte(family), low_byte(protocol), extensions, 0];
    body.extend(states.to_ne_bytes());
    body.resize(body.len() + ID, 0);
    body
}

/// The attribute that has the kernel pass over sockets with another local port. A program is a
/// row of operations (code, offset if true, offset if not), a port being the second half of an
/// operation behind its own; who arrives right at the end is let through, who jumps past it is not.
fn bytecode(ports: &[RangeInclusive<u16>]) -> Vec<u8> {
    if ports.is_empty() || ports.len() > RANGES {
        return Vec::new();
    }
    const COMPARE: u16 = 8;
    const STEP: u16 = 4;
    const RANGE: u16 = 2 * COMPARE + STEP;
    let length = low_half(ports.len().try_into().unwrap_or(i32::MAX)) * RANGE + STEP;
    let mut attribute = (STEP + length).to_ne_bytes().to_vec();
    attribute.extend(BYTECODE.to_ne_bytes());
    let mut operation = |code: u8, yes: u8, no: u16| {
        attribute.extend([code, yes]);
        attribute.extend(no.to_ne_bytes());
    };
    let mut left = length;
    for range in ports {
        operation(SPORT_AT_LEAST, 8, RANGE);
        operation(0, 0, *range.start());
        operation(SPORT_AT_MOST, 8, RANGE - COMPARE);
        operation(0, 0, *range.end());
        left -= 2 * COMPARE;
        operation(JUMP, 4, left);
        left -= STEP;
    }
    operation(JUMP, 4, left + STEP);
    attribute
}

fn low_byte(number: i32) -> u8 {
    number.to_le_bytes().first().copied().unwrap_or_default()
}

fn low_half(number: i32) -> u16 {
    let [low, high, ..] = number.to_le_bytes();
    u16::from_le_bytes([low, high])
}

/// A message of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A socket: the message's body.
    Row(&'a [u8]),
    /// The end of the answer: no more messages follow.
    Done,
    /// The kernel refused, by this errno.
    Failed(i32),
    /// Rows may be missing: the table changed too much while it was read.
    Torn,
}

/// The messages that one read brought, one after the other; None where they are not what they claim
/// to be.
#[derive(Clone, Debug)]
pub struct Messages<'a> {
    rest: &'a [u8],
    sequence: u32,
}

impl<'a> Messages<'a> {
    /// The messages in these bytes, in answer to the request with this sequence number; multicast
    /// messages have 0.
    pub fn new(bytes: &'a [u8], sequence: u32) -> Messages<'a> {
        Messages {
            rest: bytes,
            sequence,
        }
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Option<Message<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let message = message(self.rest, self.sequence);
        self.rest = message.map_or(&[], |(_, rest)| rest);
        Some(message.map(|(message, _)| message))
    }
}

fn message(bytes: &[u8], sequence: u32) -> Option<(Message<'_>, &[u8])> {
    let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
    let body = bytes.get(HEADER..length)?;
    if u32_at(bytes, 8)? != sequence {
        return None;
    }
    let flags = i32::from(u16_at(bytes, 6)?);
    let kind = i32::from(u16_at(bytes, 4)?);
    let code = || i32_at(body, 0).map(i32::wrapping_neg);
    let message = if flags & libc::NLM_F_DUMP_INTR != 0 {
        Message::Torn
    } else if [SOCK_DIAG_BY_FAMILY, TCPDIAG_GETSOCK]
        .map(i32::from)
        .contains(&kind)
    {
        Message::Row(body)
    } else if kind == libc::NLMSG_DONE {
        // Newer kernels add how it ended.
        match code() {
            Some(errno) if errno > 0 => Message::Failed(errno),
            _ => Message::Done,
        }
    } else if kind == libc::NLMSG_ERROR {
        Message::Failed(code()?)
    } else {
        return None;
    };
    let next = length.next_multiple_of(4).min(bytes.len());
    Some((message, bytes.get(next..)?))
}

/// Reads a TCP or UDP socket: the body of a message, which is an `inet_diag_msg` and attributes. None
/// where it is cut, and of a socket in another state than those that are asked for.
pub fn inet_row(body: &[u8]) -> Option<InetRow> {
    let family = i32::from(*body.first()?);
    let v6 = match family {
        libc::AF_INET => false,
        libc::AF_INET6 => true,
        _ => return None,
    };
    let kind = match *body.get(1)? {
        LISTEN | CLOSE => SocketKind::Listening,
        ESTABLISHED => SocketKind::Open(ConnectionState::Established),
        CLOSE_WAIT => SocketKind::Open(ConnectionState::ClientClosed),
        FIN_WAIT1 | FIN_WAIT2 | CLOSING | LAST_ACK => {
            SocketKind::Open(ConnectionState::EnvoyClosed)
        }
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes(array_at(body, at)?));
    let end = |ip: usize, port: u16| {
        let ip = match v6 {
            false => IpAddr::from(Ipv4Addr::from(array_at::<4>(body, ip)?)),
            true => IpAddr::from(Ipv6Addr::from(array_at::<16>(body, ip)?)),
        };
        Some(canonical(SocketAddr::new(ip, port)))
    };
    let row = InetRow {
        kind,
        v6,
        local: end(8, port(4)?)?,
        peer: end(24, port(6)?)?,
        unread: u32_at(body, 56)?,
        unacknowledged: u32_at(body, 60)?,
        inode: u32_at(body, 68)?.into(),
        activity: None,
    };
    let info = attribute(body.get(72..)?, INFO);
    Some(InetRow {
        activity: info.and_then(activity),
        ..row
    })
}

/// Whether a socket, of which this is the body of a message, may have any local address
/// (IP_TRANSPARENT in ip(7)). Kernels before 5.10 do not tell.
pub fn is_transparent(body: &[u8]) -> bool {
    /// INET_DIAG_SOCKOPT and its bit, in linux/inet_diag.h.
    const SOCKET_OPTIONS: u16 = 22;
    const TRANSPARENT: u8 = 1 << 5;
    let attributes = body.get(72..).unwrap_or_default();
    let options = attribute(attributes, SOCKET_OPTIONS).and_then(|options| options.first());
    options.is_some_and(|options| options & TRANSPARENT != 0)
}

/// From a `tcp_info`: what an old kernel does not tell is not known.
fn activity(info: &[u8]) -> Option<Activity> {
    let [sent_ago, received_ago, acknowledged_ago] =
        [u32_at(info, 44)?, u32_at(info, 52)?, u32_at(info, 56)?];
    // The retransmission timeout in us, and how often it was doubled: what was sent last was sent
    // first so much earlier. A request that acknowledges nothing new is no `acknowledged_ago`.
    let (timeout, doubled) = (u32_at(info, 8)?, u32::from(*info.get(4)?));
    let retried_for = timeout - timeout.checked_shr(doubled).unwrap_or(0);
    // A client whose window is closed is sent nothing but probes, at growing intervals. One of those
    // may have no answer yet.
    let answers = acknowledged_ago <= sent_ago && *info.get(3)? < 2;
    let heard_ago = match answers {
        true => 0,
        false => sent_ago
            .saturating_add(retried_for / 1_000)
            .min(received_ago)
            .min(acknowledged_ago),
    };
    Some(Activity {
        sent_ago,
        received_ago,
        heard_ago,
        acknowledged: u64_at(info, 120)?,
        received: u64_at(info, 128)?,
    })
}

/// Reads a unix socket: a `unix_diag_msg` and attributes. None where it is cut; none within of a
/// socket that has no name or no stream.
pub fn unix_row(body: &[u8]) -> Option<Option<UnixRow>> {
    let kind = i32::from(*body.get(1)?);
    let listening = *body.get(2)? == LISTEN;
    let attributes = body.get(16..)?;
    // UNIX_DIAG_NAME
    let Some(name) = attribute(attributes, 0).filter(|_| kind == libc::SOCK_STREAM) else {
        return Some(None);
    };
    let name = match name {
        // In the abstract namespace, as /proc/net/unix shows it.
        [0, name @ ..] => format!("@{}", String::from_utf8_lossy(name).replace('\0', "@")),
        [path @ .., 0] | path => String::from_utf8_lossy(path).into_owned(),
    };
    let waiting = match listening {
        // UNIX_DIAG_RQLEN
        true => u32_at(attribute(attributes, 4)?, 0)?,
        false => 0,
    };
    Some(Some(UnixRow {
        listening,
        inode: u32_at(body, 4)?.into(),
        waiting,
        name,
    }))
}

/// The value of the first attribute of this type.
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16_at(attributes, 0)?);
        let value = attributes.get(4..length)?;
        if u16_at(attributes, 2)? == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array_at(bytes, at).map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array_at(bytes, at).map(u32::from_ne_bytes)
}

fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    array_at(bytes, at).map(i32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array_at(bytes, at).map(u64::from_ne_bytes)
}

#[cfg(test)]
#[path = "netlink_tests.rs"]
mod tests;
