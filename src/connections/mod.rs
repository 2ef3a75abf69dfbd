//! Envoy's connections as the kernel knows them: by listener, each with its client's address, how
//! long it has been silent, and how much went over it.
//!
//! Three sources, in this order. NETLINK_SOCK_DIAG (`netlink`) tells everything, and needs no
//! privilege. `/proc/PID/net` (`table`) is read where a sandbox denies netlink sockets or has
//! none (gVisor): it tells who is connected, but not how long they have been silent. Where neither
//! can be read, the connections are unknown, which is never zero.
//!
//! Whose a socket is, its inode says (`descriptors`): Envoy's sockets are those in /proc/PID/fd. So
//! the sockets of another process on the same port, and of another generation of a hot restart,
//! are told apart. Where that directory may not be read, sockets are counted by the addresses of
//! the listeners that Envoy named, and [`Ownership::Address`] says so.
//!
//! A connection is a client's if its local address is a listener's; or if its local port is none
//! that the kernel gives to those who connect: its listener is gone, or transparent. Of UDP,
//! the listeners alone are known: sessions and QUIC connections have no socket of their own.

pub mod attribute;
pub mod descriptors;
pub mod ends;
pub mod ledger;
mod look;
pub mod names;
pub mod netlink;
pub mod rows;
mod socket;
mod source;
mod table;

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

pub use look::{Lookout, has_udp_listener};

/// Where a snapshot comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Witness {
    /// NETLINK_SOCK_DIAG: all there is to know.
    Netlink,
    /// /proc/PID/net: connections, their clients and queues, without [`Activity`].
    Proc,
}

/// How Envoy's sockets are told from those of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// By their inodes, which are in Envoy's /proc/PID/fd.
    Inode,
    /// /proc/PID/fd may not be read: by the addresses that Envoy's listeners have, so that the
    /// sockets of another process on the same port count too.
    Address,
}

/// A socket's own end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Local {
    /// TCP, or UDP. An IPv4 address that is mapped into IPv6 is an IPv4 address here.
    Ip(SocketAddr),
    /// A unix socket's path, or `@` and its name in the abstract namespace.
    Unix(String),
}

impl Local {
    /// Whether `word` means this address: as it is written, as Envoy's statistics write it (`_` for
    /// `:`), or by its port (`:8443`).
    pub fn is_called(&self, word: &str) -> bool {
        let address = self.to_string();
        let port = match self {
            Local::Ip(address) => word.strip_prefix(':') == Some(&address.port().to_string()),
            Local::Unix(_) => false,
        };
        port || address == word || address.replace(':', "_") == word.replace(':', "_")
    }
}

impl fmt::Display for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Local::Ip(address) => address.fmt(f),
            Local::Unix(path) => f.write_str(path),
        }
    }
}

/// What a client's connection is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionState {
    /// Open in both directions.
    Established,
    /// The client has closed its half: Envoy may still send.
    ClientClosed,
    /// Envoy has closed its half. While it has the descriptor, it may still read.
    EnvoyClosed,
}

/// Bytes that may be unacknowledged on an idle HTTP/2 connection at any moment: a PING has 17 bytes,
/// and TLS adds some 30.
const CONTROL: u32 = 256;

/// What went over a connection, from the kernel's `tcp_info`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activity {
    /// Since bytes were last received, in ms; since the connection was opened where none were. TCP
    /// keep-alives have no bytes.
    pub received_ago: u32,
    /// Since bytes were last sent, in ms; since the connection was opened where none were.
    pub sent_ago: u32,
    /// Since the client was last heard of, or the first of the bytes that it has not acknowledged was
    /// first sent, in ms, whichever was later; 0 while it has answered all that it was sent.
    pub heard_ago: u32,
    /// Bytes received from the client in all, TLS and framing included.
    pub received: u64,
    /// Bytes that were sent to the client and acknowledged by it, in all.
    pub acknowledged: u64,
}

impl Activity {
    /// Since a byte was last received or sent.
    pub fn silence(&self) -> Duration {
        Duration::from_millis(self.received_ago.min(self.sent_ago).into())
    }
}

/// A client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The client; none on a unix socket.
    pub peer: Option<SocketAddr>,
    /// Which halves are open.
    pub state: ConnectionState,
    /// Whether Envoy has accepted it. Otherwise it waits in the accept queue, and is reset if its
    /// listener is closed.
    pub accepted: bool,
    /// The socket's inode; 0 while it is not accepted. With the peer's address it tells a
    /// connection from a later one.
    pub inode: u64,
    /// Bytes received that Envoy has not read yet.
    pub unread: u32,
    /// Bytes that Envoy has written and the client has not acknowledged yet.
    pub unacknowledged: u32,
    /// How long it has been silent; none where [`Witness::Proc`] tells, and on unix sockets.
    pub activity: Option<Activity>,
}

impl Connection {
    /// Whether the client was heard of within this time, or may have been.
    fn is_heard(&self, patience: Duration) -> bool {
        let heard = |activity: Activity| Duration::from_millis(activity.heard_ago.into());
        self.activity.map(heard).is_none_or(|ago| ago < patience)
    }
}

