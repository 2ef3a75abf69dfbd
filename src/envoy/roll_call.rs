//! What Envoy could tell of its load: which listeners there are, and which statistics.
//!
//! Names prove nothing. A listener's `stat_prefix` is free, several listeners may share one, and a
//! `stats_matcher` hides what it likes: the bootstrap's, or since 1.40 a listener's own. So
//! listeners are counted, and what is hidden is found by what is missing.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::fetch::{HasTime, ask_stats, fetch_page, refused};
use super::lines::Lines;
use super::titles::{self, Titles};
use crate::client::{Address, Peer};
use crate::connections::Local;
use crate::connections::names::{self, Named};

/// Which statistics there are, whether they were ever used or not. This costs Envoy's main thread
/// several times what a poll does (0.3 s with 10,000 clusters, 1.40.0), so it is asked once in a
/// while.
///
/// A listener has one line of connections that are early; each UDP listener has one of datagrams;
/// a listener with an HTTP connection manager has lines of its answers. Access logs that are sent
/// elsewhere (gRPC, OpenTelemetry, Fluentd) have theirs as soon as they are configured; TCP's and
/// OpenTelemetry's are not marked as used when something was sent (1.36.4, 1.40.0).
pub const QUERY: &str = concat!(
    "/stats?filter=",
    "%5E(listener%5C..*%5C.(downstream_pre_cx_active",
    "%7Cudp%5C.downstream_rx_datagram_dropped",
    "%7Chttp%5C..*%5C.downstream_rq_completed)",
    "%7Clistener%5C.admin%5C.worker_0%5C.downstream_cx_active",
    "%7Chttp%5C..*%5C.downstream_rq_active",
    "%7Cudp%5C..*%5C.downstream_sess_active",
    "%7Caccess_logs%5C..*",
    "%7Cdns_filter%5C..*)%24",
);

/// A roll call is believed for so long: listeners come and go.
const LASTS: Duration = Duration::from_secs(30);

/// What is believed without an answer, so as not to wait for one at every poll.
pub(super) const REST: Duration = Duration::from_secs(2);

/// How Envoy names an internal listener in its statistics.
pub(super) const INTERNAL: &str = "envoy_internal_";

/// What is between a listener and its HTTP connection manager in the name of a statistic.
pub(super) const HTTP: &str = ".http.";

/// What a `stats_matcher` has to include, so that drainit is told everything.
#[macro_export]
macro_rules! stats_prefixes {
    () => {
        "let every stats_matcher include the prefixes listener., listener_manager., http., udp., \
         tcp., server., sds. and access_logs."
    };
}

/// Something that Envoy does not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hidden {
    /// All statistics: `admin.allow_paths` lacks `/stats`.
    Statistics,
    /// The connections of some listeners.
    Listeners,
    /// How many listeners there are; those that tell look as if they were all.
    Count,
    /// The connections of some listeners, of which an HTTP connection manager does tell; or a
    /// connection ended while Envoy wrote its page, since Envoy takes it off its listener's first.
    Connections,
    /// The connections of some listeners that drain; or a control plane gave them a new version,
    /// which has the same name in the statistics.
    Draining,
    /// The connections of a listener at another one's address; or the two have one name in the
    /// statistics.
    Shared,
    /// The requests of some HTTP connection managers.
    Requests,
    /// UDP sessions.
    UdpSessions,
}

impl Hidden {
    /// What is hidden, and the remedy.
    pub fn sentence(self) -> &'static str {
        match self {
            Hidden::Statistics => {
                "envoy's admin interface refuses /stats: let admin.allow_paths hold it"
            }
            Hidden::Listeners | Hidden::Count | Hidden::Connections => concat!(
                "envoy's statistics hide connections of some listeners: ",
                stats_prefixes!(),
                ", and give each listener a stat_prefix of its own, or none"
            ),
            // No matcher is to blame for that.
            Hidden::Draining | Hidden::Shared => {
                "envoy's statistics may hide connections of listeners that drain, or that have a \
                 name there in common: give each listener a stat_prefix of its own, or none"
            }
            Hidden::Requests => {
                "envoy's statistics hide requests, so that each connection counts as one: let every \
                 stats_matcher include the prefix http."
            }
            Hidden::UdpSessions => {
                "envoy's statistics hide UDP sessions, so that nobody can know when they have \
                 ended: let every stats_matcher include the prefix udp."
            }
        }
    }

    /// Whether the kernel's count of TCP connections can stand in.
    pub fn is_told_by_kernel(self) -> bool {
        !matches!(self, Hidden::Requests | Hidden::UdpSessions)
    }

    /// Whether it is surely hidden. Where it is not, and the kernel tells, nobody is to be warned.
    pub fn is_certain(self) -> bool {
        !matches!(
            self,
            Hidden::Connections | Hidden::Draining | Hidden::Shared
        )
    }
}

