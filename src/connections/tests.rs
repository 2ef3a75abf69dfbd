mod anything;

use std::ops::RangeInclusive;

use super::attribute::{Known, attribute};
use super::names::Named;
use super::rows::{AdminSocket, InetRow, Rows, SocketKind, UnixRow};
use super::table::tests::{TCP, UDP, UNIX, rows};
use super::*;

const OUTGOING: RangeInclusive<u16> = 32_768..=60_999;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn local(text: &str) -> Local {
    match text.parse() {
        Ok(address) => Local::Ip(address),
        Err(_) => Local::Unix(text.into()),
    }
}

fn named(name: &str, locals: &[&str]) -> Named {
    Named {
        name: (!name.is_empty()).then(|| name.to_owned()),
        locals: locals.iter().map(|text| local(text)).collect(),
    }
}

/// What is known beside the rows: by default that Envoy has the inodes above 900, and its admin.
struct Host {
    own: Option<Vec<u64>>,
    earlier: Vec<(bool, Local)>,
    names: Vec<Named>,
    admin: Option<AdminSocket>,
}

impl Host {
    fn new() -> Host {
        Host {
            own: Some((900..=999).collect()),
            earlier: Vec::new(),
            names: Vec::new(),
            admin: AdminSocket::new(&"unix:/tmp/exp/admin.sock".parse().unwrap(), None),
        }
    }

    fn see(&self, rows: &Rows) -> Connections {
        let known = Known {
            by: Witness::Netlink,
            own: self.own.as_deref(),
            earlier: &self.earlier,
            names: &self.names,
            admin: self.admin.as_ref(),
            outgoing: &OUTGOING,
        };
        attribute(rows, &known)
    }
}

/// A line of /proc/net/tcp behind others.
fn with_line(local: &str, state: &str, inode: u64) -> Rows {
    let line =
        format!("   9: {local} 0100007F:A7A2 {state} 0:0 0:0 0     0        0 {inode} 1 0 20\n");
    rows(&format!("{TCP}{line}"), "", "")
}

/// Addresses and numbers of connections.
fn counts(seen: &Connections) -> Vec<(String, u64)> {
    let all = seen.listeners.iter();
    all.map(|one| (one.local.to_string(), one.count()))
        .collect()
}

fn row(kind: SocketKind, v6: bool, local: &str, inode: u64) -> InetRow {
    InetRow {
        kind,
        v6,
        local: at(local),
        peer: at("10.0.0.1:4000"),
        inode,
        unread: 0,
        unacknowledged: 0,
        activity: None,
    }
}

fn listening(v6: bool, local: &str, inode: u64) -> InetRow {
    row(SocketKind::Listening, v6, local, inode)
}

fn open(v6: bool, local: &str, inode: u64) -> InetRow {
    row(
        SocketKind::Open(ConnectionState::Established),
        v6,
        local,
        inode,
    )
}

fn tcp(rows: &[InetRow]) -> Rows {
    Rows {
        tcp: rows.to_vec(),
        ..Rows::default()
    }
}

fn pairs(expected: &[(&str, u64)]) -> Vec<(String, u64)> {
    let all = expected.iter();
    all.map(|(local, count)| ((*local).to_owned(), *count))
        .collect()
}

#[test]
fn connections_are_counted_by_the_listener_they_came_to() {
    let seen = Host::new().see(&rows(TCP, UDP, UNIX));
    let expected = pairs(&[
        ("0.0.0.0:443", 0),
        ("127.7.7.7:10000", 1),
        ("/tmp/exp/a listener.sock", 2),
    ]);
    assert_eq!(counts(&seen), expected);
    assert_eq!((seen.count(), seen.waiting(), seen.udp.len()), (3, 1, 1));
    assert_eq!(seen.listeners[0].accept_queue, 2);
    assert_eq!(seen.udp[0].local, local("127.7.7.7:10002"));
    let connection = &seen.listeners[1].connections[0];
    assert_eq!(connection.peer, Some(at("127.0.0.1:42914")));
    assert!(connection.accepted);
}

