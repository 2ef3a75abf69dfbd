//! What holds for any bytes at all, for each reader of what strangers write. The fuzzer runs these
//! for minutes (scripts/fuzz), the tests for a moment (tests/fuzzed.rs).
#![allow(dead_code)] // each fuzz target uses one of them

use std::ffi::OsString;
use std::io::Write;
use std::net::{IpAddr, Shutdown};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, UNIX_EPOCH};

use drainit::certificates::check::check_pair;
use drainit::certificates::confirm;
use drainit::certificates::ocsp::Response;
use drainit::certificates::pem::blocks;
use drainit::certificates::trust;
use drainit::certificates::usable::Age;
use drainit::certificates::x509::{Certificate, Crl, Key};
use drainit::cidr::Cidr;
use drainit::client::{self, Address, ExchangeLimits};
use drainit::commands::status::Style;
use drainit::commands::{self, find};
use drainit::connections::attribute::{Known, attribute};
use drainit::connections::netlink::{self, Message, Messages};
use drainit::connections::rows::{Rows, SocketKind};
use drainit::connections::{Witness, names};
use drainit::duration;
use drainit::envoy::flags;
use drainit::envoy::load::Load;
use drainit::envoy::roll_call::RollCall;
use drainit::envoy::stats::GaugeReader;
use drainit::http::request::{self, ParsedHead};
use drainit::options;

