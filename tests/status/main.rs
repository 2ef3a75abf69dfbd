//! `drainit status`, as a person uses it: under tmux, in a pipe, during a real drain.

mod clients;
mod night;
#[path = "../support/mod.rs"]
mod support;
mod terminal;

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use support::clients::{HttpConnection, SlowRequest, TcpSession};
use support::drainit::{self, Drainit};
use support::envoy_config::{Admin, EnvoyConfig};
use support::process::{Process, wait_gone};
use support::scene;
use support::{PATIENCE, TempDir, holds_for, wait_for};
use terminal::{Terminal, command};

/// How full the bar is, in characters, how long, and what stands beside it.
fn bar(screen: &str) -> Option<(usize, usize, &str)> {
    let line = screen.lines().find_map(|line| line.strip_prefix('['))?;
    let (bar, beside) = line.split_once(']')?;
    let rest = bar.trim_start_matches('#').trim_start_matches('-');
    assert!(rest.is_empty(), "{line}");
    Some((bar.matches('#').count(), bar.len(), beside.trim()))
}

#[test]
fn a_watch_shows_a_drain_as_it_goes_and_ends_with_it() {
    let (upstream, config) = scene::of(Admin::Unix);
    let options = [
        "--drain-timeout",
        "60s",
        "--exclude-listener",
        EnvoyConfig::METRICS,
    ];
    let mut drainit = Drainit::ready(&options, &config);
    let slow = SlowRequest::start(config.http, Duration::from_secs(8));
    upstream.wait_in_flight(1);
    let _scraper = HttpConnection::idle(config.metrics);
    let mut sessions = [(); 3].map(|()| Some(TcpSession::open(config.tcp)));

    let terminal = Terminal::start();
    terminal.types(&[&command(&drainit, "--watch"), "Enter"]);
    terminal.wait_picture();
    assert_eq!(terminal.variable("cursor_flag"), "0");
    let envoy = drainit.envoy_pid();
    let version = support::version(&support::envoy());
    terminal.wait(&format!("envoy        {version}, pid {envoy}, up "));

    drainit.signal(Signal::SIGTERM);
    let ip = config.ip();
    terminal.wait("draining for ");
    for text in [
        ": waits for 1 request, 3 TCP sessions\n",
        "] 4 of 4 left, ",
        &format!("  tcp      3 of 3  {ip}:10001\n"),
        &format!("  http     1 of 1  {ip}:10000\n"),
        &format!("  metrics  1 of 1  {ip}:10003, does not count\n"),
        "drain        SIGTERM; envoy is stopped by ",
        "steps        health check failed +",
        " s, listeners draining +",
    ] {
        terminal.wait(text);
    }
    let first = terminal.shows();
    let places = ["  tcp  ", "  http  ", "  metrics  "].map(|name| first.find(name).unwrap());
    assert!(places.is_sorted(), "the most left first: {first}");

    sessions[0] = None;
    sessions[1] = None;
    terminal.wait(": waits for 1 request, 1 TCP session\n");
    let second = terminal.shows();
    let (full, length, beside) = bar(&second).unwrap();
    assert!(
        length == 40 && beside.starts_with("2 of 4 left, "),
        "{second}"
    );
    // Drawn over the last picture, not below it.
    let title = concat!("drainit      ", env!("CARGO_PKG_VERSION"));
    for once in [title, "draining for ", " to go", "  tcp  ", "  http  "] {
        assert_eq!(second.matches(once).count(), 1, "{once}\n{second}");
    }
    // What Envoy said when it was live is not so any more.
    assert!(!second.to_lowercase().contains("live"), "{second}");
    // Time passes, and nothing else.
    wait_for("the bar to grow", PATIENCE, || {
        bar(&terminal.shows()).is_some_and(|(now, ..)| now > full)
    });
    // A smaller window is drawn anew, with what matters in it, and nothing is cut without a sign.
    terminal.tmux(&["resize-window", "-x", "40", "-y", "9"]);
    wait_for("a small picture", PATIENCE, || {
        bar(&terminal.shows()).is_some_and(|(_, length, _)| length < 25)
    });
    let small = terminal.shows();
    assert!(small.starts_with("draining for "), "{small}");
    let words = small.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        words.contains(": waits for 1 request, 1 TCP session ["),
        "{small}"
    );
    for once in ["  tcp  ", "  http  ", "2 of 4 left, ", " to go\n"] {
        assert_eq!(small.matches(once).count(), 1, "{once}\n{small}");
    }
    terminal.tmux(&["resize-window", "-x", "100", "-y", "30"]);

    sessions[2] = None;
    assert_eq!(slow.status(), 200);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    terminal.wait("drained after ");
    terminal.types(&["echo code $?", "Enter"]);
    terminal.wait("code 0");
    terminal.check_is_the_shells();
    // The last word is the verdict, and nothing beside it is told as if it were so.
    let last = terminal.shows();
    assert!(
        last.contains("(SIGTERM): 4 connections at the start, 0 at the end"),
        "{last}"
    );
    assert!(!last.contains("draining for"), "{last}");
}

