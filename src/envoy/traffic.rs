//! How well Envoy serves, by its counters: what it has answered, which connections to upstreams
//! failed, and which listeners had a part in it.

use std::collections::HashMap;

use super::lines::Lines;
use super::titles::Titles;
use crate::connections::Local;
use crate::connections::names::Named;

/// The counters. `no_route` are requests that no route fits, answered 404; `none_healthy` are
/// connections that found no host to go to. One that ends before its TLS handshake does counts as
/// failed to connect (seen on 1.36.4 and 1.40.0).
pub const QUERY: &str = concat!(
    "/stats?usedonly&type=Counters&filter=",
    "%5E(http%5C..*%5C.(downstream_rq_(completed%7C5xx)%7Cno_route)",
    "%7Clistener%5C..*%5C.(downstream_cx_total%7Chttp%5C..*%5C.downstream_rq_completed)",
    "%7Ccluster%5C..*%5C.upstream_cx_(total%7Cconnect_fail%7Cnone_healthy))%24",
);

/// How many there were of something, and how many of them went wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Share {
    /// How many there were in all.
    pub of: u64,
    /// How many went wrong.
    pub bad: u64,
}

impl Share {
    /// What has come since an earlier look.
    #[must_use]
    pub fn since(self, before: Share) -> Share {
        Share {
            of: self.of.saturating_sub(before.of),
            bad: self.bad.saturating_sub(before.bad),
        }
    }

    /// How much of all went wrong, from 0 to 1.
    pub fn rate(self) -> f64 {
        self.bad as f64 / self.of.max(1) as f64
    }
}

/// A listener, and what has come to it since Envoy's start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Door {
    /// The listener's name, or its address.
    pub name: String,
    /// The listener's addresses.
    pub locals: Vec<Local>,
    /// Connections that it accepted.
    pub connections: u64,
    /// Requests that were answered on them.
    pub answers: u64,
}

/// What Envoy's counters tell, since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// HTTP answers; those with 5xx, and those to requests without a route.
    pub answers: Share,
    /// Connections to upstreams; those that failed, or found no host.
    pub connects: Share,
    /// The listeners that count and that there are now, internal ones apart.
    pub doors: Vec<Door>,
}

/// Reads the answer to [`QUERY`].
#[derive(Debug, Default)]
pub struct TrafficReader {
    lines: Lines,
    traffic: Traffic,
    /// By a listener's name there: connections that it accepted, and requests answered on them.
    scopes: HashMap<String, (u64, u64)>,
}

impl TrafficReader {
    /// Takes the next piece of the answer.
    pub fn feed(&mut self, piece: &[u8]) {
        let (traffic, scopes) = (&mut self.traffic, &mut self.scopes);
        self.lines
            .feed(piece, |name, value| take(traffic, scopes, name, value));
    }

    /// What was told, of the listeners that Envoy lists and that are not `excluded`.
    pub fn finish(mut self, listed: Vec<Named>, excluded: &[String]) -> Traffic {
        let (traffic, scopes) = (&mut self.traffic, &mut self.scopes);
        self.lines
            .end(|name, value| take(traffic, scopes, name, value));
        let doors = listed.iter().filter(|named| !named.locals.is_empty());
        let mut doors: Vec<Door> = doors
            .map(|named| Door {
                name: named.title(),
                locals: named.locals.clone(),
                connections: 0,
                answers: 0,
            })
            .collect();
        let titles = Titles::new(self.scopes.keys().cloned().collect(), listed);
        for (scope, uses) in self.scopes {
            let listener = titles.listener(&scope, 0, excluded);
            if listener.excluded {
                doors.retain(|door| door.name != listener.name);
                continue;
            }
            if let Some(door) = doors.iter_mut().find(|door| door.name == listener.name) {
                door.connections = door.connections.saturating_add(uses.0);
                door.answers = door.answers.saturating_add(uses.1);
            }
        }
        self.traffic.doors = doors;
        self.traffic
    }
}

fn take(traffic: &mut Traffic, scopes: &mut HashMap<String, (u64, u64)>, name: &str, value: u64) {
    let add = |sum: &mut u64| *sum = sum.saturating_add(value);
    if let Some(rest) = name.strip_prefix("listener.") {
        let found = match rest.strip_suffix(".downstream_cx_total") {
            Some(scope) => Some((scope, true)),
            None => rest.split_once(".http.").map(|(scope, _)| (scope, false)),
        };
        let counts = |scope: &str| {
            let is_share = scope.rsplit_once(".worker_").is_some();
            let is_admins = scope == "admin" || scope == "admin.main_thread";
            !is_share && !is_admins && !scope.starts_with(super::roll_call::INTERNAL)
        };
        if let Some((scope, connections)) = found.filter(|(scope, _)| counts(scope)) {
            let uses = scopes.entry(scope.to_owned()).or_default();
            add(if connections {
                &mut uses.0
            } else {
                &mut uses.1
            });
        }
    } else if let Some(rest) = name.strip_prefix("http.") {
        match rest.rsplit_once('.') {
            Some(("admin", _)) | None => {}
            Some((_, "downstream_rq_completed")) => add(&mut traffic.answers.of),
            Some(_) => add(&mut traffic.answers.bad),
        }
    } else if name.starts_with("cluster.") {
        if name.ends_with(".upstream_cx_total") {
            add(&mut traffic.connects.of);
        } else if name.ends_with(".upstream_cx_connect_fail") {
            add(&mut traffic.connects.bad);
        } else if name.ends_with(".upstream_cx_none_healthy") {
            add(&mut traffic.connects.of);
            add(&mut traffic.connects.bad);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_is_added_up_and_the_admins_own_is_not() {
        let mut reader = TrafficReader::default();
        reader.feed(
            b"cluster.a.upstream_cx_connect_fail: 3\ncluster.a.upstream_cx_total: 10\n\
              cluster.b.upstream_cx_none_healthy: 2\nhttp.admin.downstream_rq_completed: 99\n\
              http.web.downstream_rq_5xx: 4\nhttp.web.downstream_rq_completed: 50\n\
              http.web.no_route: 6\nlistener.127.0.0.1_80.downstream_cx_total: 7\n\
              listener.127.0.0.1_80.http.web.downstream_rq_completed: 50\n\
              listener.127.0.0.1_80.worker_0.downstream_cx_total: 7\n\
              listener.127.0.0.1_90.downstream_cx_total: 1\n\
              listener.admin.downstream_cx_total: 9",
        );
        let named = |name: &str, port: u16| Named {
            name: Some(name.into()),
            locals: vec![Local::Ip(([127, 0, 0, 1], port).into())],
        };
        let listed = vec![named("web", 80), named("metrics", 90), named("new", 70)];
        let traffic = reader.finish(listed, &["metrics".into()]);
        assert_eq!(traffic.answers, Share { of: 50, bad: 10 });
        assert_eq!(traffic.connects, Share { of: 12, bad: 5 });
        let uses = |door: &Door| (door.name.clone(), door.connections, door.answers);
        let doors: Vec<_> = traffic.doors.iter().map(uses).collect();
        assert_eq!(doors, [("web".into(), 7, 50), ("new".into(), 0, 0)]);
    }
}
