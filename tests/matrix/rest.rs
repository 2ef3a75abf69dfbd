//! At rest.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::certificates::data;
use crate::support::clients::HttpConnection;
use crate::support::container::Network;
use crate::support::drainit::Drainit;
use crate::support::envoy_config::Admin;
use crate::support::process::Process;
use crate::support::scene;
use crate::support::{PATIENCE, TempDir, holds_for, wait_for};

/// The system calls of each thread of a drainit.
struct Trace {
    dir: TempDir,
    /// Their numbers and names; the main one's is `drainit`.
    threads: Vec<(String, String)>,
    _strace: Process,
}

impl Trace {
    fn of(drainit: &Drainit) -> Trace {
        let tasks = fs::read_dir(format!("/proc/{}/task", drainit.pid())).unwrap();
        let threads = tasks.flatten().map(|task| {
            let name = fs::read_to_string(task.path().join("comm")).unwrap();
            let number = task.file_name().into_string().unwrap();
            (number, name.trim().to_owned())
        });
        let threads = threads.collect();
        let dir = TempDir::new();
        let mut strace = Command::new("strace");
        strace.args(["-ff", "-o", &dir.join("calls").display().to_string()]);
        strace.args(["-p", &drainit.pid().to_string()]);
        strace.stderr(Stdio::null());
        let trace = Trace {
            dir,
            threads,
            _strace: Process::spawn(&mut strace),
        };
        // Each shows the call in which it waits.
        wait_for("strace to see every thread", PATIENCE, || {
            trace.calls().values().all(|calls| !calls.is_empty())
        });
        trace
    }

    /// By the thread's name.
    fn calls(&self) -> BTreeMap<&str, String> {
        let calls = |number| fs::read_to_string(self.dir.join(&format!("calls.{number}")));
        self.threads
            .iter()
            .map(|(number, name)| (name.as_str(), calls(number).unwrap_or_default()))
            .collect()
    }
}

#[test]
fn at_rest_no_thread_makes_a_system_call() {
    let (_upstream, _config, drainit) = scene::ready(&[]);
    drainit.wait_log("envoy's version is");
    let trace = Trace::of(&drainit);
    let before = trace.calls();
    assert!(before.values().all(|calls| calls.lines().count() == 1));
    holds_for("the rest", Duration::from_secs(3), || {
        trace.calls() == before
    });
    // It would have shown one.
    let _ = drainit.get("/healthz");
    wait_for("a trace of a request", PATIENCE, || {
        trace.calls()["http"].contains("accept")
    });
}

/// Each costs 3 us and more, and there may be 10,000.
#[test]
fn connections_that_were_seen_before_are_not_looked_for_again() {
    // Elsewhere each listener of another test's is looked for among them.
    Network::new().enter(|| {
        let (_upstream, config, drainit) = scene::ready(&[]);
        let clients: Vec<_> = (0..200)
            .map(|_| HttpConnection::open(config.http).unwrap())
            .collect();
        let look = || {
            let status: Value = drainit.get("/status").1.parse().unwrap();
            status["connections"] == clients.len() && status["clients"].is_array()
        };
        wait_for("the connections in a status", PATIENCE, look);
        // A socket that is not Envoy's is looked for twice.
        for _ in 0..3 {
            drainit.get("/status");
        }
        let trace = Trace::of(&drainit);
        holds_for("their number", Duration::from_secs(3), look);
        let calls = trace.calls()["admin"].clone();
        let looks = calls.matches("socket(AF_NETLINK").count();
        let behind = calls.matches("readlinkat(").count();
        assert!(looks >= 2, "{looks} looks");
        assert!(behind < looks * 20, "{behind} descriptors in {looks} looks");
    });
}

#[test]
fn with_certificates_only_the_thread_that_checks_them_does() {
    let (_upstream, config) = scene::of(Admin::Unix);
    config.serve_tls("edge");
    let secret = ["ec.crt", "ec.key"].map(|name| data(name).display().to_string());
    let secret = format!("edge={}", secret.join(","));
    let resources = config.dir.join("resources").display().to_string();
    // Without the option it would not look at all, since the kernel tells of changes here.
    let options = ["--certificate-check", "1s", "--secret", &secret];
    let options = [&options[..], &["--resources-dir", &resources]].concat();
    let drainit = Drainit::ready(&options, &config);
    drainit.wait_log("envoy's version is");
    drainit.wait_log("Envoy loaded gen-1");
    let trace = Trace::of(&drainit);
    let before = trace.calls();
    let others_rest = || {
        let now = trace.calls();
        now.iter()
            .all(|(name, calls)| *name == "certificates" || *calls == before[name])
    };
    holds_for("the rest", Duration::from_secs(3), others_rest);
    for thread in ["drainit", "admin", "http", "log"] {
        assert_eq!(before[thread].lines().count(), 1, "{thread}");
    }
    // Twice at the least.
    let checks = trace.calls()["certificates"].matches("ec.key").count();
    assert!((2..=4).contains(&checks), "{checks} looks in 3 s");
}
