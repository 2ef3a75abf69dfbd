//! Word of the end of connections, which the kernel gives.
//!
//! In a drain that is the end of one of the last connections, so that the drain need not wait for its
//! next poll by the clock. One word follows each look at most, and none while many connections
//! are left: a drain that many come and go in is polled by the clock.
//!
//! At rest nobody reads it: that there is none tells later that Envoy was not used. After some the
//! kernel is asked to be silent for a while, so that a busy Envoy costs a few system calls a
//! second at the most.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::load::QUIET;
use crate::connections::ends::{self, Ends};
use crate::mailbox::{Inbox, Wakeups};

/// How often Envoy is asked again at the most: it counts a connection less a moment after its
/// socket is gone.
const BEHIND: u8 = 3;
/// How long to wait before Envoy is asked again, in ms.
const BEHIND_PAUSE: u16 = 10;

/// What becomes of the kernel's word of an end after the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Word {
    /// Nobody wants the word.
    #[default]
    Unwanted,
    Wanted,
    /// The word was told, and may have come while something else was asked. So often it was told
    /// again because Envoy was behind.
    Told(u8),
    /// The word is to be told again after a pause.
    Behind(u8),
}

/// How long the kernel is silent after an end at rest: this at first, doubling up to [`PAUSE_LAST`]
/// while ends come.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_LAST: Duration = Duration::from_secs(2);

/// The time between two looks which listeners there are.
const DOORS_LAST: Duration = Duration::from_secs(10);

/// The memory of an Envoy at rest.
#[derive(Debug)]
struct Rest {
    pid: i32,
    /// The addresses of its listeners, and when they were looked at.
    doors: Vec<SocketAddr>,
    looked: Instant,
    /// Since when no connection has ended there; none while nobody watches.
    since: Option<Instant>,
    /// When to watch again.
    again: Option<Instant>,
    pause: Duration,
}

impl Rest {
    fn heard(&mut self, now: Instant) {
        let long = self
            .since
            .take()
            .is_some_and(|since| now - since >= PAUSE_LAST);
        self.pause = match long {
            true => PAUSE,
            false => (self.pause * 2).min(PAUSE_LAST),
        };
        self.again = Some(now + self.pause);
    }
}

/// Watches while jobs are waited for.
#[derive(Debug, Default)]
pub struct EndWatch {
    is_on: bool,
    ends: Option<(Ends, Vec<SocketAddr>)>,
    /// Whether the kernel is to tell how many connections come, since Envoy does not tell all.
    counts: bool,
    /// How many there were at the last look and have ended since, one after the other; none where
    /// not all listeners are watched.
    count: Option<(u64, u64)>,
    word: Word,
    rest: Option<Rest>,
}

impl EndWatch {
    /// Whether there is a drain that wants to know.
    pub fn set_on(&mut self, is_on: bool) {
        if self.is_on && !is_on {
            *self = EndWatch::default();
        }
        self.is_on = is_on;
    }

    /// Whether it is time to look which listeners the Envoy with this pid has.
    pub fn is_idle(&self, pid: i32) -> bool {
        let fresh = |rest: &Rest| rest.pid == pid && rest.looked.elapsed() < DOORS_LAST;
        !self.is_on && !self.rest.as_ref().is_some_and(fresh)
    }

    /// Has the kernel remember whether a connection ends at these addresses, from now on.
    pub fn rest(&mut self, pid: i32, mut doors: Vec<SocketAddr>) {
        doors.sort_unstable();
        doors.dedup();
        let looked = Instant::now();
        match &mut self.rest {
            Some(rest) if rest.doors == doors => (rest.pid, rest.looked) = (pid, looked),
            _ => {
                self.rest = Some(Rest {
                    pid,
                    doors,
                    looked,
                    since: None,
                    again: None,
                    pause: PAUSE,
                });
                self.watch_rest();
            }
        }
    }

    fn watch_rest(&mut self) {
        if let Some(rest) = &mut self.rest {
            self.ends = Ends::new(&rest.doors).map(|ends| (ends, rest.doors.clone()));
            rest.since = self.ends.as_ref().map(|_| Instant::now());
            rest.again = None;
        }
    }

    /// Whether no connection has ended for [`QUIET`] at any of these addresses.
    pub fn is_quiet(&self, doors: Option<&[SocketAddr]>) -> bool {
        let (Some(rest), Some(doors)) = (&self.rest, doors) else {
            return false;
        };
        let known = |door: &SocketAddr| rest.doors.binary_search(door).is_ok();
        rest.since.is_some_and(|since| since.elapsed() >= QUIET) && doors.iter().all(known)
    }

