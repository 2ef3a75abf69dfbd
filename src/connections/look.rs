//! Looks at the kernel's tables and at Envoy's descriptors: all the I/O of a snapshot.

use std::fs;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use super::attribute::{Known, attribute};
use super::descriptors::{self, Descriptors, Unreadable};
use super::names::{self, Named};
use super::rows::{AdminSocket, InetRow, Rows, SocketKind};
use super::source::RowSource;
use super::{Connections, Local};
use crate::client::Address;

/// How long all of a look may take. Of 10,000 connections it takes 15 ms of a slow virtual
/// machine's processor, the first look 60 ms; 100 ms from /proc.
const TIME: Duration = Duration::from_secs(5);

/// The ports of outgoing connections, where the kernel does not tell.
const OUTGOING: RangeInclusive<u16> = 32_768..=60_999;

/// Listeners that are remembered, at the most.
const REMEMBERED: usize = 10_000;

/// Looks at the connections of one Envoy, and remembers between two looks what spares work: whose
/// the sockets were, and which listeners there were. Its own memory is a few bytes for each of
/// Envoy's descriptors; nothing else is kept.
///
/// Generations of a hot restart have one each.
#[derive(Debug)]
pub struct Lookout {
    pid: i32,
    descriptors: Descriptors,
    earlier: Vec<(bool, Local)>,
    names: Vec<Named>,
    /// Whether a listener was seen that takes connections to any address.
    is_transparent: bool,
}

impl Lookout {
    /// A lookout for the Envoy with this pid. Nothing is read yet.
    pub fn new(pid: i32) -> Lookout {
        Lookout {
            pid,
            descriptors: Descriptors::new(pid),
            earlier: Vec::new(),
            names: Vec::new(),
            is_transparent: false,
        }
    }

    /// The names that Envoy's admin interface told, for the next looks. Those of listeners that
    /// it does not tell any more are kept: their connections may not be gone.
    pub fn set_names(&mut self, names: Vec<Named>) {
        let mut told: Vec<&Local> = names.iter().flat_map(|named| &named.locals).collect();
        told.sort_unstable();
        let is_told = |old: &Named| {
            let mut locals = old.locals.iter();
            locals.any(|local| told.binary_search(&local).is_ok())
        };
        self.names.retain(|old| !is_told(old));
        self.names.extend(names);
        self.names.truncate(REMEMBERED);
    }

    /// The addresses of Envoy's TCP listeners, its `admin` interface's and those apart that a word in
    /// `excluded` means. It looks at no connection, and remembers the listeners: they may be closed
    /// before the next look.
    ///
    /// # Errors
    /// One line, when not all can be seen.
    pub fn doors(
        &mut self,
        admin: Option<&Address>,
        excluded: &[String],
    ) -> Result<Vec<SocketAddr>, String> {
        let until = Instant::now() + TIME;
        let rows = RowSource::new(self.pid, until).listeners()?;
        let listening = listening_inodes(&rows);
        if let Some(why) = self.find_owner(&listening, &listening, until)? {
            return Err(why);
        }
        self.descriptors.forget_other_listeners(&listening);
        let admin = self.place(admin);
        let own = |inode| self.descriptors.own().binary_search(&inode).is_ok();
        let tcp = rows.tcp.iter().filter(|row| {
            row.kind == SocketKind::Listening
                && own(row.inode)
                && !admin.as_ref().is_some_and(|admin| admin.has_ip(row.local))
        });
        let tcp: Vec<Local> = tcp.map(|row| Local::Ip(row.local)).collect();
        let unix = rows.unix.iter().filter(|row| {
            row.listening
                && own(row.inode)
                && !admin
                    .as_ref()
                    .is_some_and(|admin| admin.has_unix(&row.name))
        });
        let unix: Vec<Local> = unix.map(|row| Local::Unix(row.name.clone())).collect();
        self.remember(tcp.iter().chain(&unix), &rows);
        let is_out = |local: &Local| {
            let is_named = self.names.iter().any(|one| one.locals.contains(local));
            let is_known = is_named || excluded.iter().any(|word| local.is_called(word));
            is_known && names::are_meant(&self.names, local, excluded)
        };
        let counts = tcp.iter().filter(|local| !is_out(local));
        let doors = counts.filter_map(|local| match local {
            Local::Ip(address) => Some(*address),
            Local::Unix(_) => None,
        });
        Ok(doors.collect())
    }

