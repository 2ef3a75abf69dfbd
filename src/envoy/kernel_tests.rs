use std::net::{TcpListener, TcpStream};

use super::*;
use crate::connections::{Local, Ownership, Witness};

fn listener(local: &str, listening: bool, queued: u64) -> connections::Listener {
    connections::Listener {
        name: None,
        local: match local.parse() {
            Ok(address) => Local::Ip(address),
            Err(_) => Local::Unix(local.into()),
        },
        listening,
        accept_queue: queued,
        connections: Vec::new(),
        queued,
        closed: Vec::new(),
    }
}

fn seen(listeners: Vec<connections::Listener>, udp: Vec<connections::Listener>) -> Connections {
    Connections {
        by: Witness::Proc,
        whose: Ownership::Inode,
        why: None,
        listeners,
        elsewhere: Vec::new(),
        is_transparent: false,
        closing: 0,
        udp,
        senders: 0,
    }
}

fn some() -> Connections {
    seen(
        vec![
            listener("127.7.7.7:10000", true, 1),
            listener("/tmp/exp/a listener.sock", true, 2),
        ],
        vec![listener("127.7.7.7:10002", true, 0)],
    )
}

fn measure(excluded: &[String]) -> Measure<'_> {
    Measure {
        excluded,
        settle: Duration::from_secs(5),
    }
}

fn load_of(seen: &Connections, excluded: &[&str]) -> Load {
    let excluded: Vec<String> = excluded.iter().map(|&name| name.into()).collect();
    see(
        seen,
        measure(&excluded),
        None,
        (&Ledger::new(Instant::now()), Instant::now()),
    )
    .alone()
}

#[test]
fn each_connection_and_each_udp_listener_may_have_something_in_flight() {
    let load = load_of(&some(), &[]);
    let all = load.listeners.iter();
    let listeners: Vec<_> = all.map(|l| (l.name.as_str(), l.connections)).collect();
    let expected = [("/tmp/exp/a listener.sock", 2), ("127.7.7.7:10000", 1)];
    assert_eq!(listeners, expected);
    assert_eq!((load.tcp_sessions, load.udp_sessions), (3, 1));
    assert_eq!(load.in_flight(), 4);
}

#[test]
fn a_listener_that_is_only_remembered_accepts_nothing_and_still_counts_in_a_drain() {
    let is_closed = |seen: &Connections, roll: Option<&RollCall>| {
        let before = (&Ledger::new(Instant::now()), Instant::now());
        let seen = see(seen, measure(&[]), roll, before);
        [false, true].map(|winds_down| seen.is_closed(winds_down))
    };
    let tcp = |listening| vec![listener("127.7.7.7:10000", listening, 0)];
    let udp = || vec![listener("127.7.7.7:10002", true, 0)];
    let nothing = seen(Vec::new(), Vec::new());
    assert_eq!(is_closed(&nothing, None), [true, true]);
    let connection = connections::Connection {
        peer: None,
        state: connections::ConnectionState::Established,
        accepted: true,
        inode: 1,
        unread: 0,
        unacknowledged: 0,
        activity: None,
    };
    let elsewhere = Connections {
        elsewhere: vec![connection],
        ..nothing.clone()
    };
    assert_eq!(is_closed(&elsewhere, None), [true, false]);
    assert_eq!(is_closed(&seen(tcp(true), udp()), None), [false, false]);
    assert_eq!(
        is_closed(&seen(tcp(false), Vec::new()), None),
        [true, false]
    );
    // An Envoy whose UDP sockets are left does not read them; one that never had others does.
    assert_eq!(is_closed(&seen(tcp(false), udp()), None), [true, false]);
    assert_eq!(is_closed(&seen(Vec::new(), udp()), None), [false, false]);
    let mut far = roll(&[]);
    far.listed.reaches_out = true;
    assert_eq!(
        is_closed(&seen(tcp(false), Vec::new()), Some(&far)),
        [false, false]
    );
}

