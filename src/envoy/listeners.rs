//! Whether Envoy has a listener: an Envoy whose control plane is away calls itself LIVE half a
//! minute after its start, with nothing that anybody could connect to.

use std::time::{Duration, Instant};

use super::fetch::STEP;
use super::roll_call::call_statistics;
use crate::client::{Address, ExchangeLimits, Method, Peer, fetch_while};
use crate::connections::Local;
use crate::connections::names::Named;

/// After how long the listeners are counted again, where there are some.
const REST: Duration = Duration::from_secs(10);

/// The limits on the whole answer: a listener is a line of it.
const PAGE: ExchangeLimits = ExchangeLimits {
    time: STEP,
    body: 8 * 1024 * 1024,
};

/// How many active listeners Envoy has, its admin interface's and the excluded ones apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerCount {
    /// Envoy's active listeners have so many addresses.
    Count(u64),
    /// Envoy does not tell its listeners (`admin.allow_paths`), or did not answer: it may have
    /// some.
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
    /// What Envoy listed last, if the excluded words that are no name and no address there may be
    /// the stat prefixes of all that count: the statistics are asked next.
    doubt: Option<ListenersPage>,
    /// How many requests had no answer.
    pub failed: u64,
}

impl Census {
    /// Whether Envoy, which said that it was live, is to be asked for its listeners now *instead*
    /// of its readiness: both together would ask it more than once a second.
    pub fn takes_turn(&mut self, owner: Option<i32>, now: Instant) -> bool {
        if self.owner != owner {
            *self = Census {
                owner,
                failed: self.failed,
                ..Census::default()
            };
        }
        let turn = match self.told {
            _ if self.doubt.is_some() => true,
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

    /// Asks Envoy for its listeners, or what the statistics call those that it listed last; for the
    /// first time both, where both are needed. Returns whether Envoy told. A silence changes nothing
    /// of what Envoy told before. The list is waited for while it `has_time`.
    pub fn ask(
        &mut self,
        peer: Peer,
        address: &Address,
        excluded: &[String],
        has_time: &dyn Fn(Duration) -> bool,
    ) -> bool {
        let untold = ListenerCount::Untold;
        let listed = match self.doubt.take() {
            Some(listed) => listed,
            None => match fetch_while(
                peer,
                address,
                Method::Get,
                "/listeners",
                PAGE,
                Some(&mut |waited| has_time(waited)),
            ) {
                Ok((200, page)) => match ListenersPage::read(&page, excluded) {
                    Some(listed) if !listed.is_in_doubt(excluded) => {
                        return self.tell(ListenerCount::Count(listed.count));
                    }
                    Some(listed) if self.told.is_some() => {
                        self.doubt = Some(listed);
                        return true;
                    }
                    Some(listed) => listed,
                    None => return self.tell(untold),
                },
                Ok((status, _)) => {
                    log::debug!("envoy does not tell its listeners: {status}");
                    return self.tell(untold);
                }
                Err(why) => return self.keep(&why, untold),
            },
        };
        // What is unknown is not excluded.
        let count = ListenerCount::Count(listed.count);
        match call_statistics(peer, address, has_time) {
            Ok((status, roll)) => {
                let are_out = status == 200 && roll.are_all_meant(&listed.all, excluded);
                self.tell(if are_out {
                    ListenerCount::Count(0)
                } else {
                    count
                })
            }
            Err(why) => self.keep(&why, count),
        }
    }

    fn tell(&mut self, listeners: ListenerCount) -> bool {
        self.told = Some((listeners, Instant::now()));
        listeners != ListenerCount::Untold
    }

    /// Envoy did not answer: what it told before stands, or this where it had told nothing.
    fn keep(&mut self, why: &str, otherwise: ListenerCount) -> bool {
        log::debug!("envoy does not tell its listeners: {why}");
        self.failed += 1;
        self.tell(self.told().unwrap_or(otherwise));
        false
    }
}

/// What Envoy's page says: `name::127.0.0.1:8080`, a line for each address of an active listener.
#[derive(Debug)]
struct ListenersPage {
    /// How many addresses count, and of how many listeners.
    count: u64,
    listeners: usize,
    /// The listeners. Nobody but Envoy itself can connect to an internal one: it is not there.
    all: Vec<Named>,
}

impl ListenersPage {
    /// Reads the page; None where it is another.
    fn read(page: &str, excluded: &[String]) -> Option<ListenersPage> {
        let (mut all, mut is_strange): (Vec<Named>, bool) = (Vec::new(), false);
        for line in page.lines().map(str::trim) {
            let Some((name, address)) = split(line) else {
                is_strange |= !line.is_empty();
                continue;
            };
            if address.starts_with("envoy://") {
                continue;
            }
            let local = local(address);
            match all.last_mut() {
                Some(last) if last.name.as_deref() == Some(name) => last.locals.push(local),
                _ => all.push(Named {
                    name: Some(name.into()),
                    locals: vec![local],
                }),
            }
        }
        let (mut count, mut listeners) = (0, 0);
        for named in &all {
            if !excluded.iter().any(|word| named.is_called(word)) {
                count += named.locals.len() as u64;
                listeners += 1;
            }
        }
        (!is_strange || count > 0).then_some(ListenersPage {
            count,
            listeners,
            all,
        })
    }

    /// Whether there are no more listeners that count than words that are neither a listener's name
    /// nor its address here.
    fn is_in_doubt(&self, excluded: &[String]) -> bool {
        let fits = |word: &&String| self.all.iter().any(|named| named.is_called(word));
        let known = excluded.iter().filter(fits).count();
        self.listeners > 0 && self.listeners <= excluded.len() - known
    }
}

fn local(address: &str) -> Local {
    match address.parse() {
        Ok(address) => Local::Ip(address),
        Err(_) => Local::Unix(address.into()),
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

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(ToString::to_string).collect()
    }

    fn read(text: &str, excluded: &[&str]) -> ListenerCount {
        let listed = ListenersPage::read(text, &words(excluded));
        listed.map_or(ListenerCount::Untold, |it| ListenerCount::Count(it.count))
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
        let two = "web::127.0.0.1:80\nweb::[::1]:81\nother::127.0.0.1:82\n";
        assert_eq!(read(two, &[]), ListenerCount::Count(3));
        assert_eq!(read(two, &[":81"]), ListenerCount::Count(1));
    }

    #[test]
    fn the_statistics_are_asked_where_unknown_words_may_be_all_that_counts() {
        let text = "web::127.0.0.1:80\nprobes::127.0.0.1:82\n";
        let in_doubt = |excluded: &[&str]| {
            let excluded = words(excluded);
            let listed = ListenersPage::read(text, &excluded).unwrap();
            listed.is_in_doubt(&excluded)
        };
        assert!(in_doubt(&["web", "prefix"]) && in_doubt(&["one", "other"]));
        for excluded in [&["prefix"][..], &["web"], &["web", ":82", "prefix"], &[]] {
            assert!(!in_doubt(excluded), "{excluded:?}");
        }
    }

    #[test]
    fn the_statistics_take_the_next_turn_and_a_silence_changes_nothing() {
        let now = Instant::now();
        let excluded = words(&["prefix"]);
        let listed = || ListenersPage::read("probes::127.0.0.1:82\n", &excluded);
        let nowhere = Address::Tcp("127.0.0.1:1".into());
        for (before, then) in [(Some(0), 0), (Some(2), 2), (None, 1)] {
            let told = before.map(|count| (ListenerCount::Count(count), now));
            let mut census = Census {
                owner: Some(7),
                told,
                was_last: true,
                doubt: listed(),
                ..Census::default()
            };
            assert!(census.takes_turn(Some(7), now));
            assert!(!census.ask(Peer::Anyone, &nowhere, &excluded, &|_| true));
            assert_eq!(census.told(), Some(ListenerCount::Count(then)));
            assert!(!census.takes_turn(Some(7), now), "readiness has the next");
            census.ask(Peer::Anyone, &nowhere, &excluded, &|_| true);
            assert_eq!(census.told(), Some(ListenerCount::Count(then)));
            assert_eq!(census.failed, 2);
        }
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
