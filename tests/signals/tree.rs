//! Envoy behind a start script that does not `exec` it, and what becomes of the tree; and an Envoy
//! whose drainit is killed.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::PATIENT;
use crate::support::clients::{HttpConnection, SlowRequest};
use crate::support::drainit::{Drainit, Setting};
use crate::support::envoy_config::{Admin, EnvoyConfig};
use crate::support::process::{children, has_ended};
use crate::support::scene;
use crate::support::upstream::Upstream;
use crate::support::{PATIENCE, envoy, program_in, wait_for};

/// `drainit OPTIONS -- SCRIPT ...`, and Envoy behind that.
struct Rig {
    drainit: Drainit,
    config: EnvoyConfig,
    upstream: Upstream,
}

impl Rig {
    /// The script is a shell's, told Envoy's command line as its arguments; or, with `file`, a
    /// file of its own.
    fn start(options: &[&str], script: &str, file: bool) -> Rig {
        let (upstream, config) = scene::of(Admin::Unix);
        let drainit = Drainit::start(options, &line(&config, script, file));
        drainit.wait_ready();
        Rig {
            drainit,
            config,
            upstream,
        }
    }

    fn script(&self) -> Pid {
        self.drainit.envoy_pid()
    }

    /// Envoy itself: the one that has threads.
    fn envoy(&self) -> Pid {
        let tree = children(self.script());
        let has_threads = |pid: &&Pid| {
            fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|threads| threads.count() > 1)
        };
        *tree
            .iter()
            .find(has_threads)
            .expect("Envoy behind the script")
    }

    fn stop(&mut self) -> i32 {
        self.drainit.signal(Signal::SIGTERM);
        self.drainit.wait_exit(PATIENCE)
    }
}

/// The script's command line, with Envoy's in it.
fn line(config: &EnvoyConfig, script: &str, file: bool) -> Vec<String> {
    let mut line: Vec<_> = if file {
        let path = config.dir.join("start.sh");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        vec![path.display().to_string()]
    } else {
        ["sh", "-c", script, "sh"].map(str::to_owned).into()
    };
    line.push(envoy().display().to_string());
    // Its access log is written when it ends, and no sooner.
    let late = |word: String| if word == "50" { "600000".into() } else { word };
    line.extend(config.arguments().into_iter().map(late));
    line
}

#[test]
fn behind_a_script_envoy_itself_is_told_to_stop_and_loses_nothing() {
    for (script, file, code) in [
        ("\"$@\"", true, 0),
        ("\"$@\"; exit $?", false, 0),
        ("sleep 1000 & \"$@\"; exit $?", true, 0),
        ("sh -c '\"$@\"; exit $?' inner \"$@\"; exit $?", false, 0),
        ("( while :; do sleep 0.1; done ) & \"$@\"; exit 7", false, 7),
    ] {
        let mut rig = Rig::start(&["--drain-timeout", "5m"], script, file);
        let mut connection = HttpConnection::open(rig.config.http).unwrap();
        for _ in 0..199 {
            assert_eq!(connection.get("/fast").unwrap().status, 200);
        }
        let slow = SlowRequest::start(rig.config.http, Duration::from_secs(1));
        rig.upstream.wait_in_flight(1);
        drop(connection);
        rig.drainit.signal(Signal::SIGTERM);
        assert_eq!(slow.status(), 200, "{script}");
        // Nothing is left of it: that is waited for, too.
        assert_eq!(rig.drainit.wait_exit(PATIENCE), code, "{script}");
        let log = fs::read_to_string(&rig.config.access_log).unwrap();
        assert_eq!(log.lines().count(), 200, "{script}");
        rig.drainit.wait_log("drained after");
    }
}

#[test]
fn the_envoy_that_is_shown_is_the_one_behind_the_script() {
    let rig = Rig::start(&PATIENT, "\"$@\"; exit $?", false);
    let pid = format!("\"pid\":{}", rig.envoy());
    wait_for("Envoy's own pid", PATIENCE, || {
        rig.drainit.get("/status").1.replace(' ', "").contains(&pid)
    });
}

