//! A listener's secret that cannot be used keeps nothing else from being served.

use std::fs;
use std::path::PathBuf;

use nix::sys::signal::{Signal, kill};
use serde_json::json;

use crate::support::clients::HttpConnection;
use crate::support::drainit::Drainit;
use crate::support::envoy_config::{Admin, EnvoyConfig};
use crate::support::pki::{Pair, presented};
use crate::support::scene;
use crate::support::upstream::Upstream;
use crate::support::xds::{Node, secret};
use crate::support::{PATIENCE, wait_for};

/// As SPIRE gives it.
const NAME: &str = "spiffe://td/web";

/// An Envoy with a listener that speaks TLS with a secret of this name, and with plain ones.
struct Edge {
    config: EnvoyConfig,
    files: [PathBuf; 2],
    _upstream: Upstream,
}

impl Edge {
    fn new() -> Edge {
        let (upstream, config) = scene::of(Admin::Unix);
        config.serve_tls(NAME);
        let files = ["live/edge.crt", "live/edge.key"].map(|name| config.dir.join(name));
        Edge {
            config,
            files,
            _upstream: upstream,
        }
    }

    /// The options for this secret.
    fn options(&self, resources: &str) -> Vec<String> {
        let [cert, key] = self.files.each_ref().map(|path| path.display());
        let pair = format!("{NAME}={cert},{key}");
        let check = ["--certificate-check", "100ms"];
        let more = ["--secret", &pair, "--resources-dir", resources];
        more.iter().chain(&check).map(|&word| word.into()).collect()
    }

    fn start(&self, more: &[&str]) -> Drainit {
        let options = self.options(&self.config.resources().display().to_string());
        let options: Vec<_> = options.iter().map(String::as_str).collect();
        Drainit::ready(&[&options, more].concat(), &self.config)
    }

    fn write(&self, pair: &Pair) {
        let [cert, key] = &self.files;
        fs::create_dir_all(cert.parent().unwrap()).unwrap();
        fs::write(cert, &pair.cert).unwrap();
        fs::write(key, &pair.key).unwrap();
    }

    fn serves_plain(&self) -> bool {
        let connection = HttpConnection::open(self.config.metrics);
        let answer = connection.and_then(|mut connection| connection.get("/"));
        answer.is_ok_and(|answer| answer.status == 200)
    }

    fn wait_presented(&self, pair: &Pair) {
        wait_for("the certificate", PATIENCE, || {
            presented(self.config.http).as_ref() == Ok(&pair.serial)
        });
    }
}

