//! What a listener in Envoy's statistics is to a person: its own name and address.
//!
//! The statistics know a listener by its `stat_prefix`, or by its address with `_` for `:`. Its own
//! name is in the admin interface's list of listeners, which lacks the `stat_prefix`.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use super::load::ListenerLoad;
use crate::connections::Local;
use crate::connections::names::{self, Named};

/// The listeners that Envoy lists, by their names in its statistics.
#[derive(Debug, Default)]
pub struct Titles {
    all: Vec<Named>,
    by_scope: HashMap<String, usize>,
    /// The names in the statistics, those of internal listeners and the admin's apart.
    scopes: HashSet<String>,
}

impl Titles {
    /// Pairs the names in the statistics with the listeners that Envoy lists, internal ones apart in
    /// both: by the address, and the two that are left when only one is on either side.
    pub fn new(scopes: HashSet<String>, all: Vec<Named>) -> Titles {
        let mut by_address: HashMap<String, usize> = HashMap::new();
        // TCP and QUIC may share one address, and then one name in the statistics.
        let mut shared = HashSet::new();
        for (at, named) in all.iter().enumerate() {
            for local in &named.locals {
                let scope = scope_of(local);
                if by_address
                    .insert(scope.clone(), at)
                    .is_some_and(|it| it != at)
                {
                    shared.insert(scope);
                }
            }
        }
        let mut by_scope: HashMap<String, usize> = HashMap::new();
        let mut paired = vec![false; all.len()];
        let mut lone_scopes = Vec::new();
        for scope in &scopes {
            match by_address.get(scope) {
                None => lone_scopes.push(scope),
                Some(_) if shared.contains(scope) => {}
                Some(at) => {
                    by_scope.insert(scope.clone(), *at);
                    if let Some(paired) = paired.get_mut(*at) {
                        *paired = true;
                    }
                }
            }
        }
        let is_lone = |(named, paired): &(&Named, &bool)| {
            let mut locals = named.locals.iter();
            !**paired && !locals.any(|local| shared.contains(&scope_of(local)))
        };
        let both = all.iter().zip(&paired).enumerate();
        let mut lone = both.filter(|(_, both)| is_lone(both));
        // Where some are hidden, or share a prefix, the last two need not belong together.
        if let ([scope], Some((at, _)), None) = (&*lone_scopes, lone.next(), lone.next())
            && scopes.len() == all.len()
        {
            by_scope.insert((*scope).clone(), at);
        }
        Titles {
            all,
            by_scope,
            scopes,
        }
    }

    /// The listeners that Envoy lists.
    pub fn all(&self) -> &[Named] {
        &self.all
    }

    /// The names in the statistics of the listeners that have this address, but for stat prefixes: that
    /// of their first one.
    pub fn scopes_at(&self, local: &Local) -> impl Iterator<Item = String> {
        let here = self.all.iter().filter(|one| one.locals.contains(local));
        here.filter_map(first_scope)
    }

    /// The listener of this name in the statistics, as it is listed; or its address, if the name
    /// is made of one.
    fn find(&self, scope: &str) -> (Option<&Named>, Option<Local>) {
        match self.by_scope.get(scope).and_then(|at| self.all.get(*at)) {
            Some(named) => (Some(named), None),
            None => (None, local_of(scope)),
        }
    }

    /// Whether one of the words means the listener of this name in the statistics.
    pub fn is_meant(&self, scope: &str, words: &[String]) -> bool {
        if words.is_empty() {
            return false;
        }
        let (named, address) = self.find(scope);
        // A name that TCP and QUIC share is meant where both listeners are.
        let are_all = |it: &Local| {
            let is_listed = self.all.iter().any(|one| one.locals.contains(it));
            is_listed && names::are_meant(&self.all, it, words)
        };
        if named.is_none() && address.as_ref().is_some_and(are_all) {
            return true;
        }
        words.iter().any(|word| {
            word == scope
                || named.is_some_and(|named| named.is_called(word))
                || address.as_ref().is_some_and(|it| it.is_called(word))
        })
    }

    /// The listener of this name in the statistics, with so many connections.
    pub fn listener(&self, scope: &str, connections: u64, excluded: &[String]) -> ListenerLoad {
        let (named, address) = self.find(scope);
        let (name, address) = match (named, address) {
            (Some(named), _) => (named.title(), named.address()),
            (None, Some(local)) => (local.to_string(), None),
            (None, None) => (scope.to_owned(), None),
        };
        ListenerLoad {
            name,
            address,
            connections,
            excluded: self.is_meant(scope, excluded),
        }
    }

