use super::*;
use proptest::prelude::*;
use serde_json::json;

fn figures(text: &str) -> Figures {
    let mut page = GaugeReader::default();
    page.feed(text.as_bytes());
    page.finish()
}

/// What a stand-in of Envoy tells.
fn read(text: &str, excluded: &[&str]) -> Load {
    let excluded: Vec<String> = excluded.iter().map(|&name| name.into()).collect();
    figures(text)
        .load(&RollCall::of_a_stand_in(), &excluded)
        .load
}

/// What Envoy tells, to whom the second text is a roll call's answer.
fn told(text: &str, roll: &str) -> ToldLoad {
    let mut reader = super::super::roll_call::RollCallReader::default();
    reader.feed(roll.as_bytes());
    figures(text).load(&reader.finish(), &[])
}

const IDLE: &str = "\
http.admin.downstream_cx_active: 1
http.admin.downstream_rq_active: 1
listener.admin.downstream_cx_active: 1
listener.admin.main_thread.downstream_cx_active: 1
listener_manager.total_listeners_active: 0
server.live: 1
";

const BUSY: &str = "\
http.admin.downstream_cx_active: 1
http.admin.downstream_rq_active: 1
http.ingress.downstream_cx_active: 7
http.ingress.downstream_rq_active: 3
listener.0.0.0.0_10000.downstream_cx_active: 6
listener.0.0.0.0_10000.downstream_pre_cx_active: 2
listener.0.0.0.0_10000.worker_0.downstream_cx_active: 6
listener.[__]_9000.downstream_cx_active: 1
listener.admin.downstream_cx_active: 1
listener.admin.main_thread.downstream_cx_active: 1
listener.tcp.downstream_cx_active: 4
listener_manager.total_listeners_active: 3
server.live: 0
udp.dns.downstream_sess_active: 5
";

/// A roll call of an Envoy with one listener, `a`, that has a connection manager `m`.
const ROLL: &str = "\
http.admin.downstream_rq_active: 1
http.m.downstream_rq_active: 0
listener.a.downstream_pre_cx_active: 0
listener.a.http.m.downstream_rq_completed: 0
listener.admin.downstream_pre_cx_active: 0
";

fn page_with(lines: &str) -> String {
    format!("{IDLE}{lines}").replace("active: 0\nserver", "active: 1\nserver")
}

#[test]
fn a_busy_page_is_counted() {
    let load = read(BUSY, &["[::]:9000"]);
    assert_eq!(load.connections(), 12);
    assert_eq!(
        (load.requests, load.tcp_sessions, load.udp_sessions),
        (3, 4, 5)
    );
    assert!(load.health_failed);
    let names: Vec<_> = load
        .listeners
        .iter()
        .map(|l| (l.name.as_str(), l.excluded))
        .collect();
    assert_eq!(
        names,
        [
            ("0.0.0.0:10000", false),
            ("[::]:9000", true),
            ("tcp", false)
        ]
    );
}

#[test]
fn a_page_is_proven_by_what_is_always_there() {
    assert!(figures(IDLE).is_proven());
    assert!(!figures("").is_proven());
    assert!(!figures("listener.a.downstream_cx_active: 0\n").is_proven());
}

#[test]
fn an_envoy_whose_listeners_all_tell_hides_nothing() {
    let told = told(&page_with(""), ROLL);
    assert_eq!(told.hidden, []);
    assert_eq!(told.load.connections(), 0);
}

#[test]
fn a_listener_that_does_not_tell_is_missed() {
    let two = IDLE.replace("active: 0\nserver", "active: 2\nserver");
    assert_eq!(told(&two, ROLL).hidden, [Hidden::Listeners]);
    // Istio's list of what is included has neither.
    assert_eq!(told("", "").hidden, [Hidden::Count]);
}

/// HTTP/3 is served at the port of HTTP, so that two listeners have one name.
#[test]
fn two_listeners_at_one_address_may_have_one_name_and_hide_nothing() {
    let two = IDLE.replace("active: 0\nserver", "active: 2\nserver");
    let mut roll = super::super::roll_call::RollCallReader::default();
    roll.feed(
        ROLL.replace("listener.a.", "listener.0.0.0.0_443.")
            .as_bytes(),
    );
    let mut roll = roll.finish();
    let listed = |ports: [u16; 2]| {
        let status = |port| json!({ "local_address": { "socket_address": { "address": "0.0.0.0", "port_value": port } } });
        json!({ "listener_statuses": ports.map(status) }).to_string()
    };
    roll.read_listed(&listed([443, 443]));
    assert_eq!(figures(&two).load(&roll, &[]).hidden, [Hidden::Shared]);
    // Requests to the one that is excluded are told from the others'.
    assert!(roll.tells_by_listener());
    roll.read_listed(&listed([443, 444]));
    assert_eq!(figures(&two).load(&roll, &[]).hidden, [Hidden::Listeners]);
}

