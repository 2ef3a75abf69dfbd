//! The log, of a real drain on a real Envoy.

mod support;

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::pty::openpty;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use support::clients::{SlowRequest, TcpSession};
use support::drainit::{Drainit, run};
use support::envoy_config::Admin;
use support::fake_envoy::{self, SharedModel};
use support::scene;
use support::{PATIENCE, TempDir, wait_for};

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
    let (upstream, config) = scene::of(Admin::Unix);
    let options = ["--log-format", "json", "--drain-timeout", "50s"];
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
            assert_eq!(object["limit_seconds"], 50.0);
            assert!(object["connections"].is_u64() && object["requests"].is_u64());
            let message = object["message"].as_str().unwrap();
            (message, object["elapsed_seconds"].as_f64().unwrap())
        })
        .collect();
    let all = "draining: 3 of 3 connections left (1 request in flight; tcp 2, http 1), ";
    let one = "draining: 1 of 3 connections left (1 request in flight; http 1), ";
    assert!(progress[0].0.starts_with(all), "{progress:?}");
    assert!(progress[0].0.ends_with(" s of 50 s"), "{progress:?}");
    assert!(progress[1].0.starts_with(one), "{progress:?}");
    // At about 0, 1 and 6 seconds; a busy machine may see the sessions go one by one.
    assert!((3..=4).contains(&progress.len()), "{progress:?}");
    for pair in progress.windows(2) {
        let pause = pair[1].1 - pair[0].1;
        assert!((0.99..6.0).contains(&pause), "{progress:?}");
    }
    let last = objects.last().unwrap();
    let summary = last["message"].as_str().unwrap();
    assert!(summary.starts_with("drained after 7"), "{summary}");
    let verdict = (&last["level"], &last["result"]);
    assert_eq!(verdict, (&json!("info"), &json!("drained")));
    assert_eq!(last["connections_at_start"], 3);
    assert_eq!(last["connections_at_end"], 0);
    assert_eq!(last["cut_by_listener"], json!({}));
}

#[test]
fn a_drain_that_cut_something_is_a_warning_and_names_what() {
    let (_upstream, config) = scene::of(Admin::Unix);
    let options = ["--log-format", "json", "--drain-timeout", "2s"];
    let mut drainit = Drainit::ready(&options, &config);
    let _sessions = [TcpSession::open(config.tcp), TcpSession::open(config.tcp)];
    drainit.signal(Signal::SIGTERM);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    let objects = objects(&drainit);
    let last = objects.last().unwrap();
    let line = last["message"].as_str().unwrap();
    assert!(line.starts_with("CUT by the deadline after 2."), "{line}");
    for (field, value) in [
        ("level", json!("warn")),
        ("result", json!("deadline")),
        ("connections_at_start", json!(2)),
        ("connections_at_end", json!(2)),
        ("cut_by_listener", json!({ "tcp": 2 })),
        ("requests", json!(0)),
        ("exit_code", json!(0)),
        ("exit_class", Value::Null),
    ] {
        assert_eq!(last[field], value, "{field} of {last}");
    }
    let seconds = last["seconds"].as_f64().unwrap();
    assert!(seconds >= 2.0, "{seconds}");
}

#[test]
fn drainit_shutdown_prints_what_is_left_and_where() {
    let (_upstream, config, drainit) = scene::ready(&["--drain-timeout", "3s"]);
    let _sessions = [TcpSession::open(config.tcp), TcpSession::open(config.tcp)];
    let listen = format!("unix:{}", drainit.health.text());
    let (code, out, err) = run(&["shutdown", "--listen", &listen]);
    assert_eq!((code, err.as_str()), (1, ""), "{out}");
    let left = "2 connections (tcp 2)";
    let progress = format!("draining: {left} left of 2, ");
    assert!(out.lines().any(|line| line.starts_with(&progress)), "{out}");
    let last = out.lines().last().unwrap();
    assert!(last.starts_with("CUT after "), "{out}");
    let end = format!(": deadline; last seen: {left}");
    assert!(last.contains(&end), "{out}");
    assert!(last.contains("; held by tcp: 127.0.0.1:"), "{out}");
    let state = drainit.wait_log("CUT by the deadline");
    assert!(state.contains(" WARN  drainit] "), "{state}");
}

