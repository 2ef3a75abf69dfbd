//! What a request does: the one place where HTTP reaches the rest of drainit.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use super::connection::{Held, ServerConnection};
use super::endpoints::{self, Endpoint, EndpointAnswer, When};
use super::listen::Caller;
use super::reply::Reply;
use super::request::{ParsedHead, Request, RequestMethod};
use crate::cidr::Cidr;
use crate::status::{OrderNumber, SharedSnapshot, State};

/// The shortest time between two [`Wish::Probe`]s, so that a flood of requests is none of wishes.
const PROBE_PAUSE: Duration = Duration::from_millis(50);

/// While so many bytes of answers wait for their peers to take them, strangers get no other answer of
/// any size: an Envoy with 5,000 listeners has 1 MB of metrics, and 512 peers may ask for them and read
/// nothing.
const MOST_OWED: usize = 32 << 20;

/// What a request wishes for that the HTTP thread cannot do itself.
#[derive(Debug)]
pub enum Wish {
    /// A drain, by `/shutdown` from this peer.
    Shutdown(String),
    /// `/hold` was asked for: which order it is, and by whom.
    Hold(OrderNumber, String),
    /// `/resume` was asked for: which order it is, and by whom.
    Resume(OrderNumber, String),
    /// Somebody wants to know how Envoy is: ask its admin interface, if that was not done within
    /// the last second. The answer shows in the snapshot.
    Probe,
    /// Somebody wants to know what is open: ask that too, as seldom.
    Look,
}

/// How many orders to hold and to resume there have been.
static ORDERS: AtomicU64 = AtomicU64::new(0);

/// An order by `name`, for the main thread. It gets its number, by which its answer is found.
fn number(endpoint: &mut Endpoint, name: String) -> Wish {
    let next = || -> OrderNumber { ORDERS.fetch_add(1, Ordering::Relaxed) + 1 };
    match endpoint {
        Endpoint::Hold(number) => {
            *number = next();
            Wish::Hold(*number, name)
        }
        Endpoint::Resume(number) => {
            *number = next();
            Wish::Resume(*number, name)
        }
        _ => Wish::Shutdown(name),
    }
}

/// Answers requests.
pub struct Handler<'a> {
    board: &'a SharedSnapshot,
    wish: &'a dyn Fn(Wish),
    shutdown_from: &'a [Cidr],
    /// How many callers may wait for the end of a drain.
    seats: usize,
    /// How many callers wait for the end of a drain.
    seated: usize,
    /// How many bytes of answers wait for their peers to take them.
    owed: usize,
    /// Whether a probe was asked for and has not been sent.
    probe_wanted: bool,
    /// Whether a look at what is open was asked for and has not been sent.
    look_wanted: bool,
    /// When the next probe may be sent.
    next_probe: Option<Instant>,
}