/// What Envoy could tell of its load.
#[derive(Debug, Default)]
pub struct RollCall {
    /// Whether whoever answers is believed without more: it does not say that it is Envoy.
    trusted: bool,
    /// The names of listeners in the statistics, the admin interface's apart.
    scopes: HashSet<String>,
    /// Whether a listener has the admin interface's name.
    namesake: bool,
    /// Names of UDP listeners, and of listeners with an HTTP connection manager.
    udp: HashSet<String>,
    http: HashSet<String>,
    /// The HTTP connection managers that tell their requests.
    managers: HashSet<String>,
    /// The HTTP connection managers that listeners tell of, as `0.0.0.0_80.http.web`.
    on_listeners: Vec<String>,
    /// Whether an HTTP connection manager that a listener tells of does not tell its requests.
    pub hides_requests: bool,
    /// Whether there is a gauge of UDP sessions, or a filter that answers without one.
    sessions: bool,
    /// Whether there are access logs that Envoy sends elsewhere.
    sends_logs: bool,
    /// What Envoy's list of listeners says.
    pub listed: Listed,
    /// Whether that is what it said before, since Envoy did not answer.
    is_filled: bool,
    /// When the roll was called.
    pub called: Option<Instant>,
}

/// What Envoy's list of listeners says, which has the active ones.
#[derive(Debug, Default)]
pub struct Listed {
    /// How many there are; None where Envoy does not list them.
    count: Option<u64>,
    /// What the listeners are to a person, internal ones apart.
    pub titles: Titles,
    /// Whether a listener is in another network namespace than Envoy: the kernel does not show its
    /// connections where Envoy's are (`network_namespace_filepath`).
    pub reaches_out: bool,
    /// The names of internal listeners in the statistics.
    internal: HashSet<String>,
    /// The names in the statistics that listeners may share with another one at the same address, once
    /// for each such listener.
    shared: Vec<String>,
}

impl RollCall {
    /// Nothing is looked for: what answers is no Envoy, and tells everything.
    pub fn of_a_stand_in() -> RollCall {
        RollCall {
            trusted: true,
            ..RollCall::default()
        }
    }

    /// Takes the whole answer to [`names::QUERY`].
    pub fn read_listed(&mut self, json: &str) {
        let reaches_out = json.contains("\"network_namespace_filepath\":");
        let json: Value = serde_json::from_str(json).unwrap_or_default();
        let Some(listed) = json.get("listener_statuses").and_then(Value::as_array) else {
            // Without a single listener Envoy answers with an empty object.
            self.listed.count = json.is_object().then_some(0);
            return;
        };
        let internal = listed.iter().filter_map(|listener| {
            let address = listener.get("local_address")?;
            let name = address
                .get("envoy_internal_address")?
                .get("server_listener_name")?;
            Some(format!("{INTERNAL}{}", name.as_str()?))
        });
        let internal: HashSet<String> = internal.collect();
        let outer = |scope: &&String| !internal.contains(*scope);
        let scopes = self.scopes.iter().filter(outer).cloned().collect();
        let mut named = names::read(listed);
        named.retain(|named| !named.locals.is_empty());
        self.listed = Listed {
            count: Some(listed.len() as u64),
            reaches_out,
            shared: titles::shared(&scopes, &named),
            titles: Titles::new(scopes, named),
            internal,
        };
    }

    /// Takes the list of an earlier answer of the same Envoy, where this one has none.
    fn fill(&mut self, before: RollCall) {
        if self.listed.count.is_none() {
            self.listed = before.listed;
            self.is_filled = true;
        }
    }

    /// Whether the words surely mean all these listeners, which are all but the internal ones: stat
    /// prefixes included.
    pub fn are_all_meant(&self, listed: &[Named], words: &[String]) -> bool {
        let scopes = self.scopes.iter().map(String::as_str);
        titles::are_all_meant(
            scopes.filter(|scope| !scope.starts_with(INTERNAL)),
            listed,
            words,
        )
    }

