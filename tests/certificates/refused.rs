//! What is bad is refused, and Envoy keeps what it had.

use std::fs;
use std::time::Duration;

use serde_json::json;

use crate::support::PATIENCE;
use crate::support::pki::Pair;
use crate::support::wait_for;
use crate::support::xds::{LEAF, Node, reloads, secret, wait_result};
use crate::traffic::no_key_is_told;

/// A set that is bad, and what is said of it.
type Bad = (&'static str, fn(&Node), &'static str);

fn write(node: &Node, name: &str, text: impl AsRef<[u8]>) {
    fs::write(node.file(name), text).unwrap();
}

fn write_pair(node: &Node, pair: &Pair) {
    write(node, "tls.crt", &pair.cert);
    write(node, "tls.key", &pair.key);
}

const BAD: [Bad; 11] = [
    (
        "the key of another leaf",
        |node| {
            write(node, "tls.crt", node.ca.leaf().cert);
            write(node, "tls.key", node.ca.leaf().key);
        },
        "the key: is not the certificate's",
    ),
    (
        "a truncated certificate",
        |node| write(node, "tls.crt", &node.ca.leaf().cert[..300]),
        "the certificate: a CERTIFICATE block is cut off",
    ),
    (
        "an empty key",
        |node| write(node, "tls.key", ""),
        "the key: is empty",
    ),
    (
        "a missing key",
        |node| fs::remove_file(node.file("tls.key")).unwrap(),
        "is missing",
    ),
    (
        "a missing directory",
        |node| fs::remove_dir_all(node.live()).unwrap(),
        "is missing",
    ),
    (
        "garbage",
        |node| write(node, "tls.crt", [0xA5; 500]),
        "the certificate: holds no certificate",
    ),
    (
        "garbage that looks like a CA",
        |node| {
            let pem = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
            write(node, "ca.crt", pem);
        },
        "the CA: is no certificate",
    ),
    (
        "an expired leaf",
        |node| {
            let days = json!({ "before": -9, "after": -1 });
            write_pair(node, &node.ca.leaf_with(&days));
        },
        "the certificate: expired at",
    ),
    (
        "a leaf of the future",
        |node| {
            let days = json!({ "before": 1, "after": 9 });
            write_pair(node, &node.ca.leaf_with(&days));
        },
        "the certificate: is not valid before",
    ),
    (
        "an encrypted key",
        |node| write_pair(node, &node.ca.leaf_with(&json!({ "password": "secret" }))),
        "the key: is encrypted",
    ),
    (
        "a CA file without a certificate",
        |node| write(node, "ca.crt", "# soon\n"),
        "the CA: holds no certificate",
    ),
];

#[test]
fn what_is_bad_is_refused_the_old_leaf_presented_and_the_next_good_set_loaded() {
    let (node, mut leaf) = Node::with_leaf();
    let plane = node.control_plane(Some(Duration::from_millis(300)));
    let drainit = node.ready(&["--certificate-check", "100ms"]);
    wait_for("the first set to be confirmed", PATIENCE, || {
        secret(&drainit, LEAF)["last_result"] == "ok"
    });
    let load = node.load(&drainit);
    let mut seen = Vec::new();
    for (what, make, why) in BAD {
        let before = reloads(&drainit, "refused");
        let generation = secret(&drainit, LEAF)["generation"].clone();
        make(&node);
        let told = wait_result(&drainit, "refused", before);
        assert!(told.contains(why), "{what}: {told}");
        drainit.wait_log(&format!("{LEAF}: refused: {told}"));
        let serials = [plane.wait_handshake(), plane.wait_handshake()];
        assert_eq!(serials[1], leaf.serial, "{what}");
        assert_eq!(secret(&drainit, LEAF)["generation"], generation, "{what}");
        assert_eq!(drainit.get("/healthz"), (200, "OK".to_owned()), "{what}");
        assert_eq!(drainit.get("/ready").0, 200, "{what}");

        fs::create_dir_all(node.live()).unwrap();
        leaf = node.ca.leaf();
        node.write(&leaf);
        node.wait_loaded(&leaf);
        plane.wait_presented(&leaf);
        seen.push(leaf.clone());
    }
    assert_eq!(node.of_control_plane("ssl.fail_verify_error"), 0);
    let (_, failed) = load.finish();
    assert!(failed.is_empty(), "{failed:?}");
    no_key_is_told(&drainit, &seen);
}

/// What Envoy alone never recovers from: a bad set, the old one again, and then no rotation is
/// taken any more. And what only Envoy sees is bad: it goes back, and is not poisoned either.
#[test]
fn a_bad_set_and_the_old_one_again_poison_nothing() {
    let (node, leaf) = Node::with_leaf();
    let plane = node.control_plane(Some(Duration::from_millis(300)));
    let drainit = node.ready(&["--certificate-check", "100ms"]);
    wait_for("the first set to be confirmed", PATIENCE, || {
        secret(&drainit, LEAF)["last_result"] == "ok"
    });
    for bad in [
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
        "",
    ] {
        let before = reloads(&drainit, "refused");
        write(&node, "ca.crt", bad);
        wait_result(&drainit, "refused", before);
        write(&node, "ca.crt", &node.ca.cert);
        wait_for("the error to be forgotten", PATIENCE, || {
            secret(&drainit, LEAF)["last_error"].is_null()
        });
        assert_eq!(plane.wait_handshake(), leaf.serial);
    }
    let next = node.ca.leaf();
    write_pair(&node, &next);
    node.wait_loaded(&next);
    plane.wait_presented(&next);

    // Envoy takes no such key, and we do not know.
    let weak = node.ca.leaf_with(&json!({ "kind": "rsa", "bits": 1024 }));
    write_pair(&node, &weak);
    let why = wait_result(&drainit, "rejected", 0);
    assert!(why.contains("Envoy rejected"), "{why}");
    drainit.wait_log("going back to serial");
    drainit.wait_log("Envoy has the last good set again");
    let serials = [plane.wait_handshake(), plane.wait_handshake()];
    assert_eq!(serials[1], next.serial);
    write_pair(&node, &next);
    wait_for("the error to be forgotten", PATIENCE, || {
        secret(&drainit, LEAF)["last_error"].is_null()
    });
    let last = node.ca.leaf();
    write_pair(&node, &last);
    node.wait_loaded(&last);
    plane.wait_presented(&last);
    assert_eq!(node.of_control_plane("ssl.fail_verify_error"), 0);
}