    /// The words that fit no listener.
    pub fn unknown<'a>(&self, words: &'a [String]) -> Vec<&'a str> {
        let fits = |word: &String| {
            self.scopes.contains(word)
                || self.scopes.contains(&word.replace(':', "_"))
                || self.all.iter().any(|named| named.is_called(word))
        };
        let words = words.iter().filter(|word| !fits(word));
        words.map(String::as_str).collect()
    }
}

/// Whether the words surely mean all the listeners that are listed, of which the statistics know
/// these `scopes`.
///
/// Each listener has one name there. Where some are hidden, or share one, or one with a stat prefix
/// drains that is listed no more, there are more of the ones or the others.
pub fn are_all_meant<'a>(
    scopes: impl Iterator<Item = &'a str>,
    listed: &[Named],
    words: &[String],
) -> bool {
    let mut told = 0;
    for scope in scopes {
        let is_at = |local: &Local| scope_of(local) == scope;
        let is_meant = match listed.iter().find(|one| one.locals.iter().any(is_at)) {
            Some(named) => words.iter().any(|word| named.is_called(word)),
            // One that drains.
            None if is_address(scope) => continue,
            None => words.iter().any(|word| word == scope),
        };
        if !is_meant {
            return false;
        }
        told += 1;
    }
    told == listed.len()
}

/// The names among these `scopes` of the statistics that listeners have or may have in common with
/// another one at the same address, once for each such listener: TCP and QUIC.
pub fn shared(scopes: &HashSet<String>, listed: &[Named]) -> Vec<String> {
    let mut told = HashSet::new();
    let again = |scope: &String| scopes.contains(scope) && !told.insert(scope.clone());
    listed
        .iter()
        .filter_map(first_scope)
        .filter(again)
        .collect()
}

fn first_scope(listener: &Named) -> Option<String> {
    listener.locals.first().map(scope_of)
}

/// Whether a name in the statistics is made of an address. Where the kernel chose the port, it is 0
/// there, and means none.
pub fn is_address(scope: &str) -> bool {
    local_of(scope).is_some_and(|local| !local.is_called(":0"))
}

/// How the statistics write an address.
pub fn scope_of(local: &Local) -> String {
    local.to_string().replace(':', "_")
}