#[test]
fn behind_a_script_envoy_itself_reopens_its_access_log() {
    let rig = Rig::start(&PATIENT, "\"$@\"; exit $?", false);
    let mut connection = HttpConnection::idle(rig.config.http);
    let log = &rig.config.access_log;
    wait_for("the access log", PATIENCE, || log.exists());
    fs::rename(log, rig.config.dir.join("rotated.log")).unwrap();
    rig.drainit.signal(Signal::SIGUSR1);
    wait_for("a new access log", PATIENCE, || {
        connection.get("/fast").unwrap();
        log.exists()
    });
    assert!(!has_ended(rig.script()));
}

#[test]
fn a_script_that_would_go_on_is_ended_with_all_that_it_started() {
    for script in [
        "while :; do \"$@\"; done",
        "\"$@\"; sleep 1000",
        "\"$@\" & sleep 1000",
        "(trap '' TERM; while :; do sleep 0.1; done) & \"$@\"",
        "setsid sh -c \"trap '' TERM; while :; do sleep 0.1; done\" & \"$@\"",
    ] {
        let mut rig = Rig::start(&["--kill-timeout", "1s"], script, true);
        let code = rig.stop();
        assert!([0, 143, 137].contains(&code), "{code}: {script}");
        // A script that drainit ended is not said to be Envoy.
        let verdict = rig.drainit.log.lines().pop().unwrap_or_default();
        let whose = ["envoy's exit", "the start script was killed by"][usize::from(code != 0)];
        assert!(verdict.contains(whose), "{verdict}");
    }
}

#[test]
fn an_envoy_that_hangs_behind_a_script_is_killed_with_it() {
    let script = "sleep 1000 & \"$@\"; sleep 1000";
    let options = ["--drain-timeout", "1s", "--kill-timeout", "1s"];
    let mut rig = Rig::start(&options, script, false);
    kill(rig.envoy(), Signal::SIGSTOP).unwrap();
    assert_eq!(rig.stop(), 137);
}

#[test]
fn an_envoy_whose_script_is_killed_drains_and_its_exit_code_is_ours() {
    let mut rig = Rig::start(&PATIENT, "sleep 1000 & \"$@\"; exit 5", false);
    let slow = SlowRequest::start(rig.config.http, Duration::from_secs(2));
    rig.upstream.wait_in_flight(1);
    kill(rig.script(), Signal::SIGKILL).unwrap();
    assert_eq!(slow.status(), 200);
    assert_eq!(rig.drainit.wait_exit(PATIENCE), 0);
    rig.drainit.wait_log("the start script ended before envoy");
}

#[test]
fn with_restarts_an_envoy_whose_script_is_killed_serves_on() {
    let options = ["--restart", "on-failure", "--drain-timeout", "5m"];
    let mut rig = Rig::start(&options, "\"$@\"; exit 5", false);
    let envoy = rig.envoy();
    kill(rig.script(), Signal::SIGKILL).unwrap();
    rig.drainit.wait_log("the start script ended before envoy");
    HttpConnection::idle(rig.config.http);
    assert_eq!(rig.drainit.get("/ready").0, 200);
    // Its end is noticed, and it is started again: behind the script.
    kill(envoy, Signal::SIGKILL).unwrap();
    wait_for("another Envoy", PATIENCE, || {
        let lines = rig.drainit.log.lines();
        let found = |line: &&String| line.contains("behind its start script");
        lines.iter().filter(found).count() == 2
    });
    assert_eq!(rig.stop(), 5);
}

/// A script that becomes another, which becomes Envoy and leaves a subshell of its own behind: that
/// has Envoy's arguments, and another command line than the first script.
const TWO_SCRIPTS: &str = "exec sh -c '( while :; do sleep 0.1; done ) & exec \"$@\"' inner \"$@\"";