#[test]
fn a_listener_for_any_address_or_in_another_network_namespace_may_have_what_is_not_seen() {
    let load = |is_transparent, roll: Option<&RollCall>| {
        let connections = Connections {
            is_transparent,
            ..some()
        };
        see(
            &connections,
            measure(&[]),
            roll,
            (&Ledger::new(Instant::now()), Instant::now()),
        )
        .alone()
    };
    let mut roll = roll(&[]);
    assert_eq!(load(false, Some(&roll)).sight, Sight::Kernel);
    assert_eq!(load(true, Some(&roll)).sight, Sight::Partial);
    roll.read_listed(
        r#"{"listener_statuses": [{"name": "a", "local_address": {"socket_address": {
            "address": "127.0.0.1", "port_value": 80, "network_namespace_filepath": "/run/x"}}}]}"#,
    );
    assert_eq!(load(false, Some(&roll)).sight, Sight::Partial);
}

/// A drain that Envoy's main thread holds up for a moment must not lose the last entries by that.
#[test]
fn access_logs_are_sent_for_all_that_is_known_unless_envoy_has_told_otherwise() {
    let sends_logs = |roll: Option<&RollCall>| {
        let before = (&Ledger::new(Instant::now()), Instant::now());
        see(&some(), measure(&[]), roll, before).load.sends_logs
    };
    assert!(sends_logs(None) && sends_logs(Some(&RollCall::default())));
    for (line, expected) in [("access_logs.grpc.logs_written: 0\n", true), ("", false)] {
        let mut reader = super::super::roll_call::RollCallReader::default();
        reader.feed(line.as_bytes());
        let mut roll = reader.finish();
        roll.called = Some(Instant::now());
        assert_eq!(sends_logs(Some(&roll)), expected);
        let page = super::super::stats::Figures::default();
        assert_eq!(page.load(&roll, &[]).load.sends_logs, expected);
        roll.called = None;
        assert!(page.load(&roll, &[]).load.sends_logs);
    }
}

#[test]
fn excluded_listeners_do_not_count() {
    let excluded = [
        "127.7.7.7:10000",
        "/tmp/exp/a listener.sock",
        "127.7.7.7:10002",
    ];
    let load = load_of(&some(), &excluded);
    assert_eq!((load.connections(), load.in_flight()), (0, 0));
    assert_eq!(load.listeners.len(), 2);
}

#[test]
fn what_is_still_sent_counts_where_the_listener_does_and_its_end_is_waited_for() {
    let mut all = some();
    all.listeners[0].queued = 0;
    let row = |unacknowledged, heard_ago: Option<u32>| connections::Connection {
        peer: Some(([10, 1, 2, 3], 4000).into()),
        state: connections::ConnectionState::EnvoyClosed,
        accepted: false,
        inode: 0,
        unread: 0,
        unacknowledged,
        activity: heard_ago.map(|heard_ago| connections::Activity {
            received_ago: 0,
            sent_ago: 0,
            heard_ago,
            received: 0,
            acknowledged: 0,
        }),
    };
    // A client that has acknowledged nothing for the settle time is gone.
    all.listeners[0].connections.clear();
    all.listeners[0].closed = vec![row(700, None), row(50, Some(0)), row(9_000, Some(60_000))];
    let pings = [256, 257].map(|bytes| row(bytes, None));
    all.listeners[1].connections.extend(pings);
    let unsent = |open, closed, gone| Some(Unsent { open, closed, gone });
    let load = load_of(&all, &[]);
    assert_eq!(load.unsent, unsent(257, 750, 9_000));
    assert!(
        load.clients
            .iter()
            .any(|client| client.address.port() == 4000)
    );
    assert_eq!(load_of(&all, &[":10000"]).unsent, unsent(257, 0, 0));
    let before = (&Ledger::new(Instant::now()), Instant::now());
    let seen = see(&all, measure(&[]), None, before);
    assert_eq!(seen.doors, [([127, 7, 7, 7], 10_000).into()]);
    // Where the network outlives drainit, nobody is cut whom the kernel alone serves.
    all.forget_unacknowledged();
    let seen = see(&all, measure(&[]), None, before);
    assert_eq!(seen.load.unsent, unsent(0, 0, 0));
    assert!(seen.load.clients.iter().all(|client| !client.is_closed));
    assert!(seen.doors.is_empty());
}

