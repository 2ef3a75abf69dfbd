//! Whether Envoy has a listener: an Envoy whose control plane is away calls itself LIVE half a
//! minute after its start, with nothing that anybody could connect to.

use std::time::{Duration, Instant};

use crate::client::{Address, ExchangeLimits, Method, Peer, exchange_with};

/// After how long the listeners are counted again, where there are some.
const REST: Duration = Duration::from_secs(10);

/// The limits on the whole answer: a listener is a line of it.
const PAGE: ExchangeLimits = ExchangeLimits {
    time: Duration::from_secs(1),
    body: 8 * 1024 * 1024,
};

/// The longest line that is looked at.
const LINE: usize = 4096;

/// How many active listeners Envoy has, its admin interface's and the excluded ones apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerCount {
    /// So many addresses.
    Count(u64),
    /// Envoy does not tell (`admin.allow_paths`), or did not: that is not none.
    Untold,
}

/// What is known of one Envoy's listeners.
#[derive(Debug, Default)]
pub struct Census {
    /// The Envoy that it is about.
    owner: Option<i32>,
    told: Option<(ListenerCount, Instant)>,
    /// Whether the last question was this one, and not for readiness.
    was_last: bool,
}

impl Census {
    /// Whether Envoy, which said that it was live, is to be asked for its listeners now *instead*
    /// of its readiness: both together would ask it more than once a second.
    pub fn takes_turn(&mut self, owner: Option<i32>, now: Instant) -> bool {
        if self.owner != owner {
            *self = Census {
                owner,
                ..Census::default()
            };
        }
        let turn = match self.told {
            None => false,
            Some((ListenerCount::Count(0), _)) => !self.was_last,
            Some((_, at)) => !self.was_last && now.saturating_duration_since(at) >= REST,
        };
        self.was_last = turn;
        turn
    }

    /// Whether Envoy is still to be asked for its listeners for the first time.
    pub fn is_new(&self) -> bool {
        self.told.is_none()
    }

    /// How many listeners Envoy has, once it was asked.
    pub fn told(&self) -> Option<ListenerCount> {
        self.told.map(|(listeners, _)| listeners)
    }

    /// Asks Envoy for its listeners.
    pub fn ask(&mut self, peer: Peer, address: &Address, excluded: &[String]) {
        let mut page = ListenersReader::default();
        let head = exchange_with(peer, address, Method::Get, "/listeners", PAGE, |piece| {
            page.feed(piece, excluded);
        });
        let listeners = match head {
            Ok(head) if head.status == 200 => page.finish(excluded),
            Ok(head) => {
                log::debug!("envoy does not tell its listeners: {}", head.status);
                ListenerCount::Untold
            }
            Err(why) => {
                log::debug!("envoy does not tell its listeners: {why}");
                ListenerCount::Untold
            }
        };
        self.told = Some((listeners, Instant::now()));
    }
}

/// Envoy's page: `name::127.0.0.1:8080`, a line for each address of an active listener.
#[derive(Debug, Default)]
struct ListenersReader {
    line: Vec<u8>,
    count: u64,
    /// Whether something in it is no such line.
    strange: bool,
}

impl ListenersReader {
    fn feed(&mut self, bytes: &[u8], excluded: &[String]) {
        for &byte in bytes {
            if byte == b'\n' {
                self.read_line(excluded);
            } else if self.line.len() < LINE {
                self.line.push(byte);
            }
        }
    }

    fn read_line(&mut self, excluded: &[String]) {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line);
        let line = line.trim();
        let Some((name, address)) = split(line) else {
            self.strange |= !line.is_empty();
            return;
        };
        // Nobody but Envoy itself can connect to an internal one.
        let counts = !address.starts_with("envoy://") && !is_excluded(name, address, excluded);
        self.count = self.count.saturating_add(u64::from(counts));
    }

    fn finish(mut self, excluded: &[String]) -> ListenerCount {
        self.read_line(excluded);
        if self.strange && self.count == 0 {
            return ListenerCount::Untold;
        }
        ListenerCount::Count(self.count)
    }
}

/// Both the name and an IPv6 address may hold `::`.
fn split(line: &str) -> Option<(&str, &str)> {
    let at = line.find("::[").or_else(|| line.rfind("::"))?;
    Some((line.get(..at)?, line.get(at + 2..)?))
}

/// Whether one of the words of `--exclude-listener` means the listener with this name and address.
pub fn is_excluded(name: &str, address: &str, excluded: &[String]) -> bool {
    excluded.iter().any(|other| {
        other == name
            || other.replace(':', "_") == address.replace(':', "_")
            || other.starts_with(':') && address.ends_with(other.as_str())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, excluded: &[&str]) -> ListenerCount {
        let excluded: Vec<String> = excluded.iter().map(ToString::to_string).collect();
        let mut page = ListenersReader::default();
        for piece in text.as_bytes().chunks(3) {
            page.feed(piece, &excluded);
        }
        page.finish(&excluded)
    }

    #[test]
    fn listeners_that_somebody_can_connect_to_are_counted() {
        let text = "a::b::127.0.0.1:80\nv6::[::1]:80\npipe::/run/a.sock\n\
                    inner::envoy://inner/\nprobes::0.0.0.0:8002\n";
        assert_eq!(read(text, &[]), ListenerCount::Count(4));
        for name in ["probes", "0.0.0.0:8002", "0.0.0.0_8002", ":8002"] {
            assert_eq!(read(text, &[name]), ListenerCount::Count(3), "{name}");
        }
        assert_eq!(
            read(text, &[":80", "pipe", "probes"]),
            ListenerCount::Count(0)
        );
        assert_eq!(read("", &[]), ListenerCount::Count(0));
    }

    #[test]
    fn a_page_of_something_else_is_not_none() {
        assert_eq!(read("<html>hello</html>", &[]), ListenerCount::Untold);
    }

    #[test]
    fn they_are_asked_for_in_turn_with_readiness_until_there_are_some() {
        let now = Instant::now();
        let mut census = Census::default();
        assert!(!census.takes_turn(Some(7), now) && census.is_new());
        census.told = Some((ListenerCount::Count(0), now));
        let turns: Vec<_> = (0..4).map(|_| census.takes_turn(Some(7), now)).collect();
        assert_eq!(turns, [true, false, true, false]);
        census.told = Some((ListenerCount::Count(2), now));
        assert!(!census.takes_turn(Some(7), now));
        assert!(census.takes_turn(Some(7), now + REST));
        assert!(!census.takes_turn(Some(7), now + REST));
        // Another Envoy has told nothing yet.
        assert!(!census.takes_turn(Some(8), now + REST) && census.is_new());
    }
}