#[test]
fn an_envoy_that_its_start_script_has_become_is_over_when_it_ends_whatever_the_script_left_behind()
{
    let mut rig = Rig::start(&["--restart", "on-failure"], TWO_SCRIPTS, true);
    kill(rig.script(), Signal::SIGKILL).unwrap();
    wait_for("another Envoy", PATIENCE, || {
        let lines = rig.drainit.log.lines();
        let found = |line: &&String| line.contains("envoy started, pid");
        lines.iter().filter(found).count() == 2
    });
    rig.drainit.wait_ready();
    assert_eq!(rig.stop(), 0);
    let mut rig = Rig::start(&PATIENT, TWO_SCRIPTS, true);
    kill(rig.script(), Signal::SIGKILL).unwrap();
    assert_eq!(rig.drainit.wait_exit(PATIENCE), 137);
    assert_eq!(rig.drainit.log.find("the start script ended"), None);
    // It may end before anybody has seen that it is Envoy.
    let (_upstream, config) = scene::of(Admin::Unix);
    config.prepend("no_such_field: 1\n");
    let mut drainit = Drainit::start(&PATIENT, &line(&config, TWO_SCRIPTS, true));
    assert_eq!(drainit.wait_exit(PATIENCE), 1);
    drainit.wait_log("no_such_field");
    assert_eq!(drainit.log.find("the start script ended"), None);
}

/// How often drainit is killed in each way: `TEST_KILLS=100` for the long run.
fn kills(few: usize) -> usize {
    let given = env::var("TEST_KILLS").ok();
    given.map_or(few, |given| given.parse().unwrap())
}

/// Kills drainit so many times, each time another that was started in this way, and waits for
/// Envoy's end.
fn ends_with_drainit(
    kills: usize,
    start: impl Fn() -> (Upstream, EnvoyConfig, Drainit),
    prepare: impl Fn(Pid),
) {
    for _ in 0..kills {
        let (_upstream, _config, drainit) = start();
        let envoy = drainit.envoy_pid();
        prepare(envoy);
        drainit.signal(Signal::SIGKILL);
        wait_for("Envoy's end", PATIENCE, || has_ended(envoy));
    }
}

#[test]
fn envoy_ends_when_drainit_is_killed() {
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                ends_with_drainit(kills(6) / 2, || scene::ready(&[]), |_| {});
            });
        }
    });
    let hot = || scene::ready(&["--hot-restart"]);
    ends_with_drainit(kills(1), hot, |_| {});
    // A hung one, too.
    ends_with_drainit(
        kills(1),
        || scene::ready(&[]),
        |envoy| {
            kill(envoy, Signal::SIGSTOP).unwrap();
        },
    );
}

/// As a user who may bind the low ports.
fn with_ambient_capabilities(options: &[&str]) -> (Upstream, EnvoyConfig, Drainit) {
    let capability = "+net_bind_service";
    let inherited = format!("--inh-caps={capability}");
    let ambient = format!("--ambient-caps={capability}");
    let user = [
        "setpriv",
        "--reuid=65534",
        "--clear-groups",
        &inherited,
        &ambient,
    ];
    let (upstream, config) = scene::of(Admin::Tcp);
    config.replace(&config.access_log.display().to_string(), "/dev/null");
    let mut line = vec![program_in(&config.dir, &envoy()).display().to_string()];
    line.extend(config.arguments());
    let health = std::net::SocketAddr::from((config.ip(), 8090));
    let setting = Setting::default().behind(&user).health(health);
    let drainit = setting.start(options, &line);
    drainit.wait_ready();
    (upstream, config, drainit)
}

#[test]
fn an_envoy_with_ambient_capabilities_ends_when_drainit_is_killed() {
    for options in [&[][..], &["--hot-restart"]] {
        ends_with_drainit(
            kills(1),
            || with_ambient_capabilities(options),
            |envoy| {
                let held = fs::read_to_string(format!("/proc/{envoy}/status")).unwrap();
                assert!(held.contains("CapAmb:\t0000000000000400"), "{held}");
            },
        );
    }
}

/// As under `unshare --pid --fork` without `--mount-proc`: a pid in /proc is another process's.
#[test]
fn a_proc_of_another_pid_namespace_is_told_and_takes_no_drain() {
    let (upstream, config) = scene::of(Admin::Unix);
    let unshare = ["unshare", "--pid", "--fork", "--kill-child"];
    let mut unshare = Setting::default().behind(&unshare).ready(&PATIENT, &config);
    unshare.wait_log("/proc is not that of this pid namespace");
    let slow = SlowRequest::start(config.http, Duration::from_secs(2));
    upstream.wait_in_flight(1);
    kill(unshare.envoy_pid(), Signal::SIGTERM).unwrap();
    assert_eq!(slow.status(), 200);
    assert_eq!(unshare.wait_exit(PATIENCE), 0);
    unshare.wait_log("drained after");
}
