//! The signals that come, and what the kernel does at each.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use nix::libc::{self, c_int};
use nix::sys::signal::{
    SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask,
};
use signal_hook::low_level;

use crate::mailbox::{Waker, Wakeups};

/// The signals that mean something to drainit.
const HANDLED: [c_int; 7] = [
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGCHLD,
    libc::SIGHUP,
    libc::SIGUSR1,
    libc::SIGUSR2,
];

/// Signals by which a terminal would stop us for a line of the log, when we are a job in the
/// background.
const IGNORED: [Signal; 2] = [Signal::SIGTTIN, Signal::SIGTTOU];

/// Signals that mean nothing to drainit, and whose default would end it or say nothing.
const HARMLESS: [c_int; 10] = [
    libc::SIGALRM,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGIO,
    libc::SIGPWR,
    libc::SIGSTKFLT,
    libc::SIGXCPU,
    libc::SIGXFSZ,
    libc::SIGWINCH,
    libc::SIGURG,
];

/// The signals that came, caught by handlers that set a flag and wake the main thread.
///
/// They are handled, not blocked: since Rust 1.66 a child inherits the mask (rust issue 101077),
/// and an Envoy that does would never see a signal. Handlers become defaults at exec.
#[derive(Debug)]
pub struct Signals {
    /// A bit for each, as the kernel has them: the lowest is signal 1.
    came: Arc<AtomicU64>,
    waker: Waker,
    wakeups: Wakeups,
}

impl Signals {
    /// Installs the handlers: the first thing in `main`, because a pid 1 silently drops what comes
    /// before them. Then clears what was inherited: blocked signals, and ignored ones.
    ///
    /// Also gives the waker that wakes the same reader as a signal does.
    ///
    /// # Errors
    /// When the process is out of descriptors or memory.
    pub fn install() -> io::Result<(Signals, Waker)> {
        let (waker, wakeups) = Waker::new()?;
        let signals = Signals {
            came: Arc::default(),
            waker: waker.clone(),
            wakeups,
        };
        for signal in HANDLED {
            signals.handle(signal)?;
        }
        // An inherited mask would keep every signal from us, SIGCHLD above all.
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
        survive_others();
        for signal in (1..FIRST_REAL_TIME).filter(|signal| *signal != libc::SIGPIPE) {
            undo_ignored(signal);
        }
        for signal in IGNORED {
            set_disposition(signal as c_int, libc::SIG_IGN);
        }
        Ok((signals, waker))
    }

    fn handle(&self, signal: c_int) -> io::Result<()> {
        let (came, waker) = (self.came.clone(), self.waker.clone());
        let note = move || {
            came.fetch_or(bit(signal), Ordering::SeqCst);
            waker.wake();
        };
        // SAFETY: an atomic operation and a write are what a handler may do.
        unsafe { low_level::register(signal, note) }?;
        Ok(())
    }

    /// The signals since the last call; those that are not taken from the batch come with the next
    /// one. Forgets all wake-ups so far: look for other work after this, never before.
    pub fn take(&self) -> Batch {
        self.wakeups.clear();
        let rest = self.came.swap(0, Ordering::SeqCst) | OTHERS.swap(0, Ordering::SeqCst);
        let came = self.came.clone();
        Batch { rest, came }
    }

    /// Gives every signal its default meaning back, for a command that is no supervisor.
    pub fn release(self) {
        for signal in HANDLED {
            set_disposition(signal, libc::SIG_DFL);
        }
        for signal in survived().chain(IGNORED.map(|signal| signal as c_int)) {
            set_action(signal, &DEFAULT);
        }
        // What came meanwhile counts.
        for signal in self.take() {
            let _ = low_level::emulate_default_handler(signal);
        }
    }
}

/// Signals that came, the lowest first.
#[derive(Debug)]
pub struct Batch {
    rest: u64,
    came: Arc<AtomicU64>,
}

impl Iterator for Batch {
    type Item = c_int;

    fn next(&mut self) -> Option<c_int> {
        let lowest = (self.rest != 0).then(|| self.rest.trailing_zeros())?;
        self.rest &= self.rest - 1;
        c_int::try_from(lowest + 1).ok()
    }
}

impl Drop for Batch {
    /// A panic over one signal costs none of the others.
    fn drop(&mut self) {
        self.came.fetch_or(self.rest, Ordering::SeqCst);
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wakeups.as_fd()
    }
}

pub(super) fn bit(signal: c_int) -> u64 {
    1 << (signal - 1)
}

fn survived() -> impl Iterator<Item = c_int> {
    HARMLESS
        .into_iter()
        .chain(FIRST_REAL_TIME..=libc::SIGRTMAX())
}

