//! What is in flight, read from one cheap page of Envoy's gauges.

use std::collections::{HashMap, HashSet};

use super::lines::Lines;
use super::load::{Counters, Load};
use super::roll_call::{HTTP, Hidden, INTERNAL, RollCall};
use super::titles::Titles;

/// What the drain asks Envoy for. Of all forms of the page this one costs Envoy's main thread the
/// least: 36 ms with 10,000 clusters, against 2 s for all of `/stats/prometheus` (Envoy 1.40.0).
///
/// A gauge that was never used is absent under `usedonly`. So absence alone means nothing: what
/// Envoy could tell is asked once in a while ([`RollCall`]).
pub const QUERY: &str = concat!(
    "/stats?usedonly&type=Gauges&filter=",
    "%5E(listener%5C..*%5C.downstream_(pre_)%3Fcx_active",
    "%7Chttp%5C..*%5C.downstream_(cx%7Crq%7Ccx_http1%7Ccx_upgrades)_active",
    "%7Cudp%5C..*%5C.downstream_sess_active",
    "%7Clistener_manager%5C.total_listeners_.*",
    "%7Cserver%5C.live%7Cserver%5C.parent_connections%7Cserver%5C.uptime)%24",
);

/// What moves whenever a connection is accepted, a request is answered, or a byte goes over a TCP
/// session: what no sequence of looks at gauges can miss.
pub const ACTIVITY: &str = concat!(
    "/stats?usedonly&type=Counters&filter=",
    "%5E(http%5C..*%5C.downstream_rq_total",
    "%7Clistener%5C..*%5C.http%5C..*%5C.downstream_rq_completed",
    "%7Clistener%5C..*%5C.downstream_cx_total",
    "%7Ctcp%5C..*%5C.downstream_cx_[rt]x_bytes_total)%24",
);

/// The name of the admin interface's own connection manager and listener in Envoy's statistics.
/// Both names are free for others, too.
const ADMIN: &str = "admin";

/// The admin interface's own listener alone: others have workers, it has the main thread.
const ADMIN_ALONE: &str = "admin.main_thread";

/// Adds up the answer to [`ACTIVITY`].
#[derive(Debug, Default)]
pub struct ActivityReader {
    counters: Counters,
    /// Whether the question itself was counted.
    own: bool,
    /// Whether requests to listeners that do not count are told from others: each listener tells.
    by_listener: bool,
    /// The requests by HTTP connection manager, where they are.
    requests: Vec<(String, u64)>,
    /// The HTTP connection managers of those listeners: what they answer elsewhere is told by the
    /// listeners there.
    excluded: HashSet<String>,
}

impl ActivityReader {
    /// A reader of an Envoy some of whose listeners do not count, and each of whose listeners tells
    /// its requests if the answer is `by_listener`.
    pub fn new(by_listener: bool) -> ActivityReader {
        ActivityReader {
            by_listener,
            ..ActivityReader::default()
        }
    }

    /// Takes a line of the answer. The admin interface's requests and connections are no traffic,
    /// nor are connections to internal listeners, and connections and requests to those that `excluded`
    /// means among these `titles`.
    pub fn add(&mut self, name: &str, value: u64, excluded: &[String], titles: &Titles) {
        let counters = &mut self.counters;
        if let Some(listener) = name.strip_suffix(".downstream_cx_total") {
            let listener = listener.strip_prefix("listener.").unwrap_or(ADMIN);
            let is_share = listener.rsplit_once(".worker_").is_some();
            let counts = listener != ADMIN && listener != ADMIN_ALONE && !is_share;
            if counts && !listener.starts_with(INTERNAL) && !titles.is_meant(listener, excluded) {
                counters.arrivals = counters.arrivals.wrapping_add(value);
            }
            return;
        }
        if self.by_listener
            && let Some(name) = name.strip_suffix(".downstream_rq_completed")
            && let Some((listener, manager)) = name.rsplit_once(HTTP)
            && let Some(listener) = listener.strip_prefix("listener.")
            && titles.is_meant(listener, excluded)
        {
            self.excluded.insert(manager.into());
            return;
        }
        match name {
            // Who answers with what was not asked for answers with all there is.
            "http.admin.downstream_rq_total" | "server.live" => self.own = true,
            "listener.admin.http.admin.downstream_rq_completed" => {}
            _ if self.by_listener && name.starts_with("http.") => {
                self.requests.push((name.into(), value));
            }
            _ if name.ends_with("_total") || name.ends_with("_completed") => {
                counters.activity = counters.activity.wrapping_add(value);
            }
            _ => {}
        }
    }

