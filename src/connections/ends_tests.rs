use std::net::{TcpListener, TcpStream};
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
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        let ends = Ends::new(&[1, port(&listener)]).unwrap();
        let end = |of: &TcpListener| {
            let (ours, client) = connect(of);
            // Ours is the last to close: it is freed at once, and does not wait.
            drop(client);
            drop(ours);
        };
        assert!(!ends.drain());
        end(&listener);
        assert!(is_readable(&ends, Duration::from_secs(20)));
        assert!(ends.drain() && !ends.drain());
        // The kernel tells in the order in which they ended.
        end(&other);
        ends.listen(&[port(&other)]).unwrap();
        end(&other);
        assert!(is_readable(&ends, Duration::from_secs(20)));
        assert!(ends.drain());
    }
}

#[test]
fn a_filter_lets_its_ports_through_and_nothing_else() {
    let lets_through = |ports: &[u16], port: u16| {
        let program = filter(ports);
        let mut at = 1;
        loop {
            let instruction = program[at];
            if u32::from(instruction.code) == libc::BPF_RET | libc::BPF_K {
                return instruction.k != 0;
            }
            let jumps = instruction.k != u32::from(port);
            at += 1 + usize::from(jumps) * usize::from(instruction.jf);
        }
    };
    for (ports, port, passes) in [
        (&[][..], 80, false),
        (&[80], 80, true),
        (&[80], 81, false),
        (&[80, 443, 8443], 443, true),
        (&[80, 443, 8443], 8443, true),
        (&[80, 443, 8443], 8444, false),
    ] {
        assert_eq!(lets_through(ports, port), passes, "{ports:?} {port}");
    }
}

#[test]
fn as_many_ports_as_the_kernel_takes_are_listened_to() {
    let many: Vec<u16> = (1..=PORTS as u16).collect();
    let ends = Ends::new(&many).unwrap();
    let more: Vec<u16> = (1..=PORTS as u16 + 1).collect();
    assert_eq!(ends.listen(&more), Err(Errno::E2BIG));
    assert!(Ends::new(&more).is_none());
}
