//! Pages of Envoy's admin interface: how long one may take, and how long it may be.

use std::time::Duration;

use crate::client::{
    Address, ExchangeLimits, GoesOn, Head, Method, Peer, exchange_while, fetch_while,
};

/// A busy Envoy may take this long for a step of the drain: one with 10,000 clusters needs 36 ms
/// for the page, and an answer that is lost on the way should not cost much of the deadline.
pub(super) const STEP: Duration = Duration::from_secs(3);

/// Whether a question that has waited so long for its answer may go on.
pub(super) type HasTime<'a> = &'a dyn Fn(Duration) -> bool;

/// A page that is held in memory.
const PAGE: u64 = 8 * 1024 * 1024;

/// A page of statistics, of which each line is read as it comes: a line is about 60 bytes, and each
/// worker has one for each listener.
const STATISTICS: u64 = 64 * 1024 * 1024;

/// Asks for a page of statistics, while `goes_on` says so.
pub(super) fn ask_stats(
    peer: Peer,
    address: &Address,
    query: &str,
    goes_on: GoesOn<'_>,
    sink: impl FnMut(&[u8]),
) -> Result<Head, String> {
    let limits = ExchangeLimits {
        time: STEP,
        body: STATISTICS,
    };
    exchange_while(peer, address, Method::Get, query, limits, goes_on, sink)
}

/// GETs a path, for what is no question of a drain.
///
/// # Errors
/// One line: no answer within 3 s, none with 200, or one that is longer than 8 MiB.
pub fn get(peer: Peer, address: &Address, path: &str) -> Result<String, String> {
    match fetch_page(peer, address, path, &|_| true)? {
        (200, body) => Ok(body),
        (status, body) => Err(refused(status, &body)),
    }
}

/// GETs a path as [`get`] does, and returns the status with the body, whatever the status is. Waits
/// as long as the question `has_time`.
///
/// # Errors
/// One line: no answer within 3 s, or none while the question `has_time`, or an answer that is
/// longer than 8 MiB.
pub(super) fn fetch_page(
    peer: Peer,
    address: &Address,
    path: &str,
    has_time: HasTime<'_>,
) -> Result<(u16, String), String> {
    let limits = ExchangeLimits {
        time: STEP,
        body: PAGE,
    };
    let mut goes_on = |waited| has_time(waited);
    fetch_while(peer, address, Method::Get, path, limits, Some(&mut goes_on))
}

/// The status and the first line of the body, cut to what a log line bears.
pub(super) fn refused(status: u16, body: &str) -> String {
    let line: String = body
        .lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(100)
        .collect();
    format!("envoy's admin interface answered {status} {line}")
        .trim_end()
        .to_owned()
}
