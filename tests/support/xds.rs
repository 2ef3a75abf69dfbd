//! A node whose Envoy has its listener and its cluster from an xDS server over mutual TLS, and
//! that server (`tests/xds/server.py`).

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::drainit::{Drainit, Log, Setting, run};
use super::http::Address;
use super::load::Load;
use super::pki::{Pair, script};
use super::process::Process;
use super::upstream::Upstream;
use super::{Loopback, PATIENCE, TempDir, wait_for, wait_for_some};

/// The secret of the leaf, and of the CA.
pub const LEAF: &str = "contour_xds_tls_certificate";
pub const CA: &str = "contour_xds_tls_validation_context";

/// From the write to Envoy's having it, at default settings, by what is promised.
pub const PROMISED: Duration = Duration::from_millis(2500);

/// A node: its files, its addresses, and what is around it.
pub struct Node {
    pub dir: TempDir,
    pub ca: Pair,
    /// Envoy's listener, where the control plane has it.
    pub listener: SocketAddr,
    pub admin: Address,
    upstream: Upstream,
    loopback: Loopback,
}

impl Node {
    const PORT: u16 = 18_000;

    /// A node without certificates: only the server has some.
    pub fn new() -> Node {
        let dir = TempDir::new();
        let loopback = Loopback::claim();
        let node = Node {
            ca: Pair::ca("tests"),
            listener: SocketAddr::from((loopback.ip, 10_000)),
            admin: Address::Unix(dir.join("admin.sock")),
            upstream: Upstream::start(),
            loopback,
            dir,
        };
        fs::create_dir(node.live()).unwrap();
        node.write_server(&node.ca.server(), &node.ca.cert);
        let [cert, key, ca] = node.paths();
        let (code, _, err) = run(&[
            "bootstrap",
            "--resources-dir",
            &node.resources().display().to_string(),
            "--envoy-cert-file",
            &cert,
            "--envoy-key-file",
            &key,
            "--envoy-cafile",
            &ca,
            "--xds-address",
            &node.loopback.ip.to_string(),
            "--xds-port",
            &Node::PORT.to_string(),
            "--admin-address",
            &node.admin.text(),
            &node.config(),
        ]);
        assert_eq!(code, 0, "{err}");
        node
    }

    /// A node with a leaf of its CA.
    pub fn with_leaf() -> (Node, Pair) {
        let node = Node::new();
        let leaf = node.ca.leaf();
        node.write(&leaf);
        (node, leaf)
    }

    /// Where the certificate files are.
    pub fn live(&self) -> PathBuf {
        self.dir.join("live")
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.live().join(name)
    }

    pub fn resources(&self) -> PathBuf {
        self.dir.join("resources")
    }

    pub fn config(&self) -> String {
        self.dir.join("envoy.json").display().to_string()
    }

    fn paths(&self) -> [String; 3] {
        ["tls.crt", "tls.key", "ca.crt"].map(|name| self.file(name).display().to_string())
    }

    /// Writes a leaf and the CA, in place.
    pub fn write(&self, leaf: &Pair) {
        fs::write(self.file("tls.crt"), &leaf.cert).unwrap();
        fs::write(self.file("tls.key"), &leaf.key).unwrap();
        fs::write(self.file("ca.crt"), &self.ca.cert).unwrap();
    }

    /// What the server has: it reads it at its next handshake.
    pub fn write_server(&self, pair: &Pair, ca: &str) {
        for (name, text) in [
            ("server.crt", pair.cert.as_str()),
            ("server.key", &pair.key),
            ("server-ca.crt", ca),
        ] {
            let new = self.dir.join("new");
            fs::write(&new, text).unwrap();
            fs::rename(new, self.dir.join(name)).unwrap();
        }
    }