#[test]
fn a_watch_that_is_interrupted_gives_the_terminal_back() {
    let (_upstream, _config, mut drainit) = scene::ready(&[]);
    let terminal = Terminal::start();
    for end in ["C-c", "C-\\", "TERM", "HUP", "q"] {
        terminal.types(&["clear", "Enter"]);
        terminal.types(&[&command(&drainit, "--watch; echo code $?"), "Enter"]);
        terminal.wait_picture();
        match end {
            "TERM" => kill(terminal.job(), Signal::SIGTERM).unwrap(),
            "HUP" => kill(terminal.job(), Signal::SIGHUP).unwrap(),
            key => terminal.types(&[key]),
        }
        terminal.wait("code 0");
        terminal.check_is_the_shells();
        // The last picture stays.
        assert!(terminal.shows().contains("live for "));
    }
    assert!(!drainit.has_exited());
}

#[test]
fn a_watch_that_panics_gives_the_terminal_back() {
    let (_upstream, config, drainit) = scene::ready(&[]);
    let file = config.dir.join("panic");
    let terminal = Terminal::start();
    let program = env!("CARGO_BIN_EXE_drainit");
    let line = format!(
        "TEST_DRAINIT_PANIC={} {program} status --watch --listen unix:{}; echo code $?",
        file.display(),
        drainit.health.text()
    );
    terminal.types(&[&line, "Enter"]);
    terminal.wait_picture();
    fs::write(&file, "watch").unwrap();
    terminal.wait("code 101");
    terminal.check_is_the_shells();
}

#[test]
fn a_watch_that_is_stopped_gives_the_terminal_back_until_it_goes_on() {
    let (_upstream, _config, drainit) = scene::ready(&[]);
    let terminal = Terminal::start();
    terminal.types(&[&command(&drainit, "--watch"), "Enter"]);
    terminal.wait_picture();
    let watch = terminal.job();
    for number in 1..=2 {
        terminal.types(&["C-z"]);
        wait_for("the watch to be stopped", PATIENCE, || {
            let stat = fs::read_to_string(format!("/proc/{watch}/stat")).unwrap();
            stat.contains(") T ")
        });
        terminal.check_is_the_shells();
        terminal.types(&[&format!("echo shell $(({number} + 10))"), "Enter"]);
        terminal.wait(&format!("shell 1{number}"));
        if number == 2 {
            // In the background, the terminal is not its own.
            terminal.types(&["bg", "Enter"]);
            holds_for("the shell's screen", Duration::from_millis(2500), || {
                terminal.variable("alternate_on") == "0"
            });
        }
        terminal.types(&["fg", "Enter"]);
        terminal.wait_picture();
        assert_eq!(terminal.variable("cursor_flag"), "0");
    }
    terminal.types(&["C-c"]);
    wait_gone(watch);
    terminal.check_is_the_shells();
}

#[test]
fn who_looks_right_after_a_probe_sees_what_is_open() {
    let (_upstream, config, drainit) = scene::ready(&[]);
    let _session = TcpSession::open(config.tcp);
    // Envoy was asked a moment ago how it is, and nobody has asked yet what is open.
    drainit.wait_ready();
    let status: Value = serde_json::from_str(&drainit.get("/status").1).unwrap();
    assert_eq!(status["connections"], 1, "{status}");
}

#[test]
fn a_drain_has_its_first_steps_however_soon_envoy_answers() {
    let (_upstream, config, drainit) = scene::ready(&[]);
    let _session = TcpSession::open(config.tcp);
    // The main thread rests whenever it has woken another, so that an answer is there before it
    // goes on, as on a single processor.
    let pid = drainit.pid().to_string();
    let mut strace = Command::new("strace");
    strace.args(["-qq", "-e", "inject=futex:delay_exit=100ms", "-p", &pid]);
    strace.stdout(Stdio::null()).stderr(Stdio::null());
    let _strace = Process::spawn(&mut strace);
    wait_for("strace to be there", PATIENCE, || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        !status.contains("TracerPid:\t0\n")
    });
    drainit.signal(Signal::SIGTERM);
    drainit.wait_log("draining: ");
    let status = drainit.get("/status").1;
    for step in ["asked", "health check failed", "listeners draining"] {
        assert!(status.contains(step), "{step}: {status}");
    }
}