/// A page of gauges reads the same however it was cut, and is proven only if `server.live` is in
/// it; gauges add up, however large, and never to less than one of them.
pub fn stats(bytes: &[u8]) {
    let excluded = ["0.0.0.0:80".to_owned()];
    let read = |pieces: &mut dyn Iterator<Item = &[u8]>| -> Option<Load> {
        let mut page = GaugeReader::default();
        for piece in pieces {
            page.feed(piece);
        }
        let figures = page.finish();
        // What is missing from it must not be looked for in vain.
        figures.load(&RollCall::default(), &excluded);
        let told = figures.load(&RollCall::of_a_stand_in(), &excluded);
        figures.is_proven().then_some(told.load)
    };
    let whole = read(&mut std::iter::once(bytes));
    assert_eq!(read(&mut bytes.chunks(1)), whole);
    assert_eq!(read(&mut bytes.chunks(7)), whole);
    if let Some(load) = whole {
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
    let mut before = ParsedHead::Partial;
    for end in 0..=bytes.len() {
        let Some(head) = bytes.get(..end) else { return };
        let now = request::parse(head);
        match (&before, &now) {
            (ParsedHead::Partial, _) => {}
            // Which refusal it is may still change.
            (ParsedHead::Bad(_), ParsedHead::Bad(_)) => {}
            (before, now) => assert_eq!(before, now),
        }
        match &now {
            ParsedHead::Partial => assert!(end < request::MAX_HEAD),
            ParsedHead::Whole(request) => assert!(!request.path.contains(['?', ' ', '\r', '\n'])),
            ParsedHead::Bad(reply) => assert!(!reply.body.trim_end().contains(['\r', '\n'])),
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
        Err(why) => assert!(
            why.contains(": write ") || why.contains("107 bytes"),
            "{why}"
        ),
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
            false,
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

/// A file of certificates and keys is taken, or refused in one line that shows none of it.
pub fn pem(bytes: &[u8]) {
    let now = UNIX_EPOCH + Duration::from_secs(1_900_000_000);
    if let Ok(blocks) = blocks(bytes) {
        for block in &blocks {
            der(&block.der);
        }
        let begun = bytes.windows(11).filter(|at| at == b"-----BEGIN ");
        assert!(blocks.len() <= begun.count());
    }
    if let Ok(leaf) = check_pair(bytes, bytes, now) {
        assert!(leaf.not_before <= now && now < leaf.not_after);
        // How the lines end, and what is around the blocks, is nothing.
        let lines: Vec<_> = bytes.split(|byte| *byte == b'\n').collect();
        let lines = lines.join(&b"\r\n"[..]);
        let dressed = [b"# a comment\r\n", &*lines, b"\r\n# the end"].concat();
        assert_eq!(check_pair(&dressed, &dressed, now), Ok(leaf));
    }
    let trust = trust::check(bytes, Some(bytes), now, Age::Valid);
    if let Ok((bundle, lacks, term)) = &trust {
        assert!(term.covers(now));
        assert!(bundle.not_before <= now && now <= bundle.not_after);
        assert!(0 < bundle.listed && bundle.listed <= bundle.cas);
        assert!(lacks.is_none() || bundle.listed < bundle.cas);
    }
    let why = [
        check_pair(bytes, bytes, now).map(drop).err(),
        trust.map(drop).err(),
    ];
    for why in why.into_iter().flatten() {
        let why = why.to_string();
        assert!(!why.is_empty() && !why.contains('\n'), "{why}");
    }
}

/// What claims to be a certificate, a key, a revocation list or an OCSP response is one, or malformed.
pub fn der(bytes: &[u8]) {
    let whole = |bytes: &[u8]| [Crl::parse(bytes).is_ok(), Response::parse(bytes).is_ok()];
    if whole(bytes).contains(&true) {
        let (_, shorter) = bytes.split_last().unwrap();
        assert_eq!(whole(shorter), [false, false]);
        assert_eq!(whole(&[bytes, &[0]].concat()), [false, false]);
    }
    let key = ["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"]
        .into_iter()
        .find_map(|label| Key::parse(label, bytes)?.ok());
    if let Ok(certificate) = Certificate::parse(bytes) {
        assert!(
            certificate
                .serial
                .to_string()
                .bytes()
                .all(|byte| byte.is_ascii_hexdigit())
        );
        // Neither cut off nor with something behind it.
        let (_, shorter) = bytes.split_last().unwrap();
        assert!(Certificate::parse(shorter).is_err());
        assert!(Certificate::parse(&[bytes, &[0]].concat()).is_err());
        if let Some(key) = &key {
            // Nothing is both, and nothing may be taken for a match by accident.
            assert_ne!(certificate.has_key(key), Some(true));
        }
    }
}

/// The pages of Envoy's admin interface that tell which certificates it uses.
pub fn admin_pages(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(serials) = confirm::parse_certs(text) {
        for serial in serials {
            let serial = serial.to_string();
            assert!(serial == "0" || !serial.starts_with('0'));
        }
    }
    for listener in names::parse(text).unwrap_or_default() {
        assert!(listener.name.is_none_or(|name| !name.is_empty()));
    }
    let names = ["client".to_owned(), "a.b".to_owned()];
    assert_eq!(confirm::parse_stats(text, &names).len(), names.len());
}

/// What commands read of a stranger's: an answer over HTTP, the JSON of a status in it, and the
/// names of sockets. Nothing of it reaches the terminal that this obeys, and all of it is bounded.
pub fn answers(bytes: &[u8]) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    // What does not fit into the socket is not said.
    let _ = theirs.write(bytes);
    let _ = theirs.shutdown(Shutdown::Write);
    let limits = ExchangeLimits {
        time: Duration::from_secs(1),
        body: 4_000,
    };
    let mut said = bytes.to_vec();
    if let Ok((head, body)) = client::read_answer(ours, "/status", limits) {
        assert!(body.len() <= 4_000);
        let result = head.drain_result.unwrap_or_default();
        assert!(is_harmless(&commands::clean(&result, 100), 101));
        said = body;
    }
    for said in [&said, bytes] {
        let text = String::from_utf8_lossy(said);
        assert!(is_harmless(&commands::clean(&text, 100), 101));
        if let Some(status) = commands::parse_status(&text) {
            let json = commands::status::json_line(&status);
            assert!(is_harmless(&json, usize::MAX));
            assert_eq!(commands::parse_status(&json), Some(status.clone()));
            let style = Style {
                color: false,
                width: 80,
                height: 40,
            };
            let picture = commands::status::render(&status, style);
            assert!(
                picture.lines().all(|line| is_harmless(line, 80)),
                "{picture}"
            );
            assert!(picture.lines().count() <= 40);
            commands::pid_in(&status);
        }
    }
    for (pid, name) in find::names_in(bytes, "drainit/7/") {
        let start = format!("drainit/7/{pid}/");
        assert!(pid > 0 && name.starts_with(&start));
    }
}

fn is_harmless(line: &str, most: usize) -> bool {
    !line.contains(commands::is_obeyed) && line.chars().count() <= most
}

/// The kernel's messages about sockets: what is in them is read or not, and each socket counts once
/// at the most.
pub fn netlink(bytes: &[u8]) {
    let mut rows = Rows::default();
    for message in Messages::new(bytes, 0) {
        let Some(Message::Row(row)) = message else {
            continue;
        };
        rows.unix.extend(netlink::unix_row(row).flatten());
        if let Some(row) = netlink::inet_row(row) {
            assert_eq!(row.local.ip(), row.local.ip().to_canonical());
            match row.kind {
                SocketKind::Listening if row.inode % 4 == 3 => rows.udp.push(row),
                _ => rows.tcp.push(row),
            }
        }
    }
    let mut own: Vec<u64> = rows.tcp.iter().map(|row| row.inode).collect();
    own.extend(rows.unix.iter().map(|row| row.inode));
    own.retain(|inode| inode % 2 == 1);
    own.sort_unstable();
    let seen = attribute(
        &rows,
        &Known {
            by: Witness::Netlink,
            own: Some(&own),
            earlier: &[],
            names: &[],
            admin: None,
            outgoing: &(32_768..=60_999),
        },
    );
    let open = rows
        .tcp
        .iter()
        .filter(|row| row.kind != SocketKind::Listening);
    let open = open.count() + rows.unix.iter().filter(|row| !row.listening).count();
    assert!(seen.iter().count() <= open);
    assert!(seen.count() >= seen.iter().count() as u64 && seen.waiting() <= seen.count());
    for one in seen.iter() {
        assert!(one.inode == 0 || own.contains(&one.inode));
    }
}

fn arguments(bytes: &[u8]) -> Vec<OsString> {
    bytes
        .split(|byte| *byte == 0)
        .map(|argument| OsString::from_vec(argument.to_vec()))
        .collect()
}
