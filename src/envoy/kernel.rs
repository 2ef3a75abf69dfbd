//! The kernel's word on what is in flight: beside Envoy's own, and alone where Envoy does not
//! answer.
//!
//! Whether a request is in flight on a connection cannot be known, so each counts as one.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use super::load::{self, Client, ListenerLoad, Load, OldOpen, QUIET, Sight, Unsent};
use super::roll_call::RollCall;
use crate::client::Address;
use crate::connections::ledger::Ledger;
use crate::connections::{self, Connections, Local, Lookout, Ownership, names};

/// The time for a look that somebody waits for, and that may fail.
const MOMENT: Duration = Duration::from_millis(200);

/// Where so few connections are left, each may be the last one of a drain.
pub const FEW: u64 = 100;

/// The most clients that a load names.
pub const CLIENTS: usize = 10;

/// What an Envoy was seen with: when it has stopped accepting, the connections of its listeners are
/// still theirs.
#[derive(Debug, Default)]
pub struct KernelMemory {
    lookout: Option<(i32, Lookout, Ledger)>,
    /// When the names were told that the lookout has.
    named: Option<Instant>,
    /// What the log has said of why the kernel does not tell all that it could.
    why: Option<String>,
}

impl KernelMemory {
    /// Whether the Envoy with this pid was seen last.
    pub fn is_of(&self, pid: i32) -> bool {
        self.lookout.as_ref().is_some_and(|(of, ..)| *of == pid)
    }

    /// The addresses of the listeners that count, of the Envoy with this pid.
    ///
    /// # Errors
    /// One line, when not all can be seen.
    pub fn doors(
        &mut self,
        pid: i32,
        admin: Option<&Address>,
        excluded: &[String],
    ) -> Result<Vec<SocketAddr>, String> {
        self.of(pid, None).0.doors(admin, excluded)
    }

    /// The lookout for the Envoy with this pid, with the names that it told last, and what it saw.
    fn of(&mut self, pid: i32, roll: Option<&RollCall>) -> (&mut Lookout, &mut Ledger) {
        if self.lookout.take_if(|(of, ..)| *of != pid).is_some() {
            self.named = None;
        }
        let anew = || (pid, Lookout::new(pid), Ledger::new(Instant::now()));
        let (_, lookout, ledger) = self.lookout.get_or_insert_with(anew);
        if let Some(roll) = roll
            && self.named != roll.called
        {
            self.named = roll.called;
            lookout.set_names(roll.listed.titles.all().to_vec());
        }
        (lookout, ledger)
    }
}

/// What counts, and when a connection is silent.
#[derive(Clone, Copy, Debug)]
pub struct Measure<'a> {
    /// Listeners that do not count (`--exclude-listener`).
    pub excluded: &'a [String],
    /// A connection is silent on which nothing was received or sent for this long (`--settle`).
    pub settle: Duration,
}

/// What the kernel sees of an Envoy.
#[derive(Debug)]
pub struct Seen {
    /// The connections by listener, each with something in flight for all that is known. Each UDP
    /// listener counts as one session, since it may have any number.
    pub load: Load,
    /// Connections that belong to no listener that is known: of a transparent one, or of one that
    /// is gone, or Envoy's own to others.
    pub elsewhere: u64,
    /// Whether Envoy accepts connections, or reads UDP, for all that is known.
    pub accepts: bool,
    /// Whether Envoy has a listener or a client's connection, or was seen to have a listener.
    pub has_any: bool,
    /// The addresses of the listeners that count and have connections, or the end of an answer to
    /// send, sorted, where they are [`FEW`] at the most.
    pub doors: Vec<SocketAddr>,
    /// The addresses of all listeners that count, sorted.
    pub all_doors: Vec<SocketAddr>,
    /// How many sockets the kernel has of their connections, those apart that it is about to forget.
    pub sockets: u64,
    /// The addresses of the listeners that count, if nothing went over any connection for [`QUIET`]
    /// and the kernel's table has all there are.
    pub quiet: Option<Vec<SocketAddr>>,
    /// Whether these are this Envoy's own connections; if not, all that are at its addresses.
    pub is_apart: bool,
    /// How many of the UDP listeners that count have no name in Envoy's statistics for all that is
    /// known, and how many of all may be none: Envoy does not list them.
    pub untold_udp: u64,
    pub senders: u64,
    /// Whether each name of an excluded listener could be told to mean a listener here.
    pub knows_excluded: bool,
}

