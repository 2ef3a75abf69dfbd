//! Word of the end of one of the last connections, so that a drain need not wait for its next poll by
//! the clock.
//!
//! One word follows each look at most, and none while many connections are left: a drain that
//! many come and go in is polled by the clock.

use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::connections::ends::Ends;
use crate::mailbox::{Inbox, Wakeups};

/// Envoy counts a connection less a moment after its socket is gone: it is asked again so often,
const BEHIND: u8 = 3;
/// and after this pause, in ms.
const BEHIND_PAUSE: u16 = 10;

/// Of an end after the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Word {
    /// Nobody wants it.
    #[default]
    Unwanted,
    Wanted,
    /// It was told, and may have come while something else was asked. So often it was told again
    /// because Envoy was behind.
    Told(u8),
    /// It is to be told again after a pause.
    Behind(u8),
}

/// Watches while jobs are waited for.
#[derive(Debug, Default)]
pub struct Watch {
    is_on: bool,
    ends: Option<(Ends, Vec<u16>)>,
    word: Word,
}

impl Watch {
    /// Whether there is a drain that wants to know.
    pub fn set_on(&mut self, is_on: bool) {
        self.is_on = is_on;
        if !is_on {
            *self = Watch::default();
        }
    }

    /// A look begins, which shows whatever has ended before.
    pub fn begin(&self) {
        if let Some((ends, _)) = &self.ends {
            ends.drain();
        }
    }

    /// It showed connections that may be the last ones, at these ports; Envoy counted more of them
    /// than the kernel if it is `behind`.
    pub fn aim(&mut self, ports: &[u16], behind: bool) {
        let is_wanted = self.is_on && !ports.is_empty();
        match &mut self.ends {
            _ if !is_wanted => self.ends = None,
            Some((_, before)) if before == ports => {}
            Some((ends, before)) if ends.listen(ports).is_ok() => *before = ports.to_vec(),
            _ => self.ends = Ends::new(ports).map(|ends| (ends, ports.to_vec())),
        }
        self.word = match self.word {
            Word::Told(times) if behind && times < BEHIND => Word::Behind(times + 1),
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
            if let Some(job) = jobs.take() {
                return job;
            }
            let mut fds = vec![PollFd::new(wakeups.as_fd(), PollFlags::POLLIN)];
            let ends = match self.word {
                Word::Wanted | Word::Behind(_) => self.ends.as_ref(),
                Word::Unwanted | Word::Told(_) => None,
            };
            fds.extend(ends.map(|(ends, _)| PollFd::new(ends.as_fd(), PollFlags::POLLIN)));
            let timeout = match self.word {
                Word::Behind(_) => PollTimeout::from(BEHIND_PAUSE),
                _ => PollTimeout::NONE,
            };
            let is_over = poll(&mut fds, timeout) == Ok(0);
            let ended = ends.is_some_and(|(ends, _)| ends.drain());
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
    fn next(watch: &mut Watch, told: impl Fn(u32) -> bool + Sync, before: impl FnOnce()) -> u32 {
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
        let ports = [listener.local_addr().unwrap().port()];
        let mut watch = Watch::default();
        watch.set_on(true);
        watch.begin();
        watch.aim(&ports, false);
        let once = |_| true;
        assert_eq!(next(&mut watch, once, || end(&listener)), 1);
        // Another job was asked meanwhile.
        assert_eq!(next(&mut watch, once, || end(&listener)), 1);
        watch.begin();
        watch.aim(&ports, false);
        assert_eq!(watch.word, Word::Wanted);
        watch.set_on(false);
        assert_eq!((watch.word, watch.ends.is_none()), (Word::Unwanted, true));
    }

    #[test]
    fn an_envoy_that_is_behind_is_asked_again_and_not_for_ever() {
        let (sender, told) = mpsc::channel();
        let mut watch = Watch {
            is_on: true,
            ends: None,
            word: Word::Told(0),
        };
        std::thread::spawn(move || {
            let mut all = 0;
            while watch.word != Word::Unwanted {
                watch.aim(&[], true);
                if watch.word != Word::Unwanted {
                    all += next(&mut watch, |_| true, || {});
                }
            }
            sender.send(all).unwrap();
        });
        assert_eq!(told.recv_timeout(SOON), Ok(u32::from(BEHIND)));
    }
}
