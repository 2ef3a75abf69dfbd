//! Health, shutdown, status and metrics over HTTP: one thread, one `poll`.
//!
//! Bind the addresses ([`BoundSockets`]), then run [`serve`] on a thread of its own. It answers
//! from the snapshot and asks nobody; what a request changes is a [`Wish`] for the main thread. It
//! returns once drainit is [gone](crate::status::State::Gone) and everybody who waited has their
//! answer. Should it panic, it can be run again.
//!
//! # Why the loop is our own
//! `tiny_http::Server` starts a thread for every connection, without a limit, reads without a
//! timeout, and its accept thread ends for ever at the first accept error (`EMFILE`,
//! `ECONNABORTED`); the sockets of a pod's health check are reached by anybody in the cluster.
//! Only its response writer is used. Request heads are parsed by `httparse`.
//!
//! # What a stranger can and cannot do
//! - There are at most 512 connections, and at most a quarter of the descriptors that the process
//!   may have. When one more comes, the one that owes the least is closed for it: who has had
//!   their answer, else who has been sending a request for the longest, and so on. A kubelet's
//!   probe, which arrives whole, is thus answered however many idle connections there are.
//!   Waiting callers of `/shutdown`, who are at most half, are never closed for others.
//! - A request head has 8 KB, 64 headers and 2 s, counted from the connection's begin, so that a
//!   byte now and then wins nothing.
//! - No body is ever read for what it says: what follows the head is thrown away, for as long as
//!   the peer needs to notice the answer, within bounds.
//! - With 32 MB of answers that nobody has read yet, there is no further `/status` or `/metrics` but
//!   over the control socket.
//! - Every connection carries one request; all answers say `Connection: close`.
//! - When `accept` fails because descriptors or memory are short, a connection is closed, and
//!   accepting pauses for 100 ms.
//!
//! Without connections the thread sleeps until one comes or the snapshot changes.

mod connection;
pub mod control;
pub mod endpoints;
mod handler;
mod listen;
pub mod reply;
pub mod request;
mod server;

pub use handler::Wish;
pub use listen::{BoundSocket, BoundSockets, Caller, Listen, bind};
pub use server::serve;