impl Seen {
    /// How many connections there may be in all; none where that is not known, because a UDP listener
    /// has any number of sessions.
    pub fn all_connections(&self) -> Option<u64> {
        let open = self.load.connections().saturating_add(self.elsewhere);
        (self.load.udp_sessions == 0).then_some(open)
    }

    /// How many TCP connections there may be, whether they count or not.
    pub fn tcp(&self) -> u64 {
        let listeners = self.load.listeners.iter();
        let connections = listeners.map(|listener| listener.connections);
        connections.fold(self.elsewhere, u64::saturating_add)
    }

    /// How many connections on `excluded` listeners, of which Envoy tells of so many, may be among those
    /// that count here.
    pub fn miscounted(&self, excluded: u64) -> u64 {
        match self.knows_excluded {
            true => 0,
            false => excluded.saturating_sub(self.load.excluded()),
        }
    }

    /// Whether there are UDP listeners that tell Envoy's statistics nothing, by this roll call. Where
    /// Envoy `lists` all of its listeners, those that it does not list are none.
    pub fn has_hidden_udp(&self, roll: Option<&RollCall>, lists: bool) -> bool {
        let senders = if lists { self.senders } else { 0 };
        let untold = match roll {
            Some(roll) => self.untold_udp.saturating_sub(roll.udp_elsewhere()),
            None => self.load.udp_sessions,
        };
        untold > senders
    }

    /// Adds where the connections of an old generation are, which was looked at as well.
    pub fn add_doors(&mut self, old: &Seen) {
        let (newest, old_ones) = (self.load.connections(), old.load.connections());
        // Those that it has closed are counted already: nobody tells whose they were. So are all, where
        // the kernel does not tell whose any are.
        if old.is_apart {
            self.sockets = self.sockets.saturating_add(old_ones);
        }
        for (doors, more) in [
            (&mut self.doors, &old.doors),
            (&mut self.all_doors, &old.all_doors),
        ] {
            doors.extend(more);
            doors.sort_unstable();
            doors.dedup();
        }
        if newest.saturating_add(old_ones) > FEW {
            self.doors.clear();
        }
    }

    /// What is open on an old generation, which was looked at.
    pub fn old_open(&self) -> OldOpen {
        OldOpen {
            clients: self.load.connections(),
            is_exact: self.is_apart && self.knows_excluded && self.elsewhere == 0,
            is_all: self.elsewhere == 0 && self.load.udp_sessions == 0,
            ends: false,
        }
    }

    /// Whether nothing is to be expected of Envoy any more. A drain that `winds_down` has the listeners
    /// closed, and counts their connections until they have ended; otherwise an Envoy without a
    /// listening socket is of no use.
    pub fn is_closed(&self, winds_down: bool) -> bool {
        if winds_down {
            !self.has_any
        } else {
            !self.accepts
        }
    }

    /// The load where nobody else tells: what belongs to no known listener may be a client's, too.
    pub fn alone(mut self) -> Load {
        if self.elsewhere > 0 {
            self.load.listeners.push(ListenerLoad {
                name: "elsewhere".into(),
                address: None,
                connections: self.elsewhere,
                excluded: false,
            });
            self.load.tcp_sessions = self.load.connections();
        }
        self.load
    }
}

/// Looks at the sockets of the Envoy with this pid. What is open at its `admin` interface does not
/// count. Where a listener is closed and was never seen, and its port is one of outgoing connections,
/// its connections are not told from those.
///
/// # Errors
/// One line, when not all can be seen: then nothing is known, least of all zero.
pub fn look(
    pid: i32,
    admin: Option<&Address>,
    measure: Measure<'_>,
    roll: Option<&RollCall>,
    known: &mut KernelMemory,
) -> Result<Seen, String> {
    let (lookout, ledger) = known.of(pid, roll);
    let mut connections = lookout.look(admin)?;
    if network_outlives(std::process::id()) {
        connections.forget_unacknowledged();
    }
    let now = Instant::now();
    let seen = see(&connections, measure, roll, (ledger, now));
    ledger.note(&connections, now);
    let why = connections.why.take();
    if let Some(why) = why.as_ref().filter(|_| why != known.why) {
        log::info!(
            "the kernel does not tell all of envoy's connections: {why}; {}",
            connections.means()
        );
    }
    known.why = why;
    Ok(seen)
}

