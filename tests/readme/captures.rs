//! What the README shows of the program's output is what it prints, up to numbers and times.
//!
//! A capture stands below a comment, `<!-- capture: NAME -->`. With UPDATE_README=1 in the
//! environment these tests write what they saw into the README instead of comparing it.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::clients::{SlowRequest, TcpSession, WebSocket};
use crate::support::drainit::{Drainit, Setting, run_command};
use crate::support::envoy_config::{Admin, EnvoyConfig};
use crate::support::manifest::{example, readme};
use crate::support::pki::Pair;
use crate::support::upstream::Upstream;
use crate::support::{self, PATIENCE, TempDir, wait_for};

/// What the last line has, whose reader may be behind the process's end.
const VERDICT: &str = "; exit code ";

/// What it has before the clients that were cut.
const WHO: &str = "who was cut: ";

/// One capture is written at a time.
static WRITING: Mutex<()> = Mutex::new(());

/// A real Envoy under drainit, and what was seen of it.
struct Scene {
    upstream: Upstream,
    config: EnvoyConfig,
    /// In the place of `/etc/envoy` and of `/certs`.
    dir: TempDir,
    seen: String,
}

impl Scene {
    fn new() -> Scene {
        let upstream = Upstream::start();
        Scene {
            config: EnvoyConfig::new(Admin::Unix, &upstream),
            upstream,
            dir: TempDir::new(),
            seen: String::new(),
        }
    }

    fn start(&self, options: &[&str]) -> Drainit {
        let program = self.dir.join("envoy");
        std::os::unix::fs::symlink(support::envoy(), &program).unwrap();
        let mut command = vec![program.display().to_string()];
        command.extend(self.config.arguments());
        let drainit = Setting::default().start(options, &command);
        drainit.wait_ready();
        // It is asked for after that, and told.
        drainit.wait_log("envoy's version is ");
        drainit
    }

    /// Runs a command that speaks to this drainit: its exit code.
    fn run(&mut self, drainit: &Drainit, command: &str) -> i32 {
        let mut line = Command::new(support::drainit());
        line.args(command.split(' ').skip(1));
        line.args(["--listen", &format!("unix:{}", drainit.health.text())]);
        let (code, out, err) = run_command(&mut line);
        self.note(&format!("$ {command}"));
        self.note(&out.replace(&drainit.health.text(), "/run/drainit.sock"));
        self.note(&err);
        code
    }

    /// Adds a text to what was seen, as it would be on somebody's machine.
    fn note(&mut self, text: &str) {
        // `reload` says so where it takes more than a second, on a slow machine.
        let is_told = |line: &&str| !line.is_empty() && *line != "reloading";
        for line in text.lines().filter(is_told) {
            let line = line
                .replace(&self.dir.path().display().to_string(), "/certs")
                .replace("/certs/envoy", "envoy")
                .replace(&self.config.dir.path().display().to_string(), "/etc/envoy")
                .replace(&self.config.ip().to_string(), "0.0.0.0");
            self.seen += &format!("{line}\n");
        }
    }

    /// Compares it with the README's capture of this name.
    #[track_caller]
    fn expect_in_readme(self, name: &str) {
        let begin = format!("<!-- capture: {name} -->\n```console\n");
        if env::var_os("UPDATE_README").is_some() {
            let _writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
            let text = readme();
            let (before, rest) = text.split_once(&begin).expect(name);
            let (_, after) = rest.split_once("```\n").unwrap();
            let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
            fs::write(file, format!("{before}{begin}{}```\n{after}", self.seen)).unwrap();
            return;
        }
        let text = readme();
        let (_, shown) = text.split_once(&begin).expect(name);
        let (shown, _) = shown.split_once("```\n").unwrap();
        assert_eq!(
            shape(shown),
            shape(&self.seen),
            "the README's capture {name:?} should be as follows (UPDATE_README=1 writes it):\n{}",
            self.seen
        );
    }
}

/// What stays the same from run to run: neither numbers nor what is aligned by them.
fn shape(text: &str) -> Vec<String> {
    let words = |line: &str| line.split_whitespace().map(word).collect::<Vec<_>>();
    let words = |line: &str| match words(line).join(" ").split_once(WHO) {
        // Those who are silent for equally long come in any order.
        Some((before, clients)) => {
            let mut clients: Vec<_> = clients.split("; ").collect();
            clients.sort_unstable();
            format!("{before}{WHO}{}", clients.join("; "))
        }
        None => words(line).join(" "),
    };
    let mut lines: Vec<_> = text.lines().map(words).collect();
    // How often it tells of a drain that goes on depends on how slow the machine is.
    let tells = |line: &str| line.contains("] draining: ");
    lines.dedup_by(|line, before| line == before || tells(line) && tells(before));
    lines
}

fn word(word: &str) -> String {
    // A serial, whole or short, and a bar.
    let serial = word.trim_end_matches(['.', ',', ';', ':']);
    if serial.len() >= 8 && serial.chars().all(|c| c.is_ascii_hexdigit()) {
        return "N".into();
    }
    if word.len() >= 8 && !word.contains(char::is_alphanumeric) {
        return "[]".into();
    }
    let mut shape = String::new();
    for part in word.split_inclusive(|c: char| !(c.is_ascii_digit() || ".:".contains(c))) {
        let digits = part.trim_start_matches(|c: char| c.is_ascii_digit() || ".:".contains(c));
        if part.starts_with(|c: char| c.is_ascii_digit()) {
            shape.push('N');
            shape.push_str(digits);
        } else {
            shape.push_str(part);
        }
    }
    shape
}

