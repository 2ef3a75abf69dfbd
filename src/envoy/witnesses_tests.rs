use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::fetch;
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
        untold_udp: 0,
        senders: 0,
        quiet: None,
        knows_excluded: true,
    }
}

/// What an Envoy with so many listeners tells.
fn page_of(listeners: u64) -> stats::Figures {
    let mut page = stats::GaugeReader::default();
    page.feed(format!("listener_manager.total_listeners_active: {listeners}\n").as_bytes());
    page.finish()
}

fn nobody_asked() -> Witnesses<'static> {
    Witnesses::new(Measure {
        excluded: &[],
        settle: Duration::ZERO,
    })
}

/// A first look at who answers there, which may take its time or `has_time` no more.
fn look(address: &Address, has_time: bool) -> Result<Answer, String> {
    let serving = Processes::Serving(None);
    nobody_asked().ask(address, Peer::Anyone, serving, None, &|_| has_time)
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
        strangers: 0,
    };
    // Nobody listens there.
    let nowhere = Address::Tcp("127.0.0.1:1".into());
    let mut witnesses = nobody_asked();
    let called = Some(Instant::now());
    let mut answered = RollCall::of_a_stand_in();
    answered.called = called;
    witnesses.roll = Some((answered, Instant::now(), of(7)));
    for listeners in [1, 2] {
        let roll = witnesses.roll_call(
            (Peer::Anyone, &nowhere),
            Some(7),
            &page_of(listeners),
            &|_| true,
        );
        assert_eq!(roll.called, called, "{listeners}");
    }
    assert_eq!(witnesses.more_failed, 2);
    let rests = |witnesses: &Witnesses| {
        let until = witnesses.roll.as_ref().map(|(_, until, _)| *until);
        until.is_some_and(|until| until <= Instant::now() + roll_call::REST)
    };
    assert!(rests(&witnesses), "it is not asked again soon");
    // Of another Envoy nothing is known.
    let roll = witnesses.roll_call((Peer::Anyone, &nowhere), Some(8), &page_of(2), &|_| true);
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
    let name = |roll: &RollCall| roll.listed.titles.listener("0.0.0.0_80", 1, &[]).name;
    let roll = witnesses.roll_call((Peer::Anyone, &address), Some(7), &page_of(1), &|_| true);
    assert_eq!(name(roll), "web");
    lists.store(false, Ordering::SeqCst);
    // Each time the listeners have changed; what is never answered is not asked for all the time.
    for (listeners, is_soon) in [(2, true), (3, false)] {
        let roll = witnesses.roll_call(
            (Peer::Anyone, &address),
            Some(7),
            &page_of(listeners),
            &|_| true,
        );
        assert_eq!(name(roll), "web");
        let until = witnesses.roll.as_ref().map(|(_, until, _)| *until).unwrap();
        assert_eq!(until <= Instant::now() + roll_call::REST, is_soon);
    }
}

#[test]
fn a_page_of_many_listeners_and_workers_is_read() {
    let line = |at| {
        format!(
            "listener.0.0.0.0_{}.worker_{}.downstream_cx_active: 1\n",
            at / 100,
            at % 100
        )
    };
    let page: String = (0..200_000).map(line).collect();
    assert!(page.len() > 9 << 20);
    let address = serve(move |_| Some(format!("{page}server.live: 1\n")));
    let answer = look(&address, true);
    assert!(matches!(answer, Ok(Answer::Stats(_))), "{answer:?}");
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
        strangers: 0,
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
        let blames = |all: String| all.contains("stats_matcher");
        (load.sight, load.hidden.map(blames))
    };
    // A matcher is blamed where one may be to blame.
    for (hidden, is_matchers) in [
        (Hidden::Connections, true),
        (Hidden::Draining, false),
        (Hidden::Shared, false),
    ] {
        let is_told = (Sight::Partial, Some(is_matchers));
        assert_eq!(weigh(hidden, Some(Sight::Kernel)), (Sight::Whole, None));
        assert_eq!(weigh(hidden, Some(Sight::Partial)), is_told);
        assert_eq!(weigh(hidden, None), is_told);
    }
    let known = weigh(Hidden::Listeners, Some(Sight::Kernel));
    assert_eq!(known, (Sight::Kernel, Some(true)));
}

#[test]
fn a_matcher_is_blamed_for_a_udp_listener_that_tells_nothing_beside_names_in_common() {
    for hidden in [Hidden::Shared, Hidden::Draining] {
        let told = stats::ToldLoad {
            hidden: vec![hidden],
            ..stats::ToldLoad::nothing()
        };
        let udp = Load {
            udp_sessions: 1,
            ..Load::default()
        };
        let load = nobody_asked().weigh(told, Some(seen(udp)), true);
        assert_eq!(load.sight, Sight::Partial);
        assert!(load.hidden.unwrap().contains("stats_matcher"));
    }
}

#[test]
fn connections_of_quic_do_not_make_up_for_those_that_are_hidden() {
    let weigh = |hidden, quic| {
        let listener = |connections| ListenerLoad {
            connections,
            ..ListenerLoad::default()
        };
        let mut told = stats::ToldLoad {
            http: 50,
            quic,
            hidden,
            ..stats::ToldLoad::nothing()
        };
        told.load.listeners = vec![listener(50)];
        let kernel = Load {
            listeners: vec![listener(10)],
            ..Load::default()
        };
        let load = nobody_asked().weigh(told, Some(seen(kernel)), true);
        load.in_flight()
    };
    assert_eq!(weigh(vec![Hidden::Listeners], (50, 50)), 10);
    // Of a name that TCP has as well all may be QUIC's, but where nothing is hidden.
    assert_eq!(weigh(vec![Hidden::Listeners], (0, 50)), 10);
    assert_eq!(weigh(vec![Hidden::Shared], (0, 50)), 0);
    // Some wait to be accepted.
    assert_eq!(weigh(Vec::new(), (45, 45)), 5);
}

