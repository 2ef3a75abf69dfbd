//! What other users and other pods of the machine can do to a hot restart.

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;

use crate::rig::{OPTIONS, Rig};
use crate::support::drainit::run_command;
use crate::support::envoy_config::Admin;
use crate::support::{self, drainit, holds_for, scene};

const NOBODY: libc::uid_t = 65_534;

/// Does this as another user: the kernel knows users by thread.
fn as_nobody<T: Send>(deed: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            // SAFETY: these calls touch no memory; past libc, which would change every thread.
            unsafe {
                assert_eq!(libc::syscall(libc::SYS_setgroups, 0, 0), 0);
                assert_eq!(
                    libc::syscall(libc::SYS_setresgid, NOBODY, NOBODY, NOBODY),
                    0
                );
                assert_eq!(
                    libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY),
                    0
                );
            }
            deed()
        });
        other.join().unwrap()
    })
}

/// The datagram sockets of hot restarts that the kernel shows to everybody, but for those of
/// other tests' Envoys.
fn sockets(base_id: &str) -> Vec<String> {
    let table = fs::read_to_string("/proc/net/unix").unwrap();
    let paths = table.lines().filter_map(|line| line.split(' ').next_back());
    let number = |path: &str| path.rsplit('_').next().map(str::to_owned);
    let ours = (0..3).map(|n| format!("{base_id}{n}")).collect::<Vec<_>>();
    paths
        .filter(|path| path.contains("_parent_") || path.contains("_child_"))
        .filter(|path| number(path).is_some_and(|number| ours.contains(&number)))
        .map(str::to_owned)
        .collect()
}

fn send(path: &str) -> std::io::Result<usize> {
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    let socket = UnixDatagram::unbound()?;
    // Eight bytes that tell a length of four, and four that are no message.
    socket.send_to_addr(b"\0\0\0\0\0\0\0\x04\xff\xff\xff\xff", &address)
}

#[test]
fn a_stranger_cannot_send_to_the_sockets_of_a_hot_restart() {
    let rig = Rig::start();
    let envoy = rig.newest();
    let memory = rig.memory().display().to_string();
    let base_id = memory
        .rsplit('_')
        .next()
        .unwrap()
        .strip_suffix('0')
        .unwrap();
    let paths = sockets(base_id);
    assert!(paths.len() >= 2, "{paths:?}");
    let sent = as_nobody(|| paths.iter().map(|path| send(path)).collect::<Vec<_>>());
    holds_for("envoy", Duration::from_millis(500), || {
        rig.newest() == envoy && Path::new(&format!("/proc/{envoy}")).exists()
    });
    assert!(sent.iter().all(Result::is_err), "{sent:?}");
    let dir = Path::new(&paths[0]).parent().unwrap();
    assert_eq!(fs::metadata(dir).unwrap().mode() & 0o7777, 0o700);
    // And it still does what it is for.
    rig.reload_well();
    rig.reload_well();
    let Rig { mut drainit, .. } = rig;
    drainit.signal(nix::sys::signal::Signal::SIGTERM);
    drainit.wait_exit(crate::support::PATIENCE);
    assert!(!dir.exists(), "{} is left behind", dir.display());
}

#[test]
fn names_that_others_have_taken_in_shared_memory_are_no_refusal() {
    // A pid 1 with a /dev/shm of its own, where somebody was first.
    let script = "mount -t tmpfs tmpfs /dev/shm
        for n in $(seq 1 9); do : >/dev/shm/drainit-$n; done
        exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--mount-proc"]);
    command.args(["sh", "-ec", script, "sh"]).arg(drainit());
    command.args([
        "--hot-restart",
        "--listen",
        "off",
        "--",
        "sh",
        "-c",
        "exit 7",
    ]);
    let (code, _, log) = run_command(&mut command);
    assert_eq!(code, 7, "{log}");
}

/// Where the operator says where the admin interface is, the old generation answers there at first;
/// an Envoy may be forbidden to tell its command line.
#[test]
fn the_old_generations_word_is_not_taken_for_the_next_ones() {
    const SLOW: Duration = Duration::from_secs(2);
    let allows = support::minor(&support::envoy()) >= 37;
    let kinds = [
        (Admin::Unix, false),
        (Admin::Tcp, false),
        (Admin::Unix, allows),
    ];
    thread::scope(|scope| {
        for (admin, is_forbidden) in kinds {
            scope.spawn(move || {
                let (upstream, config) = scene::of(admin);
                if is_forbidden {
                    config.replace(
                        "admin: {",
                        "admin: { allow_paths: [{ exact: /ready }, { prefix: /stats }, \
                         { prefix: /listeners }, { prefix: /drain_listeners }, \
                         { prefix: /healthcheck }],",
                    );
                }
                let address = config.admin.as_ref().unwrap().text();
                let mut options = Vec::from(OPTIONS);
                options.extend(["--admin-address", &address]);
                let rig = Rig::of(&options, config, upstream);
                // Nobody is there: it starts without a word of its control plane, after a while.
                rig.config.serve_grpc();
                rig.config.prepend(
                    "node: { id: edge, cluster: edge }\ndynamic_resources: { ads_config: { api_type: \
                     GRPC, transport_api_version: V3, grpc_services: [{ envoy_grpc: { cluster_name: \
                     grpc } }] }, cds_config: { ads: {}, resource_api_version: V3, \
                     initial_fetch_timeout: 2s } }\n",
                );
                let began = Instant::now();
                rig.reload_well();
                assert!(began.elapsed() >= SLOW, "{:?}", began.elapsed());
                assert_eq!(rig.epoch(), 1);
            });
        }
    });
}
