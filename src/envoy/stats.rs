//! What is in flight, read from one cheap page of Envoy's gauges.

/// What the drain asks Envoy for. Of all forms of the page this one costs Envoy's main thread the
/// least: 36 ms with 10,000 clusters, against 2 s for all of `/stats/prometheus` (Envoy 1.40.0).
///
/// A gauge that was never used is absent under `usedonly`, so absence is zero only in an answer
/// that holds what is always there: `server.live`, and the admin interface's own connection, over
/// which the question came. That one is a listener's as the others are: a bootstrap whose
/// `stats_matcher` hides what listeners count hides it too (Envoy 1.36 to 1.40).
pub const QUERY: &str = concat!(
    "/stats?usedonly&type=Gauges&filter=",
    "%5E(listener%5C..*%5C.downstream_(pre_)%3Fcx_active",
    "%7Chttp%5C..*%5C.downstream_(cx%7Crq)_active",
    "%7Cudp%5C..*%5C.downstream_sess_active",
    "%7Cserver%5C.live%7Cserver%5C.parent_connections%7Cserver%5C.uptime)%24",
);

/// A listener's connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its name in Envoy's statistics: its stat prefix, or its address with `_` for `:`.
    pub name: String,
    /// Connections open on it: HTTP, TCP, TLS passthrough and QUIC.
    pub connections: u64,
    /// Whether they do not count (`--exclude-listener`).
    pub excluded: bool,
}

/// What was open at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// The listeners that ever had a connection, sorted by name.
    pub listeners: Vec<Listener>,
    /// HTTP requests in flight; a WebSocket is one.
    pub requests: u64,
    /// Connections that are no HTTP: they are in flight as long as they are open.
    pub tcp_sessions: u64,
    /// UDP sessions, which have no connection.
    pub udp_sessions: u64,
    /// Connections of an old generation that hands over. Its own gauges are hidden: Envoy adds
    /// them to the newest one's, but does not mark those as used (seen on 1.40.0).
    pub parent_connections: u64,
    /// Envoy's uptime in seconds when it last flushed its statistics: only then does it look at
    /// how many connections the old generation has. None where it is not told.
    pub uptime: Option<u64>,
    /// Whether Envoy's health check is failed, as a drain wants it.
    pub health_failed: bool,
}

impl Load {
    /// Connections on the listeners that count, and those of an old generation.
    pub fn connections(&self) -> u64 {
        self.listeners
            .iter()
            .filter(|listener| !listener.excluded)
            .map(|listener| listener.connections)
            .fold(self.parent_connections, u64::saturating_add)
    }

    /// Whatever would be lost if Envoy ended now: requests, TCP and UDP sessions.
    pub fn in_flight(&self) -> u64 {
        self.requests
            .saturating_add(self.tcp_sessions)
            .saturating_add(self.udp_sessions)
            .saturating_add(self.parent_connections)
    }
}

/// The longest line that is looked at; Envoy's names are far shorter. What is longer is no gauge
/// of ours and is skipped.
const LINE_MAX: usize = 4096;

/// What is wrong with a page of an Envoy that was told not to count its listeners' connections.
const HIDDEN: &str = "envoy's statistics lack listener.admin.downstream_cx_active: its stats_matcher hides \
    what is in flight, so nobody can know; let it include the prefixes listener., http. and udp.";

/// A page of gauges that is being read, line by line, in bounded memory.
#[derive(Debug, Default)]
pub struct Page {
    line: Vec<u8>,
    listeners: Vec<Listener>,
    /// Connections on every listener, excluded and internal ones too.
    all_connections: u64,
    http_connections: u64,
    requests: u64,
    udp_sessions: u64,
    parent_connections: u64,
    uptime: Option<u64>,
    live: Option<bool>,
    /// Whether it counts the connection over which it was asked for, and the request.
    own_connection: bool,
    own_request: bool,
}