/// A UDP listener's own matcher hides its sessions, and a TCP listener at its address has its name.
#[test]
fn a_udp_listener_whose_name_another_one_has_is_not_believed_to_have_no_session() {
    let mut reader = roll_call::RollCallReader::default();
    reader.feed(b"listener.0.0.0.0_53.downstream_pre_cx_active: 0\n");
    let mut roll = reader.finish();
    roll.called = Some(Instant::now());
    let local =
        r#"{"local_address": {"socket_address": {"address": "0.0.0.0", "port_value": 53}}}"#;
    roll.read_listed(&format!(r#"{{"listener_statuses": [{local}, {local}]}}"#));
    let mut witnesses = nobody_asked();
    let told = page_of(2).load(&roll, &[]);
    assert_eq!(told.hidden, [Hidden::Shared]);
    let of = Subject {
        pid: Some(7),
        listeners: Some(2),
        strangers: 0,
    };
    witnesses.roll = Some((roll, Instant::now(), of));
    let kernel = Load {
        udp_sessions: 1,
        sight: Sight::Kernel,
        ..Load::default()
    };
    let weigh = |witnesses: &Witnesses, kernel: &Load, senders| {
        let told = page_of(2).load(&witnesses.roll.as_ref().unwrap().0, &[]);
        let seen = Seen {
            untold_udp: 1,
            senders,
            knows_excluded: false,
            ..seen(kernel.clone())
        };
        let load = witnesses.weigh(told, Some(seen), true);
        (load.sight, load.in_flight())
    };
    assert_eq!(weigh(&witnesses, &kernel, 0), (Sight::Partial, 0));
    // What is none but sends to a statsd is no reason to wait; TCP that only the kernel sees is.
    assert_eq!(weigh(&witnesses, &kernel, 1), (Sight::Whole, 0));
    let session = ListenerLoad {
        connections: 5,
        ..ListenerLoad::default()
    };
    let kernel = Load {
        listeners: vec![session],
        ..kernel
    };
    assert_eq!(weigh(&witnesses, &kernel, 1), (Sight::Whole, 5));
    // But for those that Envoy tells of on listeners that are excluded.
    let told = stats::ToldLoad {
        excluded: 2,
        hidden: vec![Hidden::Shared],
        ..stats::ToldLoad::nothing()
    };
    let unknown = Seen {
        untold_udp: 1,
        senders: 1,
        knows_excluded: false,
        ..seen(kernel)
    };
    assert_eq!(witnesses.weigh(told, Some(unknown), true).in_flight(), 3);
}

/// A look is given up where a drain that begins waits for its turn.
#[test]
fn a_look_is_given_up_where_it_has_no_more_time() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = Address::Tcp(listener.local_addr().unwrap().to_string());
    let began = Instant::now();
    let answer = look(&silent, false);
    assert!(answer.is_err(), "{answer:?}");
    assert!(began.elapsed() < fetch::STEP);
}

#[test]
fn connections_of_excluded_listeners_do_not_make_up_for_those_that_are_hidden() {
    let listener = |connections, excluded| ListenerLoad {
        connections,
        excluded,
        ..ListenerLoad::default()
    };
    for hidden in [vec![Hidden::Listeners], vec![Hidden::Shared], Vec::new()] {
        let mut told = stats::ToldLoad {
            http: 8,
            excluded: 3,
            hidden,
            ..stats::ToldLoad::nothing()
        };
        told.load.listeners = vec![listener(5, false), listener(3, true)];
        let kernel = Load {
            // Three more than are told.
            listeners: vec![listener(8, false), listener(3, true)],
            ..Load::default()
        };
        let load = nobody_asked().weigh(told, Some(seen(kernel)), true);
        assert_eq!(load.in_flight(), 3);
    }
}

/// The kernel shows a listener's address and not its stat prefix.
#[test]
fn what_envoy_excludes_stays_excluded_where_the_kernel_cannot_tell_which_that_is() {
    let listener = |connections, excluded| ListenerLoad {
        connections,
        excluded,
        ..ListenerLoad::default()
    };
    let weigh = |web, http, hidden| {
        let mut told = stats::ToldLoad {
            http,
            excluded: 1,
            hidden: vec![hidden],
            ..stats::ToldLoad::nothing()
        };
        told.load.listeners = vec![listener(web, false), listener(1, true)];
        let kernel = Load {
            listeners: vec![listener(3, false)],
            ..Load::default()
        };
        let unknown = Seen {
            knows_excluded: false,
            ..seen(kernel)
        };
        let load = nobody_asked().weigh(told, Some(unknown), true);
        (load.connections(), load.in_flight())
    };
    for hidden in [Hidden::Draining, Hidden::Shared, Hidden::Connections] {
        assert_eq!(weigh(2, 3, hidden), (2, 0));
        // Others that Envoy does not tell of, but for their connection manager.
        assert_eq!(weigh(1, 3, hidden), (3, 0));
        assert_eq!(weigh(1, 1, hidden), (3, 1));
    }
}
