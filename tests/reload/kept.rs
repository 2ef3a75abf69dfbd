//! Reloads that come while something stands in their way, and old generations with nothing left.

use std::thread;

use nix::sys::signal::Signal;

use crate::add_route;
use crate::rig::Rig;
use crate::support::clients::{HttpConnection, TcpSession};
use crate::support::envoy_config::Admin;
use crate::support::load::Load;
use crate::support::{self, PATIENCE, scene, wait_for};

fn serves_route(rig: &Rig, path: &str) -> bool {
    let mut connection = HttpConnection::open(rig.config.http).unwrap();
    connection.get(path).unwrap().status == 418
}

#[test]
fn a_reload_that_comes_too_early_is_kept_and_the_last_one_counts() {
    let rig = Rig::start();
    thread::scope(|scope| {
        rig.drainit.signal(Signal::SIGHUP);
        wait_for("a reload under way", PATIENCE, || {
            rig.status()["reloading"] == true
        });
        add_route(&rig.config, "/second");
        let second = scope.spawn(|| rig.reload());
        wait_for("a kept one", PATIENCE, || {
            rig.status()["reload_kept"] == true
        });
        wait_for("the first one's end", PATIENCE, || {
            rig.status()["reload"]["number"] == 1
        });
        assert_eq!(rig.epoch(), 1);
        add_route(&rig.config, "/third");
        let (code, said) = rig.reload_with(&["--no-wait"]);
        assert_eq!(code, 0, "{said}");
        let kept = "kept until the old generation, pid ";
        assert!(said.starts_with(kept), "{said}");
        assert!(said.contains(" s at the most"), "{said}");
        rig.drainit.signal(Signal::SIGHUP);
        assert_eq!(rig.epoch(), 1, "it is not cut");
        let (code, said) = second.join().unwrap();
        assert_eq!(code, 0, "{said}");
        assert!(said.contains(kept), "{said}");
        assert!(said.contains("generation 2 is live"), "{said}");
    });
    assert!(serves_route(&rig, "/second") && serves_route(&rig, "/third"));
    let status = rig.status();
    assert_eq!(rig.epoch(), 2, "all of them are one");
    assert_eq!(status["reload"]["number"], 4);
    assert_eq!(status["reload_kept"], false);
}

#[test]
fn an_old_generation_with_nothing_left_is_ended_at_once_and_the_new_one_does_not_miss_it() {
    thread::scope(|scope| {
        for program in [support::envoy(), support::other_envoy()] {
            scope.spawn(move || {
                let (upstream, config) = scene::of(Admin::Unix);
                config.leave_udp_out();
                // How often the new generation asks the old one what it has.
                config.prepend("stats_flush_interval: 0.5s\n");
                let rig = Rig::with_times(&["--hot-restart"], config, upstream, ["1", "300"]);
                rig.replace_program(&program);
                rig.reload_well();
                rig.wait_alone();
                let load = Load::start(vec![(rig.config.http, rig.drainit.health.clone())], 2, 0);
                let mut session = TcpSession::open(rig.config.tcp);
                rig.reload_well();
                let newest = rig.newest();
                wait_for("its word on the session", PATIENCE, || {
                    rig.drainit.get("/metrics");
                    rig.status()["old_generation_connections"] == 1
                });
                session.echo().expect("a session of the old generation");
                drop(session);
                rig.wait_alone();
                let ended = rig.drainit.wait_log("the old generation is gone");
                assert!(ended.contains("exit code 0"), "{ended}");
                // It has asked its stand-in some times by then.
                load.wait_answered(2_000);
                assert_eq!(rig.newest(), newest);
                rig.reload_well();
                assert_eq!(rig.epoch(), 3);
                let (_, failures) = load.finish();
                assert_eq!(failures, Vec::<String>::new());
            });
        }
    });
}
