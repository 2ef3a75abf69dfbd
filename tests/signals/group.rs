//! Who else may signal: a terminal, an init before drainit, whoever means a whole group or cgroup.

use std::fs::{self, File};
use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{Termios, tcgetattr};
use nix::unistd::{Pid, tcgetpgrp};

use crate::PATIENT;
use crate::support::clients::{SlowRequest, TcpSession};
use crate::support::drainit::{Drainit, Setting};
use crate::support::envoy_config::Admin;
use crate::support::process::has_ended;
use crate::support::scene;
use crate::support::{PATIENCE, wait_for};

/// Has somebody signal with a request of three seconds in flight, which gets its answer.
#[track_caller]
fn drains_when(setting: Setting, signal: impl FnOnce(&Drainit)) {
    let (upstream, config) = scene::of(Admin::Unix);
    let mut drainit = setting.ready(&PATIENT, &config);
    let slow = SlowRequest::start(config.http, Duration::from_secs(3));
    upstream.wait_in_flight(1);
    signal(&drainit);
    assert_eq!(slow.status(), 200);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    drainit.wait_log("drained after");
}

#[test]
fn a_signal_to_the_whole_process_group_drains() {
    // In a session, and so a group, of its own: not in this test's.
    drains_when(Setting::default().behind(&["setsid"]), |drainit| {
        kill(Pid::from_raw(-drainit.pid().as_raw()), Signal::SIGTERM).unwrap();
    });
}

#[test]
fn an_init_that_signals_the_whole_group_drains() {
    thread::scope(|scope| {
        for init in [&["tini", "-s", "-g", "--"][..], &["dumb-init", "--"]] {
            scope.spawn(|| {
                drains_when(Setting::default().behind(init), |init| {
                    init.signal(Signal::SIGTERM);
                });
            });
        }
    });
}

/// It signals its child, and then its own group, in which that is.
#[test]
fn a_timeout_drains() {
    let timeout = Setting::default().behind(&["timeout", "1h"]);
    drains_when(timeout, |timeout| timeout.signal(Signal::SIGTERM));
}

/// A terminal, whose session drainit leads: as in a container with one (`docker run -it`), and as
/// the job of a shell in the foreground.
struct Terminal {
    master: File,
    before: String,
}

impl Terminal {
    fn open() -> (Terminal, Setting) {
        let pty = openpty(None, None).unwrap();
        let before = describe(&tcgetattr(&pty.master).unwrap());
        let master = pty.master.into();
        let setting = Setting::default()
            .behind(&["setsid", "-c"])
            .stdin(pty.slave);
        (Terminal { master, before }, setting)
    }

    fn press_ctrl_c(&self) {
        (&self.master).write_all(b"\x03").unwrap();
    }

    fn is_as_it_was(&self) -> bool {
        describe(&tcgetattr(&self.master).unwrap()) == self.before
    }
}

fn describe(terminal: &Termios) -> String {
    format!("{terminal:?}")
}

#[test]
fn a_ctrl_c_in_a_terminal_drains_and_leaves_the_terminal_as_it_was() {
    let (terminal, setting) = Terminal::open();
    drains_when(setting, |drainit| {
        assert_eq!(tcgetpgrp(&terminal.master), Ok(drainit.pid()));
        terminal.press_ctrl_c();
    });
    assert!(terminal.is_as_it_was());
}

#[test]
fn a_second_ctrl_c_stops_once_a_second_has_passed() {
    let (_upstream, config) = scene::of(Admin::Unix);
    let (terminal, setting) = Terminal::open();
    let mut drainit = setting.ready(&PATIENT, &config);
    let session = TcpSession::open(config.tcp);
    let start = Instant::now();
    wait_for("the end by a second Ctrl-C", PATIENCE, || {
        drainit.has_exited() || {
            terminal.press_ctrl_c();
            thread::sleep(Duration::from_millis(100));
            false
        }
    });
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    assert!(session.is_closed() && terminal.is_as_it_was());
    drainit.wait_log("second signal");
}

/// Or else a Ctrl-C would reach the child alone. `docker run -it --entrypoint sh` gives a shell.
#[test]
fn a_shell_that_reads_the_terminal_is_stopped_and_a_ctrl_c_ends_it() {
    let (terminal, setting) = Terminal::open();
    let options = ["--envoy-flags", "keep", "--kill-timeout", "500ms"];
    let mut drainit = setting.start(&options, &["sh".to_owned()]);
    let status = format!("/proc/{}/status", drainit.envoy_pid());
    wait_for("the shell to be stopped", PATIENCE, || {
        fs::read_to_string(&status).is_ok_and(|status| status.contains("State:\tT"))
    });
    assert_eq!(tcgetpgrp(&terminal.master), Ok(drainit.pid()));
    terminal.press_ctrl_c();
    assert_eq!(drainit.wait_exit(PATIENCE), 137);
    assert!(terminal.is_as_it_was());
}

/// As with systemd's KillMode=control-group. Both have happened when drainit looks.
#[test]
fn an_envoy_that_somebody_else_signals_is_worth_a_warning_and_the_order_is_the_cause() {
    let (_upstream, _config, mut drainit) = scene::ready(&PATIENT);
    let envoy = drainit.envoy_pid();
    drainit.signal(Signal::SIGSTOP);
    drainit.signal(Signal::SIGTERM);
    kill(envoy, Signal::SIGTERM).unwrap();
    wait_for("Envoy's end", PATIENCE, || has_ended(envoy));
    drainit.signal(Signal::SIGCONT);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    let warning = drainit.wait_log("KillMode=mixed");
    assert!(warning.contains("WARN"), "{warning}");
    let summary = drainit.wait_log("; exit code ");
    assert!(summary.contains("(SIGTERM)"), "{summary}");
}