#[test]
fn a_drain_that_is_over_has_a_whole_timeline_in_its_order() {
    let (_upstream, config, drainit) = scene::ready(&[]);
    let session = TcpSession::open(config.tcp);
    drainit.signal(Signal::SIGUSR2);
    drainit.wait_log("draining: 1 of 1");
    drop(session);
    drainit.wait_log("drained after");
    let status: Value = serde_json::from_str(&drainit.get("/status").1).unwrap();
    let timeline = status["drain"]["timeline"].as_array().unwrap();
    let events: Vec<_> = timeline.iter().map(|moment| &moment["event"]).collect();
    assert_eq!(
        events,
        [
            "asked",
            "health check failed",
            "listeners draining",
            "last connection",
            "ended"
        ]
    );
    let after = |at: usize| timeline[at]["after_seconds"].as_f64().unwrap();
    assert!(
        (1..timeline.len()).all(|at| after(at - 1) <= after(at)),
        "{status}"
    );
}

#[test]
fn colours_are_for_terminals_and_for_those_who_want_them() {
    let (_upstream, _config, drainit) = scene::ready(&[]);
    let listen = format!("unix:{}", drainit.health.text());
    let (code, table, _) = drainit::run(&["status", "--listen", &listen]);
    assert_eq!(code, 0);
    assert!(table.starts_with("live for "), "{table}");
    assert!(!table.contains('\x1b'), "{table:?}");

    let terminal = Terminal::start();
    let painted = || terminal.tmux(&["capture-pane", "-p", "-e"]);
    let live = |shown: &str| shown.contains("live for ") || shown.contains("live\x1b[0m for ");
    for (no_color, color) in [("NO_COLOR=1 ", false), ("", true), ("TERM=dumb ", false)] {
        terminal.types(&["clear", "Enter"]);
        terminal.types(&[
            &format!("{no_color}{}; echo {color} code $?", command(&drainit, "")),
            "Enter",
        ]);
        terminal.wait(&format!("{color} code 0"));
        let shown = painted();
        assert!(
            live(&shown.replace("\x1b[39m", "\x1b[0m")) || shown.contains("live"),
            "{shown:?}"
        );
        assert_eq!(
            shown.contains("\x1b[32m") || shown.contains(";32m"),
            color,
            "{no_color}{shown:?}"
        );
    }
}

#[test]
fn a_watch_in_a_pipe_is_a_line_for_each_change() {
    let (_upstream, config, mut drainit) = scene::ready(&[]);
    let session = TcpSession::open(config.tcp);
    let program = support::drainit();
    let listen = format!("unix:{}", drainit.health.text());
    let out = TempDir::new();
    let (text, json) = (out.join("text"), out.join("json"));
    let mut watches = [(&text, None), (&json, Some("--json"))].map(|(file, json)| {
        let mut command = Command::new(&program);
        command
            .args(["status", "--watch", "--listen", &listen])
            .args(json);
        command.stdout(fs::File::create(file).unwrap());
        support::process::Process::spawn(&mut command)
    });
    let written = |file| fs::read_to_string(file).unwrap();
    wait_for("the first lines", PATIENCE, || {
        !written(&text).is_empty() && !written(&json).is_empty()
    });
    drainit.signal(Signal::SIGTERM);
    wait_for("the draining", PATIENCE, || {
        written(&text).contains("draining: 1 of 1 left, 1 TCP session\n")
    });
    // Nothing changes: nothing is written.
    let before = written(&text);
    holds_for("silence", Duration::from_millis(1500), || {
        written(&text) == before
    });
    drop(session);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    for watch in &mut watches {
        assert_eq!(watch.wait_exit(PATIENCE), 0);
    }
    let lines = written(&text);
    let lines: Vec<&str> = lines.lines().collect();
    assert!(lines[0].starts_with("live: live "), "{lines:?}");
    let last = lines.last().unwrap();
    assert!(last.starts_with("drained after "), "{lines:?}");
    assert!(last.ends_with("exit code 0; exit code 0"), "{lines:?}");
    assert!(!written(&text).contains('\x1b'));
    let states: Vec<String> = written(&json)
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["state"].to_string())
        .collect();
    assert_eq!(states[0], "\"live\"");
    assert!(states.contains(&"\"draining\"".to_owned()), "{states:?}");
    assert_eq!(states.last().unwrap(), "\"gone\"");
}

#[test]
fn the_json_is_one_line_and_nothing_that_runs_is_an_error() {
    let (_upstream, _config, drainit) = scene::ready(&[]);
    let listen = format!("unix:{}", drainit.health.text());
    let (code, out, _) = drainit::run(&["status", "--json", "--listen", &listen]);
    assert_eq!((code, out.lines().count()), (0, 1));
    let status: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(status["state"], "live");
    assert_eq!(status["envoy"]["pid"], drainit.envoy_pid().as_raw());

    for more in [["--json", "--watch"], ["--watch", "--watch"]] {
        let mut line = vec!["status", "--listen", "unix:/nowhere/socket"];
        line.extend(more);
        let (code, out, err) = drainit::run(&line);
        assert_eq!((code, &*out), (1, ""));
        assert_eq!(err.lines().count(), 1, "{err}");
        assert!(err.starts_with("drainit: /nowhere/socket: "), "{err}");
    }
}