    /// The sums.
    ///
    /// # Errors
    /// When Envoy hides its counters of requests: then idle cannot be told from busy.
    pub fn finish(mut self) -> Result<Counters, String> {
        for (name, value) in &self.requests {
            let manager = name.strip_prefix("http.");
            let manager = manager.and_then(|name| name.strip_suffix(".downstream_rq_total"));
            if manager.is_some_and(|manager| !self.excluded.contains(manager)) {
                self.counters.activity = self.counters.activity.wrapping_add(*value);
            }
        }
        let hidden = "envoy's statistics lack http.admin.downstream_rq_total: its stats_matcher hides \
            whether idle connections are idle; let it include the prefix http.";
        self.own
            .then_some(self.counters)
            .ok_or_else(|| hidden.into())
    }
}

/// A listener, or a name that several listeners share.
#[derive(Debug, Default)]
struct Scope {
    connections: u64,
    /// Accepted, and still in the listener filters: no network filter has them yet.
    early: u64,
    /// Whether there is a line of them: a worker's share of a listener has none.
    has_early: bool,
}

/// HTTP connection managers of one name.
#[derive(Debug, Default)]
struct Manager {
    connections: u64,
    /// Requests in flight; none where no request was ever made, or requests are hidden.
    requests: Option<u64>,
}

/// A page of gauges that is being read.
#[derive(Debug, Default)]
pub struct GaugeReader {
    lines: Lines,
    figures: Figures,
}

impl GaugeReader {
    /// Takes the next bytes of the answer's body.
    pub fn feed(&mut self, bytes: &[u8]) {
        let figures = &mut self.figures;
        self.lines
            .feed(bytes, |name, value| figures.add(name, value));
    }

    /// What the page says, once it is whole.
    pub fn finish(mut self) -> Figures {
        let figures = &mut self.figures;
        self.lines.end(|name, value| figures.add(name, value));
        self.figures
    }
}

/// What Envoy tells of its load.
#[derive(Debug)]
pub struct ToldLoad {
    /// The load, as far as it is told.
    pub load: Load,
    /// Connections of all HTTP connection managers but the admin interface's.
    pub http: u64,
    /// Connections among these that have no socket of their own: so many surely, so many at the most.
    pub quic: (u64, u64),
    /// Connections on excluded listeners, those of QUIC apart.
    pub excluded: u64,
    /// What is not told.
    pub hidden: Vec<Hidden>,
}

impl ToldLoad {
    /// What an Envoy tells that refuses to.
    pub fn nothing() -> ToldLoad {
        let load = Load {
            health_failed: true,
            sends_logs: true,
            ..Load::default()
        };
        ToldLoad {
            load,
            http: 0,
            quic: (0, 0),
            excluded: 0,
            hidden: vec![Hidden::Statistics],
        }
    }
}

/// What a whole page of gauges says.
#[derive(Debug, Default)]
pub struct Figures {
    scopes: HashMap<String, Scope>,
    managers: HashMap<String, Manager>,
    udp_sessions: u64,
    /// HTTP/1.1 connections, and upgraded ones of any protocol, the admin interface's apart.
    http1: u64,
    upgraded: u64,
    old_connections: u64,
    uptime: Option<u64>,
    live: Option<bool>,
    active: Option<u64>,
    draining: u64,
}

impl Figures {
    /// Whether the page is surely one of Envoy's statistics and not cut: a line is there that
    /// always is, unless it is hidden.
    pub fn is_proven(&self) -> bool {
        self.live.is_some()
    }

    /// Whether Envoy tells of the connection over which it was asked: one that hides what its
    /// listeners count hides that, too (1.36 to 1.40).
    pub fn shows_itself(&self) -> bool {
        self.is_proven() && self.admin_connections().is_some()
    }

