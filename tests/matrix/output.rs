//! Nobody reads what drainit says.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use nix::unistd::pipe;

use crate::support::clients::SlowRequest;
use crate::support::drainit::Setting;
use crate::support::envoy_config::Admin;
use crate::support::scene;

/// The whole life of a drainit in this setting: nothing waits for the log.
fn lives_and_drains(setting: Setting) {
    let (upstream, config) = scene::of(Admin::Unix);
    // At debug level there is more to say than a pipe and the queue hold.
    let mut drainit = setting.ready(&["--log-level", "trace"], &config);
    for _ in 0..300 {
        drainit.signal(Signal::SIGHUP);
        assert_eq!(drainit.get("/healthz").0, 200);
    }
    let slow = SlowRequest::start(config.http, Duration::from_secs(2));
    upstream.wait_in_flight(1);
    drainit.signal(Signal::SIGTERM);
    assert_eq!(slow.status(), 200);
    assert_eq!(drainit.wait_exit(Duration::from_secs(5)), 0);
}

#[test]
fn a_closed_stderr() {
    lives_and_drains(
        Setting::default()
            .behind_script(r#"exec "$@" 2>&-"#)
            .stderr(std::process::Stdio::null()),
    );
}

#[test]
fn a_pipe_that_nobody_reads() {
    let (read, write) = pipe().unwrap();
    fill(&write);
    lives_and_drains(Setting::default().stderr(write));
    drop(read);
}

#[test]
fn a_pipe_that_nobody_reads_and_that_holds_some_lines() {
    let (read, write) = pipe().unwrap();
    lives_and_drains(Setting::default().stderr(write));
    drop(read);
}

#[test]
fn a_pipe_whose_reader_is_gone() {
    let (read, write) = pipe().unwrap();
    drop(read);
    lives_and_drains(Setting::default().stderr(write));
}

fn fill(pipe: &OwnedFd) {
    let flags = OFlag::from_bits_retain(fcntl(pipe, FcntlArg::F_GETFL).unwrap());
    fcntl(pipe, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).unwrap();
    let mut file = File::from(pipe.try_clone().unwrap());
    while file.write(&[b'x'; 1024]).is_ok() {}
    fcntl(pipe, FcntlArg::F_SETFL(flags)).unwrap();
}
