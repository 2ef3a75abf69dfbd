//! The loop: waits for the sockets and the snapshot, and never for anything else.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit};

use super::connection::ServerConnection;
use super::handler::{Handler, Wish};
use super::listen::{BoundSocket, BoundSockets};
use crate::cidr::Cidr;
use crate::fault;
use crate::mailbox::Wakeups;
use crate::status::{SharedSnapshot, State};

/// The most connections at a time, however many descriptors there are.
const MAX_CONNECTIONS: u64 = 512;
/// How many connections are accepted before those that are open have their turn.
const ACCEPT_TURN: usize = 64;
/// How long nothing is accepted after descriptors or memory were short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long the last answers may take once Envoy is gone.
const LAST_ANSWERS: Duration = Duration::from_millis(300);

/// Serves `listeners` until `board` shows that Envoy is gone. `wakeups` is the end that `board`
/// wakes; `wish` is told what requests wish for; `shutdown_from` is who may wish for a drain.
///
/// Returns when everybody who waited has been answered, or 300 ms after the state became
/// [`State::Gone`]. Can be called again, after a panic as well; connections do not survive that.
///
/// # Errors
/// When `poll` fails, which it does if the kernel is out of memory.
pub fn serve(
    listeners: &mut BoundSockets,
    board: &SharedSnapshot,
    wakeups: &Wakeups,
    wish: &dyn Fn(Wish),
    shutdown_from: &[Cidr],
) -> io::Result<()> {
    let limit = connection_limit();
    let mut server = Server {
        listeners,
        wakeups,
        limit,
        connections: Vec::new(),
        handler: Handler::new(board, wish, shutdown_from, limit / 2),
        accept_after: None,
        complained: false,
    };
    while board.read().state != State::Gone {
        server.wait()?;
        fault::point("http");
        server.look_around(Instant::now());
    }
    server.finish(Instant::now())
}

/// How many connections there may be: a quarter of the descriptors, so that the rest of drainit
/// always finds some.
fn connection_limit() -> usize {
    let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    usize::try_from((descriptors / 4).clamp(4, MAX_CONNECTIONS)).unwrap_or(4)
}

struct Server<'a> {
    listeners: &'a mut BoundSockets,
    wakeups: &'a Wakeups,
    limit: usize,
    /// The connections, the oldest first.
    connections: Vec<ServerConnection>,
    handler: Handler<'a>,
    /// When accepting goes on, after it failed.
    accept_after: Option<Instant>,
    /// Whether the log has been told that accepting fails.
    complained: bool,
}

