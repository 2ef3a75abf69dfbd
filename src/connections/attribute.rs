//! Whose a connection is, and which listener's: decided from the tables' rows, without I/O.

use std::net::SocketAddr;
use std::ops::RangeInclusive;

use super::names::Named;
use super::rows::{AdminSocket, InetRow, Rows, SocketKind, UnixRow};
use super::{Connection, ConnectionState, Connections, Listener, Local, Ownership, Witness};

/// What is known beside the tables' rows.
#[derive(Debug)]
pub struct Known<'a> {
    /// Where the rows come from.
    pub by: Witness,
    /// The inodes of Envoy's sockets, sorted; none where they may not be read.
    pub own: Option<&'a [u64]>,
    /// Listeners that were seen before, and whether by IPv6 sockets: they may have been closed, and
    /// their connections not.
    pub earlier: &'a [(bool, Local)],
    /// What Envoy's admin interface named.
    pub names: &'a [Named],
    /// Where its connections do not count.
    pub admin: Option<&'a AdminSocket>,
    /// The ports that the kernel gives to those who connect.
    pub outgoing: &'a RangeInclusive<u16>,
}

impl Known<'_> {
    /// Whether Envoy has this socket: by its inode, or else by its address.
    fn is_own(&self, inode: u64, local: &Local) -> bool {
        match self.own {
            Some(own) => own.binary_search(&inode).is_ok(),
            None => names_local(self.names, local).is_some(),
        }
    }

    fn is_admins(&self, local: SocketAddr) -> bool {
        self.admin.is_some_and(|admin| admin.has_ip(local))
    }

    fn is_admins_path(&self, name: &str) -> bool {
        self.admin.is_some_and(|admin| admin.has_unix(name))
    }
}

/// A listener while its connections are counted.
struct Slot {
    v6: bool,
    /// Whether a listening socket of another process may take its connections.
    contested: bool,
    /// How many connections of its accept queue are still to be found, where it is contested.
    expected: u64,
    listener: Listener,
}

impl Slot {
    fn new(v6: bool, local: Local, known: &Known) -> Slot {
        let name = names_local(known.names, &local).and_then(|named| named.name.clone());
        Slot {
            v6,
            contested: false,
            expected: 0,
            listener: Listener {
                name,
                local,
                listening: false,
                accept_queue: 0,
                connections: Vec::new(),
                queued: 0,
                closed: Vec::new(),
            },
        }
    }
}

fn names_local<'a>(names: &'a [Named], local: &Local) -> Option<&'a Named> {
    names.iter().find(|named| named.locals.contains(local))
}

/// How well a listener at `listener` fits a connection to `local`, 0 for not at all: the kernel
/// prefers the very address to a wildcard, and an IPv6 wildcard takes IPv4 connections as well.
fn fitness(listener: SocketAddr, listener_v6: bool, local: SocketAddr, v6: bool) -> u8 {
    let exact = listener.ip() == local.ip();
    if listener.port() != local.port() || !exact && !listener.ip().is_unspecified() {
        return 0;
    }
    1 + u8::from(listener_v6 == v6) + 2 * u8::from(exact)
}

/// TCP slots, sorted by port.
struct Slots(Vec<(u16, Slot)>);

impl Slots {
    fn of_port(&mut self, port: u16) -> &mut [(u16, Slot)] {
        let first = self.0.partition_point(|(other, _)| *other < port);
        let length = self
            .0
            .get(first..)
            .map_or(0, |rest| rest.partition_point(|(other, _)| *other == port));
        self.0.get_mut(first..first + length).unwrap_or_default()
    }

    fn at(&mut self, v6: bool, address: SocketAddr, known: &Known) -> Option<&mut Slot> {
        let local = Local::Ip(address);
        let port = address.port();
        let first = self.0.partition_point(|(other, _)| *other < port);
        let is_it = |(_, slot): &(u16, Slot)| slot.v6 == v6 && slot.listener.local == local;
        let place = match self.of_port(port).iter().position(is_it) {
            Some(nth) => first + nth,
            None => {
                self.0.insert(first, (port, Slot::new(v6, local, known)));
                first
            }
        };
        self.0.get_mut(place).map(|(_, slot)| slot)
    }

