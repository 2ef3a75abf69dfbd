//! Who may shut down, over networks of its own: needs root, for network namespaces.

#[path = "network/doors.rs"]
mod doors;
mod support;
#[path = "network/world.rs"]
mod world;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use support::drainit::Drainit;
use support::fake_envoy::{self, Model, SharedModel};
use support::{PATIENCE, wait_for};

/// Two network namespaces with a wire between them; they go with this.
struct Networks {
    server: String,
    client: String,
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.expect("ip, of iproute2");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {error}");
}

impl Networks {
    fn new() -> Networks {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = |side| format!("drainit-{}-{number}{side}", std::process::id());
        let networks = Networks {
            server: name("s"),
            client: name("c"),
        };
        let Networks { server, client } = &networks;
        ip(&format!("netns add {server}"));
        ip(&format!("netns add {client}"));
        ip(&format!(
            "-n {server} link add wire type veth peer name wire netns {client}"
        ));
        for (side, addresses) in [
            (server, ["192.0.2.1/24", "2001:db8::1/48"].as_slice()),
            (
                client,
                &[
                    "192.0.2.5/24",
                    "192.0.2.100/24",
                    "2001:db8:0:1::5/48",
                    "2001:db8:0:2::5/48",
                ],
            ),
        ] {
            for address in addresses {
                // Without `nodad` an IPv6 address is not there for a second.
                let nodad = if address.contains(':') { " nodad" } else { "" };
                ip(&format!("-n {side} address add {address} dev wire{nodad}"));
            }
            ip(&format!("-n {side} link set lo up"));
            ip(&format!("-n {side} link set wire up"));
        }
        networks
    }
}

impl Drop for Networks {
    fn drop(&mut self) {
        for side in [&self.server, &self.client] {
            let _ = Command::new("ip").args(["netns", "del", side]).output();
        }
    }
}

/// A request from an address in a network namespace; status and body, or none when nobody answers.
fn ask(network: &str, from: &str, to: &str, request: &str) -> Option<(u16, String)> {
    let place = std::fs::File::open(format!("/run/netns/{network}")).unwrap();
    let address = |text: &str| text.parse::<SocketAddr>().unwrap();
    let (from, to) = (address(from), address(to));
    let request = format!("{request} HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.5\r\n\r\n");
    // A thread of its own, because a network is a thread's.
    let asker = thread::spawn(move || {
        // SAFETY: setns touches no memory of ours.
        let entered =
            unsafe { libc::setns(std::os::fd::AsRawFd::as_raw_fd(&place), libc::CLONE_NEWNET) };
        assert_eq!(entered, 0, "{}", std::io::Error::last_os_error());
        let stream = open(from, to)?;
        let mut stream = BufReader::new(stream);
        stream.get_mut().write_all(request.as_bytes()).ok()?;
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let mut rest = String::new();
        stream.read_to_string(&mut rest).ok()?;
        let status = line.split(' ').nth(1)?.parse().ok()?;
        let body = rest.split_once("\r\n\r\n")?.1.trim_end().to_owned();
        Some((status, body))
    });
    asker.join().unwrap()
}

fn open(from: SocketAddr, to: SocketAddr) -> Option<TcpStream> {
    let family = match from {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let socket: OwnedFd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).ok()?;
    let patience = TimeVal::seconds(PATIENCE.as_secs().try_into().unwrap());
    setsockopt(&socket, sockopt::ReceiveTimeout, &patience).unwrap();
    setsockopt(&socket, sockopt::SendTimeout, &patience).unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
    bind(fd, &SockaddrStorage::from(from)).unwrap();
    connect(fd, &SockaddrStorage::from(to)).ok()?;
    Some(TcpStream::from(socket))
}

/// `server` is asked from an `outside` address, from itself, and from an `inside` one.
fn shutdown_is_for_those_inside(server: &str, inside: &str, outside: &str, listen: &str) {
    let networks = Networks::new();
    let model = SharedModel::new(Model {
        tcp: 1,
        ..Model::default()
    });
    let admin = model.admin();
    let admin_address = admin.address.text();
    let options = [
        "--envoy-flags",
        "keep",
        "--admin-address",
        &admin_address,
        "--listen",
        listen,
        "--shutdown-from",
        "192.0.2.0/28,2001:db8:0:1::/64",
    ];
    let wrapper = ["ip", "netns", "exec", &networks.server];
    let mut drainit = Drainit::start_under(&wrapper, &[], &options, &fake_envoy::child());
    let from = |address: &str, request| ask(&networks.client, address, server, request);
    wait_for("drainit to be ready, seen from outside", PATIENCE, || {
        from(outside, "GET /ready") == Some((200, "LIVE".into()))
    });

    let ip = outside.rsplit_once(':').unwrap().0.trim_matches(['[', ']']);
    for request in ["GET /shutdown", "POST /shutdown"] {
        let (status, body) = from(outside, request).unwrap();
        assert_eq!(status, 403, "{body}");
        assert!(
            body.starts_with(&format!("{ip} may not shut down")),
            "{body}"
        );
    }
    // What is given takes the default's place: not even the pod's own loopback is inside now.
    let port = server.rsplit_once(':').unwrap().1;
    let loopback = if server.starts_with('[') {
        "[::1]"
    } else {
        "127.0.0.1"
    };
    let to = format!("{loopback}:{port}");
    let own = ask(
        &networks.server,
        &format!("{loopback}:0"),
        &to,
        "GET /shutdown",
    );
    assert_eq!(own.unwrap().0, 403);
    assert_eq!(from(outside, "GET /ready"), Some((200, "LIVE".into())));
    assert!(drainit.log.find("/shutdown from").is_none());

    let answer = thread::scope(|scope| {
        let caller = scope.spawn(|| from(inside, "GET /shutdown"));
        wait_for("the drain", PATIENCE, || {
            from(outside, "GET /ready") == Some((503, "DRAINING".into()))
        });
        assert!(!caller.is_finished());
        model.change(|model| model.tcp = 0);
        caller.join().unwrap()
    });
    assert_eq!(answer, Some((200, "OK".into())));
    let ip = inside.rsplit_once(':').unwrap().0.trim_matches(['[', ']']);
    drainit.wait_log(&format!("/shutdown from {ip}"));
    drainit.signal(Signal::SIGTERM);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
}

#[test]
fn shutdown_is_for_those_inside_over_ipv4() {
    shutdown_is_for_those_inside(
        "192.0.2.1:8090",
        "192.0.2.5:0",
        "192.0.2.100:0",
        "0.0.0.0:8090",
    );
}

#[test]
fn shutdown_is_for_those_inside_over_ipv4_on_a_socket_of_ipv6() {
    // There an IPv4 address is ::ffff:192.0.2.5.
    shutdown_is_for_those_inside(
        "192.0.2.1:8090",
        "192.0.2.5:0",
        "192.0.2.100:0",
        "[::]:8090",
    );
}

#[test]
fn shutdown_is_for_those_inside_over_ipv6() {
    shutdown_is_for_those_inside(
        "[2001:db8::1]:8090",
        "[2001:db8:0:1::5]:0",
        "[2001:db8:0:2::5]:0",
        "[::]:8090",
    );
}
