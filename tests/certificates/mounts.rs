//! Mounts that get in the way: each in a mount namespace of its drainit's own.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use nix::sys::signal::Signal;

use crate::put;
use crate::support::drainit::{Drainit, Setting};
use crate::support::process::children;
use crate::support::xds::{LEAF, Node, secret};
use crate::support::{PATIENCE, holds_for, wait_for};

/// Behind this script, which mounts something that only drainit and its Envoy see.
fn mounted(script: &str) -> Setting {
    Setting::default()
        .behind(&["unshare", "--mount", "--propagation", "private", "--"])
        .behind_script(&format!("{script}; exec \"$@\""))
}

/// A path as drainit sees it.
fn within(drainit: &Drainit, path: PathBuf) -> PathBuf {
    let path = path.strip_prefix("/").unwrap().to_owned();
    PathBuf::from(format!("/proc/{}/root", drainit.pid())).join(path)
}

#[test]
fn a_mounted_file_that_was_replaced_on_the_host_is_named_with_what_to_do() {
    let (node, _) = Node::with_leaf();
    let _plane = node.control_plane(None);
    let host = node.dir.join("host.crt");
    fs::copy(node.file("tls.crt"), &host).unwrap();
    let target = node.file("tls.crt");
    let script = format!("mount --bind {} {}", host.display(), target.display());
    let drainit = node.start_in(mounted(&script), &["--certificate-check", "100ms"]);
    node.wait_configured();
    // Written in place, it is seen.
    let leaf = node.ca.leaf();
    fs::write(&host, &leaf.cert).unwrap();
    fs::write(node.file("tls.key"), &leaf.key).unwrap();
    node.wait_loaded(&leaf);
    // Replaced, it is not.
    put(&host, &node.ca.leaf().cert);
    let line = drainit.wait_log("was replaced on the host");
    assert!(line.contains("tls.crt"), "{line}");
    assert!(line.contains("mount its directory instead"), "{line}");
    assert!(node.has_loaded(&leaf));
    let said = || {
        let lines = drainit.log.lines().into_iter();
        lines.filter(|line| line.contains("was replaced")).count()
    };
    holds_for("it is said once", std::time::Duration::from_secs(1), || {
        said() == 1
    });
}

#[test]
fn a_full_disk_delays_a_rotation_and_harms_nothing() {
    let (node, first) = Node::with_leaf();
    let plane = node.control_plane(None);
    let script = format!(
        "mount -t tmpfs -o size=64k,mode=700 drainit-test {}",
        node.resources().display()
    );
    let mut drainit = node.start_in(mounted(&script), &["--certificate-check", "100ms"]);
    node.wait_configured();
    drainit.wait_ready();
    let load = node.load(&drainit);
    let fill = within(&drainit, node.resources().join("fill"));
    let mut file = fs::File::create(&fill).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    drop(file);
    let sds = within(&drainit, node.resources().join("sds"));
    let files = || {
        let mut files: Vec<_> = fs::read_dir(&sds)
            .unwrap()
            .map(|file| file.unwrap().path())
            .map(|path| (path.clone(), fs::read(path).unwrap_or_default()))
            .collect();
        files.sort();
        files
    };
    let before = files();
    assert_eq!(before.len(), 2);

    let next = node.ca.leaf();
    node.write(&next);
    let line = drainit.wait_log("cannot publish: ");
    assert!(line.contains("No space left on device"), "{line}");
    assert!(line.contains("ERROR"), "{line}");
    wait_for("the status to say so", PATIENCE, || {
        let told = secret(&drainit, LEAF)["last_error"].clone();
        told.as_str()
            .is_some_and(|told| told.starts_with("cannot publish"))
    });
    assert!(node.has_loaded(&first));
    assert_eq!(drainit.get("/healthz").0, 200);
    assert_eq!(drainit.get("/ready").0, 200);
    load.wait_answered(20);
    // Whatever is half written is taken away again.
    wait_for("the SDS files as they were", PATIENCE, || files() == before);

    fs::remove_file(fill).unwrap();
    node.wait_loaded(&next);
    wait_for("the confirmation", PATIENCE, || {
        secret(&drainit, LEAF)["last_error"].is_null()
    });
    let (_, failed) = load.finish();
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(plane.handshakes(), [first.serial.as_str()]);
    drainit.signal(Signal::SIGTERM);
    assert_eq!(drainit.wait_exit(PATIENCE * 2), 0);
}

/// A file system that nobody answers for: whoever looks at it waits for ever.
fn stuck(node: &Node) -> Setting {
    let place = node.dir.join("stuck");
    fs::create_dir(&place).unwrap();
    mounted(&format!(
        "exec 7<>/dev/fuse; \
         mount -i -t fuse -o fd=7,rootmode=40000,user_id=0,group_id=0 stuck {}",
        place.display()
    ))
}

/// Has a file be on it.
fn leads_there(node: &Node, name: &str) {
    let link = node.dir.join("link");
    std::os::unix::fs::symlink(node.dir.join("stuck").join(name), &link).unwrap();
    fs::rename(link, node.file(name)).unwrap();
}

#[test]
fn a_stuck_file_system_stops_neither_traffic_nor_health_nor_drain() {
    let (node, first) = Node::with_leaf();
    let plane = node.control_plane(None);
    let mut drainit = node.start_in(stuck(&node), &["--certificate-check", "100ms"]);
    node.wait_configured();
    drainit.wait_ready();
    let load = node.load(&drainit);
    leads_there(&node, "tls.key");
    wait_for("a look at it that does not end", PATIENCE, || {
        is_stuck(&drainit)
    });
    load.wait_answered(20);
    assert_eq!(drainit.get("/healthz").0, 200);
    assert_eq!(drainit.get("/ready").0, 200);
    assert_eq!(secret(&drainit, LEAF)["serial"], first.serial.as_str());
    let (_, failed) = load.finish();
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(plane.open(), 1);
    drainit.signal(Signal::SIGTERM);
    assert_eq!(drainit.wait_exit(PATIENCE * 2), 0);
    drainit.wait_log("; exit code ");
}

#[test]
fn a_file_system_that_is_stuck_from_the_start_keeps_the_gate_shut_and_nothing_else() {
    let (node, _) = Node::with_leaf();
    let setting = stuck(&node);
    leads_there(&node, "tls.crt");
    let mut drainit = node.start_in(setting, &[]);
    wait_for("a look at it that does not end", PATIENCE, || {
        is_stuck(&drainit)
    });
    let (status, text) = drainit.get("/healthz");
    assert_eq!(status, 200);
    assert!(text.starts_with("waiting for certificates"), "{text}");
    assert_eq!(drainit.get("/ready").0, 503);
    assert!(children(drainit.pid()).is_empty());
    drainit.signal(Signal::SIGTERM);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
}

/// Whether drainit's certificate thread waits for the file system.
fn is_stuck(drainit: &Drainit) -> bool {
    let tasks = fs::read_dir(format!("/proc/{}/task", drainit.pid())).unwrap();
    tasks.flatten().any(|task| {
        let read = |name| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        read("comm").trim() == "certificates" && read("wchan").contains("fuse")
    })
}
