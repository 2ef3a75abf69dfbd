//! How threads talk to each other: by messages, which a [`Mailbox`] takes and an [`Inbox`] gives.
//!
//! Helper threads observe and report; the main thread decides. It waits in `poll`, for signals
//! (whose handlers use the same [`Waker`]) and for messages at once.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};

/// A waker: what it wakes polls the [`Wakeups`] that belong to it.
#[derive(Clone, Debug)]
pub struct Waker(Arc<EventFd>);

impl Waker {
    /// A waker and what to poll.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn new() -> nix::Result<(Waker, Wakeups)> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let count = Arc::new(EventFd::from_flags(flags)?);
        Ok((Waker(count.clone()), Wakeups(count)))
    }

    /// Wakes whoever polls. A signal handler may do so too: it is one system call.
    pub fn wake(&self) {
        // A count that is full means that a wake-up is pending already.
        let _ = self.0.write(1);
    }
}

/// The end of a [`Waker`] that is polled: readable from a wake-up until it is cleared.
#[derive(Debug)]
pub struct Wakeups(Arc<EventFd>);

impl Wakeups {
    /// Forgets all wake-ups so far. Look for work *after* this, never before.
    pub fn clear(&self) {
        let _ = self.0.read();
    }
}

impl AsFd for Wakeups {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Where messages to another thread are put.
#[derive(Debug)]
pub struct Mailbox<T> {
    queue: Arc<Queue<T>>,
    waker: Option<Waker>,
}

/// Where messages from other threads are taken from.
#[derive(Debug)]
pub struct Inbox<T>(Arc<Queue<T>>);

#[derive(Debug)]
struct Queue<T> {
    messages: Mutex<VecDeque<T>>,
    came: Condvar,
}

impl<T> Mailbox<T> {
    /// A mailbox whose reader waits in [`Inbox::wait`], or polls what `waker` wakes.
    pub fn new(waker: Option<Waker>) -> (Mailbox<T>, Inbox<T>) {
        let queue = Arc::new(Queue {
            messages: Mutex::new(VecDeque::new()),
            came: Condvar::new(),
        });
        let inbox = Inbox(queue.clone());
        (Mailbox { queue, waker }, inbox)
    }

    /// Sends `message`. Never blocks; once the reader is gone, nobody listens.
    pub fn send(&self, message: T) {
        self.queue.lock().push_back(message);
        self.queue.came.notify_one();
        if let Some(waker) = &self.waker {
            waker.wake();
        }
    }

    /// How many messages are still to be taken.
    pub fn pending(&self) -> usize {
        self.queue.lock().len()
    }
}

impl<T> Clone for Mailbox<T> {
    fn clone(&self) -> Self {
        Mailbox {
            queue: self.queue.clone(),
            waker: self.waker.clone(),
        }
    }
}

impl<T> Inbox<T> {
    /// The oldest message.
    pub fn take(&self) -> Option<T> {
        self.0.lock().pop_front()
    }

    /// The oldest message; waits for one, however long.
    pub fn next(&self) -> T {
        loop {
            if let Some(message) = self.wait(Duration::MAX) {
                return message;
            }
        }
    }

    /// The oldest message; waits for one, `limit` at the most.
    pub fn wait(&self, limit: Duration) -> Option<T> {
        let messages = self.0.lock();
        let (mut messages, _) = self
            .0
            .came
            .wait_timeout_while(messages, limit, |messages| messages.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        messages.pop_front()
    }
}

impl<T> Queue<T> {
    fn lock(&self) -> MutexGuard<'_, VecDeque<T>> {
        // Nobody panics while it is held.
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    fn woken(wakeups: &Wakeups) -> bool {
        let mut fds = [PollFd::new(wakeups.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).unwrap() == 1
    }

    #[test]
    fn a_message_wakes_the_reader_once_and_is_there() {
        let (waker, wakeups) = Waker::new().unwrap();
        let (mailbox, messages) = Mailbox::new(Some(waker));
        assert!(!woken(&wakeups));
        mailbox.send(7);
        assert!(woken(&wakeups));
        wakeups.clear();
        assert!(!woken(&wakeups));
        assert_eq!(messages.take(), Some(7));
        assert_eq!(messages.take(), None);
    }

    #[test]
    fn messages_keep_their_order_and_who_waits_for_one_gets_it() {
        let (mailbox, messages) = Mailbox::new(None);
        let sender = std::thread::spawn(move || (0..1000).for_each(|n| mailbox.send(n)));
        for n in 0..1000 {
            assert_eq!(messages.wait(Duration::from_secs(10)), Some(n));
        }
        sender.join().unwrap();
        assert_eq!(messages.wait(Duration::from_millis(1)), None);
    }

    #[test]
    fn a_million_unread_wakeups_never_block_the_sender() {
        let (waker, wakeups) = Waker::new().unwrap();
        for _ in 0..1_000_000 {
            waker.wake();
        }
        wakeups.clear();
        assert!(!woken(&wakeups));
    }
}
