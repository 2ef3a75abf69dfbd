//! Which file a thread is at, for another thread to see: a thread that hangs in the kernel cannot
//! tell that itself.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The file that a thread is at, if it is at one. Its copies show the same.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<Mutex<Busy>>);

#[derive(Debug, Default)]
struct Busy {
    since: Option<Instant>,
    path: PathBuf,
}

impl Pulse {
    /// Does `act`, which looks at `path`, and shows that meanwhile.
    pub fn during<T>(&self, path: &Path, act: impl FnOnce() -> T) -> T {
        {
            let mut busy = self.lock();
            // Once a second for ever: into the same memory.
            busy.path.as_mut_os_string().clear();
            busy.path.as_mut_os_string().push(path);
            busy.since = Some(Instant::now());
        }
        let _over = EndOnDrop(self);
        act()
    }

    /// Since when the thread is at which file, if it is at one.
    pub fn busy(&self) -> Option<(Instant, PathBuf)> {
        let busy = self.lock();
        Some((busy.since?, busy.path.clone()))
    }

    fn lock(&self) -> MutexGuard<'_, Busy> {
        // Nobody panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Shows that the thread is done with its file, also in a panic.
struct EndOnDrop<'a>(&'a Pulse);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.lock().since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_see_what_a_thread_is_at_and_that_it_is_over() {
        let pulse = Pulse::default();
        let other = pulse.clone();
        assert!(other.busy().is_none());
        let seen = pulse.during(Path::new("/a/b"), || other.busy());
        assert_eq!(seen.unwrap().1, Path::new("/a/b"));
        assert!(other.busy().is_none());
    }
}
