//! Pictures of what nobody would expect: control characters, thousands of listeners, any JSON.

use super::*;

#[test]
fn no_control_character_reaches_the_terminal() {
    let mut status = draining();
    let evil = "a\x1b]0;b\x07\r\nc\u{9b}";
    for path in ["/reason", "/drain/cause", "/admin/address"] {
        *status.pointer_mut(path).unwrap() = evil.into();
    }
    status["listeners"][0]["name"] = evil.into();
    status["listeners"][0]["address"] = evil.into();
    status["certificates"] = json!([{"secret": evil, "last_error": evil, "serial": evil}]);
    status["reload"] = json!({"ok": false, "message": evil});
    status["clients"] = json!([{"listener": evil, "address": evil}]);
    let shown = render(&status, WIDE) + &render(&status, NARROW) + &lines(&status).join("\n");
    assert!(shown.lines().all(|line| !line.contains(char::is_control)));
    assert!(shown.contains("a?]0;b?  c?"), "{shown}");
}

/// Thousands of listeners are drawn in a time that grows as their number does: if it grew as the
/// square, this would take minutes of the processor, whoever else wants that.
#[test]
fn thousands_of_listeners_are_a_picture() {
    let listeners = |connections: u64| -> Value {
        let listener =
            |number| json!({"name": format!("10.0.0.1:{number}"), "connections": connections});
        (0..20_000).map(listener).collect()
    };
    let client = |number| json!({"listener": format!("10.0.0.1:{number}"), "address": "a"});
    let mut status = draining();
    status["listeners"] = listeners(2);
    status["drain"]["first"]["listeners"] = listeners(7);
    status["clients"] = (0..20_000).map(client).collect();
    let used = || {
        clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
            .unwrap()
            .tv_sec()
    };
    let start = used();
    let table = render(&status, WIDE);
    assert!(table.contains("\n  10.0.0.1:19999  2 of 7    a\n"));
    let screen = Style {
        height: 24,
        ..NARROW
    };
    for _ in 0..10 {
        assert!(render(&status, screen).contains("more listeners with 39"));
    }
    assert!(used() - start < 20);
}

#[test]
fn listeners_without_a_connection_do_not_fill_the_screen() {
    let mut status = live();
    let listener = |number: u64| json!({"name": format!("l{number:02}"), "connections": u64::from(number == 7)});
    status["listeners"] = (0..30).map(listener).collect();
    let table = render(&status, WIDE);
    let shown: Vec<&str> = table
        .lines()
        .filter(|line| line.starts_with("  "))
        .collect();
    assert_eq!(shown.len(), 12, "{table}");
    assert_eq!(shown[0], "  l07  1");
    assert_eq!(shown[11], "  19 more listeners with no connection");
}

#[test]
fn any_json_is_a_picture() {
    for status in [
        json!(null),
        json!(7),
        json!([]),
        json!({}),
        json!({"drain": 7, "listeners": {"a": 1}, "certificates": [1, null], "clients": [7]}),
        json!({"connections": -1, "drain": {"elapsed_seconds": -1, "timeout_seconds": 0}}),
        json!({"drain": {"elapsed_seconds": 1e300, "first": {"connections": 0}}, "connections": 0}),
        json!({"reload": 7, "envoy": {"last_end": 7}, "listeners": [1, {}], "clients": {}}),
    ] {
        for state in [
            Value::Null,
            "drained".into(),
            "live".into(),
            "draining".into(),
        ] {
            let mut status = status.clone();
            if status.is_object() {
                status["state"] = state;
            }
            assert!(render(&status, NARROW).contains("drainit "));
            assert!(!lines(&status).is_empty());
        }
    }
}

#[test]
fn a_line_is_new_when_something_happened_and_not_when_time_passed() {
    let first = lines(&draining());
    assert_eq!(
        first,
        ["draining: 12 of 340 left, 3 requests in flight, 3 TCP sessions, 1 UDP session"]
    );
    let mut later = draining();
    later["drain"]["elapsed_seconds"] = 5.into();
    assert_eq!(lines(&later), first);
    later["connections"] = 11.into();
    assert_ne!(lines(&later), first);
    assert_eq!(lines(&live()), ["live: live 0.41 s after its start"]);
    let mut refused_now = live();
    refused_now["certificates"] = json!([refused()]);
    let text = "REFUSED: www: the key does not fit tls.key";
    let both = lines(&refused_now);
    assert!(both.len() == 2 && both[1].starts_with(text), "{both:?}");
}
