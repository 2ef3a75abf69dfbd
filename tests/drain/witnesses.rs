//! The kernel's word on whose a connection is, beside Envoy's and alone.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use serde_json::Value;

use super::*;

/// With what Envoy tells, and with the kernel's word alone.
const STATISTICS: [&str; 2] = [
    "",
    "stats_config: { stats_matcher: { reject_all: true } }\n",
];
const OPTIONS: [&str; 6] = [
    "--settle",
    "500ms",
    "--min-drain",
    "0s",
    "--drain-timeout",
    "60s",
];

fn status(drainit: &Drainit) -> Value {
    drainit.get("/status").1.parse().unwrap()
}

#[track_caller]
fn wait_connections(drainit: &Drainit, count: usize) {
    wait_for("the connections in the status", PATIENCE, || {
        status(drainit)["connections"] == count
    });
}

#[test]
fn sessions_on_a_unix_listener_are_counted_and_waited_for() {
    fn echo(session: &mut UnixStream) -> io::Result<()> {
        session.write_all(b"x")?;
        session.read_exact(&mut [0])
    }
    each_envoy(|envoy| {
        for statistics in STATISTICS {
            let (_upstream, config) = scene::of(Admin::Tcp);
            config.leave_udp_out();
            config.prepend(statistics);
            let path = config.move_to_pipe(config.tcp);
            let setting = Setting::default().with_envoy(&envoy);
            let mut drainit = setting.ready(&OPTIONS, &config);
            let mut sessions = [(); 2].map(|()| {
                let session = UnixStream::connect(&path).unwrap();
                session.set_read_timeout(Some(PATIENCE)).unwrap();
                session
            });
            sessions.iter_mut().for_each(|one| echo(one).unwrap());
            wait_connections(&drainit, 2);
            let told = status(&drainit);
            let mut listeners = told["listeners"].as_array().unwrap().iter();
            let tcp = listeners.find(|one| one["name"] == "tcp").expect("tcp");
            assert_eq!(tcp["connections"], 2, "{told}");
            assert_eq!(tcp["address"], path.display().to_string(), "{told}");
            drainit.signal(Signal::SIGTERM);
            drainit.wait_log("draining: 2 of 2 connections left (tcp 2)");
            let [mut first, second] = sessions;
            drop(second);
            drainit.wait_log("draining: 1 of 2 connections left (tcp 1)");
            holds_for("the session", WELL_BEYOND_SETTLE, || {
                echo(&mut first).is_ok()
            });
            drop(first);
            assert_eq!(drainit.wait_exit(PATIENCE), 0);
            drainit.wait_log("drained after");
        }
    });
}

/// Those whom this drainit's status names.
fn named(status: &Value) -> BTreeSet<String> {
    let clients = status["clients"].as_array().unwrap().iter();
    let address = |client: &Value| client["address"].as_str().unwrap().to_owned();
    clients.map(address).collect()
}

/// As pods with `hostNetwork` and daemons on a node have it.
#[test]
fn two_drainits_on_the_same_ports_wait_for_their_own_connections_alone() {
    for statistics in STATISTICS {
        let (_upstream, config) = scene::of(Admin::Unix);
        config.leave_udp_out();
        config.prepend(statistics);
        let mut one = Drainit::ready(&OPTIONS, &config);
        config.replace("admin.sock", "admin-2.sock");
        let mut other = Drainit::ready(&OPTIONS, &config);
        // Whose each will be, the kernel draws.
        let mut sessions: Vec<_> = (0..8).map(|_| TcpSession::open(config.tcp)).collect();
        let ones = loop {
            let all = sessions.iter().map(|session| session.address().to_string());
            let all: BTreeSet<_> = all.collect();
            let mut names = [BTreeSet::new(), BTreeSet::new()];
            // The counts are Envoy's and the names the kernel's: each comes when it comes.
            wait_for("all connections to be told, each once", PATIENCE, || {
                let told = [status(&one), status(&other)];
                let counts = told.each_ref().map(|told| told["connections"].as_u64());
                names = told.each_ref().map(named);
                counts[0].zip(counts[1]).map(|(one, other)| one + other) == Some(all.len() as u64)
                    && names[0].is_disjoint(&names[1])
                    && &names[0] | &names[1] == all
            });
            let [ones, others] = names;
            if !ones.is_empty() && !others.is_empty() {
                break ones;
            }
            sessions.push(TcpSession::open(config.tcp));
        };
        one.signal(Signal::SIGTERM);
        let count = ones.len();
        one.wait_log(&format!("draining: {count} of {count} connection"));
        let (mut mine, mut theirs): (Vec<_>, Vec<_>) = sessions
            .into_iter()
            .partition(|session| ones.contains(&session.address().to_string()));
        holds_for("every session", WELL_BEYOND_SETTLE, || {
            mine.iter_mut()
                .chain(&mut theirs)
                .all(|one| one.echo().is_ok())
        });
        assert!(!one.has_exited());
        drop(mine);
        assert_eq!(one.wait_exit(PATIENCE), 0);
        one.wait_log("drained after");
        assert!(theirs.iter_mut().all(|session| session.echo().is_ok()));
        // Who comes now finds the other.
        theirs.push(TcpSession::open(config.tcp));
        wait_connections(&other, theirs.len());
        drop(theirs);
        other.signal(Signal::SIGTERM);
        assert_eq!(other.wait_exit(PATIENCE), 0);
        other.wait_log("drained after");
    }
}