    /// How many listeners Envoy has, its admin interface's apart, those that drain included; None
    /// where Envoy does not tell.
    pub fn listeners(&self) -> Option<u64> {
        Some(self.active?.saturating_add(self.draining))
    }

    /// How many HTTP connection managers the page tells of, and not the roll call.
    pub fn strangers(&self, roll: &RollCall) -> usize {
        let strange = |name: &&String| !roll.tells_requests(name);
        self.managers.keys().filter(strange).count()
    }

    fn add(&mut self, name: &str, value: u64) {
        match name {
            "server.live" => self.live = Some(value != 0),
            "server.parent_connections" => self.old_connections = value,
            "server.uptime" => self.uptime = Some(value),
            "listener_manager.total_listeners_active" => self.active = Some(value),
            "listener_manager.total_listeners_draining" => self.draining = value,
            _ => {
                if let Some(name) = name.strip_prefix("listener.") {
                    self.add_listener(name, value);
                } else if let Some(name) = name.strip_prefix("http.") {
                    self.add_manager(name, value);
                } else if name.starts_with("udp.") {
                    self.udp_sessions = self.udp_sessions.saturating_add(value);
                }
            }
        }
    }

    fn add_listener(&mut self, name: &str, value: u64) {
        if let Some(name) = name.strip_suffix(".downstream_cx_active") {
            self.scopes.entry(name.into()).or_default().connections = value;
        } else if let Some(name) = name.strip_suffix(".downstream_pre_cx_active") {
            let scope = self.scopes.entry(name.into()).or_default();
            (scope.early, scope.has_early) = (value, true);
        }
    }

    fn add_manager(&mut self, name: &str, value: u64) {
        let of_others = |suffix: &str| name.strip_suffix(suffix).is_some_and(|of| of != ADMIN);
        if of_others(".downstream_cx_http1_active") {
            self.http1 = self.http1.saturating_add(value);
        } else if of_others(".downstream_cx_upgrades_active") {
            self.upgraded = self.upgraded.saturating_add(value);
        } else if let Some(name) = name.strip_suffix(".downstream_cx_active") {
            self.managers.entry(name.into()).or_default().connections = value;
        } else if let Some(name) = name.strip_suffix(".downstream_rq_active") {
            self.managers.entry(name.into()).or_default().requests = Some(value);
        }
    }

    /// Connections of the admin interface itself; None where they are hidden.
    fn admin_connections(&self) -> Option<u64> {
        let alone = self.scopes.get(ADMIN_ALONE);
        Some(alone.or_else(|| self.scopes.get(ADMIN))?.connections)
    }

    /// The listeners' names in the statistics that have connections of their own: neither the
    /// admin interface's nor one worker's share of another.
    fn own_scopes(&self) -> impl Iterator<Item = (&str, u64, u64)> {
        let admin = self.admin_connections().unwrap_or_default();
        self.scopes
            .iter()
            .filter_map(move |(name, scope)| match name.as_str() {
                ADMIN_ALONE => None,
                ADMIN => {
                    let others = scope.connections.saturating_sub(admin);
                    (others > 0).then_some((ADMIN, others, 0))
                }
                name if !scope.has_early && self.is_share(name) => None,
                name => Some((name, scope.connections, scope.early)),
            })
    }

    /// Whether a listener has the admin interface's name, and is used.
    fn has_admins_namesake(&self) -> bool {
        self.own_scopes().any(|(name, ..)| name == ADMIN)
    }

    /// Whether a name is that of one worker's share of a listener: `0.0.0.0_80.worker_3`.
    fn is_share(&self, name: &str) -> bool {
        name.rsplit_once(".worker_").is_some_and(|(of, number)| {
            !number.is_empty()
                && number.bytes().all(|byte| byte.is_ascii_digit())
                && self.scopes.contains_key(of)
        })
    }

