//! What is open on Envoy at one moment, and how far that can be trusted.

use std::net::SocketAddr;
use std::time::Duration;

/// Who sent nothing for so long is not expected to (`--min-drain auto`).
pub const QUIET: Duration = Duration::from_secs(10);

/// The connections of one listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListenerLoad {
    /// The listener's own name, or else its address; its name in Envoy's statistics where neither
    /// is known.
    pub name: String,
    /// The listener's addresses, where they are known and not its name.
    pub address: Option<String>,
    /// Connections open on the listener: HTTP, TCP, TLS passthrough and QUIC.
    pub connections: u64,
    /// Whether these connections do not count (`--exclude-listener`).
    pub excluded: bool,
}

/// A client's connection that may hold a drain up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// The name of the listener, as the load has it.
    pub listener: String,
    /// The client's address and port.
    pub address: SocketAddr,
    /// Whether Envoy has closed the connection, and the client takes the end of an answer.
    pub is_closed: bool,
    /// For how long nothing was received or sent; none where the kernel does not tell.
    pub silent: Option<Duration>,
    /// How old it is at the least: the kernel does not tell, but it was seen before.
    pub age: Option<Duration>,
    /// Bytes a second in both directions, since an earlier look that was not long ago.
    pub rate: Option<u64>,
}

/// How far a look at Envoy can be trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Sight {
    /// Envoy tells of everything that may be in flight.
    #[default]
    Whole,
    /// The kernel's count of Envoy's TCP connections stands in for what Envoy does not tell.
    Kernel,
    /// Something that may be in flight is told by nobody: 'nothing is left' is never believed.
    Partial,
}

impl Sight {
    /// The name in the status.
    pub fn name(self) -> &'static str {
        match self {
            Sight::Whole => "whole",
            Sight::Kernel => "kernel",
            Sight::Partial => "partial",
        }
    }
}

/// What an old generation has open, by the kernel's word and, for HTTP/3, the newest Envoy's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct OldOpen {
    /// Connections of clients, without excluded listeners' as far as those are known: TCP's as of now,
    /// and those of HTTP/3 that there were at the newest Envoy's last flush of statistics.
    pub clients: u64,
    /// Whether these are known: which listeners are excluded, and that no other connection may be a
    /// client's.
    pub is_exact: bool,
    /// Whether nothing else may be a client's: no other connection, and no session of a UDP listener.
    pub is_all: bool,
    /// Whether its workers have ended: Envoy ends, and they have closed what was open.
    pub ends: bool,
}

/// Bytes that Envoy has written on connections that count, and that their clients have not
/// acknowledged yet: the kernel sends them, as long as the network is there. All are 0 where the
/// network is the host's, which outlives Envoy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Unsent {
    /// On connections that are open, where it may be the end of an answer.
    pub open: u32,
    /// On connections that Envoy has closed.
    pub closed: u32,
    /// On both, where the client is gone: not heard of for [`patience`], as the kernel tells.
    pub gone: u32,
}

impl Unsent {
    /// What clients still take.
    pub fn bytes(self) -> u64 {
        u64::from(self.open) + u64::from(self.closed)
    }
}

/// For how long a client may take nothing of the end of an answer, or not be heard of: the settle
/// time, but no less than a second, since clients far away acknowledge in bursts, and no more than
/// five; five where the settle time is off.
pub fn patience(settle: Duration) -> Duration {
    let [least, most] = [1, 5].map(Duration::from_secs);
    match settle {
        Duration::ZERO => most,
        settle => settle.clamp(least, most),
    }
}

/// What was open at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// The listeners that ever had a connection, sorted by name.
    pub listeners: Vec<ListenerLoad>,
    /// HTTP requests in flight; a WebSocket is one.
    pub requests: u64,
    /// Connections that are no HTTP: they are in flight as long as they are open.
    pub tcp_sessions: u64,
    /// Connections that may be no HTTP, because internal listeners hide what they carry: they are
    /// in flight unless nothing moves on any TCP session.
    pub doubtful_sessions: u64,
    /// HTTP/1.1 connections that were upgraded, as for a WebSocket or by CONNECT; 0 where others
    /// could be among them.
    pub upgraded: u64,
    /// UDP sessions, which have no connection.
    pub udp_sessions: u64,
    /// Connections of an old generation that hands over. Its own gauges are hidden: Envoy adds
    /// them to the newest one's, but does not mark those as used (seen on 1.40.0).
    pub old_connections: u64,
    /// What an old generation has open; none where there is no such generation, or the kernel could not
    /// be asked.
    pub old_open: Option<OldOpen>,
    /// Envoy's uptime in seconds when it last flushed its statistics: only then does it look at
    /// how many connections the old generation has. None where it is not told.
    pub uptime: Option<u64>,
    /// Whether Envoy's health check is failed, as a drain wants it; also where Envoy does not tell.
    pub health_failed: bool,
    /// Whether Envoy sends access logs elsewhere, of which it holds the last entries for a moment; also
    /// where Envoy does not tell.
    pub sends_logs: bool,
    /// What the kernel still sends; none where it does not tell.
    pub unsent: Option<Unsent>,
    /// Connections that count and on which a byte went within the settle time, or may have; None
    /// where the kernel does not tell of all.
    pub awake: Option<u64>,
    /// Whether surely nothing came in, ended, or went over any connection for [`QUIET`].
    pub quiet: bool,
    /// Whether connections may come that Envoy's counters do not tell of.
    pub hides_arrivals: bool,
    /// How many connections have come since the look before, by the kernel's word. None where it was
    /// not asked for that, or cannot tell.
    pub came: Option<u64>,
    /// Who has the connections that count, or takes the end of an answer, those first that were heard
    /// of last: some of them, as far as the kernel tells.
    pub clients: Vec<Client>,
    /// How far all of this can be trusted.
    pub sight: Sight,
    /// All that Envoy does not tell, and the remedies, in one line.
    pub hidden: Option<String>,
    /// Whether Envoy hides requests that may be in flight: each connection that may carry one counts
    /// as a TCP session.
    pub requests_untold: bool,
}

