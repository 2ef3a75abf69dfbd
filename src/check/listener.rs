//! A listener as a drain meets it.

use std::time::Duration;

use serde_json::Value;

use super::config::{Config, address, items, text, time, type_of};
use crate::envoy::listeners::is_excluded;

/// What comes in at a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerKind {
    /// HTTP over TCP.
    Http,
    /// HTTP over QUIC.
    Quic,
    /// A TCP proxy.
    Tcp,
    /// A UDP proxy, or another filter of datagrams.
    Udp,
    /// Any protocol over TCP but HTTP and a TCP proxy's.
    Other,
}

impl ListenerKind {
    /// The kind's word in the table.
    pub fn name(self) -> &'static str {
        match self {
            ListenerKind::Http => "http",
            ListenerKind::Quic => "quic",
            ListenerKind::Tcp => "tcp",
            ListenerKind::Udp => "udp",
            ListenerKind::Other => "other",
        }
    }
}

/// Every listener that is known.
pub fn all(config: &Config) -> Vec<ConfiguredListener<'_>> {
    let mut all = Vec::new();
    for list in config.listeners() {
        for json in list {
            all.push(ConfiguredListener::new(json, config));
        }
    }
    all
}

/// A listener.
#[derive(Debug)]
pub struct ConfiguredListener<'a> {
    /// The listener's whole configuration.
    pub json: &'a Value,
    /// What comes in at the listener.
    pub kind: ListenerKind,
    /// The listener's address, as Envoy writes it.
    pub address: String,
    /// The listener's HTTP connection managers, each with its routes; none where it gets them
    /// later.
    pub managers: Vec<(&'a Value, Option<Vec<&'a Value>>)>,
    /// The listener's TCP proxies.
    pub proxies: Vec<&'a Value>,
    /// The listener's UDP proxies.
    pub datagrams: Vec<&'a Value>,
}

impl<'a> ConfiguredListener<'a> {
    /// The listener that is configured by `json`.
    pub fn new(json: &'a Value, config: &'a Config) -> ConfiguredListener<'a> {
        let (mut managers, mut proxies, mut datagrams) = (Vec::new(), Vec::new(), Vec::new());
        let mut take = |filter: &'a Value| {
            let Some(filter) = filter.get("typed_config") else {
                return;
            };
            match type_of(filter) {
                "HttpConnectionManager" => managers.push((filter, routes(filter, config))),
                "TcpProxy" => proxies.push(filter),
                "UdpProxyConfig" => datagrams.push(filter),
                _ => {}
            }
        };
        items(json, "/listener_filters").iter().for_each(&mut take);
        items(json, "/default_filter_chain/filters")
            .iter()
            .for_each(&mut take);
        for chain in items(json, "/filter_chains") {
            items(chain, "/filters").iter().for_each(&mut take);
        }
        let udp = text(json, "/address/socket_address/protocol") == "UDP";
        let quic = json.pointer("/udp_listener_config/quic_options").is_some();
        let kind = match () {
            () if udp && quic => ListenerKind::Quic,
            () if udp => ListenerKind::Udp,
            () if !managers.is_empty() => ListenerKind::Http,
            () if !proxies.is_empty() => ListenerKind::Tcp,
            () => ListenerKind::Other,
        };
        let place = json.get("address").unwrap_or(&Value::Null);
        ConfiguredListener {
            json,
            kind,
            address: match json.get("internal_listener") {
                Some(_) => format!("envoy://{}", text(json, "/name")),
                None => address(place),
            },
            managers,
            proxies,
            datagrams,
        }
    }

    /// The listener's name, or else its address.
    pub fn title(&self) -> &str {
        match text(self.json, "/name") {
            "" => &self.address,
            name => name,
        }
    }

    /// The listener's name and its address.
    pub fn place(&self) -> String {
        match text(self.json, "/name") {
            "" => self.address.clone(),
            name => format!("{name} ({})", self.address),
        }
    }

    /// Whether nobody but Envoy itself can connect to it.
    pub fn is_internal(&self) -> bool {
        self.address.starts_with("envoy://")
    }

    /// The listener's name in the statistics.
    pub fn scope(&self) -> String {
        match text(self.json, "/stat_prefix") {
            "" => self.address.replace(':', "_"),
            prefix => prefix.into(),
        }
    }

    /// Whether one of these words means it (`--exclude-listener`).
    pub fn is_called(&self, words: &[String]) -> bool {
        let name = text(self.json, "/name");
        let prefix = text(self.json, "/stat_prefix");
        if words.iter().any(|word| word == prefix) || is_excluded(name, &self.address, words) {
            return true;
        }
        let mut more = items(self.json, "/additional_addresses").iter();
        more.any(|one| {
            is_excluded(
                name,
                &address(one.get("address").unwrap_or(&Value::Null)),
                words,
            )
        })
    }

    /// Every route that is known.
    pub fn routes(&self) -> impl Iterator<Item = &'a Value> {
        self.managers
            .iter()
            .flat_map(|(_, routes)| routes.iter().flatten().copied())
    }

    /// Whether requests may become sessions without an end: WebSockets, CONNECT tunnels.
    pub fn has_upgrades(&self) -> bool {
        let has = |value: &Value, path: &str| !items(value, path).is_empty();
        self.managers
            .iter()
            .any(|(manager, _)| has(manager, "/upgrade_configs"))
            || self
                .routes()
                .any(|route| has(route, "/route/upgrade_configs"))
    }

    /// The longest that a datagram session lives in silence; Envoy's default is a minute.
    pub fn datagram_idle(&self) -> Option<Duration> {
        let idle = |proxy: &&Value| time(proxy, "/idle_timeout").unwrap_or(MINUTE);
        self.datagrams.iter().map(idle).max()
    }
}

const MINUTE: Duration = Duration::from_secs(60);

/// Every route of a manager; none where they come from an xDS source that has not told them.
fn routes<'a>(manager: &'a Value, config: &'a Config) -> Option<Vec<&'a Value>> {
    let name = text(manager, "/rds/route_config_name");
    let by_name = || {
        config
            .routes
            .iter()
            .find(|table| text(table, "/name") == name)
    };
    let table = manager.get("route_config").or_else(by_name)?;
    let mut all = Vec::new();
    for host in items(table, "/virtual_hosts") {
        all.extend(items(host, "/routes"));
    }
    Some(all)
}
