//! What no client should send.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use super::LOOPBACK;
use super::rig::{Random, Rig, answer, half_close, wait_for};

#[test]
fn bytes_that_are_no_request_get_400_in_one_line() {
    let rig = Rig::start(&LOOPBACK);
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"GET /\0 HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\n: no name\r\n\r\n",
        b"\r\n\r\n\r\n:",
    ] {
        let answer = rig.raw(bytes);
        assert_eq!(answer.status, 400, "{bytes:?}: {answer:?}");
        assert!(!answer.body.contains('\n'));
    }
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(9_000));
    assert_eq!(rig.raw(long.as_bytes()).status, 431);
    let cut = rig.connect();
    (&cut).write_all(b"GET /healthz HT").unwrap();
    half_close(&cut);
    assert_eq!(answer(cut).status, 400);
}

#[test]
fn lines_may_end_without_a_carriage_return_and_pipelined_requests_are_ignored() {
    let rig = Rig::start(&LOOPBACK);
    assert_eq!(
        rig.raw(b"GET /healthz HTTP/1.1\nHost: a\n\n").says(),
        (200, "OK")
    );
    let two = b"GET /healthz HTTP/1.1\r\n\r\nGET /nothing HTTP/1.1\r\n\r\n";
    assert_eq!(rig.raw(two).says(), (200, "OK"));
    let smuggled = b"POST /healthz HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\
        \r\nffffffffffffffff\r\nGET /shutdown HTTP/1.1\r\n\r\n";
    assert_eq!(rig.raw(smuggled).status, 405);
}

#[test]
fn a_body_of_10_mb_does_not_keep_the_answer_from_who_sends_it() {
    let rig = Rig::start(&LOOPBACK);
    let mut stream = rig.connect();
    let length = 10 << 20;
    write!(
        stream,
        "POST /ready HTTP/1.1\r\nContent-Length: {length}\r\n\r\n"
    )
    .unwrap();
    // A client that does not look for the answer before it has sent everything.
    stream.write_all(&vec![b'x'; length]).unwrap();
    assert_eq!(answer(stream).status, 405);
}

#[test]
fn a_body_that_never_ends_is_cut() {
    let rig = Rig::start(&LOOPBACK);
    let mut stream = rig.connect();
    stream
        .write_all(b"POST /ready HTTP/1.1\r\nContent-Length: 9\r\n\r\n")
        .unwrap();
    let start = Instant::now();
    let mut bytes = 0;
    while stream.write_all(&[b'x'; 4096]).is_ok() {
        bytes += 4096;
        assert!(start.elapsed() < Duration::from_secs(5));
    }
    assert!(bytes < 64 << 20, "{bytes}");

    // And one of a byte now and then: its time is over after a second.
    let mut stream = rig.connect();
    stream
        .write_all(b"POST /ready HTTP/1.1\r\nContent-Length: 9\r\n\r\n")
        .unwrap();
    let start = Instant::now();
    wait_for("the connection's end", || stream.write_all(b"x").is_err());
    assert!(start.elapsed() < Duration::from_secs(3));
}

#[test]
fn a_head_that_drips_is_cut_after_two_seconds_however_lively() {
    let rig = Rig::start(&LOOPBACK);
    let (mut quiet, mut lively) = (rig.connect(), rig.connect());
    let start = Instant::now();
    lively.write_all(b"GET /healthz HTTP/1.1\r\n").unwrap();
    lively.set_nonblocking(true).unwrap();
    let mut text = String::new();
    wait_for("the answer", || {
        let _ = lively.write_all(b"a:b\r\n".get(..1).unwrap());
        let _ = lively.read_to_string(&mut text);
        !text.is_empty()
    });
    assert!(text.starts_with("HTTP/1.1 408 "), "{text}");
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(1_900), "{took:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert_eq!(quiet.read(&mut [0; 9]).unwrap(), 0);
    assert!(start.elapsed() < Duration::from_secs(3));
}

