use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::*;

fn is_readable(ends: &Ends, wait: Duration) -> bool {
    let mut fds = [PollFd::new(ends.as_fd(), PollFlags::POLLIN)];
    let wait = PollTimeout::try_from(wait).unwrap();
    poll(&mut fds, wait).unwrap() > 0
}

/// A connection, its listener's end first.
fn connect(listener: &TcpListener) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (listener.accept().unwrap().0, client)
}

#[test]
fn the_end_of_a_connection_wakes_and_that_of_others_does_not() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let listener = TcpListener::bind(address).unwrap();
        let other = TcpListener::bind(address).unwrap();
        let door = |listener: &TcpListener| listener.local_addr().unwrap();
        let ends = Ends::new(&[(Ipv4Addr::LOCALHOST, 1).into(), door(&listener)]).unwrap();
        let end = |of: &TcpListener| {
            let (ours, client) = connect(of);
            // Ours is the last to close: it is freed at once, and does not wait.
            drop(client);
            drop(ours);
        };
        assert_eq!(ends.drain(), 0);
        end(&listener);
        assert!(is_readable(&ends, Duration::from_secs(20)));
        assert_eq!([ends.drain(), ends.drain()], [1, 0]);
        // The kernel tells in the order in which they ended.
        end(&other);
        ends.listen(&[door(&other)]).unwrap();
        end(&other);
        assert!(is_readable(&ends, Duration::from_secs(20)));
        assert!(ends.drain() > 0);
    }
}

#[test]
fn a_filter_lets_its_listeners_connections_through_and_nothing_else() {
    let lets_through = |doors: &[&str], local: &str| {
        let doors: Vec<SocketAddr> = doors.iter().map(|door| door.parse().unwrap()).collect();
        let program = filter(&doors);
        let local: SocketAddr = local.parse().unwrap();
        let mut message = vec![0; 16];
        message.extend([libc::AF_INET as u8, 7, 0, 0]);
        message.extend(local.port().to_be_bytes());
        message.extend([0; 2]);
        match local.ip() {
            IpAddr::V4(ip) => message.extend(ip.octets()),
            IpAddr::V6(ip) => {
                message[16] = libc::AF_INET6 as u8;
                message.extend(ip.octets());
            }
        }
        let (mut at, mut loaded) = (0, 0);
        loop {
            let it = program[at];
            let from = it.k as usize;
            at += 1;
            match u32::from(it.code) & !libc::BPF_K {
                code if code == libc::BPF_RET => return it.k != 0,
                code if code == libc::BPF_JMP | libc::BPF_JEQ => {
                    at += usize::from(loaded != it.k) * usize::from(it.jf);
                }
                code => {
                    let size = match code & 0x18 {
                        libc::BPF_B => 1,
                        libc::BPF_H => 2,
                        _ => 4,
                    };
                    let bytes = &message[from..from + size];
                    loaded = bytes
                        .iter()
                        .fold(0, |all, byte| all << 8 | u32::from(*byte));
                }
            }
        }
    };
    for (doors, local, passes) in [
        (&[][..], "10.0.0.1:80", false),
        (&["0.0.0.0:80"], "10.0.0.1:80", true),
        (&["0.0.0.0:80"], "10.0.0.1:81", false),
        (&["[::]:80"], "10.0.0.1:80", true),
        (&["10.0.0.1:80"], "10.0.0.1:80", true),
        (&["10.0.0.1:80"], "10.0.0.1:81", false),
        (&["10.0.0.1:80"], "10.0.0.2:80", false),
        (&["10.0.0.1:80"], "[::ffff:10.0.0.1]:80", true),
        (&["10.0.0.2:80", "10.0.0.1:80"], "10.0.0.1:80", true),
        (&["10.0.0.2:80", "[::1]:80"], "[::1]:80", true),
        (
            &["10.0.0.2:80", "[::1]:81", "10.0.0.2:82"],
            "10.0.0.2:83",
            false,
        ),
        (
            &["10.0.0.2:80", "[::1]:81", "10.0.0.2:82"],
            "10.0.0.2:82",
            true,
        ),
    ] {
        assert_eq!(lets_through(doors, local), passes, "{doors:?} {local}");
    }
}

#[test]
fn as_many_listeners_as_the_kernel_takes_are_listened_to() {
    let doors = |count: usize| -> Vec<SocketAddr> {
        let door = |port: usize| (Ipv4Addr::LOCALHOST, port as u16).into();
        (1..=count).map(door).collect()
    };
    let ends = Ends::new(&doors(DOORS)).unwrap();
    assert_eq!(ends.listen(&doors(DOORS + 1)), Err(Errno::E2BIG));
    assert!(Ends::new(&doors(DOORS + 1)).is_none());
}
