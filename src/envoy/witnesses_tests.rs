use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::load::{ListenerLoad, Unsent};
use super::*;

/// A look of the kernel's at an Envoy with one listener.
fn seen(load: Load) -> Seen {
    Seen {
        load,
        elsewhere: 0,
        accepts: true,
        has_any: true,
        doors: Vec::new(),
        all_doors: Vec::new(),
        sockets: 1,
        is_apart: true,
        quiet: None,
        knows_excluded: true,
    }
}

fn nobody_asked() -> Witnesses<'static> {
    Witnesses::new(Measure {
        excluded: &[],
        settle: Duration::ZERO,
    })
}

#[test]
fn the_last_bytes_are_known_though_it_is_not_known_which_listeners_are_excluded() {
    let unsent = Some(Unsent {
        closed: 700,
        ..Unsent::default()
    });
    let seen = Seen {
        knows_excluded: false,
        ..seen(Load {
            unsent,
            ..Load::default()
        })
    };
    let witnesses = nobody_asked();
    let told = stats::ToldLoad {
        hidden: Vec::new(),
        ..stats::ToldLoad::nothing()
    };
    let load = witnesses.weigh(told, Some(seen), true);
    assert_eq!(load.unsent, unsent);
}

#[test]
fn a_roll_call_without_an_answer_leaves_what_the_same_envoy_answered_before() {
    let of = |pid| Subject {
        pid: Some(pid),
        listeners: Some(1),
        managers: 1,
    };
    // Nobody listens there.
    let nowhere = Address::Tcp("127.0.0.1:1".into());
    let mut witnesses = nobody_asked();
    let called = Some(Instant::now());
    let mut answered = RollCall::of_a_stand_in();
    answered.called = called;
    witnesses.roll = Some((answered, Instant::now(), of(7)));
    let more = Subject {
        listeners: Some(2),
        ..of(7)
    };
    for subject in [of(7), more] {
        let roll = witnesses.roll_call(Peer::Anyone, &nowhere, subject);
        assert_eq!(roll.called, called, "{subject:?}");
    }
    assert_eq!(witnesses.more_failed, 2);
    let rests = |witnesses: &Witnesses| {
        let until = witnesses.roll.as_ref().map(|(_, until, _)| *until);
        until.is_some_and(|until| until <= Instant::now() + ROLL_CALL_REST)
    };
    assert!(rests(&witnesses), "it is not asked again soon");
    // Of another Envoy nothing is known.
    let roll = witnesses.roll_call(Peer::Anyone, &nowhere, of(8));
    assert_eq!(roll.called, None);
    assert!(rests(&witnesses), "it is not asked again soon");
}

/// Answers each request with what belongs to its path, or with nothing.
fn serve(answer: impl Fn(&str) -> Option<String> + Send + 'static) -> Address {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let mut line = String::new();
            BufReader::new(&client).read_line(&mut line).unwrap();
            if let Some(body) = answer(&line) {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                client.write_all((head + &body).as_bytes()).unwrap();
            }
        }
    });
    Address::Tcp(address.to_string())
}

#[test]
fn a_roll_call_with_half_an_answer_leaves_the_other_half_as_it_was() {
    let lists = Arc::new(AtomicBool::new(true));
    let address = serve({
        let lists = lists.clone();
        move |line| {
            if !line.contains("/listeners") {
                return Some("listener.0.0.0.0_80.downstream_pre_cx_active: 0\n".into());
            }
            let listed = r#"{"listener_statuses": [{"name": "web", "local_address":
                {"socket_address": {"address": "0.0.0.0", "port_value": 80}}}]}"#;
            lists.load(Ordering::SeqCst).then(|| listed.into())
        }
    });
    let mut witnesses = nobody_asked();
    let mut subject = Subject {
        pid: Some(7),
        listeners: Some(1),
        managers: 1,
    };
    let name = |roll: &RollCall| roll.listed.titles.listener("0.0.0.0_80", 1, &[]).name;
    let roll = witnesses.roll_call(Peer::Anyone, &address, subject);
    assert_eq!(name(roll), "web");
    lists.store(false, Ordering::SeqCst);
    subject.managers = 2;
    let roll = witnesses.roll_call(Peer::Anyone, &address, subject);
    assert_eq!(name(roll), "web");
    let until = witnesses.roll.as_ref().map(|(_, until, _)| *until).unwrap();
    assert!(
        until <= Instant::now() + ROLL_CALL_REST,
        "it is asked again soon"
    );
}

#[test]
fn an_envoy_that_has_not_answered_the_roll_call_is_not_said_to_have_a_matcher() {
    let mut witnesses = nobody_asked();
    let hidden = |witnesses: &Witnesses| {
        let told = stats::ToldLoad {
            hidden: vec![Hidden::Listeners],
            ..stats::ToldLoad::nothing()
        };
        witnesses.weigh(told, None, true).hidden.unwrap()
    };
    let of = Subject {
        pid: Some(7),
        listeners: Some(1),
        managers: 1,
    };
    let mut roll = roll_call::RollCallReader::default().finish();
    roll.called = Some(Instant::now());
    witnesses.roll = Some((roll, Instant::now(), of));
    assert!(hidden(&witnesses).contains("stats_matcher"));
    witnesses.roll = Some((RollCall::default(), Instant::now(), of));
    assert_eq!(hidden(&witnesses), UNHEARD);
}

/// A connection that ends while Envoy writes its page, or a listener's new version.
#[test]
fn of_what_may_be_hidden_and_the_kernel_tells_nobody_is_warned() {
    let witnesses = nobody_asked();
    let weigh = |hidden, kernel: Option<Sight>| {
        let told = stats::ToldLoad {
            hidden: vec![hidden],
            ..stats::ToldLoad::nothing()
        };
        let sessions = ListenerLoad {
            connections: 2,
            ..ListenerLoad::default()
        };
        let look = |sight| Load {
            listeners: vec![sessions],
            tcp_sessions: 2,
            sight,
            ..Load::default()
        };
        let kernel = kernel.map(|sight| seen(look(sight)));
        let is_seen = kernel.is_some();
        let load = witnesses.weigh(told, kernel, true);
        assert_eq!(load.in_flight(), if is_seen { 2 } else { 0 });
        (load.sight, load.hidden.is_some())
    };
    for hidden in [Hidden::Connections, Hidden::Draining] {
        assert_eq!(weigh(hidden, Some(Sight::Kernel)), (Sight::Whole, false));
        assert_eq!(weigh(hidden, Some(Sight::Partial)), (Sight::Partial, true));
        assert_eq!(weigh(hidden, None), (Sight::Partial, true));
    }
    let known = weigh(Hidden::Listeners, Some(Sight::Kernel));
    assert_eq!(known, (Sight::Kernel, true));
}