/// Whether the Envoy with this pid has a UDP listener, as far as can be seen in a moment.
pub fn has_udp_listener(pid: i32) -> bool {
    connections::has_udp_listener(pid, MOMENT)
}

/// Whether the network outlives the process with this pid, which is drainit's. The kernel's first
/// network alone has these settings: it is the host's, or that of a container's virtual machine, which
/// ends with the container. There drainit is pid 1, as it may be in a container on a host's network.
fn network_outlives(pid: u32) -> bool {
    pid != 1 && Path::new("/proc/sys/net/core/netdev_max_backlog").exists()
}

/// A listener's name as Envoy's statistics have it, unless it has a stat prefix.
fn scope(listener: &connections::Listener) -> String {
    listener.local.to_string().replace(':', "_")
}

fn address(listener: &connections::Listener) -> Option<SocketAddr> {
    match listener.local {
        Local::Ip(address) => Some(address),
        Local::Unix(_) => None,
    }
}

/// The clients of a listener that were heard of last; where it has no connection, those that take the
/// end of an answer.
fn heard_last(
    listener: &connections::Listener,
    patience: Duration,
    (ledger, now): (&Ledger, Instant),
) -> Vec<Client> {
    let mut last: Vec<(_, SocketAddr, _)> = Vec::new();
    let open = listener.connections.iter();
    let is_open = listener.count() > 0;
    for one in open.chain(listener.sending(patience).filter(|_| !is_open)) {
        let Some(peer) = one.peer else { continue };
        let client = (one.activity.map(|activity| activity.silence()), peer);
        let place = last.partition_point(|known| (known.0, known.1) < client);
        if place < CLIENTS {
            last.truncate(CLIENTS - 1);
            last.insert(place, (client.0, peer, one));
        }
    }
    let name = listener.title();
    let client = |(silent, address, one): (_, _, &_)| Client {
        listener: name.clone(),
        address,
        is_closed: !is_open,
        silent,
        age: ledger.age(one, now),
        rate: ledger.rate(one, now),
    };
    last.into_iter().map(client).collect()
}

fn see(
    connections: &Connections,
    measure: Measure<'_>,
    roll: Option<&RollCall>,
    before: (&Ledger, Instant),
) -> Seen {
    let here = || connections.listeners.iter().chain(&connections.udp);
    let (odd, knows_excluded) = odd_one_out(here, measure.excluded, roll);
    let listed = roll.map_or(&[][..], |roll| roll.listed.titles.all());
    let is_out = |listener: &connections::Listener| {
        let mut words = measure.excluded.iter();
        words.any(|word| listener.is_called(word))
            && names::are_meant(listed, &listener.local, measure.excluded)
            || odd.as_deref() == Some(&scope(listener))
    };
    let (mut awake, mut unsent) = (0_u64, Unsent::default());
    let patience = load::patience(measure.settle);
    let mut quiet = Some(Vec::new());
    let (mut clients, mut doors, mut all_doors) = (Vec::new(), Vec::new(), Vec::new());
    let listeners = merge(&connections.listeners, is_out, |listener| {
        awake = awake.saturating_add(listener.awake(measure.settle));
        let [open, closed, gone] = listener.unsent(patience);
        unsent.open = unsent.open.saturating_add(open);
        unsent.closed = unsent.closed.saturating_add(closed);
        unsent.gone = unsent.gone.saturating_add(gone);
        clients.extend(heard_last(listener, patience, before));
        let door = address(listener).filter(|_| listener.awake(QUIET) == 0);
        quiet = quiet.take().zip(door).map(|(mut quiet, door)| {
            quiet.push(door);
            quiet
        });
        all_doors.extend(address(listener));
        let is_left = listener.count() > 0 || closed > 0;
        doors.extend(address(listener).filter(|_| is_left));
    });
    doors.sort_unstable();
    all_doors.sort_unstable();
    clients.sort_unstable_by_key(|client: &Client| (client.silent, client.address));
    clients.truncate(CLIENTS);
    let tcp = &connections.listeners;
    let reaches_out = roll.is_some_and(|roll| roll.listed.reaches_out);
    // An Envoy that has been told to drain closes its TCP listeners, and keeps its UDP sockets.
    let accepts = reaches_out
        || tcp.iter().any(|listener| listener.listening)
        || tcp.is_empty() && !connections.udp.is_empty();
    let has_any = accepts
        || !tcp.is_empty()
        || !connections.udp.is_empty()
        || !connections.elsewhere.is_empty();
    let mut untold_udp = Vec::new();
    let tells = |one: &connections::Listener| roll.is_some_and(|roll| roll.tells_udp(&one.local));
    let udp = merge(&connections.udp, is_out, |one| {
        untold_udp.extend((!tells(one)).then(|| one.title()));
    });
    untold_udp.dedup();
    let udp = udp.iter().filter(|listener| !listener.excluded);
    let mut load = Load {
        listeners,
        udp_sessions: udp.count() as u64,
        awake: Some(awake),
        sends_logs: roll.is_none_or(RollCall::may_send_logs),
        unsent: Some(unsent),
        hides_arrivals: true,
        clients,
        sight: match connections.is_transparent || reaches_out {
            false => Sight::Kernel,
            true => Sight::Partial,
        },
        ..Load::default()
    };
    load.tcp_sessions = load.connections();
    let sockets = load.tcp_sessions.saturating_add(connections.closing);
    if load.tcp_sessions > FEW {
        doors.clear();
    }
    Seen {
        elsewhere: connections.elsewhere.len() as u64,
        // Of UDP sockets alone nothing follows: an old generation that has been told to drain keeps
        // its own, and does not read them (seen on 1.40.0).
        quiet: quiet.filter(|_| {
            connections.closing == 0 && connections.elsewhere.is_empty() && load.udp_sessions == 0
        }),
        load,
        accepts,
        has_any,
        doors,
        all_doors,
        sockets,
        is_apart: connections.whose == Ownership::Inode,
        untold_udp: untold_udp.len() as u64,
        senders: connections.senders,
        knows_excluded,
    }
}