    fn best(&mut self, row: &InetRow) -> Option<&mut Slot> {
        let fitness = |slot: &Slot| match slot.listener.local {
            Local::Ip(address) => fitness(address, slot.v6, row.local, row.v6),
            Local::Unix(_) => 0,
        };
        self.of_port(row.local.port())
            .iter_mut()
            .map(|(_, slot)| (fitness(slot), slot))
            .filter(|(fitness, _)| *fitness > 0)
            .max_by_key(|(fitness, _)| *fitness)
            .map(|(_, slot)| slot)
    }
}

/// Counts the rows by listener.
///
/// A connection with an inode is Envoy's if the inode is one of Envoy's: the descriptors must have
/// been read after the rows. One without an inode waits in the accept queue of whoever listens; where
/// another process listens at the same address too (`reuse_port` in a host's network), as many of
/// them count as wait at Envoy's own listening sockets, though not necessarily the same.
pub fn attribute(rows: &Rows, known: &Known) -> Connections {
    let mut slots = Slots(Vec::new());
    for row in rows
        .tcp
        .iter()
        .filter(|row| row.kind == SocketKind::Listening)
    {
        let local = Local::Ip(row.local);
        if known.is_own(row.inode, &local)
            && !known.is_admins(row.local)
            && let Some(slot) = slots.at(row.v6, row.local, known)
        {
            // Each worker may have a socket of its own.
            let waiting = u64::from(row.unread);
            slot.expected = slot.expected.saturating_add(waiting);
            slot.listener.listening = true;
            slot.listener.accept_queue = slot.expected;
        }
    }
    let named = known.names.iter().flat_map(|named| &named.locals);
    let named = named.filter_map(|local| match local {
        Local::Ip(address) => Some((address.is_ipv6(), *address)),
        Local::Unix(_) => None,
    });
    let earlier = known.earlier.iter().filter_map(|(v6, local)| match local {
        Local::Ip(address) => Some((*v6, *address)),
        Local::Unix(_) => None,
    });
    for (v6, address) in earlier.chain(named) {
        // An address that is not mapped tells no family by itself.
        let is_there = slots
            .of_port(address.port())
            .iter()
            .any(|(_, slot)| slot.listener.local == Local::Ip(address));
        if !is_there && !known.is_admins(address) {
            let _ = slots.at(v6, address, known);
        }
    }
    // Those of others are few, and connections may be many.
    let foreign = rows.tcp.iter().filter(|row| {
        row.kind == SocketKind::Listening && !known.is_own(row.inode, &Local::Ip(row.local))
    });
    let foreign: Vec<&InetRow> = foreign.collect();
    for row in foreign.iter().filter(|_| known.own.is_some()) {
        for (_, slot) in slots.of_port(row.local.port()) {
            if let Local::Ip(address) = slot.listener.local {
                slot.contested |= address.ip() == row.local.ip()
                    || address.ip().is_unspecified()
                    || row.local.ip().is_unspecified();
            }
        }
    }
    let may_be_anothers = |row: &InetRow| {
        let mut foreign = foreign.iter();
        foreign.any(|other| fitness(other.local, other.v6, row.local, row.v6) > 0)
    };
    let (mut elsewhere, mut closing) = (Vec::new(), 0);
    for row in &rows.tcp {
        if row.kind == SocketKind::Open(ConnectionState::EnvoyClosed) && row.inode == 0 {
            // The kernel alone is left: it needs no Envoy to send the rest, but the network.
            if let Some(slot) = slots.best(row).filter(|_| !known.is_admins(row.local)) {
                closing += 1;
                // The end of the stream counts as a byte. Whose they were is not told any more.
                let unacknowledged = row.unacknowledged.saturating_sub(1);
                if unacknowledged > 0 && !may_be_anothers(row) {
                    let one = connection(row, ConnectionState::EnvoyClosed);
                    slot.listener.closed.push(Connection {
                        unacknowledged,
                        ..one
                    });
                }
            }
        } else {
            take(row, &mut slots, &mut elsewhere, known);
        }
    }
    let tcp = slots.0.into_iter().map(|(_, slot)| slot.listener);
    let mut listeners: Vec<Listener> = tcp.chain(unix(&rows.unix, known)).collect();
    let udp = udp(&rows.udp, known);
    let may_send = |one: &&Listener| {
        let is_outgoing = |local: &Local| match local {
            Local::Ip(address) => known.outgoing.contains(&address.port()),
            Local::Unix(_) => false,
        };
        let is_listed = names_local(known.names, &one.local).is_some();
        !known.names.is_empty() && !is_listed && is_outgoing(&one.local)
    };
    let senders = udp.iter().filter(may_send).count() as u64;
    // Envoy does not tell a UDP listener's address from a TCP listener's.
    listeners.retain(|one| {
        let is_used = one.listening || one.count() > 0 || !one.closed.is_empty();
        is_used || !udp.iter().any(|other| other.local == one.local)
    });
    listeners.sort_unstable_by(|a, b| a.local.cmp(&b.local));
    Connections {
        by: known.by,
        whose: match known.own {
            Some(_) => Ownership::Inode,
            None => Ownership::Address,
        },
        why: None,
        listeners,
        elsewhere,
        is_transparent: false,
        closing,
        udp,
        senders,
    }
}