#[test]
fn a_hundred_callers_of_shutdown_are_a_line_and_a_count() {
    let (_upstream, config, drainit) = scene::ready(&[]);
    let session = TcpSession::open(config.tcp);
    let callers: Vec<_> = (0..100)
        .map(|_| {
            let health = drainit.health.clone();
            std::thread::spawn(move || health.request("POST", "/shutdown", PATIENCE * 2))
        })
        .collect();
    // The count comes 5 s after the first caller, or with the drain's end.
    drainit.wait_log("more callers");
    drop(session);
    for caller in callers {
        assert_eq!(caller.join().unwrap().unwrap().status, 200);
    }
    let lines = drainit.log.lines();
    let told = |line: &&String| line.contains("] /shutdown from");
    let told: Vec<_> = lines.iter().filter(told).collect();
    assert!(told.len() <= 3, "{told:#?}");
    assert!(lines.len() < 25, "{lines:#?}");
}

/// Has a short life of drainit write its log there, with these variables.
fn write_log(stderr: Stdio, variables: &[(&str, &str)]) {
    let mut command = Command::new(support::drainit());
    command.args(["--listen", "off", "--envoy-flags", "keep", "--", "true"]);
    command
        .env_remove("NO_COLOR")
        .envs(variables.iter().copied());
    let mut child = command.stderr(stderr).spawn().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn the_journal_gets_priorities_and_no_second_time() {
    let dir = TempDir::new();
    let path = dir.join("stderr");
    let lines = |stream: Option<&str>| {
        let file = fs::File::create(&path).unwrap();
        let stat = file.metadata().unwrap();
        let own = format!("{}:{}", stat.dev(), stat.ino());
        write_log(file.into(), &[("JOURNAL_STREAM", stream.unwrap_or(&own))]);
        fs::read_to_string(&path).unwrap()
    };
    let text = lines(None);
    assert!(text.lines().count() > 2, "{text}");
    let journal = |line: &str| line.starts_with("<6>drainit: ") && !line.contains("Z INFO");
    assert!(text.lines().all(journal), "{text}");
    // Another's stream: this is a file.
    let text = lines(Some("8:1234"));
    let file = |line: &str| line.contains("Z INFO  drainit] ");
    assert!(text.lines().all(file), "{text}");
}

#[test]
fn a_terminal_gets_colours_unless_it_or_its_reader_wants_none() {
    let shown = |variables: &[(&str, &str)]| {
        let terminal = openpty(None, None).unwrap();
        write_log(terminal.slave.into(), variables);
        let mut text = Vec::new();
        // EIO: nobody has the other side open any more.
        let _ = fs::File::from(terminal.master).read_to_end(&mut text);
        String::from_utf8(text).unwrap()
    };
    let text = shown(&[("TERM", "xterm")]);
    let coloured = "\x1b[32mINFO \x1b[0m drainit] envoy started";
    assert!(text.contains(coloured), "{text:?}");
    for plain in [("TERM", "dumb"), ("NO_COLOR", "1")] {
        let text = shown(&[("TERM", "xterm"), plain]);
        assert!(text.contains("INFO  drainit] envoy started"), "{text:?}");
        assert!(!text.contains('\x1b'), "{text:?}");
    }
}

#[test]
fn lines_for_people_have_a_time_a_level_and_no_module() {
    let model = SharedModel::default();
    let admin = model.admin();
    let drainit = fake_envoy::start(&[], &admin.address);
    let line = drainit.wait_log("envoy is live");
    let (head, rest) = line[1..].split_once(' ').unwrap();
    assert!(is_timestamp(head), "{line}");
    assert!(rest.starts_with("INFO  drainit] envoy is live"), "{line}");
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
        some.iter()
            .all(|line| line.contains(" INFO  drainit] health, status")),
        "{some:?}"
    );
    let given = log_of(&["--log-level", "info"], "off");
    assert!(given.iter().any(|line| line.contains("envoy started")));
}

/// The log without its summary, which must be its end.
fn without_summary(lines: &[String]) -> &[String] {
    let (last, others) = lines.split_last().expect("a summary");
    assert!(last.contains("; exit code "), "{last}");
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
        assert!(lines.iter().any(|line| line.contains("; exit code ")));
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
