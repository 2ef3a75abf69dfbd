//! Mounts that get in the way: each in a mount namespace of its drainit's own.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::put;
use crate::support::drainit::{Drainit, Setting};
use crate::support::envoy_config::Admin;
use crate::support::pki::{Pair, presented};
use crate::support::process::children;
use crate::support::scene;
use crate::support::xds::{LEAF, Node, secret};
use crate::support::{PATIENCE, TempDir, holds_for, wait_for};

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
    let drainit = node.start_in(mounted(&script), &[]);
    node.wait_configured();
    // Written in place, it is seen: the kernel tells of that by any name.
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
    holds_for("it is said once", Duration::from_secs(1), || said() == 1);
}

/// The kernel tells of nothing that is done to the layers of a union mount.
#[test]
fn where_the_kernel_tells_nothing_a_change_is_found_by_looking() {
    let (node, _) = Node::with_leaf();
    let _plane = node.control_plane(None);
    let [upper, work] = ["upper", "work"].map(|name| node.dir.join(name));
    fs::rename(node.live(), &upper).unwrap();
    fs::create_dir(node.live()).unwrap();
    fs::create_dir(&work).unwrap();
    let script = format!(
        "mount -t overlay overlay -o lowerdir={0},upperdir={1},workdir={2} {0}",
        node.live().display(),
        upper.display(),
        work.display()
    );
    let _drainit = node.start_in(mounted(&script), &[]);
    node.wait_configured();
    let leaf = node.ca.leaf();
    for (name, text) in [("tls.crt", &leaf.cert), ("tls.key", &leaf.key)] {
        fs::write(upper.join(name), text).unwrap();
    }
    // Sooner than the looks where the kernel tells of all.
    node.wait_loaded(&leaf);
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
    assert!(line.contains("/sds: No space left on device"), "{line}");
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
    let lines = drainit.log.lines();
    let told = |line: &&String| line.contains("cannot publish: ");
    assert_eq!(lines.iter().filter(told).count(), 1, "each try is told");
    let (_, failed) = load.finish();
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(plane.handshakes(), [first.serial.as_str()]);
    drainit.signal(Signal::SIGTERM);
    assert_eq!(drainit.wait_exit(PATIENCE * 2), 0);
}

/// A file system that nobody answers for: whoever looks at it waits for ever.
fn stuck(dir: &TempDir) -> Setting {
    let place = dir.join("stuck");
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
    let mut drainit = node.start_in(stuck(&node.dir), &["--certificate-check", "100ms"]);
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
    is_told(&node, &drainit, "tls.key", LEAF);
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
    let setting = stuck(&node.dir);
    leads_there(&node, "tls.crt");
    let mut drainit = node.start_in(setting, &[]);
    wait_for("a look at it that does not end", PATIENCE, || {
        is_stuck(&drainit)
    });
    drainit.wait_log("health, status and metrics are served");
    let (status, text) = drainit.get("/healthz");
    assert_eq!(status, 200);
    assert!(text.starts_with("waiting for certificates"), "{text}");
    assert_eq!(drainit.get("/ready").0, 503);
    assert!(children(drainit.pid()).is_empty());
    is_told(&node, &drainit, "tls.crt", LEAF);
    let text = drainit.get("/healthz").1;
    assert!(text.contains("tls.crt does not answer"), "{text}");
    drainit.signal(Signal::SIGTERM);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
}

#[test]
fn a_secret_whose_file_system_hangs_keeps_no_other_from_being_served_or_rotated() {
    let (_upstream, config) = scene::of(Admin::Unix);
    config.serve_tls("edge");
    let ca = Pair::ca("edge");
    let first = ca.leaf();
    let pair = config.dir.join("edge.pem");
    put(&pair, &first.both());
    let edge = format!("edge={0},{0}", pair.display());
    let stuck_ = config.dir.join("stuck/x.pem").display().to_string();
    let other = format!("other={stuck_},{stuck_}");
    let resources = config.resources().display().to_string();
    let options = [
        "--secret",
        &other,
        "--secret",
        &edge,
        "--resources-dir",
        &resources,
    ];
    let mut command = vec![crate::support::envoy().display().to_string()];
    command.extend(config.arguments());
    let mut drainit = stuck(&config.dir).start(&options, &command);
    drainit.wait_ready();
    wait_for("the first certificate", PATIENCE, || {
        presented(config.http).as_ref() == Ok(&first.serial)
    });
    assert!(is_stuck(&drainit));
    let (code, _, said) = crate::support::drainit::run(&[
        "reload",
        "--listen",
        &format!("unix:{}", drainit.health.text()),
    ]);
    assert!(
        code == 1 && said.contains("x.pem does not answer"),
        "{code}: {said}"
    );
    let next = ca.leaf();
    put(&pair, &next.both());
    wait_for("the next certificate", PATIENCE, || {
        presented(config.http).as_ref() == Ok(&next.serial)
    });
    assert_eq!(
        secret(&drainit, "edge")["last_error"],
        serde_json::Value::Null
    );
    assert_eq!(secret(&drainit, "other")["stale"], true);
    drainit.signal(Signal::SIGTERM);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
}

