//! HTTP/3, asked all along by a client that nobody here wrote.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::rig::{OPTIONS, Rig};
use crate::support::drainit::{Drainit, run_command};
use crate::support::envoy_config::{Admin, EnvoyConfig};
use crate::support::process::Process;
use crate::support::scene;
use crate::support::{self, PATIENCE, pki, wait_for};

/// scripts/bench.d/http3.py, which goes on until its input ends.
struct Client {
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Client {
    /// Returns once a first answer was there.
    fn start(config: &EnvoyConfig) -> Client {
        let mut client = Client::ask(config, &["/fast"]);
        assert_eq!(client.line(), "ready\n");
        client
    }

    /// Asks for the path that `what` begins with.
    fn ask(config: &EnvoyConfig, what: &[&str]) -> Client {
        let mut process = pki::python(Path::new("scripts/bench.d/http3.py"))
            .args([&config.ip().to_string(), "10004"])
            .args(what)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = process.stdin.take();
        let output = BufReader::new(process.stdout.take().unwrap());
        Client {
            process,
            input,
            output,
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line
    }

    /// The request in flight is the last one.
    fn asks_no_more(&mut self) {
        drop(self.input.take());
    }

    /// Ends it; what became of its requests.
    fn tally(&mut self) -> Value {
        self.asks_no_more();
        let tally = serde_json::from_str(&self.line()).unwrap();
        self.process.wait().unwrap();
        tally
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// How many connections there have been, and how many requests, as Envoy counts.
fn seen(config: &EnvoyConfig) -> [u64; 2] {
    let admin = config.admin.as_ref().unwrap();
    let page = admin
        .request("GET", "/stats?filter=http3", PATIENCE)
        .unwrap()
        .body;
    ["cx", "rq"].map(|what| {
        let name = format!("http.http3.downstream_{what}_total: ");
        let value = page.lines().find_map(|line| line.strip_prefix(&name));
        value.map_or(0, |value| value.parse().unwrap())
    })
}

fn is_told_by_the_drain(program: &Path) {
    let (_upstream, config) = scene::of(Admin::Unix);
    config.serve_http3();
    config.replace(
        "- name: http3\n    address",
        "- name: http3\n    drain_type: MODIFY_ONLY\n    address",
    );
    let mut line = vec![program.display().to_string()];
    line.extend(config.arguments());
    let mut check = Command::new(support::drainit());
    let (code, said, _) = run_command(check.args(["check", "--"]).args(&line));
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("drain-type"), "{said}");
    let mut drainit = Drainit::start(&["--min-drain", "2s"], &line);
    drainit.wait_ready();
    let mut client = Client::start(&config);
    let [_, before] = seen(&config);
    let listen = format!("unix:{}", drainit.health.text());
    let mut hold =
        Process::spawn(Command::new(support::drainit()).args(["hold", "--listen", &listen]));
    wait_for("requests while held", PATIENCE, || {
        drainit.get("/ready").1 == "HELD" && seen(&config)[1] > before + 50
    });
    assert_eq!(seen(&config)[0], 1, "a hold tells nobody");
    drainit.signal(Signal::SIGTERM);
    wait_for("the client to come back", PATIENCE, || seen(&config)[0] > 1);
    let tally = client.tally();
    assert_eq!(tally["failed"], 0, "{tally}");
    hold.wait_exit(PATIENCE);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
}

#[test]
fn a_modify_only_listener_over_http3_is_told_by_a_drain_and_not_by_a_hold() {
    std::thread::scope(|scope| {
        for program in [support::envoy(), support::other_envoy()] {
            scope.spawn(move || is_told_by_the_drain(&program));
        }
    });
}

/// Asked ten times a second by a client that passes over GOAWAY, of which a look four times a second
/// sees nothing.
fn is_not_idle(program: &Path) {
    let (_upstream, config) = scene::of(Admin::Unix);
    config.serve_http3();
    let mut line = vec![program.display().to_string()];
    line.extend(config.arguments());
    let times = ["--settle", "1s", "--min-drain", "0s"];
    let mut drainit = Drainit::start(&[&times[..], &["--drain-timeout", "4s"]].concat(), &line);
    drainit.wait_ready();
    let mut client = Client::ask(&config, &["/fast", "stay"]);
    assert_eq!(client.line(), "ready\n");
    drainit.signal(Signal::SIGTERM);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    let verdict = drainit.wait_log("CUT by the deadline after 4");
    assert!(verdict.contains("(cut: http3 1; "), "{verdict}");
}

#[test]
fn a_client_that_asks_between_two_looks_over_http3_is_not_idle() {
    std::thread::scope(|scope| {
        for program in [support::envoy(), support::other_envoy()] {
            scope.spawn(move || is_not_idle(&program));
        }
    });
}

fn is_cut_by_the_old_generations_time(program: PathBuf, is_cut: bool) {
    let (upstream, config) = scene::of(Admin::Unix);
    config.serve_http3();
    config.prepend("stats_flush_interval: 1s\n");
    let mut rig = Rig::of_program(program, &OPTIONS, config, upstream);
    let path = if is_cut {
        "/slow?ms=9000"
    } else {
        "/slow?ms=1000"
    };
    let mut client = Client::ask(&rig.config, &[path]);
    rig.upstream.wait_in_flight(1);
    client.asks_no_more();
    rig.reload_well();
    rig.drainit.signal(Signal::SIGTERM);
    let exit = |rig: &mut Rig| assert_eq!(rig.drainit.wait_exit(PATIENCE), 0);
    if is_cut {
        exit(&mut rig);
        let verdict = rig.drainit.wait_log("; exit code 0");
        for part in [
            "CUT after",
            "an old generation of envoy ended with 1 connection open",
        ] {
            assert!(verdict.contains(part), "{verdict}");
        }
    } else {
        assert_eq!(client.line(), "ready\n");
        let tally = client.tally();
        assert_eq!(tally["answered"], 1, "{tally}");
        exit(&mut rig);
        let verdict = rig.drainit.wait_log("drained after");
        assert!(!verdict.contains("old generation"), "{verdict}");
    }
}

#[test]
fn a_request_over_http3_that_an_old_generations_time_ends_in_a_drain_is_cut() {
    std::thread::scope(|scope| {
        for (program, is_cut) in [
            (support::envoy(), true),
            (support::envoy(), false),
            (support::other_envoy(), true),
        ] {
            scope.spawn(move || is_cut_by_the_old_generations_time(program, is_cut));
        }
    });
}

fn fails_nothing(program: PathBuf) {
    let (upstream, config) = scene::of(Admin::Unix);
    config.serve_http3();
    let options = [&OPTIONS[..], &["--min-drain", "3s"]].concat();
    let mut rig = Rig::of_program(program, &options, config, upstream);
    let mut client = Client::start(&rig.config);
    rig.reload_well();
    rig.wait_alone();
    rig.drainit.signal(Signal::SIGTERM);
    // The client hears of it, and comes back on new connections while Envoy still accepts them.
    rig.drainit.wait_log("connection left");
    let tally = client.tally();
    assert_eq!(tally["failed"], 0, "{tally}");
    assert!(tally["answered"].as_u64() > Some(20), "{tally}");
    assert!(
        tally["connections"].as_u64() > Some(1),
        "the old generation told it to go: {tally}"
    );
    assert_eq!(rig.drainit.wait_exit(PATIENCE), 0);
    rig.drainit.wait_log("drained after");
}

#[test]
fn http3_loses_no_request_by_a_hot_restart_and_a_drain() {
    fails_nothing(support::envoy());
}

#[test]
fn http3_loses_no_request_on_the_other_envoy_either() {
    fails_nothing(support::other_envoy());
}
