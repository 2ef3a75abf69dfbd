//! The log, of a real drain on a real Envoy.

mod support;

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use support::clients::{SlowRequest, TcpSession};
use support::drainit::Drainit;
use support::envoy_config::{Admin, EnvoyConfig};
use support::fake_envoy::{self, SharedModel};
use support::upstream::Upstream;
use support::{PATIENCE, wait_for};

/// As RFC 3339 has it, in UTC and to the millisecond.
fn is_timestamp(text: &str) -> bool {
    let shape: String = text
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    shape == "0000-00-00T00:00:00.000Z"
}

/// Every line as an object; none may be anything else.
#[track_caller]
fn objects(drainit: &Drainit) -> Vec<Value> {
    let lines = drainit.log.lines();
    let parse = |line: &String| match serde_json::from_str(line) {
        Ok(Value::Object(object)) => Value::Object(object),
        other => panic!("{line}: {other:?}"),
    };
    lines.iter().map(parse).collect()
}

#[test]
fn a_drain_tells_its_progress_when_something_changed_and_every_five_seconds() {
    let upstream = Upstream::start();
    let config = EnvoyConfig::new(Admin::Unix, &upstream);
    let options = ["--log-format", "json", "--drain-timeout", "60s"];
    let mut drainit = Drainit::ready(&options, &config);
    let slow = SlowRequest::start(config.http, Duration::from_millis(7500));
    upstream.wait_in_flight(1);
    let mut sessions = vec![TcpSession::open(config.tcp), TcpSession::open(config.tcp)];
    drainit.signal(Signal::SIGTERM);
    // Two changes within a second are one line.
    drainit.wait_log("3 of 3 connections left");
    sessions.clear();
    assert_eq!(slow.status(), 200);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);

    let objects = objects(&drainit);
    for object in &objects {
        assert!(is_timestamp(object["time"].as_str().unwrap()), "{object}");
        assert!(object["message"].is_string(), "{object}");
        assert!(matches!(
            object["level"].as_str(),
            Some("error" | "warn" | "info" | "debug" | "trace")
        ));
    }
    let progress = objects
        .iter()
        .filter(|object| object.get("elapsed_seconds").is_some());
    let progress: Vec<(&str, f64)> = progress
        .map(|object| {
            assert_eq!(object["limit_seconds"], 60.0);
            assert!(object["connections"].is_u64() && object["requests"].is_u64());
            let message = object["message"].as_str().unwrap();
            (message, object["elapsed_seconds"].as_f64().unwrap())
        })
        .collect();
    let ip = config.ip();
    let all = format!(
        "draining: 3 of 3 connections left (1 request in flight; {ip}_10001 2, {ip}_10000 1), "
    );
    let one = format!("draining: 1 of 3 connections left (1 request in flight; {ip}_10000 1), ");
    assert!(progress[0].0.starts_with(&all), "{progress:?}");
    assert!(progress[0].0.ends_with(" s of 60 s"), "{progress:?}");
    assert!(progress[1].0.starts_with(&one), "{progress:?}");
    // At about 0, 1 and 6 seconds; a busy machine may see the sessions go one by one.
    assert!((3..=4).contains(&progress.len()), "{progress:?}");
    for pair in progress.windows(2) {
        let pause = pair[1].1 - pair[0].1;
        assert!((0.99..6.0).contains(&pause), "{progress:?}");
    }
    let summary = objects.last().unwrap()["message"].as_str().unwrap();
    assert!(
        summary.starts_with("drainit is over: drained after 7"),
        "{summary}"
    );
}

#[test]
fn lines_for_people_are_env_loggers() {
    let model = SharedModel::default();
    let admin = model.admin();
    let drainit = fake_envoy::start(&[], &admin.address);
    let line = drainit.wait_log("envoy is live");
    let (head, rest) = line[1..].split_once(' ').unwrap();
    assert!(is_timestamp(head), "{line}");
    assert!(rest.starts_with("INFO  drainit::"), "{line}");
}

/// What a short life logs with these options and this `RUST_LOG`.
fn log_of(options: &[&str], filter: &str) -> Vec<String> {
    let model = SharedModel::default();
    let admin = model.admin();
    let address = admin.address.text();
    let mut all = vec!["--envoy-flags", "keep", "--admin-address", &address];
    all.extend(options);
    let variables = [("RUST_LOG", filter)];
    let mut drainit = Drainit::start_under(&[], &variables, &all, &fake_envoy::child());
    drainit.wait_ready();
    drainit.signal(Signal::SIGTERM);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    drainit.log.lines()
}

#[test]
fn rust_log_counts_where_no_level_is_given() {
    assert_eq!(log_of(&[], "off"), [""; 0]);
    assert_eq!(without_summary(&log_of(&[], "drainit=warn")), [""; 0]);
    let some = log_of(&[], "warn,drainit::http=info");
    let some = without_summary(&some);
    assert!(!some.is_empty());
    assert!(
        some.iter().all(|line| line.contains("drainit::http")),
        "{some:?}"
    );
    let given = log_of(&["--log-level", "info"], "off");
    assert!(given.iter().any(|line| line.contains("envoy started")));
}

/// The log without its summary, which must be its end.
fn without_summary(lines: &[String]) -> &[String] {
    let (last, others) = lines.split_last().expect("a summary");
    assert!(last.contains("drainit is over: "), "{last}");
    others
}

#[test]
fn a_slip_in_rust_log_is_told_and_silences_nothing() {
    for (filter, ignored) in [("bogus", "bogus"), ("drainit=inof", "drainit=inof")] {
        let lines = log_of(&[], filter);
        let warnings: Vec<_> = lines.iter().filter(|line| line.contains("WARN")).collect();
        assert_eq!(warnings.len(), 1, "{lines:?}");
        let text = format!("RUST_LOG: '{ignored}' is ignored");
        assert!(lines[0].contains(&text), "{lines:?}");
        assert!(lines.iter().any(|line| line.contains("drainit is over")));
    }
}

#[test]
fn the_level_says_how_much_without_rust_log() {
    let level = |level| log_of(&["--log-level", level], "");
    assert_eq!(level("off"), [""; 0]);
    assert_eq!(without_summary(&level("error")), [""; 0]);
    let info = level("info");
    assert!(info.iter().all(|line| line.contains(" INFO ")), "{info:?}");
    let debug = level("debug");
    assert!(
        debug.iter().any(|line| line.contains(" DEBUG ")),
        "{debug:?}"
    );
    assert!(debug.len() > info.len());
}

#[test]
fn a_reader_that_stops_reading_loses_lines_and_is_told_how_many() {
    let model = SharedModel::default();
    let admin = model.admin();
    let address = admin.address.text();
    let options = [
        "--log-format",
        "json",
        "--log-level",
        "debug",
        "--envoy-flags",
        "keep",
        "--admin-address",
        &address,
    ];
    let drainit = Drainit::start_unread(&options, &fake_envoy::child());
    drainit.wait_ready();
    // More than a pipe and the queue hold.
    for _ in 0..3_000 {
        drainit.signal(Signal::SIGWINCH);
        assert_eq!(drainit.get("/healthz").0, 200);
    }
    drainit.read_log();
    wait_for("the count of what was lost", PATIENCE, || {
        drainit.signal(Signal::SIGWINCH);
        drainit.log.find("log lines were lost").is_some()
    });
    let lost = drainit.wait_log("log lines were lost");
    let object: Value = serde_json::from_str(&lost).unwrap();
    assert_eq!(object["level"], "warn");
    objects(&drainit);
}
