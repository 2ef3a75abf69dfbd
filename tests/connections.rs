//! The kernel's word on the connections of real Envoys.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use drainit::connections::{Connections, Listener, Lookout, Ownership, Witness, names};
use nix::libc;
use nix::sys::signal::{Signal, kill};

use support::envoy_config::{Admin, EnvoyConfig};
use support::http::Address;
use support::process::Process;
use support::scene;
use support::{PATIENCE, wait_for};

fn start(config: &EnvoyConfig) -> Process {
    let envoy = Process::spawn(&mut command(&support::envoy(), config));
    wait_for("Envoy to be live", PATIENCE, || {
        let ready = config.admin.as_ref().unwrap();
        let ready = ready.request("GET", "/ready", PATIENCE);
        ready.is_ok_and(|answer| answer.status == 200)
    });
    envoy
}

fn command(envoy: &Path, config: &EnvoyConfig) -> Command {
    let mut command = Command::new(envoy);
    command
        .args(config.arguments())
        .arg("--disable-hot-restart");
    command
}

/// A lookout that knows the listeners' names.
fn lookout(config: &EnvoyConfig, envoy: &Process) -> Lookout {
    let admin = config.admin.as_ref().unwrap();
    let answer = admin.request("GET", names::QUERY, PATIENCE).unwrap();
    let mut lookout = Lookout::new(envoy.pid().as_raw());
    lookout.set_names(names::parse(&answer.body).unwrap());
    lookout
}

fn admin(config: &EnvoyConfig) -> Option<drainit::client::Address> {
    match config.admin.as_ref()? {
        Address::Tcp(address) => address.to_string().parse().ok(),
        Address::Unix(path) => path.to_str()?.parse().ok(),
    }
}

fn listener<'a>(seen: &'a Connections, name: &str) -> &'a Listener {
    let mut all = seen.listeners.iter();
    let found = all.find(|one| one.title() == name);
    found.unwrap_or_else(|| panic!("{name} is not in {:?}", seen.listeners))
}

fn counts(seen: &Connections) -> Vec<(String, u64)> {
    let mut all: Vec<_> = seen
        .listeners
        .iter()
        .map(|one| (one.title(), one.count()))
        .collect();
    all.sort();
    all
}

/// Sends something, and has it answered: when that began, and when it was over.
fn exchange(stream: &mut TcpStream, is_http: bool) -> (Instant, Instant) {
    let begun = Instant::now();
    let mut answer = [0; 4096];
    let length = if is_http {
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .unwrap();
        stream.read(&mut answer).unwrap()
    } else {
        stream.write_all(b"hello").unwrap();
        stream.read(&mut answer).unwrap()
    };
    assert!(length > 0);
    (begun, Instant::now())
}

/// The kernel's clock ticks every 10 ms at the slowest.
const EXACT: Duration = Duration::from_millis(100);

#[test]
fn a_thousand_clients_of_three_listeners_are_counted_named_and_aged() {
    let (_upstream, config) = scene::of(Admin::Tcp);
    let envoy = start(&config);
    let mut clients = Vec::new();
    for (address, name, count) in [
        (config.http, "http", 500),
        (config.tcp, "tcp", 300),
        (config.metrics, "metrics", 200),
    ] {
        for _ in 0..count {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            clients.push((stream, name));
        }
    }
    // Each at its own time, and the last tenth after a while.
    let mut talks = Vec::new();
    for (number, (stream, name)) in clients.iter_mut().enumerate() {
        if number == 900 {
            thread::sleep(Duration::from_millis(500));
        }
        let time = exchange(stream, *name != "tcp");
        talks.push((stream.local_addr().unwrap(), *name, time));
    }
    let mut lookout = lookout(&config, &envoy);
    let before = Instant::now();
    let seen = lookout.look(admin(&config).as_ref()).unwrap();
    let after = Instant::now();
    assert_eq!(
        (seen.by, seen.whose, seen.why.as_deref()),
        (Witness::Netlink, Ownership::Inode, None)
    );
    let expected = [("http", 500), ("metrics", 200), ("tcp", 300)];
    let expected = expected.map(|(name, count)| (name.to_owned(), count));
    assert_eq!(counts(&seen), expected);
    assert_eq!((seen.elsewhere.len(), seen.udp.len()), (0, 1));
    assert_eq!(seen.udp[0].title(), "udp");
    for (peer, name, (begun, over)) in talks {
        let mut all = listener(&seen, name).connections.iter();
        let one = all.find(|one| one.peer == Some(peer)).unwrap();
        let silence = one.activity.unwrap().silence();
        assert!(
            silence + EXACT >= before - over,
            "{silence:?} {:?}",
            before - over
        );
        assert!(
            silence <= after - begun + EXACT,
            "{silence:?} {:?}",
            after - begun
        );
    }
    // Those that end are gone in the next look, whose they were is remembered.
    clients.truncate(500);
    wait_for("the others' end", PATIENCE, || {
        let seen = lookout.look(admin(&config).as_ref()).unwrap();
        seen.count() == 500 && listener(&seen, "http").count() == 500
    });
}