/// The log from this text on.
fn log_from(drainit: &Drainit, text: &str) -> String {
    let lines = drainit.log.lines();
    let at = lines.iter().position(|line| line.contains(text)).unwrap();
    lines[at..].join("\n")
}

fn status(drainit: &Drainit) -> Value {
    serde_json::from_str(&drainit.get("/status?now").1).unwrap()
}

#[test]
fn the_readme_shows_the_log_of_a_drain() {
    let mut scene = Scene::new();
    let mut drainit = scene.start(&[]);
    let slow = SlowRequest::start(scene.config.http, Duration::from_secs(3));
    scene.upstream.wait_in_flight(1);
    drainit.signal(Signal::SIGTERM);
    assert_eq!(slow.status(), 200);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    drainit.wait_log(VERDICT);
    scene.note(&log_from(&drainit, "SIGTERM: "));
    scene.expect_in_readme("drain");
}

#[test]
fn the_readme_shows_what_a_check_finds() {
    let mut scene = Scene::new();
    // The example, whose writer forgot the admin interface.
    let admin = "admin:\n  address: { socket_address: { address: 127.0.0.1, port_value: 9901 } }\n";
    let yaml = example("envoy.yaml");
    assert!(yaml.contains(admin));
    let file = scene.dir.join("envoy.yaml");
    fs::write(&file, yaml.replace(admin, "")).unwrap();
    let told = "drainit check --grace-period 30s -- envoy -c /etc/envoy/envoy.yaml";
    let mut line = Command::new(support::drainit());
    for word in told.split(' ').skip(1) {
        match word {
            "envoy" => line.arg(support::envoy()),
            "/etc/envoy/envoy.yaml" => line.arg(&file),
            word => line.arg(word),
        };
    }
    let (code, out, err) = run_command(&mut line);
    assert_eq!((code, err.as_str()), (1, ""));
    scene.note(&format!("$ {told}"));
    scene.note(&out);
    scene.expect_in_readme("check");
}

#[test]
fn the_readme_shows_what_holds_a_drain_and_how_it_was_cut() {
    let mut scene = Scene::new();
    let mut drainit = scene.start(&["--drain-timeout", "8s"]);
    let _sessions = [(); 2].map(|()| TcpSession::open(scene.config.tcp));
    let _socket = WebSocket::open(scene.config.http);
    drainit.signal(Signal::SIGTERM);
    wait_for("three seconds of the drain", PATIENCE, || {
        status(&drainit)["drain"]["elapsed_seconds"].as_f64() > Some(3.0)
    });
    assert_eq!(scene.run(&drainit, "drainit status"), 0);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    scene.note(&drainit.wait_log(VERDICT));
    scene.expect_in_readme("hang");
}

#[test]
fn the_readme_shows_why_a_certificate_did_not_rotate() {
    let mut scene = Scene::new();
    scene.config.serve_tls("www");
    let ca = Pair::ca("readme");
    let first = ca.leaf();
    let (cert, key) = (scene.dir.join("tls.crt"), scene.dir.join("tls.key"));
    fs::write(&cert, &first.cert).unwrap();
    fs::write(&key, &first.key).unwrap();
    let secret = format!("www={},{}", cert.display(), key.display());
    let resources = scene.config.resources().display().to_string();
    let drainit = scene.start(&["--resources-dir", &resources, "--secret", &secret]);
    // Whoever renewed it forgot the key.
    fs::write(&cert, &ca.leaf().cert).unwrap();
    drainit.wait_log("www: refused: ");
    assert_eq!(scene.run(&drainit, "drainit status"), 0);
    scene.expect_in_readme("rotation");
}

#[test]
fn the_readme_shows_an_upgrade_by_hot_restart() {
    let mut scene = Scene::new();
    let drainit = scene.start(&["--hot-restart", "--drain-timeout", "3s"]);
    let good = fs::read_to_string(&scene.config.file).unwrap();
    scene
        .config
        .replace("    connect_timeout: 5s\n", "    connect_timout: 5s\n");
    assert_eq!(scene.run(&drainit, "drainit reload"), 1);
    fs::write(&scene.config.file, good).unwrap();
    assert_eq!(scene.run(&drainit, "drainit reload"), 0);
    scene.expect_in_readme("upgrade");
}

#[test]
fn every_field_of_the_verdict_is_in_the_readme() {
    let config = EnvoyConfig::new(Admin::Unix, &Upstream::start());
    let mut drainit = Drainit::ready(&["--log-format", "json"], &config);
    drainit.signal(Signal::SIGTERM);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    let verdict: Value =
        serde_json::from_str(&drainit.wait_log("\"connections_at_start\":")).unwrap();
    let readme = readme();
    let fields: Vec<_> = verdict.as_object().unwrap().keys().collect();
    assert!(fields.len() > 10, "{fields:?}");
    for field in fields {
        assert!(readme.contains(&format!("`{field}`")), "{field}");
    }
}