#[test]
fn a_connection_counts_for_as_long_as_envoy_may_have_something_to_do_with_it() {
    for (local, state, inode, counts) in [
        ("0707077F:2710", "01", 999, true),
        // Not accepted yet; the client may have hung up already.
        ("0707077F:2710", "01", 0, true),
        ("0707077F:2710", "08", 0, true),
        // Another process' that has closed its listener.
        ("0707077F:2710", "01", 5, false),
        // The client has closed its half, Envoy has, both have, or the kernel alone is left.
        ("0707077F:2710", "08", 999, true),
        ("0707077F:2710", "05", 999, true),
        ("0707077F:2710", "05", 0, false),
        ("0707077F:2710", "06", 0, false),
        ("0707077F:2710", "09", 0, false),
        // A listener on any address has them all.
        ("0505057F:01BB", "01", 999, true),
        // To an upstream.
        ("0100007F:A7A3", "01", 999, false),
        // Its listener is gone, or takes connections for any port.
        ("0505057F:0050", "01", 999, true),
        // Somebody else's.
        ("0505057F:0050", "01", 5, false),
    ] {
        let seen = Host::new().see(&with_line(local, state, inode));
        let expected = 1 + u64::from(counts);
        assert_eq!(seen.count(), expected, "{local} {state} {inode}");
    }
}

#[test]
fn an_envoy_without_a_listener_is_listening_nowhere() {
    assert!(Host::new().see(&Rows::default()).listeners.is_empty());
    // Its admin interface is none, and an old generation keeps its UDP sockets without reading them.
    let admin = UNIX.lines().take(2).collect::<Vec<_>>().join("\n");
    let seen = Host::new().see(&rows("", UDP, &admin));
    assert!(seen.listeners.is_empty());
}

#[test]
fn the_very_address_goes_before_any_address_and_the_family_decides_between_those() {
    let mut world = Host::new();
    world.own = Some(vec![1, 2, 3, 4, 11, 12, 13, 14]);
    let seen = world.see(&tcp(&[
        listening(false, "0.0.0.0:80", 1),
        listening(true, "[::]:80", 2),
        listening(false, "127.0.0.1:80", 3),
        listening(true, "[::1]:80", 4),
        open(false, "127.0.0.1:80", 11),
        open(false, "127.0.0.2:80", 12),
        // An IPv4 client of the IPv6 listener.
        open(true, "127.0.0.2:80", 13),
        open(true, "[::1]:80", 14),
    ]));
    let expected = [
        ("0.0.0.0:80", 1),
        ("127.0.0.1:80", 1),
        ("[::]:80", 1),
        ("[::1]:80", 1),
    ];
    assert_eq!(counts(&seen), pairs(&expected));
    assert_eq!(seen.elsewhere, []);
}

#[test]
fn an_ipv4_client_of_an_ipv6_listener_is_that_listeners() {
    let mut world = Host::new();
    world.own = Some(vec![2, 13]);
    let rows = tcp(&[
        listening(true, "[::]:80", 2),
        open(true, "127.0.0.2:80", 13),
    ]);
    assert_eq!(counts(&world.see(&rows)), pairs(&[("[::]:80", 1)]));
}

/// Two processes with `reuse_port` in a host's network.
#[test]
fn what_another_process_has_on_the_same_port_is_not_counted() {
    let mut ours = listening(false, "0.0.0.0:80", 901);
    ours.unread = 1;
    let mut theirs = listening(false, "0.0.0.0:80", 5);
    theirs.unread = 2;
    let mut all = vec![ours, theirs, open(false, "10.0.0.9:80", 902)];
    all.push(open(false, "10.0.0.9:80", 6));
    // Whose these are, the kernel does not tell: as many count as wait at our socket.
    all.extend([open(false, "10.0.0.9:80", 0); 3]);
    let seen = Host::new().see(&tcp(&all));
    assert_eq!((seen.count(), seen.waiting()), (2, 1));
    // Without the other process, all of them are ours, whatever the queue's length was a moment ago.
    all.remove(1);
    let seen = Host::new().see(&tcp(&all));
    assert_eq!((seen.count(), seen.waiting()), (4, 3));
}

/// Generations of a hot restart share the listening sockets.
#[test]
fn generations_of_a_hot_restart_have_their_own_connections() {
    let mut all = vec![listening(false, "0.0.0.0:80", 1)];
    all.extend([11, 12].map(|inode| open(false, "10.0.0.9:80", inode)));
    all.extend([21, 22, 23].map(|inode| open(false, "10.0.0.9:80", inode)));
    for (own, count) in [(vec![1, 11, 12], 2), (vec![1, 21, 22, 23], 3)] {
        let mut world = Host::new();
        world.own = Some(own);
        assert_eq!(world.see(&tcp(&all)).count(), count);
    }
}

#[test]
fn both_ends_of_a_connection_to_itself_are_one() {
    // The other end has a port of those who connect.
    let mut client = open(false, "127.0.0.1:40000", 903);
    client.peer = at("127.0.0.1:80");
    let listener = listening(false, "127.0.0.1:80", 901);
    let seen = Host::new().see(&tcp(&[listener, client, open(false, "127.0.0.1:80", 902)]));
    assert_eq!(seen.count(), 1);
}

