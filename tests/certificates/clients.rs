//! A listener's clients, judged by a CA and a revocation list that drainit keeps fresh.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::put;
use crate::support::clients::HttpConnection;
use crate::support::drainit::Drainit;
use crate::support::envoy_config::{Admin, EnvoyConfig};
use crate::support::pki::{Helper, Pair};
use crate::support::scene;
use crate::support::upstream::Upstream;
use crate::support::xds::secret;
use crate::support::{PATIENCE, wait_for};

/// As SPIRE gives it.
const CLIENTS: &str = "spiffe://td";

struct Edge {
    config: EnvoyConfig,
    client: Helper,
    _upstream: Upstream,
}

impl Edge {
    fn new() -> Edge {
        let (upstream, config) = scene::of(Admin::Unix);
        config.serve_tls("edge");
        config.demand_clients(CLIENTS);
        let edge = Pair::ca("edge").leaf();
        fs::write(config.dir.join("edge.pem"), edge.both()).unwrap();
        Edge {
            config,
            client: Helper::start(),
            _upstream: upstream,
        }
    }

    fn start(&self) -> Drainit {
        let path = |name: &str| self.config.dir.join(name).display().to_string();
        let pair = format!("edge={},{}", path("edge.pem"), path("edge.pem"));
        let trust = format!("{CLIENTS}={},crl={}", path("ca.pem"), path("ca.crl"));
        let resources = self.config.resources().display().to_string();
        let options = ["--secret", &pair, "--validation", &trust];
        let more = [
            "--resources-dir",
            &resources,
            "--certificate-check",
            "100ms",
        ];
        Drainit::ready(&[options, more].concat(), &self.config)
    }

    /// The CAs, and what they have revoked.
    fn write(&self, cas: &[&Pair], lists: &[String]) {
        let cas: Vec<_> = cas.iter().map(|ca| ca.cert.as_str()).collect();
        put(&self.config.dir.join("ca.pem"), &cas.concat());
        put(&self.config.dir.join("ca.crl"), &lists.concat());
    }

    fn takes(&mut self, client: &Pair) -> bool {
        let address = self.config.http;
        self.client.fetch_as(address, Some(client)).is_ok()
    }

    fn wait_taken(&mut self, client: &Pair) {
        wait_for("a client to be taken", PATIENCE, || self.takes(client));
    }
}

/// The set that these files make is loaded.
fn wait_loaded(drainit: &Drainit, before: &Value) {
    wait_for("the confirmation", PATIENCE, || {
        let now = secret(drainit, CLIENTS);
        now["generation"].as_u64() > before["generation"].as_u64()
            && now["last_result"] == "ok"
            && now["stale"] == false
    });
}

