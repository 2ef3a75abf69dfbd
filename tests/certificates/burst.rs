//! Many changes at once, and none at all.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use crate::put;
use crate::support::xds::{LEAF, Node, secret};
use crate::support::{PATIENCE, holds_for, wait_for};

#[test]
fn of_twenty_changes_in_four_seconds_the_last_one_wins_and_a_touch_is_none() {
    let (node, _) = Node::with_leaf();
    let plane = node.control_plane(Some(Duration::from_millis(500)));
    let drainit = node.ready(&[]);
    let leaves: Vec<_> = (0..20).map(|_| node.ca.leaf()).collect();
    for leaf in &leaves {
        node.write(leaf);
        sleep(Duration::from_millis(200));
    }
    let last = leaves.last().unwrap();
    node.wait_loaded(last);
    plane.wait_presented(last);
    wait_for("its confirmation", PATIENCE, || {
        let secret = secret(&drainit, LEAF);
        secret["serial"] == last.serial.as_str() && secret["last_result"] == "ok"
    });

    // The same bytes once more, in place and by a rename.
    let before = secret(&drainit, LEAF);
    let reloaded = node.of_control_plane("client_ssl_socket_factory.ssl_context_update_by_sds");
    node.write(last);
    holds_for("the generation", Duration::from_secs(3), || {
        secret(&drainit, LEAF)["generation"] == before["generation"]
    });
    for name in ["tls.crt", "tls.key", "ca.crt"] {
        let text = fs::read_to_string(node.file(name)).unwrap();
        put(&node.file(name), &text);
    }
    holds_for("the generation", Duration::from_secs(3), || {
        secret(&drainit, LEAF)["generation"] == before["generation"]
    });
    let after = secret(&drainit, LEAF);
    assert_eq!(after["reloads"], before["reloads"]);
    assert_eq!(
        node.of_control_plane("client_ssl_socket_factory.ssl_context_update_by_sds"),
        reloaded
    );
}