#[test]
fn an_answer_that_nobody_reads_is_given_up() {
    let rig = Rig::start(&LOOPBACK);
    // More than the sockets on both sides take.
    let long = "x".repeat(16 << 20);
    rig.board.update(|snapshot| snapshot.reason = long);
    let start = Instant::now();
    let deaf = rig.connect();
    nix::sys::socket::setsockopt(&deaf, nix::sys::socket::sockopt::RcvBuf, &4096).unwrap();
    (&deaf).write_all(b"GET /status HTTP/1.1\r\n\r\n").unwrap();
    deaf.peek(&mut [0]).unwrap();
    assert_eq!(rig.get("/healthz").says(), (200, "OK"));
    // Only once the server has given up does the connection end; till then bytes are welcome.
    wait_for("the connection's end", || (&deaf).write_all(b"x").is_err());
    let took = start.elapsed();
    assert!(took > Duration::from_secs(2), "{took:?}");
    assert!(took < Duration::from_secs(6), "{took:?}");
}

/// Requests that are almost right: tokens put together at random, then cut, repeated, and
/// sprinkled with other bytes.
fn malformed(random: &mut Random) -> Vec<u8> {
    const TOKENS: [&[u8]; 32] = [
        b"GET ",
        b"HEAD ",
        b"POST ",
        b"get ",
        b"/healthz",
        b"/ready",
        b"/status",
        b"/metrics",
        b"/nothing",
        b"?a=b",
        b" ",
        b" HTTP/1.1",
        b" HTTP/1.0",
        b" HTTP/3",
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"\n\n",
        b"\r",
        b"\0",
        b"Host: a\r\n",
        b"Content-Length: 99999999999\r\n",
        b"Content-Length: -1\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"fffffffff\r\n",
        b"0\r\n",
        b": \r\n",
        b" folded\r\n",
        b"Expect: 100-continue\r\n",
        b"\xff\xfe",
        b"%00",
        b"\t",
    ];
    let mut bytes = Vec::new();
    if random.below(2) == 0 {
        bytes.extend(b"GET /healthz HTTP/1.1\r\n");
    }
    for _ in 0..random.below(12) {
        let token = TOKENS[random.below(TOKENS.len())];
        let times = if random.below(40) == 0 { 1_000 } else { 1 };
        bytes.extend(token.repeat(times));
    }
    for _ in 0..random.below(3) {
        if !bytes.is_empty() {
            let at = random.below(bytes.len());
            bytes[at] = u8::try_from(random.below(256)).unwrap();
        }
    }
    if random.below(3) == 0 {
        bytes.truncate(random.below(bytes.len() + 1));
    }
    bytes
}

/// How many; `TEST_REQUESTS` says otherwise.
const REQUESTS: u32 = 20_000;

#[test]
fn malformed_requests_are_answered_or_cut_and_nothing_hangs() {
    let requests = std::env::var("TEST_REQUESTS").map_or(REQUESTS, |text| text.parse().unwrap());
    let rig = Rig::start(&[]);
    let mut random = Random(0x5eed);
    let mut seen = std::collections::BTreeMap::new();
    for round in 0..requests {
        let bytes = malformed(&mut random);
        // Over the control socket, mostly: so many connections of TCP leave no port to the
        // tests beside this one.
        let answer = if round % 20 == 0 {
            let mut stream = rig.connect();
            let _ = stream.write_all(&bytes);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            answer(stream)
        } else {
            let mut stream = rig.connect_control();
            let _ = stream.write_all(&bytes);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            answer(stream)
        };
        let whole = answer.header("content-length").map(str::to_owned);
        assert!(
            matches!(answer.status, 0 | 200 | 400 | 404 | 405 | 431 | 503),
            "{bytes:?}: {answer:?}"
        );
        if answer.status == 0 {
            assert!(bytes.is_empty(), "no answer to {bytes:?}");
        } else if !answer.body.is_empty() {
            assert_eq!(whole, Some(answer.body.len().to_string()));
        }
        *seen.entry(answer.status).or_insert(0) += 1;
        while rig.wishes.take().is_some() {}
    }
    for status in [200, 400, 404, 405, 431] {
        assert!(seen.contains_key(&status), "{seen:?}");
    }
    println!("{requests} requests: {seen:?}");
    assert_eq!(rig.get("/healthz").says(), (200, "OK"));
}
