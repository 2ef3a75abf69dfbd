//! Private keys: where they are, and where they are not.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, chown, symlink};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::put;
use crate::support::drainit::Drainit;
use crate::support::envoy_config::{Admin, EnvoyConfig};
use crate::support::pki::{Pair, presented};
use crate::support::scene;
use crate::support::upstream::Upstream;
use crate::support::xds::{Node, reloads, secret};
use crate::support::{PATIENCE, TempDir, wait_for};

/// The lines of a key that no other key has.
fn lines(key: &str) -> Vec<String> {
    let lines = key.lines().filter(|line| !line.starts_with('-'));
    lines.skip(1).map(str::to_owned).collect()
}

/// A piece of a key's bytes that is secret: of an EC key's number, of an RSA key's last one.
fn der(key: &str) -> Vec<u8> {
    let lines = key.lines().filter(|line| !line.starts_with('-'));
    let der = STANDARD.decode(lines.collect::<String>()).unwrap();
    let at = if der.len() > 500 { der.len() - 100 } else { 40 };
    der[at..at + 24].to_vec()
}

/// An SDS secret `edge` of this certificate and key file, and an Envoy that serves with it.
struct Edge {
    config: EnvoyConfig,
    _upstream: Upstream,
}

impl Edge {
    fn new() -> Edge {
        let (upstream, config) = scene::of(Admin::Unix);
        config.serve_tls("edge");
        Edge {
            config,
            _upstream: upstream,
        }
    }

    fn start(&self, cert: &str, key: &str) -> Drainit {
        let path = |name: &str| self.config.dir.join(name).display().to_string();
        let pair = format!("edge={},{}", path(cert), path(key));
        let resources = self.config.resources().display().to_string();
        Drainit::envoy(
            &[
                "--secret",
                &pair,
                "--resources-dir",
                &resources,
                "--certificate-check",
                "100ms",
            ],
            &self.config,
        )
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.config.dir.join(name), text).unwrap();
    }

    fn ask(&self, path: &str) -> String {
        let admin = self.config.admin.as_ref().unwrap();
        admin.request("GET", path, PATIENCE).unwrap().body
    }

    /// The secret as it is published.
    fn published(&self) -> Value {
        let text = fs::read(self.config.resources().join("sds/edge.json")).unwrap();
        let json: Value = serde_json::from_slice(&text).unwrap();
        json["resources"][0]["tls_certificate"].clone()
    }
}

#[test]
fn of_one_file_with_key_and_chain_envoys_config_dump_shows_no_key() {
    let edge = Edge::new();
    let ca = Pair::ca("edge");
    for order in 0..2 {
        let leaf = ca.leaf();
        let parts = [
            "# key and chain\n",
            [leaf.key.as_str(), &leaf.cert][order],
            [&leaf.cert, leaf.key.as_str()][order],
            &ca.cert,
        ];
        edge.write("all.pem", &parts.concat());
        let drainit = edge.start("all.pem", "all.pem");
        drainit.wait_ready();
        // The Envoy before may still be about to end.
        wait_for("its certificate", PATIENCE, || {
            presented(edge.config.http).as_ref() == Ok(&leaf.serial)
        });
        let dump = edge.ask("/config_dump?include_eds");
        assert!(dump.contains("BEGIN CERTIFICATE") || dump.contains("LS0tLS1CRUdJTiBDRVJU"));
        assert!(!dump.contains("PRIVATE KEY"), "{dump}");
        // It shows bytes in base64, or as they are.
        let encoded = STANDARD.encode(&leaf.key);
        for line in lines(&leaf.key) {
            assert!(!dump.contains(&line), "{dump}");
        }
        assert!(!dump.contains(&encoded[100..160]), "{dump}");
        let published = edge.published();
        let chain = published["certificate_chain"]["inline_string"].as_str();
        assert_eq!(chain.unwrap(), [leaf.cert.as_str(), &ca.cert].concat());
        let key = published["private_key"]["inline_string"].as_str();
        assert_eq!(key.unwrap(), leaf.key);
    }
}

