//! What somebody needs to see who is woken by it: the cause, without scrolling, in any terminal.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::clients::{HttpConnection, TcpSession};
use crate::support::drainit::{self, Drainit};
use crate::support::envoy_config::{Admin, EnvoyConfig};
use crate::support::pki::Pair;
use crate::support::process::{Process, wait_gone};
use crate::support::scene;
use crate::support::{self, PATIENCE, wait_for};
use crate::terminal::{Terminal, command};

/// Columns and rows.
const SIZES: [(u16, u16); 3] = [(80, 24), (40, 12), (200, 50)];

/// Looks at these words in terminals of each size: they are on the screen, and no line is cut
/// without an ellipsis.
#[track_caller]
fn shown_everywhere(terminal: &Terminal, words: &[&str]) {
    for (columns, rows) in SIZES {
        terminal.resize(columns, rows);
        for text in words {
            terminal.wait_words(text);
        }
        let shown = terminal.shows();
        for line in shown.lines() {
            let width = line.chars().count();
            assert!(width <= usize::from(columns), "{line:?}");
        }
    }
    terminal.resize(80, 24);
}

fn watch(drainit: &Drainit) -> Terminal {
    let terminal = Terminal::of(80, 24);
    terminal.types(&[&command(drainit, "--watch; echo ended $?"), "Enter"]);
    wait_for("the picture", PATIENCE, || {
        terminal.variable("alternate_on") == "1"
    });
    terminal
}

#[test]
fn a_certificate_that_is_refused_is_told_first_with_why_and_what_is_served() {
    let (_upstream, config) = scene::of(Admin::Unix);
    config.serve_tls("edge");
    let ca = Pair::ca("edge");
    let (cert, key) = (config.dir.join("tls.crt"), config.dir.join("tls.key"));
    let leaf = ca.leaf_with(&json!({ "before": -1, "after": 29 }));
    fs::write(&cert, &leaf.cert).unwrap();
    fs::write(&key, &leaf.key).unwrap();
    let secret = format!("edge={},{}", cert.display(), key.display());
    let resources = config.resources().display().to_string();
    let options = ["--secret", &secret, "--resources-dir", &resources];
    let drainit = Drainit::ready(&options, &config);
    let terminal = watch(&drainit);
    terminal.wait_words("certificate edge: good for 28 d of 30 d, until ");
    let serial = format!("serial {}...", &leaf.serial[..8]);
    terminal.wait_words(&serial);

    fs::write(&key, ca.leaf().key).unwrap();
    terminal.wait("REFUSED ");
    let second_line = terminal.shows().lines().nth(1).unwrap().to_owned();
    assert!(second_line.starts_with("REFUSED "), "{second_line}");
    assert!(second_line.contains(" ago: edge: "), "{second_line}");
    let why = "the key: is not the certificate's; the old one is good for 28 d";
    shown_everywhere(&terminal, &["REFUSED ", "live for ", why]);
    // Good again: it is news no more.
    fs::write(&key, &leaf.key).unwrap();
    wait_for("no word of it", PATIENCE, || {
        !terminal.shows().contains("REFUSED")
    });
}

#[test]
fn an_envoy_that_crashes_again_and_again_is_told_with_its_end_and_the_next_try() {
    let (_upstream, config, mut drainit) = scene::ready(&["--restart", "on-failure"]);
    let _session = TcpSession::open(config.tcp);
    let terminal = watch(&drainit);
    terminal.wait("  tcp  1  ");
    for times in 1..=5 {
        let envoy = drainit.envoy_pid();
        nix::sys::signal::kill(envoy, Signal::SIGABRT).unwrap();
        wait_gone(envoy);
        let again = match times {
            1 => "restarted once so far".to_owned(),
            _ => format!("restarted {times} times so far"),
        };
        if times < 5 {
            terminal.wait_words(&again);
            drainit.wait_ready();
        }
    }
    // By now the pause is long enough to look at.
    terminal.wait("restarting for ");
    terminal.wait("envoy is started again in ");
    let shown = terminal.shows();
    // Nothing that the dead Envoy had, nor what it said.
    for stale in ["  tcp  ", "LIVE", "never", "admin  "] {
        assert!(!shown.contains(stale), "{stale}\n{shown}");
    }
    let end = "envoy: killed by SIGABRT";
    shown_everywhere(&terminal, &["ENDED ", end, " after its start; restarted "]);
    let status: Value = serde_json::from_str(&drainit.get("/status").1).unwrap();
    assert_eq!(status["envoy"]["last_end"]["class"], "assert", "{status}");

    // A drain while it is down was no drain of an Envoy that never lived.
    wait_for("another try", PATIENCE, || {
        terminal.shows().contains("live for ")
    });
    drainit.signal(Signal::SIGTERM);
    drainit.wait_exit(PATIENCE);
    terminal.wait("ended 0");
    assert!(
        !terminal.shows().contains("never live"),
        "{}",
        terminal.shows()
    );
}

#[test]
fn a_reload_that_failed_is_told_with_its_cause_until_the_next_that_does_not() {
    let (_upstream, config, drainit) = scene::ready(&["--hot-restart"]);
    let good = fs::read_to_string(&config.file).unwrap();
    let terminal = watch(&drainit);
    config.replace("stat_prefix: tcp", "no_such_field: tcp");
    drainit.signal(Signal::SIGHUP);
    terminal.wait("RELOAD FAILED ");
    let second_line = terminal.shows().lines().nth(1).unwrap().to_owned();
    assert!(second_line.starts_with("RELOAD FAILED "), "{second_line}");
    // Envoy's own sentence is long, and its end is the cause.
    shown_everywhere(
        &terminal,
        &["RELOAD FAILED ", "no such field: 'no_such_field'"],
    );
    fs::write(&config.file, good).unwrap();
    let old = drainit.envoy_pid();
    drainit.signal(Signal::SIGHUP);
    terminal.wait_words("generation 1 is live");
    terminal.wait(&format!("old envoy    pid {old} drains"));
    assert!(!terminal.shows().contains("FAILED"), "{}", terminal.shows());
}

