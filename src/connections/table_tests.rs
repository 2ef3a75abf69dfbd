use std::time::Duration;

use super::*;

/// Of tables that were read from an Envoy 1.40.0.
pub(in crate::connections) const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0707077F:2710 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 954 1 0000000099fad933 100 0 0 10 0
   1: 0707077F:2710 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 955 1 00000000afc0e28f 100 0 0 10 0
   2: 00000000:01BB 00000000:0000 0A 00000000:00000002 00:00000000 00000000     0        0 956 1 00000000afc0e28f 100 0 0 10 0
   3: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 77 1 00000000afc0e28f 100 0 0 10 0
   4: 0100007F:A7A2 0707077F:2710 01 00000000:00000000 00:00000000 00000000     0        0 78 2 000000007886dfe7 20 0 0 10 -1
   5: 0707077F:2710 0100007F:A7A2 01 0000000A:00000007 00:00000000 00000000     0        0 998 1 00000000e72fb2e4 20 0 0 10 -1
";

pub(in crate::connections) const UNIX: &str =
    "Num       RefCount Protocol Flags    Type St Inode Path
0000000036b2a5f9: 00000002 00000000 00010000 0001 01 944 /tmp/exp/admin.sock
00000000ef185182: 00000002 00000000 00010000 0001 01 962 /tmp/exp/a listener.sock
00000000fdd179e0: 00000003 00000000 00000000 0001 03 902 /tmp/exp/a listener.sock
00000000fdd179e1: 00000003 00000000 00000000 0001 02     0 /tmp/exp/a listener.sock
00000000fdd179e2: 00000003 00000000 00000000 0001 03 903
00000000f405f8d2: 00000002 00000000 00000000 0002 01 934 @envoy_domain_socket_child_7770@@@
";

pub(in crate::connections) const UDP: &str = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
 1015: 0707077F:2712 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 965 2 00000000f51b5772 0
 1015: 0707077F:2712 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 964 2 00000000e97d98b6 0
 9409: 0100007F:87DC 0100007F:D11F 01 00000000:00000000 00:00000000 00000000     0        0 907 2 000000009a090e6f 0
";

/// The rows in texts such as these.
pub(in crate::connections) fn rows(
    tcp: &str,
    udp: &str,
    unix: &str,
) -> crate::connections::rows::Rows {
    let tcp = tcp.lines().filter_map(|line| {
        let (row, state) = inet_row(line.as_bytes(), false)?;
        Some(InetRow {
            kind: tcp_kind(state)?,
            ..row
        })
    });
    let udp = udp.lines().filter_map(|line| {
        let (row, state) = inet_row(line.as_bytes(), false)?;
        (state == 7).then_some(row)
    });
    crate::connections::rows::Rows {
        tcp: tcp.collect(),
        udp: udp.collect(),
        unix: unix
            .lines()
            .filter_map(|line| unix_row(line.as_bytes()))
            .collect(),
    }
}

#[test]
fn a_line_is_read_with_both_ends_its_queues_and_its_inode() {
    let rows = rows(TCP, UDP, UNIX);
    assert_eq!((rows.tcp.len(), rows.udp.len(), rows.unix.len()), (6, 2, 4));
    assert_eq!(
        rows.tcp[5],
        InetRow {
            kind: SocketKind::Open(ConnectionState::Established),
            v6: false,
            local: "127.7.7.7:10000".parse().unwrap(),
            peer: "127.0.0.1:42914".parse().unwrap(),
            inode: 998,
            unread: 7,
            unacknowledged: 10,
            activity: None,
        }
    );
    assert_eq!(rows.tcp[2].unread, 2);
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
        ("0100007F0100007F:1F90", ""),
        ("0100007F:1F901", ""),
        ("+100007F:1F90", ""),
        ("", ""),
    ] {
        let read = address(text.as_bytes()).map(|address| address.to_string());
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
    let soon = Instant::now() + Duration::from_secs(60);
    let read = |text: &[u8], size, fails, until| {
        let mut lines = Vec::new();
        let table = Pieces(text, size, fails);
        each_line(table, INET_HEAD, until, |line| lines.push(line.to_vec())).map(|()| lines)
    };
    let whole: Vec<Vec<u8>> = TCP.lines().skip(1).map(|line| line.into()).collect();
    for size in [1, 7, 150, 100_000] {
        assert_eq!(read(TCP.as_bytes(), size, false, soon), Ok(whole.clone()));
    }
    // More than the buffer has place for.
    let lines: Vec<&str> = TCP.lines().collect();
    let long = format!("{}\n{}", lines[0], format!("{}\n", lines[5]).repeat(1000));
    for size in [1000, 100_000] {
        let read = read(long.as_bytes(), size, false, soon).unwrap();
        assert!(read.len() == 1000 && read.iter().all(|line| *line == lines[5].as_bytes()));
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
    assert!(each_line(huge, INET_HEAD, soon, |_| {}).is_err());
}
