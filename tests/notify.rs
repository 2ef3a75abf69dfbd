//! systemd's notification protocol, through a whole life on a real Envoy.

mod support;

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};

use support::clients::TcpSession;
use support::drainit::Drainit;
use support::envoy_config::{Admin, EnvoyConfig};
use support::fake_envoy::{self, SharedModel};
use support::scene;
use support::{PATIENCE, TempDir, holds_for, wait_for};

/// What systemd heard, and when.
struct Systemd {
    heard: Arc<Mutex<Vec<(Instant, String)>>>,
    name: String,
    _dir: TempDir,
}

impl Systemd {
    fn start(is_abstract: bool) -> Systemd {
        let dir = TempDir::new();
        let path = dir.join("notify");
        let path = path.to_str().unwrap();
        let (address, name) = if is_abstract {
            let address = SocketAddr::from_abstract_name(path).unwrap();
            (address, format!("@{path}"))
        } else {
            (SocketAddr::from_pathname(path).unwrap(), path.to_owned())
        };
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&heard);
        thread::spawn(move || {
            let mut datagram = [0; 4096];
            while let Ok(length) = socket.recv(&mut datagram) {
                let text = String::from_utf8_lossy(&datagram[..length]).into_owned();
                all.lock().unwrap().push((Instant::now(), text));
            }
        });
        Systemd {
            heard,
            name,
            _dir: dir,
        }
    }

    fn messages(&self) -> Vec<String> {
        let heard = self.heard.lock().unwrap();
        heard.iter().map(|(_, text)| text.clone()).collect()
    }

    fn wait(&self, text: &str) {
        wait_for(&format!("a message with {text:?}"), PATIENCE, || {
            self.messages().iter().any(|message| message.contains(text))
        });
    }

    fn run(&self, options: &[&str], more: &[(&str, &str)], config: &EnvoyConfig) -> Drainit {
        let mut variables = vec![("NOTIFY_SOCKET", &*self.name)];
        variables.extend(more);
        let mut command = vec![support::envoy().display().to_string()];
        command.extend(config.arguments());
        Drainit::start_under(&[], &variables, options, &command)
    }
}

/// The microseconds that a message asks for.
fn extension(message: &str) -> Option<u64> {
    let line = message
        .lines()
        .find_map(|line| line.strip_prefix("EXTEND_TIMEOUT_USEC="));
    line.map(|number| number.parse().unwrap())
}

fn systemd_hears_all_of_a_life(is_abstract: bool) {
    let (_upstream, config) = scene::of(Admin::Unix);
    let systemd = Systemd::start(is_abstract);
    let mut drainit = systemd.run(&["--drain-timeout", "100s"], &[], &config);
    systemd.wait("READY=1");
    assert_eq!(drainit.get("/ready").0, 200);
    let environment = fs::read(format!("/proc/{}/environ", drainit.envoy_pid())).unwrap();
    assert!(!String::from_utf8_lossy(&environment).contains("NOTIFY_SOCKET"));

    let session = TcpSession::open(config.tcp);
    drainit.signal(Signal::SIGHUP);
    systemd.wait("; reload failed at 20");
    drainit.signal(Signal::SIGTERM);
    systemd.wait("STATUS=draining: 1 of 1 connection left (");
    drop(session);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    systemd.wait("STATUS=drained after");

    let messages = systemd.messages();
    let mut rest = messages.iter();
    for what in [
        "STATUS=starting: envoy started",
        "READY=1\nSTATUS=envoy is live ",
        "RELOADING=1\nMONOTONIC_USEC=",
        "READY=1\nSTATUS=envoy is live ",
        "STOPPING=1\nSTATUS=SIGTERM: draining for 1 min 40 s at the most\nEXTEND_TIMEOUT_USEC=10",
        "STATUS=draining: 1 of 1 connection left (",
        "STATUS=stopping: SIGTERM\nEXTEND_TIMEOUT_USEC=",
        "STATUS=gone: SIGTERM",
        "STATUS=drained after ",
    ] {
        assert!(
            rest.any(|message| message.starts_with(what)),
            "{what:?} is not in its place in {messages:#?}"
        );
    }
    // A reload of nothing failed; that is told with its reason while Envoy serves, and no longer.
    let failed = |message: &&String| message.contains("Z: there is nothing to reload: ");
    let told: Vec<_> = messages.iter().filter(failed).collect();
    assert!(
        told.len() == 1 && told[0].starts_with("READY=1\nSTATUS=envoy is live "),
        "{messages:#?}"
    );
    for (what, times) in [("READY=1", 2), ("STOPPING=1", 1), ("WATCHDOG=1", 0)] {
        let lines = messages.iter().flat_map(|message| message.lines());
        assert_eq!(
            lines.filter(|line| *line == what).count(),
            times,
            "{messages:#?}"
        );
    }
    let draining = messages
        .iter()
        .filter(|message| message.contains("STOPPING=1") || message.starts_with("STATUS=draining"));
    for message in draining {
        // The rest of the drain, Envoy's end, and a margin of 5 s.
        let asked = extension(message).unwrap();
        assert!((90_000_000..=107_000_000).contains(&asked), "{message}");
    }
}

