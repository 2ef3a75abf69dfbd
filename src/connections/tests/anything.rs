//! What holds whatever the rows are.

use nix::time::{ClockId, clock_gettime};
use proptest::prelude::*;

use super::*;

fn some_row() -> impl Strategy<Value = InetRow> {
    let address =
        proptest::sample::select(vec!["0.0.0.0", "127.0.0.1", "[::]", "[::1]", "10.0.0.9"]);
    let port = proptest::sample::select(vec![80, 81, 9901, 40_000]);
    let kind = prop_oneof![
        2 => Just(SocketKind::Listening),
        4 => Just(SocketKind::Open(ConnectionState::Established)),
        1 => Just(SocketKind::Open(ConnectionState::ClientClosed)),
        1 => Just(SocketKind::Open(ConnectionState::EnvoyClosed)),
    ];
    (address, port, kind, any::<bool>(), 0..12_u64, 0..3_u32).prop_map(
        |(address, port, kind, v6, inode, unread)| InetRow {
            kind,
            v6,
            unread,
            ..open(false, &format!("{address}:{port}"), inode)
        },
    )
}

proptest! {
    /// Nothing is counted twice, nothing of Envoy's at one of its listeners is left out, and nothing
    /// of others is taken in.
    #[test]
    fn each_socket_counts_for_one_or_for_none(
        all in proptest::collection::vec(some_row(), 0..20),
    ) {
        let own: Vec<u64> = (1..=6).collect();
        let mut world = Host::new();
        world.own = Some(own.clone());
        world.admin = AdminSocket::new(&"127.0.0.1:9901".parse().unwrap(), None);
        let seen = world.see(&tcp(&all));
        let is_open = |row: &&InetRow| row.kind != SocketKind::Listening;
        let is_admin = |row: &&InetRow| row.local == at("127.0.0.1:9901");
        let ports: Vec<u16> = all.iter()
            .filter(|row| !is_open(row) && !is_admin(row) && own.contains(&row.inode))
            .filter(|row| row.local.ip().is_unspecified())
            .map(|row| row.local.port())
            .collect();
        let open = || all.iter().filter(is_open).filter(|row| !is_admin(row));
        let must = open().filter(|row| {
            own.contains(&row.inode) && (ports.contains(&row.local.port()) || !OUTGOING.contains(&row.local.port()))
        });
        let may = open().filter(|row| row.inode == 0 || own.contains(&row.inode));
        prop_assert!(seen.count() >= must.count() as u64);
        prop_assert!(seen.count() <= may.count() as u64);
        prop_assert!(seen.iter().all(|one| one.inode == 0 || own.contains(&one.inode)));
    }
}

#[test]
fn many_clients_that_became_unreachable_at_once_do_not_make_a_look_dear() {
    let closed = row(
        SocketKind::Open(ConnectionState::EnvoyClosed),
        false,
        "10.0.0.9:80",
        0,
    );
    let closed = |unacknowledged| InetRow {
        unacknowledged,
        ..closed
    };
    let mut all = vec![
        listening(false, "0.0.0.0:80", 901),
        listening(false, "0.0.0.0:81", 5),
    ];
    all.resize(100_000, closed(502));
    let all = tcp(&all);
    let cpu = || {
        clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
            .map(Duration::from)
            .unwrap()
    };
    let start = cpu();
    let seen = Host::new().see(&all);
    let cost = cpu() - start;
    assert_eq!(seen.listeners[0].closed.len(), 99_998);
    // Each with each other would be ten thousand million comparisons.
    assert!(cost < Duration::from_secs(2), "{cost:?}");
}