/// The pieces that are in a process's memory, each with whether a core dump would hold it.
fn in_memory(process: Pid, pieces: &[(usize, Vec<u8>)]) -> Vec<(usize, bool)> {
    let map = fs::read_to_string(format!("/proc/{process}/smaps")).unwrap();
    let mut memory = fs::File::open(format!("/proc/{process}/mem")).unwrap();
    let mut found = Vec::new();
    let mut range = None;
    for line in map.lines() {
        let ends = line.split(' ').next().unwrap().split_once('-');
        let hex = |text| u64::from_str_radix(text, 16).ok();
        if let Some((Some(start), Some(end))) = ends.map(|(start, end)| (hex(start), hex(end))) {
            range = Some((start, end));
        }
        let Some(flags) = line.strip_prefix("VmFlags: ") else {
            continue;
        };
        let (start, end) = range.unwrap();
        let mut bytes = vec![0; (end - start) as usize];
        if memory.seek(SeekFrom::Start(start)).is_err() || memory.read_exact(&mut bytes).is_err() {
            continue;
        }
        let dumped = !flags.split(' ').any(|flag| flag == "dd");
        for (whose, piece) in pieces {
            if bytes.windows(piece.len()).any(|place| place == piece) {
                found.push((*whose, dumped));
            }
        }
    }
    found
}

#[test]
fn after_ten_rotations_the_memory_holds_the_last_two_keys_at_the_most_and_no_core_dump_one() {
    let (node, first) = Node::with_leaf();
    let _plane = node.control_plane(None);
    // The first key is read from what is published, too.
    let mut before = node.ready(&[]);
    before.signal(Signal::SIGTERM);
    before.wait_exit(PATIENCE);
    let drainit = node.ready(&["--certificate-check", "100ms"]);
    let mut keys = vec![first.key];
    for rotation in 1..=10 {
        // Of several sizes: what was freed of a longer one is not used again at once.
        let kind = ["ec", "rsa"][rotation % 2];
        let mut leaf = node.ca.leaf_with(&json!({ "kind": kind, "bits": 2048 }));
        if rotation == 5 {
            // All in one file, too.
            leaf.cert = format!("{}{}", leaf.key, leaf.cert);
        }
        node.write(&leaf);
        node.wait_loaded(&leaf);
        wait_for("the confirmation", PATIENCE, || {
            // The last result is the one before's until then.
            reloads(&drainit, "ok") == rotation as u64
        });
        keys.push(leaf.key);
    }
    let pieces: Vec<_> = keys
        .iter()
        .enumerate()
        .flat_map(|(at, key)| {
            let lines = lines(key).into_iter().map(String::into_bytes);
            lines.chain([der(key)]).map(move |piece| (at, piece))
        })
        .collect();
    let found = in_memory(drainit.pid(), &pieces);
    assert!(found.iter().any(|(at, _)| *at == 10), "{found:?}");
    assert!(found.iter().all(|(at, _)| *at >= 9), "{found:?}");
    assert!(found.iter().all(|(_, dumped)| !dumped), "{found:?}");
}

#[test]
fn no_candidates_key_is_in_a_file_and_what_an_earlier_drainit_left_is_removed() {
    let edge = Edge::new();
    let ca = Pair::ca("edge");
    let leaf = ca.leaf();
    edge.write("edge.crt", &leaf.cert);
    edge.write("edge.key", &leaf.key);
    let sds = edge.config.resources().join("sds");
    fs::create_dir_all(&sds).unwrap();
    for left in [
        ".edge.candidate.json",
        ".gone.candidate.json",
        ".edge.json.tmp",
    ] {
        fs::write(sds.join(left), &leaf.key).unwrap();
    }
    let path = |name: &str| edge.config.dir.join(name).display().to_string();
    let mut options = Vec::new();
    for number in 0..30 {
        let (cert, key) = (path("edge.crt"), path("edge.key"));
        options.extend(["--secret".to_owned(), format!("s{number}={cert},{key}")]);
    }
    let resources = edge.config.resources().display().to_string();
    options.extend(["--resources-dir".to_owned(), resources]);
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    let mut drainit = Drainit::envoy(&options, &edge.config);
    let hidden = || {
        let names = fs::read_dir(&sds).unwrap().flatten();
        let names = names.map(|entry| entry.file_name().into_string().unwrap());
        names
            .filter(|name| name.starts_with('.') && !name.ends_with(".json.tmp"))
            .collect::<Vec<_>>()
    };
    wait_for("what was left to be removed", PATIENCE, || {
        hidden().is_empty()
    });
    // Candidates are tried one after the other.
    wait_for("some to be tried", PATIENCE, || {
        assert_eq!(hidden(), [""; 0]);
        sds.join("s2.json").exists()
    });
    drainit.signal(Signal::SIGTERM);
    drainit.wait_exit(PATIENCE);
    let names = fs::read_dir(&sds).unwrap().flatten();
    for name in names.map(|entry| entry.file_name().into_string().unwrap()) {
        assert!(!name.starts_with('.'), "{name}");
    }
}

