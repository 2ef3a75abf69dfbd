use std::net::{TcpListener, TcpStream};

use super::*;
use crate::connections::{Local, Whose, Witness};

fn listener(local: &str, listening: bool, queued: u64) -> connections::Listener {
    connections::Listener {
        name: Some("named".into()),
        local: match local.parse() {
            Ok(address) => Local::Ip(address),
            Err(_) => Local::Unix(local.into()),
        },
        listening,
        accept_queue: queued,
        connections: Vec::new(),
        queued,
    }
}

fn seen(listeners: Vec<connections::Listener>, udp: Vec<connections::Listener>) -> Connections {
    Connections {
        by: Witness::Proc,
        whose: Whose::Inode,
        why: None,
        listeners,
        elsewhere: Vec::new(),
        udp,
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

fn load_of(seen: &Connections, excluded: &[&str]) -> Load {
    let excluded: Vec<String> = excluded.iter().map(|&name| name.into()).collect();
    load(seen, &excluded)
}

#[test]
fn each_connection_and_each_udp_listener_may_have_something_in_flight() {
    let load = load_of(&some(), &[]);
    let all = load.listeners.iter();
    let listeners: Vec<_> = all.map(|l| (l.name.as_str(), l.connections)).collect();
    let expected = [("/tmp/exp/a listener.sock", 2), ("127.7.7.7_10000", 1)];
    assert_eq!(listeners, expected);
    assert_eq!((load.tcp_sessions, load.udp_sessions), (3, 1));
    assert_eq!(load.in_flight(), 4);
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
fn this_very_process_is_seen_as_it_is() {
    let pid = i32::try_from(std::process::id()).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
    let name = tcp.local_addr().unwrap().to_string().replace(':', "_");
    let mut known = Known::default();
    let mut count = || {
        let (load, accepts) = look(pid, None, &[], &mut known).unwrap();
        assert!(accepts && load.sight == Sight::Kernel);
        let mut all = load.listeners.iter();
        let listener = all.find(|listener| listener.name == name);
        listener.unwrap().connections
    };
    // Not accepted, accepted, and gone.
    assert_eq!(count(), 1);
    let accepted = tcp.accept().unwrap();
    assert_eq!(count(), 1);
    drop((accepted, client));
    assert_eq!(count(), 0);
    let why = look(i32::MAX, None, &[], &mut known).unwrap_err();
    assert!(why.contains("not known"), "{why}");
}
