//! The Grafana dashboard: every query finds something in what drainit tells.

use std::collections::BTreeSet;
use std::fs;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::support::fake_envoy::{self, Model, SharedModel};
use super::support::{PATIENCE, TempDir};
use super::{names, page_when, promtool_test};

fn dashboard() -> Value {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/scripts/examples/grafana-dashboard.json"
    );
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn panels(dashboard: &Value) -> &[Value] {
    dashboard["panels"].as_array().unwrap()
}

fn variables(dashboard: &Value) -> &[Value] {
    dashboard["templating"]["list"].as_array().unwrap()
}

fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("no string: {value}"))
}

/// The queries of this kind of data source, with Grafana's variables filled in.
fn queries(kind: &str) -> Vec<String> {
    let dashboard = dashboard();
    let targets = panels(&dashboard)
        .iter()
        .flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    targets
        .filter(|target| target["datasource"]["type"] == kind)
        .map(|target| {
            text(&target["expr"])
                .replace("$__rate_interval", "5m")
                .replace("$__interval", "1m")
                .replace("${stream:raw}", "container=\"envoy\"")
                .replace("$job", "envoy")
                .replace("$instance", "a|b")
        })
        .inspect(|query| assert!(!query.contains('$'), "{query}"))
        .collect()
}

/// What a drainit shows that drains, with a certificate and connections of every kind.
fn page() -> String {
    let model = SharedModel::new(Model {
        http: 2,
        requests: 1,
        tcp: 1,
        udp: 1,
        ..Model::default()
    });
    let admin = model.admin();
    let (dir, data) = (
        TempDir::new(),
        concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data"),
    );
    let (secret, place) = (
        format!("web={data}/ec.crt,{data}/ec.key"),
        dir.path().display().to_string(),
    );
    let options = ["--secret", &secret, "--resources-dir", &place];
    let drainit = fake_envoy::start(&options, &admin.address);
    drainit.wait_ready();
    drainit.signal(Signal::SIGUSR2);
    let mut page = String::new();
    super::wait_for("connections on the page", PATIENCE, || {
        page = page_when(&drainit, "draining");
        page.contains("drainit_listener_connections{")
    });
    page
}

/// The page's samples as promtool takes them, each with the labels that Prometheus adds.
fn series(page: &str) -> Vec<Value> {
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|sample| {
            let (name, value) = sample.rsplit_once(' ').unwrap();
            let (name, labels) = name.split_once('{').unwrap_or((name, "}"));
            json!({
                "series": format!("{name}{{job=\"envoy\",instance=\"a\",{labels}"),
                "values": format!("{value}x60"),
            })
        })
        .collect()
}

#[test]
fn every_query_of_the_dashboard_finds_something_in_the_page_of_a_drain() {
    let found = |query: &String| {
        json!({
            "expr": format!("count({query}) > bool 0"),
            "eval_time": "30m",
            "exp_samples": [{ "labels": "{}", "value": 1 }],
        })
    };
    let queries = queries("prometheus");
    assert!(queries.len() >= 20, "{queries:?}");
    let tests = json!({
        "evaluation_interval": "1m",
        "tests": [{
            "interval": "1m",
            "input_series": series(&page()),
            "promql_expr_test": queries.iter().map(found).collect::<Vec<_>>(),
        }],
    });
    promtool_test(&tests.to_string());
}

#[test]
fn the_dashboard_uses_names_that_exist() {
    let page = page();
    let told: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    let dashboard = dashboard().to_string();
    let used = names(&dashboard);
    assert!(used.len() >= 15, "{used:?}");
    let unknown: Vec<_> = used.difference(&told).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn the_dashboard_is_whole() {
    let dashboard = dashboard();
    for name in ["title", "uid", "schemaVersion", "time"] {
        assert!(!dashboard[name].is_null(), "{name}");
    }
    let sources: BTreeSet<String> = variables(&dashboard)
        .iter()
        .filter(|variable| variable["type"] == "datasource")
        .map(|variable| format!("${{{}}}", text(&variable["name"])))
        .collect();
    let mut ids = BTreeSet::new();
    let mut places = BTreeSet::new();
    for panel in panels(&dashboard) {
        let title = text(&panel["title"]);
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}");
        let number = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        for x in number("x")..number("x") + number("w") {
            assert!(x < 24, "{title}");
            for y in number("y")..number("y") + number("h") {
                assert!(places.insert((x, y)), "{title} lies on another panel");
            }
        }
        let mut refs = BTreeSet::new();
        for target in panel["targets"].as_array().into_iter().flatten() {
            assert!(refs.insert(text(&target["refId"])), "{title}");
            let source = text(&target["datasource"]["uid"]);
            assert!(sources.contains(source), "{title}: {source}");
        }
    }
}

/// The words of a query that stand behind this.
fn words_behind<'a>(query: &'a str, mark: &str) -> impl Iterator<Item = &'a str> {
    query.split(mark).skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '_');
        &rest[..end.unwrap_or(rest.len())]
    })
}

#[test]
fn the_dashboard_finds_a_pods_last_drain_in_its_log() {
    let model = SharedModel::new(Model {
        tcp: 1,
        ..Model::default()
    });
    let admin = model.admin();
    let options = ["--log-format", "json", "--drain-timeout", "1s"];
    let mut drainit = fake_envoy::start(&options, &admin.address);
    drainit.wait_ready();
    drainit.signal(Signal::SIGTERM);
    drainit.wait_exit(PATIENCE);

    let log = drainit.log.lines();
    let verdict: Value = serde_json::from_str(log.last().unwrap()).unwrap();
    let dashboard = dashboard();
    let help = panels(&dashboard)
        .iter()
        .find_map(|panel| panel["options"]["content"].as_str());
    let quoted = help.unwrap().split('`').skip(1).step_by(2);
    let fields: BTreeSet<&str> = quoted
        .filter(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        .collect();
    assert!(fields.len() >= 8, "{fields:?}");
    for field in fields {
        let told = verdict.get(field);
        assert!(told.is_some(), "{field} is no field of {verdict}");
    }

    let queries = queries("loki");
    assert!(queries.len() >= 3, "{queries:?}");
    for query in &queries {
        let filter = query.split("|= `").nth(1).unwrap();
        let filter = filter.split('`').next().unwrap();
        let lines: Vec<_> = log.iter().filter(|line| line.contains(filter)).collect();
        assert_eq!(lines, [log.last().unwrap()], "{query}");
        let fields = ["{{.", "json ", ", ", "unwrap "].map(|mark| words_behind(query, mark));
        let fields: BTreeSet<&str> = fields.into_iter().flatten().collect();
        assert!(fields.contains("result"), "{query}");
        for field in fields.iter().filter(|field| !field.is_empty()) {
            let told = verdict.get(field);
            assert!(told.is_some(), "{field} is no field of {verdict}");
        }
    }
}
