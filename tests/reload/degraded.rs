//! An Envoy that has handed its admin interface over, or its listeners, to generations that ended.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::rig::{OPTIONS, Rig, is_generation};
use crate::support::clients::{HttpConnection, TcpSession};
use crate::support::watch::Watch;
use crate::support::{PATIENCE, process, wait_for, wait_for_some};

/// Reloads, and kills the rising generation and the one that is tried after it, each as soon as
/// `handed` says so. drainit does not see what they answer before that.
fn kill_both(rig: &Rig, handed: impl Fn(Pid) -> bool) {
    let old = rig.newest();
    let mut known = vec![old];
    rig.drainit.signal(Signal::SIGHUP);
    for _ in 0..2 {
        let new = wait_for_some("an attempt", PATIENCE, || {
            let mut envoys = process::children(rig.drainit.pid()).into_iter();
            envoys.find(|pid| !known.contains(pid) && is_generation(*pid))
        });
        kill(rig.drainit.pid(), Signal::SIGSTOP).unwrap();
        wait_for("the handoff", PATIENCE, || handed(new));
        kill(new, Signal::SIGKILL).unwrap();
        kill(rig.drainit.pid(), Signal::SIGCONT).unwrap();
        known.push(new);
    }
    wait_for("the reload's end", PATIENCE, || {
        rig.status()["reloading"] == false
    });
}

/// Degrades it: the generations that rise have the old one's admin interface closed, and then
/// wait for a health check that does not end, so that they take no listener.
fn degrade(rig: &Rig) {
    let good = fs::read_to_string(&rig.config.file).unwrap();
    let address = rig.upstream.tcp;
    rig.config.replace(
        "  clusters:\n",
        &format!(
            "  clusters:
  - name: held
    type: STATIC
    connect_timeout: 5s
    health_checks: [{{ timeout: 60s, interval: 60s, unhealthy_threshold: 1, healthy_threshold: 1, tcp_health_check: {{ send: {{ text: '00' }}, receive: [{{ text: 'FF' }}] }} }}]
    load_assignment:
      cluster_name: held
      endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: {}, port_value: {} }} }} }} }}] }}]
",
            address.ip(),
            address.port()
        ),
    );
    let admin = rig.config.dir.join("admin.sock").display().to_string();
    kill_both(rig, |new| holds(new, "unix", &admin));
    fs::write(&rig.config.file, good).unwrap();
    rig.drainit.wait_log("degraded: envoy serves on");
}

/// Whether the process has a socket whose line in this table holds `text`.
fn holds(pid: Pid, table: &str, text: &str) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    let own: Vec<String> = entries
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|target| Some(target.to_str()?.strip_prefix("socket:[")?.replace(']', "")))
        .collect();
    let table = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
    let mut lines = table.lines().filter(|line| line.contains(text));
    lines.any(|line| {
        line.split_whitespace()
            .any(|word| own.iter().any(|inode| inode == word))
    })
}

/// One without a UDP listener: of its sessions, the kernel can tell nothing.
fn start_without_udp() -> Rig {
    Rig::start_with(&OPTIONS, |config| {
        let yaml = fs::read_to_string(&config.file).unwrap();
        let (from, to) = (
            yaml.find("  - name: udp\n"),
            yaml.find("  - name: metrics\n"),
        );
        fs::write(
            &config.file,
            yaml[..from.unwrap()].to_owned() + &yaml[to.unwrap()..],
        )
        .unwrap();
    })
}