#[test]
fn a_drain_that_was_cut_is_not_called_drained_and_the_watch_ends_with_the_verdict() {
    let (_upstream, config, mut drainit) = scene::ready(&["--drain-timeout", "2s"]);
    let _session = TcpSession::open(config.tcp);
    let terminal = watch(&drainit);
    drainit.signal(Signal::SIGUSR2);
    terminal.wait("not drained for ");
    let words = "CUT by the deadline after 2.";
    shown_everywhere(&terminal, &[words, "(cut: tcp 1; 0 requests in flight)"]);
    terminal.wait_words("; envoy stays until it is told to stop");
    drainit.signal(Signal::SIGTERM);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    terminal.wait("ended 0");
    let shown = terminal.words();
    assert!(shown.contains(words), "{shown}");
    assert!(
        shown.contains("; envoy's exit code 0; exit code 0 ended 0"),
        "{shown}"
    );
}

#[test]
fn a_watch_ends_with_who_reads_it() {
    let (_upstream, _config, drainit) = scene::ready(&[]);
    let listen = format!("unix:{}", drainit.health.text());
    for more in [&[][..], &["--json"]] {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut line = Command::new(support::drainit());
        line.args(["status", "--watch", "--listen", &listen])
            .args(more);
        line.stdout(writer);
        let mut watch = Process::spawn(&mut line);
        drop(line);
        // As `head -1` does: it reads a line, and goes. Nothing happens after that.
        let mut byte = [0];
        while byte != *b"\n" {
            reader.read_exact(&mut byte).unwrap();
        }
        drop(reader);
        assert_eq!(watch.wait_exit(PATIENCE), 0);
    }
    // So low that less has a screenful: it takes no key before.
    let terminal = Terminal::of(80, 2);
    let line = format!("{} | less; echo ended $?", command(&drainit, "--watch"));
    terminal.types(&[&line, "Enter"]);
    terminal.wait("live: live ");
    terminal.wait("\n:");
    terminal.types(&["q"]);
    terminal.wait("ended 0");
}

#[test]
fn a_listener_is_excluded_by_any_of_its_names_and_a_name_of_none_is_a_warning() {
    let (_upstream, config) = scene::of(Admin::Unix);
    // Its own name is another than its stat prefix.
    config.replace("- name: metrics", "- name: probes");
    let address = config.metrics.to_string();
    let version = support::version(&support::envoy());
    for word in ["probes", EnvoyConfig::METRICS, &address, ":10003"] {
        let options = ["--exclude-listener", word, "--exclude-listener", "nobody"];
        let mut drainit = Drainit::ready(&options, &config);
        let warning = drainit.wait_log("--exclude-listener nobody: ");
        assert!(warning.contains(" WARN "), "{warning}");
        assert!(
            warning.ends_with("it has http, probes, tcp, udp"),
            "{warning}"
        );
        let unknown = format!("--exclude-listener {word}: ");
        assert_eq!(drainit.log.find(&unknown), None);
        let _scraper = HttpConnection::idle(config.metrics);
        let _session = TcpSession::open(config.tcp);
        let listen = format!("unix:{}", drainit.health.text());
        let (code, table, _) = drainit::run(&["status", "--listen", &listen]);
        assert_eq!(code, 0);
        assert!(table.starts_with("live for "), "{table}");
        assert!(
            table.contains(": 1 connection, 1 TCP session\n"),
            "{word}\n{table}"
        );
        let probes = format!("  probes  1  {}, does not count\n", config.metrics);
        assert!(table.contains(&probes), "{word}\n{table}");
        let metrics = drainit.get("/metrics").1;
        for line in [
            "drainit_connections 1\n",
            "drainit_listener_connections{listener=\"tcp\"} 1\n",
            &format!(",envoy=\"{version}\"}} 1\n"),
        ] {
            assert!(metrics.contains(line), "{line}\n{metrics}");
        }
        assert!(!metrics.contains("listener=\"probes\""), "{metrics}");
        drainit.signal(Signal::SIGQUIT);
        drainit.wait_exit(PATIENCE);
    }
}

/// Envoy behind a script that lives a little.
#[test]
fn a_picture_of_an_envoy_that_starts_says_what_it_waits_for() {
    let (_upstream, config) = scene::of(Admin::Unix);
    let (script, gate) = (config.dir.join("start"), config.dir.join("gate"));
    let text = format!(
        "#!/bin/sh\nwhile [ ! -e {} ]; do sleep 0.1; done\nexec {} \"$@\"\n",
        gate.display(),
        support::envoy().display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let mut line = vec![script.display().to_string()];
    line.extend(config.arguments());
    let drainit = Drainit::start(&[], &line);
    wait_for("an answer", PATIENCE, || {
        drainit
            .request("GET", "/healthz", Duration::from_secs(1))
            .is_ok()
    });
    let terminal = watch(&drainit);
    terminal.wait("starting for ");
    terminal.wait(": waits for envoy to be live");
    assert!(!terminal.shows().contains("never"), "{}", terminal.shows());
    fs::write(&gate, "").unwrap();
    terminal.wait("live for ");
}
