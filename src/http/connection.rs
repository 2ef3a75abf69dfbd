//! A connection, from its first byte to its last. Never blocks.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{MsgFlags, Shutdown, recv, send, shutdown};

use super::endpoints::{Endpoint, When};
use super::listen::Caller;
use super::reply::Reply;
use super::request::{self, MAX_HEAD, ParsedHead};

/// The time from the connection's begin to the end of the request's head.
const HEAD_TIME: Duration = Duration::from_secs(2);
/// How long the peer has to take all of its answer, most of which a socket's buffer has room for.
const WRITE_TIME: Duration = Duration::from_secs(3);
/// How long the peer has to close once it has its answer.
const LINGER_TIME: Duration = Duration::from_secs(1);
/// How many bytes of a body are thrown away until the peer closes.
const LINGER_BYTES: usize = 16 << 20;
/// How many bytes of a body are thrown away at once, before other connections have their turn.
const LINGER_TURN: usize = 64 << 10;

/// A connection. Closed when dropped.
pub struct ServerConnection {
    socket: OwnedFd,
    peer: Caller,
    phase: ConnectionPhase,
}

enum ConnectionPhase {
    /// The request's head is coming: the bytes so far.
    Reading { head: Vec<u8>, deadline: Instant },
    /// The answer waits for the snapshot to change.
    Held(Held),
    /// The answer is going.
    Writing {
        bytes: Vec<u8>,
        sent: usize,
        deadline: Instant,
    },
    /// The answer is gone, and so is our half of the connection. Closing the other half while
    /// the peer is sending would make its kernel drop the answer before it was read.
    Lingering { left: usize, deadline: Instant },
    /// Nothing more is to come of it.
    Closed,
}

/// A request that waits for its answer.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// What was asked for.
    pub endpoint: Endpoint,
    /// When that was asked for.
    pub asked: Instant,
    /// Whether it comes from who may give orders over the control socket.
    pub trusted: bool,
    /// Whether that was asked for by HEAD.
    pub head_only: bool,
    /// When it is answered at the latest.
    pub until: Option<Instant>,
    /// Whether the peer has closed its half. It may have gone away, or only have said all it has
    /// to say (`nc -N`); there is no telling before something is sent. So it keeps its place for
    /// as long as nobody else needs it.
    pub half_closed: bool,
}