#[test]
fn a_degraded_envoy_serves_on_and_is_drained_by_what_the_kernel_counts() {
    let mut rig = start_without_udp();
    let mut session = TcpSession::open(rig.config.tcp);
    session.echo().unwrap();
    degrade(&rig);
    rig.serves();
    wait_for("the word on it", PATIENCE, || {
        rig.status()["degraded"] == true && rig.metric("drainit_degraded") == 1
    });
    assert_eq!(rig.drainit.get("/ready").0, 200);
    assert_eq!(rig.drainit.get("/healthz").0, 200);
    wait_for("the session in the status", PATIENCE, || {
        rig.status()["connections"].as_u64() == Some(1)
    });

    let start = Instant::now();
    rig.drainit.signal(Signal::SIGTERM);
    rig.drainit.wait_log("1 of 1 connection left");
    session.echo().expect("the session is waited for");
    drop(session);
    assert_eq!(rig.drainit.wait_exit(PATIENCE), 0);
    assert!(
        start.elapsed() < Duration::from_secs(8),
        "only by the deadline"
    );
    let last = rig.drainit.wait_log("; exit code ");
    assert!(last.contains("drained after"), "{last}");
    assert!(
        last.contains("1 connection at the start, 0 at the end"),
        "{last}"
    );
    assert!(last.contains("counted by the kernel"), "{last}");
}

#[test]
fn an_idle_connection_to_a_degraded_envoy_holds_it_until_the_deadline_and_no_longer() {
    let mut rig = start_without_udp();
    let idle = HttpConnection::idle(rig.config.http);
    degrade(&rig);
    let start = Instant::now();
    rig.drainit.signal(Signal::SIGTERM);
    assert_eq!(rig.drainit.wait_exit(PATIENCE), 0);
    assert!(start.elapsed() >= Duration::from_secs(10));
    assert!(start.elapsed() < Duration::from_secs(13));
    let last = rig.drainit.wait_log("; exit code ");
    assert!(last.contains("deadline after 10"), "{last}");
    assert!(last.contains("1 at the end (cut:"), "{last}");
    drop(idle);
}

#[test]
fn a_good_reload_ends_it() {
    let rig = Rig::start();
    degrade(&rig);
    rig.reload_well();
    assert_eq!(rig.status()["degraded"], false);
    assert_eq!(rig.metric("drainit_degraded"), 0);
    assert_eq!(rig.drainit.get("/ready").0, 200);
    rig.drainit.wait_log("no longer degraded");
    rig.serves();
}

#[test]
fn an_envoy_that_has_lost_its_listeners_is_started_anew() {
    let rig = Rig::start();
    let watch = Watch::connections(rig.config.http);
    let old = rig.newest();
    kill_both(&rig, |_| !holds(old, "tcp", " 0A "));
    wait_for("a new beginning", PATIENCE, || rig.newest() != old);
    rig.drainit.wait_ready();
    rig.serves();
    let seen = watch.finish();
    println!("outage {} ms", seen.outage.as_millis());
    assert!(seen.outage < Duration::from_secs(3), "{seen:?}");
    assert_eq!(rig.epoch(), 0);
    assert_eq!(rig.status()["degraded"], false);
}

/// Kills the newest generation, which is live, and its second start.
fn kill_live_twice(rig: &Rig) {
    let first = rig.newest();
    kill(first, Signal::SIGKILL).unwrap();
    wait_for("its second start", PATIENCE, || {
        rig.newest() != first && rig.status()["state"] == "live"
    });
    assert_eq!(process::children(rig.drainit.pid()).len(), 2, "no old one");
    kill(rig.newest(), Signal::SIGKILL).unwrap();
}

#[test]
fn a_live_generation_that_is_killed_twice_ends_it_all_by_default() {
    let mut rig = Rig::start();
    rig.reload_well();
    kill_live_twice(&rig);
    assert_eq!(rig.drainit.wait_exit(PATIENCE), 137);
}

#[test]
fn a_live_generation_that_is_killed_twice_is_tried_again_where_that_is_asked_for() {
    let mut options = OPTIONS.to_vec();
    options.extend(["--restart", "on-failure"]);
    let rig = Rig::start_with(&options, |_| {});
    rig.reload_well();
    let watch = Watch::connections(rig.config.http);
    kill_live_twice(&rig);
    rig.drainit
        .wait_log("restarting: envoy exited: killed by SIGKILL");
    rig.drainit.wait_ready();
    rig.serves();
    let seen = watch.finish();
    println!("outage {} ms", seen.outage.as_millis());
    assert!(seen.outage < Duration::from_secs(3), "{seen:?}");
}
