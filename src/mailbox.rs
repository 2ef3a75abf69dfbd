//! The one channel to the main thread.
//!
//! Helper threads observe and report; the main thread decides. A report is a message on an
//! ordinary channel plus a wake-up, because the main thread waits in `poll` for signals (whose
//! handlers wake it in the same way) and for messages at once.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

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

/// Where helper threads put what they have to report to the main thread.
#[derive(Debug)]
pub struct Mailbox<T> {
    sender: Sender<T>,
    waker: Waker,
}

impl<T> Clone for Mailbox<T> {
    fn clone(&self) -> Self {
        Mailbox {
            sender: self.sender.clone(),
            waker: self.waker.clone(),
        }
    }
}

impl<T> Mailbox<T> {
    /// A mailbox that wakes its reader through `waker`.
    pub fn new(waker: Waker) -> (Mailbox<T>, Receiver<T>) {
        let (sender, receiver) = mpsc::channel();
        (Mailbox { sender, waker }, receiver)
    }

    /// Reports `message`. Never blocks; once the main thread is gone, nobody listens.
    pub fn send(&self, message: T) {
        let _ = self.sender.send(message);
        self.waker.wake();
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
        let (mailbox, messages) = Mailbox::new(waker);
        assert!(!woken(&wakeups));
        mailbox.send(7);
        assert!(woken(&wakeups));
        wakeups.clear();
        assert!(!woken(&wakeups));
        assert_eq!(messages.try_recv(), Ok(7));
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
