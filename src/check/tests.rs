use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::judge;
use crate::certificates::read::Source;
use crate::check::config::Config;
use crate::check::facts::{AdminSetting, Facts, Orchestrator};
use crate::check::report::Finding;
use crate::client::Address;

const TYPE: &str = "type.googleapis.com/envoy";

fn socket(port: u16) -> Value {
    json!({ "socket_address": { "address": "0.0.0.0", "port_value": port } })
}

fn chain(filter: &Value) -> Value {
    json!([{ "filters": [{ "name": "x", "typed_config": filter }] }])
}

/// A listener with this HTTP connection manager and these routes.
fn http(name: &str, options: &Value, routes: &Value) -> Value {
    let mut manager = json!({
        "@type": format!("{TYPE}.v3.HttpConnectionManager"),
        "stat_prefix": name,
        "route_config": { "virtual_hosts": [{ "routes": routes }] },
    });
    merge(&mut manager, options);
    json!({ "name": name, "address": socket(80), "filter_chains": chain(&manager) })
}

fn tcp(options: &Value) -> Value {
    let mut proxy = json!({ "@type": format!("{TYPE}.v3.TcpProxy"), "stat_prefix": "tcp" });
    merge(&mut proxy, options);
    json!({ "name": "tcp", "address": socket(81), "filter_chains": chain(&proxy) })
}

fn udp(options: &Value) -> Value {
    let mut proxy = json!({ "@type": format!("{TYPE}.v3.UdpProxyConfig"), "stat_prefix": "udp" });
    merge(&mut proxy, options);
    let address = json!({ "socket_address": {
        "protocol": "UDP", "address": "::", "port_value": 53 } });
    json!({ "name": "udp", "address": address, "listener_filters": [{ "typed_config": proxy }] })
}

fn merge(into: &mut Value, from: &Value) {
    let into = into.as_object_mut().unwrap();
    into.extend(from.as_object().unwrap().clone());
}

fn route(route: &Value) -> Value {
    json!([{ "match": { "prefix": "/" }, "route": route }])
}

/// What a bootstrap of these listeners is, with something besides.
fn facts(listeners: &[Value], besides: &Value) -> Facts {
    let mut bootstrap = json!({ "static_resources": { "listeners": listeners } });
    merge(&mut bootstrap, besides);
    Facts {
        config: Config::of_text(&bootstrap.to_string()),
        version: Some("1.40.0".into()),
        admin: AdminSetting::At(Address::Tcp("127.0.0.1:9901".into())),
        ..Facts::default()
    }
}

/// The rules that found something, each with its places.
fn found(facts: &Facts) -> Vec<String> {
    let report = judge(facts);
    let line = |one: &Finding| {
        assert!(!one.what.is_empty() && !one.remedy.is_empty(), "{one:?}");
        let places = one.places.iter().map(|place| format!(" {place}"));
        format!("{}{}", one.rule, places.collect::<String>())
    };
    report.findings.iter().map(line).collect()
}

#[track_caller]
fn expect(facts: &Facts, expected: &[&str]) {
    assert_eq!(found(facts), expected);
}

#[test]
fn a_configuration_that_could_not_be_read_is_a_finding() {
    let mut facts = Facts {
        unread: Some("unable to open netns file".into()),
        ..Facts::default()
    };
    expect(&facts, &["unread"]);
    facts.refusal = Some("it is bad".into());
    expect(&facts, &["refused"]);
}

#[test]
fn listeners_that_share_a_name_in_the_statistics_are_told_as_one() {
    let mut listeners = ["one", "two", "three"].map(|name| {
        let mut listener = http(name, &json!({}), &json!([]));
        listener["stat_prefix"] = "shared".into();
        listener
    });
    listeners[2]["stat_prefix"] = "alone".into();
    expect(
        &facts(&listeners, &json!({})),
        &["stat-prefix one (0.0.0.0:80) two (0.0.0.0:80)"],
    );
    listeners[0]["stat_prefix"] = "".into();
    listeners[2]["stat_prefix"] = "".into();
    expect(&facts(&listeners, &json!({})), &[]);
}