/// As in a host's network.
#[test]
fn two_envoys_on_the_same_ports_have_their_own_connections() {
    let (_upstream, config) = scene::of(Admin::Unix);
    let first = start(&config);
    config.replace("admin.sock", "admin-2.sock");
    let second = Process::spawn(&mut command(&support::envoy(), &config));
    let second_admin = Address::Unix(config.dir.join("admin-2.sock"));
    wait_for("the second Envoy to be live", PATIENCE, || {
        let ready = second_admin.request("GET", "/ready", PATIENCE);
        ready.is_ok_and(|answer| answer.status == 200)
    });
    let mut clients: Vec<TcpStream> = (0..40)
        .map(|_| TcpStream::connect(config.tcp).unwrap())
        .collect();
    for client in &mut clients {
        exchange(client, false);
    }
    let [first, second] = [&first, &second].map(|envoy| {
        let seen = lookout(&config, envoy)
            .look(admin(&config).as_ref())
            .unwrap();
        let peers = listener(&seen, "tcp").connections.iter();
        peers
            .map(|one| one.peer.unwrap())
            .collect::<Vec<SocketAddr>>()
    });
    assert_eq!(first.len() + second.len(), 40, "{first:?} {second:?}");
    assert!(!first.is_empty() && !second.is_empty());
    assert!(first.iter().all(|peer| !second.contains(peer)));
}

#[test]
fn what_a_stopped_envoy_has_not_accepted_is_seen_waiting() {
    let (_upstream, config) = scene::of(Admin::Unix);
    let pipe = config.move_to_pipe(config.metrics);
    let envoy = start(&config);
    let mut lookout = lookout(&config, &envoy);
    kill(envoy.pid(), Signal::SIGSTOP).unwrap();
    wait_for("every thread to stop", PATIENCE, || {
        let mut threads = fs::read_dir(format!("/proc/{}/task", envoy.pid())).unwrap();
        threads.all(|thread| {
            let status = fs::read_to_string(thread.unwrap().path().join("status"));
            status.unwrap().contains("State:\tT")
        })
    });
    let clients = [config.tcp, config.tcp, config.http].map(|at| TcpStream::connect(at).unwrap());
    let unix = [(); 2].map(|()| UnixStream::connect(&pipe).unwrap());
    let seen = lookout.look(admin(&config).as_ref()).unwrap();
    assert_eq!((seen.count(), seen.waiting()), (5, 5));
    assert_eq!(listener(&seen, "tcp").accept_queue, 2);
    assert_eq!(listener(&seen, "metrics").accept_queue, 2);
    kill(envoy.pid(), Signal::SIGCONT).unwrap();
    wait_for("them to be accepted", PATIENCE, || {
        let seen = lookout.look(admin(&config).as_ref()).unwrap();
        (seen.count(), seen.waiting()) == (5, 0)
    });
    drop((clients, unix));
}

/// What [`a_look_from_a_sandbox`] is told: the pid to look at.
const SANDBOX: &str = "TEST_DRAINIT_LOOK_AT";

/// And the listeners' names, as Envoy tells them.
const NAMES: &str = "TEST_DRAINIT_NAMES";

