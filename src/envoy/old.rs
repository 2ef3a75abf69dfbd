//! What an old generation has open, beside the newest Envoy that took over from it.

use std::fs;

use super::kernel::{self, CLIENTS, KernelMemory, Measure, Seen};
use super::load::{Load, OldOpen, Unsent};
use super::roll_call::RollCall;
use crate::client::Address;

/// Looks at an old generation.
#[derive(Debug, Default)]
pub struct OldWitness {
    known: KernelMemory,
    beyond: Beyond,
    /// Whether there ever was a listener for HTTP/3.
    has_http3: bool,
    workers: Workers,
}

impl OldWitness {
    /// The process with this pid was looked at as an old generation.
    pub fn is_of(&self, pid: i32) -> bool {
        self.known.is_of(pid)
    }

    /// What the kernel remembers of it.
    pub fn memory(&mut self) -> &mut KernelMemory {
        &mut self.known
    }

    /// Looks at the old generation with this pid. What is known of it from when it was the newest is
    /// in `newest`, and is taken from there.
    ///
    /// # Errors
    /// As [`kernel::look`].
    pub fn look(
        &mut self,
        pid: i32,
        newest: &mut KernelMemory,
        admin: Option<&Address>,
        measure: Measure<'_>,
        roll: Option<&RollCall>,
    ) -> Result<Seen, String> {
        self.has_http3 |= roll.is_some_and(RollCall::has_http3);
        if !self.known.is_of(pid) {
            self.beyond = Beyond::default();
            self.workers = Workers::Unseen;
            if newest.is_of(pid) {
                self.known = std::mem::take(newest);
            }
        }
        let seen = kernel::look(pid, admin, measure, roll, &mut self.known);
        self.workers.look(pid);
        seen
    }

    /// What is open on the old generation that was `seen` after the newest Envoy had `told`; none
    /// where that does not answer.
    pub fn open(&mut self, told: Option<&Load>, seen: &Seen) -> OldOpen {
        let open = OldOpen {
            ends: self.workers == Workers::Gone,
            ..seen.old_open()
        };
        match told {
            _ if !self.has_http3 || seen.load.udp_sessions == 0 => open,
            Some(told) => self.beyond.add(told, seen.tcp(), open),
            None => OldOpen {
                is_exact: false,
                ..open
            },
        }
    }
}

/// An old generation's worker threads. Envoy ends them first, and they close their connections; the rest
/// may take it seconds (`terminate` in Envoy's source/server/server.cc; their names are those of 1.36.4
/// and 1.40.0).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Workers {
    #[default]
    Unseen,
    Seen,
    Gone,
}

impl Workers {
    fn look(&mut self, pid: i32) {
        let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
            return;
        };
        let is_worker = |task: fs::DirEntry| {
            let name = fs::read(task.path().join("comm"));
            name.is_ok_and(|name| name.starts_with(b"wrk:"))
        };
        *self = match (*self, tasks.flatten().any(is_worker)) {
            (_, true) => Workers::Seen,
            (Workers::Unseen, false) => Workers::Unseen,
            (_, false) => Workers::Gone,
        };
    }
}

impl Load {
    /// This load of the newest Envoy's with that of an old generation, which was `seen`, and has this
    /// `open`; none where the kernel does not tell.
    #[must_use]
    pub fn with_old(mut self, old: Option<(Seen, OldOpen)>) -> Load {
        let Some((seen, open)) = old else {
            (self.awake, self.unsent, self.quiet) = (None, None, false);
            return self;
        };
        let known = match open.is_exact {
            true => open.clients,
            false => 0,
        };
        self.old_connections = self.old_connections.max(known);
        self.old_open = Some(open);
        let old = seen.load;
        self.quiet &= old.connections() == 0;
        let awake = self.awake.zip(old.awake);
        self.awake = awake.map(|(newest, old)| newest.saturating_add(old));
        let unsent = self.unsent.zip(old.unsent);
        self.unsent = unsent.map(|(newest, old)| Unsent {
            open: newest.open.saturating_add(old.open),
            // Of closed connections nobody tells whose they were.
            closed: newest.closed.max(old.closed),
            gone: newest.gone.max(old.gone),
        });
        // Where the kernel does not tell whose they are, they are among the newest's.
        if seen.is_apart {
            self.clients.extend(old.clients);
        }
        self.clients
            .sort_unstable_by_key(|client| (client.silent, client.address));
        self.clients.truncate(CLIENTS);
        self
    }
}

