//! The image's root file system as a real container: drainit as pid 1, uid 65534, a read-only
//! root, no capability, no /dev/shm.

mod support;

use std::fs::{self, File};
use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::Duration;

use nix::pty::openpty;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::termios::tcgetattr;

use support::clients::{HttpConnection, SlowRequest};
use support::container::{Container, Network, Spec, open_to_all, wait_text, writable_file};
use support::envoy_config::Admin;
use support::http::{self, Address};
use support::scene;
use support::{PATIENCE, TempDir, wait_for};

/// As Dockerfile.scratch has it: ENTRYPOINT and CMD.
const IMAGE: [&str; 5] = [
    "/drainit",
    "--",
    "/usr/local/bin/envoy",
    "-c",
    "/etc/envoy/envoy.yaml",
];

/// drainit's port, as it is without any option.
fn health(network: &Network, path: &str) -> Option<(u16, String)> {
    let address: SocketAddr = "127.0.0.1:8090".parse().unwrap();
    let answer = network.enter(|| Address::Tcp(address).request("GET", path, PATIENCE));
    answer.ok().map(|answer| (answer.status, answer.body))
}

fn wait_ready(network: &Network) {
    wait_for("the container to be ready", PATIENCE, || {
        health(network, "/ready").is_some_and(|(status, _)| status == 200)
    });
}

#[test]
fn a_slow_request_in_a_container_gets_its_answer_and_the_container_exits_with_0() {
    let network = Network::new();
    let (upstream, config) = network.enter(|| {
        let (upstream, config) = scene::of(Admin::Tcp);
        (upstream, config)
    });
    open_to_all(config.dir.path()).unwrap();
    let outside = TempDir::new();
    let last_words = outside.join("termination-log");
    writable_file(&last_words);

    let mut spec = Spec::new(&["/drainit", "--", "/usr/local/bin/envoy"]);
    spec.args.extend(config.arguments());
    let dir = config.dir.path().to_owned();
    spec.mounts = vec![
        (dir.clone(), dir, false),
        (last_words.clone(), "/dev/termination-log".into(), false),
    ];
    let mut container = Container::start(&spec, &network);
    wait_ready(&network);

    assert_eq!(health(&network, "/healthz").unwrap(), (200, "OK".into()));
    assert_eq!(health(&network, "/ready").unwrap(), (200, "LIVE".into()));
    // pid 1 of its namespace, nobody, and with no privilege.
    assert!(container.status("NSpid:").ends_with(" 1"));
    assert_eq!(container.status("Uid:"), "65534 65534 65534 65534");
    for set in ["CapEff:", "CapBnd:"] {
        assert_eq!(container.status(set), "0000000000000000");
    }

    let slow = network.enter(|| SlowRequest::start(config.http, Duration::from_secs(2)));
    upstream.wait_in_flight(1);
    container.kill("TERM");
    wait_for("the container not to be ready", PATIENCE, || {
        health(&network, "/ready").unwrap().0 == 503
    });
    assert_eq!(health(&network, "/healthz").unwrap().0, 200);
    assert_eq!(slow.status(), 200);
    assert_eq!(container.wait_exit(PATIENCE), 0);
    container.log.find("drained after").unwrap();
    wait_text(&last_words, "drained after");
}

fn drains_without_netlink(hides: bool) {
    let network = Network::new();
    let (upstream, config) = network.enter(|| scene::of(Admin::Tcp));
    open_to_all(config.dir.path()).unwrap();
    if hides {
        config.leave_udp_out();
        config.prepend("stats_config: { stats_matcher: { reject_all: true } }\n");
    }
    let mut spec = Spec::new(&["/drainit", "--", "/usr/local/bin/envoy"]);
    spec.args.extend(config.arguments());
    let dir = config.dir.path().to_owned();
    spec.mounts = vec![(dir.clone(), dir, false)];
    spec.without_netlink = true;
    let mut container = Container::start(&spec, &network);
    wait_ready(&network);

    let slow = network.enter(|| SlowRequest::start(config.http, Duration::from_secs(2)));
    upstream.wait_in_flight(1);
    container.kill("TERM");
    assert_eq!(slow.status(), 200);
    assert_eq!(container.wait_exit(PATIENCE), 0);
    let told = "the kernel does not tell all of envoy's connections: NETLINK_SOCK_DIAG";
    container.log.find(told).unwrap();
    let verdict = container.log.find("drained after").unwrap();
    let by_kernel = "counted by the kernel, because envoy hides some of it";
    assert_eq!(verdict.contains(by_kernel), hides, "{verdict}");
}

