//! How threads talk to each other: by messages, which a [`Mailbox`] takes and an [`Inbox`] gives.
//!
//! Helper threads observe and report; the main thread decides. It waits in `poll`, for signals
//! (whose handlers use the same [`Waker`]) and for messages at once.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};

/// An empty mailbox keeps the memory of so many messages at the most.
const KEPT: usize = 64;

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
        self.put(|messages| messages.push_back(message));
    }

    /// Sends `message` in place of those that it `replaces`, of those still to be taken: however long
    /// a reader hangs, these do not grow in number.
    pub fn send_instead(&self, message: T, replaces: impl Fn(&T, &T) -> bool) {
        self.put(|messages| {
            messages.retain(|before| !replaces(&message, before));
            messages.push_back(message);
        });
    }

    fn put(&self, change: impl FnOnce(&mut VecDeque<T>)) {
        change(&mut self.queue.lock());
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
        pop(&mut self.0.lock())
    }

    /// Whether no message is still to be taken.
    pub fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
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
        pop(&mut messages)
    }
}

/// The oldest of these messages. The memory of many is given back with the last.
fn pop<T>(messages: &mut VecDeque<T>) -> Option<T> {
    let oldest = messages.pop_front();
    if messages.is_empty() && messages.capacity() > KEPT {
        *messages = VecDeque::new();
    }
    oldest
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
    fn of_messages_that_replace_each_other_one_waits_and_the_memory_of_many_is_given_back() {
        let (mailbox, messages) = Mailbox::new(None);
        mailbox.send((0, 'a'));
        (1..=100_000).for_each(|n| mailbox.send_instead((n, 'b'), |_, before| before.1 == 'b'));
        assert_eq!(mailbox.pending(), 2);
        let all = [messages.take(), messages.take(), messages.take()];
        assert_eq!(all, [Some((0, 'a')), Some((100_000, 'b')), None]);
        (0..100_000).for_each(|n| mailbox.send((n, 'a')));
        while messages.wait(Duration::ZERO).is_some() {}
        assert!(mailbox.queue.lock().capacity() <= KEPT);
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
