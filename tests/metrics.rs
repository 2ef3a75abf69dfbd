//! `/metrics` under the parsers of others, in every state; the alerts and the dashboard that are
//! made of it.

#[path = "metrics/dashboard.rs"]
mod dashboard;
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use drainit::status::{Snapshot, State, metrics};
use nix::sys::signal::{Signal, kill};

use support::drainit::Drainit;
use support::fake_envoy::{self, Model, SharedModel};
use support::{PATIENCE, TempDir, wait_for};

/// The contract's names.
const NAMES: [(&str, &str); 17] = [
    ("drainit_state", "gauge"),
    ("drainit_envoy_up", "gauge"),
    ("drainit_envoy_restarts_total", "counter"),
    ("drainit_build_info", "gauge"),
    ("drainit_connections", "gauge"),
    ("drainit_listener_connections", "gauge"),
    ("drainit_requests", "gauge"),
    ("drainit_udp_sessions", "gauge"),
    ("drainit_drain_seconds", "gauge"),
    ("drainit_drain_deadline_seconds", "gauge"),
    ("drainit_drains_total", "counter"),
    ("drainit_admin_errors_total", "counter"),
    ("drainit_reaped_processes_total", "counter"),
    ("drainit_certificate_not_after_seconds", "gauge"),
    ("drainit_certificate_generation", "gauge"),
    ("drainit_certificate_reloads_total", "counter"),
    ("drainit_certificate_stale", "gauge"),
];

/// Parses pages that a NUL separates, and prints every family's name, type, and whether it has a
/// HELP; and the state that holds.
const PARSE: &str = r#"
import sys
from prometheus_client.parser import text_string_to_metric_families as parse
for page in sys.stdin.read().split("\0"):
    for family in parse(page):
        total = "_total" if family.type == "counter" else ""
        print(family.name + total, family.type, bool(family.documentation))
        for sample in family.samples:
            if sample.name == "drainit_state" and sample.value == 1:
                print("state", sample.labels["state"])
    print("end")
"#;

fn tool(variable: &str, default: &str) -> PathBuf {
    let path = std::env::var_os(variable).map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(default),
        PathBuf::from,
    );
    let name = path.display();
    assert!(
        path.is_file(),
        "{name} is missing: scripts/test gets it, or set {variable}"
    );
    path
}

fn promtool() -> PathBuf {
    tool("TEST_PROMTOOL", "target/tools/promtool")
}

/// What a program says that is given this to read, and ends well.
#[track_caller]
fn pipe(command: &mut Command, input: &str) -> String {
    command.stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {out}{err}\n{input}");
    out
}

/// Holds every page against the contract, by a strict parser; the state that each shows.
fn states_of(pages: &[String]) -> Vec<String> {
    let python = tool("TEST_PYTHON", "target/tools/python/bin/python");
    let parsed = pipe(Command::new(python).args(["-c", PARSE]), &pages.join("\0"));
    let parsed: Vec<&str> = parsed.split("end\n").collect();
    assert_eq!(parsed.len(), pages.len() + 1);
    for page in pages {
        pipe(Command::new(promtool()).args(["check", "metrics"]), page);
    }
    let state = |families: &&str| {
        for (name, kind) in NAMES {
            let line = format!("{name} {kind} True");
            assert!(
                families.lines().any(|found| found == line),
                "{line}\n{families}"
            );
        }
        let holds: Vec<_> = families
            .lines()
            .filter_map(|line| line.strip_prefix("state "))
            .collect();
        assert_eq!(holds.len(), 1, "{families}");
        holds[0].to_owned()
    };
    parsed[..pages.len()].iter().map(state).collect()
}

/// The page, once it shows this state.
#[track_caller]
fn page_when(drainit: &Drainit, state: &str) -> String {
    let holds = format!("drainit_state{{state=\"{state}\"}} 1\n");
    let mut page = String::new();
    wait_for(&format!("the state {state}"), PATIENCE, || {
        let answer = drainit.request("GET", "/metrics", PATIENCE);
        page = answer.map(|(_, body)| body).unwrap_or_default();
        page.contains(&holds)
    });
    page
}