#[test]
fn the_admins_connections_do_not_count_whatever_it_is_called() {
    let all = tcp(&[
        listening(false, "127.0.0.1:9901", 901),
        open(false, "127.0.0.1:9901", 902),
        open(false, "127.0.0.1:9901", 0),
        listening(false, "127.0.0.1:80", 903),
        open(false, "127.0.0.1:80", 904),
    ]);
    for admin in [
        "127.0.0.1:9901",
        "0.0.0.0:9901",
        "[::]:9901",
        "localhost:9901",
        "[::ffff:127.0.0.1]:9901",
    ] {
        let mut world = Host::new();
        world.admin = AdminSocket::new(&admin.parse().unwrap(), None);
        assert_eq!(
            counts(&world.see(&all)),
            pairs(&[("127.0.0.1:80", 1)]),
            "{admin}"
        );
    }
    let mut world = Host::new();
    world.admin = AdminSocket::new(&"@admin".parse().unwrap(), None);
    assert_eq!(world.admin, Some(AdminSocket::At(local("@admin"))));
    assert_eq!(world.see(&all).count(), 3);
}

#[test]
fn the_admins_path_is_known_by_the_name_that_it_was_bound_by() {
    let admin = |path: &str, directory: &str| {
        let path = format!("unix:{path}").parse().unwrap();
        AdminSocket::new(&path, Some(directory.as_ref())).unwrap()
    };
    for (path, directory, bound) in [
        ("/srv/admin.sock", "/srv", "admin.sock"),
        ("/srv/./admin.sock", "/srv", "./admin.sock"),
        ("/srv/../run/admin.sock", "/srv", "../run/admin.sock"),
        ("/srv/admin.sock", "/srv", "/srv/admin.sock"),
    ] {
        assert!(admin(path, directory).has_unix(bound), "{bound}");
    }
    // A listener of the same name elsewhere.
    assert!(!admin("/run/admin.sock", "/srv").has_unix("admin.sock"));
}

#[test]
fn where_inodes_are_not_known_the_named_addresses_count() {
    let mut world = Host::new();
    world.own = None;
    world.names = vec![named("web", &["0.0.0.0:80"]), named("six", &["[::1]:81"])];
    let seen = world.see(&tcp(&[
        listening(false, "0.0.0.0:80", 5),
        listening(false, "0.0.0.0:22", 6),
        open(false, "10.0.0.9:80", 7),
        open(false, "10.0.0.9:80", 0),
        open(true, "[::1]:81", 8),
        open(false, "10.0.0.9:22", 9),
    ]));
    assert_eq!(seen.whose, Ownership::Address);
    assert_eq!(counts(&seen), pairs(&[("0.0.0.0:80", 2), ("[::1]:81", 1)]));
    assert_eq!(seen.elsewhere, []);
}

#[test]
fn a_listener_has_its_own_name_at_each_of_its_addresses() {
    let mut world = Host::new();
    world.names = vec![
        named("web", &["127.7.7.7:10000", "0.0.0.0:443"]),
        named("", &["/tmp/exp/a listener.sock"]),
        named("dns", &["127.7.7.7:10002"]),
        named("gone", &["127.7.7.7:99"]),
    ];
    let seen = world.see(&rows(TCP, UDP, UNIX));
    let titles: Vec<_> = seen.listeners.iter().map(Listener::title).collect();
    assert_eq!(titles, ["web", "gone", "web", "/tmp/exp/a listener.sock"]);
    // Named, and not there: it may be in another network namespace.
    assert_eq!(
        (seen.listeners[1].listening, seen.listeners[1].count()),
        (false, 0)
    );
    assert_eq!(seen.udp[0].title(), "dns");
    for (word, is_called) in [
        ("web", true),
        ("127.7.7.7:10000", true),
        ("127.7.7.7_10000", true),
        (":10000", true),
        (":1000", false),
        ("10000", false),
        ("we", false),
        ("", false),
    ] {
        assert_eq!(seen.listeners[2].is_called(word), is_called, "{word}");
    }
}

