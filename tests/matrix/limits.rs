//! Too little of everything: descriptors, processes, memory.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::envoy::MemoryLimit;
use crate::support::drainit::{Drainit, Setting};
use crate::support::envoy_config::Admin;
use crate::support::fake_envoy::{self, SharedModel, child, shell};
use crate::support::http::Address;
use crate::support::scene;
use crate::support::{PATIENCE, TempDir, copy_program, drainit, holds_for, wait_for};

#[test]
fn sixty_four_descriptors_are_enough() {
    let (upstream, config) = scene::of(Admin::Unix);
    let health = (config.ip(), 8090).into();
    let mut drainit = Setting::default()
        .behind(&["prlimit", "--nofile=64", "--"])
        .health(health)
        .ready(&[], &config);
    // Strangers who connect and say nothing.
    let strangers: Vec<_> = (0..200)
        .map(|_| TcpStream::connect(health).unwrap())
        .collect();
    holds_for("the health checks", Duration::from_secs(1), || {
        ["/healthz", "/ready"]
            .iter()
            .all(|path| drainit.get(path).0 == 200)
    });
    scene::a_request_is_waited_for(&mut drainit, &config, &upstream);
    drop(strangers);
}

/// A user that nobody else is, in whose name at most this many threads may be.
fn crowded(user: u32, threads: u32) -> Vec<String> {
    let (threads, user) = (format!("--nproc={threads}"), user.to_string());
    [
        "prlimit",
        &threads,
        "setpriv",
        "--reuid",
        &user,
        "--regid",
        &user,
        "--clear-groups",
        "--",
    ]
    .map(str::to_owned)
    .into()
}

/// Changes that limit. The user itself does: a superuser without CAP_SYS_RESOURCE may not.
#[track_caller]
fn limit(process: Pid, user: u32, threads: u32) {
    let (user, pid) = (user.to_string(), process.to_string());
    let changed = Command::new("setpriv")
        .args([
            "--reuid",
            &user,
            "--regid",
            &user,
            "--clear-groups",
            "prlimit",
        ])
        .args(["--pid", &pid, &format!("--nproc={threads}:")])
        .status();
    assert!(changed.unwrap().success());
}

fn unused_user(salt: u32) -> u32 {
    100_000 + std::process::id() % 100_000 * 4 + salt
}

/// A copy that everybody may run, wherever the project lies.
fn copy(program: impl AsRef<Path>, dir: &TempDir) -> PathBuf {
    let copy = dir.join("drainit");
    copy_program(program, &copy);
    copy
}

#[test]
fn where_no_thread_and_no_process_can_start_it_says_so_and_ends() {
    let dir = TempDir::new();
    let mut drainit = Setting::default()
        .program(copy(drainit(), &dir))
        .behind(&crowded(unused_user(0), 1))
        .start(&["--listen", "off"], &shell("exit 0"));
    assert_eq!(drainit.wait_exit(PATIENCE), 126);
    drainit.wait_log("thread admin cannot be started");
    drainit.wait_log("sh: cannot be executed: Resource temporarily unavailable");
    drainit.wait_log("exit code 126");
}

/// A directory of a user's that nobody else is, and the file in it that names a thread to panic.
fn place_to_panic(salt: u32) -> (TempDir, u32, PathBuf) {
    let (dir, user) = (TempDir::new(), unused_user(salt));
    std::os::unix::fs::chown(dir.path(), Some(user), Some(user)).unwrap();
    let panic = dir.join("panic");
    (dir, user, panic)
}

#[test]
fn helpers_that_cannot_be_started_again_are_tried_until_they_can() {
    let (dir, user, panic) = place_to_panic(1);
    let admin = SharedModel::default().admin();
    let Address::Unix(socket) = &admin.address else {
        unreachable!()
    };
    for path in [socket.as_path(), socket.parent().unwrap()] {
        std::os::unix::fs::chown(path, Some(user), Some(user)).unwrap();
    }
    let options = [
        "--envoy-flags",
        "keep",
        "--drain-timeout",
        "5m",
        "--admin-address",
        &admin.address.text(),
    ];
    let loopback = crate::support::Loopback::claim();
    let mut drainit = Setting::default()
        .program(copy(env!("CARGO_BIN_EXE_drainit"), &dir))
        .behind(&crowded(user, 64))
        .variable("TEST_DRAINIT_PANIC", panic.display())
        .health((loopback.ip, 8090).into())
        .start(&options, &child());
    drainit.wait_ready();
    let pid = drainit.pid();
    let limit = |threads| limit(pid, user, threads);
    limit(1);
    fs::write(&panic, "http").unwrap();
    let _ = drainit.request("GET", "/healthz", PATIENCE);
    drainit.wait_log("thread http panicked");
    drainit.wait_log("thread http cannot be started");
    assert!(drainit.request("GET", "/healthz", PATIENCE).is_err());
    // Envoy is none the worse for it, and a signal is heard.
    assert!(!drainit.has_exited());
    limit(64);
    drainit.wait_ready();
    drainit.signal(Signal::SIGTERM);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    drainit.wait_log("drained after");
}