#[test]
fn a_listener_that_drains_is_looked_for_too() {
    let draining = page_with("listener_manager.total_listeners_draining: 1\n");
    assert_eq!(told(&draining, ROLL).hidden, [Hidden::Draining]);
}

#[test]
fn the_admin_interfaces_namesake_is_a_listener() {
    let namesake = page_with("").replace(
        "listener.admin.downstream_cx_active: 1",
        "listener.admin.downstream_cx_active: 3",
    );
    let namesake = namesake.replace(
        "http.admin.downstream_cx_active: 1",
        "http.admin.downstream_cx_active: 1\nhttp.m.downstream_cx_active: 2\n\
         http.m.downstream_rq_active: 1",
    );
    let roll = "http.m.downstream_rq_active: 0\nlistener.admin.downstream_pre_cx_active: 0\n";
    let told = told(&namesake, roll);
    assert_eq!(told.hidden, []);
    assert_eq!((told.load.connections(), told.load.requests), (2, 1));
    assert_eq!(told.load.tcp_sessions, 0);
}

#[test]
fn a_connection_manager_with_the_admin_interfaces_name_has_idle_connections_too() {
    let namesake = page_with("listener.a.downstream_cx_active: 2\n").replace(
        "http.admin.downstream_cx_active: 1",
        "http.admin.downstream_cx_active: 3",
    );
    let load = told(&namesake, ROLL).load;
    assert_eq!((load.connections(), load.in_flight()), (2, 0));
    let busy = namesake.replace("rq_active: 1", "rq_active: 2");
    assert_eq!(told(&busy, ROLL).load.requests, 1);
}

#[test]
fn a_listener_named_like_a_workers_share_is_one() {
    let page = page_with(
        "listener.x.worker_3.downstream_cx_active: 2\n\
         listener.x.worker_3.downstream_pre_cx_active: 0\n\
         listener.x.worker_3.worker_0.downstream_cx_active: 2\n",
    );
    assert_eq!(told(&page, ROLL).load.connections(), 2);
    let quic = page_with("listener.x.worker_3.downstream_cx_active: 2\n");
    assert_eq!(told(&quic, ROLL).load.connections(), 2);
}

#[test]
fn a_manager_that_hides_its_requests_has_one_on_each_connection() {
    let page = page_with("http.q.downstream_cx_active: 2\nlistener.a.downstream_cx_active: 2\n");
    let told = told(&page, ROLL);
    assert_eq!(told.hidden, [Hidden::Requests]);
    assert_eq!(told.load.in_flight(), 2);
    // A manager that was never asked has no such gauge yet.
    let page = page.replace("http.q.", "http.m.");
    let told = super::tests::told(&page, ROLL);
    assert_eq!((told.hidden, told.load.in_flight()), (vec![], 0));
}

#[test]
fn a_page_that_hides_all_requests_takes_each_connection_for_one() {
    let hidden = "http.a.downstream_cx_active: 2\nlistener.a.downstream_cx_active: 2\n\
                  listener.admin.main_thread.downstream_cx_active: 1\n\
                  listener_manager.total_listeners_active: 1\nserver.live: 1\n";
    assert_eq!(told(hidden, ROLL).load.in_flight(), 2);
}

#[test]
fn http_connections_of_a_listener_that_tells_of_none_are_a_sign() {
    let page = page_with("http.m.downstream_cx_active: 1\nhttp.m.downstream_rq_active: 1\n");
    let told = told(&page, ROLL);
    assert_eq!((told.hidden, told.http), (vec![Hidden::Connections], 1));
}

#[test]
fn udp_sessions_that_are_hidden_are_missed_and_those_of_quic_are_not() {
    let udp = format!("{ROLL}listener.a.udp.downstream_rx_datagram_dropped: 0\n");
    assert_eq!(told(&page_with(""), &udp).hidden, []);
    let raw = udp.replace(
        ".http.m.downstream_rq_completed",
        ".downstream_pre_cx_active",
    );
    let raw = raw.replacen("listener.a.downstream_pre_cx_active: 0\n", "", 1);
    assert_eq!(told(&page_with(""), &raw).hidden, [Hidden::UdpSessions]);
    let shown = format!("{raw}udp.dns.downstream_sess_active: 0\n");
    assert_eq!(told(&page_with(""), &shown).hidden, []);
}

