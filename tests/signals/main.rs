//! Signals and exit codes, on a real Envoy.

mod group;
#[path = "../support/mod.rs"]
mod support;
mod tree;

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::signal::{Signal, kill};

use support::clients::{HttpConnection, SlowRequest, TcpSession};
use support::drainit::Drainit;
use support::envoy_config::Admin;
use support::fake_envoy::shell;
use support::scene;
use support::{PATIENCE, wait_for};

/// So long that a test which ends did not wait for it.
const PATIENT: [&str; 4] = ["--drain-timeout", "5m", "--kill-timeout", "5m"];

#[test]
fn a_second_sigterm_stops_envoy_now() {
    let (_upstream, config, mut drainit) = scene::ready(&PATIENT);
    let session = TcpSession::open(config.tcp);
    drainit.signal(Signal::SIGTERM);
    drainit.wait_unready();
    signal_until_heard(&mut drainit, Signal::SIGTERM);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    assert!(session.is_closed());
    drainit.wait_log("second signal");
}

/// What comes within a second of an order is that order: asks until there is an end.
fn signal_until_heard(drainit: &mut Drainit, signal: Signal) {
    wait_for("the end by another signal", PATIENCE, || {
        thread::sleep(Duration::from_millis(100));
        drainit.has_exited() || {
            drainit.signal(signal);
            false
        }
    });
}

/// `timeout` sends two; a terminal and a supervisor before drainit may send one each.
#[test]
fn two_signals_to_stop_at_once_are_one_order() {
    let (upstream, config, mut drainit) = scene::ready(&PATIENT);
    let slow = SlowRequest::start(config.http, Duration::from_secs(1));
    upstream.wait_in_flight(1);
    drainit.signal(Signal::SIGINT);
    drainit.signal(Signal::SIGTERM);
    assert_eq!(slow.status(), 200);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    drainit.wait_log("the same order");
    drainit.wait_log("drained after");
}

#[test]
fn a_quit_during_a_drain_is_not_delayed() {
    let (_upstream, config, mut drainit) = scene::ready(&PATIENT);
    let session = TcpSession::open(config.tcp);
    drainit.signal(Signal::SIGTERM);
    drainit.signal(Signal::SIGQUIT);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    assert!(session.is_closed());
}

#[test]
fn an_interrupt_drains_as_a_sigterm_does() {
    let (upstream, config, mut drainit) = scene::ready(&PATIENT);
    let slow = SlowRequest::start(config.http, Duration::from_secs(1));
    upstream.wait_in_flight(1);
    drainit.signal(Signal::SIGINT);
    assert_eq!(slow.status(), 200);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
}

#[test]
fn a_third_sigterm_kills_an_envoy_that_hangs() {
    let (_upstream, _config, mut drainit) = scene::ready(&PATIENT);
    kill(drainit.envoy_pid(), Signal::SIGSTOP).unwrap();
    drainit.signal(Signal::SIGTERM);
    drainit.wait_unready();
    signal_until_heard(&mut drainit, Signal::SIGTERM);
    assert_eq!(drainit.wait_exit(PATIENCE), 137);
}

#[test]
fn a_quit_stops_envoy_without_a_drain() {
    let (upstream, config, mut drainit) = scene::ready(&PATIENT);
    let slow = SlowRequest::start(config.http, Duration::from_secs(30));
    upstream.wait_in_flight(1);
    drainit.signal(Signal::SIGQUIT);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    assert!(slow.finish().is_err());
}

#[test]
fn usr1_makes_envoy_reopen_its_access_log() {
    let (_upstream, config, drainit) = scene::ready(&PATIENT);
    let mut connection = HttpConnection::idle(config.http);
    let written = || fs::metadata(&config.access_log).is_ok_and(|file| file.len() > 0);
    wait_for("the access log", PATIENCE, written);
    fs::rename(&config.access_log, config.dir.join("rotated.log")).unwrap();
    drainit.signal(Signal::SIGUSR1);
    wait_for("a new access log", PATIENCE, || {
        connection.get("/fast").unwrap();
        written()
    });
    assert_eq!(drainit.get("/ready").0, 200);
}