#[test]
fn a_drain_ends_by_its_deadline_where_the_thread_that_asks_cannot_be_started_again() {
    let (dir, user, panic) = place_to_panic(2);
    let loopback = crate::support::Loopback::claim();
    let model = SharedModel::default();
    let admin = fake_envoy_on_tcp(&model);
    let text = admin.address.text();
    let options = [
        "--envoy-flags",
        "keep",
        "--drain-timeout",
        "3s",
        "--admin-address",
        &text,
    ];
    let mut drainit = Setting::default()
        .program(copy(env!("CARGO_BIN_EXE_drainit"), &dir))
        .behind(&crowded(user, 64))
        .variable("TEST_DRAINIT_PANIC", panic.display())
        .health((loopback.ip, 8090).into())
        .start(&options, &child());
    drainit.wait_ready();
    limit(drainit.pid(), user, 1);
    fs::write(&panic, "admin").unwrap();
    let bound = Duration::from_secs(3);
    crate::terminate_within(&mut drainit, bound, bound, 0);
    drainit.wait_log("thread admin cannot be started");
    drainit.wait_log("admin lost, after");
}

fn fake_envoy_on_tcp(model: &fake_envoy::SharedModel) -> crate::support::fake_admin::FakeAdmin {
    let model = model.clone();
    crate::support::fake_admin::FakeAdmin::tcp(move |call| model.answer(call))
}

#[test]
fn sixteen_megabytes_are_enough() {
    let limit = MemoryLimit::new("small", 16 << 20);
    let (upstream, config) = scene::of(Admin::Unix);
    let health = (config.ip(), 8090).into();
    // Envoy leaves it again before it begins.
    let leave = "for file in /sys/fs/cgroup/memory /sys/fs/cgroup; do \
                 [ ! -e $file/cgroup.procs ] || { echo $$ >$file/cgroup.procs; break; }; done; exec \"$@\"";
    let mut command = shell(leave);
    command.extend(["sh".into(), crate::support::envoy().display().to_string()]);
    command.extend(config.arguments());
    let mut drainit = Setting::default()
        .behind_script(&format!("{}; exec \"$@\"", limit.enter()))
        .health(health)
        .start(&[], &command);
    drainit.wait_ready();
    assert!(limit.holds(drainit.pid()) && !limit.holds(drainit.envoy_pid()));
    // As many connections as it takes, each with a head that does not end.
    let strangers: Vec<_> = (0..400)
        .map(|_| {
            let mut stranger = TcpStream::connect(health).unwrap();
            let head = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(7000));
            let _ = std::io::Write::write_all(&mut stranger, head.as_bytes());
            stranger
        })
        .collect();
    for path in ["/metrics", "/status", "/healthz", "/ready"] {
        for _ in 0..200 {
            assert_eq!(drainit.get(path).0, 200);
        }
    }
    drop(strangers);
    scene::a_request_is_waited_for(&mut drainit, &config, &upstream);
}

#[test]
fn orphans_by_the_thousand_leave_no_zombie() {
    let script = "i=0; while [ $i -lt 1000 ]; do (: & ) ; i=$((i+1)); done; exec sleep 1000";
    let mut drainit = Drainit::start(
        &["--listen", "off", "--envoy-flags", "keep"],
        &shell(script),
    );
    wait_for("the shell's end of work", PATIENCE * 2, || {
        let name = fs::read_to_string(format!("/proc/{}/comm", drainit.envoy_pid()));
        name.is_ok_and(|name| name == "sleep\n")
    });
    wait_for("no zombies", PATIENCE, || {
        zombies_of(drainit.pid().as_raw()) == 0
    });
    drainit.signal(Signal::SIGQUIT);
    assert_eq!(drainit.wait_exit(PATIENCE), 143);
}

fn zombies_of(parent: i32) -> usize {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    let children = children.unwrap_or_default();
    let is_zombie = |pid: &&str| {
        fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
    };
    children.split_whitespace().filter(is_zombie).count()
}