#[test]
fn an_outer_session_that_feeds_an_internal_connection_is_doubtful() {
    let mut roll = super::super::roll_call::RollCallReader::default();
    roll.feed(ROLL.as_bytes());
    roll.feed(b"listener.envoy_internal_inner.downstream_pre_cx_active: 0\n");
    let mut roll = roll.finish();
    roll.read_listed(
        r#"{"listener_statuses": [{"name": "inner", "local_address":
            {"envoy_internal_address": {"server_listener_name": "inner"}}}]}"#,
    );
    let page = page_with(
        "http.m.downstream_cx_active: 1\nhttp.m.downstream_rq_active: 0\n\
         listener.a.downstream_cx_active: 1\n\
         listener.envoy_internal_inner.downstream_cx_active: 1\n",
    );
    let load = figures(&page).load(&roll, &[]).load;
    assert_eq!(load.connections(), 1);
    assert_eq!((load.tcp_sessions, load.doubtful_sessions), (0, 1));
    // A stat prefix makes no listener internal.
    let page = page.replace("envoy_internal_inner", "envoy_internal_x");
    assert_eq!(figures(&page).load(&roll, &[]).load.connections(), 2);
}

/// Envoy's gauges have run below zero before; two such once made a zero.
#[test]
fn gauges_that_ran_below_zero_add_up_to_much_and_never_to_nothing() {
    let load = read(
        "http.a.downstream_rq_active: 18446744073709551615\n\
         http.b.downstream_rq_active: 1\n\
         listener.a.downstream_cx_active: 18446744073709551615\n\
         listener.b.downstream_cx_active: 1\n\
         server.live: 1\n\
         udp.a.downstream_sess_active: 1\n",
        &[],
    );
    assert_eq!((load.connections(), load.requests), (u64::MAX, u64::MAX));
    assert_eq!(load.in_flight(), u64::MAX);
}

#[test]
fn the_last_line_needs_no_newline() {
    assert!(figures(IDLE.trim_end()).is_proven());
}

#[test]
fn counters_of_requests_move_the_activity_and_the_admins_own_do_not() {
    let activity = |lines: &[(&str, u64)]| {
        let mut activity = ActivityReader::default();
        lines.iter().for_each(|(name, value)| {
            activity.add(name, *value, &["probes".into()], &Titles::default())
        });
        activity.finish()
    };
    let own = ("http.admin.downstream_rq_total", 7);
    assert!(activity(&[("http.a.downstream_rq_total", 1)]).is_err());
    let before = activity(&[own, ("http.a.downstream_rq_total", 1)]);
    let own = ("http.admin.downstream_rq_total", 9);
    assert_eq!(activity(&[own, ("http.a.downstream_rq_total", 1)]), before);
    assert_ne!(activity(&[own, ("http.a.downstream_rq_total", 2)]), before);
    let arrivals = activity(&[
        own,
        ("listener.0.0.0.0_80.downstream_cx_total", 5),
        ("listener.0.0.0.0_80.worker_0.downstream_cx_total", 5),
        ("listener.probes.downstream_cx_total", 7),
        ("listener.admin.downstream_cx_total", 9),
        ("listener.admin.main_thread.downstream_cx_total", 9),
        ("listener.envoy_internal_a.downstream_cx_total", 5),
    ]);
    let expected = Counters {
        activity: 0,
        arrivals: 5,
    };
    assert_eq!(arrivals, Ok(expected));
}

#[test]
fn requests_to_an_excluded_listener_are_no_activity() {
    let activity = |by_listener, lines: &[(&str, u64)]| {
        let mut activity = ActivityReader::new(by_listener);
        let own = ("http.admin.downstream_rq_total", 7);
        for (name, value) in lines.iter().chain([&own]) {
            activity.add(name, *value, &["probes".into()], &Titles::default());
        }
        activity.finish().unwrap().activity
    };
    let probes = |count| ("listener.probes.http.health.downstream_rq_completed", count);
    let health = |count| ("http.health.downstream_rq_total", count);
    let web = ("http.web.downstream_rq_total", 3);
    assert_eq!(activity(true, &[health(1), web, probes(1)]), 3);
    assert_eq!(activity(true, &[health(9), web, probes(9)]), 3);
    // Another listener has a manager of the same name.
    let other = ("listener.0.0.0.0_80.http.health.downstream_rq_completed", 2);
    assert_eq!(activity(true, &[health(9), web, other, probes(7)]), 5);
    // Nothing tells that it is the excluded one's.
    assert_eq!(activity(true, &[health(9), web]), 12);
    // Some listener does not tell.
    assert_eq!(activity(false, &[health(9), web, probes(9)]), 21);
}

proptest! {
    #[test]
    fn pieces_do_not_matter(cuts in proptest::collection::vec(0..BUSY.len(), 0..20)) {
        let mut cuts = cuts;
        cuts.sort_unstable();
        let mut page = GaugeReader::default();
        let mut from = 0;
        for cut in cuts {
            page.feed(&BUSY.as_bytes()[from..cut]);
            from = cut;
        }
        page.feed(&BUSY.as_bytes()[from..]);
        let load = page.finish().load(&RollCall::of_a_stand_in(), &[]).load;
        prop_assert_eq!(load, read(BUSY, &[]));
    }

    #[test]
    fn garbage_proves_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let mut page = GaugeReader::default();
        page.feed(&bytes);
        prop_assert!(!page.finish().is_proven());
    }
}