    /// A look begins, which shows whatever has ended before.
    pub fn begin(&mut self) {
        let ended = self.ends.as_ref().map_or(0, |(ends, _)| ends.drain());
        self.note(ended);
        if ended > 0 {
            self.hear();
        }
    }

    fn note(&mut self, ended: u64) {
        if let Some((_, before)) = &mut self.count {
            *before = before.saturating_add(ended);
        }
    }

    /// How many connections have come since the last look, by the kernel's word: there are so many
    /// now. None where it does not tell, or was not asked to.
    pub fn came(&mut self, open: u64) -> Option<u64> {
        let (before, ended) = self.count.take()?;
        Some(open.saturating_add(ended).saturating_sub(before))
    }

    /// Envoy does not tell of all that comes: from now on, until the drain is over, the kernel does.
    pub fn count(&mut self) {
        self.counts = true;
    }

    fn hear(&mut self) {
        if let Some(rest) = &mut self.rest {
            rest.heard(Instant::now());
            if !self.is_on {
                self.ends = None;
            }
        }
    }

    /// A look showed connections that may be the last ones, at these addresses; Envoy counted more
    /// of them than the kernel if it is `behind`. There were so many `sockets` at `all` addresses.
    pub fn aim(&mut self, last: &[SocketAddr], (all, sockets): (&[SocketAddr], u64), behind: bool) {
        if !self.is_on {
            return;
        }
        self.rest = None;
        let is_wanted = !last.is_empty();
        let counts = self.counts && all.len() <= ends::DOORS;
        let doors = if counts { all } else { last };
        match &mut self.ends {
            _ if doors.is_empty() => self.ends = None,
            Some((_, before)) if before == doors => {}
            Some((ends, before)) if ends.listen(doors).is_ok() => *before = doors.to_vec(),
            _ => self.ends = Ends::new(doors).map(|ends| (ends, doors.to_vec())),
        }
        self.count = self.ends.as_ref().filter(|_| counts).map(|_| (sockets, 0));
        self.word = match self.word {
            Word::Told(times) if behind && times < BEHIND => Word::Behind(times + 1),
            // The last one ended while Envoy was asked, which counted it still: no end is to come.
            Word::Wanted if behind && !is_wanted => Word::Behind(1),
            _ if is_wanted => Word::Wanted,
            _ => Word::Unwanted,
        };
    }

    /// The next job. Calls `tell` where a connection has ended since the last look.
    pub fn next<J>(&mut self, (jobs, wakeups): (&Inbox<J>, &Wakeups), tell: impl Fn()) -> J {
        if let Word::Told(_) = self.word {
            tell();
        }
        loop {
            wakeups.clear();
            let now = Instant::now();
            let again = self.rest.as_ref().filter(|_| !self.is_on);
            let again = again.and_then(|rest| rest.again);
            if again.is_some_and(|again| again <= now) {
                self.watch_rest();
                continue;
            }
            if let Some(job) = jobs.take() {
                return job;
            }
            let mut fds = vec![PollFd::new(wakeups.as_fd(), PollFlags::POLLIN)];
            let rest = self.rest.as_ref().filter(|_| !self.is_on);
            let remembers = rest.is_some_and(|rest| rest.since.is_some());
            let ends = match self.word {
                Word::Wanted | Word::Behind(_) => self.ends.as_ref(),
                Word::Unwanted | Word::Told(_) => self.ends.as_ref().filter(|_| remembers),
            };
            fds.extend(ends.map(|(ends, _)| PollFd::new(ends.as_fd(), PollFlags::POLLIN)));
            let timeout = match self.word {
                Word::Behind(_) => PollTimeout::from(BEHIND_PAUSE),
                // Rounded up: it would spin.
                _ => again.map_or(PollTimeout::NONE, |again| {
                    let left = again - now + Duration::from_millis(1);
                    PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
                }),
            };
            let is_over = poll(&mut fds, timeout) == Ok(0);
            let ended = ends.map_or(0, |(ends, _)| ends.drain());
            self.note(ended);
            let ended = ended > 0;
            if !self.is_on {
                if ended {
                    self.hear();
                }
                continue;
            }
            self.word = match self.word {
                Word::Behind(times) if is_over => Word::Told(times),
                _ if ended => Word::Told(0),
                _ => continue,
            };
            tell();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::mailbox::{Mailbox, Waker};

    const SOON: Duration = Duration::from_secs(20);

    /// Ends a connection at the listener.
    fn end(listener: &TcpListener) {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepted = listener.accept().unwrap();
        drop(client);
        drop(accepted);
    }

    /// Has a watch wait for the next job; `told` hears of each word, and says whether to send one.
    fn next(watch: &mut EndWatch, told: impl Fn(u32) -> bool + Sync, before: impl FnOnce()) -> u32 {
        let (waker, wakeups) = Waker::new().unwrap();
        let (mailbox, jobs) = Mailbox::new(Some(waker));
        let count = std::cell::Cell::new(0);
        before();
        watch.next((&jobs, &wakeups), || {
            count.set(count.get() + 1);
            if told(count.get()) {
                mailbox.send(());
            }
        });
        count.get()
    }

    #[test]
    fn an_end_is_told_once_for_each_look_and_again_after_a_job_that_was_none() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let doors = [listener.local_addr().unwrap()];
        let mut watch = EndWatch::default();
        watch.set_on(true);
        watch.begin();
        watch.aim(&doors, (&doors, 0), false);
        let once = |_| true;
        assert_eq!(next(&mut watch, once, || end(&listener)), 1);
        // Another job was asked meanwhile.
        assert_eq!(next(&mut watch, once, || end(&listener)), 1);
        watch.begin();
        watch.aim(&doors, (&doors, 0), false);
        assert_eq!(watch.word, Word::Wanted);
        watch.set_on(false);
        assert_eq!((watch.word, watch.ends.is_none()), (Word::Unwanted, true));
    }

    #[test]
    fn at_rest_only_an_end_at_one_of_the_ports_is_use_and_what_is_not_known_is_use_too() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let door = |of: &TcpListener| of.local_addr().unwrap();
        let long_ago = |watch: &mut EndWatch| {
            if let Some(rest) = &mut watch.rest {
                rest.since = rest.since.map(|since| since - QUIET);
            }
        };
        let mut watch = EndWatch::default();
        assert!(!watch.is_quiet(Some(&[])));
        watch.rest(1, vec![door(&listener)]);
        assert!(!watch.is_quiet(Some(&[door(&listener)])));
        long_ago(&mut watch);
        end(&other);
        watch.set_on(true);
        watch.begin();
        assert!(watch.is_quiet(Some(&[door(&listener)])));
        assert!(!watch.is_quiet(Some(&[door(&listener), door(&other)])));
        assert!(!watch.is_quiet(None));
        end(&listener);
        wait_for_end(&watch);
        watch.begin();
        assert!(!watch.is_quiet(Some(&[door(&listener)])));
    }

