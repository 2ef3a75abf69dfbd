//! The rig of the end-to-end tests: a real Envoy or a scripted one under the real `drainit`, an
//! upstream behind it, clients before it.
//!
//! Nothing here sleeps for a fixed time to let something happen: [`wait_for`] waits for the thing.
//! Nothing outlives its test: see [`process`].

// Each test program uses a part of it.
#![allow(dead_code)]

pub mod access_logs;
pub mod clients;
pub mod container;
pub mod drainit;
pub mod envoy_config;
pub mod fake_admin;
pub mod fake_envoy;
pub mod grpc;
pub mod http;
pub mod http2;
pub mod kubelet;
pub mod load;
pub mod manifest;
pub mod pki;
pub mod process;
pub mod scene;
pub mod upstream;
pub mod watch;
pub mod xds;

use std::env;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process as std_process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Long enough for anything that is going to happen on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `condition` holds, and panics with `what` when it does not within `timeout`.
#[track_caller]
pub fn wait_for(what: &str, timeout: Duration, mut condition: impl FnMut() -> bool) {
    wait_for_some(what, timeout, || condition().then_some(()));
}

/// Checks that `condition` holds all through this time: for what must not happen, for which one
/// cannot wait.
#[track_caller]
pub fn holds_for(what: &str, time: Duration, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while start.elapsed() < time {
        assert!(condition(), "{what}: no more after {:?}", start.elapsed());
        thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until `look` finds something.
#[track_caller]
pub fn wait_for_some<T>(what: &str, timeout: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            start.elapsed() < timeout,
            "waited {timeout:?} in vain for {what}"
        );
        thread::sleep(Duration::from_millis(5));
    }
}

/// Copies a program, to be run. Not in this process: a child that another test starts meanwhile
/// would hold the copy open for writing until it has execed, and nobody could run it.
#[track_caller]
pub fn copy_program(program: impl AsRef<Path>, to: impl AsRef<Path>) {
    let mut command = std_process::Command::new("cp");
    command.arg(program.as_ref()).arg(to.as_ref());
    assert!(command.status().unwrap().success());
}

/// The program under test: the static one that ships, not cargo's.
pub fn drainit() -> PathBuf {
    let path = env::var_os("TEST_DRAINIT").map_or_else(
        || {
            let target = format!("target/{}-unknown-linux-musl", env::consts::ARCH);
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join(target)
                .join("release/drainit")
        },
        PathBuf::from,
    );
    assert!(
        path.is_file(),
        "{} is missing: run scripts/build",
        path.display()
    );
    path
}

/// The real Envoy.
pub fn envoy() -> PathBuf {
    envoy_at("TEST_ENVOY", "target/envoy/1.40.0/envoy")
}

/// A program in a test's directory, for another user, who may not enter the project's.
pub fn program_in(dir: &TempDir, program: &Path) -> PathBuf {
    let path = dir.path().join(program.file_name().unwrap());
    std::fs::hard_link(program, &path)
        .or_else(|_| std::fs::copy(program, &path).map(drop))
        .unwrap();
    path
}

/// A real Envoy of another minor version.
pub fn other_envoy() -> PathBuf {
    envoy_at("TEST_OTHER_ENVOY", "target/envoy/1.36.4/envoy")
}

/// Which version an Envoy says that it is: `1.40.0`.
pub fn version(envoy: &Path) -> String {
    let output = std_process::Command::new(envoy).arg("--version").output();
    let said = String::from_utf8(output.unwrap().stdout).unwrap();
    let after = said.split("version: ").nth(1);
    let version = after.and_then(|after| after.split('/').nth(1));
    version.unwrap_or_else(|| panic!("{said}")).to_owned()
}

/// The minor version of an Envoy: 40 of 1.40.0.
pub fn minor(envoy: &Path) -> u32 {
    let version = version(envoy);
    let minor = version.split('.').nth(1).map(str::parse);
    minor.unwrap_or_else(|| panic!("{version}")).unwrap()
}

fn envoy_at(variable: &str, default: &str) -> PathBuf {
    let path = env::var_os(variable).map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join(default),
        PathBuf::from,
    );
    assert!(
        path.is_file(),
        "no Envoy at {}: scripts/test gets one, or set {variable}",
        path.display()
    );
    path
}

/// A directory of a test's own, removed with it.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new() -> TempDir {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Short: a unix socket's path has 107 bytes.
        let path = env::temp_dir().join(format!("drainit-{}-{number}", std_process::id()));
        std::fs::create_dir_all(&path).unwrap();
        TempDir(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An address of 127.0.0.0/8 that nobody else has while this lives, so that every port on it is
/// free: no port is taken between choosing and binding it, and Envoy's statistics carry real port
/// numbers (a listener on port 0 counts under `..._0`).
pub struct Loopback {
    pub ip: Ipv4Addr,
    // Whoever holds this port holds the address.
    _claim: TcpListener,
}

impl Loopback {
    const CLAIM: u16 = 9009;

    pub fn claim() -> Loopback {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let spread = std_process::id().wrapping_mul(2_654_435_761) >> 8;
        wait_for_some("a loopback address", PATIENCE, || {
            let number = spread.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
            let [_, b, c, d] = number.to_be_bytes();
            // Not 127.0.x.y, which is everybody's, and no .0 or .255.
            let ip = Ipv4Addr::new(127, b.max(1), c, d.clamp(1, 254));
            let _claim = TcpListener::bind((ip, Self::CLAIM)).ok()?;
            Some(Loopback { ip, _claim })
        })
    }
}
