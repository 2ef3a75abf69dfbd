use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use super::*;

fn own_pid() -> i32 {
    std::process::id().try_into().unwrap()
}

fn inode(socket: &impl AsRawFd) -> u64 {
    let path = format!("/proc/self/fd/{}", socket.as_raw_fd());
    socket_inode(fs::read_link(path).unwrap().to_str().unwrap()).unwrap()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

#[test]
fn sockets_are_known_by_their_inodes_and_others_are_not() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let mut seen = [inode(&listener), inode(&client), u64::MAX];
    seen.sort_unstable();
    let mut descriptors = Descriptors::new(own_pid());
    for _ in 0..3 {
        descriptors.update(&seen, &[], soon()).unwrap();
        let known = seen.map(|inode| descriptors.own().binary_search(&inode).is_ok());
        assert_eq!(known, [true, true, false]);
    }
    // One that is new since is found, whatever number it has.
    let (accepted, _) = listener.accept().unwrap();
    let mut seen = vec![inode(&accepted), inode(&listener)];
    seen.sort_unstable();
    descriptors.update(&seen, &[], soon()).unwrap();
    assert!(seen.iter().all(|inode| descriptors.own().contains(inode)));
}

/// A generation of a hot restart closes the listening sockets that its successor has, too.
#[test]
fn a_socket_that_lives_on_elsewhere_is_known_to_be_closed_when_it_is_looked_at_anew() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let _other = TcpListener::bind("127.0.0.1:0").unwrap();
    let seen = [inode(&listener)];
    let mut descriptors = Descriptors::new(own_pid());
    descriptors.update(&seen, &seen, soon()).unwrap();
    assert!(descriptors.own().contains(&seen[0]));
    drop(listener);
    descriptors.update(&seen, &seen, soon()).unwrap();
    assert!(!descriptors.own().contains(&seen[0]));
}

#[test]
fn two_descriptors_of_a_socket_do_not_hide_another_socket() {
    let first = TcpListener::bind("127.0.0.1:0").unwrap();
    let again = first.try_clone().unwrap();
    let last = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut seen = [inode(&again), inode(&last)];
    seen.sort_unstable();
    let mut descriptors = Descriptors::new(own_pid());
    descriptors.update(&seen, &[], soon()).unwrap();
    assert!(seen.iter().all(|inode| descriptors.own().contains(inode)));
}

#[test]
fn what_cannot_be_read_to_its_end_is_not_known() {
    let failed = |result| matches!(result, Err(Unreadable::Failed(_)));
    assert!(failed(Descriptors::new(i32::MAX).update(&[1], &[], soon())));
    let _socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let past = Instant::now() - Duration::from_secs(1);
    assert!(failed(Descriptors::new(own_pid()).update(
        &[u64::MAX],
        &[],
        past
    )));
}

#[test]
fn another_process_sockets_are_looked_for_twice_and_then_believed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let seen = [inode(&listener), u64::MAX];
    let mut descriptors = Descriptors::new(own_pid());
    let is_sure = |descriptors: &Descriptors| descriptors.foreign.iter().all(|it| it.twice);
    descriptors.update(&seen, &[], soon()).unwrap();
    assert!(descriptors.foreign.len() == 1 && !is_sure(&descriptors));
    descriptors.update(&seen, &[], soon()).unwrap();
    assert!(descriptors.foreign.len() == 1 && is_sure(&descriptors));
    // Nothing is looked at any more: the time for it may be over.
    let past = Instant::now() - Duration::from_secs(1);
    descriptors.update(&seen, &[], past).unwrap();
    descriptors.update(&seen, &seen, past).unwrap();
    descriptors.forget_others(&seen[..1]);
    assert!(descriptors.foreign.is_empty());
}

#[test]
fn another_process_listener_is_looked_for_again_with_the_connections_and_ever_more_seldom() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let seen = [inode(&listener), u64::MAX];
    let mut descriptors = Descriptors::new(own_pid());
    descriptors.update(&seen, &seen, soon()).unwrap();
    let past = Instant::now() - Duration::from_secs(1);
    let mut pauses = Vec::new();
    for _ in 0..6 {
        descriptors.update(&seen, &[], soon()).unwrap();
        let it = &mut descriptors.foreign[0];
        pauses.push(it.patience.unwrap().as_secs());
        it.at -= it.patience.unwrap();
        // Not before the connections are known, too.
        descriptors.update(&seen, &seen, past).unwrap();
    }
    assert_eq!(pauses, [5, 10, 20, 40, 60, 60]);
}
