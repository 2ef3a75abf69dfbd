//! The real program, on a real Envoy, while strangers hold all the connections they can. A test
//! program of its own, because it may open thousands of descriptors.

mod support;

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use support::clients::SlowRequest;
use support::drainit::Drainit;
use support::envoy_config::Admin;
use support::http::Address;
use support::scene;
use support::{PATIENCE, wait_for};

const IDLE: usize = 2_000;
const DRIPPING: usize = 200;

/// How long they hold on; `TEST_STRANGERS_SECONDS` says otherwise.
fn held() -> Duration {
    let seconds = std::env::var("TEST_STRANGERS_SECONDS").ok();
    Duration::from_secs(seconds.and_then(|text| text.parse().ok()).unwrap_or(5))
}

/// Resident memory in KiB.
fn resident(process: Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

fn descriptors(process: Pid) -> usize {
    fs::read_dir(format!("/proc/{process}/fd")).unwrap().count()
}

fn threads(process: Pid) -> usize {
    fs::read_dir(format!("/proc/{process}/task"))
        .unwrap()
        .count()
}

/// A connection, if there is room for one just now.
fn connect(address: SocketAddr) -> Option<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, Duration::from_millis(100)).ok()?;
    stream.set_nonblocking(true).unwrap();
    Some(stream)
}

fn is_closed(stream: &TcpStream) -> bool {
    match stream.peek(&mut [0]) {
        Ok(length) => length == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

fn strangers_change_nothing(wrapper: &[&str]) {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    assert!(
        most > 4_000,
        "the test itself needs 4,000 descriptors, and may have {most}"
    );

    let (upstream, config) = scene::of(Admin::Unix);
    let address = SocketAddr::from((config.ip(), 8090));
    let mut command = vec![support::envoy().display().to_string()];
    command.extend(config.arguments());
    let listen = address.to_string();
    let options = ["--listen", &listen, "--settle", "500ms"];
    let mut drainit = Drainit::start_under(wrapper, &[], &options, &command);
    drainit.health = Address::Tcp(address);
    drainit.wait_ready();
    let probe = |path: &str| {
        let asked = Instant::now();
        let answer = drainit.health.request("GET", path, Duration::from_secs(1));
        assert_eq!(answer.expect(path).status, 200, "{path}");
        asked.elapsed()
    };
    probe("/healthz");
    let (memory, files) = (resident(drainit.pid()), descriptors(drainit.pid()));
    let running = threads(drainit.pid());

    let mut idle: Vec<_> = (0..IDLE).map(|_| connect(address)).collect();
    let mut dripping: Vec<_> = (0..DRIPPING).map(|_| connect(address)).collect();
    let start = Instant::now();
    let (mut slowest, mut grown, mut rounds) = (Duration::ZERO, 0, 0);
    while start.elapsed() < held() {
        for stream in &mut dripping {
            let sent = stream.as_mut().map(|stream| stream.write_all(b"G"));
            if !matches!(sent, Some(Ok(()))) {
                *stream = connect(address);
            }
        }
        // A part of those that were closed come again.
        let part = idle.iter_mut().skip(rounds % 10).step_by(10);
        for stream in part.filter(|stream| stream.as_ref().is_none_or(is_closed)) {
            *stream = connect(address);
        }
        for path in ["/healthz", "/ready"] {
            slowest = slowest.max(probe(path));
        }
        grown = grown.max(resident(drainit.pid()).saturating_sub(memory));
        rounds += 1;
        // A byte a second is what a dripper sends; ten rounds a second are ten of them.
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    assert!(grown < 8 << 10, "{grown} KiB");

    let slow = SlowRequest::start(config.http, Duration::from_secs(1));
    upstream.wait_in_flight(1);
    drop((idle, dripping));
    wait_for("the descriptors", PATIENCE, || {
        descriptors(drainit.pid()) <= files + 4
    });
    assert_eq!(threads(drainit.pid()), running, "threads");
    let after = resident(drainit.pid()).saturating_sub(memory);
    println!(
        "{rounds} rounds; slowest answer {slowest:?}; RSS {memory} KiB, grown by {grown} KiB, \
         by {after} KiB afterwards"
    );
    assert!(after < 1 << 10, "{after} KiB");
    // With as many there again, a drain is as ever.
    let _more: Vec<_> = (0..IDLE).map(|_| connect(address)).collect();
    drainit.signal(Signal::SIGTERM);
    assert_eq!(slow.status(), 200);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    drainit.wait_log("drained");
}

#[test]
fn strangers_are_no_reason_to_miss_a_probe_or_a_drain() {
    strangers_change_nothing(&[]);
}

#[test]
fn nor_are_they_where_descriptors_are_few() {
    strangers_change_nothing(&["prlimit", "--nofile=256:256"]);
}