    /// Looks at all that the Envoy has open. Connections to its `admin` interface do not count.
    ///
    /// # Errors
    /// One line, when not all can be seen: then nothing is known, least of all zero.
    pub fn look(&mut self, admin: Option<&Address>) -> Result<Connections, String> {
        self.look_by(admin, |_| {})
    }

    /// Looks, with the source prepared.
    fn look_by(
        &mut self,
        admin: Option<&Address>,
        prepare: impl FnOnce(&mut RowSource),
    ) -> Result<Connections, String> {
        let unknown = |why| format!("envoy's connections are not known: {why}");
        let until = Instant::now() + TIME;
        let outgoing = outgoing_ports();
        let admin = self.place(admin);
        let mut source = RowSource::new(self.pid, until);
        prepare(&mut source);

        // To look for a socket that Envoy has not in 10,000 descriptors takes longer than all the rest,
        // and whoever asks for the figures has a new one each time.
        let mut ours = descriptors::ours();
        if self.pid.unsigned_abs() == std::process::id() {
            ours.clear();
        }
        let is_other = |inode: &u64| ours.binary_search(inode).is_err();

        let mut rows = source.listeners().map_err(unknown)?;
        let mut listening = listening_inodes(&rows);
        listening.retain(is_other);
        let denied = self.find_owner(&listening, &listening, until);
        let denied = denied.map_err(unknown)?;
        let ports = self.ports(&rows, &outgoing, denied.is_some());
        let own = |inode| denied.is_some() || self.descriptors.own().binary_search(&inode).is_ok();
        let is_transparent = source.transparent.iter().any(|inode| own(*inode));
        let paths: Vec<String> = self.paths(&rows, own);
        self.is_transparent |= is_transparent;
        rows.unix
            .retain(|row| row.listening || paths.contains(&row.name));

        source.connections(&ports, &mut rows).map_err(unknown)?;
        let denied = match denied {
            None => {
                if let Some(admin) = &admin {
                    // They do not count, and each poll's is new.
                    rows.tcp.retain(|row| {
                        row.kind == SocketKind::Listening || !admin.has_ip(row.local)
                    });
                    rows.unix
                        .retain(|row| row.listening || !admin.has_unix(&row.name));
                }
                let mut seen = inodes(&rows);
                seen.retain(is_other);
                let denied = self.find_owner(&seen, &[], until).map_err(unknown)?;
                self.descriptors.forget_others(&seen);
                denied
            }
            denied => denied,
        };
        let connections = attribute(
            &rows,
            &Known {
                by: source.by(),
                own: denied.is_none().then(|| self.descriptors.own()),
                earlier: &self.earlier,
                names: &self.names,
                admin: admin.as_ref(),
                outgoing: &outgoing,
            },
        );
        let listening = connections.listeners.iter().filter(|one| one.listening);
        self.remember(listening.map(|one| &one.local), &rows);
        let why = [source.socket.err(), denied].into_iter().flatten();
        let why = why.collect::<Vec<_>>().join("; ");
        Ok(Connections {
            why: (!why.is_empty()).then_some(why),
            is_transparent: self.is_transparent,
            ..connections
        })
    }

    /// Where the admin interface's connections are.
    fn place(&self, admin: Option<&Address>) -> Option<AdminSocket> {
        let directory = || fs::read_link(format!("/proc/{}/cwd", self.pid)).ok();
        match admin? {
            admin @ Address::Unix(_) => AdminSocket::new(admin, directory().as_deref()),
            admin => AdminSocket::new(admin, None),
        }
    }

    /// Finds out which of the sockets are Envoy's, or why that cannot be told.
    ///
    /// # Errors
    /// One line, where not even the listeners' addresses help.
    fn find_owner(
        &mut self,
        seen: &[u64],
        anew: &[u64],
        until: Instant,
    ) -> Result<Option<String>, String> {
        match self.descriptors.update(seen, anew, until) {
            Ok(()) => Ok(None),
            Err(Unreadable::Denied(why)) if !self.names.is_empty() => Ok(Some(why)),
            Err(Unreadable::Denied(why) | Unreadable::Failed(why)) => Err(why),
        }
    }

