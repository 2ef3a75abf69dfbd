//! Envoys without a listener: nobody can be served, so that nobody is to be sent there.

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::Duration;

use crate::support::clients::HttpConnection;
use crate::support::drainit::Drainit;
use crate::support::envoy_config::{Admin, EnvoyConfig};
use crate::support::fake_admin::{Answer, Call};
use crate::support::fake_envoy::{self, SharedModel};
use crate::support::{PATIENCE, holds_for, scene, wait_for};

const TYPE: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";

/// Has the listeners come from a file, which has none yet; and returns what makes them come.
fn from_file(config: &EnvoyConfig) -> impl Fn(&[&str]) + use<> {
    let yaml = fs::read_to_string(&config.file).unwrap();
    let (before, rest) = yaml.split_once("  listeners:\n").unwrap();
    let (listeners, after) = rest.split_once("  clusters:").unwrap();
    let (file, next) = (config.dir.join("lds.yaml"), config.dir.join("next.yaml"));
    let dynamic = format!(
        "node: {{ id: a, cluster: a }}\ndynamic_resources:\n  lds_config: {{ resource_api_version: V3, \
         path_config_source: {{ path: {} }} }}\n",
        file.display()
    );
    fs::write(&config.file, format!("{dynamic}{before}  clusters:{after}")).unwrap();
    let listeners: Vec<String> = listeners
        .split("\n  - name: ")
        .map(|listener| {
            listener
                .trim_start_matches("  - name: ")
                .replace("\n  ", "\n")
        })
        .collect();
    let write = move |names: &[&str]| {
        let wanted = listeners.iter().filter(|listener| {
            let name = listener.lines().next().unwrap();
            names.contains(&name)
        });
        let resources: String = wanted
            .map(|listener| format!("- '@type': {TYPE}\n  name: {listener}\n"))
            .collect();
        let empty = if resources.is_empty() { " []" } else { "" };
        fs::write(&next, format!("resources:{empty}\n{resources}")).unwrap();
        fs::rename(&next, &file).unwrap();
    };
    write(&[]);
    write
}

#[track_caller]
fn wait_answer(drainit: &Drainit, expected: (u16, &str)) {
    wait_for(&format!("{expected:?}"), PATIENCE, || {
        let answer = drainit.request("GET", "/ready", PATIENCE);
        let (status, text) = answer.unwrap_or_default();
        (status, text.trim()) == expected
    });
}

#[test]
fn an_envoy_is_live_without_a_listener_and_ready_with_the_first_that_counts() {
    let none_counts = |exclude: &dyn Fn(&EnvoyConfig) -> String| {
        let (_upstream, config) = scene::of(Admin::Unix);
        // Its own name is another than its stat prefix.
        config.replace("- name: metrics", "- name: probes");
        let word = exclude(&config);
        let write = from_file(&config);
        let drainit = Drainit::envoy(&["--exclude-listener", &word], &config);
        wait_answer(&drainit, (503, "no listener"));
        wait_for("live", PATIENCE, || {
            drainit.get("/status").1.contains("\"state\":\"live\"")
        });
        assert_eq!(drainit.get("/healthz").0, 200);
        write(&["probes"]);
        wait_for("the excluded listener", PATIENCE, || {
            HttpConnection::open(config.metrics).is_ok()
        });
        holds_for("no listener", Duration::from_millis(2_500), || {
            drainit.get("/ready").0 == 503
        });
        write(&["probes", "http"]);
        wait_answer(&drainit, (200, "LIVE"));
        HttpConnection::idle(config.http);
        // And back: a control plane may take them away.
        write(&["probes"]);
        wait_answer(&drainit, (503, "no listener"));
        write(&[]);
        wait_answer(&drainit, (503, "no listener"));
    };
    let another_address = |config: &EnvoyConfig| {
        let at = |port| {
            format!(
                "{{ socket_address: {{ address: {}, port_value: {port} }} }}",
                config.ip()
            )
        };
        let first = format!("- name: probes\n    address: {}", at(config.metrics.port()));
        let more = format!(
            "\n    additional_addresses: [{{ address: {} }}]",
            at(10_009)
        );
        config.replace(&first, &format!("{first}{more}"));
        ":10009".to_owned()
    };
    thread::scope(|scope| {
        scope.spawn(|| none_counts(&|_| "probes".into()));
        scope.spawn(|| none_counts(&|_| EnvoyConfig::METRICS.into()));
        scope.spawn(|| none_counts(&another_address));
    });
}

/// From its start on: its only listener is there before anything is asked.
#[test]
fn an_envoy_with_a_listener_that_goes_by_an_excluded_stat_prefix_is_not_ready() {
    let (_upstream, config) = scene::of(Admin::Unix);
    config.replace("- name: metrics", "- name: probes");
    let yaml = fs::read_to_string(&config.file).unwrap();
    let (before, rest) = yaml.split_once("  - name: http\n").unwrap();
    let (_, probes) = rest.split_once("  - name: probes\n").unwrap();
    fs::write(&config.file, format!("{before}  - name: probes\n{probes}")).unwrap();
    let drainit = Drainit::envoy(&["--exclude-listener", EnvoyConfig::METRICS], &config);
    wait_for("the listener", PATIENCE, || {
        HttpConnection::open(config.metrics).is_ok()
    });
    let mut answers = BTreeSet::new();
    wait_for("live", PATIENCE, || {
        answers.insert(drainit.get("/ready").0);
        drainit.get("/status").1.contains("\"state\":\"live\"")
    });
    assert_eq!(Vec::from_iter(answers), [503], "ready for a moment");
    holds_for("no listener", Duration::from_millis(1_500), || {
        let (status, text) = drainit.get("/ready");
        (status, text.trim()) == (503, "no listener")
    });
}

#[test]
fn an_envoy_that_does_not_tell_its_listeners_goes_by_live() {
    for refusal in [
        Answer::Status(403, String::new()),
        Answer::Status(404, String::new()),
        Answer::Close,
        Answer::Ok("<html>welcome</html>".into()),
    ] {
        let is_silent = matches!(refusal, Answer::Close);
        let model = SharedModel::default();
        let admin = model.admin();
        admin.script(move |call: &Call| match call.name().as_str() {
            "GET /listeners" => refusal.clone(),
            _ => model.answer(call),
        });
        let drainit = fake_envoy::start(&[], &admin.address);
        wait_answer(&drainit, (200, "LIVE"));
        // A refusal is an answer, a silence is a request that failed.
        let metrics = drainit.get("/metrics").1;
        let none_failed = metrics.contains("\ndrainit_admin_errors_total 0\n");
        assert_eq!(none_failed, !is_silent, "{metrics}");
    }
}

#[test]
fn an_envoy_without_a_listener_is_asked_no_more_than_once_a_second() {
    let model = SharedModel::default();
    let admin = model.admin();
    admin.script(move |call: &Call| match call.name().as_str() {
        "GET /listeners" => Answer::Ok(String::new()),
        _ => model.answer(call),
    });
    let drainit = fake_envoy::start(&[], &admin.address);
    wait_answer(&drainit, (503, "no listener"));
    wait_for("the version", PATIENCE, || {
        !admin.times("GET /server_info").is_empty()
    });
    let before = admin.calls().len();
    let start = std::time::Instant::now();
    holds_for("no listener", Duration::from_secs(4), || {
        drainit.get("/ready").0 == 503
    });
    let most = start.elapsed().as_secs() as usize + 2;
    let asked = admin.calls().len() - before;
    assert!(asked <= most, "{asked} questions, {most} are allowed");
}