    fn wait_for_end(watch: &EndWatch) {
        let (ends, _) = watch.ends.as_ref().unwrap();
        let mut fds = [PollFd::new(ends.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::MAX), Ok(1));
    }

    #[test]
    fn after_an_end_at_rest_the_kernel_is_silent_for_a_while() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut watch = EndWatch::default();
        watch.rest(1, vec![listener.local_addr().unwrap()]);
        assert!(watch.ends.is_some());
        end(&listener);
        wait_for_end(&watch);
        watch.begin();
        assert!(watch.ends.is_none());
        let (_, wakeups) = Waker::new().unwrap();
        let (mailbox, jobs) = Mailbox::new(None);
        mailbox.send(());
        watch.rest.as_mut().unwrap().again = Some(Instant::now());
        watch.next((&jobs, &wakeups), || panic!("no drain"));
        assert!(watch.ends.is_some());
    }

    #[test]
    fn who_came_and_went_between_two_looks_is_counted_where_that_was_asked_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let doors = [listener.local_addr().unwrap()];
        let mut watch = EndWatch::default();
        watch.set_on(true);
        watch.aim(&[], (&doors, 1), false);
        assert_eq!(watch.came(1), None);
        watch.count();
        watch.aim(&[], (&doors, 1), false);
        for _ in 0..3 {
            end(&listener);
        }
        while watch.count != Some((1, 3)) {
            wait_for_end(&watch);
            watch.begin();
        }
        assert_eq!(watch.came(0), Some(2));
        watch.aim(&[], (&doors, 1), false);
        assert_eq!((watch.came(3), watch.came(3)), (Some(2), None));
    }

    #[test]
    fn an_envoy_that_is_behind_is_asked_again_and_not_for_ever() {
        // The end was told; or it came during a look.
        for word in [Word::Told(0), Word::Wanted] {
            let (sender, told) = mpsc::channel();
            let mut watch = EndWatch {
                is_on: true,
                word,
                ..EndWatch::default()
            };
            std::thread::spawn(move || {
                let mut all = 0;
                while watch.word != Word::Unwanted {
                    watch.aim(&[], (&[], 0), true);
                    if watch.word != Word::Unwanted {
                        all += next(&mut watch, |_| true, || {});
                    }
                }
                sender.send(all).unwrap();
            });
            assert_eq!(told.recv_timeout(SOON), Ok(u32::from(BEHIND)), "{word:?}");
        }
    }
}
