//! A new CA.

use std::fs;
use std::time::Duration;

use crate::put;
use crate::support::pki::Pair;
use crate::support::xds::{LEAF, Node, secret};
use crate::support::{PATIENCE, wait_for};

/// By a bundle: everybody trusts both, then everybody has a new leaf, then the old one is dropped.
#[test]
fn a_ca_is_replaced_by_way_of_a_bundle_without_a_failed_handshake() {
    let (node, _) = Node::with_leaf();
    let plane = node.control_plane(Some(Duration::from_millis(300)));
    let drainit = node.ready(&["--certificate-check", "100ms"]);
    let load = node.load(&drainit);
    let published = |generation: u64| {
        wait_for(&format!("gen-{generation}"), PATIENCE, || {
            let secret = secret(&drainit, LEAF);
            secret["generation"] == generation && secret["last_result"] == "ok"
        });
        // With the new trust on this side, the other one may change.
        plane.wait_handshake();
    };
    published(1);
    let new = Pair::ca("new");
    let bundle = format!("# old\n{}\r\n# new\r\n{}", node.ca.cert, new.cert);
    put(&node.file("ca.crt"), &bundle);
    node.write_server(&node.ca.server(), &bundle);
    published(2);
    node.write_server(&new.server(), &bundle);
    let leaf = new.leaf();
    put(&node.file("tls.crt"), &leaf.cert);
    put(&node.file("tls.key"), &leaf.key);
    published(3);
    plane.wait_presented(&leaf);
    put(&node.file("ca.crt"), &new.cert);
    node.write_server(&new.server(), &new.cert);
    published(4);
    plane.wait_presented(&leaf);
    plane.wait_handshake();
    for name in ["fail_verify_error", "fail_verify_san", "connection_error"] {
        let name = format!("ssl.{name}");
        assert_eq!(node.of_control_plane(&name), 0, "{name}");
    }
    assert_eq!(node.of_control_plane("upstream_cx_connect_fail"), 0);
    let (_, failed) = load.finish();
    assert!(failed.is_empty(), "{failed:?}");
}

/// At once, on both sides: the connection comes back by itself.
#[test]
fn after_a_hard_cut_of_the_ca_envoy_reconnects_by_itself() {
    let (node, _) = Node::with_leaf();
    let plane = node.control_plane(Some(Duration::from_millis(300)));
    let drainit = node.ready(&["--certificate-check", "100ms"]);
    let load = node.load(&drainit);
    let new = Pair::ca("new");
    let leaf = new.leaf();
    node.write_server(&new.server(), &new.cert);
    // For so long the server is of a CA that Envoy does not know.
    wait_for("a failed handshake", PATIENCE, || {
        node.of_control_plane("ssl.fail_verify_error") > 0
    });
    fs::write(node.file("ca.crt"), &new.cert).unwrap();
    fs::write(node.file("tls.crt"), &leaf.cert).unwrap();
    fs::write(node.file("tls.key"), &leaf.key).unwrap();
    node.wait_loaded(&leaf);
    plane.wait_presented(&leaf);
    let (_, failed) = load.finish();
    assert!(failed.is_empty(), "{failed:?}");
}