fn stale(drainit: &Drainit) -> String {
    let metrics = drainit.get("/metrics").1;
    let name = format!("drainit_certificate_stale{{secret=\"{NAME}\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
    line.expect("the metric").to_owned()
}

/// The certificate is asked for over the plain listener, which must serve first.
#[test]
fn a_certificate_comes_by_way_of_the_plain_listener_from_nothing() {
    let edge = Edge::new();
    let drainit = edge.start(&[]);
    assert!(edge.serves_plain(), "the challenge");
    assert!(presented(edge.config.http).is_err());
    drainit.wait_log(&format!("{NAME}: refused: the certificate: "));
    let told = secret(&drainit, NAME);
    assert_eq!(told["last_result"], "refused");
    assert!(
        told["last_error"].as_str().unwrap().ends_with("is missing"),
        "{told}"
    );
    assert_eq!(stale(&drainit), "1");
    assert_eq!(drainit.get("/ready"), (200, "LIVE".to_owned()));

    let envoy = drainit.envoy_pid();
    let leaf = Pair::ca("acme").leaf();
    edge.write(&leaf);
    edge.wait_presented(&leaf);
    wait_for("the confirmation", PATIENCE, || {
        secret(&drainit, NAME)["last_result"] == "ok" && stale(&drainit) == "0"
    });
    assert_eq!(drainit.envoy_pid(), envoy, "without a restart");
    assert!(edge.serves_plain());
}

#[test]
fn what_envoy_alone_knows_to_be_bad_keeps_nothing_else_from_being_served_at_any_start() {
    let edge = Edge::new();
    let ca = Pair::ca("edge");
    edge.write(&ca.leaf_with(&json!({ "kind": "rsa", "bits": 1024 })));
    let drainit = edge.start(&["--restart", "on-failure"]);
    assert!(edge.serves_plain());
    assert!(presented(edge.config.http).is_err());
    drainit.wait_log(&format!("{NAME}: rejected: Envoy rejected {NAME}"));
    assert_eq!(stale(&drainit), "1");

    let before = drainit.envoy_pid();
    kill(before, Signal::SIGKILL).unwrap();
    wait_for("another Envoy that serves", PATIENCE, || {
        drainit.log.find("envoy started").is_some() && edge.serves_plain()
    });
    let leaf = ca.leaf();
    edge.write(&leaf);
    edge.wait_presented(&leaf);
    wait_for("the confirmation", PATIENCE, || stale(&drainit) == "0");
}

#[test]
fn an_expired_certificate_is_served_loudly_until_there_is_a_better_one() {
    let edge = Edge::new();
    let ca = Pair::ca("edge");
    let expired = ca.leaf_with(&json!({ "before": -9, "after": -1 }));
    edge.write(&expired);
    let drainit = edge.start(&[]);
    edge.wait_presented(&expired);
    drainit.wait_log(&format!("{NAME}: refused: the certificate: expired at"));
    drainit.wait_log(&format!("{NAME}: Envoy gets the set though it is expired"));
    let told = secret(&drainit, NAME);
    assert_eq!(told["last_result"], "refused");
    assert_eq!(told["serial"], expired.serial.as_str());
    assert_eq!(stale(&drainit), "1");
    assert_eq!(drainit.get("/ready").0, 200);

    let leaf = ca.leaf();
    edge.write(&leaf);
    edge.wait_presented(&leaf);
    wait_for("the confirmation", PATIENCE, || stale(&drainit) == "0");
}

/// The gate stays for the set without which there is no configuration.
#[test]
fn only_the_xds_clients_set_is_waited_for() {
    let (node, _) = Node::with_leaf();
    let _plane = node.control_plane(None);
    let missing = format!("{NAME}=/none/tls.crt,/none/tls.key");
    let drainit = node.ready(&["--secret", &missing]);
    assert_eq!(stale(&drainit), "1");
    drop(drainit);

    fs::remove_file(node.file("ca.crt")).unwrap();
    fs::remove_dir_all(node.resources()).unwrap();
    let drainit = node.start(&["--secret", &missing]);
    drainit.wait_log("waiting for certificates: ");
    let (status, why) = drainit.get("/ready");
    assert_eq!(status, 503);
    assert!(
        why.contains("ca.crt: is missing") && !why.contains("/none/"),
        "{why}"
    );
}

#[test]
fn a_start_with_many_secrets_logs_a_few_lines_and_names_a_kernels_limit_that_is_too_low() {
    let edge = Edge::new();
    let leaf = Pair::ca("edge").leaf();
    edge.write(&leaf);
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_user_instances").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    let number = limit.min(1000);
    let [cert, key] = edge.files.each_ref().map(|path| path.display());
    let mut options = Vec::new();
    for number in 0..number {
        let key = [key.to_string(), "/none/tls.key".to_owned()][usize::from(number < 20)].clone();
        options.extend(["--secret".to_owned(), format!("s{number}={cert},{key}")]);
    }
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    let drainit = edge.start(&options);
    edge.wait_presented(&leaf);
    let all = number + 1;
    let line = drainit.wait_log(&format!(
        "certificates: {} of {all} sets published",
        all - 20
    ));
    assert!(
        line.contains("s0: the key: /none/tls.key: is missing") && line.ends_with("and 15 more"),
        "{line}"
    );
    if number == limit {
        drainit.wait_log("set the host's sysctl fs.inotify.max_user_instances to ");
    }
    let lines = drainit.log.lines();
    assert!(lines.len() < 20, "{} lines: {lines:#?}", lines.len());
}