/// What hangs is said in the log, the status and the metric.
fn is_told(node: &Node, drainit: &Drainit, file: &str, name: &str) {
    let path = node.file(file).display().to_string();
    let why = format!("{path} does not answer: its file system has hung for 10 s");
    let line = drainit.wait_log(&format!("refused: {why}"));
    assert!(line.contains("WARN"), "{line}");
    let told = secret(drainit, name);
    assert_eq!(told["last_error"], why.as_str());
    assert_eq!(told["stale"], true);
    let metrics = drainit.get("/metrics").1;
    let line = format!("\ndrainit_certificate_stale{{secret=\"{name}\"}} 1\n");
    assert!(metrics.contains(&line), "{metrics}");
}

/// Everything that drainit is told to look at, on a file system that does not answer.
#[test]
fn whatever_hangs_a_sigterm_is_obeyed_at_once() {
    let (_upstream, config) = scene::of(Admin::Unix);
    let node = Node::new();
    for (options, of_envoy) in [
        (
            ["--resources-dir", "STUCK", "--secret", "a=/x.crt,/x.key"],
            None,
        ),
        (
            [
                "--resources-dir",
                "OURS",
                "--secret",
                "a=STUCK/x.crt,/x.key",
            ],
            None,
        ),
        (
            [
                "--resources-dir",
                "OURS",
                "--secret",
                "a=DATA/ec.crt,STUCK/x.key",
            ],
            None,
        ),
        (
            ["--kill-timeout", "500ms", "--drain-timeout", "500ms"],
            Some("STUCK/admin"),
        ),
    ] {
        let setting = stuck(&node.dir);
        let place = |text: &str| {
            let ours = node.resources().display().to_string();
            let stuck = node.dir.join("stuck").display().to_string();
            let data = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data");
            let text = text.replace("OURS", &ours).replace("DATA", data);
            text.replace("STUCK", &stuck)
        };
        let told = options.map(place);
        let mut command = vec![crate::support::envoy().display().to_string()];
        command.extend(config.arguments());
        if let Some(path) = of_envoy {
            command.extend(["--admin-address-path".to_owned(), place(path)]);
        }
        let options: Vec<_> = told.iter().map(String::as_str).collect();
        let mut drainit = setting.start(&options, &command);
        wait_for("a look at it that does not end", PATIENCE, || {
            is_stuck(&drainit)
        });
        // The port may come a moment after the hang.
        wait_for("an answer of its port", PATIENCE, || {
            drainit
                .request("GET", "/healthz", PATIENCE)
                .is_ok_and(|(status, _)| status == 200)
        });
        if of_envoy.is_some() {
            drainit.wait_log("stuck/admin does not answer");
        }
        let start = Instant::now();
        drainit.signal(Signal::SIGTERM);
        drainit.wait_log("SIGTERM");
        let heard = start.elapsed();
        drainit.wait_exit(PATIENCE);
        let over = start.elapsed();
        println!("{options:?}: heard {heard:?}, over {over:?}");
        // An Envoy that hangs itself is killed after its time.
        assert!(
            of_envoy.is_some() || over < Duration::from_secs(1),
            "{options:?}: {over:?}"
        );
        assert!(heard < Duration::from_secs(1), "{options:?}: {heard:?}");
        drainit.wait_log("; exit code ");
        fs::remove_dir(node.dir.join("stuck")).unwrap();
    }
}

#[test]
fn a_configuration_file_that_hangs_is_told_and_a_sigterm_obeyed() {
    let (_upstream, config) = scene::of(Admin::Unix);
    let mut command = vec![crate::support::envoy().display().to_string()];
    command.extend(config.arguments());
    let options = ["--hot-restart", "--watch-config", "--drain-timeout", "2s"];
    let mut drainit = stuck(&config.dir).start(&options, &command);
    drainit.wait_ready();
    let link = config.dir.join("link");
    std::os::unix::fs::symlink(config.dir.join("stuck/envoy.yaml"), &link).unwrap();
    fs::rename(link, &config.file).unwrap();
    let why = format!(
        "{} does not answer: its file system has hung for 10 s",
        config.file.display()
    );
    let line = drainit.wait_log(&why);
    assert!(line.contains("WARN"), "{line}");
    let status: serde_json::Value = serde_json::from_str(&drainit.get("/status").1).unwrap();
    assert_eq!(status["configuration"]["hangs"], why.as_str());
    let listen = format!("unix:{}", drainit.health.text());
    let (_, table, _) = crate::support::drainit::run(&["status", "--listen", &listen]);
    let flat = table.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(flat.contains("does not answer: its file system"), "{table}");
    assert_eq!(drainit.get("/ready").0, 200);
    // A trial of the file hangs with it.
    drainit.signal(Signal::SIGHUP);
    drainit.wait_log("SIGHUP");
    let start = Instant::now();
    drainit.signal(Signal::SIGTERM);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    assert!(start.elapsed() < Duration::from_secs(10));
    drainit.wait_log("; exit code ");
}

/// Whether a thread of drainit's, the main one apart, waits for the file system.
fn is_stuck(drainit: &Drainit) -> bool {
    let tasks = fs::read_dir(format!("/proc/{}/task", drainit.pid())).unwrap();
    tasks.flatten().any(|task| {
        let read = |name| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        read("comm").trim() != "drainit" && read("wchan").contains("fuse")
    })
}
