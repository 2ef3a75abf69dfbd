use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};

use super::*;

/// Of tables that were read from an Envoy 1.40.0.
const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0707077F:2710 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 954 1 0000000099fad933 100 0 0 10 0
   1: 0707077F:2710 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 955 1 00000000afc0e28f 100 0 0 10 0
   2: 00000000:01BB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 956 1 00000000afc0e28f 100 0 0 10 0
   3: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 77 1 00000000afc0e28f 100 0 0 10 0
   4: 0100007F:A7A2 0707077F:2710 01 00000000:00000000 00:00000000 00000000     0        0 78 2 000000007886dfe7 20 0 0 10 -1
   5: 0707077F:2710 0100007F:A7A2 01 00000000:00000000 00:00000000 00000000     0        0 998 1 00000000e72fb2e4 20 0 0 10 -1
";

const UNIX: &str = "Num       RefCount Protocol Flags    Type St Inode Path
0000000036b2a5f9: 00000002 00000000 00010000 0001 01 944 /tmp/exp/admin.sock
00000000ef185182: 00000002 00000000 00010000 0001 01 962 /tmp/exp/a listener.sock
00000000fdd179e0: 00000003 00000000 00000000 0001 03 902 /tmp/exp/a listener.sock
00000000fdd179e1: 00000003 00000000 00000000 0001 02     0 /tmp/exp/a listener.sock
00000000fdd179e2: 00000003 00000000 00000000 0001 03 903
00000000f405f8d2: 00000002 00000000 00000000 0002 01 934 @envoy_domain_socket_child_7770@@@
";

const UDP: &str = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
 1015: 0707077F:2712 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 965 2 00000000f51b5772 0
 1015: 0707077F:2712 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 964 2 00000000e97d98b6 0
 9409: 0100007F:87DC 0100007F:D11F 01 00000000:00000000 00:00000000 00000000     0        0 907 2 000000009a090e6f 0
";

/// What a process with the inodes above 900 has by these tables.
fn see(texts: &[(&str, ReadLine)], excluded: &[&str]) -> Option<Load> {
    let mut view = View {
        own: (900..=999).collect(),
        admin: Some(Local::Unix("/tmp/exp/admin.sock".into())),
        outgoing: OUTGOING,
        listeners: Vec::new(),
        elsewhere: 0,
    };
    for take in [View::take_listener, View::take_connection] {
        for (text, read) in texts {
            text.lines()
                .filter_map(read)
                .for_each(|row| take(&mut view, row));
        }
    }
    let excluded: Vec<String> = excluded.iter().map(|&name| name.into()).collect();
    view.accepts().then(|| view.load(&excluded))
}

/// A line of /proc/net/tcp.
fn line(local: &str, state: &str, inode: u64) -> String {
    format!("{TCP}   9: {local} 0100007F:A7A2 {state} 0:0 0:0 0     0        0 {inode} 1 0 20\n")
}

fn connections(load: &Load) -> Vec<(&str, u64)> {
    let all = load.listeners.iter();
    all.map(|listener| (listener.name.as_str(), listener.connections))
        .collect()
}

#[test]
fn connections_are_counted_by_the_listener_they_came_to() {
    let load = see(&[(TCP, tcp), (UDP, udp), (UNIX, unix)], &[]).unwrap();
    assert_eq!(
        connections(&load),
        [
            ("/tmp/exp/a listener.sock", 2),
            ("0.0.0.0_443", 0),
            ("127.7.7.7_10000", 1)
        ]
    );
    // Nothing is known of them but that they are there.
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
    let load = see(&[(TCP, tcp), (UDP, udp), (UNIX, unix)], &excluded).unwrap();
    assert_eq!((load.connections(), load.in_flight()), (0, 0));
    assert_eq!(load.listeners.len(), 3);
}

#[test]
fn a_connection_counts_for_as_long_as_envoy_may_have_something_to_do_with_it() {
    for (local, state, inode, counts) in [
        ("0707077F:2710", "01", 999, true),
        // Not accepted yet, or since the descriptors were read.
        ("0707077F:2710", "01", 0, true),
        ("0707077F:2710", "01", 5, true),
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
        let text = line(local, state, inode);
        let load = see(&[(&text, tcp)], &[]).unwrap();
        let expected = 1 + u64::from(counts);
        assert_eq!(load.connections(), expected, "{local} {state} {inode}");
    }
}

#[test]
fn an_envoy_without_a_listener_tells_nothing() {
    assert_eq!(see(&[], &[]), None);
    // Its admin interface is none, and an old generation keeps its UDP sockets without reading them.
    let admin = UNIX.lines().take(2).collect::<Vec<_>>().join("\n");
    assert_eq!(see(&[(&admin, unix), (UDP, udp)], &[]), None);
}