/// The listeners by what they are called. One that has several addresses is one, and excluded by any
/// of them; one without a name of its own is its address. Those that count are handed to `each`.
fn merge(
    all: &[connections::Listener],
    is_out: impl Fn(&connections::Listener) -> bool,
    mut each: impl FnMut(&connections::Listener),
) -> Vec<ListenerLoad> {
    let mut by_title: Vec<_> = all.iter().map(|one| (one.title(), one)).collect();
    by_title.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    let mut listeners = Vec::new();
    for same in by_title.chunk_by(|(one, _), (other, _)| one == other) {
        let excluded = same.iter().any(|(_, one)| is_out(one));
        if !excluded {
            same.iter().for_each(|(_, one)| each(one));
        }
        let addresses = same.iter().map(|(_, one)| one.local.to_string());
        let addresses: Vec<String> = addresses.collect();
        listeners.extend(same.first().map(|(title, one)| {
            ListenerLoad {
                name: title.clone(),
                address: one.name.is_some().then(|| addresses.join(", ")),
                connections: same
                    .iter()
                    .fold(0, |sum, (_, one)| one.count().saturating_add(sum)),
                excluded,
            }
        }));
    }
    listeners
}

/// A stat prefix is told nowhere beside its listener's address. Where one listener is excluded by a
/// name that means no address, and one listener's address is no name in the statistics, they are
/// the same. Returns that listener's name by its address, and whether every excluded name could be
/// understood.
fn odd_one_out<'a, I: Iterator<Item = &'a connections::Listener>>(
    here: impl Fn() -> I,
    excluded: &[String],
    roll: Option<&RollCall>,
) -> (Option<String>, bool) {
    let Some(roll) = roll else {
        return (None, true);
    };
    let is_odd = |word: &&String| roll.has_scope(word) && !here().any(|one| one.is_called(word));
    let mut odd = excluded.iter().filter(is_odd);
    let Some(word) = odd.next() else {
        return (None, true);
    };
    let mut nameless = here().map(scope).filter(|name| !roll.has_scope(name));
    let found = nameless.next().filter(|_| nameless.next().is_none());
    let is_address = |name: &str| here().any(|one| scope(one) == name);
    let is_it = odd.next().is_none() && roll.odd_scope(is_address) == Some(word);
    let found = found.filter(|_| is_it);
    let knows = found.is_some();
    (found, knows)
}

#[cfg(test)]
#[path = "kernel_tests.rs"]
mod tests;
