//! A program of its own, because it uses up all its descriptors.

#[path = "http/rig.rs"]
mod rig;

use std::fs::File;
use std::io::{self, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, UsageWho, getrusage, setrlimit};
use nix::sys::time::TimeValLike;
use rig::{Rig, answer, wait_for};

/// Processor time of this process so far.
fn processor() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let spent = usage.user_time() + usage.system_time();
    Duration::from_micros(spent.num_microseconds().try_into().unwrap())
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Every descriptor that there is, but for one.
fn hoard() -> Vec<File> {
    let mut hoard = Vec::new();
    let error = loop {
        match File::open("/dev/null") {
            Ok(file) => hoard.push(file),
            Err(error) => break error,
        }
    };
    assert_eq!(error.raw_os_error(), Some(nix::libc::EMFILE));
    hoard.pop();
    hoard
}

#[test]
fn without_descriptors_it_waits_and_with_them_it_goes_on() {
    setrlimit(Resource::RLIMIT_NOFILE, 256, 256).unwrap();
    let rig = Rig::start(&["127.0.0.0/8"]);
    let quiet = descriptors();
    assert_eq!(rig.get("/healthz").status, 200);

    for round in 0..3 {
        // The server has no connection left whose end would give it a descriptor.
        wait_for("the descriptors", || descriptors() == quiet);
        let hoard = hoard();
        // This takes the last one, and the server finds none to accept it with.
        let mut stream = TcpStream::connect(rig.address).unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\n\r\n").unwrap();
        stream
            .set_read_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        let spent = processor();
        let error = stream.peek(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "round {round}");
        let spent = processor() - spent;
        assert!(spent < Duration::from_millis(50), "it spins: {spent:?}");

        let start = Instant::now();
        drop(hoard);
        stream.set_read_timeout(Some(rig::PATIENCE)).unwrap();
        assert_eq!(answer(stream).says(), (200, "OK"));
        let took = start.elapsed();
        assert!(took < Duration::from_millis(500), "{took:?}");
    }

    // An idle connection is given up for a descriptor to answer a probe with.
    let idle = rig.connect();
    let waiter = rig.ask("GET", "/shutdown");
    rig.shutdown_event();
    let hoard = hoard();
    let mut stream = TcpStream::connect(rig.address).unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\n\r\n").unwrap();
    stream.set_read_timeout(Some(rig::PATIENCE)).unwrap();
    let start = Instant::now();
    assert_eq!(answer(stream).says(), (200, "OK"));
    assert!(start.elapsed() < Duration::from_secs(1));
    drop((idle, hoard));
    rig.drain(Some(drainit::drain::Outcome::Drained));
    assert_eq!(answer(waiter).says(), (200, "OK"));
}