#[test]
fn a_listener_with_several_addresses_is_one_and_excluded_by_any_of_them() {
    let named = |local, count| connections::Listener {
        name: Some("web".into()),
        ..listener(local, true, count)
    };
    let all = vec![
        named("127.7.7.7:80", 1),
        named("127.7.7.8:81", 2),
        listener("127.7.7.7:82", true, 4),
    ];
    let seen = seen(all, Vec::new());
    let web = |excluded| ListenerLoad {
        name: "web".into(),
        address: Some("127.7.7.7:80, 127.7.7.8:81".into()),
        connections: 3,
        excluded,
    };
    for (word, excluded) in [
        ("web", true),
        ("127.7.7.8:81", true),
        (":80", true),
        (":82", false),
    ] {
        let load = load_of(&seen, &[word]);
        assert_eq!(load.listeners.last(), Some(&web(excluded)), "{word}");
        assert_eq!(load.connections(), if excluded { 4 } else { 3 });
    }
}

#[test]
fn this_very_process_is_seen_as_it_is() {
    let pid = i32::try_from(std::process::id()).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
    let name = tcp.local_addr().unwrap().to_string();
    let mut known = KernelMemory::default();
    let mut count = || {
        let seen = look(pid, None, measure(&[]), None, &mut known).unwrap();
        assert!(seen.accepts && seen.load.sight == Sight::Kernel);
        let mut all = seen.load.listeners.iter();
        let listener = all.find(|listener| listener.name == name);
        listener.unwrap().connections
    };
    // Not accepted, accepted, and gone.
    assert_eq!(count(), 1);
    let accepted = tcp.accept().unwrap();
    assert_eq!(count(), 1);
    drop((accepted, client));
    assert_eq!(count(), 0);
    let why = look(i32::MAX, None, measure(&[]), None, &mut known).unwrap_err();
    assert!(why.contains("not known"), "{why}");
}

#[test]
fn no_network_is_believed_to_outlive_pid_1_which_may_be_a_virtual_machines() {
    assert!(!network_outlives(1));
}

/// What Envoy could tell: these names in its statistics.
fn roll(scopes: &[&str]) -> RollCall {
    let mut reader = super::super::roll_call::RollCallReader::default();
    for scope in scopes {
        reader.feed(format!("listener.{scope}.downstream_pre_cx_active: 0\n").as_bytes());
    }
    reader.finish()
}

#[test]
fn a_stat_prefix_means_the_one_listener_whose_address_is_no_name() {
    let excluded = ["metrics".to_owned()];
    let see = |scopes: &[&str]| {
        let seen = see(
            &some(),
            measure(&excluded),
            Some(&roll(scopes)),
            (&Ledger::new(Instant::now()), Instant::now()),
        );
        (seen.knows_excluded, seen.load.connections())
    };
    let udp = "127.7.7.7_10002";
    assert_eq!(
        see(&["metrics", "/tmp/exp/a listener.sock", udp]),
        (true, 2)
    );
    // Two have a prefix: which is which nobody tells.
    assert_eq!(see(&["metrics", "web", udp]), (false, 3));
    // The name means nothing.
    let all = ["127.7.7.7_10000", "/tmp/exp/a listener.sock", udp];
    assert_eq!(see(&all), (true, 3));
}

/// An Envoy that lists listeners with these names and addresses, of which it knows these `scopes` in
/// its statistics, and these of `udp`.
fn roll_of(scopes: &[&str], udp: &[&str], listed: &[(Option<&str>, &[&str])]) -> RollCall {
    let mut reader = super::super::roll_call::RollCallReader::default();
    for scope in scopes {
        reader.feed(format!("listener.{scope}.downstream_pre_cx_active: 0\n").as_bytes());
    }
    for scope in udp {
        reader.feed(format!("listener.{scope}.udp.downstream_rx_datagram_dropped: 0\n").as_bytes());
    }
    let mut roll = reader.finish();
    let status = |(name, locals): &(Option<&str>, &[&str])| {
        let local = |local: &&str| {
            let local: SocketAddr = local.parse().unwrap();
            let (address, port) = (local.ip(), local.port());
            serde_json::json!({ "socket_address": { "address": address, "port_value": port } })
        };
        let mut locals: Vec<_> = locals.iter().map(local).collect();
        let more = locals.split_off(1);
        serde_json::json!({
            "name": name, "local_address": locals[0], "additional_local_addresses": more,
        })
    };
    let listed: Vec<_> = listed.iter().map(status).collect();
    roll.read_listed(&serde_json::json!({ "listener_statuses": listed }).to_string());
    roll
}