#[test]
fn what_is_right_is_not_found_fault_with() {
    let web = http(
        "web",
        &json!({}),
        &route(&json!({ "cluster": "a", "timeout": "20s" })),
    );
    let all = [
        web,
        tcp(&json!({ "check_drain_close": true })),
        udp(&json!({ "idle_timeout": "2s" })),
    ];
    let facts = facts(&all, &json!({}));
    expect(&facts, &[]);
    let report = judge(&facts);
    assert_eq!(report.unseen, [""; 0]);
    let rows = report.prospects.iter();
    let rows: Vec<_> = rows
        .map(|one| [one.kind, one.told, &one.waits, one.cut])
        .collect();
    assert_eq!(
        rows,
        [
            ["http", "next response", "requests", "-"],
            ["tcp", "next byte", "sessions", "sessions"],
            ["udp", "no", "sessions, 2 s idle", "sessions"],
        ]
    );
}

#[test]
fn each_thing_that_is_wrong_with_a_listener_is_found_once() {
    let none = json!({});
    let all = route(&json!({ "cluster": "a" }));
    let limit = json!({ "common_http_protocol_options": { "max_stream_duration": "5s" } });
    let endless = route(&json!({ "cluster": "a", "timeout": "0s" }));
    for (listener, expected) in [
        (http("w", &none, &endless), &["timeout w (0.0.0.0:80)"][..]),
        (http("w", &limit, &endless), &[]),
        (
            http("w", &none, &route(&json!({ "timeout": "26s" }))),
            &["timeout w (0.0.0.0:80)"],
        ),
        (
            http("w", &json!({ "stream_idle_timeout": "0s" }), &all),
            &["idle-timeout w (0.0.0.0:80)"],
        ),
        (
            http(
                "w",
                &json!({ "common_http_protocol_options": { "idle_timeout": "0s" } }),
                &all,
            ),
            &["idle-timeout w (0.0.0.0:80)"],
        ),
        (tcp(&none), &["tcp-drain tcp (0.0.0.0:81)"]),
        (
            tcp(&json!({ "check_drain_close": true, "idle_timeout": "0s" })),
            &["idle-timeout tcp (0.0.0.0:81)"],
        ),
        // Envoy's default is a minute.
        (udp(&none), &["idle-timeout udp ([::]:53)"]),
        (
            http("metrics", &none, &all),
            &["exclude metrics (0.0.0.0:80)"],
        ),
        (
            http(
                "a",
                &none,
                &json!([{ "match": { "path": "/healthz/ready" } }]),
            ),
            &["exclude a (0.0.0.0:80)"],
        ),
        (http("market-stats-api", &none, &all), &[]),
    ] {
        let listeners = [listener];
        let mut facts = facts(&listeners, &json!({}));
        expect(&facts, expected);
        // One that does not count may be as it likes.
        facts.options.exclude_listeners = vec![":80".into(), ":81".into(), ":53".into()];
        let rest = found(&facts);
        let unknown = |rule: &String| rule == "exclude";
        assert!(rest.iter().all(unknown), "{rest:?}");
        assert!(judge(&facts).prospects[0].excluded);
    }
}

#[test]
fn what_a_version_cannot_do_is_not_asked_of_it() {
    let mut facts = facts(&[tcp(&json!({}))], &json!({}));
    facts.args = ["--drain-time-s", "20"].map(Into::into).into();
    expect(&facts, &["drain-time", "tcp-drain tcp (0.0.0.0:81)"]);
    facts.version = Some("1.38.2".into());
    expect(&facts, &[]);
    assert_eq!(judge(&facts).prospects[0].told, "no");
    facts.version = Some("1.40.0".into());
    facts.args = ["--drain-time-s", "38"].map(Into::into).into();
    expect(&facts, &["tcp-drain tcp (0.0.0.0:81)"]);
}

#[test]
fn a_listener_of_http_and_of_tcp_chains_has_sessions() {
    let mut both = http("both", &json!({}), &json!([]));
    let other = tcp(&json!({}))["filter_chains"][0].clone();
    both["filter_chains"].as_array_mut().unwrap().push(other);
    let report = judge(&facts(&[both], &json!({})));
    let row = &report.prospects[0];
    assert_eq!(
        (row.waits.as_str(), row.cut),
        ("requests, sessions", "sessions")
    );
}

#[test]
fn quic_of_drain_type_modify_only_is_found() {
    let mut listener = http("h3", &json!({}), &json!([]));
    merge(
        &mut listener,
        &json!({
            "drain_type": "MODIFY_ONLY",
            "udp_listener_config": { "quic_options": {} },
            "address": { "socket_address": {
                "protocol": "UDP", "address": "0.0.0.0", "port_value": 443 } },
        }),
    );
    expect(
        &facts(&[listener], &json!({})),
        &["drain-type h3 (0.0.0.0:443)"],
    );
}