#[test]
fn systemd_hears_all_of_a_life_at_a_path() {
    systemd_hears_all_of_a_life(false);
}

#[test]
fn systemd_hears_all_of_a_life_at_an_abstract_name() {
    systemd_hears_all_of_a_life(true);
}

#[test]
fn a_drain_that_stays_does_not_say_stopping() {
    let (_upstream, config) = scene::of(Admin::Unix);
    let systemd = Systemd::start(true);
    let drainit = systemd.run(&[], &[], &config);
    systemd.wait("READY=1");
    drainit.signal(Signal::SIGUSR2);
    systemd.wait("; envoy stays until it is told to stop");
    let messages = systemd.messages();
    assert!(
        !messages.iter().any(|text| text.contains("STOPPING")),
        "{messages:#?}"
    );
}

#[test]
fn signs_of_life_come_while_the_main_loop_turns() {
    let systemd = Systemd::start(true);
    let model = SharedModel::default();
    let admin = model.admin();
    let admin_address = admin.address.text();
    let options = ["--envoy-flags", "keep", "--admin-address", &admin_address];
    let limit = Duration::from_millis(600);
    let variables = [
        ("NOTIFY_SOCKET", &*systemd.name),
        ("WATCHDOG_USEC", "600000"),
    ];
    let drainit = Drainit::start_under(&[], &variables, &options, &fake_envoy::child());
    systemd.wait("READY=1");
    let beats = || {
        let messages = systemd.messages();
        messages.iter().filter(|text| *text == "WATCHDOG=1").count()
    };
    let before = beats();
    wait_for("ten signs of life", PATIENCE, || beats() >= before + 10);
    let heard = systemd.heard.lock().unwrap().clone();
    let at = heard.iter().filter(|(_, text)| text == "WATCHDOG=1");
    let at: Vec<Instant> = at.map(|(at, _)| *at).collect();
    let apart: Vec<_> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // One that is late on a busy machine is no fault.
    let late = apart.iter().filter(|pause| **pause > limit).count();
    assert!(late <= 1, "{apart:?}");
    // Each asks how Envoy is, at most once a second.
    let asked = admin.calls().len();
    assert!(asked >= 2, "{asked}");

    kill(drainit.pid(), Signal::SIGSTOP).unwrap();
    let stopped = beats();
    holds_for("silence", limit * 2, || beats() <= stopped + 1);
    kill(drainit.pid(), Signal::SIGCONT).unwrap();
    wait_for("another sign of life", PATIENCE, || beats() > stopped + 1);
}

#[test]
fn another_processs_watchdog_is_not_fed() {
    let systemd = Systemd::start(true);
    let model = SharedModel::default();
    let admin = model.admin();
    let admin_address = admin.address.text();
    let options = ["--envoy-flags", "keep", "--admin-address", &admin_address];
    let variables = [
        ("NOTIFY_SOCKET", &*systemd.name),
        ("WATCHDOG_USEC", "100000"),
        ("WATCHDOG_PID", "1"),
    ];
    let _drainit = Drainit::start_under(&[], &variables, &options, &fake_envoy::child());
    systemd.wait("READY=1");
    holds_for("silence", Duration::from_millis(500), || {
        !systemd.messages().contains(&"WATCHDOG=1".to_owned())
    });
}

#[test]
fn a_systemd_that_reads_nothing_or_is_not_there_holds_nothing_up() {
    let dir = TempDir::new();
    let path = dir.join("notify");
    let unread = UnixDatagram::bind(&path).unwrap();
    for path in [path.to_str().unwrap(), "/nowhere/notify"] {
        let model = SharedModel::default();
        let admin = model.admin();
        let admin_address = admin.address.text();
        let options = ["--envoy-flags", "keep", "--admin-address", &admin_address];
        let variables = [("NOTIFY_SOCKET", path), ("WATCHDOG_USEC", "2000")];
        let mut drainit = Drainit::start_under(&[], &variables, &options, &fake_envoy::child());
        drainit.wait_ready();
        drainit.signal(Signal::SIGTERM);
        assert_eq!(drainit.wait_exit(PATIENCE), 0);
    }
    drop(unread);
}
