//! A listener's own certificate, and an Envoy that starts again.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use serde_json::json;

use crate::support::drainit::{Drainit, run};
use crate::support::envoy_config::Admin;
use crate::support::pki::{Pair, ask, presented};
use crate::support::scene;
use crate::support::xds::{LEAF, Node, secret};
use crate::support::{PATIENCE, wait_for, wait_for_some};

#[test]
fn a_static_listener_has_its_new_certificate_within_a_second_and_keeps_its_connections() {
    let (_upstream, config) = scene::of(Admin::Unix);
    config.serve_tls("edge");
    let ca = Pair::ca("edge");
    let (cert, key) = (config.dir.join("edge.crt"), config.dir.join("edge.key"));
    let write = |pair: &Pair| {
        fs::write(&cert, &pair.cert).unwrap();
        fs::write(&key, &pair.key).unwrap();
    };
    let first = ca.leaf();
    write(&first);
    let option = format!("edge={},{}", cert.display(), key.display());
    let resources = config.resources();
    fs::create_dir_all(&resources).unwrap();
    chown(&resources, Some(1234), Some(5678)).unwrap();
    let drainit = Drainit::ready(
        &[
            "--secret",
            &option,
            "--resources-dir",
            &resources.display().to_string(),
        ],
        &config,
    );
    let published = fs::metadata(resources.join("sds/edge.json")).unwrap();
    assert_eq!((published.uid(), published.gid()), (1234, 5678));
    assert_eq!(published.mode() & 0o777, 0o600);
    let (host, port) = (config.http.ip().to_string(), config.http.port());
    let old = ask(&json!({ "do": "open", "host": host, "port": port })).unwrap();
    assert_eq!(old["serial"], first.serial.as_str());
    let get = || ask(&json!({ "do": "get", "id": old["id"] })).unwrap()["status"].clone();
    assert_eq!(get(), 200);
    for _ in 0..3 {
        let next = ca.leaf();
        write(&next);
        wait_for_some("the detection", PATIENCE, || {
            drainit
                .log
                .find(&format!("edge: found serial {}", next.serial))
        });
        let found = Instant::now();
        wait_for("the new certificate", PATIENCE, || {
            presented(config.http).as_ref() == Ok(&next.serial)
        });
        assert!(
            found.elapsed() < Duration::from_secs(1),
            "{:?}",
            found.elapsed()
        );
        assert_eq!(get(), 200);
        wait_for("the confirmation", PATIENCE, || {
            let edge = secret(&drainit, "edge");
            edge["serial"] == next.serial.as_str() && edge["last_result"] == "ok"
        });
    }
    // Nothing was wrong when it started.
    let warned = |line: &&String| line.contains("WARN") && line.contains("waiting");
    assert_eq!(drainit.log.lines().iter().find(warned), None);
    // Whoever changed Envoy's configuration must not take that for reloaded.
    let listen = format!("unix:{}", drainit.health.text());
    let (code, told, err) = run(&["reload", "--listen", &listen]);
    assert_eq!(code, 0, "{err}");
    assert!(
        told.contains("configuration is read again only with --hot-restart"),
        "{told}"
    );
    assert_eq!(drainit.get("/ready").0, 200);
}

#[test]
fn an_envoy_that_is_started_again_has_the_last_good_generation() {
    let (node, _) = Node::with_leaf();
    let plane = node.control_plane(None);
    let drainit = node.ready(&["--certificate-check", "100ms", "--restart", "on-failure"]);
    let good = node.ca.leaf();
    node.write(&good);
    node.wait_loaded(&good);
    wait_for("the confirmation", PATIENCE, || {
        secret(&drainit, LEAF)["reloads"]["ok"].as_u64() >= Some(1)
    });
    // What the files hold from now on is of no use.
    fs::write(node.file("tls.key"), node.ca.leaf().key).unwrap();
    drainit.wait_log(&format!(
        "{LEAF}: refused: the key: is not the certificate's"
    ));
    // And somebody has tidied up.
    fs::remove_dir_all(node.resources().join("sds")).unwrap();
    let before = drainit.envoy_pid();
    kill(before, Signal::SIGKILL).unwrap();
    wait_for("another Envoy", PATIENCE, || {
        drainit
            .log
            .lines()
            .iter()
            .filter(|line| line.contains("envoy started"))
            .count()
            == 2
    });
    node.wait_configured();
    assert_ne!(drainit.envoy_pid(), before);
    plane.wait_presented(&good);
    assert!(node.has_loaded(&good));
    // It is said which one it has, and that the files are bad.
    drainit.wait_ready();
    let told = secret(&drainit, LEAF);
    assert_eq!(told["serial"], good.serial.as_str());
    assert_eq!(told["last_result"], "refused");
    let next = node.ca.leaf();
    node.write(&next);
    node.wait_loaded(&next);
}