impl ServerConnection {
    /// A connection that was accepted `now`. `socket` is non-blocking.
    pub fn new(socket: OwnedFd, peer: Caller, now: Instant) -> ServerConnection {
        let phase = ConnectionPhase::Reading {
            head: Vec::new(),
            deadline: now + HEAD_TIME,
        };
        ServerConnection {
            socket,
            peer,
            phase,
        }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &Caller {
        &self.peer
    }

    /// The request that waits, if one does.
    pub fn held(&self) -> Option<Held> {
        match self.phase {
            ConnectionPhase::Held(held) => Some(held),
            _ => None,
        }
    }

    /// Whether the connection waits for the end of a drain or of a hold's wait, as far as can be
    /// told.
    pub fn awaits_drain(&self) -> bool {
        self.held()
            .is_some_and(|held| held.endpoint.order().is_some() && !held.half_closed)
    }

    /// Whether the connection waits for the end of drainit.
    pub fn awaits_end(&self) -> bool {
        let held = self.held();
        held.is_some_and(|held| held.endpoint == Endpoint::Status(When::End))
    }

    /// Whether the peer is to be given time to get its answer.
    pub fn is_answering(&self) -> bool {
        matches!(
            self.phase,
            ConnectionPhase::Writing { .. } | ConnectionPhase::Lingering { .. }
        )
    }

    /// How many bytes of its answer the peer has still to take.
    pub fn owed(&self) -> usize {
        match &self.phase {
            ConnectionPhase::Writing { bytes, sent, .. } => bytes.len().saturating_sub(*sent),
            _ => 0,
        }
    }

    /// Whether the connection is to be dropped.
    pub fn is_closed(&self) -> bool {
        matches!(self.phase, ConnectionPhase::Closed)
    }

    /// How little is lost by closing the connection for another: the least first. None for a caller
    /// who waits for a drain.
    pub fn worth(&self) -> Option<u8> {
        match &self.phase {
            ConnectionPhase::Closed | ConnectionPhase::Lingering { .. } => Some(0),
            ConnectionPhase::Reading { .. } => Some(1),
            ConnectionPhase::Held(_) if self.awaits_drain() => None,
            ConnectionPhase::Held(held) if held.half_closed => Some(2),
            ConnectionPhase::Held(_) => Some(3),
            ConnectionPhase::Writing { .. } => Some(4),
        }
    }

    /// What to poll for.
    pub fn events(&self) -> PollFlags {
        match &self.phase {
            ConnectionPhase::Reading { .. } | ConnectionPhase::Lingering { .. } => {
                PollFlags::POLLIN
            }
            ConnectionPhase::Writing { .. } => PollFlags::POLLOUT,
            ConnectionPhase::Held(held) if !held.half_closed => POLLRDHUP,
            // That the peer reset the connection is always told.
            ConnectionPhase::Held(_) | ConnectionPhase::Closed => PollFlags::empty(),
        }
    }

    /// When [`ServerConnection::expire`] has something to do, if nothing comes before.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.phase {
            ConnectionPhase::Reading { deadline, .. }
            | ConnectionPhase::Writing { deadline, .. }
            | ConnectionPhase::Lingering { deadline, .. } => Some(*deadline),
            ConnectionPhase::Held(held) => held.until,
            ConnectionPhase::Closed => None,
        }
    }

    /// Ends what has taken too long. A request that is held is not touched: it has an answer.
    pub fn expire(&mut self, now: Instant) {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        match &self.phase {
            ConnectionPhase::Held(_) => (),
            ConnectionPhase::Reading { head, .. } if !head.is_empty() => {
                let text = format!(
                    "the request's head did not come within {} s",
                    HEAD_TIME.as_secs()
                );
                self.send(Reply::text(408, text), false, now);
            }
            _ => self.phase = ConnectionPhase::Closed,
        }
    }

    /// Reads what has come of the head; `None` while it is not all there, and when none is being
    /// read.
    pub fn read_head(&mut self) -> Option<ParsedHead> {
        let ConnectionPhase::Reading { head, .. } = &mut self.phase else {
            return None;
        };
        let mut buffer = [0; 4096];
        loop {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(0) if head.is_empty() => break,
                Ok(0) => {
                    let text = "bad request: it ended before its head did";
                    return Some(ParsedHead::Bad(Reply::text(400, text)));
                }
                Ok(length) => {
                    let new = buffer.get(..length).unwrap_or_default();
                    let first = head.is_empty();
                    head.extend_from_slice(new);
                    // A head ends with a line: bytes that come one by one are not worth a look
                    // each. What is no request at all mostly shows at once.
                    if first || new.contains(&b'\n') || head.len() >= MAX_HEAD {
                        match request::parse(head) {
                            ParsedHead::Partial => (),
                            done => return Some(done),
                        }
                    }
                }
                Err(Errno::EINTR) => (),
                Err(Errno::EAGAIN) => return None,
                Err(_) => break,
            }
        }
        self.phase = ConnectionPhase::Closed;
        None
    }

    /// Lets the request wait.
    pub fn hold(&mut self, held: Held) {
        self.phase = ConnectionPhase::Held(held);
    }

    /// Answers. As much as the socket takes goes at once.
    pub fn send(&mut self, reply: Reply, head_only: bool, now: Instant) {
        self.phase = ConnectionPhase::Writing {
            bytes: reply.into_bytes(head_only),
            sent: 0,
            deadline: now + WRITE_TIME,
        };
        self.write(now);
    }

    /// Goes on with what `poll` told; `None` stands for flags that `nix` has no name for, which
    /// is POLLRDHUP and maybe others.
    pub fn proceed(&mut self, flags: Option<PollFlags>, now: Instant) {
        match &mut self.phase {
            ConnectionPhase::Held(held) => match flags {
                // The others are told again, once this one is not asked for any more.
                None => held.half_closed = true,
                Some(flags) if !flags.is_empty() => self.phase = ConnectionPhase::Closed,
                Some(_) => (),
            },
            ConnectionPhase::Writing { .. } => self.write(now),
            ConnectionPhase::Lingering { .. } => self.discard(),
            ConnectionPhase::Reading { .. } | ConnectionPhase::Closed => (),
        }
    }

    fn write(&mut self, now: Instant) {
        let ConnectionPhase::Writing { bytes, sent, .. } = &mut self.phase else {
            return;
        };
        while let Some(rest) = bytes.get(*sent..).filter(|rest| !rest.is_empty()) {
            match send(self.socket.as_raw_fd(), rest, MsgFlags::MSG_NOSIGNAL) {
                Ok(length) => *sent += length,
                Err(Errno::EINTR) => (),
                Err(Errno::EAGAIN) => return,
                Err(_) => {
                    self.phase = ConnectionPhase::Closed;
                    return;
                }
            }
        }
        self.phase = match shutdown(self.socket.as_raw_fd(), Shutdown::Write) {
            Ok(()) => ConnectionPhase::Lingering {
                left: LINGER_BYTES,
                deadline: now + LINGER_TIME,
            },
            Err(_) => ConnectionPhase::Closed,
        };
    }

    fn discard(&mut self) {
        let ConnectionPhase::Lingering { left, .. } = &mut self.phase else {
            return;
        };
        let mut buffer = [0; 16 << 10];
        let mut turn = LINGER_TURN;
        while turn > 0 {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) if length > 0 && length < *left => {
                    *left -= length;
                    turn = turn.saturating_sub(length);
                }
                Err(Errno::EINTR) => (),
                Err(Errno::EAGAIN) => return,
                // The peer is done, or has sent too much, or is gone.
                Ok(_) | Err(_) => {
                    self.phase = ConnectionPhase::Closed;
                    return;
                }
            }
        }
    }
}

impl AsFd for ServerConnection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The peer has closed its half. `nix` does not know this flag.
const POLLRDHUP: PollFlags = PollFlags::from_bits_retain(nix::libc::POLLRDHUP);
