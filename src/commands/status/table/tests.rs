mod anything;

use nix::time::{ClockId, clock_gettime};
use serde_json::json;

use super::*;

const WIDE: Style = Style {
    color: false,
    width: usize::MAX,
    height: usize::MAX,
};

const NARROW: Style = Style { width: 80, ..WIDE };

fn live() -> Value {
    json!({
        "state": "live",
        "since": "2027-01-15T07:59:46.000Z",
        "since_seconds": 11_520.0,
        "reason": "live 0.41 s after its start",
        "drainit": {"pid": 1, "version": "1.1.0", "uptime_seconds": 11_521.0, "listen": "[::]:8090"},
        "envoy": {"pid": 7, "version": "1.40.0", "uptime_seconds": 11_520.5, "restarts": 0},
        "admin": {
            "address": "127.0.0.1:9901",
            "ready": "LIVE",
            "error": null,
            "answered_seconds_ago": 0.5,
            "failing_seconds": null,
            "listeners": 2,
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
        {"name": "https", "address": "0.0.0.0:8443", "connections": https, "excluded": false},
        {"name": "metrics", "address": "0.0.0.0:8002", "connections": 1, "excluded": true},
        {"name": "0.0.0.0:9000", "address": null, "connections": tcp, "excluded": false},
    ])
}

fn draining() -> Value {
    let mut status = live();
    status["state"] = "draining".into();
    status["reason"] = "SIGTERM".into();
    status["since_seconds"] = 4.2.into();
    status["listeners"] = listeners(3, 9);
    status["connections"] = 12.into();
    status["requests"] = 3.into();
    status["tcp_sessions"] = 3.into();
    status["udp_sessions"] = 1.into();
    status["looked_seconds_ago"] = 0.2.into();
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
    status
}

fn refused() -> Value {
    json!({
        "secret": "www",
        "generation": 2,
        "serial": "3f9a02bcd1e5f60718293a4b5c6d7e8f90a1b2c3",
        "not_after": "2027-02-14T00:00:00.000Z",
        "lifetime_seconds": 7_776_000,
        "left_seconds": 2_563_200,
        "last_result": "refused",
        "last_error": "the key does not fit tls.key",
        "changed_seconds_ago": 180.0,
        "stale": true,
    })
}

#[track_caller]
fn has_line(status: &Value, line: &str) {
    let table = render(status, WIDE);
    assert!(table.lines().any(|found| found == line), "{line}\n{table}");
}

#[test]
fn an_envoy_at_rest_is_told_in_a_few_lines() {
    assert_eq!(
        render(&live(), WIDE),
        "\
live for 3 h 12 min: what is open is not known
envoy        1.40.0, pid 7, up 3 h 12 min
admin        127.0.0.1:9901
drainit      1.1.0, pid 1, up 3 h 12 min, listens on [::]:8090
"
    );
}

#[test]
fn a_drain_shows_what_it_waits_for_and_where_the_most_is_left() {
    assert_eq!(
        render(&draining(), WIDE),
        "\
draining for 4.2 s: waits for 3 requests, 3 TCP sessions, 1 UDP session
[######----------------------------------] 13 of 340 left, 20.8 s to go
  0.0.0.0:9000  9 of  40
  https         3 of 300  0.0.0.0:8443
  metrics       1 of   1  0.0.0.0:8002, does not count
drain        SIGTERM; envoy is stopped by 08:00:25 UTC, after 25 s
steps        health check failed +0.01 s, listeners draining +0.25 s
envoy        1.40.0, pid 7, up 3 h 12 min
admin        127.0.0.1:9901
drainit      1.1.0, pid 1, up 3 h 12 min, listens on [::]:8090
"
    );
}

#[test]
fn a_drain_with_idle_connections_waits_for_those_to_close() {
    let mut status = draining();
    for name in ["requests", "tcp_sessions", "udp_sessions"] {
        status[name] = 0.into();
    }
    let first = |status: &Value| render(status, WIDE).lines().next().unwrap().to_owned();
    assert_eq!(
        first(&status),
        "draining for 4.2 s: waits for 12 idle connections to close"
    );
    status["looked_seconds_ago"] = 12.0.into();
    assert!(first(&status).ends_with(" to close (12 s ago)"));
    status["connections"] = Value::Null;
    assert_eq!(
        first(&status),
        "draining for 4.2 s: envoy has not told what is left (12 s ago)"
    );
}

#[test]
fn a_drain_that_was_cut_is_not_told_as_drained() {
    let mut status = draining();
    status["state"] = "drained".into();
    let drain = &mut status["drain"];
    drain["result"] = "deadline".into();
    drain["clean"] = false.into();
    drain["left_seconds"] = Value::Null;
    drain["verdict"] =
        "CUT by the deadline after 25 s (SIGUSR2): 340 connections at the start, 12 \
                        at the end"
            .into();
    let table = render(&status, WIDE);
    let first = table.lines().next().unwrap();
    assert_eq!(
        first,
        "not drained for 4.2 s: CUT by the deadline after 25 s (SIGUSR2): 340 connections at the \
         start, 12 at the end; envoy stays until it is told to stop"
    );
    assert!(!table.contains("to go"), "{table}");
    // Of an Envoy that is gone, nothing is left.
    status["envoy"]["pid"] = Value::Null;
    status["listeners"] = Value::Null;
    status["connections"] = Value::Null;
    let table = render(&status, WIDE);
    assert!(table.contains("; waits to be told to stop\n"), "{table}");
    assert!(!table.contains("0.0.0.0:9000"), "{table}");
}

#[test]
fn what_is_wrong_comes_first_on_its_line() {
    let mut status = live();
    status["certificates"] = json!([refused()]);
    has_line(
        &status,
        "REFUSED 3 min ago: www: the key does not fit tls.key; the old one is good for 29 d",
    );
    has_line(
        &status,
        "certificate  www: good only for 29 d of 90 d, until 2027-02-14, serial 3f9a02bc...",
    );
    status["reload"] = json!({"ok": false, "message": "no such field", "ended_seconds_ago": 107.2});
    has_line(&status, "RELOAD FAILED 1 min 47 s ago: no such field");
    // A certificate's failure is over once that is loaded well; another's is none of it.
    let failed = json!({"ok": false, "of_certificates": true, "ended_seconds_ago": 107.2,
        "message": "www: the key does not fit tls.key"});
    let failure = std::mem::replace(&mut status["reload"], failed);
    has_line(
        &status,
        "RELOAD FAILED 1 min 47 s ago: www: the key does not fit tls.key",
    );
    for error in [json!("is empty"), Value::Null] {
        status["certificates"][0]["stale"] = (!error.is_null()).into();
        status["certificates"][0]["last_error"] = error;
        let table = render(&status, WIDE);
        assert!(!table.contains("RELOAD FAILED"), "{table}");
    }
    status["certificates"][0]["stale"] = true.into();
    has_line(
        &status,
        "RELOAD FAILED 1 min 47 s ago: www: the key does not fit tls.key",
    );
    status["reload"] = failure;
    status["reload"]["ok"] = true.into();
    has_line(&status, "reload       1 min 47 s ago: no such field");
    status["reloading"] = true.into();
    has_line(&status, "reload       under way");
    status["admin"]["failing_seconds"] = 12.0.into();
    status["admin"]["error"] = "connection refused".into();
    has_line(&status, "NO ANSWER for 12 s: connection refused");
    status["hidden"] = "envoy hides it".into();
    has_line(&status, "HIDDEN: envoy hides it");
    status["degraded"] = true.into();
    assert!(render(&status, WIDE).contains("\nDEGRADED: "));
    status["admin"]["listeners"] = 0.into();
    assert!(render(&status, WIDE).contains("\nNOT READY: "));
}

#[test]
fn certificates_that_are_not_good_are_told_with_what_is_served() {
    let with = |change: &dyn Fn(&mut Value)| {
        let mut status = live();
        status["certificates"] = json!([refused()]);
        change(&mut status["certificates"][0]);
        status
    };
    for (result, word) in [("rejected", "REJECTED"), ("ok", "STALE")] {
        let status = with(&|it| it["last_result"] = result.into());
        assert!(render(&status, WIDE).contains(&format!("\n{word} 3 min ago: www: the key")));
    }
    let status = with(&|it| it["last_result"] = "unconfirmed".into());
    assert!(render(&status, WIDE).contains("tls.key; it is good for 29 d\n"));
    let status = with(&|it| it["left_seconds"] = (-60).into());
    assert!(render(&status, WIDE).contains("; the old one expired 1 min ago\n"));
    let status = with(&|it| {
        it["last_error"] = Value::Null;
        it["left_seconds"] = (-60).into();
    });
    has_line(&status, "EXPIRED 1 min ago: www");
    for (result, word) in [
        ("ok".into(), "its files hold another\n"),
        (
            Value::Null,
            "envoy has not taken it: does a listener use it?\n",
        ),
    ] {
        let status = with(&|it| {
            it["last_error"] = Value::Null;
            it["last_result"] = result.clone();
        });
        assert!(render(&status, WIDE).contains(word));
        let mut status = status;
        status["state"] = "starting".into();
        assert!(render(&status, WIDE).contains(", envoy has not confirmed it yet\n"));
    }
    let status = with(&|it| {
        *it = json!({"secret": "www", "generation": 0, "last_error": "a is missing"});
    });
    has_line(&status, "STALE: www: a is missing; there is no old one");
    // A leaf and its CA are one set, and refused together.
    let mut status = with(&|_| {});
    let mut ca = refused();
    ca["secret"] = "ca".into();
    status["certificates"].as_array_mut().unwrap().push(ca);
    let table = render(&status, WIDE);
    assert_eq!(table.matches("REFUSED").count(), 1, "{table}");
    assert!(table.contains(": www, ca: the key"), "{table}");
}

#[test]
fn an_envoy_that_ends_again_and_again_is_told_with_its_last_end_and_the_next_try() {
    let mut status = live();
    status["state"] = "restarting".into();
    status["reason"] = "envoy exited: killed by SIGSEGV".into();
    status["since_seconds"] = 3.1.into();
    status["envoy"] = json!({
        "pid": null,
        "restarts": 6,
        "next_start_seconds": 12.3,
        "last_end": {"how": "killed by SIGSEGV", "seconds_ago": 3.1, "lived_seconds": 1.2},
    });
    status["admin"]["failing_seconds"] = 3.1.into();
    assert_eq!(
        render(&status, WIDE),
        "\
restarting for 3.1 s: envoy is started again in 12.3 s
ENDED 3.1 s ago: envoy: killed by SIGSEGV, 1.2 s after its start; restarted 6 times so far
envoy        not running
drainit      1.1.0, pid 1, up 3 h 12 min, listens on [::]:8090
"
    );
    status["envoy"]["next_start_seconds"] = Value::Null;
    assert!(render(&status, WIDE).starts_with("restarting for 3.1 s: why envoy ended is being"));
    // Long ago, it is a detail.
    let mut status = live();
    status["envoy"]["restarts"] = 1.into();
    status["envoy"]["last_end"] =
        json!({"how": "exit code 1", "seconds_ago": 7_200.0, "lived_seconds": 60.0});
    has_line(
        &status,
        "last end     ENDED 2 h ago: envoy: exit code 1, 1 min after its start; restarted once so far",
    );
}

#[test]
fn who_holds_a_listener_stands_beside_it_where_there_is_room_and_below_it_elsewhere() {
    let mut status = draining();
    let client = |number: u64, listener: &str| {
        json!({
            "listener": listener,
            "address": format!("10.1.2.{number}:51234"),
            "age_seconds": 2_460.0,
            "silent_seconds": if number == 1 { json!(12.3) } else { Value::Null },
        })
    };
    let clients: Vec<Value> = (1..=9)
        .map(|number| client(number, "0.0.0.0:9000"))
        .collect();
    status["clients"] = clients.into();
    let table = render(&status, NARROW);
    assert!(
        table.contains(
            "
  0.0.0.0:9000  9 of  40
    10.1.2.1:51234, over 41 min old, silent 12.3 s
    10.1.2.2:51234, over 41 min old
    10.1.2.3:51234, over 41 min old, and 6 more
  https         3 of 300  0.0.0.0:8443
"
        ),
        "{table}"
    );
    let table = render(&status, Style { width: 120, ..WIDE });
    let line = format!(
        "  0.0.0.0:9000  9 of  40  {:28}  10.1.2.1:51234, over 41 min old, silent 12.3 s; and 8 more",
        ""
    );
    assert!(table.lines().any(|found| found == line), "{table}");
}

#[test]
fn colours_are_added_and_nothing_else() {
    let mut status = draining();
    status["certificates"] = json!([refused()]);
    let style = Style {
        color: true,
        ..WIDE
    };
    let colored = render(&status, style);
    for painted in [
        "\x1b[1;33mdraining\x1b[0m for",
        "\x1b[1;31mREFUSED 3 min ago:\x1b[0m www",
    ] {
        assert!(colored.contains(painted), "{colored:?}");
    }
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
    assert_eq!(text.replace("\x1b[0m", ""), render(&status, WIDE));
}

#[test]
fn no_line_is_wider_than_the_terminal_and_what_is_cut_says_so() {
    let mut status = draining();
    status["certificates"] = json!([refused()]);
    status["listeners"][0]["name"] = "a".repeat(100).into();
    for width in [0, 1, 7, 20, 40, 80] {
        let table = render(&status, Style { width, ..WIDE });
        assert!(
            table.lines().all(|line| line.chars().count() <= width),
            "{width}\n{table}"
        );
    }
    let table = render(&status, NARROW);
    let name = format!("  {}...  3 ", "a".repeat(37));
    assert!(table.contains(&name), "{table}");
    // What is wrong is whole, and so is what is waited for.
    for width in [40, 80] {
        let table = render(&status, Style { width, ..WIDE });
        let words = table.split_whitespace().collect::<Vec<_>>().join(" ");
        for text in [
            "draining for 4.2 s: waits for 3 requests, 3 TCP sessions, 1 UDP session",
            "REFUSED 3 min ago: www: the key does not fit tls.key; the old one is good for 29 d",
        ] {
            assert!(words.contains(text), "{table}");
        }
    }
}

#[test]
fn a_low_window_has_what_is_wrong_first_then_the_listeners_then_the_details() {
    let mut status = draining();
    status["certificates"] = json!([refused()]);
    let picture = |height| render(&status, Style { height, ..NARROW });
    let whole = render(&status, NARROW);
    let lines = whole.lines().count();
    for height in 0..lines {
        assert_eq!(picture(height).lines().count(), height);
    }
    assert_eq!(picture(lines), whole);
    let has = |height, text: &str| picture(height).contains(text);
    for (text, needed) in [
        ("draining for", 1),
        ("] 13 of 340 left, 20.8 s to go", 2),
        ("REFUSED 3 min ago: www", 3),
        ("0.0.0.0:9000", 6),
        ("metrics", 7),
    ] {
        assert!(has(needed, text) && !has(needed - 1, text), "{text}");
    }
    assert!(picture(5).ends_with("3 more listeners with 12 connections\n"));
    assert!(picture(9).ends_with("more lines\n"), "{}", picture(9));
}