    /// Takes a line of the answer to [`QUERY`].
    fn take(&mut self, name: &str) {
        if name == "listener.admin.worker_0.downstream_cx_active" {
            self.namesake = true;
        } else if let Some(name) = name.strip_prefix("listener.") {
            if let Some(name) = name.strip_suffix(".downstream_pre_cx_active") {
                if name != "admin" {
                    self.scopes.insert(name.into());
                }
            } else if let Some(name) = name.strip_suffix(".udp.downstream_rx_datagram_dropped") {
                self.udp.insert(name.into());
            } else if let Some(name) = name.strip_suffix(".downstream_rq_completed") {
                let listener = name.rsplit_once(HTTP).map(|(listener, _)| listener);
                self.http.extend(listener.map(str::to_owned));
                self.on_listeners.push(name.into());
            }
        } else if let Some(name) = name.strip_prefix("http.") {
            let name = name.strip_suffix(".downstream_rq_active");
            self.managers.extend(name.map(str::to_owned));
        } else if name.starts_with("access_logs.") {
            self.sends_logs = true;
        } else {
            self.sessions = true;
        }
    }

    /// Whether this is the name of an internal listener.
    pub fn is_internal(&self, name: &str) -> bool {
        if self.trusted {
            return name.starts_with(INTERNAL);
        }
        self.listed.internal.contains(name)
    }

    /// Whether the HTTP connection managers of this name tell their requests.
    pub fn tells_requests(&self, manager: &str) -> bool {
        self.trusted || self.managers.contains(manager)
    }

    /// Whether there are HTTP connection managers that do not: their connections look like TCP
    /// sessions. The admin interface has one always.
    fn misses_managers(&self) -> bool {
        let told = |(_, manager): (&str, &str)| self.managers.contains(manager);
        // A stat prefix may hold what is between.
        let untold = |name: &String| {
            let ways = [name.split_once(HTTP), name.rsplit_once(HTTP)];
            !ways.into_iter().flatten().any(told)
        };
        !self.managers.contains("admin") || self.on_listeners.iter().any(untold)
    }

    /// Whether a listener has this name in the statistics, internal ones apart.
    pub fn has_scope(&self, name: &str) -> bool {
        self.scopes.contains(name) && !self.is_internal(name)
    }

    /// The one name in the statistics that is no address of these, if it is the only one.
    pub fn odd_scope(&self, is_address: impl Fn(&str) -> bool) -> Option<&str> {
        let scopes = self.scopes.iter().map(String::as_str);
        let mut odd = scopes.filter(|name| !self.is_internal(name) && !is_address(name));
        odd.next().filter(|_| odd.next().is_none())
    }

    /// Whether a UDP listener with this address surely tells of itself. Envoy lists TCP and UDP alike: all
    /// listeners at the address have to be in the statistics.
    pub fn tells_udp(&self, local: &Local) -> bool {
        // One that drains is not listed.
        let mut is_told = self.udp.contains(&titles::scope_of(local));
        for scope in self.listed.titles.scopes_at(local) {
            if !self.scopes.contains(&scope) {
                return false;
            }
            is_told |= self.udp.contains(&scope);
        }
        is_told
    }

    /// How many UDP listeners tell of themselves by a name that is no address.
    pub fn udp_elsewhere(&self) -> u64 {
        let udp = self.udp.iter().filter(|scope| !titles::is_address(scope));
        udp.count() as u64
    }

    /// Whether connections on listeners of this name have no socket of their own: all of them, or some,
    /// since a TCP listener may have the name, too.
    pub fn is_quic(&self, name: &str) -> (bool, bool) {
        let some = self.udp.contains(name);
        let is_shared = self.listed.shared.iter().any(|shared| shared == name);
        (some && !is_shared, some)
    }

    /// Whether there was an answer.
    pub fn is_heard(&self) -> bool {
        self.trusted || self.called.is_some()
    }

    /// Whether Envoy sends access logs elsewhere, or may: it has not answered.
    pub fn may_send_logs(&self) -> bool {
        self.sends_logs || !self.is_heard()
    }

    /// Whether a UDP listener has an HTTP connection manager.
    pub fn has_http3(&self) -> bool {
        !self.udp.is_disjoint(&self.http)
    }