impl Page {
    /// Takes the next bytes of the answer's body, however it was cut into pieces.
    pub fn feed(&mut self, bytes: &[u8], excluded: &[String]) {
        for &byte in bytes {
            if byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                self.take_line(&line, excluded);
                self.line = line;
                self.line.clear();
            } else if self.line.len() <= LINE_MAX {
                self.line.push(byte);
            }
        }
    }

    /// Looks for what a page of Envoy itself always holds: the connection over which it was asked
    /// for, and the request. To be called before [`Page::finish`] where it is Envoy that answers,
    /// and no stand-in.
    ///
    /// # Errors
    /// When listeners' connections are hidden: then nothing is known.
    pub fn check_own(&mut self) -> Result<(), String> {
        if !self.own_connection {
            return Err(HIDDEN.into());
        }
        if !self.own_request {
            // Requests are hidden: any connection may have one in flight.
            self.http_connections = 0;
        }
        Ok(())
    }

    /// What the page says, once it is whole.
    ///
    /// # Errors
    /// When it lacks what every whole page holds: then nothing is known, least of all zero.
    pub fn finish(mut self, excluded: &[String]) -> Result<Load, String> {
        let line = std::mem::take(&mut self.line);
        self.take_line(&line, excluded);
        let Some(live) = self.live else {
            return Err("the answer lacks server.live: it is cut, or no statistics".into());
        };
        self.listeners.sort_by(|a, b| a.name.cmp(&b.name));
        let counted: u64 = self
            .listeners
            .iter()
            .map(|l| if l.excluded { 0 } else { l.connections })
            .fold(0, u64::saturating_add);
        Ok(Load {
            listeners: self.listeners,
            requests: self.requests,
            // Envoy has no gauge of its own for TCP proxy sessions.
            tcp_sessions: self
                .all_connections
                .saturating_sub(self.http_connections)
                .min(counted),
            udp_sessions: self.udp_sessions,
            parent_connections: self.parent_connections,
            uptime: self.uptime,
            health_failed: !live,
        })
    }

    fn take_line(&mut self, line: &[u8], excluded: &[String]) {
        if line.len() > LINE_MAX {
            return;
        }
        let Some((name, value)) = std::str::from_utf8(line)
            .ok()
            .and_then(|line| line.trim_end().split_once(": "))
        else {
            return;
        };
        let Ok(value) = value.parse::<u64>() else {
            return;
        };
        if name == "server.live" {
            self.live = Some(value != 0);
        } else if name == "server.parent_connections" {
            self.parent_connections = value;
        } else if name == "server.uptime" {
            self.uptime = Some(value);
        } else if let Some(name) = name.strip_prefix("listener.") {
            self.take_listener(name, value, excluded);
        } else if let Some(name) = name.strip_prefix("http.") {
            match name.rsplit_once('.') {
                // The admin interface counts the very request that asks.
                Some(("admin", gauge)) => self.own_request |= gauge == "downstream_rq_active",
                Some((_, "downstream_cx_active")) => {
                    self.http_connections = self.http_connections.saturating_add(value);
                }
                Some((_, "downstream_rq_active")) => {
                    self.requests = self.requests.saturating_add(value);
                }
                _ => {}
            }
        } else if name.starts_with("udp.") && name.ends_with(".downstream_sess_active") {
            self.udp_sessions = self.udp_sessions.saturating_add(value);
        }
    }

    fn take_listener(&mut self, name: &str, connections: u64, excluded: &[String]) {
        let (name, proxied) = if let Some(name) = name.strip_suffix(".downstream_cx_active") {
            (name, true)
        } else if let Some(name) = name.strip_suffix(".downstream_pre_cx_active") {
            // Accepted, and still in the listener filters: no network filter has it yet.
            (name, false)
        } else {
            return;
        };
        self.own_connection |= proxied && name == "admin";
        if name == "admin" || name == "admin.main_thread" || is_per_worker(name) {
            return;
        }
        if proxied {
            self.all_connections = self.all_connections.saturating_add(connections);
        }
        if name.starts_with("envoy_internal_") {
            return;
        }
        match self
            .listeners
            .iter_mut()
            .find(|listener| listener.name == name)
        {
            Some(listener) => {
                listener.connections = listener.connections.saturating_add(connections)
            }
            None => self.listeners.push(Listener {
                name: name.to_owned(),
                connections,
                excluded: is_excluded(name, excluded),
            }),
        }
    }
}

/// Whether the listener of this name is one of these, each a stat prefix or `address:port`.
pub(super) fn is_excluded(name: &str, excluded: &[String]) -> bool {
    excluded
        .iter()
        .any(|other| other.replace(':', "_") == name || other == name)
}