#[test]
fn addresses_are_read_in_the_kernels_byte_order() {
    for (text, expected) in [
        ("0100007F:1F90", "127.0.0.1:8080"),
        ("00000000000000000000000000000000:0050", "[::]:80"),
        ("B80D012000000000 0000000001000000:0050", ""),
        ("B80D0120000000000000000001000000:0050", "[2001:db8::1]:80"),
        ("0000000000000000FFFF00000100007F:0050", "127.0.0.1:80"),
        ("0100007F", ""),
        ("0100007:1F90", ""),
        ("", ""),
    ] {
        let read = address(text).map(|address| address.to_string());
        assert_eq!(read.unwrap_or_default(), expected, "{text}");
    }
}

/// Hands out its text in pieces of this size, and then ends or fails.
struct Pieces<'a>(&'a [u8], usize, bool);

impl Read for Pieces<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() && self.2 {
            return Err(io::Error::other("no more"));
        }
        let length = self.0.len().min(self.1).min(into.len());
        let (now, rest) = self.0.split_at(length);
        into[..length].copy_from_slice(now);
        self.0 = rest;
        Ok(length)
    }
}

#[test]
fn a_table_that_is_not_read_to_its_end_is_not_known() {
    let soon = Instant::now() + TIME;
    let read = |text: &[u8], size, fails, until| {
        let mut lines = 0;
        let table = Pieces(text, size, fails);
        each_line(table, "sl local_address", until, |_| lines += 1).map(|()| lines)
    };
    for size in [1, 7, 150, 100_000] {
        assert_eq!(read(TCP.as_bytes(), size, false, soon), Ok(6));
    }
    let head = TCP.lines().next().unwrap();
    let cut = TCP.trim_end().as_bytes();
    let endless = format!("{head}\n{}", "x".repeat(20_000));
    for (text, fails) in [
        (&b""[..], false),
        (cut, false),
        (TCP.as_bytes(), true),
        (endless.as_bytes(), false),
        (UNIX.as_bytes(), false),
    ] {
        assert!(read(text, 100, fails, soon).is_err());
    }
    let past = Instant::now() - Duration::from_secs(1);
    assert!(read(TCP.as_bytes(), 100, false, past).is_err());
    let huge = Pieces(head.as_bytes(), 100, false).chain(io::repeat(b'\n'));
    let late = Instant::now() + Duration::from_secs(60);
    assert!(each_line(huge, "sl local_address", late, |_| {}).is_err());
}

#[test]
fn this_very_process_is_seen_as_it_is() {
    let pid = i32::try_from(std::process::id()).unwrap();
    let path = std::env::temp_dir().join(format!("drainit-sockets-{pid}"));
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let tcp6 = TcpListener::bind("[::1]:0").unwrap();
    let unix = UnixListener::bind(&path).unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to_tcp = TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
    let (accepted, _) = tcp.accept().unwrap();
    let to_tcp6 = TcpStream::connect(tcp6.local_addr().unwrap()).unwrap();
    let to_unix = UnixStream::connect(&path).unwrap();
    let look = || {
        let (load, accepts) = look(pid, None, &[], &mut Known::default()).unwrap();
        assert!(accepts);
        load
    };
    let of = |load: &Load, name: &str| {
        let all = load.listeners.iter();
        let name = name.replace(':', "_");
        all.filter(|listener| listener.name == name)
            .map(|listener| listener.connections)
            .collect::<Vec<_>>()
    };
    let names = [
        tcp.local_addr().unwrap().to_string(),
        tcp6.local_addr().unwrap().to_string(),
        path.display().to_string(),
    ];
    let load = look();
    for name in &names {
        assert_eq!(of(&load, name), [1], "{name}");
    }
    assert!(load.udp_sessions >= 1);
    drop((accepted, to_tcp, to_tcp6, to_unix));
    // An end that was never accepted stays until it is.
    drop((tcp6.accept(), unix.accept()));
    let load = look();
    for name in &names {
        assert_eq!(of(&load, name), [0], "{name}");
    }
    drop(udp);
    fs::remove_file(&path).unwrap();
}

#[test]
fn a_process_that_cannot_be_looked_into_is_not_known() {
    assert!(
        look(i32::MAX, None, &[], &mut Known::default())
            .unwrap_err()
            .contains("not known")
    );
    // One without any socket is no Envoy.
    let mut child = std::process::Command::new("sleep")
        .arg("60")
        .spawn()
        .unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let why = look(pid, None, &[], &mut Known::default()).unwrap_err();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(why.contains("no socket"), "{why}");
}