#[test]
fn many_listeners_with_one_fault_are_one_finding() {
    let all: Vec<_> = (0..30).map(|_| tcp(&json!({}))).collect();
    expect(&facts(&all, &json!({})), &["tcp-drain tcp (0.0.0.0:81)"]);
}

#[test]
fn an_admin_interface_that_is_not_there_or_does_not_answer_is_found() {
    let mut missing = facts(&[], &json!({}));
    missing.admin = AdminSetting::Missing;
    expect(&missing, &["admin"]);
    let mut kept = facts(&[], &json!({}));
    kept.options.add_envoy_flags = false;
    expect(&kept, &["admin"]);
    kept.options.admin_address = Some(Address::Tcp("localhost:9901".into()));
    expect(&kept, &[]);
    kept.options.admin_address = Some(Address::Tcp("127.0.0.1:9900".into()));
    expect(&kept, &["admin"]);
    let paths = |list: Value| json!({ "admin": { "allow_paths": list } });
    expect(&facts(&[], &paths(json!([{ "prefix": "/" }]))), &[]);
    let some = json!([{ "exact": "/stats" }, { "prefix": "/ready" }]);
    let report = judge(&facts(&[], &paths(some)));
    let [finding] = &report.findings[..] else {
        panic!("{report:?}");
    };
    assert_eq!(finding.rule, "admin-paths");
    for path in [
        "/stats",
        "/healthcheck/fail",
        "/healthcheck/ok",
        "/drain_listeners",
        "/listeners",
    ] {
        assert!(finding.what.contains(path), "{path}: {}", finding.what);
    }
    assert!(!finding.what.contains("/ready"), "{}", finding.what);
    let regex = facts(&[], &paths(json!([{ "safe_regex": { "regex": "/.*" } }])));
    expect(&regex, &[]);
    assert!(judge(&regex).unseen[0].contains("allow_paths"));
}

#[test]
fn statistics_that_are_hidden_are_found_wherever_the_matcher_is() {
    let web = http("web", &json!({}), &json!([]));
    let with = |matcher: Value| {
        let besides = json!({ "stats_config": { "stats_matcher": matcher } });
        found(&facts(
            &[web.clone(), udp(&json!({ "idle_timeout": "2s" }))],
            &besides,
        ))
    };
    let list = |kind: &str, prefix: &str| json!({ kind: { "patterns": [{ "prefix": prefix }] } });
    assert_eq!(with(list("exclusion_list", "cluster.")), [""; 0]);
    assert_eq!(
        with(list("exclusion_list", "listener.0.0.0.0_80.")),
        ["statistics listener.0.0.0.0_80.downstream_cx_active"]
    );
    assert_eq!(
        with(list("exclusion_list", "udp.")),
        ["statistics udp.udp.downstream_sess_active"]
    );
    assert_eq!(with(json!({ "reject_all": true })).len(), 1);
    let kind =
        "type.googleapis.com/envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig";
    let mut logs = web.clone();
    let log = json!({ "access_log": [{ "name": "sent", "typed_config": { "@type": kind } }] });
    merge(&mut logs, &log);
    let matcher = list("exclusion_list", "access_logs.");
    let report = judge(&facts(
        &[logs],
        &json!({ "stats_config": { "stats_matcher": matcher } }),
    ));
    assert!(report.findings[0].what.contains("the last entries"));
    assert!(report.findings[0].remedy.contains("access_logs."));
    let mut own = web.clone();
    merge(
        &mut own,
        &json!({ "stats_matcher": { "reject_all": true } }),
    );
    let report = judge(&facts(&[own], &json!({})));
    assert_eq!(report.findings.len(), 1);
    assert!(report.findings[0].places[0].starts_with("web (0.0.0.0:80): "));
}

#[test]
fn who_kills_too_early_is_found() {
    let mut facts = facts(&[], &json!({}));
    facts.options.grace_period = Some(Duration::from_secs(27));
    expect(&facts, &["grace-period"]);
    facts.options.grace_period = Some(Duration::from_secs(28));
    expect(&facts, &[]);
    facts.options.grace_period = None;
    for (orchestrator, expected, unseen) in [
        (Orchestrator::Docker, &["grace-period"][..], 0),
        (Orchestrator::PerhapsDocker, &[], 1),
        (Orchestrator::Kubernetes, &[], 1),
        (Orchestrator::Unknown, &[], 0),
    ] {
        facts.host.orchestrator = orchestrator;
        expect(&facts, expected);
        assert_eq!(judge(&facts).unseen.len(), unseen, "{orchestrator:?}");
    }
}

