//! What reaches the main thread.

use crate::certificates::Report;
use crate::envoy::admin::Reply;

/// A report of a helper thread.
#[derive(Debug)]
pub enum Event {
    /// `/shutdown` was asked for, by this peer.
    Shutdown(String),
    /// Somebody wants to know how Envoy is: ask its admin interface, if that was not done within
    /// the last second. The answer shows in the snapshot.
    Probe,
    /// Somebody wants to know what is open: ask that too, as seldom.
    Look,
    /// Envoy's admin interface answered, or did not.
    Admin(Reply),
    /// The certificate thread has something to tell.
    Certificates(Report),
    /// A helper thread ended: by a panic, or because it could not go on.
    ThreadEnded(&'static str),
}