/// Finds how many connections of an old generation are no TCP but HTTP/3's, by the times of two
/// witnesses.
///
/// The newest Envoy tells how many connections the old one had at the newest's last flush of
/// statistics; the kernel tells how many of TCP there are now. An old generation accepts no more,
/// so that at the flush it had no more of TCP than at the look before. A connection between internal
/// listeners, which the newest counts and the kernel does not, looks like one of HTTP/3.
#[derive(Debug, Default)]
struct Beyond {
    /// At the look before: the newest's uptime at its last flush, and how many connections it told of.
    flush: (Option<u64>, u64),
    /// TCP connections at the look before.
    tcp: Option<u64>,
    /// How many connections were no TCP at the last flush, at the least; none before there was one.
    count: Option<u64>,
}

impl Beyond {
    /// What is `open` on the old generation, those connections among them. The newest Envoy has
    /// `told` before the kernel showed so many of `tcp`.
    fn add(&mut self, told: &Load, tcp: u64, open: OldOpen) -> OldOpen {
        let flush = (told.uptime, told.old_connections);
        if self.flush != flush {
            let before = self.tcp;
            self.count = before.map(|before| told.old_connections.saturating_sub(before));
            self.flush = flush;
        }
        self.tcp = Some(tcp);
        OldOpen {
            clients: open.clients.saturating_add(self.count.unwrap_or(0)),
            is_exact: open.is_exact && self.count.is_some(),
            is_all: false,
            ..open
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// How many connections are open at each of the looks: the newest's uptime and its word, TCP's.
    fn open(looks: &[(u64, u64, u64)]) -> Vec<Option<u64>> {
        let mut beyond = Beyond::default();
        let look = |&(uptime, old_connections, tcp)| {
            let told = Load {
                uptime: Some(uptime),
                old_connections,
                ..Load::default()
            };
            let open = OldOpen {
                clients: tcp,
                is_exact: true,
                is_all: true,
                ends: false,
            };
            let open = beyond.add(&told, tcp, open);
            assert!(!open.is_all);
            open.is_exact.then_some(open.clients)
        };
        looks.iter().map(look).collect()
    }

    #[test]
    fn the_end_of_the_workers_is_seen_once_there_were_some() {
        let pid = std::process::id().try_into().unwrap();
        let mut workers = Workers::default();
        workers.look(pid);
        assert_eq!(workers, Workers::Unseen);
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let worker = std::thread::Builder::new().name("wrk:worker_0".into());
        let worker = worker.spawn(move || stopped.recv()).unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        let mut wait_for = |state| {
            while workers != state {
                assert!(Instant::now() < until, "{workers:?}");
                workers.look(pid);
            }
        };
        // A thread names itself once it runs.
        wait_for(Workers::Seen);
        drop(stop);
        let _ = worker.join();
        // The kernel forgets it a moment later.
        wait_for(Workers::Gone);
    }

    #[test]
    fn what_is_no_tcp_is_known_by_a_flush_after_a_look() {
        // Three of TCP and two of HTTP/3; the last ones of TCP end before the last flush.
        let looks = [
            (5, 5, 3),
            (5, 5, 3),
            (10, 5, 3),
            (10, 5, 0),
            (15, 2, 0),
            (20, 0, 0),
        ];
        let seen = [None, None, Some(5), Some(2), Some(2), Some(0)];
        assert_eq!(open(&looks), seen);
        // What has ended between a flush and the next look was no more than at the look before.
        assert_eq!(open(&[(5, 3, 3), (10, 3, 0)]), [None, Some(0)]);
        // Within a second, the word alone moves on.
        assert_eq!(open(&[(5, 0, 0), (5, 1, 0)]), [None, Some(1)]);
    }
}