#[test]
fn certificates_that_will_not_rotate_are_found() {
    let tls = |context: Value| {
        json!({ "transport_socket": { "typed_config": {
        "common_tls_context": context } } })
    };
    let by_file = json!({ "tls_certificates": [{ "certificate_chain": { "filename": "/a.crt" },
        "private_key": { "filename": "/a.key" } }] });
    let by_sds = |path: &str| {
        json!({ "tls_certificate_sds_secret_configs": [{ "name": "www",
        "sds_config": { "path_config_source": { "path": path } } }] })
    };
    let listener = |context: Value| {
        let mut listener = http("web", &json!({}), &json!([]));
        merge(&mut listener["filter_chains"][0], &tls(context));
        listener
    };
    expect(
        &facts(&[listener(by_file.clone())], &json!({})),
        &["certificate-file listener web"],
    );
    let cluster = json!({ "static_resources": { "clusters": [
        { "name": "up", "transport_socket": tls(by_file)["transport_socket"] }],
        "secrets": [{ "name": "s", "tls_certificate": { "certificate_chain":
            { "filename": "/b.crt" } } }] } });
    expect(
        &facts(&[], &cluster),
        &["certificate-file cluster up", "certificate-file secret s"],
    );
    let given = |mut facts: Facts| {
        facts.options.resources_dir = Some("/run/envoy".into());
        let source = Source::Pair {
            cert: PathBuf::from("/a.crt"),
            key: PathBuf::from("/a.key"),
            staple: None,
        };
        facts.options.secrets = vec![("www".into(), source)];
        facts
    };
    let right = listener(by_sds("/run/envoy/sds/www.json"));
    expect(&given(facts(std::slice::from_ref(&right), &json!({}))), &[]);
    let wrong = listener(by_sds("/run/envoy/sds/ww.json"));
    expect(
        &given(facts(&[wrong], &json!({}))),
        &["secret listener web", "secret"],
    );
    let mut few = given(facts(&[right], &json!({})));
    few.host.watches = Some((1, "fs.inotify.max_user_instances"));
    few.certificates = vec![("--secret www".into(), "the key: is empty".into())];
    expect(&few, &["secret --secret www", "inotify"]);
}

#[test]
fn limits_of_connections_are_held_against_those_of_files() {
    let monitor = json!({ "overload_manager": { "resource_monitors": [{ "typed_config": {
        "max_active_downstream_connections": "50000" } }] } });
    let nested = json!({ "layered_runtime": { "layers": [{ "static_layer": { "envoy": {
        "resource_limits": { "listener": { "tcp": { "connection_limit": 50000 } } } } } }] } });
    let dotted = json!({ "layered_runtime": { "layers": [{ "static_layer": {
        "envoy.resource_limits.listener.tcp.connection_limit": 50000 } }] } });
    for besides in [monitor, nested, dotted] {
        let mut facts = facts(&[tcp(&json!({ "check_drain_close": true }))], &besides);
        facts.host.descriptors = Some(65_536);
        expect(&facts, &[]);
        facts.host.descriptors = Some(1_024);
        expect(&facts, &["descriptors"]);
    }
}

#[test]
fn shared_memory_is_asked_for_where_it_is_needed() {
    let mut facts = facts(&[], &json!({}));
    facts.host.no_shared_memory = Some("it is read-only".into());
    expect(&facts, &[]);
    facts.options.hot_restart = true;
    expect(&facts, &["shared-memory"]);
    facts.args = vec!["--disable-hot-restart".into()];
    expect(&facts, &["hot-restart", "shared-memory"]);
}

#[test]
fn what_could_not_be_looked_at_is_told_and_an_excluded_listener_that_is_not_there_is_found() {
    let dynamic = json!({ "dynamic_resources": { "lds_config": { "ads": {} } } });
    let mut facts = facts(&[], &dynamic);
    facts.options.exclude_listeners = vec!["0.0.0.0:8002".into()];
    expect(&facts, &[]);
    assert!(judge(&facts).unseen[0].starts_with("listeners"));
    facts.config = Config::of_text("{}");
    expect(&facts, &["exclude"]);
    facts.refusal = Some("node 'id' and 'cluster' are required".into());
    facts.strays = vec!["the variable DRAINIT_X means nothing".into()];
    expect(&facts, &["refused", "variable", "exclude"]);
}