const V4: &str = "0.0.0.0:443";
const V6: &str = "[::]:443";
const SCOPE_V4: &str = "0.0.0.0_443";
const SCOPE_V6: &str = "[__]_443";

/// One name in the statistics stands for all of a listener's addresses.
#[test]
fn a_udp_listener_is_hidden_that_is_none_of_those_that_tell_whatever_addresses_they_have() {
    let hides = |udp: &[(&str, Option<&str>)], roll: &RollCall| {
        let named = |(local, name): &(&str, Option<&str>)| connections::Listener {
            name: name.map(str::to_owned),
            ..listener(local, true, 0)
        };
        let seen = see(
            &seen(Vec::new(), udp.iter().map(named).collect()),
            measure(&[]),
            Some(roll),
            (&Ledger::new(Instant::now()), Instant::now()),
        );
        seen.has_hidden_udp(Some(roll), true)
    };
    // TCP and QUIC, both at both addresses.
    let both = (None, &[V4, V6][..]);
    let roll = roll_of(&[SCOPE_V4], &[SCOPE_V4], &[both, both]);
    assert!(!hides(&[(V4, None), (V6, None)], &roll));
    let more = ("0.0.0.0:53", None);
    assert!(hides(&[(V4, None), (V6, None), more], &roll));
    // Two of TCP, whose names the kernel's look finds first.
    let [http4, http6] = [(Some("http4"), &[V4][..]), (Some("http6"), &[V6][..])];
    let listed = [http4, http6, (Some("h3"), &[V4, V6][..])];
    let roll = roll_of(&[SCOPE_V4, SCOPE_V6], &[SCOPE_V4], &listed);
    assert!(!hides(&[(V4, Some("http4")), (V6, Some("http6"))], &roll));
    // Two of QUIC, and another one.
    let web = (Some("web"), &[V4, V6][..]);
    let listed = [web, (Some("a"), &[V4][..]), (Some("b"), &[V6][..])];
    let told = [SCOPE_V4, SCOPE_V6];
    let quic = [(V4, Some("web")), (V6, Some("web"))];
    assert!(!hides(&quic, &roll_of(&told, &told, &listed)));
    assert!(hides(
        &[quic[0], quic[1], more],
        &roll_of(&told, &told, &listed)
    ));
    // The second tells nothing.
    let told = [SCOPE_V4];
    assert!(hides(&quic, &roll_of(&told, &told, &listed)));
    // A stat prefix, and a list that never came.
    let prefixed = roll_of(&["web"], &["web"], &[(Some("web"), &[V4, V6])]);
    assert!(!hides(&quic, &prefixed));
    assert!(!hides(&[(V4, None)], &roll_of(&told, &told, &[])));
}

#[test]
fn of_tcp_and_quic_at_one_address_neither_is_excluded_by_the_others_name() {
    let listed: [(_, &[&str]); 2] = [(Some("h3"), &[V4]), (Some("https"), &[V4])];
    let roll = roll_of(&[SCOPE_V4], &[SCOPE_V4], &listed);
    // The kernel's look takes the first name.
    let at = |count| connections::Listener {
        name: Some("h3".into()),
        ..listener(V4, true, count)
    };
    let counted = |words: &[&str]| {
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        let before = (&Ledger::new(Instant::now()), Instant::now());
        let all = seen(vec![at(2)], vec![at(0)]);
        let load = see(&all, measure(&words), Some(&roll), before).load;
        let is_out = roll.listed.titles.is_meant(SCOPE_V4, &words);
        assert_eq!(
            is_out,
            load.connections() == 0,
            "Envoy's page goes by the same"
        );
        (load.connections(), load.udp_sessions)
    };
    for word in ["h3", "https", "other"] {
        assert_eq!(counted(&[word]), (2, 1), "{word}");
    }
    for words in [&["h3", "https"][..], &[V4], &[":443"]] {
        assert_eq!(counted(words), (0, 0), "{words:?}");
    }
}
