//! Five listeners with a secret each, of which one is broken half of the time.

use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use serde_json::{Value, json};

use crate::put;
use crate::support::drainit::Drainit;
use crate::support::envoy_config::{Admin, EnvoyConfig};
use crate::support::kubelet::write_volume;
use crate::support::pki::{Helper, Pair};
use crate::support::scene;
use crate::support::xds::secret;
use crate::support::{PATIENCE, wait_for};

/// In CI; `TEST_DRAINIT_ROTATIONS` says otherwise.
const ROTATIONS: usize = 20;

/// The one that is broken at every other rotation.
const BROKEN: usize = 4;

/// Each has certificate and key in one file, and a writer of its own kind.
fn write(config: &EnvoyConfig, which: usize, text: &str) {
    let dir = config.dir.join(&format!("live{which}"));
    fs::create_dir_all(&dir).unwrap();
    match which {
        0 | BROKEN => {
            let tag = format!("{:?}", Instant::now()).replace([' ', '{', '}', ':', ','], "");
            write_volume(&dir, &tag, &[("all.pem", text.to_owned())]);
        }
        1 | 2 => put(&dir.join("all.pem"), text),
        _ => fs::write(dir.join("all.pem"), text).unwrap(),
    }
}

fn listener(config: &EnvoyConfig, which: usize) -> Value {
    const TYPE: &str = "type.googleapis.com/envoy.extensions";
    let address = address(config, which);
    let path = config.resources().join(format!("sds/s{which}.json"));
    json!({
        "name": format!("l{which}"),
        "address": { "socket_address": { "address": address.ip(), "port_value": address.port() } },
        "filter_chains": [{
            "transport_socket": { "name": "tls", "typed_config": {
                "@type": format!("{TYPE}.transport_sockets.tls.v3.DownstreamTlsContext"),
                "common_tls_context": { "tls_certificate_sds_secret_configs": [{
                    "name": format!("s{which}"),
                    "sds_config": {
                        "path_config_source": { "path": path },
                        "resource_api_version": "V3",
                    },
                }] },
            } },
            "filters": [{ "name": "http", "typed_config": {
                "@type": format!(
                    "{TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager"
                ),
                "stat_prefix": "http",
                "http_filters": [{ "name": "router", "typed_config": {
                    "@type": format!("{TYPE}.filters.http.router.v3.Router"),
                } }],
                "route_config": { "virtual_hosts": [{
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{
                        "match": { "prefix": "/" },
                        "direct_response": { "status": 200 },
                    }],
                }] },
            } }],
        }],
    })
}

fn address(config: &EnvoyConfig, which: usize) -> SocketAddr {
    (config.ip(), 10_010 + which as u16).into()
}

#[test]
fn rotations_of_five_secrets_fail_no_handshake_but_where_one_is_broken() {
    let set_by_hand = std::env::var("TEST_DRAINIT_ROTATIONS");
    let rotations = set_by_hand.map_or(ROTATIONS, |number| number.parse().unwrap());
    let (_upstream, config) = scene::of(Admin::Unix);
    let admin = json!({ "address": { "pipe": { "path": config.dir.join("admin.sock") } } });
    let listeners: Vec<_> = (0..5).map(|which| listener(&config, which)).collect();
    let bootstrap = json!({
        "node": { "id": "edge", "cluster": "edge" },
        "admin": admin,
        "static_resources": { "listeners": listeners },
    });
    fs::write(&config.file, bootstrap.to_string()).unwrap();
    let ca = Pair::ca("five");
    let mut options = vec!["--resources-dir".to_owned()];
    options.push(config.resources().display().to_string());
    for which in 0..5 {
        // The fifth comes later.
        let text = if which == BROKEN {
            String::new()
        } else {
            ca.leaf().both()
        };
        write(&config, which, &text);
        let all = config.dir.join(&format!("live{which}/all.pem"));
        options.extend([
            "--secret".to_owned(),
            format!("s{which}={0},{0}", all.display()),
        ]);
    }
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    let drainit = Drainit::ready(&options, &config);
    let refused = || {
        secret(&drainit, "s4")["reloads"]["refused"]
            .as_u64()
            .unwrap()
    };
    let over = AtomicBool::new(false);
    let handshakes = thread::scope(|scope| {
        let clients = [[0, 1], [2, 3]].map(|mine| {
            let (config, over) = (&config, &over);
            scope.spawn(move || {
                let mut client = Helper::start();
                let mut handshakes = 0;
                while !over.load(Ordering::SeqCst) {
                    for which in mine {
                        client.fetch(address(config, which)).unwrap();
                        handshakes += 1;
                    }
                }
                handshakes
            })
        });
        let mut client = Helper::start();
        for number in 0..rotations {
            let which = number % 5;
            let next = ca.leaf();
            if which == BROKEN && number / 5 % 2 == 0 {
                let before = refused();
                let whole = next.both();
                let bad = [
                    whole[..whole.len() - 100].to_owned(),
                    format!("{}{}", next.cert, ca.leaf().key),
                    ca.leaf_with(&json!({ "before": -9, "after": -1 })).both(),
                ];
                write(&config, which, &bad[number / 10 % bad.len()]);
                wait_for("the refusal", PATIENCE, || refused() > before);
                continue;
            }
            write(&config, which, &next.both());
            wait_for("the new certificate", PATIENCE, || {
                client.fetch(address(&config, which)).as_ref() == Ok(&next.serial)
            });
        }
        over.store(true, Ordering::SeqCst);
        clients.map(|client| client.join().unwrap())
    });
    assert!(
        handshakes.iter().all(|number| *number > rotations / 2),
        "{handshakes:?}"
    );
    let rounds = rotations / 5;
    for which in 0..4 {
        let name = format!("s{which}");
        wait_for("the last confirmation", PATIENCE, || {
            secret(&drainit, &name)["reloads"]["ok"] == rounds + 1
        });
        assert_eq!(secret(&drainit, &name)["reloads"]["refused"], 0);
    }
}