    /// The local ports that a client's connection may have.
    fn ports(
        &self,
        rows: &Rows,
        outgoing: &RangeInclusive<u16>,
        denied: bool,
    ) -> Vec<RangeInclusive<u16>> {
        let own = |row: &&InetRow| self.descriptors.own().binary_search(&row.inode).is_ok();
        let listening = rows.tcp.iter().filter(|row| !denied && own(row));
        let listening = listening.map(|row| row.local.port());
        let named = self.names.iter().flat_map(|named| &named.locals);
        let earlier = self.earlier.iter().map(|(_, local)| local);
        let known = named.chain(earlier).filter_map(|local| match local {
            Local::Ip(address) => Some(address.port()),
            Local::Unix(_) => None,
        });
        let is_outgoing = |port: &u16| denied || outgoing.contains(port);
        let mut ports: Vec<u16> = listening.chain(known).filter(is_outgoing).collect();
        ports.sort_unstable();
        ports.dedup();
        let mut ports: Vec<_> = ports.into_iter().map(|port| port..=port).collect();
        if !denied {
            ports.extend(outgoing.start().checked_sub(1).map(|last| 0..=last));
            ports.extend(outgoing.end().checked_add(1).map(|first| first..=u16::MAX));
        }
        ports
    }

    /// The paths of Envoy's unix listeners.
    fn paths(&self, rows: &Rows, own: impl Fn(u64) -> bool) -> Vec<String> {
        let listening = rows.unix.iter().filter(|row| row.listening);
        let listening = listening
            .filter(|row| own(row.inode))
            .map(|row| row.name.clone());
        let named = self.names.iter().flat_map(|named| &named.locals);
        let earlier = self.earlier.iter().map(|(_, local)| local);
        let known = named.chain(earlier).filter_map(|local| match local {
            Local::Unix(path) => Some(path.clone()),
            Local::Ip(_) => None,
        });
        listening.chain(known).collect()
    }

    fn remember<'a>(&mut self, listening: impl Iterator<Item = &'a Local>, rows: &Rows) {
        for listener in listening {
            let is_known = self.earlier.iter().any(|(_, local)| local == listener);
            if is_known || self.earlier.len() >= REMEMBERED {
                continue;
            }
            let is_v6 = rows.tcp.iter().any(|row| {
                row.kind == SocketKind::Listening && row.v6 && Local::Ip(row.local) == *listener
            });
            self.earlier.push((is_v6, listener.clone()));
        }
    }
}

/// Whether the Envoy with this pid has a UDP listener, as far as can be seen in this time.
pub fn has_udp_listener(pid: i32, time: Duration) -> bool {
    let until = Instant::now() + time;
    let Ok(rows) = RowSource::new(pid, until).listeners() else {
        return false;
    };
    let seen = inodes(&Rows {
        udp: rows.udp,
        ..Rows::default()
    });
    let mut descriptors = Descriptors::new(pid);
    let own = |inode: &u64, all: &[u64]| all.binary_search(inode).is_ok();
    descriptors.update(&seen, &[], until).is_ok()
        && seen.iter().any(|inode| own(inode, descriptors.own()))
}

/// The inodes of all rows, sorted.
fn inodes(rows: &Rows) -> Vec<u64> {
    let inet = rows.tcp.iter().chain(&rows.udp).map(|row| row.inode);
    let unix = rows.unix.iter().map(|row| row.inode);
    sorted(inet.chain(unix))
}

/// The inodes of the rows that listen, sorted: each unix connection of the machine's that is new
/// would have all of Envoy's descriptors read again.
fn listening_inodes(rows: &Rows) -> Vec<u64> {
    let inet = rows.tcp.iter().chain(&rows.udp);
    let inet = inet.filter(|row| row.kind == SocketKind::Listening);
    let unix = rows.unix.iter().filter(|row| row.listening);
    let inet = inet.map(|row| row.inode);
    sorted(inet.chain(unix.map(|row| row.inode)))
}

fn sorted(inodes: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut inodes: Vec<u64> = inodes.filter(|inode| *inode != 0).collect();
    inodes.sort_unstable();
    inodes.dedup();
    inodes
}

fn outgoing_ports() -> RangeInclusive<u16> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut words = text.split_whitespace().map(str::parse);
    match (words.next(), words.next()) {
        (Some(Ok(first)), Some(Ok(last))) => first..=last,
        _ => OUTGOING,
    }
}

#[cfg(test)]
#[path = "look_tests.rs"]
mod tests;
