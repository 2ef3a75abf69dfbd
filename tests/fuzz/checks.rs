//! What holds for any bytes at all, for each reader of what strangers write. The fuzzer runs these
//! for minutes (scripts/fuzz), the tests for a moment (tests/fuzzed.rs).
#![allow(dead_code)] // each fuzz target uses one of them

use std::ffi::OsString;
use std::net::IpAddr;
use std::os::unix::ffi::OsStringExt;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use drainit::certificates::read::{Refusal, check_bundle, check_pair};
use drainit::certificates::x509::{Certificate, Key};
use drainit::cidr::Cidr;
use drainit::client::Address;
use drainit::duration;
use drainit::envoy::flags;
use drainit::envoy::stats::{Load, Page};
use drainit::http::request::{self, Head};
use drainit::options;

/// A page of gauges reads the same however it was cut, and is a load only if `server.live` is in
/// it; gauges add up, however large, and never to less than one of them.
pub fn stats(bytes: &[u8]) {
    let excluded = ["0.0.0.0:80".to_owned()];
    let read = |pieces: &mut dyn Iterator<Item = &[u8]>| -> Result<Load, String> {
        let mut page = Page::default();
        for piece in pieces {
            page.feed(piece, &excluded);
        }
        page.finish(&excluded)
    };
    let whole = read(&mut std::iter::once(bytes));
    assert_eq!(read(&mut bytes.chunks(1)), whole);
    assert_eq!(read(&mut bytes.chunks(7)), whole);
    if let Ok(load) = whole {
        let text = String::from_utf8_lossy(bytes);
        assert!(text.lines().any(|line| line.starts_with("server.live: ")));
        let parts = [load.requests, load.tcp_sessions, load.udp_sessions];
        assert!(parts.into_iter().all(|part| part <= load.in_flight()));
        for listener in load.listeners.iter().filter(|listener| !listener.excluded) {
            assert!(listener.connections <= load.connections());
        }
    }
}

/// Once a head is whole, or bad, what follows does not change it; and a refusal is one line.
pub fn http_head(bytes: &[u8]) {
    let mut before = Head::Partial;
    for end in 0..=bytes.len() {
        let Some(head) = bytes.get(..end) else { return };
        let now = request::parse(head);
        match (&before, &now) {
            (Head::Partial, _) => {}
            // Which refusal it is may still change.
            (Head::Bad(_), Head::Bad(_)) => {}
            (before, now) => assert_eq!(before, now),
        }
        match &now {
            Head::Partial => assert!(end < request::MAX_HEAD),
            Head::Whole(request) => assert!(!request.path.contains(['?', ' ', '\r', '\n'])),
            Head::Bad(reply) => assert!(!reply.body.trim_end().contains(['\r', '\n'])),
        }
        before = now;
    }
}

/// Durations, networks and addresses: what is read can be shown and read again.
pub fn words(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(time) = duration::parse(text) {
        assert_eq!(
            duration::parse(&format!("{}ns", time.as_nanos())),
            Ok(time),
            "{text}"
        );
        assert!(!duration::show(time).is_empty());
    }
    if let Ok(network) = text.parse::<Cidr>() {
        let shown = network.to_string();
        assert_eq!(shown.parse(), Ok(network));
        let (address, _) = shown.split_once('/').unwrap_or((&shown, ""));
        let address: IpAddr = address.parse().unwrap_or_else(|_| panic!("{shown}"));
        assert!(network.contains(address), "{network} lacks {address}");
    }
    match text.parse::<Address>() {
        // What is shown of a path is for people.
        Ok(Address::Unix(path)) => assert!(text.ends_with(&*path.to_string_lossy())),
        Ok(address) => assert_eq!(address.to_string().parse(), Ok(address)),
        Err(why) => assert!(why.contains("127.0.0.1:9901")),
    }
}