/// An address at which Envoy accepts connections, or did, and its connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The name in Envoy's configuration; none where it was not told, or is none.
    pub name: Option<String>,
    /// The listener's address.
    pub local: Local,
    /// Whether it accepts connections now.
    pub listening: bool,
    /// How many connections wait to be accepted, by the listening sockets' own count.
    pub accept_queue: u64,
    /// The listener's connections, accepted or not.
    pub connections: Vec<Connection>,
    /// Connections in the accept queue that are not among `connections`: NETLINK_SOCK_DIAG shows
    /// no unix socket before it is accepted.
    pub queued: u64,
    /// Connections that Envoy has closed and the kernel alone goes on with, because their clients have
    /// not acknowledged all bytes yet. They count nowhere else.
    pub closed: Vec<Connection>,
}

impl Listener {
    /// How many connections the listener has, accepted or not.
    pub fn count(&self) -> u64 {
        (self.connections.len() as u64).saturating_add(self.queued)
    }

    /// How many of the listener's connections are not known to have been silent for this long.
    pub fn awake(&self, settle: Duration) -> u64 {
        let silent = |one: &&Connection| one.activity.is_some_and(|a| a.silence() >= settle);
        let silent = self.connections.iter().filter(silent).count() as u64;
        self.count().saturating_sub(silent)
    }

    /// Bytes that Envoy has written and clients have not acknowledged yet, on connections that are
    /// open, on closed ones, and those of clients that are gone: not heard of for `patience`. On an
    /// open connection they are more than [`CONTROL`].
    pub fn unsent(&self, patience: Duration) -> [u32; 3] {
        let open = self.connections.iter();
        let open = open.filter(|one| one.unacknowledged > CONTROL);
        let mut sums = [0_u32; 3];
        for (one, at) in open
            .map(|one| (one, 0))
            .chain(self.closed.iter().map(|one| (one, 1)))
        {
            let at = if one.is_heard(patience) { at } else { 2 };
            if let Some(sum) = sums.get_mut(at) {
                *sum = sum.saturating_add(one.unacknowledged);
            }
        }
        sums
    }

    /// The connections that Envoy has closed, and whose clients were heard of within `patience`, or
    /// may have been.
    pub fn sending(&self, patience: Duration) -> impl Iterator<Item = &Connection> {
        let closed = self.closed.iter();
        closed.filter(move |one| one.is_heard(patience))
    }

    /// How the listener is named to a person: by its own name, or else by its address.
    pub fn title(&self) -> String {
        let name = self.name.clone();
        name.unwrap_or_else(|| self.local.to_string())
    }

    /// Whether `word` means this listener: its name, its address, its address as Envoy's
    /// statistics write it (`_` for `:`), or its port (`:8443`).
    pub fn is_called(&self, word: &str) -> bool {
        self.name.as_deref() == Some(word) || self.local.is_called(word)
    }
}

/// Envoy's connections at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connections {
    /// Where the figures come from.
    pub by: Witness,
    /// How Envoy's sockets were told from others.
    pub whose: Ownership,
    /// In one line, why it is not from [`Witness::Netlink`] by [`Ownership::Inode`]; none if it is.
    pub why: Option<String>,
    /// The listeners, sorted by address, the admin's apart. Those of a name are several where it
    /// has additional addresses.
    pub listeners: Vec<Listener>,
    /// Clients' connections that belong to no listener that is known.
    pub elsewhere: Vec<Connection>,
    /// Whether a listener takes connections to any address (`transparent` in Envoy's configuration),
    /// so that some may look like outgoing ones, and are in none of these.
    pub is_transparent: bool,
    /// How many connections Envoy is done with, and the kernel not yet: they count nowhere.
    pub closing: u64,
    /// The addresses of UDP listeners, sorted. Each may have any number of sessions.
    pub udp: Vec<Listener>,
    /// How many among these Envoy does not list, at ports that the kernel chooses: it may but send from
    /// there, as to a statsd.
    pub senders: u64,
}

impl Connections {
    /// How many connections clients have, accepted or not.
    pub fn count(&self) -> u64 {
        self.listeners
            .iter()
            .map(Listener::count)
            .fold(self.elsewhere.len() as u64, u64::saturating_add)
    }

    /// Each connection that has a socket of its own in the kernel's table.
    pub fn iter(&self) -> impl Iterator<Item = &Connection> {
        self.listeners
            .iter()
            .flat_map(|listener| &listener.connections)
            .chain(&self.elsewhere)
    }

    /// What follows from where this comes, and how Envoy's sockets were told from others.
    pub fn means(&self) -> &'static str {
        match (self.by, self.whose) {
            (Witness::Netlink, Ownership::Inode) => "nothing is missing",
            (Witness::Proc, Ownership::Inode) => {
                "they are counted from /proc, and none is known to be silent"
            }
            (Witness::Netlink, Ownership::Address) => {
                "those of another process at the same addresses count, too"
            }
            (Witness::Proc, Ownership::Address) => {
                "they are counted from /proc, those of another process at the same addresses too, \
                 and none is known to be silent"
            }
        }
    }

    /// Takes no more account of what the kernel still sends.
    pub fn forget_unacknowledged(&mut self) {
        for listener in &mut self.listeners {
            listener.closed.clear();
            for one in &mut listener.connections {
                one.unacknowledged = 0;
            }
        }
    }

    /// How many connections wait in the accept queues.
    pub fn waiting(&self) -> u64 {
        let queued = self.listeners.iter().map(|listener| listener.queued);
        queued.fold(
            self.iter().filter(|one| !one.accepted).count() as u64,
            u64::saturating_add,
        )
    }
}

#[cfg(test)]
mod tests;