impl Server<'_> {
    /// Waits until there is something to do, and does it for the connections.
    fn wait(&mut self) -> io::Result<()> {
        let now = Instant::now();
        self.listeners.retry(now);
        self.accept_after = self.accept_after.filter(|after| now < *after);
        let accepting = if self.accept_after.is_none() {
            PollFlags::POLLIN
        } else {
            PollFlags::empty()
        };
        let next = self
            .connections
            .iter()
            .filter_map(ServerConnection::deadline)
            .chain(self.accept_after)
            .chain(self.listeners.retry_at())
            .chain(self.handler.probe(now))
            .min();

        let mut fds = Vec::with_capacity(1 + self.listeners.bound.len() + self.connections.len());
        fds.push(PollFd::new(self.wakeups.as_fd(), PollFlags::POLLIN));
        for listener in &self.listeners.bound {
            fds.push(PollFd::new(listener.as_fd(), accepting));
        }
        for connection in &self.connections {
            fds.push(PollFd::new(connection.as_fd(), connection.events()));
        }
        match poll(&mut fds, timeout(next, now)) {
            Ok(_) => (),
            Err(Errno::EINTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let told: Vec<Option<PollFlags>> = fds.iter().map(PollFd::revents).collect();

        let mut told = told.into_iter();
        let happened = |flags: &Option<PollFlags>| flags.is_none_or(|flags| !flags.is_empty());
        if told.next().is_some_and(|flags| happened(&flags)) {
            // What was announced is looked for after this.
            self.wakeups.clear();
        }
        let knocked: Vec<bool> = told
            .by_ref()
            .take(self.listeners.bound.len())
            .map(|flags| happened(&flags))
            .collect();
        let now = Instant::now();
        for (connection, flags) in self.connections.iter_mut().zip(told) {
            if !happened(&flags) {
                continue;
            }
            connection.proceed(flags, now);
            if let Some(head) = connection.read_head() {
                self.handler.on_head(connection, head, now);
            }
        }
        if self.accept_after.is_none() {
            for (index, _) in knocked.iter().enumerate().filter(|(_, knocked)| **knocked) {
                self.accept(index, now);
            }
        }
        Ok(())
    }

    /// Answers whom the snapshot has an answer for, and ends what has taken too long.
    fn look_around(&mut self, now: Instant) {
        for connection in &mut self.connections {
            self.handler.look_again(connection, now);
            connection.expire(now);
        }
        self.connections
            .retain(|connection| !connection.is_closed());
        self.handler.count(&self.connections);
        if self.connections.is_empty() {
            self.connections = Vec::new();
        }
    }

    /// Takes the connections that have come, as many as are fair.
    fn accept(&mut self, listener: usize, now: Instant) {
        for _ in 0..ACCEPT_TURN {
            let Some(accepted) = self.listeners.bound.get(listener).map(BoundSocket::accept) else {
                return;
            };
            let (socket, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if concerns_one_connection(&error) => continue,
                Err(error) => {
                    if !self.complained {
                        log::warn!("cannot accept an HTTP connection: {error}");
                        self.complained = true;
                    }
                    self.evict();
                    self.accept_after = Some(now + ACCEPT_PAUSE);
                    return;
                }
            };
            self.complained = false;
            if self.connections.len() >= self.limit && !self.evict() {
                return;
            }
            let mut connection = ServerConnection::new(socket, peer, now);
            // Most requests come with their connection; such a one cannot be evicted for others
            // before it was looked at.
            if let Some(head) = connection.read_head() {
                self.handler.on_head(&mut connection, head, now);
            }
            if !connection.is_closed() {
                self.connections.push(connection);
            }
        }
    }

    /// Closes the connection that matters least, of several the oldest; whether there was one.
    fn evict(&mut self) -> bool {
        let least = self
            .connections
            .iter()
            .enumerate()
            .filter_map(|(index, connection)| Some((connection.worth()?, index)))
            .min();
        if let Some((_, index)) = least {
            self.connections.remove(index);
        }
        least.is_some()
    }

    /// Answers everybody who waits or has just come, and sees the answers off.
    fn finish(&mut self, now: Instant) -> io::Result<()> {
        for listener in 0..self.listeners.bound.len() {
            self.accept(listener, now);
        }
        // From here on nobody is let in, and nobody is waited for who has not asked.
        let end = now + LAST_ANSWERS;
        loop {
            let now = Instant::now();
            self.look_around(now);
            let waits = |it: &ServerConnection| it.is_answering() || it.awaits_end();
            self.connections.retain(waits);
            if self.connections.is_empty() || now >= end {
                return Ok(());
            }
            // Nobody is accepted, and `wait` returns in time.
            self.accept_after = Some(end);
            self.wait()?;
        }
    }
}

/// For how long to poll until `next`, rounded up to milliseconds; for ever if there is none.
fn timeout(next: Option<Instant>, now: Instant) -> PollTimeout {
    let Some(next) = next else {
        return PollTimeout::NONE;
    };
    let left = next
        .saturating_duration_since(now)
        .as_micros()
        .div_ceil(1_000);
    PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
}

/// Whether an error of `accept` tells of the connection that was to be accepted (man 2 accept),
/// so that the next may fare better at once.
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(
            Errno::ECONNABORTED
                | Errno::EPERM
                | Errno::EPROTO
                | Errno::ENOPROTOOPT
                | Errno::ENETDOWN
                | Errno::ENETUNREACH
                | Errno::EHOSTDOWN
                | Errno::EHOSTUNREACH
                | Errno::ENONET
                | Errno::EOPNOTSUPP
        )
    )
}