#[test]
fn clients_are_judged_by_the_newest_ca_and_those_that_are_connected_stay() {
    let mut edge = Edge::new();
    let (one, two) = (Pair::ca("one"), Pair::ca("two"));
    let [first, second, revoked] = [one.leaf(), two.leaf(), one.leaf()];
    // No CA is there yet: that keeps nothing else from being served.
    let drainit = edge.start();
    let plain = HttpConnection::open(edge.config.metrics).and_then(|mut plain| plain.get("/"));
    assert_eq!(plain.unwrap().status, 200);
    assert!(!edge.takes(&first));
    let told = secret(&drainit, CLIENTS);
    assert!(
        told["last_error"]
            .as_str()
            .unwrap()
            .ends_with("ca.pem: is missing")
    );
    let metrics = drainit.get("/metrics").1;
    let stale = format!("drainit_certificate_stale{{secret=\"{CLIENTS}\"}} 1\n");
    assert!(metrics.contains(&stale), "{metrics}");

    edge.write(&[&one], &[one.crl(&[&revoked], 30)]);
    edge.wait_taken(&first);
    wait_loaded(&drainit, &json!({ "generation": 0 }));
    let address = edge.config.http;
    assert!(edge.client.fetch(address).is_err(), "without a certificate");
    assert!(!edge.takes(&revoked) && !edge.takes(&second));

    // From now on a connection of the old CA's is in use, and there are new ones all the time.
    let (host, port) = (address.ip().to_string(), address.port());
    let mut old = Helper::start();
    let open = json!({ "do": "open", "host": host, "port": port, "client": first.both() });
    let id = old.ask(&open).unwrap()["id"].clone();
    let old_is_dropped = AtomicBool::new(false);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                assert_eq!(
                    old.ask(&json!({ "do": "get", "id": id })).unwrap()["status"],
                    200
                );
            }
        });
        let new = scope.spawn(|| {
            let mut client = Helper::start();
            while !old_is_dropped.load(Ordering::SeqCst) {
                client.fetch_as(address, Some(&first)).unwrap();
            }
        });
        // In a bundle of many, where one list of a CA does for its own clients.
        let others: Vec<_> = (0..30)
            .map(|number| Pair::ca(&format!("{number}")))
            .collect();
        let many: Vec<_> = others.iter().chain([&one, &two]).collect();
        let before = secret(&drainit, CLIENTS);
        edge.write(&many, &[one.crl(&[&revoked], 30), two.crl(&[], 30)]);
        wait_loaded(&drainit, &before);
        assert!(edge.takes(&second) && edge.takes(&first) && !edge.takes(&revoked));
        let line = drainit.wait_log(&format!("{CLIENTS}: found 32 CAs"));
        assert!(line.contains("2 of them with a revocation list"), "{line}");
        old_is_dropped.store(true, Ordering::SeqCst);
        new.join().unwrap();
        let before = secret(&drainit, CLIENTS);
        edge.write(&[&two], &[two.crl(&[], 30)]);
        wait_loaded(&drainit, &before);
        assert!(edge.takes(&second) && !edge.takes(&first));
        over.store(true, Ordering::SeqCst);
    });
}

#[test]
fn a_revocation_list_that_would_have_every_client_refused_is_refused_or_taken_back() {
    let mut edge = Edge::new();
    let (one, two) = (Pair::ca("one"), Pair::ca("two"));
    let client = one.leaf();
    edge.write(&[&one], &[one.crl(&[], 30)]);
    let drainit = edge.start();
    edge.wait_taken(&client);
    wait_loaded(&drainit, &json!({ "generation": 0 }));
    let good = one.crl(&[&two], 30);
    for (list, why) in [
        (one.crl(&[], -1), "refused: the CRL: expired at"),
        (
            two.crl(&[], 30),
            "refused: the CRL: no list in it is of a CA",
        ),
        (
            good[..200].to_owned(),
            "refused: the CRL: a X509 CRL block is cut off",
        ),
        (broken(&good, &two), "rejected: Envoy rejected spiffe://td"),
    ] {
        edge.write(&[&one], &[list]);
        drainit.wait_log(&format!("{CLIENTS}: {why}"));
        assert_eq!(secret(&drainit, CLIENTS)["stale"], true);
        edge.wait_taken(&client);
    }
    drainit.wait_log(&format!("{CLIENTS}: Envoy has the last good set again"));
    let reloads = &secret(&drainit, CLIENTS)["reloads"];
    assert_eq!(
        (&reloads["refused"], &reloads["rejected"]),
        (&json!(3), &json!(1))
    );
    let before = secret(&drainit, CLIENTS);
    edge.write(&[&one], &[one.crl(&[&client], 30)]);
    wait_loaded(&drainit, &before);
    assert!(!edge.takes(&client));
}

/// A list in which what it has revoked is not as it should be, which Envoy alone looks at.
fn broken(list: &str, revoked: &Pair) -> String {
    let lines = list.lines().filter(|line| !line.starts_with('-'));
    let mut der = STANDARD.decode(lines.collect::<String>()).unwrap();
    let serial = u8::from_str_radix(&revoked.serial[revoked.serial.len() - 2..], 16).unwrap();
    let length = revoked.serial.len().div_ceil(2);
    let end = (0..der.len() - 1).find(|at| {
        let number = at
            .checked_sub(length + 1)
            .and_then(|start| der.get(start..=*at));
        number.is_some_and(|number| number[0] == 0x02 && number[number.len() - 1] == serial)
            && der[at + 1] == 0x17
    });
    // The number that is revoked becomes no number.
    let tag = end.unwrap() - length - 1;
    der[tag] = 0x05;
    format!(
        "-----BEGIN X509 CRL-----\n{}\n-----END X509 CRL-----\n",
        STANDARD.encode(der)
    )
}
