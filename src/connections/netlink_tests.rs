use proptest::prelude::*;

use super::*;

/// A message with this type, these flags and this body.
fn message_of(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + body.len()).unwrap();
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    message.extend([0; 4]);
    message.extend(body);
    message.resize(message.len().next_multiple_of(4), 0);
    message
}

fn attribute_of(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut attribute = u16::try_from(4 + value.len())
        .unwrap()
        .to_ne_bytes()
        .to_vec();
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(value);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

/// An established connection to 127.0.0.1:8080, as Linux 6.18 tells it.
fn established() -> Vec<u8> {
    let mut body = vec![libc::AF_INET as u8, ESTABLISHED, 0, 0];
    body.extend(8080_u16.to_be_bytes());
    body.extend(51_234_u16.to_be_bytes());
    body.extend([127, 0, 0, 1]);
    body.extend([0; 12]);
    body.extend([10, 1, 2, 3]);
    body.extend([0; 12]);
    body.extend([0; 16]); // interface, cookie, expiry
    for word in [7_u32, 9, 65_534, 4711] {
        body.extend(word.to_ne_bytes());
    }
    let mut info = [0; 248];
    for (at, value) in [(44, 300_u32), (48, 1), (52, 200), (56, 2)] {
        info[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    info[120..128].copy_from_slice(&11_u64.to_ne_bytes());
    info[128..136].copy_from_slice(&22_u64.to_ne_bytes());
    body.extend(attribute_of(8, &[0])); // INET_DIAG_SHUTDOWN
    body.extend(attribute_of(INFO, &info));
    body.extend(attribute_of(21, &[0; 8])); // INET_DIAG_CGROUP_ID
    body
}

#[test]
fn a_client_was_heard_of_when_the_bytes_that_it_has_not_acknowledged_were_first_sent() {
    // It was idle for a minute, and an answer to it is tried again for the third time.
    let mut info = [0; 248];
    let [timeout, first] = [1_600_000_u32, 200_000];
    for (at, value) in [(8, timeout), (44, 300), (52, 60_000), (56, 60_000)] {
        info[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    info[4] = 3;
    let heard_ago = |info: &[u8]| activity(info).map(|activity| activity.heard_ago);
    assert_eq!(heard_ago(&info), Some(300 + (timeout - first) / 1_000));
    // Nothing that a kernel could say is too much.
    info[3] = 255;
    info[4] = 255;
    info[8..12].fill(255);
    info[44..48].fill(255);
    assert_eq!(heard_ago(&info), Some(60_000));
}

#[test]
fn a_client_with_a_closed_window_is_there_while_it_answers_probes_however_rare_they_are() {
    let mut info = [0; 248];
    for (at, value) in [(8, 200_000), (44, 60_000), (52, 60_000), (56, 20_000)] {
        info[at..at + 4].copy_from_slice(&u32::to_ne_bytes(value));
    }
    // So many have no answer.
    let heard_ago = |probes| {
        info[3] = probes;
        activity(&info).map(|activity| activity.heard_ago)
    };
    assert_eq!([0, 1, 2].map(heard_ago), [Some(0), Some(0), Some(20_000)]);
}

#[test]
fn a_connection_is_read_whole() {
    let expected = InetRow {
        kind: SocketKind::Open(ConnectionState::Established),
        v6: false,
        local: "127.0.0.1:8080".parse().unwrap(),
        peer: "10.1.2.3:51234".parse().unwrap(),
        inode: 4711,
        unread: 7,
        unacknowledged: 9,
        activity: Some(Activity {
            received_ago: 200,
            sent_ago: 300,
            heard_ago: 0,
            received: 22,
            acknowledged: 11,
        }),
    };
    assert_eq!(inet_row(&established()), Some(expected));
    // A kernel that tells less, or one that was cut.
    for length in 72..=established().len() {
        let cut = InetRow {
            activity: None,
            ..expected
        };
        let cut = if length < 80 + 4 + 248 { cut } else { expected };
        assert_eq!(inet_row(&established()[..length]), Some(cut), "{length}");
    }
    for length in 0..72 {
        assert_eq!(inet_row(&established()[..length]), None, "{length}");
    }
}

#[test]
fn an_answer_is_read_message_by_message_to_its_end() {
    let row = established();
    let answer = [
        message_of(SOCK_DIAG_BY_FAMILY, 2, 3, &row),
        message_of(TCPDIAG_GETSOCK, 2, 3, &row[..75]),
        message_of(3, 2, 3, &[0; 4]),
    ]
    .concat();
    let read: Vec<_> = Messages::new(&answer, 3).collect();
    assert_eq!(
        read,
        [
            Some(Message::Row(&row[..])),
            Some(Message::Row(&row[..75])),
            Some(Message::Done)
        ]
    );
    // The answer to another request.
    assert_eq!(Messages::new(&answer, 4).collect::<Vec<_>>(), [None]);
    for length in 1..answer.len() {
        let mut cut = Messages::new(&answer[..length], 3);
        assert!(
            !cut.any(|message| message == Some(Message::Done)),
            "{length}"
        );
    }
}

#[test]
fn a_refusal_and_a_table_that_changed_are_no_answer() {
    let errno = |errno: i32| (-errno).to_ne_bytes();
    for (message, expected) in [
        (
            message_of(2, 0, 1, &[&errno(2)[..], &[0; 16]].concat()),
            Message::Failed(2),
        ),
        (message_of(3, 2, 1, &errno(12)), Message::Failed(12)),
        (message_of(3, 2, 1, &[]), Message::Done),
        (message_of(3, 0x10 | 2, 1, &errno(0)), Message::Torn),
        (
            message_of(SOCK_DIAG_BY_FAMILY, 0x10 | 2, 1, &established()),
            Message::Torn,
        ),
    ] {
        assert_eq!(
            Messages::new(&message, 1).collect::<Vec<_>>(),
            [Some(expected)]
        );
    }
    // A message of no known type.
    let other = message_of(99, 0, 1, &[]);
    assert_eq!(Messages::new(&other, 1).collect::<Vec<_>>(), [None]);
}

#[test]
fn unix_sockets_are_read_with_their_names_and_queues() {
    let body = |state: u8, name: Option<&[u8]>, queue: u32| {
        let mut body = vec![libc::AF_UNIX as u8, libc::SOCK_STREAM as u8, state, 0];
        body.extend(4711_u32.to_ne_bytes());
        body.extend([0; 8]);
        body.extend(name.map(|name| attribute_of(0, name)).unwrap_or_default());
        body.extend(attribute_of(4, &[queue.to_ne_bytes(), [0; 4]].concat()));
        body
    };
    let row = |listening, waiting, name: &str| {
        Some(UnixRow {
            listening,
            inode: 4711,
            waiting,
            name: name.into(),
        })
    };
    for (body, expected) in [
        (
            body(LISTEN, Some(b"/run/a.sock\0"), 3),
            row(true, 3, "/run/a.sock"),
        ),
        (
            body(LISTEN, Some(b"/run/a.sock"), 3),
            row(true, 3, "/run/a.sock"),
        ),
        (body(ESTABLISHED, Some(b"\0a\0b"), 9), row(false, 0, "@a@b")),
        (body(ESTABLISHED, None, 0), None),
    ] {
        assert_eq!(unix_row(&body), Some(expected));
    }
    // Without its queue, a listener would be taken for one at which nobody waits.
    let whole = body(LISTEN, Some(b"/run/a.sock\0"), 3);
    assert_eq!(unix_row(&whole[..whole.len() - 8]), None);
}

/// What the kernel does with a program: whether it lets this port through.
fn lets_through(attribute: &[u8], port: u16) -> bool {
    let program = attribute.get(4..).unwrap_or_default();
    let mut at = 0;
    while at < program.len() {
        let (code, yes) = (program[at], usize::from(program[at + 1]));
        let no = usize::from(u16_at(program, at + 2).unwrap());
        let value = || u16_at(program, at + 6).unwrap();
        let holds = match code {
            SPORT_AT_LEAST => port >= value(),
            SPORT_AT_MOST => port <= value(),
            JUMP => false,
            code => panic!("{code} at {at}"),
        };
        at += if holds { yes } else { no };
    }
    at == program.len()
}

#[test]
fn the_kernel_lets_through_the_ports_in_any_range_and_no_others() {
    let ranges = [0..=1023, 8080..=8080, 61_000..=65_535];
    let program = bytecode(&ranges);
    for port in 0..=u16::MAX {
        let wanted = ranges.iter().any(|range| range.contains(&port));
        assert_eq!(lets_through(&program, port), wanted, "{port}");
    }
    // All are asked for where there are too many.
    let many: Vec<_> = (0..=u16::MAX).map(|port| port..=port).collect();
    assert!(lets_through(&bytecode(&many[..RANGES]), 1));
    assert!(!lets_through(&bytecode(&many[..RANGES]), 60_000));
    assert!(bytecode(&many).is_empty());
}

proptest! {
    #[test]
    fn anything_at_all_is_read_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = (inet_row(&bytes), unix_row(&bytes));
        let messages = Messages::new(&bytes, 0);
        prop_assert!(messages.count() <= bytes.len() / HEADER + 1);
    }

    #[test]
    fn a_changed_byte_breaks_nothing(at in 0..400_usize, byte: u8) {
        let mut answer = message_of(SOCK_DIAG_BY_FAMILY, 2, 0, &established());
        if let Some(place) = answer.get_mut(at) {
            *place = byte;
        }
        for message in Messages::new(&answer, 0).flatten() {
            if let Message::Row(row) = message {
                let _ = (inet_row(row), unix_row(row));
            }
        }
    }
}
