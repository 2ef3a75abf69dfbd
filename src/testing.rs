//! What the unit tests of several files begin with.

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::drain::{Limits, Loss, Outcome};
use crate::envoy::load::{ListenerLoad, Load};
use crate::status::{DrainEnd, DrainStatus};

/// A duration of so many milliseconds.
pub const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A duration of so many seconds.
pub const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// What a file in `tests/data` holds.
pub fn data(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The limits of a drain that waits for no new connections and has 25 s.
pub const LIMITS: Limits = Limits {
    timeout: s(25),
    settle: s(5),
    check_interval: ms(250),
    ..Limits::BLANK
};

/// A drain by SIGTERM, of 25 s at the most, that found `first`.
pub fn drain(first: Option<Load>, started: Instant) -> DrainStatus {
    DrainStatus {
        cause: "SIGTERM".into(),
        started,
        deadline: started + s(25),
        stops: true,
        health_failed: None,
        listeners_draining: None,
        last_connection: None,
        came: None,
        lost: Loss::None,
        first,
        ended: None,
    }
}

/// The end of a drain, `over`.
pub fn drain_end(at: Instant, outcome: Outcome, is_cut: bool) -> DrainEnd {
    DrainEnd {
        at,
        outcome,
        is_cut,
        verdict: "over".into(),
    }
}

/// A listener of this name that has so many connections.
pub fn listener(name: impl Into<String>, connections: u64) -> ListenerLoad {
    ListenerLoad {
        name: name.into(),
        address: None,
        connections,
        excluded: false,
    }
}

/// A load of so many connections on the listener `https`, with a request on each.
pub fn load(connections: u64) -> Load {
    Load {
        listeners: vec![listener("https", connections)],
        requests: connections,
        ..Load::default()
    }
}

/// A directory of a test's own, removed with it.
#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new() -> TempDir {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("drainit-unit-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        TempDir(path)
    }
}

impl Deref for TempDir {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A child that sleeps until its test is over, however that ends.
#[derive(Debug)]
pub struct Sleeper(Child);

impl Sleeper {
    pub fn start() -> Sleeper {
        Sleeper(Command::new("sleep").arg("1000").spawn().unwrap())
    }

    pub fn pid(&self) -> i32 {
        self.0.id().try_into().unwrap()
    }
}

impl Deref for Sleeper {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Sleeper {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
