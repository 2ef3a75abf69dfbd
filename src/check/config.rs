//! Envoy's configuration as the rules see it: one shape, whether `/config_dump` or a file told it.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::duration;

/// What is configured.
#[derive(Debug, Default)]
pub struct Config {
    /// The bootstrap.
    pub bootstrap: Value,
    /// Listeners and clusters that an xDS source told.
    listeners: Vec<Value>,
    clusters: Vec<Value>,
    /// Route tables that an xDS source told.
    pub routes: Vec<Value>,
}

impl Config {
    /// Reads the answer to `/config_dump`. None where there is no bootstrap in it.
    pub fn of_dump(dump: &str) -> Option<Config> {
        let mut dump: Value = serde_json::from_str(dump).ok()?;
        let mut config = Config::default();
        for part in dump.get_mut("configs")?.as_array_mut()? {
            match type_of(part) {
                "BootstrapConfigDump" => config.bootstrap = part.get_mut("bootstrap")?.take(),
                "ListenersConfigDump" => {
                    take(part, "dynamic_listeners", "listener", &mut config.listeners);
                }
                "ClustersConfigDump" => {
                    take(
                        part,
                        "dynamic_active_clusters",
                        "cluster",
                        &mut config.clusters,
                    );
                    take(
                        part,
                        "dynamic_warming_clusters",
                        "cluster",
                        &mut config.clusters,
                    );
                }
                "RoutesConfigDump" => {
                    take(
                        part,
                        "dynamic_route_configs",
                        "route_config",
                        &mut config.routes,
                    );
                }
                _ => {}
            }
        }
        config.bootstrap.is_object().then_some(config)
    }

    /// Reads a configuration file in JSON, whose names may be written in either way of protobuf.
    pub fn of_text(text: &str) -> Option<Config> {
        let mut bootstrap: Value = serde_json::from_str(text).ok()?;
        in_snakes(&mut bootstrap);
        bootstrap.is_object().then(|| Config {
            bootstrap,
            ..Config::default()
        })
    }

    /// Envoy's version, where Envoy told the configuration: `1.40.0`.
    pub fn version(&self) -> Option<String> {
        let version = "/node/user_agent_build_version/version";
        let version = self.bootstrap.pointer(version)?;
        // Protobuf leaves out what is 0.
        let part = |name| version.get(name).and_then(Value::as_u64).unwrap_or(0);
        let [major, minor, patch] = ["major_number", "minor_number", "patch"].map(part);
        Some(format!("{major}.{minor}.{patch}"))
    }

    /// Whether listeners or clusters come from files of an xDS source.
    pub fn has_files(&self) -> bool {
        let source = |kind: &str| {
            let path = format!("/dynamic_resources/{kind}/path_config_source");
            self.bootstrap.pointer(&path).is_some()
        };
        ["lds_config", "cds_config"].into_iter().any(source)
    }

    /// Forgets the last of the admin interface's paths: it is the check's own.
    pub fn forget_path(&mut self) {
        let paths = self.bootstrap.pointer_mut("/admin/allow_paths");
        paths.and_then(Value::as_array_mut).and_then(Vec::pop);
    }

    /// The configuration of every listener, the static ones first.
    pub fn listeners(&self) -> [&[Value]; 2] {
        [
            items(&self.bootstrap, "/static_resources/listeners"),
            &self.listeners,
        ]
    }

    /// Whether listeners come from an xDS source that has told none.
    pub fn lacks_listeners(&self) -> bool {
        let source = self.bootstrap.pointer("/dynamic_resources/lds_config");
        source.is_some() && self.listeners.is_empty()
    }

    /// Calls `visit` with every object of listeners, clusters and secrets, and with the name of the
    /// one of these that it is in.
    pub fn visit<'a>(&'a self, visit: &mut dyn FnMut(&str, &'a Map<String, Value>)) {
        let of = |path: &str| items(&self.bootstrap, path);
        let parts = [
            ("listener", of("/static_resources/listeners")),
            ("cluster", of("/static_resources/clusters")),
            ("secret", of("/static_resources/secrets")),
            ("listener", self.listeners.as_slice()),
            ("cluster", self.clusters.as_slice()),
        ];
        for (kind, list) in parts {
            for one in list {
                let mut place = text(one, "/name").to_owned();
                if place.is_empty() {
                    place = address(one.get("address").unwrap_or(&Value::Null));
                }
                let place = format!("{kind} {place}");
                walk(one, &mut |object| visit(&place, object));
            }
        }
    }
}

/// Takes what a list of a dump has of this kind: a listener is in one of its states.
fn take(part: &mut Value, list: &str, item: &str, into: &mut Vec<Value>) {
    let list = part.get_mut(list).and_then(Value::as_array_mut);
    for one in list.into_iter().flatten() {
        let one = match ["active_state", "warming_state"]
            .iter()
            .find(|name| one.get(name).is_some())
        {
            Some(name) => one.get_mut(name),
            None => Some(one),
        };
        into.extend(one.and_then(|one| one.get_mut(item)).map(Value::take));
    }
}

