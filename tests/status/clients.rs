//! Who has connections: since when, how much goes over each, and whom that is told.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use super::support::drainit::Setting;
use super::*;

/// The kernel's clock ticks every 10 ms at the slowest; drainit's is read a moment after its look.
const EXACT: f64 = 0.5;

/// Ends the traffic with the test, also with one that fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A drainit of root's may be looked at by every user.
const STRANGER: &str = "--reuid=4711";

#[test]
fn a_client_has_its_rate_or_its_silence_and_neither_over_tcp_nor_for_strangers_an_address() {
    let (_upstream, config) = scene::of(Admin::Unix);
    let port = SocketAddr::from((config.ip(), 8090));
    let options = ["--drain-timeout", "3s", "--check-interval", "150ms"];
    let mut drainit = Setting::default().health(port).ready(&options, &config);
    let pid = drainit.pid().to_string();
    let opening = Instant::now();
    let silent = TcpSession::open(config.tcp);
    let opened = Instant::now();
    let mut busy = TcpSession::open(config.tcp);
    let [silent_at, busy_at] = [&silent, &busy].map(|one| one.address().to_string());
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        // At 4 kB/s at the most, counted in both directions.
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) && busy.echo_bytes(&[0; 40]).is_ok() {
                thread::sleep(Duration::from_millis(20));
            }
        });
        let _stop = Stop(&is_over);
        let status = |how: &[&str]| {
            let line = [&["status", "--pid", &pid], how].concat();
            let (code, out, err) = drainit::run(&line);
            assert_eq!((code, &*err), (0, ""), "{out}");
            out
        };
        let find = |told: &Value, address: &str| {
            let mut clients = told["clients"].as_array().unwrap().iter();
            clients.find(|one| one["address"] == address).cloned()
        };
        let mut told = Value::Null;
        let mut asked = (0.0, 0.0);
        wait_for("a rate", PATIENCE, || {
            let since = opened.elapsed().as_secs_f64();
            told = status(&["--json"]).parse().unwrap();
            asked = (since, opening.elapsed().as_secs_f64());
            let age = |address| find(&told, address)?["age_seconds"].as_f64();
            find(&told, &busy_at).is_some_and(|one| one["bytes_per_second"].is_u64())
                && age(&busy_at)
                    .zip(age(&silent_at))
                    .is_some_and(|(one, other)| one.min(other) > 2.0)
        });
        let [one, other] = [&busy_at, &silent_at].map(|address| find(&told, address).unwrap());
        let seconds = |client: &Value, of: &str| client[of].as_f64().unwrap();
        let rate = one["bytes_per_second"].as_u64().unwrap();
        assert!((400..=4_400).contains(&rate), "{told}");
        assert!(seconds(&one, "silent_seconds") < 1.0, "{told}");
        assert_eq!(
            other["bytes_per_second"].as_u64().unwrap_or_default(),
            0,
            "{told}"
        );
        let looked = told["looked_seconds_ago"].as_f64().unwrap();
        let silence = seconds(&other, "silent_seconds") + looked;
        assert!(
            silence > asked.0 - EXACT && silence < asked.1 + EXACT,
            "{asked:?}: {told}"
        );
        for client in [&one, &other] {
            assert_eq!(client["listener"], "tcp");
            let age = seconds(client, "age_seconds");
            assert!(age < asked.1 + EXACT, "{asked:?}: {told}");
        }

        let table = status(&[]);
        assert!(table.contains(&format!("{busy_at}, over ")), "{table}");
        assert!(table.contains("B/s"), "{table}");
        assert!(table.contains(&format!("{silent_at}, silent ")), "{table}");

        let has_none = |page: &str| {
            for address in [&silent_at, &busy_at] {
                assert!(!page.contains(address.as_str()), "{page}");
            }
        };
        let over_tcp = || {
            let page = drainit.get("/status").1;
            has_none(&page);
            has_none(&drainit.get("/metrics").1);
            let told: Value = page.parse().unwrap();
            assert_eq!(
                (&told["connections"], &told["clients"]),
                (&2.into(), &Value::Null)
            );
        };
        over_tcp();
        // Nor another user on the control socket.
        let dir = TempDir::new();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let program = dir.join("drainit");
        support::copy_program(support::drainit(), &program);
        let mut command = Command::new("setpriv");
        command.args([STRANGER, "--clear-groups"]).arg(&program);
        command.args(["status", "--json", "--pid", &pid]);
        let (code, page, err) = drainit::run_command(&mut command);
        assert_eq!((code, &*err), (0, ""), "{page}");
        has_none(&page);
        let told: Value = page.parse().unwrap();
        assert_eq!(
            (&told["connections"], &told["clients"]),
            (&2.into(), &Value::Null)
        );

        drainit.signal(Signal::SIGTERM);
        drainit.wait_log("draining: 2 of 2 connections left");
        over_tcp();
        assert!(status(&["--json"]).contains(&busy_at));
        assert_eq!(drainit.wait_exit(PATIENCE), 0);
    });
    let verdict = drainit.wait_log("CUT by the deadline after 3.0 s");
    let (_, cut) = verdict.split_once("who was cut: tcp: ").expect(&verdict);
    let (first, second) = cut.split_once("; ").expect(&verdict);
    assert!(first.starts_with(&format!("{busy_at}, over ")), "{verdict}");
    assert!(first.ends_with("B/s"), "{verdict}");
    assert!(
        second.starts_with(&format!("{silent_at}, silent ")),
        "{verdict}"
    );
}
