//! Looks at the test's own process.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener, UnixStream};
use std::thread;

use super::super::source::drop_repeated;
use super::super::{ConnectionState, Listener, Witness};
use super::*;
use crate::testing::{Sleeper, TempDir};

/// Clients acknowledge something within this time.
const PATIENCE: Duration = Duration::from_secs(60);

fn own_pid() -> i32 {
    std::process::id().try_into().unwrap()
}

/// The listener at this address; the process has those of other tests, too.
fn listener<'a>(seen: &'a Connections, local: &str) -> &'a Listener {
    let mut all = seen.listeners.iter().chain(&seen.udp);
    let found = all.find(|one| one.local.to_string() == local);
    found.unwrap_or_else(|| panic!("{local} is not in {:#?}", seen.listeners))
}

/// Looks by NETLINK_SOCK_DIAG, and by /proc.
fn look_both_ways(lookout: &mut Lookout) -> [Connections; 2] {
    let by = |lookout: &mut Lookout, denied| {
        lookout.look_by(None, |source| {
            if denied {
                source.socket = Err("denied".into());
            }
        })
    };
    let both = [false, true].map(|denied| by(lookout, denied).unwrap());
    assert_eq!(
        both.each_ref().map(|seen| seen.by),
        [Witness::Netlink, Witness::Proc]
    );
    assert_eq!(both[0].why, None);
    assert_eq!(both[1].why.as_deref(), Some("denied"));
    both
}

#[test]
fn every_kind_of_connection_is_seen_in_both_ways() {
    let dir = TempDir::new();
    let path = dir.join("socket");
    let name = format!("drainit-look-{}", own_pid());
    let unix = UnixListener::bind(&path).unwrap();
    let hidden = UnixAddress::from_abstract_name(&name).unwrap();
    let hidden_listener = UnixListener::bind_addr(&hidden).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let tcp6 = TcpListener::bind("[::]:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = tcp6.local_addr().unwrap().port();
    let clients = (
        TcpStream::connect(tcp.local_addr().unwrap()).unwrap(),
        TcpStream::connect(("::1", port)).unwrap(),
        TcpStream::connect(("127.0.0.1", port)).unwrap(),
        UnixStream::connect(&path).unwrap(),
        UnixStream::connect_addr(&hidden).unwrap(),
    );
    let locals = [
        (tcp.local_addr().unwrap().to_string(), 1),
        (tcp6.local_addr().unwrap().to_string(), 2),
        (path.display().to_string(), 1),
        (format!("@{name}"), 1),
    ];
    let mut lookout = Lookout::new(own_pid());
    let mut check = |accepted: bool| {
        for seen in look_both_ways(&mut lookout) {
            for (local, count) in &locals {
                let seen = listener(&seen, local);
                let waiting = if accepted { 0 } else { *count };
                assert!(seen.listening);
                assert_eq!(
                    (seen.count(), seen.accept_queue),
                    (*count, waiting),
                    "{seen:?}"
                );
                assert!(seen.connections.iter().all(|one| one.accepted == accepted));
            }
            assert_eq!(
                listener(&seen, &udp.local_addr().unwrap().to_string()).count(),
                0
            );
        }
    };
    check(false);
    let accepted = (
        tcp.accept(),
        tcp6.accept(),
        tcp6.accept(),
        unix.accept(),
        hidden_listener.accept(),
    );
    check(true);
    // Once their listeners are gone they are known by what was seen before.
    drop((tcp, tcp6, unix, hidden_listener));
    for seen in look_both_ways(&mut lookout) {
        for (local, count) in &locals {
            let seen = listener(&seen, local);
            assert_eq!((seen.count(), seen.listening), (*count, false), "{seen:?}");
        }
    }
    drop((accepted, clients));
    for seen in look_both_ways(&mut lookout) {
        for (local, _) in &locals {
            assert_eq!(listener(&seen, local).count(), 0, "{seen:?}");
        }
    }
}

#[test]
fn what_went_over_a_connection_and_when_is_known() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let local = tcp.local_addr().unwrap().to_string();
    let mut client = TcpStream::connect(&local).unwrap();
    let (mut ours, _) = tcp.accept().unwrap();
    client.write_all(&[0; 1000]).unwrap();
    ours.read_exact(&mut [0; 900]).unwrap();
    let before = Instant::now();
    ours.write_all(&[0; 50]).unwrap();
    client.read_exact(&mut [0; 50]).unwrap();
    let after = Instant::now();
    thread::sleep(Duration::from_millis(200));
    client.shutdown(Shutdown::Write).unwrap();
    let begun = Instant::now();
    let seen = Lookout::new(own_pid()).look(None).unwrap();
    let one = listener(&seen, &local).connections[0];
    let activity = one.activity.unwrap();
    assert_eq!(
        (activity.received, activity.acknowledged),
        (1001, 50),
        "with its end"
    );
    assert_eq!((one.unread, one.unacknowledged), (101, 0));
    assert_eq!(
        (one.peer, one.state),
        (client.local_addr().ok(), ConnectionState::ClientClosed)
    );
    // The end is none of what it says. Either way the kernel's clock ticks every 10 ms.
    let ticks = Duration::from_millis(20);
    assert!(activity.silence() + ticks >= begun - after, "{activity:?}");
    assert!(
        activity.silence() <= before.elapsed() + ticks,
        "{activity:?}"
    );
}

