//! The kernel's view of Envoy's sockets: what can be known of an Envoy whose admin interface is
//! gone for good.
//!
//! Its listeners are the listening sockets of which it holds a descriptor. A connection is a
//! client's if its local address is a listener's, accepted or not; or if it is Envoy's and its
//! local port is none that the kernel gives to those who connect: its listener may be gone, or
//! transparent. Whether a request is in flight on it cannot be known. Of UDP nothing is known but
//! the listeners: neither sessions nor QUIC connections have a socket of their own.
//!
//! The tables are read in pieces, with a limit on their size and on the time; what is not read
//! to its end is not known.

use std::fs::{self, File};
use std::io::{self, Read};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use super::load::{Listener, Load, Sight, is_excluded};
use crate::client::Address;

/// All of it: a look at 10,000 connections took 0.17 s of a slow virtual machine's processor.
const TIME: Duration = Duration::from_secs(5);

/// A look that somebody waits for, and that may fail.
const MOMENT: Duration = Duration::from_millis(200);

/// Of one table: a connection is a line of 150 bytes.
const TABLE: u64 = 64 * 1024 * 1024;

/// The longest line is one of /proc/net/unix with a path of 108 bytes.
const LINE: usize = 1024;

/// The ports of outgoing connections, where the kernel does not tell.
const OUTGOING: RangeInclusive<u16> = 32_768..=60_999;

/// A socket's own end.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Local {
    Tcp(SocketAddr),
    Udp(SocketAddr),
    /// A path, or `@` and a name.
    Unix(String),
}

impl Local {
    /// Its name, as Envoy's statistics have it.
    fn name(&self) -> String {
        match self {
            Local::Tcp(address) | Local::Udp(address) => address.to_string(),
            Local::Unix(path) => path.clone(),
        }
        .replace(':', "_")
    }

    /// Whether a connection with this end may be one of this listener's.
    fn may_be_of(&self, listener: &Local) -> bool {
        match (self, listener) {
            (Local::Tcp(own), Local::Tcp(all)) => {
                own == all || own.port() == all.port() && all.ip().is_unspecified()
            }
            _ => self == listener,
        }
    }
}

/// What a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Listening,
    /// Connected, and Envoy may still send: the client may have closed its half.
    Open,
    /// Envoy has closed its half, and still reads if it has not closed the descriptor.
    HalfClosed,
}

/// A line of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    local: Local,
    kind: Kind,
    /// 0 where no process has a descriptor of it: not yet, or no more.
    inode: u64,
}

/// Reads a line of a table.
type ReadLine = fn(&str) -> Option<Row>;

/// The tables below /proc/PID/net, and what the first line of each begins with.
const TABLES: [(&str, &str, ReadLine); 5] = [
    ("tcp", "sl local_address", tcp),
    ("tcp6", "sl local_address", tcp),
    ("udp", "sl local_address", udp),
    ("udp6", "sl local_address", udp),
    ("unix", "Num RefCount", unix),
];

/// The listeners that an Envoy was seen with: when it has stopped accepting, their connections are
/// still theirs.
#[derive(Debug, Default)]
pub struct Known {
    pid: i32,
    listeners: Vec<Local>,
}

/// Looks at the sockets of the Envoy with this pid, and tells whether it accepts connections. What
/// is open at its `admin` interface does not count; of the others, listeners in `excluded` are
/// marked. An Envoy that accepts nothing, and was never seen to, has no connections that could be
/// told from outgoing ones.
///
/// Each UDP listener counts as one session, since it may have any number.
///
/// # Errors
/// One line, when not all can be seen: then nothing is known, least of all zero.
pub fn look(
    pid: i32,
    admin: Option<&Address>,
    excluded: &[String],
    known: &mut Known,
) -> Result<(Load, bool), String> {
    if known.pid != pid {
        let listeners = Vec::new();
        *known = Known { pid, listeners };
    }
    let until = Instant::now() + TIME;
    let mut view = View {
        own: inodes(pid, until)?,
        admin: admin.and_then(local),
        outgoing: outgoing_ports(),
        listeners: Vec::new(),
        elsewhere: 0,
    };
    let mut accepts = false;
    // A listener may stand behind its connections, or in another table.
    for take in [View::take_listener, View::take_connection] {
        for (name, head, read) in TABLES {
            let path = format!("/proc/{pid}/net/{name}");
            match File::open(&path) {
                Ok(file) => each_line(file, head, until, |line| {
                    if let Some(row) = read(line) {
                        take(&mut view, row);
                    }
                }),
                // A kernel without IPv6.
                Err(error) if error.kind() == io::ErrorKind::NotFound && name.ends_with('6') => {
                    Ok(())
                }
                Err(error) => Err(error.to_string()),
            }
            .map_err(|why| format!("envoy's connections are not known: {path}: {why}"))?;
        }
        accepts |= view.accepts();
        view.remember(known);
    }
    Ok((view.load(excluded), accepts))
}