impl Load {
    /// Connections on the listeners that count, and those of an old generation.
    pub fn connections(&self) -> u64 {
        self.on_listeners().saturating_add(self.old_connections)
    }

    /// Connections on the listeners that count.
    pub fn on_listeners(&self) -> u64 {
        self.sum(false)
    }

    /// Connections on excluded listeners.
    pub fn excluded(&self) -> u64 {
        self.sum(true)
    }

    fn sum(&self, excluded: bool) -> u64 {
        let listeners = self.listeners.iter();
        let those = listeners.filter(|listener| listener.excluded == excluded);
        those
            .map(|listener| listener.connections)
            .fold(0, u64::saturating_add)
    }

    /// The connections that count by their listener's name, sorted. Listeners that share a name are
    /// one.
    pub fn by_name(&self) -> Vec<(&str, u64)> {
        let counted = self.listeners.iter().filter(|listener| !listener.excluded);
        let mut sums: Vec<_> = counted
            .map(|listener| (listener.name.as_str(), listener.connections))
            .collect();
        sums.sort_unstable();
        sums.dedup_by(|next, sum| {
            let is_same = next.0 == sum.0;
            if is_same {
                sum.1 = sum.1.saturating_add(next.1);
            }
            is_same
        });
        sums
    }

    /// Connections that Envoy tells to close with their next answer, so that their clients come back:
    /// no TCP sessions, no upgraded ones. All of them, where that is not known.
    pub fn told_to_close(&self) -> u64 {
        let told = match self.sight {
            Sight::Whole => self.tcp_sessions.saturating_add(self.upgraded),
            Sight::Kernel | Sight::Partial => 0,
        };
        self.connections().saturating_sub(told)
    }

    /// Bytes that clients still take; 0 where that is not known.
    pub fn unsent(&self) -> u64 {
        self.unsent.map_or(0, Unsent::bytes)
    }

    /// Bytes that clients have not acknowledged, those of clients that are gone, too.
    pub fn unacknowledged(&self) -> u64 {
        let gone = self.unsent.map_or(0, |unsent| unsent.gone.into());
        self.unsent().saturating_add(gone)
    }

    /// Whatever would surely be lost if Envoy ended now: requests, TCP and UDP sessions.
    pub fn in_flight(&self) -> u64 {
        self.requests
            .saturating_add(self.tcp_sessions)
            .saturating_add(self.udp_sessions)
            .saturating_add(self.old_connections)
    }

    /// HTTP requests in flight; none where they are not told of all connections: the kernel alone
    /// knows none.
    pub fn known_requests(&self) -> Option<u64> {
        let is_told = self.sight != Sight::Kernel || self.hidden.is_some();
        (is_told && !self.requests_untold).then_some(self.requests)
    }

    /// Whether requests are in flight that no connection carries which anybody tells of: theirs is
    /// hidden.
    pub fn hides_requests(&self) -> bool {
        let is_open = |listener: &ListenerLoad| listener.connections > 0;
        self.requests > 0 && self.old_connections == 0 && !self.listeners.iter().any(is_open)
    }

    /// This load beside what the kernel counted at the same moment. The larger count stands. Each
    /// connection that only the kernel sees may have something in flight; `http` connections are
    /// those that Envoy tells of in another place. So many of QUIC the kernel does not see, and so
    /// many on `excluded` listeners, which Envoy tells of, it may have counted.
    #[must_use]
    pub fn beside(mut self, kernel: Load, http: u64, quic: u64, excluded: u64) -> Load {
        let known = self.on_listeners().saturating_add(excluded);
        let open = kernel.on_listeners();
        // QUIC connections have no socket of their own.
        self.awake = kernel.awake.filter(|_| known <= open);
        self.clients = kernel.clients;
        self.unsent = kernel.unsent;
        self.tcp_sessions = self
            .tcp_sessions
            .saturating_add(open.saturating_sub(known.max(http).saturating_sub(quic)));
        if open > known {
            self.listeners = kernel.listeners;
        }
        self
    }
}

/// What Envoy's counters say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Counters {
    /// Changes with every request, and with every byte of a TCP session.
    pub activity: u64,
    /// Connections that were accepted, on listeners that count.
    pub arrivals: u64,
}