/// The address that a name in the statistics is made of, if it is.
fn local_of(scope: &str) -> Option<Local> {
    let address: SocketAddr = scope.replace('_', ":").parse().ok()?;
    Some(Local::Ip(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: Option<&str>, addresses: &[&str]) -> Named {
        let local = |address: &&str| match address.parse() {
            Ok(address) => Local::Ip(address),
            Err(_) => Local::Unix((*address).into()),
        };
        Named {
            name: name.map(str::to_owned),
            locals: addresses.iter().map(local).collect(),
        }
    }

    fn titles(scopes: &[&str], all: &[(Option<&str>, &[&str])]) -> Titles {
        let scopes = scopes.iter().map(ToString::to_string).collect();
        Titles::new(scopes, all.iter().map(|(n, a)| named(*n, a)).collect())
    }

    #[track_caller]
    fn check(titles: &Titles, scope: &str, name: &str, address: Option<&str>) {
        let listener = titles.listener(scope, 1, &[]);
        assert_eq!(
            (listener.name.as_str(), listener.address.as_deref()),
            (name, address),
            "{scope}"
        );
    }

    #[test]
    fn a_listener_is_named_by_its_own_name_or_else_by_its_address() {
        let titles = titles(
            &["127.0.0.1_80", "[__1]_443", "/run/a.sock", "10.0.0.1_9"],
            &[
                (Some("web"), &["127.0.0.1:80", "127.0.0.2:80"]),
                (Some("six"), &["[::1]:443"]),
                (Some("pipe"), &["/run/a.sock"]),
                (None, &["10.0.0.1:9"]),
            ],
        );
        check(
            &titles,
            "127.0.0.1_80",
            "web",
            Some("127.0.0.1:80, 127.0.0.2:80"),
        );
        check(&titles, "[__1]_443", "six", Some("[::1]:443"));
        check(&titles, "/run/a.sock", "pipe", Some("/run/a.sock"));
        check(&titles, "10.0.0.1_9", "10.0.0.1:9", None);
        // They drain, and are listed no more.
        check(&titles, "10.0.0.2_9", "10.0.0.2:9", None);
        check(&titles, "prefix", "prefix", None);
        check(&Titles::default(), "[__]_80", "[::]:80", None);
    }

    #[test]
    fn a_stat_prefix_belongs_to_the_one_listener_that_is_left() {
        let web: (Option<&str>, &[&str]) = (Some("web"), &["127.0.0.1:80"]);
        let probes: (Option<&str>, &[&str]) = (Some("probes"), &["127.0.0.1:81"]);
        let more: (Option<&str>, &[&str]) = (Some("more"), &["127.0.0.1:82"]);
        let one = titles(&["127.0.0.1_80", "prefix"], &[web, probes]);
        check(&one, "prefix", "probes", Some("127.0.0.1:81"));
        // Two that share it, or of which one is hidden; and two prefixes.
        let two = titles(&["127.0.0.1_80", "prefix"], &[web, probes, more]);
        check(&two, "prefix", "prefix", None);
        let both = titles(&["127.0.0.1_80", "a", "b"], &[web, probes, more]);
        check(&both, "a", "a", None);
        // One that is removed, and drains.
        let old = titles(&["127.0.0.1_80", "127.0.0.1_7", "prefix"], &[web, probes]);
        check(&old, "prefix", "prefix", None);
        check(&old, "127.0.0.1_7", "127.0.0.1:7", None);
    }

    #[test]
    fn what_tcp_and_quic_share_has_the_name_of_neither() {
        let all: &[(Option<&str>, &[&str])] = &[
            (Some("https"), &["127.0.0.1:443"]),
            (Some("h3"), &["127.0.0.1:443"]),
        ];
        let titles = titles(&["127.0.0.1_443"], all);
        check(&titles, "127.0.0.1_443", "127.0.0.1:443", None);
    }

    #[test]
    fn a_listener_is_excluded_by_any_of_its_names() {
        let all: &[(Option<&str>, &[&str])] = &[
            (Some("web"), &["127.0.0.1:80"]),
            (Some("probes"), &["127.0.0.1:81", "127.0.0.2:82"]),
        ];
        let titles = titles(&["127.0.0.1_80", "prefix"], all);
        for word in [
            "probes",
            "prefix",
            "127.0.0.1:81",
            "127.0.0.1_81",
            ":81",
            ":82",
        ] {
            let words = [word.to_owned()];
            assert!(titles.listener("prefix", 0, &words).excluded, "{word}");
            assert!(
                !titles.listener("127.0.0.1_80", 0, &words).excluded,
                "{word}"
            );
            assert_eq!(titles.unknown(&words), [""; 0], "{word}");
        }
        for word in ["prob", ":8", "1:81", "81", "127.0.0.1"] {
            let words = [word.to_owned()];
            assert!(!titles.listener("prefix", 0, &words).excluded, "{word}");
            assert_eq!(titles.unknown(&words), [word]);
        }
        let port = [":7".to_owned()];
        assert!(Titles::default().listener("[__]_7", 0, &port).excluded);
    }

    #[test]
    fn all_are_meant_where_each_name_in_the_statistics_is() {
        let web: (Option<&str>, &[&str]) = (Some("web"), &["127.0.0.1:80"]);
        let probes: (Option<&str>, &[&str]) = (Some("probes"), &["127.0.0.1:81"]);
        let more: (Option<&str>, &[&str]) = (Some("more"), &["127.0.0.1:82"]);
        let all_meant = |scopes: &[&str], all: &[(Option<&str>, &[&str])], words: &[&str]| {
            let words: Vec<String> = words.iter().map(ToString::to_string).collect();
            let listed: Vec<Named> = all.iter().map(|(n, a)| named(*n, a)).collect();
            super::are_all_meant(scopes.iter().copied(), &listed, &words)
        };
        assert!(all_meant(&["prefix"], &[probes], &["prefix"]));
        assert!(all_meant(&["a", "b"], &[probes, more], &["a", "b"]));
        assert!(all_meant(
            &["127.0.0.1_80", "a"],
            &[web, probes],
            &[":80", "a"]
        ));
        // That one drains.
        assert!(all_meant(&["127.0.0.1_7", "a"], &[probes], &["a"]));
        // One may be hidden, or share the prefix, or have another one; or the port is 0 there.
        assert!(!all_meant(&["a"], &[probes, more], &["a"]));
        assert!(!all_meant(&[], &[probes], &["a"]));
        assert!(!all_meant(&["a", "b"], &[probes, more], &["a", "c"]));
        assert!(!all_meant(&["a", "b"], &[probes], &["a"]));
        assert!(!all_meant(&["127.0.0.1_80", "a"], &[web, probes], &["a"]));
        assert!(!all_meant(&["127.0.0.1_0", "a"], &[web], &["a"]));
    }
}