    /// A control plane that closes connections of this age.
    pub fn control_plane(&self, age: Option<Duration>) -> ControlPlane {
        let path = |name: &str| self.dir.join(name).display().to_string();
        let mut command = script("server.py");
        for (option, value) in [
            ("--host", self.loopback.ip.to_string()),
            ("--port", Node::PORT.to_string()),
            ("--cert", path("server.crt")),
            ("--key", path("server.key")),
            ("--ca", path("server-ca.crt")),
            ("--listener-host", self.listener.ip().to_string()),
            ("--listener-port", self.listener.port().to_string()),
            ("--upstream-host", self.upstream.http.ip().to_string()),
            ("--upstream-port", self.upstream.http.port().to_string()),
        ] {
            command.args([option, &value]);
        }
        if let Some(age) = age {
            command.args(["--max-connection-age", &age.as_secs_f64().to_string()]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = Process::spawn(&mut command);
        let events = Log::default();
        events.collect(process.child().stdout.take().unwrap());
        let plane = ControlPlane { events, process };
        wait_for("the control plane", PATIENCE * 2, || {
            !plane.events("ready").is_empty()
        });
        plane
    }

    /// The options with which `drainit` keeps the files fresh.
    pub fn options(&self, more: &[&str]) -> Vec<String> {
        let [cert, key, ca] = self.paths();
        let resources = self.resources().display().to_string();
        let mut options = Vec::new();
        for (name, value) in [
            ("--envoy-cert-file", cert),
            ("--envoy-key-file", key),
            ("--envoy-cafile", ca),
            ("--resources-dir", resources),
        ] {
            options.extend([name.to_owned(), value]);
        }
        options.extend(more.iter().map(ToString::to_string));
        options
    }

    /// Envoy under `drainit`, with these options too.
    pub fn start(&self, more: &[&str]) -> Drainit {
        self.start_in(Setting::default(), more)
    }

    pub fn start_in(&self, setting: Setting, more: &[&str]) -> Drainit {
        let options = self.options(more);
        let options: Vec<_> = options.iter().map(String::as_str).collect();
        let mut command = vec![super::envoy().display().to_string()];
        command.extend(
            ["-c", &self.config(), "--concurrency", "2", "-l", "warning"].map(str::to_owned),
        );
        setting.start(&options, &command)
    }

    /// The same, with the listener that the control plane gave it.
    pub fn ready(&self, more: &[&str]) -> Drainit {
        let drainit = self.start(more);
        self.wait_configured();
        drainit.wait_ready();
        drainit
    }

    /// A path of Envoy's admin interface; empty where that does not answer.
    pub fn ask(&self, path: &str) -> String {
        let answer = self.admin.request("GET", path, PATIENCE);
        answer.map_or_else(|_| String::new(), |answer| answer.body)
    }

    pub fn statistic(&self, name: &str) -> u64 {
        let page = self.ask(&format!("/stats?filter=^{name}$"));
        let value = page
            .trim()
            .rsplit(' ')
            .next()
            .and_then(|value| value.parse().ok());
        value.unwrap_or_else(|| panic!("{name}: {page}"))
    }

    /// A statistic of the cluster that is the control plane.
    pub fn of_control_plane(&self, name: &str) -> u64 {
        self.statistic(&format!(
            "cluster.projectcontour_contour_{}.{name}",
            Node::PORT
        ))
    }

    /// Waits for the listener from the control plane.
    #[track_caller]
    pub fn wait_configured(&self) {
        wait_for("Envoy's listener", PATIENCE * 2, || {
            self.ask("/listeners").contains("ingress") && self.ask("/ready") == "LIVE\n"
        });
    }

    pub fn has_loaded(&self, leaf: &Pair) -> bool {
        self.ask("/certs").contains(&leaf.serial)
    }

    /// Waits until Envoy has loaded this; how long that took.
    #[track_caller]
    pub fn wait_loaded(&self, leaf: &Pair) -> Duration {
        let start = Instant::now();
        wait_for(
            &format!("serial {} in Envoy", leaf.serial),
            PATIENCE,
            || self.has_loaded(leaf),
        );
        start.elapsed()
    }

    /// Clients of the listener.
    pub fn load(&self, drainit: &Drainit) -> Load {
        let load = Load::start(vec![(self.listener, drainit.health.clone())], 2, 1);
        load.wait_answered(20);
        load
    }
}

/// A control plane.
pub struct ControlPlane {
    events: Log,
    process: Process,
}

impl ControlPlane {
    /// What it said of this kind.
    pub fn events(&self, kind: &str) -> Vec<Value> {
        let lines = self.events.lines().into_iter();
        lines
            .filter_map(|line| serde_json::from_str::<Value>(&line).ok())
            .filter(|event| event["event"] == kind)
            .collect()
    }

    /// The serials that were presented to it, the last one last.
    pub fn handshakes(&self) -> Vec<String> {
        let serial = |event: Value| event["serial"].as_str().unwrap().to_owned();
        self.events("handshake").into_iter().map(serial).collect()
    }

    /// Waits for the next handshake but those in flight: the serial that is presented from now on.
    #[track_caller]
    pub fn wait_handshake(&self) -> String {
        let before = self.handshakes().len();
        wait_for_some("a handshake with the control plane", PATIENCE, || {
            self.handshakes().get(before).cloned()
        })
    }

    /// Waits until this leaf is presented.
    #[track_caller]
    pub fn wait_presented(&self, leaf: &Pair) {
        wait_for(
            &format!("serial {} to be presented", leaf.serial),
            PATIENCE,
            || self.handshakes().last() == Some(&leaf.serial),
        );
    }

    /// How many streams are open.
    pub fn open(&self) -> usize {
        self.events("handshake").len() - self.events("closed").len()
    }

    pub fn stop(mut self) {
        self.process.signal(Signal::SIGTERM);
        self.process.wait_exit(PATIENCE);
    }
}

/// What `/status` has of a secret.
#[track_caller]
pub fn secret(drainit: &Drainit, name: &str) -> Value {
    let status: Value = serde_json::from_str(&drainit.get("/status").1).unwrap();
    let mut secrets = status["certificates"].as_array().unwrap().iter();
    let found = secrets.find(|secret| secret["secret"] == name);
    found
        .unwrap_or_else(|| panic!("no {name} in {status}"))
        .clone()
}

/// How many changes of the leaf ended so: `ok`, `refused`, `rejected`, `unconfirmed`.
#[track_caller]
pub fn reloads(drainit: &Drainit, result: &str) -> u64 {
    secret(drainit, LEAF)["reloads"][result].as_u64().unwrap()
}

/// Waits for the next change to end so, and gives why.
#[track_caller]
pub fn wait_result(drainit: &Drainit, result: &str, before: u64) -> String {
    wait_for(&format!("a change that ends {result}"), PATIENCE, || {
        reloads(drainit, result) > before
    });
    secret(drainit, LEAF)["last_error"]
        .as_str()
        .unwrap_or("")
        .to_owned()
}