#[test]
fn a_directory_that_leads_elsewhere_is_refused_and_nothing_of_roots_replaced() {
    let edge = Edge::new();
    let leaf = Pair::ca("edge").leaf();
    edge.write("edge.crt", &leaf.cert);
    edge.write("edge.key", &leaf.key);
    let elsewhere = TempDir::new();
    fs::write(elsewhere.join("edge.json"), "root's").unwrap();
    let resources = edge.config.resources();
    fs::create_dir(&resources).unwrap();
    chown(&resources, Some(1234), Some(1234)).unwrap();
    symlink(elsewhere.path(), resources.join("sds")).unwrap();
    let drainit = edge.start("edge.crt", "edge.key");
    let line = drainit.wait_log("cannot publish: ");
    assert!(
        line.contains("/sds is a link or no directory: remove it"),
        "{line}"
    );
    assert_eq!(fs::read(elsewhere.join("edge.json")).unwrap(), b"root's");
    let owner = fs::metadata(elsewhere.path()).unwrap().uid();
    assert_eq!(owner, 0);
    fs::remove_file(resources.join("sds")).unwrap();
    drainit.wait_ready();
    assert_eq!(
        fs::metadata(resources.join("sds/edge.json")).unwrap().uid(),
        1234
    );
    drainit.wait_log("SDS files: ");
}

#[test]
fn a_fifo_in_place_of_an_sds_file_is_replaced() {
    let edge = Edge::new();
    let leaf = Pair::ca("edge").leaf();
    edge.write("edge.crt", &leaf.cert);
    edge.write("edge.key", &leaf.key);
    let sds = edge.config.resources().join("sds");
    fs::create_dir_all(&sds).unwrap();
    let mode = nix::sys::stat::Mode::S_IRWXU;
    nix::unistd::mkfifo(&sds.join("edge.json"), mode).unwrap();
    let drainit = edge.start("edge.crt", "edge.key");
    drainit.wait_ready();
    drainit.wait_log("edge.json is no file, and will be replaced by one");
    assert_eq!(presented(edge.config.http).as_ref(), Ok(&leaf.serial));
}

#[test]
fn the_metric_says_that_what_the_files_hold_is_not_what_envoy_has() {
    let edge = Edge::new();
    let ca = Pair::ca("edge");
    let stale = |drainit: &Drainit, value: u8| {
        let line = format!("\ndrainit_certificate_stale{{secret=\"edge\"}} {value}\n");
        wait_for(&line, PATIENCE, || {
            drainit.get("/metrics").1.contains(&line)
        });
        let told = secret(drainit, "edge")["stale"] == (value == 1);
        assert!(told);
    };
    let drainit = edge.start("edge.crt", "edge.key");
    wait_for("the port", PATIENCE, || {
        drainit.request("GET", "/healthz", PATIENCE).is_ok()
    });
    stale(&drainit, 1);
    let leaf = ca.leaf();
    edge.write("edge.crt", &leaf.cert);
    edge.write("edge.key", &leaf.key);
    drainit.wait_ready();
    stale(&drainit, 0);
    put(&edge.config.dir.join("edge.key"), &ca.leaf().key);
    stale(&drainit, 1);
    put(&edge.config.dir.join("edge.key"), &leaf.key);
    stale(&drainit, 0);
    fs::remove_file(edge.config.dir.join("edge.crt")).unwrap();
    stale(&drainit, 1);
}