/// Calls `visit` with every object in `value`.
pub fn walk<'a>(value: &'a Value, visit: &mut dyn FnMut(&'a Map<String, Value>)) {
    match value {
        Value::Object(object) => {
            visit(object);
            object.values().for_each(|value| walk(value, visit));
        }
        Value::Array(all) => all.iter().for_each(|value| walk(value, visit)),
        _ => {}
    }
}

/// The items of the list at this pointer; none of anything else.
pub fn items<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    let list = value.pointer(path).and_then(Value::as_array);
    list.map_or(&[], Vec::as_slice)
}

/// The text at this pointer; empty where there is none.
pub fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value
        .pointer(path)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// The last name of an object's type: `TcpProxy`.
pub fn type_of(value: &Value) -> &str {
    let whole = value.get("@type").and_then(Value::as_str);
    whole
        .and_then(|whole| whole.rsplit('.').next())
        .unwrap_or_default()
}

/// The time at this pointer, as protobuf writes it: `15s`, `0.250s`. One that is too long to be
/// counted is the longest.
pub fn time(value: &Value, path: &str) -> Option<Duration> {
    let text = value.pointer(path)?.as_str()?;
    Some(duration::parse(text).unwrap_or(Duration::MAX))
}

/// An address as Envoy writes it: `0.0.0.0:80`, `[::]:80`, a path, `envoy://name`.
pub fn address(address: &Value) -> String {
    if let Some(socket) = address.get("socket_address") {
        let port = socket.get("port_value").and_then(Value::as_u64);
        let port = port.unwrap_or_default();
        return match text(socket, "/address") {
            ip if ip.contains(':') => format!("[{ip}]:{port}"),
            ip => format!("{ip}:{port}"),
        };
    }
    let internal = text(address, "/envoy_internal_address/server_listener_name");
    match text(address, "/pipe/path") {
        "" if internal.is_empty() => "unknown address".into(),
        "" => format!("envoy://{internal}"),
        path => path.into(),
    }
}

/// `connectTimeout` as `connect_timeout`, wherever it is the name of something.
fn in_snakes(value: &mut Value) {
    match value {
        Value::Object(object) => {
            for (name, mut value) in std::mem::take(object) {
                in_snakes(&mut value);
                // Neither `@type` nor the names that people give.
                let is_camel = name.bytes().all(|byte| byte.is_ascii_alphanumeric())
                    && name.starts_with(|first: char| first.is_ascii_lowercase());
                let mut snake = String::new();
                for letter in name.chars() {
                    if is_camel && letter.is_ascii_uppercase() {
                        snake.push('_');
                        snake.push(letter.to_ascii_lowercase());
                    } else {
                        snake.push(letter);
                    }
                }
                object.insert(snake, value);
            }
        }
        Value::Array(all) => all.iter_mut().for_each(in_snakes),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_ways_to_write_a_name_are_read() {
        let text = r#"{"staticResources": {"listeners": [{"name": "aB", "filterChains": [],
            "metadata": {"envoy.lb": {"@type": "x"}}}]}}"#;
        let config = Config::of_text(text).unwrap();
        let expected = json!([{ "name": "aB", "filter_chains": [],
            "metadata": { "envoy.lb": { "@type": "x" } } }]);
        assert_eq!(config.bootstrap["static_resources"]["listeners"], expected);
        assert!(Config::of_text("static_resources: {}").is_none());
        assert!(Config::of_text("[]").is_none());
    }

    #[test]
    fn addresses_are_written_as_envoy_does() {
        let socket = |ip: &str| json!({ "socket_address": { "address": ip, "port_value": 80 } });
        assert_eq!(address(&socket("0.0.0.0")), "0.0.0.0:80");
        assert_eq!(address(&socket("::")), "[::]:80");
        assert_eq!(
            address(&json!({ "pipe": { "path": "/a.sock" } })),
            "/a.sock"
        );
        let internal = json!({ "envoy_internal_address": { "server_listener_name": "x" } });
        assert_eq!(address(&internal), "envoy://x");
    }

    #[test]
    fn a_dump_has_what_xds_told_and_a_page_of_something_else_is_none() {
        let kind = |name: &str| format!("type.googleapis.com/envoy.admin.v3.{name}");
        let dump = json!({ "configs": [
            { "@type": kind("BootstrapConfigDump"), "bootstrap": {
                "dynamic_resources": { "lds_config": {} },
                "static_resources": { "listeners": [{ "name": "one" }] } } },
            { "@type": kind("ListenersConfigDump"), "dynamic_listeners": [
                { "name": "x", "active_state": { "listener": { "name": "two" } } },
                { "name": "y", "warming_state": { "listener": { "name": "three" } } },
                { "name": "z", "error_state": {} },
            ] },
            { "@type": kind("RoutesConfigDump"),
              "dynamic_route_configs": [{ "route_config": { "name": "r" } }] },
        ] });
        let config = Config::of_dump(&dump.to_string()).unwrap();
        let listeners = config.listeners().concat();
        let names: Vec<_> = listeners.iter().map(|one| text(one, "/name")).collect();
        assert_eq!(names, ["one", "two", "three"]);
        assert_eq!(config.routes, [json!({ "name": "r" })]);
        assert!(!config.lacks_listeners());
        assert!(Config::of_dump(r#"{"configs": []}"#).is_none());
        assert!(Config::of_dump("<html>").is_none());
    }
}