/// Whoever has a handler is told at once, and who has none yet is not killed by it.
#[test]
fn usr1_reaches_a_child_as_soon_as_it_has_a_handler() {
    let script = "echo early >&2; sleep 0.3; trap 'echo reopened >&2' USR1; echo ready >&2; \
                  while :; do sleep 0.01; done";
    let mut drainit = Drainit::start(&["--envoy-flags", "keep"], &shell(script));
    drainit.wait_log("early");
    drainit.signal(Signal::SIGUSR1);
    drainit.wait_log("ready");
    let start = Instant::now();
    drainit.signal(Signal::SIGUSR1);
    drainit.wait_log("reopened");
    assert!(start.elapsed() < Duration::from_secs(3));
    drainit.signal(Signal::SIGQUIT);
    drainit.wait_exit(PATIENCE);
}

#[test]
fn a_signal_that_would_kill_envoy_is_not_forwarded() {
    let (_upstream, config, mut drainit) = scene::ready(&PATIENT);
    let envoy = drainit.envoy_pid();
    for signal in [
        Signal::SIGALRM,
        Signal::SIGHUP,
        Signal::SIGWINCH,
        Signal::SIGPIPE,
        Signal::SIGTTIN,
        Signal::SIGTTOU,
    ] {
        drainit.signal(signal);
    }
    // The real-time ones, those that a libc keeps for itself among them, all at once.
    drainit.signal(Signal::SIGSTOP);
    for signal in 32..=64 {
        // SAFETY: kill touches no memory. nix knows no such signals.
        assert_eq!(unsafe { libc::kill(drainit.pid().as_raw(), signal) }, 0);
    }
    drainit.signal(Signal::SIGCONT);
    // Its answer comes after the signals: it has had them all.
    HttpConnection::idle(config.http);
    assert_eq!(drainit.get("/ready").0, 200);
    assert!(!drainit.has_exited());
    assert_eq!(drainit.envoy_pid(), envoy);
}

/// A helper's stack has no room for the frames of so many handlers.
#[test]
fn signals_that_come_at_once_are_the_main_threads() {
    let (_upstream, _config, drainit) = scene::ready(&PATIENT);
    let pid = drainit.pid().as_raw();
    drainit.signal(Signal::SIGSTOP);
    for thread in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let thread: i32 = thread
            .unwrap()
            .file_name()
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        for signal in 35..=64 {
            // SAFETY: tgkill touches no memory.
            let sent = unsafe { libc::syscall(libc::SYS_tgkill, pid, thread, signal) };
            assert_eq!(sent, 0, "{signal} to {thread}");
        }
    }
    drainit.signal(Signal::SIGCONT);
    // Each thread has something to do.
    drainit.signal(Signal::SIGUSR1);
    drainit.wait_log("SIGUSR1");
    wait_for("another question to Envoy", PATIENCE, || {
        drainit.get("/ready").0 == 200
    });
    drainit.signal(Signal::SIGTERM);
    drainit.wait_log("drained after");
}

#[test]
fn the_end_of_envoy_is_ours_with_its_code() {
    for (signal, code, told, class) in [
        (Signal::SIGKILL, 137, "killed by SIGKILL", "signal"),
        // Envoy has handlers for these, and dies of them all the same.
        (Signal::SIGSEGV, 139, "killed by SIGSEGV", "signal"),
        (Signal::SIGABRT, 134, "killed by SIGABRT", "assert"),
    ] {
        let (_upstream, _config, mut drainit) = scene::ready(&["--log-format", "json"]);
        kill(drainit.envoy_pid(), signal).unwrap();
        assert_eq!(drainit.wait_exit(PATIENCE), code);
        let verdict = drainit.wait_log("exit code 1");
        assert!(verdict.contains(told), "{verdict}");
        assert!(
            verdict.contains(&format!("\"exit_class\":\"{class}\"")),
            "{verdict}"
        );
    }
}

