//! A program of its own, because it counts descriptors and memory.

#[path = "http/rig.rs"]
mod rig;

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rig::{Rig, wait_for};

const IDLE: usize = 2_000;
const DRIPPING: usize = 200;
/// For as long as strangers are there, in this test.
const HELD: Duration = Duration::from_millis(2_500);

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Resident memory in KiB.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Sends every connection one more byte of a head that never ends; who was cut comes again.
fn drip(rig: &Rig, dripping: &mut [TcpStream], byte: u8) {
    for stream in dripping {
        if stream.write_all(&[byte]).is_err() {
            *stream = rig.connect();
        }
    }
}

#[test]
fn probes_are_answered_while_strangers_hold_all_they_can() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let room = usize::try_from(most).unwrap_or(usize::MAX) - 500;
    let idle_count = IDLE.min(room.saturating_sub(DRIPPING));

    let rig = Rig::start(&["127.0.0.0/8"]);
    assert_eq!(rig.get("/healthz").status, 200);
    let waiter = rig.ask("GET", "/shutdown");
    rig.shutdown_event();
    let before = descriptors();
    let memory = resident();

    let mut idle: Vec<_> = (0..idle_count).map(|_| rig.connect()).collect();
    let mut dripping: Vec<_> = (0..DRIPPING).map(|_| rig.connect()).collect();
    let (start, mut slowest, mut rounds) = (Instant::now(), Duration::ZERO, 0);
    let mut grown = 0;
    while start.elapsed() < HELD {
        drip(&rig, &mut dripping, b"GET / HTTP/1.1\r\n"[rounds.min(15)]);
        // The idle ones that were closed come again, a part of them each round.
        for stream in idle.iter_mut().skip(rounds % 20).step_by(20) {
            *stream = rig.connect();
        }
        for path in ["/healthz", "/ready"] {
            rig.observe(Ok(drainit::drain::Readiness::Live));
            let asked = Instant::now();
            let answer = rig.get(path);
            assert_eq!(answer.status, 200, "{answer:?}");
            slowest = slowest.max(asked.elapsed());
        }
        while rig.wishes.take().is_some() {}
        grown = grown.max(resident().saturating_sub(memory));
        rounds += 1;
    }
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    assert!(grown < 8 << 10, "{grown} KiB");
    // The client's own, and at the most 512 of the server's.
    let held = descriptors() - before;
    assert!(held <= idle_count + DRIPPING + 512, "{held}");
    println!("{rounds} rounds; slowest answer {slowest:?}; memory grew by {grown} KiB");

    drop((idle, dripping));
    wait_for("the descriptors", || descriptors() <= before);
    rig.drain(Some(drainit::drain::Outcome::Drained));
    assert_eq!(rig::answer(waiter).says(), (200, "OK"));
}