    /// What is open, of listeners and managers that `roll` knows.
    ///
    /// The connections of an internal listener carry what an outer one's do, and do not count. Nor
    /// can they be told from the outer ones' below the same connection manager: an outer TCP
    /// session that feeds an internal HTTP connection is doubtful.
    pub fn load(&self, roll: &RollCall, excluded: &[String]) -> ToldLoad {
        let mut hidden = roll.hidden(self.active, self.draining, self.has_admins_namesake());
        if hidden.is_empty() && !self.is_proven() {
            // Who hides that may hide anything.
            hidden.push(Hidden::Count);
        }
        // Connections that a network filter has, on outer and on internal listeners.
        let (mut outer, mut inner, mut counted) = (0_u64, 0_u64, 0_u64);
        let (mut quic, mut excluded_tcp) = ((0_u64, 0_u64), 0_u64);
        let mut listeners = Vec::new();
        for (name, proxied, early) in self.own_scopes() {
            if roll.is_internal(name) {
                inner = inner.saturating_add(proxied);
                continue;
            }
            let connections = proxied.saturating_add(early);
            let listener = roll.listed.titles.listener(name, connections, excluded);
            outer = outer.saturating_add(proxied);
            let (surely, perhaps) = roll.is_quic(name);
            if listener.excluded {
                excluded_tcp = excluded_tcp.saturating_add(if perhaps { 0 } else { connections });
            } else {
                counted = counted.saturating_add(connections);
                quic.0 = quic.0.saturating_add(if surely { connections } else { 0 });
                quic.1 = quic.1.saturating_add(if perhaps { connections } else { 0 });
            }
            listeners.push(listener);
        }
        listeners.sort_unstable_by(|a, b| {
            // Several may have one name: in a status they keep their places.
            (&a.name, &a.address, a.connections).cmp(&(&b.name, &b.address, b.connections))
        });
        let (http, all_http, requests) = self.http(roll, &mut hidden);
        // With those of an old generation, which Envoy adds to its own here, and not to listeners.
        let all = outer.saturating_add(inner);
        if all_http > all.saturating_add(self.old_connections) {
            hidden.push(Hidden::Connections);
        }
        // Envoy has no gauge of its own for TCP proxy sessions.
        let sessions = |all: u64| all.saturating_sub(http).min(counted);
        let tcp_sessions = sessions(outer);
        let load = Load {
            listeners,
            requests,
            tcp_sessions,
            doubtful_sessions: sessions(all) - tcp_sessions,
            // Several may share a connection of another protocol.
            upgraded: if all_http == self.http1 {
                self.upgraded
            } else {
                0
            },
            udp_sessions: self.udp_sessions,
            old_connections: self.old_connections,
            uptime: self.uptime,
            health_failed: self.live != Some(true),
            sends_logs: roll.may_send_logs(),
            ..Load::default()
        };
        ToldLoad {
            load,
            http: all_http,
            quic,
            excluded: excluded_tcp,
            hidden,
        }
    }

    /// Connections of the HTTP connection managers that tell their requests, of all of them, and
    /// the requests. The admin interface's own connections are in none of them, nor the request
    /// that asks.
    fn http(&self, roll: &RollCall, hidden: &mut Vec<Hidden>) -> (u64, u64, u64) {
        let (mut http, mut all, mut requests) = (0_u64, 0_u64, 0_u64);
        let blind = self
            .managers
            .get(ADMIN)
            .is_none_or(|own| own.requests.is_none());
        for (name, manager) in &self.managers {
            let mut connections = manager.connections;
            let mut in_flight = manager.requests.unwrap_or_default();
            if name == ADMIN {
                let own = self.admin_connections().unwrap_or(connections);
                connections = connections.saturating_sub(own);
                let others = connections > 0;
                in_flight = if others {
                    in_flight.saturating_sub(1)
                } else {
                    0
                };
            }
            all = all.saturating_add(connections);
            requests = requests.saturating_add(in_flight);
            if blind || manager.requests.is_none() && !roll.tells_requests(name) {
                // Any of its connections may have one in flight.
                if connections > 0 && !hidden.contains(&Hidden::Requests) {
                    hidden.push(Hidden::Requests);
                }
            } else {
                http = http.saturating_add(connections);
            }
        }
        (http, all, requests)
    }
}

#[cfg(test)]
#[path = "stats_tests.rs"]
mod tests;