impl<'a> Handler<'a> {
    /// A handler that lets `seats` callers wait for the end of a drain.
    pub fn new(
        board: &'a SharedSnapshot,
        wish: &'a dyn Fn(Wish),
        shutdown_from: &'a [Cidr],
        seats: usize,
    ) -> Handler<'a> {
        Handler {
            board,
            wish,
            shutdown_from,
            seats,
            seated: 0,
            owed: 0,
            probe_wanted: false,
            look_wanted: false,
            next_probe: None,
        }
    }

    /// Counts who waits for the end of a drain, and what is owed; to be called when some may have gone.
    pub fn count(&mut self, connections: &[ServerConnection]) {
        self.owed = connections.iter().map(ServerConnection::owed).sum();
        let waiting = connections.iter().filter(|one| one.awaits_drain());
        self.seated = waiting.count();
    }

    /// Does what a head asks for: answers, or lets the connection wait.
    pub fn on_head(&mut self, connection: &mut ServerConnection, head: ParsedHead, now: Instant) {
        match head {
            ParsedHead::Partial => (),
            ParsedHead::Bad(reply) => connection.send(reply, false, now),
            ParsedHead::Whole(request) => self.begin(connection, &request, now),
        }
    }

    fn begin(&mut self, connection: &mut ServerConnection, request: &Request, now: Instant) {
        let head_only = request.method == RequestMethod::Head;
        let local = matches!(connection.peer(), Caller::Unix(_));
        let mut endpoint = match endpoints::route(request, local) {
            Ok(endpoint) => endpoint,
            Err(reply) => return connection.send(reply, head_only, now),
        };
        if let Some(order) = endpoint.order() {
            if request.from_page {
                let text = format!(
                    "no web page may {order}: the request has an Origin, or a Sec-Fetch-Site other than none"
                );
                return connection.send(Reply::text(403, text), head_only, now);
            }
            let peer = connection.peer();
            match peer.authorize(self.shutdown_from) {
                Ok(name) => (self.wish)(number(&mut endpoint, name)),
                Err(name) => {
                    let who = match peer {
                        Caller::Ip(_) => "see --shutdown-from",
                        Caller::Unix(_) => {
                            "root and drainit's own user may, from its own pid namespace"
                        }
                    };
                    let text = format!("{name} may not {order}: {who}");
                    return connection.send(Reply::text(403, text), head_only, now);
                }
            }
        }
        let held = Held {
            endpoint,
            asked: now,
            trusted: connection.peer().authorize(&[]).is_ok(),
            head_only,
            until: None,
            half_closed: false,
        };
        let answer = self.answer(held, now);
        let waits = matches!(answer, EndpointAnswer::Later(_));
        // Where Envoy refuses to be told, a look shows that its health check passes all the same.
        self.probe_wanted |= matches!(endpoint, Endpoint::Resume(_));
        match endpoint {
            Endpoint::Health => self.probe_wanted = true,
            // Somebody else may have had a held Envoy's health check pass.
            Endpoint::Ready => {
                self.probe_wanted |= waits || self.board.read().state == State::Held;
            }
            Endpoint::Status(When::Fresh) | Endpoint::Metrics => self.look_wanted |= waits,
            order if order.order().is_some() && waits => {
                if self.seated >= self.seats {
                    let text = "the order is taken; too many callers wait for its end";
                    return connection.send(Reply::text(503, text), head_only, now);
                }
                self.seated += 1;
            }
            _ => (),
        }
        self.probe(now);
        match answer {
            EndpointAnswer::Now(reply) => self.send(connection, reply, head_only, now),
            EndpointAnswer::Later(until) => connection.hold(Held { until, ..held }),
        }
    }

    fn send(
        &mut self,
        connection: &mut ServerConnection,
        reply: Reply,
        head_only: bool,
        now: Instant,
    ) {
        connection.send(reply, head_only, now);
        self.owed += connection.owed();
    }

    /// Answers a request that was held, if it can be answered by now.
    pub fn look_again(&mut self, connection: &mut ServerConnection, now: Instant) {
        if let Some(held) = connection.held()
            && let EndpointAnswer::Now(reply) = self.answer(held, now)
        {
            self.send(connection, reply, held.head_only, now);
        }
    }

    fn answer(&self, held: Held, now: Instant) -> EndpointAnswer {
        if let Endpoint::Status(When::Fresh | When::Now) | Endpoint::Metrics = held.endpoint
            && self.owed > MOST_OWED
            && !held.trusted
        {
            let text = "too many clients have not read their answers yet";
            return EndpointAnswer::Now(Reply::text(503, text));
        }
        let snapshot = self.board.read();
        let wall = SystemTime::now();
        endpoints::answer(
            held.endpoint,
            held.asked,
            &snapshot,
            now,
            wall,
            held.trusted,
        )
    }

    /// Sends the probe that was asked for, unless it is too soon. Returns when it will not be.
    pub fn probe(&mut self, now: Instant) -> Option<Instant> {
        if !self.probe_wanted && !self.look_wanted {
            return None;
        }
        if let Some(next) = self.next_probe.filter(|next| now < *next) {
            return Some(next);
        }
        if std::mem::take(&mut self.probe_wanted) {
            (self.wish)(Wish::Probe);
        }
        if std::mem::take(&mut self.look_wanted) {
            (self.wish)(Wish::Look);
        }
        self.next_probe = Some(now + PROBE_PAUSE);
        None
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::mailbox::Waker;
    use crate::status::Snapshot;

    #[test]
    fn answers_that_nobody_reads_take_no_more_memory_than_a_few_and_probes_are_answered_all_the_same()
     {
        const LARGE: usize = 1 << 20;
        let (waker, _wakeups) = Waker::new().unwrap();
        let now = Instant::now();
        let mut snapshot = Snapshot::new(now);
        snapshot.reason = "x".repeat(LARGE);
        let board = SharedSnapshot::new(snapshot, waker);
        let mut handler = Handler::new(&board, &|_| (), &[], 1);
        let mut connections = Vec::new();
        let mut peers = Vec::new();
        for (path, query) in std::iter::repeat_n(("/status", "now"), 100).chain([("/healthz", "")])
        {
            let (ours, theirs) = UnixStream::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            peers.push(theirs);
            let peer = Caller::Ip([127, 0, 0, 1].into());
            let mut connection = ServerConnection::new(ours.into(), peer, now);
            let request = Request {
                from_page: false,
                method: RequestMethod::Get,
                path: path.into(),
                query: query.into(),
            };
            handler.on_head(&mut connection, ParsedHead::Whole(request), now);
            connections.push(connection);
        }
        let owed = |handler: &mut Handler, connections: &[ServerConnection]| {
            handler.count(connections);
            handler.owed
        };
        let most = owed(&mut handler, &connections);
        assert!((MOST_OWED..MOST_OWED + 2 * LARGE).contains(&most), "{most}");
        assert_eq!(connections.last().unwrap().owed(), 0);
        drop(connections);
        assert_eq!(owed(&mut handler, &[]), 0);
    }
}