#[test]
fn prometheus_reads_the_page_in_every_state() {
    let model = SharedModel::new(Model {
        tcp: 1,
        initializing: true,
        ..Model::default()
    });
    let admin = model.admin();
    // It heeds no SIGTERM.
    let child = fake_envoy::shell("trap '' TERM; while :; do sleep 1; done");
    let options = ["--drain-delay", "1s", "--kill-timeout", "5s"];
    let mut drainit = fake_envoy::start_with(&options, &admin.address, &child);
    let mut pages = vec![page_when(&drainit, "starting")];
    model.change(|model| model.initializing = false);
    pages.push(page_when(&drainit, "live"));
    drainit.signal(Signal::SIGUSR2);
    pages.push(page_when(&drainit, "delaying"));
    wait_for("the session to be counted", PATIENCE, || {
        page_when(&drainit, "draining").contains("drainit_connections 1\n")
    });
    pages.push(page_when(&drainit, "draining"));
    model.change(|model| model.tcp = 0);
    pages.push(page_when(&drainit, "drained"));
    drainit.signal(Signal::SIGTERM);
    pages.push(page_when(&drainit, "stopping"));
    kill(drainit.envoy_pid(), Signal::SIGKILL).unwrap();
    drainit.wait_exit(PATIENCE);

    let model = SharedModel::default();
    let admin = model.admin();
    let drainit = fake_envoy::start(&["--restart", "on-failure"], &admin.address);
    page_when(&drainit, "live");
    // Every end doubles the pause.
    let restarting = std::iter::from_fn(|| {
        let _ = kill(drainit.envoy_pid(), Signal::SIGKILL);
        let until = Instant::now() + Duration::from_secs(1);
        while Instant::now() < until {
            let page = drainit.get("/metrics").1;
            if page.contains("{state=\"restarting\"} 1\n") {
                return Some(page);
            }
        }
        Some(String::new())
    });
    pages.push(restarting.take(5).find(|page| !page.is_empty()).unwrap());
    let dir = TempDir::new();
    let [cert, key, ca] = ["no.crt", "no.key", "no.ca"].map(|name| dir.join(name));
    let words = [cert, key, ca, dir.path().into()].map(|path| path.display().to_string());
    let options = [
        "--envoy-cert-file",
        &words[0],
        "--envoy-key-file",
        &words[1],
        "--envoy-cafile",
        &words[2],
        "--resources-dir",
        &words[3],
    ];
    let drainit = Drainit::start(&options, &child);
    pages.push(page_when(&drainit, "waiting"));
    assert_eq!(
        states_of(&pages),
        [
            "starting",
            "live",
            "delaying",
            "draining",
            "drained",
            "stopping",
            "restarting",
            "waiting"
        ]
    );
    for (index, samples) in [
        (0, "drainit_envoy_up 1\n"),
        (3, "drainit_connections 1\n"),
        (4, "drainit_drains_total{result=\"drained\"} 1\n"),
        (4, "drainit_connections 0\n"),
        (6, "drainit_envoy_up 0\n"),
    ] {
        assert!(pages[index].contains(samples), "{samples}{}", pages[index]);
    }
}

#[test]
fn prometheus_reads_the_page_in_the_states_that_are_hard_to_catch() {
    let now = Instant::now();
    let pages = State::ALL.map(|state| {
        let mut snapshot = Snapshot::new(now);
        snapshot.state = state;
        metrics::render(&snapshot, now)
    });
    assert_eq!(states_of(&pages), State::ALL.map(State::name));
}

fn rules() -> (PathBuf, String) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scripts/prometheus-rules.yaml");
    let text = fs::read_to_string(&path).unwrap();
    (path, text)
}

/// The names of ours that a text uses.
fn names(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !c.is_ascii_lowercase() && c != '_')
        .filter(|word| word.starts_with("drainit_"))
        .collect()
}

#[test]
fn alerts_use_names_that_exist() {
    let now = Instant::now();
    let page = metrics::render(&Snapshot::new(now), now);
    let (_, rules) = rules();
    let used = names(&rules);
    assert!(used.len() >= 10, "{used:?}");
    for name in used {
        assert!(page.contains(&format!("# TYPE {name} ")), "{name}");
    }
}

#[test]
fn promtool_takes_the_alerts_and_they_fire_when_they_should() {
    let (path, _) = rules();
    let mut check = Command::new(promtool());
    check.args(["check", "rules", "--lint-fatal"]).arg(&path);
    pipe(&mut check, "");
    promtool_test(&include_str!("prometheus-rules.yaml").replace("RULES", path.to_str().unwrap()));
}

/// Has promtool run these tests of rules and queries.
#[track_caller]
fn promtool_test(tests: &str) {
    let dir = TempDir::new();
    let file = dir.join("tests.yaml");
    fs::write(&file, tests).unwrap();
    pipe(
        Command::new(promtool()).args(["test", "rules"]).arg(&file),
        "",
    );
}
