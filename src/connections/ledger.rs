//! What two looks tell of a connection that one does not: how old it is at the least, and how much
//! goes over it.
//!
//! The kernel has no socket's time of birth: neither does `tcp_info` have one, nor the socket's inode
//! in /proc/PID/fd, whose times are those of the first who looked there. So a connection is as old
//! as the first look that showed it, and no younger than the last byte on it.

use std::time::{Duration, Instant};

use super::{Connection, Connections};

/// A rate is told from no less time than this.
const SHORTEST: Duration = Duration::from_millis(100);
/// A rate is told from no more time than this: it would say little of the present.
const LONGEST: Duration = Duration::from_secs(60);

/// What is remembered is a second old at the least: looks of a drain are nearer to each other.
const KEPT: Duration = Duration::from_secs(1);

/// What is remembered of a connection: 16 bytes.
#[derive(Clone, Copy, Debug)]
struct LedgerRow {
    inode: u32,
    /// When the connection was first seen, in seconds since the ledger was begun.
    since: u32,
    bytes: u64,
}

/// The connections of an earlier look.
#[derive(Debug)]
pub struct Ledger {
    begun: Instant,
    at: Option<Instant>,
    /// Sorted by inode.
    rows: Vec<LedgerRow>,
}

impl Ledger {
    /// A ledger that begins `now`, before any look.
    pub fn new(now: Instant) -> Ledger {
        Ledger {
            begun: now,
            at: None,
            rows: Vec::new(),
        }
    }

    fn row(&self, one: &Connection) -> Option<&LedgerRow> {
        let at = self
            .rows
            .binary_search_by_key(&one.inode, |row| row.inode.into());
        self.rows.get(at.ok()?)
    }

    /// How old a connection that is seen now is at the least; none where that is less than a second.
    pub fn age(&self, one: &Connection, now: Instant) -> Option<Duration> {
        let seen = self.row(one).map(|row| {
            let since = Duration::from_secs(row.since.into());
            now.saturating_duration_since(self.begun + since)
        });
        let last = one.activity.map(|activity| {
            Duration::from_millis(activity.received_ago.max(activity.sent_ago).into())
        });
        seen.max(last).filter(|age| *age >= KEPT)
    }

    /// How many bytes went over it in a second, in both directions, since the look that is
    /// remembered.
    pub fn rate(&self, one: &Connection, now: Instant) -> Option<u64> {
        let time = now.saturating_duration_since(self.at?);
        let bytes = bytes(one)?.checked_sub(self.row(one)?.bytes)?;
        let is_told = (SHORTEST..=LONGEST).contains(&time);
        is_told.then(|| (bytes as f64 / time.as_secs_f64()) as u64)
    }

    /// Remembers what is seen now.
    pub fn note(&mut self, seen: &Connections, now: Instant) {
        let is_fresh = |at| now.saturating_duration_since(at) < KEPT;
        if self.at.is_some_and(is_fresh) {
            return;
        }
        // Rounded up: it is no older.
        let present = now.saturating_duration_since(self.begun).as_secs() + 1;
        let present = u32::try_from(present).unwrap_or(u32::MAX);
        let accepted: Vec<_> = seen.iter().filter(|one| one.accepted).collect();
        // By inode, and where it is.
        let keys = accepted.iter().zip(0..);
        let mut keys: Vec<u64> = keys.map(|(one, at)| one.inode << 32 | at).collect();
        keys.sort_unstable();
        let rows = keys.into_iter().filter_map(|key| {
            let one = accepted.get(usize::try_from(key & u64::from(u32::MAX)).ok()?)?;
            Some(LedgerRow {
                inode: u32::try_from(one.inode).ok()?,
                since: self.row(one).map_or(present, |row| row.since),
                bytes: bytes(one).unwrap_or_default(),
            })
        });
        self.rows = rows.collect();
        self.at = Some(now);
    }
}

fn bytes(one: &Connection) -> Option<u64> {
    let activity = one.activity?;
    Some(activity.received.saturating_add(activity.acknowledged))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connections::{Activity, ConnectionState, Ownership, Witness};

    fn connection(inode: u64, ago: u32, received: u64) -> Connection {
        Connection {
            peer: None,
            state: ConnectionState::Established,
            accepted: inode != 0,
            inode,
            unread: 0,
            unacknowledged: 0,
            activity: Some(Activity {
                received_ago: ago,
                sent_ago: ago / 2,
                heard_ago: ago,
                received,
                acknowledged: 1_000,
            }),
        }
    }

    fn seen(elsewhere: Vec<Connection>) -> Connections {
        Connections {
            by: Witness::Netlink,
            whose: Ownership::Inode,
            why: None,
            listeners: Vec::new(),
            elsewhere,
            is_transparent: false,
            closing: 0,
            udp: Vec::new(),
            senders: 0,
        }
    }

    #[test]
    fn age_and_rate_come_from_an_earlier_look_and_from_no_more_than_is_known() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut ledger = Ledger::new(begun);
        let (one, other) = (connection(8, 0, 500), connection(7, 90_000, 0));
        assert_eq!(
            (ledger.age(&one, begun), ledger.rate(&one, begun)),
            (None, None)
        );
        // No younger than its last byte.
        assert_eq!(ledger.age(&other, begun), Some(Duration::from_secs(90)));
        ledger.note(&seen(vec![one, connection(0, 0, 0), other]), begun);
        let later = connection(8, 0, 6_500);
        assert_eq!(ledger.rate(&later, at(2)), Some(3_000));
        assert_eq!(ledger.age(&later, at(11)), Some(Duration::from_secs(10)));
        // It is remembered since when it was there, and not what is not.
        ledger.note(&seen(vec![later]), at(20));
        assert_eq!(ledger.age(&later, at(41)), Some(Duration::from_secs(40)));
        assert_eq!(ledger.rate(&later, at(21)), Some(0));
        assert_eq!(ledger.rate(&other, at(21)), None);
        // Another one, or too long ago.
        assert_eq!(ledger.rate(&connection(8, 0, 7), at(21)), None);
        assert_eq!(ledger.rate(&connection(8, 0, 9_000_000), at(90)), None);
    }
}