/// Looks at an Envoy from a process of its own, in which `prepare` was called before; gives what
/// is seen.
fn look_from_a_sandbox(
    program: &Path,
    envoy: &Process,
    names: &str,
    uid: u32,
    prepare: fn(),
) -> String {
    let mut command = Command::new(program);
    command
        .args(["--exact", "a_look_from_a_sandbox", "--nocapture"])
        .env(SANDBOX, envoy.pid().to_string())
        .env(NAMES, names)
        .uid(uid)
        .gid(uid)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    // SAFETY: between fork and exec, prctl alone, which is a bare system call.
    unsafe {
        command.pre_exec(move || {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            prepare();
            Ok(())
        });
    }
    let output = command.output().unwrap();
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut lines = output.lines().filter_map(|line| line.split_once("seen: "));
    lines.next().unwrap_or_else(|| panic!("{output}")).1.into()
}

/// The other half of it: in the test program as such it has nothing to look at.
#[test]
fn a_look_from_a_sandbox() {
    if let Ok(pid) = std::env::var(SANDBOX) {
        let mut lookout = Lookout::new(pid.parse().unwrap());
        lookout.set_names(names::parse(&std::env::var(NAMES).unwrap()).unwrap());
        match lookout.look(None) {
            Ok(seen) => println!(
                "seen: {:?} {:?} {} {:?}",
                seen.by,
                seen.whose,
                seen.count(),
                seen.why
            ),
            Err(why) => println!("seen: {why}"),
        }
    }
}

/// Has the kernel refuse netlink sockets, as a strict seccomp profile does.
fn deny_netlink() {
    let instruction = |code: u32, jt, jf, k| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let compare = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let give = libc::BPF_RET | libc::BPF_K;
    let mut program = [
        // seccomp_data: the call's number, and 16 bytes in its first argument.
        instruction(load, 0, 0, 0),
        instruction(compare, 0, 3, libc::SYS_socket as u32),
        instruction(load, 0, 0, 16),
        instruction(compare, 0, 1, libc::AF_NETLINK as u32),
        instruction(give, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        instruction(give, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: 6,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the program lives until the call returns.
    let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, 2, &raw const program) };
    assert_eq!(set, 0);
}

#[test]
fn without_privilege_all_is_seen_and_without_netlink_all_but_the_silence() {
    let (_upstream, config) = scene::of(Admin::Tcp);
    const NOBODY: u32 = 65_534;
    nix::unistd::chown(
        config.dir.join("").as_path(),
        Some(NOBODY.into()),
        Some(NOBODY.into()),
    )
    .unwrap();
    let envoy = support::program_in(&config.dir, &support::envoy());
    let envoy = Process::spawn(command(&envoy, &config).uid(NOBODY).gid(NOBODY));
    wait_for("Envoy to listen", PATIENCE, || {
        TcpStream::connect(config.tcp).is_ok()
    });
    let _client = TcpStream::connect(config.tcp).unwrap();
    let this = std::env::current_exe().unwrap();
    let this = support::program_in(&config.dir, &this);
    let look = |names: &str, uid, prepare| look_from_a_sandbox(&this, &envoy, names, uid, prepare);
    wait_for("one connection", PATIENCE, || {
        look("{}", NOBODY, || {}) == "Netlink Inode 1 None"
    });
    let seen = look("{}", NOBODY, deny_netlink);
    let denied = "Proc Inode 1 Some(\"NETLINK_SOCK_DIAG: Operation not permitted";
    assert!(seen.starts_with(denied), "{seen}");
    // Another user may not look at Envoy's descriptors: nothing is known, which is not zero.
    let seen = look("{}", NOBODY - 1, || {});
    let denied = "Permission denied";
    assert!(
        seen.contains("not known") && seen.contains(denied),
        "{seen}"
    );
    // But where the listeners are is, if Envoy said so.
    let admin = config.admin.as_ref().unwrap();
    let names = admin.request("GET", names::QUERY, PATIENCE).unwrap().body;
    let seen = look(&names, NOBODY - 1, || {});
    assert!(
        seen.starts_with("Netlink Address 1 Some(") && seen.contains(denied),
        "{seen}"
    );
}
