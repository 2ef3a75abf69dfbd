use serde_json::json;

use super::*;

const WIDE: Style = Style {
    color: false,
    width: usize::MAX,
    height: usize::MAX,
};

fn live() -> Value {
    json!({
        "state": "live",
        "since": "2027-01-15T07:59:46.000Z",
        "since_seconds": 11_520.0,
        "reason": "live 0.41 s after its start",
        "drainit": {"pid": 1, "version": "0.1.0", "uptime_seconds": 11_521.0},
        "envoy": {"pid": 7, "version": "1.40.0", "uptime_seconds": 11_520.5, "restarts": 0},
        "admin": {
            "address": "127.0.0.1:9901",
            "ready": "LIVE",
            "error": null,
            "answered_seconds_ago": 0.5,
            "failing_seconds": null,
        },
        "listeners": null,
        "connections": null,
        "requests": null,
        "tcp_sessions": null,
        "udp_sessions": null,
        "drain": null,
        "certificates": [],
    })
}

fn listeners(https: u64, tcp: u64) -> Value {
    json!([
        {"name": "https", "connections": https, "excluded": false},
        {"name": "metrics", "connections": 1, "excluded": true},
        {"name": "tcp", "connections": tcp, "excluded": false},
    ])
}

fn draining() -> Value {
    let mut status = live();
    status["state"] = "draining".into();
    status["reason"] = "SIGTERM".into();
    status["since_seconds"] = 4.2.into();
    status["listeners"] = listeners(9, 3);
    status["connections"] = 12.into();
    status["requests"] = 3.into();
    status["tcp_sessions"] = 3.into();
    status["udp_sessions"] = 1.into();
    status["drain"] = json!({
        "cause": "SIGTERM",
        "elapsed_seconds": 4.2,
        "deadline": "2027-01-15T08:00:25.000Z",
        "timeout_seconds": 25.0,
        "left_seconds": 20.8,
        "stops": true,
        "timeline": [
            {"event": "asked", "at": "2027-01-15T08:00:00.000Z", "after_seconds": 0.0},
            {"event": "health check failed", "at": "2027-01-15T08:00:00.012Z", "after_seconds": 0.012},
            {"event": "listeners draining", "at": "2027-01-15T08:00:00.250Z", "after_seconds": 0.25},
        ],
        "first": {"listeners": listeners(300, 40), "connections": 340},
        "result": null,
        "clean": null,
    });
    status["certificates"] = json!([
        {
            "secret": "xds",
            "generation": 2,
            "serial": "1f",
            "not_after": "2027-02-14T00:00:00.000Z",
            "lifetime_seconds": 7_776_000,
            "left_seconds": 2_563_200,
            "last_result": "refused",
            "last_error": "the key is not the certificate's",
        },
        {"secret": "ca", "generation": 0},
    ]);
    status
}

#[test]
fn an_envoy_at_rest_is_told_in_five_lines() {
    assert_eq!(
        render(&live(), WIDE),
        "\
drainit 0.1.0, pid 1, up 3 h 12 min
state        live for 3 h 12 min, since 2027-01-15T07:59:46.000Z: live 0.41 s after its start
envoy        pid 7, version 1.40.0, up 3 h 12 min, never restarted
admin        127.0.0.1:9901, answered 0.50 s ago, /ready said LIVE
connections  not known
"
    );
}