/// Whether the Envoy with this pid has a UDP listener, as far as can be seen in a moment.
pub fn has_udp_listener(pid: i32) -> bool {
    let until = Instant::now() + MOMENT;
    let Ok(own) = inodes(pid, until) else {
        return false;
    };
    let mut found = false;
    for (name, head, read) in TABLES.iter().filter(|(name, ..)| name.starts_with("udp")) {
        if let Ok(file) = File::open(format!("/proc/{pid}/net/{name}")) {
            let _ = each_line(file, head, until, |line| {
                found |= read(line).is_some_and(|row| own.binary_search(&row.inode).is_ok());
            });
        }
    }
    found
}

/// What has been seen so far.
struct View {
    /// The inodes of Envoy's sockets, sorted.
    own: Vec<u64>,
    admin: Option<Local>,
    /// The local ports of outgoing connections.
    outgoing: RangeInclusive<u16>,
    listeners: Vec<(Local, u64)>,
    /// Clients' connections that no listener has.
    elsewhere: u64,
}

impl View {
    fn is_own(&self, row: &Row) -> bool {
        self.own.binary_search(&row.inode).is_ok()
    }

    fn is_admin(&self, row: &Row) -> bool {
        self.admin
            .as_ref()
            .is_some_and(|admin| row.local.may_be_of(admin))
    }

    fn take_listener(&mut self, row: Row) {
        // Each worker may have a socket of its own.
        let known = self.listeners.iter().any(|(local, _)| *local == row.local);
        if row.kind == Kind::Listening && self.is_own(&row) && !known && !self.is_admin(&row) {
            self.listeners.push((row.local, 0));
        }
    }

    fn take_connection(&mut self, row: Row) {
        let alive = match row.kind {
            Kind::Listening => false,
            Kind::Open => true,
            Kind::HalfClosed => row.inode != 0,
        };
        if !alive || self.is_admin(&row) {
            return;
        }
        let exact = self.listeners.iter().position(|(at, _)| *at == row.local);
        let of = exact.or_else(|| {
            let mut all = self.listeners.iter();
            all.position(|(at, _)| row.local.may_be_of(at))
        });
        if let Some((_, connections)) = of.and_then(|at| self.listeners.get_mut(at)) {
            *connections += 1;
        } else if let Local::Tcp(address) = row.local
            && !self.outgoing.contains(&address.port())
            && self.is_own(&row)
        {
            self.elsewhere += 1;
        }
    }

    /// Whether a listener for connections is there. An old generation that has been told to drain
    /// keeps its UDP sockets, and does not read them (seen on 1.40.0).
    fn accepts(&self) -> bool {
        let mut all = self.listeners.iter();
        all.any(|(local, _)| !matches!(local, Local::Udp(_)))
    }

    /// Adds the listeners that were known before, and lets them be known from now on.
    fn remember(&mut self, known: &mut Known) {
        for local in &known.listeners {
            if !self.listeners.iter().any(|(other, _)| other == local) {
                self.listeners.push((local.clone(), 0));
            }
        }
        let all = self.listeners.iter().map(|(local, _)| local.clone());
        known.listeners = all
            .filter(|local| !matches!(local, Local::Udp(_)))
            .collect();
    }

    fn load(self, excluded: &[String]) -> Load {
        let is_udp = |(local, _): &(Local, u64)| matches!(local, Local::Udp(_));
        let (udp, accepting): (Vec<_>, Vec<_>) = self.listeners.into_iter().partition(is_udp);
        let mut listeners: Vec<_> = accepting
            .into_iter()
            .map(|(local, connections)| (local.name(), connections))
            .chain((self.elsewhere > 0).then(|| ("elsewhere".into(), self.elsewhere)))
            .map(|(name, connections)| Listener {
                excluded: is_excluded(&name, excluded),
                name,
                connections,
            })
            .collect();
        listeners.sort_by(|a, b| a.name.cmp(&b.name));
        let udp = udp
            .iter()
            .filter(|(local, _)| !is_excluded(&local.name(), excluded));
        let mut load = Load {
            listeners,
            udp_sessions: udp.count() as u64,
            ..Load::default()
        };
        // Each may have something in flight.
        load.tcp_sessions = load.connections();
        load.sight = Sight::Kernel;
        load
    }
}

/// Whether a directory entry that has just been there is gone.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

/// The inodes of all sockets of a process, sorted.
fn inodes(pid: i32, until: Instant) -> Result<Vec<u64>, String> {
    let path = format!("/proc/{pid}/fd");
    let unknown = |why: &dyn std::fmt::Display| {
        format!("envoy's connections are not known: {path} cannot be read: {why}")
    };
    let mut inodes = Vec::new();
    for entry in fs::read_dir(&path).map_err(|error| unknown(&error))? {
        let target = match entry.and_then(|entry| fs::read_link(entry.path())) {
            Err(error) if is_gone(&error) => continue,
            target => target.map_err(|error| unknown(&error))?,
        };
        inodes.extend(target.to_str().and_then(socket_inode));
        if Instant::now() > until {
            return Err(unknown(&"it takes too long"));
        }
    }
    if inodes.is_empty() {
        // An Envoy that can be restarted hot has some.
        return Err(unknown(&"no socket is in it"));
    }
    inodes.sort_unstable();
    Ok(inodes)
}

