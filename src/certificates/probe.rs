//! Whether a set's file system answers, found out by a thread of its own: it may hang there for
//! ever, and keeps no other set from being looked at.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::read::{self, Files};
use crate::pulse::Pulse;

/// How long a file system's answer is waited for at once. A disk's comes within 1 ms, NFS' within
/// some.
const AT_ONCE: Duration = Duration::from_millis(10);

/// The most threads that hang at the same time, and so directories that do: where there are more,
/// theirs are not looked at.
const MOST: usize = 16;

/// The stack of such a thread, in bytes: the thread is as shallow as the other ones.
const STACK: usize = 128 * 1024;

/// The threads that have not come back yet.
#[derive(Debug, Default)]
pub struct Probes(Vec<RunningProbe>);

#[derive(Debug)]
struct RunningProbe {
    since: Instant,
    paths: Vec<PathBuf>,
    at: Pulse,
    over: Arc<AtomicBool>,
}

impl Probes {
    /// Whether these files can be looked at, and with `whole` be read, without waiting for ever.
    ///
    /// # Errors
    /// When there was no answer so far: which file is waited for, and since when.
    pub fn answers(&mut self, files: &Files, whole: bool) -> Result<(), (PathBuf, Instant)> {
        self.0
            .retain(|running| !running.over.load(Ordering::Acquire));
        let paths: Vec<_> = files.each().map(|(_, path)| path.to_owned()).collect();
        let beside = |a: &PathBuf, b: &PathBuf| a.parent() == b.parent();
        let same = |running: &&RunningProbe| {
            let mut all = running.paths.iter();
            all.any(|one| paths.iter().any(|path| beside(one, path)))
        };
        let full = self.0.first().filter(|_| self.0.len() >= MOST);
        if let Some(running) = self.0.iter().find(same).or(full) {
            let path = running.at.busy().map(|(_, path)| path);
            return Err((path.unwrap_or_default(), running.since));
        }
        let running = RunningProbe {
            since: Instant::now(),
            paths: paths.clone(),
            at: Pulse::default(),
            over: Arc::default(),
        };
        let (at, over) = (running.at.clone(), running.over.clone());
        let asker = thread::current();
        let body = move || {
            for path in &paths {
                at.during(path, || look(path, whole));
            }
            over.store(true, Ordering::Release);
            asker.unpark();
        };
        let thread = thread::Builder::new()
            .name("probe".into())
            .stack_size(STACK);
        // Where there is no thread to be had, whoever asked may hang in its place, and is told of.
        if thread.spawn(body).is_err() {
            return Ok(());
        }
        loop {
            let left = AT_ONCE.saturating_sub(running.since.elapsed());
            if running.over.load(Ordering::Acquire) {
                return Ok(());
            }
            if left.is_zero() {
                break;
            }
            thread::park_timeout(left);
        }
        let path = running.at.busy().map(|(_, path)| path);
        let since = running.since;
        self.0.push(running);
        Err((path.unwrap_or_default(), since))
    }
}

fn look(path: &Path, whole: bool) {
    if whole {
        let _ = read::read_file(path);
    } else {
        let _ = std::fs::metadata(path);
    }
}
