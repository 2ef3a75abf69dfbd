//! Where a look has its rows from, and what is told twice there.

use std::cmp::Reverse;
use std::fs;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Instant;

use super::netlink::{self, DumpRequest, Families};
use super::rows::{InetRow, Rows, SocketKind};
use super::socket::DiagSocket;
use super::{Witness, table};

/// Where the rows come from: NETLINK_SOCK_DIAG, and /proc from its first refusal on.
pub(super) struct RowSource {
    pid: i32,
    until: Instant,
    pub(super) socket: Result<DiagSocket, String>,
    /// The inodes of listeners that take connections to any address, as far as is told.
    pub(super) transparent: Vec<u64>,
}

impl RowSource {
    pub(super) fn new(pid: i32, until: Instant) -> RowSource {
        // A netlink socket shows the sockets of the namespace that it was made in.
        let namespace = |of: &str| fs::read_link(Path::new("/proc").join(of).join("ns/net"));
        let socket = match (namespace("self"), namespace(&pid.to_string())) {
            // A gVisor may tell another number each time.
            (Ok(ours), Ok(envoys))
                if ours != envoys && namespace("self").is_ok_and(|again| again == ours) =>
            {
                Err("envoy is in another network namespace".into())
            }
            _ => DiagSocket::new(),
        };
        RowSource {
            pid,
            until,
            socket,
            transparent: Vec::new(),
        }
    }

    pub(super) fn by(&self) -> Witness {
        match self.socket {
            Ok(_) => Witness::Netlink,
            Err(_) => Witness::Proc,
        }
    }

    /// Hands over the rows that answer the request; false where there is no answer.
    fn ask(&mut self, request: &DumpRequest, take: impl FnMut(&[u8]) -> Option<()>) -> bool {
        let Ok(socket) = &mut self.socket else {
            return false;
        };
        socket.ask(request, self.until, take).is_ok()
    }

    /// Asks for what nothing else can replace: a refusal is the end of the socket.
    fn ask_for_tcp(&mut self, request: &DumpRequest, rows: &mut Vec<InetRow>) -> bool {
        let length = rows.len();
        let Ok(socket) = &mut self.socket else {
            return false;
        };
        let transparent = &mut self.transparent;
        let asked = socket.ask(request, self.until, |row| {
            let socket = netlink::inet_row(row)?;
            if socket.kind == SocketKind::Listening && netlink::is_transparent(row) {
                transparent.push(socket.inode);
            }
            add(rows, socket);
            Some(())
        });
        if let Err(why) = asked {
            rows.truncate(length);
            self.socket = Err(why);
        }
        self.socket.is_ok()
    }

    /// The listeners of all kinds, and the unix sockets that are connected; with /proc, the TCP
    /// connections as well.
    pub(super) fn listeners(&mut self) -> Result<Rows, String> {
        let mut rows = Rows::default();
        let all = [false, true].into_iter().all(|v6| {
            let request = DumpRequest::TcpListeners { v6 };
            self.ask_for_tcp(&request, &mut rows.tcp)
        });
        if !all {
            rows.tcp.clear();
            for v6 in [false, true] {
                table::tcp(self.pid, v6, self.until, |row| rows.tcp.push(row))?;
            }
            drop_repeated(&mut rows.tcp);
        }
        for v6 in [false, true] {
            let udp = &mut rows.udp;
            let request = DumpRequest::Udp { v6 };
            if !self.ask(&request, |row| {
                udp.push(netlink::inet_row(row)?);
                Some(())
            }) {
                udp.retain(|row| row.v6 != v6);
                table::udp(self.pid, v6, self.until, |row| udp.push(row))?;
            }
        }
        let unix = &mut rows.unix;
        if !self.ask(&DumpRequest::Unix, |row| {
            unix.extend(netlink::unix_row(row)?);
            Some(())
        }) {
            unix.clear();
            table::unix(self.pid, self.until, |row| unix.push(row))?;
        }
        Ok(rows)
    }

    /// Adds the TCP connections with these local ports.
    pub(super) fn connections(
        &mut self,
        ports: &[RangeInclusive<u16>],
        rows: &mut Rows,
    ) -> Result<(), String> {
        let is_wanted = |row: &InetRow| {
            let port = row.local.port();
            row.kind == SocketKind::Listening || ports.iter().any(|range| range.contains(&port))
        };
        if self.socket.is_ok() {
            let length = rows.tcp.len();
            // Both families at once save a walk through the kernel's table.
            let request = DumpRequest::TcpConnections {
                family: Families::Both,
                ports,
            };
            let tcp = &mut rows.tcp;
            if !self.ask(&request, |row| {
                add(tcp, netlink::inet_row(row)?);
                Some(())
            }) {
                rows.tcp.truncate(length);
                let all = [Families::V4, Families::V6].into_iter().all(|family| {
                    let request = DumpRequest::TcpConnections { family, ports };
                    self.ask_for_tcp(&request, &mut rows.tcp)
                });
                if !all {
                    rows.tcp.truncate(length);
                    for v6 in [false, true] {
                        table::tcp(self.pid, v6, self.until, |row| {
                            if row.kind != SocketKind::Listening {
                                rows.tcp.push(row);
                            }
                        })?;
                    }
                    drop_repeated(&mut rows.tcp);
                }
            }
        }
        rows.tcp.retain(is_wanted);
        Ok(())
    }
}

/// Adds a row, unless it is there: one that was told at the end of a piece is told again at the
/// beginning of the next where another has come before it meanwhile.
fn add(rows: &mut Vec<InetRow>, row: InetRow) {
    let id = |row: &InetRow| (row.kind, row.v6, row.local, row.peer, row.inode);
    let mut last = rows.iter().rev().take(8);
    if !last.any(|other| id(other) == id(&row)) {
        rows.push(row);
    }
}

/// Drops the rows that were told twice. A table below /proc that grows while it is read tells its
/// last lines again, any number of them (seen on Linux 6.18: `tcp_seek_last_pos` finds no more, so
/// that `tcp_seq_start` counts lines from the beginning). A connection that was accepted meanwhile
/// is an accepted one.
pub(super) fn drop_repeated(rows: &mut Vec<InetRow>) {
    let id = |row: &InetRow| {
        let listener = (row.kind == SocketKind::Listening).then_some(row.inode);
        (row.v6, listener, row.local, row.peer)
    };
    rows.sort_unstable_by_key(|row| (id(row), Reverse(row.inode)));
    rows.dedup_by_key(|row| id(row));
}