/// Whether a listener's name is that of one worker's share of it: `0.0.0.0_80.worker_3`.
fn is_per_worker(name: &str) -> bool {
    name.rsplit_once(".worker_")
        .is_some_and(|(_, number)| number.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str, excluded: &[&str]) -> Result<Load, String> {
        let excluded: Vec<String> = excluded.iter().map(|&name| name.into()).collect();
        let mut page = Page::default();
        page.feed(text.as_bytes(), &excluded);
        page.finish(&excluded)
    }

    fn read_from_envoy(text: &str) -> Result<Load, String> {
        let mut page = Page::default();
        page.feed(text.as_bytes(), &[]);
        page.check_own()?;
        page.finish(&[])
    }

    const IDLE: &str = "\
http.admin.downstream_rq_active: 1
listener.admin.downstream_cx_active: 1
server.live: 1
";

    const BUSY: &str = "\
http.admin.downstream_cx_active: 1
http.admin.downstream_rq_active: 1
http.ingress.downstream_cx_active: 7
http.ingress.downstream_rq_active: 3
listener.0.0.0.0_10000.downstream_cx_active: 6
listener.0.0.0.0_10000.downstream_pre_cx_active: 2
listener.0.0.0.0_10000.worker_0.downstream_cx_active: 6
listener.[__]_9000.downstream_cx_active: 1
listener.admin.downstream_cx_active: 1
listener.admin.main_thread.downstream_cx_active: 1
listener.tcp.downstream_cx_active: 4
server.live: 0
udp.dns.downstream_sess_active: 5
";

    #[test]
    fn a_busy_page_is_counted() {
        let load = read(BUSY, &["[::]:9000"]).unwrap();
        assert_eq!(load.connections(), 12);
        assert_eq!(
            (load.requests, load.tcp_sessions, load.udp_sessions),
            (3, 4, 5)
        );
        assert!(load.health_failed);
        let names: Vec<_> = load
            .listeners
            .iter()
            .map(|l| (l.name.as_str(), l.excluded))
            .collect();
        assert_eq!(
            names,
            [
                ("0.0.0.0_10000", false),
                ("[__]_9000", true),
                ("tcp", false)
            ]
        );
    }

    #[test]
    fn a_page_without_gauges_is_zero_only_with_server_live() {
        assert_eq!(read(IDLE, &[]).unwrap(), Load::default());
        assert_eq!(read("server.live: 1\n", &[]).unwrap(), Load::default());
        assert!(read("", &[]).is_err());
        assert!(read("listener.a.downstream_cx_active: 0\n", &[]).is_err());
    }

    #[test]
    fn a_page_that_hides_the_listeners_says_nothing() {
        let hidden = "http.admin.downstream_rq_active: 1\nserver.live: 1\n";
        assert!(
            read_from_envoy(hidden)
                .unwrap_err()
                .contains("stats_matcher")
        );
    }

    #[test]
    fn a_page_that_hides_the_requests_takes_each_connection_for_one() {
        let hidden = "http.a.downstream_cx_active: 2\nlistener.a.downstream_cx_active: 2\n\
                      listener.admin.downstream_cx_active: 1\nserver.live: 1\n";
        assert_eq!(read_from_envoy(hidden).unwrap().in_flight(), 2);
    }

    #[test]
    fn an_internal_listeners_http_does_not_hide_an_outer_tcp_session() {
        let load = read(
            &format!(
                "http.inner.downstream_cx_active: 1\n\
                 listener.edge.downstream_cx_active: 1\n\
                 listener.envoy_internal_inner.downstream_cx_active: 1\n{IDLE}"
            ),
            &[],
        );
        assert_eq!(load.unwrap().tcp_sessions, 1);
    }

    /// Envoy's gauges have run below zero before; two such once made a zero.
    #[test]
    fn gauges_that_ran_below_zero_add_up_to_much_and_never_to_nothing() {
        let load = read(
            "http.a.downstream_rq_active: 18446744073709551615\n\
             http.b.downstream_rq_active: 1\n\
             listener.a.downstream_cx_active: 18446744073709551615\n\
             listener.b.downstream_cx_active: 1\n\
             server.live: 1\n\
             udp.a.downstream_sess_active: 1\n",
            &[],
        );
        let load = load.unwrap();
        assert_eq!((load.connections(), load.requests), (u64::MAX, u64::MAX));
        assert_eq!(load.in_flight(), u64::MAX);
    }

    #[test]
    fn the_last_line_needs_no_newline() {
        assert!(read(IDLE.trim_end(), &[]).is_ok());
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(cuts in proptest::collection::vec(0..BUSY.len(), 0..20)) {
            let mut cuts = cuts;
            cuts.sort_unstable();
            let mut page = Page::default();
            let mut from = 0;
            for cut in cuts {
                page.feed(&BUSY.as_bytes()[from..cut], &[]);
                from = cut;
            }
            page.feed(&BUSY.as_bytes()[from..], &[]);
            prop_assert_eq!(page.finish(&[]), read(BUSY, &[]));
        }

        #[test]
        fn garbage_is_never_a_load(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let mut page = Page::default();
            page.feed(&bytes, &[]);
            prop_assert!(page.finish(&[]).is_err());
        }
    }
}