    /// Whether each listener tells what it has, as far as its name is its own.
    pub fn tells_by_listener(&self) -> bool {
        let mut hidden = self.hidden(None, 0, false).into_iter();
        hidden.all(|hidden| hidden == Hidden::Shared)
    }

    /// What Envoy hides that has so many listeners, `active` ones as far as it tells, and `draining`
    /// ones; `namesake` is whether one with the admin interface's name was seen.
    pub fn hidden(&self, active: Option<u64>, draining: u64, namesake: bool) -> Vec<Hidden> {
        let mut hidden = Vec::new();
        if self.trusted {
            return hidden;
        }
        let told = self.scopes.len() as u64 + u64::from(self.namesake || namesake);
        let shared = self.listed.shared.len() as u64;
        match active.or(self.listed.count) {
            None => hidden.push(Hidden::Count),
            Some(active) if told.saturating_add(shared) < active => hidden.push(Hidden::Listeners),
            Some(active) if told < active => hidden.push(Hidden::Shared),
            Some(active) if told < active.saturating_add(draining) => hidden.push(Hidden::Draining),
            Some(_) => {}
        }
        if !self.sessions && !self.udp.is_subset(&self.http) {
            hidden.push(Hidden::UdpSessions);
        }
        hidden
    }
}

/// The answer to [`QUERY`], being read.
#[derive(Debug, Default)]
pub struct RollCallReader {
    lines: Lines,
    roll: RollCall,
}

impl RollCallReader {
    /// Takes the next bytes of the answer's body.
    pub fn feed(&mut self, bytes: &[u8]) {
        let roll = &mut self.roll;
        self.lines.feed(bytes, |name, _| roll.take(name));
    }

    /// What the whole answer says.
    pub fn finish(mut self) -> RollCall {
        let roll = &mut self.roll;
        self.lines.end(|name, _| roll.take(name));
        roll.hides_requests = roll.misses_managers();
        roll.on_listeners = Vec::new();
        self.roll
    }
}

/// Asks Envoy which statistics there are: the answer's status, and what the roll call has from it.
pub(super) fn call_statistics(
    peer: Peer,
    address: &Address,
    has_time: HasTime<'_>,
) -> Result<(u16, RollCall), String> {
    let mut reader = RollCallReader::default();
    let sink = |piece: &[u8]| reader.feed(piece);
    let mut goes_on = |waited| has_time(waited);
    let head = ask_stats(peer, address, QUERY, Some(&mut goes_on), sink)?;
    Ok((head.status, reader.finish()))
}

/// Calls the roll, and counts the requests that `failed`.
///
/// # Errors
/// One line that says why there is no answer.
pub(super) fn call(
    peer: Peer,
    address: &Address,
    failed: &mut u64,
    has_time: HasTime<'_>,
) -> Result<RollCall, String> {
    let statistics = call_statistics(peer, address, has_time);
    let (status, mut roll) = statistics.inspect_err(|_| *failed += 1)?;
    if status != 200 {
        return Err(refused(status, "to /stats"));
    }
    roll.called = Some(Instant::now());
    // `admin.allow_paths` may lack it, and the statistics tell how many there are.
    match fetch_page(peer, address, names::QUERY, has_time) {
        Ok((200, json)) => roll.read_listed(&json),
        Ok((status, _)) => log::debug!("/listeners: {status}"),
        Err(why) => {
            log::debug!("/listeners: {why}");
            *failed += 1;
        }
    }
    Ok(roll)
}

/// Calls the roll again. Where Envoy does not answer, the answer `before` stands; where Envoy gives
/// half an answer, the other half of `before` stands. Returns the answer, and for how long it is
/// believed.
pub(super) fn call_again(
    peer: Peer,
    address: &Address,
    before: RollCall,
    failed: &mut u64,
    has_time: HasTime<'_>,
) -> (RollCall, Duration) {
    let failed_before = *failed;
    match call(peer, address, failed, has_time) {
        Ok(mut roll) if *failed > failed_before => {
            // An Envoy that never lists its listeners in time is not asked for them all the time.
            let lasts = if before.is_filled { LASTS } else { REST };
            roll.fill(before);
            (roll, lasts)
        }
        Ok(roll) => (roll, LASTS),
        Err(why) => {
            log::debug!("what envoy could tell is not known: {why}");
            (before, REST)
        }
    }
}