/// Which of [`HARMLESS`] came. Nobody is woken for them: the main thread's `poll` is interrupted.
static OTHERS: AtomicU64 = AtomicU64::new(0);

extern "C" fn note_other(signal: c_int) {
    OTHERS.fetch_or(bit(signal), Ordering::SeqCst);
}

/// Installs one handler for all that mean nothing, past libc and signal-hook: libc keeps some to
/// itself (in musl 32 to 34, of which others call the last SIGRTMIN), and either takes time for
/// each of so many, at the start and again for every child.
fn survive_others() {
    let handler = SigHandler::Handler(note_other);
    let handler = SigAction::new(handler, SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: an atomic operation is what a handler may do.
    if unsafe { sigaction(Signal::SIGWINCH, &handler) }.is_ok() {
        let handler = action(libc::SIGWINCH);
        survived().for_each(|signal| set_action(signal, &handler));
    }
}

/// Gives a signal that is ignored its default back: an ignored one stays so in every child.
fn undo_ignored(signal: c_int) {
    if action(signal)[0] == libc::SIG_IGN as libc::c_ulong {
        set_action(signal, &DEFAULT);
    }
}

/// The kernel's first real-time signal (signal(7)).
const FIRST_REAL_TIME: c_int = 32;

/// The kernel's last real-time signal.
const LAST: c_int = 64;

/// The kernel's own sigaction: handler, flags, restorer, mask.
type KernelAction = [libc::c_ulong; 4];

const DEFAULT: KernelAction = [0; 4];

/// The kernel's sigset has 64 bits.
const SIGSET: usize = 8;

/// What the kernel does at a signal.
fn action(signal: c_int) -> KernelAction {
    let mut action = DEFAULT;
    let none = std::ptr::null::<KernelAction>();
    // SAFETY: the kernel writes no more than a sigaction, which is four words.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            signal,
            none,
            &raw mut action,
            SIGSET,
        );
    }
    action
}

/// Has the kernel do the default, or what it does at another signal already.
fn set_action(signal: c_int, action: &KernelAction) {
    let none = std::ptr::null_mut::<KernelAction>();
    // SAFETY: the kernel reads four words. The default runs no code, and what another signal has
    // was set by libc.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            signal,
            std::ptr::from_ref(action),
            none,
            SIGSET,
        );
    }
}

/// Gives every signal its default back, in a child that is about to exec: what is handled becomes
/// the default then anyway, but what is ignored (by Rust's runtime SIGPIPE) stays so. One system
/// call each, and nothing else.
pub(super) fn reset_all() {
    for signal in 1..=LAST {
        set_action(signal, &DEFAULT);
    }
}

fn set_disposition(signal: c_int, disposition: libc::sighandler_t) {
    // SAFETY: default and ignore run no code of ours. nix's `signal` knows no real-time signals.
    unsafe {
        libc::signal(signal, disposition);
    }
}

/// Starts a thread that no signal is delivered to, with a stack of `stack` bytes.
///
/// # Errors
/// There is no room for another thread: `work` is dropped.
pub fn start_thread(name: &str, stack: usize, work: Box<dyn FnOnce() + Send>) -> io::Result<()> {
    let thread = thread::Builder::new().name(name.into()).stack_size(stack);
    without_signals(|| thread.spawn(work)).map(drop)
}

/// Starts a thread that no signal is delivered to: `start` is what does so.
///
/// Signals that come at once have their handlers' frames on one stack, a few KB each, and there
/// are 64: too many for a helper's. The main thread takes them, and only for this moment late.
pub fn without_signals<T>(start: impl FnOnce() -> T) -> T {
    let mut before = SigSet::empty();
    let all = SigSet::all();
    let blocked = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&all), Some(&mut before)).is_ok();
    let started = start();
    if blocked {
        // The mask was ours a moment ago, so that it can be set.
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
    }
    started
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn a_panic_over_a_signal_costs_no_other() {
        let came: Arc<AtomicU64> = Arc::default();
        let all = [libc::SIGHUP, libc::SIGTERM, libc::SIGCHLD, LAST];
        came.fetch_or(all.into_iter().map(bit).sum(), Ordering::SeqCst);
        let take = || Batch {
            rest: came.swap(0, Ordering::SeqCst),
            came: came.clone(),
        };
        let over = catch_unwind(AssertUnwindSafe(|| {
            let first = take().next();
            assert_eq!(first, Some(libc::SIGHUP));
            for signal in take() {
                assert_ne!(signal, libc::SIGTERM, "a panic");
            }
        }));
        assert!(over.is_err());
        assert_eq!(take().collect::<Vec<_>>(), all[2..]);
        assert_eq!(take().next(), None);
    }
}