/// The client has closed its half too, where that is asked for.
#[test]
fn what_the_kernel_still_sends_of_closed_connections_is_seen_in_both_ways_and_counts_as_none() {
    for closes in [false, true] {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let local = tcp.local_addr().unwrap().to_string();
        let mut client = TcpStream::connect(&local).unwrap();
        let (mut ours, _) = tcp.accept().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut wrote = 0;
        while let Ok(length) = ours.write(&[0; 100_000]) {
            wrote += length;
        }
        if closes {
            client.shutdown(Shutdown::Write).unwrap();
        }
        let mut lookout = Lookout::new(own_pid());
        for seen in look_both_ways(&mut lookout) {
            let seen = listener(&seen, &local);
            let open = seen.connections[0].unacknowledged;
            assert_eq!(seen.unsent(PATIENCE), [open, 0, 0]);
            assert!(open > 100_000);
        }
        drop(ours);
        for seen in look_both_ways(&mut lookout) {
            let left = listener(&seen, &local);
            assert_eq!((left.count(), seen.closing > 0), (0, true));
            let [open, closed, gone] = left.unsent(PATIENCE);
            assert_eq!((open, gone), (0, 0));
            assert!((100_000..wrote as u32).contains(&closed), "{left:?}");
        }
        let mut read = vec![0; wrote];
        client.read_exact(&mut read).unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        let is_left = |seen: &Connections| listener(seen, &local).unsent(PATIENCE) != [0, 0, 0];
        // The kernel may acknowledge the last bytes a moment later.
        while look_both_ways(&mut lookout).iter().any(is_left) {
            assert!(Instant::now() < until);
        }
    }
}

#[test]
fn a_process_that_cannot_be_looked_into_is_not_known() {
    let look = |pid| Lookout::new(pid).look(None).unwrap_err();
    let why = look(i32::MAX);
    assert!(why.contains("not known") && !why.contains('\n'), "{why}");
    // One without any socket is no Envoy.
    let child = Sleeper::start();
    let why = look(child.pid());
    assert!(why.contains("no socket"), "{why}");
}

#[test]
fn a_name_that_is_told_no_more_is_kept() {
    let named = |name: &str, local: &str| Named {
        name: Some(name.into()),
        locals: vec![Local::Unix(local.into())],
    };
    let mut lookout = Lookout::new(1);
    lookout.set_names(vec![named("a", "/a"), named("b", "/b")]);
    lookout.set_names(vec![named("c", "/a")]);
    assert_eq!(lookout.names, [named("b", "/b"), named("c", "/a")]);
}

#[test]
fn to_look_at_the_listeners_alone_forgets_those_of_others_that_are_gone() {
    const GONE: u64 = u64::MAX - 7;
    let _listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut lookout = Lookout::new(own_pid());
    let until = Instant::now() + Duration::from_secs(60);
    let found = lookout.find_owner(&[GONE], &[GONE], until);
    assert_eq!(found, Ok(None));
    let remembers = |lookout: &Lookout| format!("{lookout:?}").contains(&GONE.to_string());
    assert!(remembers(&lookout));
    lookout.doors(None, &[]).unwrap();
    assert!(!remembers(&lookout));
}

#[test]
fn a_listener_that_was_seen_without_its_connections_is_remembered() {
    let dir = TempDir::new();
    let path = dir.join("socket");
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let unix = UnixListener::bind(&path).unwrap();
    let locals = [
        tcp.local_addr().unwrap().to_string(),
        path.display().to_string(),
    ];
    let mut lookout = Lookout::new(own_pid());
    let doors = lookout.doors(None, &[]).unwrap();
    assert!(doors.contains(&tcp.local_addr().unwrap()));
    let address = Address::Tcp(locals[0].clone());
    let doors = lookout.doors(Some(&address), &[]).unwrap();
    assert!(!doors.contains(&tcp.local_addr().unwrap()));
    // TCP and QUIC may have one address.
    let named = |name: &str| Named {
        name: Some(name.into()),
        locals: vec![Local::Ip(tcp.local_addr().unwrap())],
    };
    lookout.set_names(vec![named("h3"), named("https")]);
    for (words, is_out) in [(&["h3"][..], false), (&["h3", "https"], true)] {
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        let doors = lookout.doors(None, &words).unwrap();
        assert_eq!(doors.contains(&tcp.local_addr().unwrap()), !is_out);
    }
    let _other = TcpListener::bind("127.0.0.1:0").unwrap();
    drop((tcp, unix));
    let seen = lookout.look(None).unwrap();
    for local in locals {
        assert!(!listener(&seen, &local).listening, "{local}");
    }
}

#[test]
fn what_a_growing_table_tells_again_is_one_connection_and_accepted_if_it_ever_was() {
    let row = |kind, peer: u16, inode| InetRow {
        kind,
        v6: false,
        local: ([127, 0, 0, 1], 80).into(),
        peer: ([127, 0, 0, 1], peer).into(),
        inode,
        unread: 0,
        unacknowledged: 0,
        activity: None,
    };
    let open = SocketKind::Open(ConnectionState::Established);
    let hung_up = SocketKind::Open(ConnectionState::ClientClosed);
    let workers = [1, 2].map(|inode| row(SocketKind::Listening, 0, inode));
    let connections = (1000..1100).map(|peer| row(open, peer, 0));
    let again = (1000..1100).map(|peer| row(hung_up, peer, u64::from(peer)));
    let mut rows: Vec<InetRow> = workers.into_iter().chain(connections).collect();
    rows.extend(again.chain(workers));
    drop_repeated(&mut rows);
    assert_eq!(rows.len(), 2 + 100);
    let left = rows.iter().filter(|row| row.kind == hung_up);
    assert_eq!(left.count(), 100);
}
