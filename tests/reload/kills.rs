//! Generations that are killed at every moment of a reload.

use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::rig::Rig;
use crate::support::clients::TcpSession;
use crate::support::envoy_config::Admin;
use crate::support::scene;
use crate::support::watch::Watch;
use crate::support::{PATIENCE, holds_for, wait_for};
use crate::two_at_a_time;

/// From the spawn of the next generation, which is live after 60 to 80.
const MOMENTS: [u64; 7] = [0, 20, 40, 60, 80, 100, 200];

/// Waits until one generation serves that is none of `over`, and none beside it that is not
/// wanted; it can reload, and ends in order.
fn recovers(mut rig: Rig, over: &[Pid], what: &str, watch: Watch) {
    // What drainit has not noticed yet, its status does not tell.
    wait_for("the end of what was killed", PATIENCE, || {
        let status = rig.status();
        let pid = status["envoy"]["pid"].as_i64();
        status["reloading"] == false
            && pid.is_some_and(|pid| over.iter().all(|gone| i64::from(gone.as_raw()) != pid))
    });
    wait_for("traffic", PATIENCE, || {
        crate::HttpConnection::open(rig.config.http)
            .is_ok_and(|mut open| open.get("/fast").is_ok_and(|answer| answer.status == 200))
    });
    rig.drainit.wait_ready();
    let seen = watch.finish();
    assert!(seen.outage < Duration::from_secs(3), "{what}: {seen:?}");
    let before = rig.epoch();
    rig.reload_well();
    assert_eq!(rig.epoch(), before + 1, "{what}");
    rig.drainit.signal(Signal::SIGTERM);
    let code = rig.drainit.wait_exit(Duration::from_secs(13));
    assert_eq!(code, 0, "{what}");
}

/// A reload that has gone on for so many milliseconds since its generation was spawned: the old
/// generation and the new one, and a watch that saw it begin.
fn reload_for(moment: u64) -> (Rig, [Pid; 2], Watch) {
    let rig = Rig::start();
    let old = rig.newest();
    let watch = Watch::connections(rig.config.http);
    rig.drainit.signal(Signal::SIGHUP);
    let new = rig.wait_two(old);
    thread::sleep(Duration::from_millis(moment));
    (rig, [old, new], watch)
}

#[test]
fn the_rising_generation_is_killed() {
    two_at_a_time(MOMENTS, |moment| {
        let (rig, [_, new], watch) = reload_for(moment);
        kill(new, Signal::SIGKILL).unwrap();
        recovers(
            rig,
            &[new],
            &format!("new one killed {moment} ms after its spawn"),
            watch,
        );
    });
}

#[test]
fn the_new_generation_is_killed_once_it_is_live() {
    let rig = Rig::start();
    rig.reload_well();
    let watch = Watch::connections(rig.config.http);
    let new = rig.newest();
    kill(new, Signal::SIGKILL).unwrap();
    wait_for("another one", PATIENCE, || rig.newest() != new);
    assert_eq!(rig.epoch(), 1);
    recovers(rig, &[new], "new one killed when live", watch);
}

#[test]
fn the_old_generation_is_killed() {
    two_at_a_time(MOMENTS, |moment| {
        let (rig, [old, new], watch) = reload_for(moment);
        kill(old, Signal::SIGKILL).unwrap();
        recovers(
            rig,
            &[old, new],
            &format!("old one killed {moment} ms after the new one's spawn"),
            watch,
        );
    });
}

#[test]
fn the_old_generation_is_told_to_go_before_its_time() {
    let rig = Rig::start();
    let old = rig.newest();
    rig.reload_well();
    let new = rig.newest();
    let watch = Watch::connections(rig.config.http);
    kill(old, Signal::SIGTERM).unwrap();
    recovers(rig, &[old, new], "old one told to go", watch);
}

#[test]
fn a_sigterm_with_a_kill_ends_in_time() {
    let cases = MOMENTS.map(|moment| [(moment, "new"), (moment, "old")]);
    two_at_a_time(cases.concat(), |(moment, victim)| {
        let mut rig = Rig::start();
        let old = rig.newest();
        rig.drainit.signal(Signal::SIGHUP);
        let new = rig.wait_two(old);
        thread::sleep(Duration::from_millis(moment));
        rig.drainit.signal(Signal::SIGTERM);
        kill(if victim == "new" { new } else { old }, Signal::SIGKILL).unwrap();
        // The deadline, the kill timeout, and a second; nothing is left behind.
        let code = rig.drainit.wait_exit(Duration::from_secs(13));
        // The drain's, or the killed Envoy's.
        assert!(
            [0, 137].contains(&code),
            "SIGTERM and the {victim} one killed after {moment} ms: exit code {code}"
        );
    });
}

#[test]
fn an_old_generation_is_waited_for_while_the_newest_waits_to_be_started_again() {
    let (upstream, config) = scene::of(Admin::Unix);
    let options = ["--hot-restart", "--restart", "on-failure"];
    let mut rig = Rig::with_times(&options, config, upstream, ["1", "60"]);
    let mut session = TcpSession::open(rig.config.tcp);
    session.echo().unwrap();
    let old = rig.newest();
    assert_eq!(rig.reload().0, 0);
    session.echo().unwrap();
    // From here on no newest lives.
    rig.replace_program(Path::new("/bin/false"));
    kill(rig.newest(), Signal::SIGKILL).unwrap();
    wait_for("a pause before the next start", PATIENCE, || {
        rig.status()["state"] == "restarting"
    });
    rig.drainit.signal(Signal::SIGTERM);
    rig.drainit.wait_log("SIGTERM: draining");
    holds_for("the session", Duration::from_secs(2), || {
        session.echo().is_ok()
    });
    assert!(crate::rig::is_generation(old) && !rig.drainit.has_exited());
    drop(session);
    assert_eq!(rig.drainit.wait_exit(PATIENCE), 0);
    rig.drainit.wait_log("drained after");
}