/// Envoy's command line, its arguments separated by zero bytes, keeps what it was, gets what it
/// lacks, and is whole then.
pub fn envoy_argv(bytes: &[u8]) {
    let given = arguments(bytes);
    let mut line = given.clone();
    let complete = |line: &mut Vec<OsString>| {
        flags::complete(
            line,
            Duration::from_secs(15),
            Some("/proc/self/fd/3".into()),
        );
    };
    complete(&mut line);
    assert!(line.starts_with(&given));
    assert!(line.len() <= given.len() + 7);
    for flag in ["--drain-time-s", "--drain-strategy", "--admin-address-path"] {
        assert!(flags::has(&line, flag));
        if !flags::has(&given, flag) {
            assert!(flags::value(&line, flag).is_some());
        }
    }
    assert!(flags::has(&line, "--disable-hot-restart"));
    let whole = line.clone();
    complete(&mut line);
    assert_eq!(line, whole);
}

/// Our own command line, its arguments separated by zero bytes, the first of them the value of
/// every environment variable: it is taken, or refused in one line.
pub fn options(bytes: &[u8]) {
    let mut arguments = arguments(bytes);
    let variable = arguments.pop();
    for variable in [None, variable] {
        let result = options::parse(arguments.iter().cloned(), |_| variable.clone());
        if let Err(why) = result {
            assert!(!why.is_empty());
            assert!(!why.contains('\n') || bytes.contains(&b'\n'), "{why}");
        }
    }
}

/// 2025-01-01, when the certificates in tests/data are valid.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_735_689_600)
}

/// A certificate and, behind a zero byte, its key: taken, with a serial number that can be
/// compared, or refused in a line. How the lines end, and what is between the blocks, is nothing.
pub fn pem(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let cert = parts.next().unwrap_or_default();
    let key = parts.next().unwrap_or_default();
    let pair = check_pair(cert, key, now());
    match &pair {
        Ok(leaf) => {
            let hex = |digit: u8| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit);
            assert!(leaf.serial.bytes().all(hex), "{}", leaf.serial);
            assert!(leaf.serial == "0" || !leaf.serial.is_empty() && !leaf.serial.starts_with('0'));
            assert!(leaf.not_before <= now() && now() < leaf.not_after);
            let dressed = |text: &[u8]| {
                let lines = text.split(|byte| *byte == b'\n');
                let lines: Vec<_> = lines.collect();
                [
                    b"# a comment\r\n",
                    &*lines.join(&b"\r\n"[..]),
                    b"\r\n# the end",
                ]
                .concat()
            };
            assert_eq!(check_pair(&dressed(cert), &dressed(key), now()), pair);
        }
        Err(refusal) => one_line(refusal, bytes),
    }
    match check_bundle(cert, now()) {
        Ok(bundle) => assert!(bundle.not_before <= now() && now() < bundle.not_after),
        Err(refusal) => one_line(&refusal, bytes),
    }
}

fn one_line(refusal: &Refusal, bytes: &[u8]) {
    let line = refusal.to_string();
    assert!(!line.is_empty() && !line.contains('\n'), "{line}");
    // A label may be in it, whatever it is.
    assert!(line.len() < 200 || bytes.len() > 100, "{line}");
}

/// One DER structure, as a certificate and as a key of each kind: neither is taken without its
/// last byte, nor a certificate with one more.
pub fn der(bytes: &[u8]) {
    let shorter = bytes.split_last().map_or(bytes, |(_, rest)| rest);
    if Certificate::parse(bytes).is_ok() {
        assert!(Certificate::parse(shorter).is_err());
        assert!(Certificate::parse(&[bytes, &[0]].concat()).is_err());
    }
    for label in ["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"] {
        let is_key = |der: &[u8]| matches!(Key::parse(label, der), Some(Ok(_)));
        // Behind a key there may be something; a key that was cut off is none.
        let whole = bytes
            .get(1)
            .is_some_and(|length| *length < 0x80 && bytes.len() == usize::from(*length) + 2);
        assert!(!(whole && is_key(bytes) && is_key(shorter)), "{label}");
        let cert = block("CERTIFICATE", bytes);
        pem(&[cert.as_bytes(), b"\0", block(label, bytes).as_bytes()].concat());
    }
}

fn block(label: &str, der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{base64}\n-----END {label}-----\n")
}

fn arguments(bytes: &[u8]) -> Vec<OsString> {
    bytes
        .split(|byte| *byte == 0)
        .map(|argument| OsString::from_vec(argument.to_vec()))
        .collect()
}
