//! The kernel's word on what is in flight, for an Envoy whose admin interface is gone for good.
//!
//! Whether a request is in flight on a connection cannot be known, so each counts as one.

use std::time::Duration;

use super::load::{Listener, Load, Sight, is_excluded};
use crate::client::Address;
use crate::connections::{self, Connections, Lookout};

/// A look that somebody waits for, and that may fail.
const MOMENT: Duration = Duration::from_millis(200);

/// What an Envoy was seen with: when it has stopped accepting, the connections of its listeners are
/// still theirs.
#[derive(Debug, Default)]
pub struct Known(Option<(i32, Lookout)>);

/// Looks at the sockets of the Envoy with this pid, and tells whether it accepts connections or was
/// seen to. What is open at its `admin` interface does not count; of the others, listeners in
/// `excluded` are marked. An Envoy that accepts nothing, and was never seen to, has no connections
/// that could be told from outgoing ones.
///
/// Each UDP listener counts as one session, since it may have any number.
///
/// # Errors
/// One line, when not all can be seen: then nothing is known, least of all zero.
pub fn look(
    pid: i32,
    admin: Option<&Address>,
    excluded: &[String],
    known: &mut Known,
) -> Result<(Load, bool), String> {
    known.0.take_if(|(of, _)| *of != pid);
    let (_, lookout) = known.0.get_or_insert_with(|| (pid, Lookout::new(pid)));
    let connections = lookout.look(admin)?;
    // Of UDP sockets alone nothing follows: an old generation that has been told to drain keeps its
    // own, and does not read them (seen on 1.40.0).
    let is_told = !connections.listeners.is_empty();
    Ok((load(&connections, excluded), is_told))
}

/// Whether the Envoy with this pid has a UDP listener, as far as can be seen in a moment.
pub fn has_udp_listener(pid: i32) -> bool {
    connections::has_udp_listener(pid, MOMENT)
}

fn load(connections: &Connections, excluded: &[String]) -> Load {
    let name = |listener: &connections::Listener| listener.local.to_string().replace(':', "_");
    let elsewhere = connections.elsewhere.len() as u64;
    let mut listeners: Vec<Listener> = connections
        .listeners
        .iter()
        .map(|listener| (name(listener), listener.count()))
        .chain((elsewhere > 0).then(|| ("elsewhere".into(), elsewhere)))
        .map(|(name, connections)| Listener {
            excluded: is_excluded(&name, excluded),
            name,
            connections,
        })
        .collect();
    listeners.sort_by(|a, b| a.name.cmp(&b.name));
    let udp = connections.udp.iter();
    let udp = udp.filter(|listener| !is_excluded(&name(listener), excluded));
    let mut load = Load {
        listeners,
        udp_sessions: udp.count() as u64,
        ..Load::default()
    };
    // Each may have something in flight.
    load.tcp_sessions = load.connections();
    load.sight = Sight::Kernel;
    load
}

#[cfg(test)]
#[path = "kernel_tests.rs"]
mod tests;