/// `socket:[4711]`
fn socket_inode(target: &str) -> Option<u64> {
    target
        .strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

fn outgoing_ports() -> RangeInclusive<u16> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut words = text.split_whitespace().map(str::parse);
    match (words.next(), words.next()) {
        (Some(Ok(first)), Some(Ok(last))) => first..=last,
        _ => OUTGOING,
    }
}

fn local(address: &Address) -> Option<Local> {
    match address {
        Address::Tcp(text) => text.parse().ok().map(Local::Tcp),
        Address::Unix(path) => Some(Local::Unix(path.to_str()?.into())),
        Address::Abstract(name) => Some(Local::Unix(format!("@{name}"))),
    }
}

/// Hands over the table's lines but for the first, which must begin with the words `head`.
fn each_line(
    table: impl Read,
    head: &str,
    until: Instant,
    mut take: impl FnMut(&str),
) -> Result<(), String> {
    let mut table = table.take(TABLE);
    let mut chunk = vec![0; 16 * 1024];
    let mut line = Vec::new();
    let mut is_first = true;
    loop {
        let length = match table.read(&mut chunk) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            length => length.map_err(|error| error.to_string())?,
        };
        for byte in chunk.iter().take(length) {
            if *byte != b'\n' {
                line.push(*byte);
                continue;
            }
            let text = String::from_utf8_lossy(&line);
            if !is_first {
                take(&text);
            } else if !text.split_whitespace().take(2).eq(head.split(' ')) {
                return Err("no such table".into());
            }
            is_first = false;
            line.clear();
        }
        if length == 0 && table.limit() > 0 && line.is_empty() && !is_first {
            return Ok(());
        }
        if length == 0 || line.len() > LINE || Instant::now() > until {
            return Err("it is cut, too long, or takes too long".into());
        }
    }
}

/// `0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4711 ...`: number,
/// local and remote address, state, queues, timer, retransmits, uid, timeout, inode.
fn tcp(line: &str) -> Option<Row> {
    let words: Vec<&str> = line.split_whitespace().take(10).collect();
    let kind = match *words.get(3)? {
        "0A" => Kind::Listening,
        // ESTABLISHED, CLOSE_WAIT
        "01" | "08" => Kind::Open,
        // FIN_WAIT1, FIN_WAIT2
        "04" | "05" => Kind::HalfClosed,
        _ => return None,
    };
    Some(Row {
        local: Local::Tcp(address(words.get(1)?)?),
        kind,
        inode: words.get(9)?.parse().ok()?,
    })
}

/// The same columns. A listener is not connected; what is may be a session's, or a resolver's.
fn udp(line: &str) -> Option<Row> {
    let words: Vec<&str> = line.split_whitespace().take(10).collect();
    if *words.get(3)? != "07" || address(words.get(2)?)?.port() != 0 {
        return None;
    }
    Some(Row {
        local: Local::Udp(address(words.get(1)?)?),
        kind: Kind::Listening,
        inode: words.get(9)?.parse().ok()?,
    })
}

/// `0000000036b2a5f9: 00000002 00000000 00010000 0001 01 4711 /run/a.sock`: number, references,
/// protocol, flags, type, state, inode, path. A connection that was accepted has its listener's.
fn unix(line: &str) -> Option<Row> {
    let mut rest = line;
    let mut word = || {
        let (word, after) = rest.trim_start().split_once(' ')?;
        rest = after;
        Some(word)
    };
    let (_, _, _, flags) = (word()?, word()?, word()?, word()?);
    let (kind, state, inode) = (word()?, word()?, word()?.parse().ok()?);
    let path = rest;
    if kind != "0001" {
        return None;
    }
    let kind = match (flags, state) {
        ("00010000", _) => Kind::Listening,
        // Connected, or not accepted yet.
        (_, "02" | "03") => Kind::Open,
        _ => return None,
    };
    Some(Row {
        local: Local::Unix(path.into()),
        kind,
        inode,
    })
}

/// `0100007F:1F90`, or the same with four words: each is in the machine's byte order. An IPv4
/// address that is mapped into IPv6 is taken for what it is.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let mut bytes = Vec::new();
    for word in ip.as_bytes().chunks(8) {
        let word = std::str::from_utf8(word).ok().filter(|w| w.len() == 8)?;
        bytes.extend(u32::from_str_radix(word, 16).ok()?.to_ne_bytes());
    }
    let ip = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(ip) => IpAddr::from(ip),
        Err(_) => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)).to_canonical(),
    };
    Some((ip, u16::from_str_radix(port, 16).ok()?).into())
}

#[cfg(test)]
#[path = "sockets_tests.rs"]
mod tests;