#[test]
fn a_drain_shows_what_is_left_and_how_long() {
    assert_eq!(
        render(&draining(), WIDE),
        "\
drainit 0.1.0, pid 1, up 3 h 12 min
state        draining for 4.2 s, since 2027-01-15T07:59:46.000Z: SIGTERM
envoy        pid 7, version 1.40.0, up 3 h 12 min, never restarted
admin        127.0.0.1:9901, answered 0.50 s ago, /ready said LIVE
connections  12 of 340 left, 3 requests in flight, 3 TCP sessions, 1 UDP session
  https: 9 of 300
  metrics: 1 of 1 (excluded: these do not count)
  tcp: 3 of 40
drain        SIGTERM: 20.8 s left of 25 s, until 2027-01-15T08:00:25.000Z at the latest, then envoy is stopped
  drained    [################################################--]  96 %
  deadline   [########------------------------------------------]  16 %
  2027-01-15T08:00:00.000Z      +0 s  asked
  2027-01-15T08:00:00.012Z   +0.01 s  health check failed
  2027-01-15T08:00:00.250Z   +0.25 s  listeners draining
certificate  xds, generation 2, serial 1f, 29 d of 90 d left, until 2027-02-14T00:00:00.000Z, last change refused
  the key is not the certificate's
certificate  ca, generation 0
"
    );
}

#[test]
fn a_drain_that_is_over_has_a_result_and_no_bars() {
    let mut status = draining();
    status["state"] = "drained".into();
    status["drain"]["result"] = "deadline".into();
    status["drain"]["clean"] = false.into();
    status["drain"]["left_seconds"] = Value::Null;
    let table = render(&status, WIDE);
    assert!(
        table.contains("\ndrain        SIGTERM: deadline after 4.2 s of 25 s\n"),
        "{table}"
    );
    assert!(!table.contains('['), "{table}");
}

#[test]
fn what_is_wrong_is_said() {
    let mut status = live();
    status["state"] = "restarting".into();
    status["envoy"] = json!({"pid": null, "restarts": 3});
    status["admin"] = json!({"error": "connection refused", "failing_seconds": 12.0});
    status["certificates"] = json!([
        {"secret": "xds", "not_after": "2027-01-01T00:00:00.000Z", "left_seconds": -60},
    ]);
    let table = render(&status, WIDE);
    for line in [
        "envoy        not running, restarted 3 times",
        "admin        address not known yet, failing for 12 s: connection refused",
        "certificate  xds, generation 0, expired since 2027-01-01T00:00:00.000Z",
    ] {
        assert!(table.lines().any(|found| found == line), "{line}\n{table}");
    }
}

#[test]
fn colours_are_added_and_nothing_else() {
    let style = Style {
        color: true,
        ..WIDE
    };
    let colored = render(&draining(), style);
    assert!(
        colored.contains("\x1b[1;33mdraining\x1b[0m for"),
        "{colored:?}"
    );
    let mut text = colored;
    for paint in [
        Paint::Bold,
        Paint::Dim,
        Paint::Good,
        Paint::Busy,
        Paint::Bad,
    ] {
        text = text.replace(paint.code(), "");
    }
    assert_eq!(text.replace("\x1b[0m", ""), render(&draining(), WIDE));
}

#[test]
fn no_line_is_wider_than_the_terminal() {
    for width in [0, 1, 7, 20, 40, 80] {
        let style = Style { width, ..WIDE };
        let table = render(&draining(), style);
        assert!(
            table.lines().all(|line| line.chars().count() <= width),
            "{width}\n{table}"
        );
    }
}

#[test]
fn a_low_window_has_the_bars_first_then_the_listeners_then_what_happened_last() {
    let mut status = draining();
    status["certificates"] = json!([]);
    let picture = |height| render(&status, Style { height, ..WIDE });
    let has = |height, text: &str| picture(height).contains(text);
    for height in 0..14 {
        assert_eq!(picture(height).lines().count(), height);
    }
    assert_eq!(picture(14), render(&status, WIDE));
    for (text, needed) in [
        ("drained    [", 7),
        ("deadline   [", 8),
        ("https: ", 9),
        ("tcp: ", 11),
        ("listeners draining", 12),
        ("asked", 14),
    ] {
        assert!(has(needed, text) && !has(needed - 1, text), "{text}");
    }
}

#[test]
fn no_control_character_reaches_the_terminal() {
    let mut status = draining();
    let evil = "a\x1b]0;b\x07\r\nc\u{9b}";
    for path in ["/reason", "/drain/cause", "/admin/address"] {
        *status.pointer_mut(path).unwrap() = evil.into();
    }
    status["listeners"][0]["name"] = evil.into();
    let shown = render(&status, WIDE) + &line(&status);
    assert!(shown.lines().all(|line| !line.contains(char::is_control)));
    assert!(shown.contains("a?]0;b?  c?"), "{shown}");
}

/// Which is to say in a time that grows as their number does: if it grew as the square, this would
/// take minutes.
#[test]
fn thousands_of_listeners_are_a_table() {
    let listeners = |connections: u64| -> Value {
        let listener =
            |number| json!({"name": format!("10.0.0.1_{number}"), "connections": connections});
        (0..20_000).map(listener).collect()
    };
    let mut status = draining();
    status["listeners"] = listeners(2);
    status["drain"]["first"]["listeners"] = listeners(7);
    let start = std::time::Instant::now();
    let table = render(&status, WIDE);
    assert!(table.contains("\n  10.0.0.1_19999: 2 of 7\n"));
    assert!(start.elapsed() < std::time::Duration::from_secs(20));
}

#[test]
fn any_json_is_a_table() {
    for status in [
        json!(null),
        json!(7),
        json!([]),
        json!({}),
        json!({"drain": 7, "listeners": {"a": 1}, "certificates": [1, null]}),
        json!({"connections": -1, "drain": {"elapsed_seconds": -1, "timeout_seconds": 0}}),
        json!({"drain": {"elapsed_seconds": 1e300, "first": {"connections": 0}}, "connections": 0}),
    ] {
        assert!(render(&status, WIDE).starts_with("drainit "));
        assert!(!line(&status).is_empty());
    }
}

#[test]
fn a_line_is_new_when_something_happened_and_not_when_time_passed() {
    let first = line(&draining());
    assert_eq!(
        first,
        "draining: 12 of 340 left, 3 requests in flight, 3 TCP sessions, 1 UDP session"
    );
    let mut later = draining();
    later["drain"]["elapsed_seconds"] = 5.into();
    assert_eq!(line(&later), first);
    later["connections"] = 11.into();
    assert_ne!(line(&later), first);
    assert_eq!(line(&live()), "live: live 0.41 s after its start");
}