#[test]
fn the_end_of_envoy_ends_a_drain() {
    let (_upstream, config, mut drainit) = scene::ready(&PATIENT);
    let _session = TcpSession::open(config.tcp);
    drainit.signal(Signal::SIGTERM);
    drainit.wait_unready();
    kill(drainit.envoy_pid(), Signal::SIGKILL).unwrap();
    assert_eq!(drainit.wait_exit(PATIENCE), 137);
    drainit.wait_log("killed by SIGKILL");
}

#[test]
fn a_stopped_envoy_is_bounded_by_the_deadline() {
    let (_upstream, _config, mut drainit) =
        scene::ready(&["--drain-timeout", "2s", "--kill-timeout", "1s"]);
    kill(drainit.envoy_pid(), Signal::SIGSTOP).unwrap();
    drainit.signal(Signal::SIGTERM);
    assert_eq!(drainit.wait_exit(PATIENCE), 137);
    drainit.wait_log("admin lost");
}

#[test]
fn an_envoy_without_an_admin_interface_is_stopped_all_the_same() {
    let (_upstream, config) = scene::of(Admin::None);
    let mut drainit = Drainit::envoy(&["--drain-timeout", "2s"], &config);
    wait_for("Envoy to serve", PATIENCE, || {
        HttpConnection::open(config.http).is_ok_and(|mut open| open.get("/fast").is_ok())
    });
    drainit.signal(Signal::SIGTERM);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
}

#[test]
fn a_sigterm_at_any_moment_of_the_start_ends_in_an_orderly_exit() {
    let (_upstream, config) = scene::of(Admin::Unix);
    for moment in (0..100).step_by(5) {
        let mut drainit = Drainit::envoy(&["--drain-timeout", "5s"], &config);
        thread::sleep(Duration::from_millis(moment));
        drainit.signal(Signal::SIGTERM);
        // Envoy itself dies of the signal while it has no handler yet, and so may we.
        let code = drainit.wait_exit(PATIENCE);
        assert!([0, 143].contains(&code), "{code} after {moment} ms");
    }
}

#[test]
fn envoy_gets_the_flags_it_lacks_and_no_others() {
    let (_upstream, config) = scene::of(Admin::Unix);
    let given = config.arguments();
    let arguments = |options: &[&str], more: &[&str]| {
        let mut command = vec![support::envoy().display().to_string()];
        command.extend(given.iter().cloned());
        command.extend(more.iter().map(|&argument| argument.to_owned()));
        let drainit = Drainit::start(options, &command);
        drainit.wait_ready();
        drainit.envoy_arguments()
    };
    let count = |all: &[String], flag| {
        all.iter()
            .filter(|argument| argument.starts_with(flag))
            .count()
    };
    let flags = [
        "--drain-time-s",
        "--drain-strategy",
        "--admin-address-path",
        "--disable-hot-restart",
    ];

    let added = arguments(&[], &[]);
    assert!(
        flags.iter().all(|flag| count(&added, flag) == 1),
        "{added:?}"
    );

    let had = arguments(&[], &["--drain-time-s", "33", "--disable-hot-restart"]);
    assert!(flags.iter().all(|flag| count(&had, flag) == 1), "{had:?}");
    assert!(
        had.windows(2).any(|pair| pair == ["--drain-time-s", "33"]),
        "{had:?}"
    );

    let admin = config.admin.as_ref().unwrap().text();
    let keep = ["--envoy-flags", "keep", "--admin-address", &admin];
    let kept = arguments(&keep, &["--disable-hot-restart"]);
    assert_eq!(kept[1..kept.len() - 1], given);
}
