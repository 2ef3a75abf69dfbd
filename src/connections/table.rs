//! The tables below /proc/PID/net, where netlink sockets are not to be had.
//!
//! They are read in pieces, with a limit on their size and on the time; what is not read to its
//! end is not known.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use super::ConnectionState;
use super::rows::{InetRow, SocketKind, UnixRow};

/// The most bytes of one table: a connection is a line of 150 bytes.
const TABLE: u64 = 64 * 1024 * 1024;

/// The longest line is one of /proc/net/unix with a path of 108 bytes.
const LINE: usize = 1024;

/// What the first lines of the tables begin with.
const INET_HEAD: [&[u8]; 2] = [b"sl", b"local_address"];
const UNIX_HEAD: [&[u8]; 2] = [b"Num", b"RefCount"];

/// Reads /proc/PID/net/tcp, or tcp6.
pub(super) fn tcp(
    pid: i32,
    v6: bool,
    until: Instant,
    mut take: impl FnMut(InetRow),
) -> Result<(), String> {
    let name = if v6 { "tcp6" } else { "tcp" };
    read(pid, name, INET_HEAD, until, |line| {
        if let Some((row, kind)) = inet_row(line, v6)
            && let Some(kind) = tcp_kind(kind)
        {
            take(InetRow { kind, ..row });
        }
    })
}

/// Reads /proc/PID/net/udp, or udp6: the sockets that are not connected.
pub(super) fn udp(
    pid: i32,
    v6: bool,
    until: Instant,
    mut take: impl FnMut(InetRow),
) -> Result<(), String> {
    let name = if v6 { "udp6" } else { "udp" };
    read(pid, name, INET_HEAD, until, |line| {
        if let Some((row, 7)) = inet_row(line, v6) {
            take(row);
        }
    })
}

/// Reads /proc/PID/net/unix.
pub(super) fn unix(pid: i32, until: Instant, mut take: impl FnMut(UnixRow)) -> Result<(), String> {
    read(pid, "unix", UNIX_HEAD, until, |line| {
        if let Some(row) = unix_row(line) {
            take(row);
        }
    })
}

fn read(
    pid: i32,
    name: &str,
    head: [&[u8]; 2],
    until: Instant,
    take: impl FnMut(&[u8]),
) -> Result<(), String> {
    let path = format!("/proc/{pid}/net/{name}");
    match File::open(&path) {
        Ok(file) => each_line(file, head, until, take),
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound && name.ends_with('6') => Ok(()),
        Err(error) => Err(error.to_string()),
    }
    .map_err(|why| format!("{path}: {why}"))
}

/// Hands over the table's lines but for the first, which must begin with the words `head`.
fn each_line(
    table: impl Read,
    head: [&[u8]; 2],
    until: Instant,
    mut take: impl FnMut(&[u8]),
) -> Result<(), String> {
    let mut table = table.take(TABLE);
    let mut buffer = vec![0; 16 * 1024 + LINE];
    let mut kept = 0;
    let mut is_first = true;
    loop {
        let length = match table.read(buffer.get_mut(kept..).unwrap_or_default()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            length => length.map_err(|error| error.to_string())?,
        };
        let mut rest = buffer.get(..kept + length).unwrap_or_default();
        let all = rest.len();
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, after) = rest.split_at(end);
            if !is_first {
                take(line);
            } else if !words(line).take(2).eq(head) {
                return Err("no such table".into());
            }
            is_first = false;
            rest = after.get(1..).unwrap_or_default();
        }
        kept = rest.len();
        if length == 0 && table.limit() > 0 && kept == 0 && !is_first {
            return Ok(());
        }
        if length == 0 || kept > LINE || Instant::now() > until {
            return Err("it is cut, too long, or takes too long".into());
        }
        buffer.copy_within(all - kept..all, 0);
    }
}

fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
}

/// `0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4711 ...`: number,
/// local and remote address, state, queues, timer, retransmits, uid, timeout, inode. Returns the
/// state's number apart.
fn inet_row(line: &[u8], v6: bool) -> Option<(InetRow, u32)> {
    let mut words = words(line).skip(1);
    let local = address(words.next()?)?;
    let peer = address(words.next()?)?;
    let state = hex(words.next()?)?;
    let (unacknowledged, unread) = halves(words.next()?)?;
    let row = InetRow {
        kind: SocketKind::Listening,
        v6,
        local,
        peer,
        inode: decimal(words.nth(4)?)?,
        unread: hex(unread)?,
        unacknowledged: hex(unacknowledged)?,
        activity: None,
    };
    Some((row, state))
}

/// A TCP socket's kind by its state's number; none of one that does not count.
fn tcp_kind(state: u32) -> Option<SocketKind> {
    Some(match state {
        0x0A => SocketKind::Listening,
        0x01 => SocketKind::Open(ConnectionState::Established),
        // CLOSE_WAIT
        0x08 => SocketKind::Open(ConnectionState::ClientClosed),
        // FIN_WAIT1, FIN_WAIT2, LAST_ACK, CLOSING
        0x04 | 0x05 | 0x09 | 0x0B => SocketKind::Open(ConnectionState::EnvoyClosed),
        _ => return None,
    })
}

/// `0000000036b2a5f9: 00000002 00000000 00010000 0001 01 4711 /run/a.sock`: number, references,
/// protocol, flags, type, state, inode, path. A connection that was accepted has its listener's path.
fn unix_row(line: &[u8]) -> Option<UnixRow> {
    let mut rest = line;
    let mut word = || {
        let text = rest.trim_ascii_start();
        let end = text.iter().position(|byte| *byte == b' ')?;
        let (word, after) = text.split_at(end);
        rest = after.get(1..)?;
        Some(word)
    };
    let (_, _, _, flags) = (word()?, word()?, word()?, word()?);
    let (kind, state, inode) = (word()?, word()?, decimal(word()?)?);
    // SOCK_STREAM
    if kind != b"0001" || rest.is_empty() {
        return None;
    }
    let listening = match (flags, state) {
        (b"00010000", _) => true,
        // Not accepted yet, or connected.
        (_, b"02" | b"03") => false,
        _ => return None,
    };
    Some(UnixRow {
        listening,
        inode,
        waiting: 0,
        name: String::from_utf8_lossy(rest).into_owned(),
    })
}

/// `0100007F:1F90`, or the same with four words: each is in the machine's byte order. An IPv4
/// address that is mapped into IPv6 is taken for what it is.
fn address(text: &[u8]) -> Option<SocketAddr> {
    let (ip, port) = halves(text)?;
    let mut bytes = [0; 16];
    if ip.len() > 32 || !ip.len().is_multiple_of(8) {
        return None;
    }
    for (word, into) in ip.chunks(8).zip(bytes.chunks_mut(4)) {
        into.copy_from_slice(&hex(word)?.to_ne_bytes());
    }
    let ip = match ip.len() {
        8 => IpAddr::from(Ipv4Addr::from(*bytes.first_chunk::<4>()?)),
        32 => IpAddr::from(Ipv6Addr::from(bytes)).to_canonical(),
        _ => return None,
    };
    Some((ip, u16::try_from(hex(port)?).ok()?).into())
}

fn halves(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|byte| *byte == b':')?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

/// Up to eight hexadecimal digits.
fn hex(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    digits.iter().try_fold(0, |number, digit| {
        Some(number << 4 | char::from(*digit).to_digit(16)?)
    })
}

fn decimal(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
#[path = "table_tests.rs"]
pub(super) mod tests;