/// Envoy tells what is open; where it hides that, /proc does.
#[test]
fn a_container_without_netlink_sockets_drains_by_what_is_told_all_the_same() {
    thread::scope(|scope| {
        for hides in [false, true] {
            scope.spawn(move || drains_without_netlink(hides));
        }
    });
}

/// Asks for so many bytes, and reads the head of the answer with room for little more.
fn ask_for_bytes(address: SocketAddr, length: usize, header: &str) -> TcpStream {
    let socket: OwnedFd = socket(
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .unwrap();
    setsockopt(&socket, sockopt::RcvBuf, &16_384).unwrap();
    connect(socket.as_raw_fd(), &SockaddrStorage::from(address)).unwrap();
    let mut stream = TcpStream::from(socket);
    stream
        .set_read_timeout(Some(Duration::from_secs(3)))
        .unwrap();
    write!(
        stream,
        "GET /bytes?n={length} HTTP/1.1\r\nHost: test\r\n{header}\r\n"
    )
    .unwrap();
    let mut reader = BufReader::with_capacity(1, stream);
    let head = http::read_head(&mut reader).unwrap().unwrap();
    assert!(head[0].contains("200"), "{head:?}");
    reader.into_inner()
}

/// Asks for so many bytes and reads them slowly; tells how many came.
fn read_slowly(address: SocketAddr, length: usize, header: &str) -> thread::JoinHandle<usize> {
    let mut stream = ask_for_bytes(address, length, header);
    thread::spawn(move || {
        let mut read = 0;
        while read < length {
            match stream.read(&mut [0; 10_000]) {
                Ok(0) | Err(_) => break,
                Ok(more) => read += more,
            }
            thread::sleep(Duration::from_millis(100));
        }
        read
    })
}

/// With its container, a network goes, and what the kernel had left to send.
#[test]
fn a_client_that_reads_slowly_has_all_of_its_answer_before_the_container_ends() {
    const LENGTH: usize = 400_000;
    let network = Network::new();
    let (_upstream, config) = network.enter(|| scene::of(Admin::Tcp));
    open_to_all(config.dir.path()).unwrap();
    let mut spec = Spec::new(&["/drainit", "--settle", "2s", "--", "/usr/local/bin/envoy"]);
    spec.args.extend(config.arguments());
    let dir = config.dir.path().to_owned();
    spec.mounts = vec![(dir.clone(), dir, false)];
    let mut container = Container::start(&spec, &network);
    wait_ready(&network);

    // Envoy closes the first connection, and keeps the second one.
    let clients = ["Connection: close\r\n", ""]
        .map(|header| network.enter(|| read_slowly(config.http, LENGTH, header)));
    container.kill("TERM");
    assert_eq!(container.wait_exit(PATIENCE), 0);
    network.take_down();
    let read = clients.map(|client| client.join().unwrap());
    assert_eq!(read, [LENGTH; 2]);
    let verdict = container.log.find(" after ").unwrap();
    assert!(!verdict.contains("CUT"), "{verdict}");
}

/// Each answers the kernel's probes, which come at growing intervals.
#[test]
fn clients_that_are_there_and_read_nothing_are_cut_and_do_not_keep_a_drain_to_its_deadline() {
    let network = Network::new();
    let (_upstream, config) = network.enter(|| scene::of(Admin::Tcp));
    open_to_all(config.dir.path()).unwrap();
    let mut spec = Spec::new(&["/drainit", "--settle", "1s", "--", "/usr/local/bin/envoy"]);
    spec.args.extend(config.arguments());
    let dir = config.dir.path().to_owned();
    spec.mounts = vec![(dir.clone(), dir, false)];
    let mut container = Container::start(&spec, &network);
    wait_ready(&network);

    let client = |_| {
        // Not all at once: nor are they asked whether they are there.
        thread::sleep(Duration::from_millis(100));
        network.enter(|| ask_for_bytes(config.http, 100_000, "Connection: close\r\n"))
    };
    let clients: Vec<_> = (0..20).map(client).collect();
    container.kill("TERM");
    assert_eq!(container.wait_exit(PATIENCE), 0);
    let verdict = container.log.find("not acknowledged the last ").unwrap();
    for what in ["WARN", "CUT after ", "who was cut: http: "] {
        assert!(verdict.contains(what), "{verdict}");
    }
    drop(clients);
}

/// As `docker run -it`: drainit leads the terminal's session, and Envoy is in a group of its own.
#[test]
fn a_ctrl_c_in_a_container_with_a_terminal_drains_and_leaves_the_terminal_as_it_was() {
    let network = Network::new();
    let (upstream, config) = network.enter(|| {
        let (upstream, config) = scene::of(Admin::Tcp);
        (upstream, config)
    });
    open_to_all(config.dir.path()).unwrap();
    let mut spec = Spec::new(&["/drainit", "--", "/usr/local/bin/envoy"]);
    spec.args.extend(config.arguments());
    let dir = config.dir.path().to_owned();
    spec.mounts = vec![(dir.clone(), dir, false)];
    spec.terminal = true;
    let mut container = Container::start(&spec, &network);
    let mut terminal = container.terminal.take().unwrap();
    let settings = |terminal: &File| -> String { format!("{:?}", tcgetattr(terminal).unwrap()) };
    wait_ready(&network);
    // runc passes every key on meanwhile.
    let passing = settings(&terminal);

    let slow = network.enter(|| SlowRequest::start(config.http, Duration::from_secs(3)));
    upstream.wait_in_flight(1);
    terminal.write_all(b"\x03").unwrap();
    assert_eq!(slow.status(), 200);
    assert_eq!(container.wait_exit(PATIENCE), 0);
    container.log.find("drained after").unwrap();
    let pty = openpty(None, None).unwrap();
    assert_ne!(passing, settings(&terminal));
    assert_eq!(settings(&File::from(pty.master)), settings(&terminal));
}

#[test]
fn the_image_as_it_is_serves_and_is_probed_and_drained_from_inside() {
    let network = Network::new();
    let mut container = Container::start(&Spec::new(&IMAGE), &network);
    wait_for("the exec probe to succeed", PATIENCE, || {
        container.exec(&["/drainit", "health", "ready"]) == (0, "LIVE\n".into())
    });
    assert_eq!(container.exec(&["/drainit", "health"]), (0, "OK\n".into()));
    let hello = network.enter(|| {
        let mut connection = HttpConnection::open(([127, 0, 0, 1], 10_000).into()).unwrap();
        connection.get("/").unwrap()
    });
    assert_eq!((hello.status, hello.body.as_str()), (200, "hello\n"));

    let (code, progress) = container.exec(&["/drainit", "shutdown"]);
    assert_eq!(code, 0, "{progress}");
    assert!(progress.contains("drained"), "{progress}");
    assert_eq!(
        container.exec(&["/drainit", "health", "ready"]),
        (1, "DRAINING\n".into())
    );
    assert_eq!(container.exec(&["/drainit", "health", "live"]).0, 0);
    assert!(!container.has_exited());
    container.kill("TERM");
    assert_eq!(container.wait_exit(PATIENCE), 0);
}

/// `kubectl debug --target` starts a container of another image beside it, in its pid and network
/// namespaces, as a rule as root. Without a capability that root may not look into /proc/1.
#[test]
fn a_debug_container_beside_it_asks_and_orders_as_root_alone() {
    let network = Network::new();
    let mut container = Container::start(&Spec::new(&IMAGE), &network);
    wait_ready(&network);
    let idle = network.enter(|| {
        let mut connection = HttpConnection::open(([127, 0, 0, 1], 10_000).into()).unwrap();
        connection.get("/").unwrap();
        connection
    });
    let debug = |user: u32, command: &[&str]| {
        let mut spec = Spec::new(command);
        spec.user = (user, user);
        spec.only_drainit = true;
        spec.pid_namespace = Some(format!("/proc/{}/ns/pid", container.pid()).into());
        let mut debug = Container::start(&spec, &network);
        let code = debug.wait_exit(PATIENCE);
        (code, debug.out.lines().join("\n"), debug.log.lines())
    };

    for command in ["status", "shutdown"] {
        let (code, _, log) = debug(1000, &["/drainit", command]);
        assert_ne!(code, 0, "{log:?}");
        assert!(log[0].contains("neither root's nor of our uid"), "{log:?}");
    }
    assert_eq!(health(&network, "/ready").unwrap(), (200, "LIVE".into()));

    let (code, status, log) = debug(0, &["/drainit", "status"]);
    assert_eq!(code, 0, "{log:?}");
    assert!(status.contains("127.0.0.1:"), "{status}");
    drop(idle);
    let (code, progress, log) = debug(0, &["/drainit", "shutdown"]);
    assert_eq!(code, 0, "{progress} {log:?}");
    container.kill("TERM");
    assert_eq!(container.wait_exit(PATIENCE), 0);
}

/// `shareProcessNamespace: true`: pid 1 is the pod's pause, and every container sees the others.
#[test]
fn a_sidecar_that_shares_its_pods_processes_finds_the_drainit_that_is_not_pid_1() {
    let network = Network::new();
    let mut pause = Spec::new(&["/sleep", "infinity"]);
    pause.mounts = vec![("/usr/bin/sleep".into(), "/sleep".into(), true)];
    let pause = Container::start(&pause, &network);
    wait_for("the pause to run", PATIENCE, || pause.is_running());
    let mut spec = Spec::new(&IMAGE);
    spec.pid_namespace = Some(format!("/proc/{}/ns/pid", pause.pid()).into());
    let mut container = Container::start(&spec, &network);
    wait_ready(&network);

    let sidecar = |user: u32, command: &[&str]| {
        let mut spec = Spec::new(command);
        spec.user = (user, user);
        spec.only_drainit = true;
        spec.pid_namespace = Some(format!("/proc/{}/ns/pid", pause.pid()).into());
        let mut sidecar = Container::start(&spec, &network);
        let code = sidecar.wait_exit(PATIENCE);
        (code, sidecar.out.lines().join("\n"), sidecar.log.lines())
    };
    let (code, _, log) = sidecar(1000, &["/drainit", "shutdown"]);
    assert_ne!(code, 0, "{log:?}");
    assert_eq!(health(&network, "/ready").unwrap(), (200, "LIVE".into()));
    for user in [65534, 0] {
        let answer = sidecar(user, &["/drainit", "health", "ready"]);
        assert_eq!((answer.0, answer.1.as_str()), (0, "LIVE"), "{:?}", answer.2);
    }
    let (code, progress, log) = sidecar(65534, &["/drainit", "shutdown"]);
    assert_eq!(code, 0, "{progress} {log:?}");
    container.kill("TERM");
    assert_eq!(container.wait_exit(PATIENCE), 0);
}

#[test]
fn a_broken_envoy_ends_the_container_with_its_exit_code() {
    let network = Network::new();
    let mut spec = Spec::new(&IMAGE);
    spec.args.push("--no-such-flag".into());
    let (code, log) = Container::run(&spec, &network);
    assert_eq!(code, 1, "{log:?}");
}

#[test]
fn install_copies_a_program_that_runs() {
    let dir = TempDir::new();
    for (to, path) in [("tool", "tool"), (".", "drainit")] {
        let target = dir.join(to).display().to_string();
        let (code, out, err) = support::drainit::run(&["install", &target]);
        assert_eq!(code, 0, "{err}");
        let path = dir.join(path);
        assert!(out.starts_with("installed "), "{out}");
        let version = std::process::Command::new(&path).arg("--version").output();
        let version = version.unwrap();
        assert!(version.stdout.starts_with(b"drainit "), "{version:?}");
        assert_eq!(
            fs::read(&path).unwrap(),
            fs::read(support::drainit()).unwrap()
        );
    }
    let (code, _, err) = support::drainit::run(&["install", "/proc/no/such/place"]);
    assert_eq!((code, err.lines().count()), (1, 1), "{err}");
}
