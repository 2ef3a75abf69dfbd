//! Whoever writes the files, and however.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::put;
use crate::support::kubelet::write_volume;
use crate::support::pki::Pair;
use crate::support::xds::{Node, PROMISED};

/// Between two files of a slow writer.
const PAUSE: Duration = Duration::from_millis(300);

type Writer = fn(&Node, &Pair);

pub fn files(node: &Node, leaf: &Pair) -> [(&'static str, String); 3] {
    [
        ("tls.crt", leaf.cert.clone()),
        ("tls.key", leaf.key.clone()),
        ("ca.crt", node.ca.cert.clone()),
    ]
}

pub fn kubelet(node: &Node, leaf: &Pair) {
    write_volume(&node.live(), &leaf.serial, &files(node, leaf));
}

pub fn rename(node: &Node, leaf: &Pair) {
    for (name, text) in files(node, leaf) {
        put(&node.file(name), &text);
    }
}

pub fn in_place(node: &Node, leaf: &Pair) {
    node.write(leaf);
}

fn paused(node: &Node, leaf: &Pair) {
    for (name, text) in files(node, leaf) {
        sleep(PAUSE);
        fs::write(node.file(name), text).unwrap();
    }
}

/// Two seconds for two files, in pieces.
fn torn(node: &Node, leaf: &Pair) {
    let pieces = 5;
    for (name, text) in [("tls.crt", &leaf.cert), ("tls.key", &leaf.key)] {
        let mut file = File::create(node.file(name)).unwrap();
        for piece in text.as_bytes().chunks(text.len() / pieces + 1) {
            file.write_all(piece).unwrap();
            sleep(Duration::from_secs(1) / pieces as u32);
        }
    }
}

/// As `install` does, and `cp --remove-destination`.
fn removed_before(node: &Node, leaf: &Pair) {
    for (name, text) in files(node, leaf) {
        fs::remove_file(node.file(name)).unwrap();
        fs::write(node.file(name), text).unwrap();
    }
}

/// As certbot does: the links are others, one after the other.
fn linked(node: &Node, leaf: &Pair) {
    let archive = node.dir.join(&leaf.serial);
    fs::create_dir(&archive).unwrap();
    for (name, text) in files(node, leaf) {
        fs::write(archive.join(name), text).unwrap();
        fs::remove_file(node.file(name)).unwrap();
        symlink(archive.join(name), node.file(name)).unwrap();
    }
}

/// The whole directory is another.
fn directory(node: &Node, leaf: &Pair) {
    let new = node.dir.join("next");
    fs::create_dir(&new).unwrap();
    for (name, text) in files(node, leaf) {
        fs::write(new.join(name), text).unwrap();
    }
    fs::rename(node.live(), node.dir.join("previous")).unwrap();
    fs::rename(new, node.live()).unwrap();
}

#[test]
fn whoever_writes_the_new_leaf_is_loaded_without_a_look_and_presented_next() {
    let node = Node::new();
    kubelet(&node, &node.ca.leaf());
    let plane = node.control_plane(Some(Duration::from_millis(250)));
    let _drainit = node.ready(&["--certificate-check", "10m"]);
    let writers: [(&str, Writer); 8] = [
        ("kubelet", kubelet),
        ("rename", rename),
        ("in place", in_place),
        ("in place, 300 ms between", paused),
        ("torn, two seconds", torn),
        ("removed before", removed_before),
        ("links", linked),
        ("the directory", directory),
    ];
    for (name, write) in writers {
        let leaf = node.ca.leaf();
        write(&node, &leaf);
        let written = Instant::now();
        node.wait_loaded(&leaf);
        let took = written.elapsed();
        println!("{name}: loaded after {took:?}");
        assert!(took < PROMISED, "{name}: {took:?}");
        // Not the handshake that may just go on.
        let serial = [plane.wait_handshake(), plane.wait_handshake()];
        assert_eq!(serial[1], leaf.serial, "{name}");
    }
    assert_eq!(node.of_control_plane("ssl.fail_verify_error"), 0);
}