fn connection(row: &InetRow, state: ConnectionState) -> Connection {
    Connection {
        peer: Some(row.peer),
        state,
        accepted: row.inode != 0,
        inode: row.inode,
        unread: row.unread,
        unacknowledged: row.unacknowledged,
        activity: row.activity,
    }
}

fn take(row: &InetRow, slots: &mut Slots, elsewhere: &mut Vec<Connection>, known: &Known) {
    let SocketKind::Open(state) = row.kind else {
        return;
    };
    let accepted = row.inode != 0;
    if known.is_admins(row.local) {
        return;
    }
    let connection = connection(row, state);
    let is_own = known
        .own
        .is_none_or(|own| own.binary_search(&row.inode).is_ok());
    if let Some(slot) = slots.best(row) {
        let counts = match (accepted, slot.contested) {
            (true, _) => is_own,
            (false, false) => true,
            (false, true) => {
                let counts = slot.expected > 0;
                slot.expected = slot.expected.saturating_sub(1);
                counts
            }
        };
        if counts {
            slot.listener.connections.push(connection);
        }
    } else if known.own.is_some() && is_own && !known.outgoing.contains(&row.local.port()) {
        elsewhere.push(connection);
    }
}

fn unix(rows: &[UnixRow], known: &Known) -> Vec<Listener> {
    let mut listeners: Vec<Listener> = Vec::new();
    for row in rows.iter().filter(|row| row.listening) {
        let local = Local::Unix(row.name.clone());
        if !known.is_own(row.inode, &local) || known.is_admins_path(&row.name) {
            continue;
        }
        let place = listeners.iter().position(|one| one.local == local);
        let place = place.unwrap_or_else(|| {
            listeners.push(Slot::new(false, local, known).listener);
            listeners.len() - 1
        });
        if let Some(listener) = listeners.get_mut(place) {
            let waiting = u64::from(row.waiting);
            listener.listening = true;
            listener.accept_queue = listener.accept_queue.saturating_add(waiting);
        }
    }
    let named = known.names.iter().flat_map(|named| &named.locals);
    for local in known.earlier.iter().map(|(_, local)| local).chain(named) {
        if let Local::Unix(name) = local
            && !known.is_admins_path(name)
            && !listeners.iter().any(|one| one.local == *local)
        {
            listeners.push(Slot::new(false, local.clone(), known).listener);
        }
    }
    for row in rows.iter().filter(|row| !row.listening) {
        let is_it =
            |one: &&mut Listener| matches!(&one.local, Local::Unix(name) if *name == row.name);
        let accepted = row.inode != 0;
        let is_own = known
            .own
            .is_none_or(|own| own.binary_search(&row.inode).is_ok());
        if let Some(listener) = listeners.iter_mut().find(is_it)
            && (is_own || !accepted)
        {
            listener.connections.push(Connection {
                peer: None,
                state: ConnectionState::Established,
                accepted,
                inode: row.inode,
                unread: 0,
                unacknowledged: 0,
                activity: None,
            });
        }
    }
    for listener in &mut listeners {
        let shown = listener.connections.iter().filter(|one| !one.accepted);
        let shown = shown.count() as u64;
        listener.queued = listener.accept_queue.saturating_sub(shown);
        listener.accept_queue = listener.accept_queue.max(shown);
    }
    listeners
}

fn udp(rows: &[InetRow], known: &Known) -> Vec<Listener> {
    let mut listeners: Vec<Listener> = Vec::new();
    for row in rows {
        let local = Local::Ip(row.local);
        if known.is_own(row.inode, &local) && !listeners.iter().any(|one| one.local == local) {
            let mut listener = Slot::new(row.v6, local, known).listener;
            listener.listening = true;
            listeners.push(listener);
        }
    }
    listeners.sort_unstable_by(|a, b| a.local.cmp(&b.local));
    listeners
}