#[test]
fn a_listener_that_was_closed_keeps_its_connections() {
    let mut world = Host::new();
    // In the range of those who connect.
    world.earlier = vec![(false, local("0.0.0.0:40000")), (false, local("/run/a"))];
    let mut all = tcp(&[
        open(false, "10.0.0.9:40000", 902),
        open(false, "10.0.0.9:40001", 903),
    ]);
    all.unix.push(UnixRow {
        listening: false,
        inode: 904,
        waiting: 0,
        name: "/run/a".into(),
    });
    let seen = world.see(&all);
    assert_eq!(counts(&seen), pairs(&[("0.0.0.0:40000", 1), ("/run/a", 1)]));
    assert!(!seen.listeners.iter().any(|one| one.listening));
}

#[test]
fn the_end_of_an_answer_is_its_listeners_though_that_is_closed_and_udp_has_its_address() {
    let closed = |peer: &str| InetRow {
        unacknowledged: 501,
        peer: at(peer),
        ..row(
            SocketKind::Open(ConnectionState::EnvoyClosed),
            false,
            "127.0.0.1:80",
            0,
        )
    };
    let mut world = Host::new();
    world.earlier = vec![(false, local("0.0.0.0:80"))];
    let mut rows = tcp(&[closed("10.0.0.1:4000"), closed("10.0.0.2:4000")]);
    rows.udp = vec![listening(false, "0.0.0.0:80", 930)];
    let unsent = |rows: &Rows| -> u32 {
        let seen = world.see(rows);
        let mut all = seen.listeners.iter();
        all.next()
            .map_or(0, |one| one.unsent(Duration::from_secs(1))[1])
    };
    assert_eq!(unsent(&rows), 1_000);
    // Where another process listens at that address, nobody tells whose it was.
    rows.tcp.push(listening(false, "127.0.0.1:80", 100));
    assert_eq!(unsent(&rows), 0);
    // Not so where it listens at another one of this port.
    rows.tcp.pop();
    rows.tcp.push(listening(false, "127.0.0.2:80", 100));
    assert_eq!(unsent(&rows), 1_000);
}

#[test]
fn unix_connections_that_wait_count_whether_they_are_shown_or_not() {
    let unix = |listening, inode, waiting| UnixRow {
        listening,
        inode,
        waiting,
        name: "/run/a".into(),
    };
    // As NETLINK_SOCK_DIAG shows them, and as /proc does.
    for (rows, connections, waiting) in [
        (vec![unix(true, 901, 2), unix(false, 902, 0)], 3, 2),
        (
            vec![unix(true, 901, 0), unix(false, 902, 0), unix(false, 0, 0)],
            2,
            1,
        ),
        // Another process' connection, of a listener at the same path before.
        (vec![unix(true, 901, 0), unix(false, 7, 0)], 0, 0),
    ] {
        let rows = Rows {
            unix: rows,
            ..Rows::default()
        };
        let seen = Host::new().see(&rows);
        assert_eq!(
            (seen.count(), seen.waiting()),
            (connections, waiting),
            "{rows:?}"
        );
    }
}

#[test]
fn a_connection_whose_silence_is_not_known_is_awake() {
    let quiet = |received_ago, sent_ago| {
        let activity = Activity {
            received_ago,
            sent_ago,
            heard_ago: 0,
            received: 1,
            acknowledged: 1,
        };
        InetRow {
            activity: Some(activity),
            ..open(false, "10.0.0.9:80", 902)
        }
    };
    let listener = listening(false, "0.0.0.0:80", 901);
    let awake = |rows: &[InetRow], silence| {
        let seen = Host::new().see(&tcp(rows));
        seen.listeners[0].awake(Duration::from_millis(silence))
    };
    let rows = [listener, quiet(9000, 7000), quiet(4000, 5000)];
    assert_eq!(
        [4000, 4001, 9000].map(|silence| awake(&rows, silence)),
        [0, 1, 2]
    );
    let unknown = open(false, "10.0.0.9:80", 902);
    assert_eq!(awake(&[listener, quiet(9000, 7000), unknown], 1), 1);
    assert_eq!(awake(&[listener], 1), 0);
}

#[test]
fn a_port_from_which_envoy_may_but_send_is_told_apart() {
    let rows = Rows {
        udp: vec![
            listening(false, "0.0.0.0:50000", 930),
            listening(false, "0.0.0.0:40000", 931),
        ],
        ..Rows::default()
    };
    let mut world = Host::new();
    let counts = |world: &Host| {
        let seen = world.see(&rows);
        (seen.udp.len(), seen.senders)
    };
    // Where Envoy does not list its listeners, either may be one.
    assert_eq!(counts(&world), (2, 0));
    world.names = vec![named("quic", &["0.0.0.0:50000"])];
    assert_eq!(counts(&world), (2, 1));
}
