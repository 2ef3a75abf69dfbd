//! The one channel to the main thread.
//!
//! Helper threads observe and report; the main thread decides. A report is a message on an
//! ordinary channel plus one byte on a socket, because the main thread waits in `poll` for
//! signals (which write to the same socket) and for messages at once.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, Sender};

/// A waker: one byte on a non-blocking socket whose other end somebody polls.
#[derive(Debug)]
pub struct Waker(UnixStream);

impl Waker {
    /// A waker and the end to poll.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn new() -> io::Result<(Waker, Wakeups)> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        Ok((Waker(ours), Wakeups(theirs)))
    }

    /// Wakes whoever polls the other end.
    pub fn wake(&self) {
        // A full socket means that a wake-up is pending already; a closed one, that nobody waits.
        let _ = (&self.0).write(&[1]);
    }

    /// A second handle on the same waker.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn try_clone(&self) -> io::Result<Waker> {
        self.0.try_clone().map(Waker)
    }

    /// The socket itself, for a signal handler to write to.
    pub fn into_socket(self) -> UnixStream {
        self.0
    }
}

/// The end of a [`Waker`] that is polled.
#[derive(Debug)]
pub struct Wakeups(UnixStream);

impl Wakeups {
    /// Forgets all wake-ups so far. Look for work *after* this, never before.
    pub fn clear(&self) {
        let mut bytes = [0; 64];
        while matches!((&self.0).read(&mut bytes), Ok(n) if n == bytes.len()) {}
    }

    /// The socket itself.
    pub fn into_socket(self) -> UnixStream {
        self.0
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
    waker: std::sync::Arc<Waker>,
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
        let waker = std::sync::Arc::new(waker);
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
