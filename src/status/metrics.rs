//! `/metrics`: the snapshot in Prometheus' text format.
//!
//! Every name has its HELP and TYPE from the first scrape on. What is not known has no sample: a
//! zero would say that somebody had looked.

use std::fmt::Write;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Snapshot, State};
use crate::clock::{seconds, unix_seconds};
use crate::envoy::load::Load;

/// The format's content type.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The metrics of `snapshot`, looked at `now`. The wall clock has no part in them: when a
/// certificate expires is told as it is, and the scraper's clock says how far away that is.
pub fn render(snapshot: &Snapshot, now: Instant) -> String {
    let mut page = MetricsPage::default();

    page.name(
        "drainit_state",
        "gauge",
        "1 for the state that drainit is in, 0 for the others.",
    );
    for state in State::ALL {
        let holds = u8::from(state == snapshot.state);
        page.labelled("state", state.name(), holds);
    }
    page.name("drainit_envoy_up", "gauge", "Whether Envoy runs.");
    page.sample(u8::from(snapshot.envoy.is_some()));
    page.name(
        "drainit_envoy_restarts_total",
        "counter",
        "How often Envoy was started again after it had ended.",
    );
    page.sample(snapshot.restarts);
    page.name(
        "drainit_build_info",
        "gauge",
        "1, with drainit's version and Envoy's, which is empty until Envoy tells it.",
    );
    let envoy = snapshot.envoy.as_ref();
    let envoy = envoy.and_then(|envoy| envoy.version.as_deref());
    let version = ("version", env!("CARGO_PKG_VERSION"));
    page.twice_labelled([version, ("envoy", envoy.unwrap_or_default())], 1);

    let load = snapshot.open();
    page.name(
        "drainit_connections",
        "gauge",
        "Connections open when Envoy was last asked, excluded listeners apart.",
    );
    page.optional(load.map(Load::connections));
    page.name(
        "drainit_listener_connections",
        "gauge",
        "Connections open on each listener when Envoy was last asked, excluded listeners apart.",
    );
    for (listener, connections) in load.map(Load::by_name).unwrap_or_default() {
        page.labelled("listener", listener, connections);
    }
    page.name(
        "drainit_requests",
        "gauge",
        "HTTP requests in flight when Envoy was last asked.",
    );
    page.optional(load.and_then(Load::known_requests));
    page.name(
        "drainit_udp_sessions",
        "gauge",
        "UDP sessions open when Envoy was last asked.",
    );
    page.optional(load.map(|load| load.udp_sessions));

    page.name(
        "drainit_drain_seconds",
        "gauge",
        "How long the drain that is under way, or was the last, has taken.",
    );
    page.optional(snapshot.drain.as_ref().map(|drain| {
        let until = drain.ended.as_ref().map_or(now, |end| end.at);
        exact_seconds(until.saturating_duration_since(drain.started))
    }));
    page.name(
        "drainit_drain_deadline_seconds",
        "gauge",
        "How long the drain that is under way, or was the last, may take, from its start to its deadline.",
    );
    page.optional(
        snapshot
            .drain
            .as_ref()
            .map(|drain| exact_seconds(drain.deadline.saturating_duration_since(drain.started))),
    );
    page.name(
        "drainit_drains_total",
        "counter",
        "Drains that are over: drained, cut with something left, unknown what was cut, or Envoy exited \
         meanwhile.",
    );
    page.labelled("result", "drained", snapshot.drains.drained);
    page.labelled("result", "cut", snapshot.drains.cut);
    page.labelled("result", "unknown", snapshot.drains.unknown);
    page.labelled("result", "exited", snapshot.drains.exited);

    page.name(
        "drainit_admin_errors_total",
        "counter",
        "Requests to Envoy's admin interface that failed.",
    );
    page.sample(snapshot.admin.errors);
    page.name(
        "drainit_reaped_processes_total",
        "counter",
        "Processes reaped, Envoy's own included.",
    );
    page.sample(snapshot.reaped);
    page.name(
        "drainit_envoy_epoch",
        "gauge",
        "The number of Envoy's newest generation, which a hot restart raises.",
    );
    let hot_restart = snapshot.hot_restart.unwrap_or_default();
    page.sample(hot_restart.epoch);
    page.name(
        "drainit_hot_restarts_total",
        "counter",
        "Reloads by hot restart: done, refused or overtaken by a drain, or failed.",
    );
    page.labelled("result", "done", hot_restart.done);
    page.labelled("result", "refused", hot_restart.refused);
    page.labelled("result", "failed", hot_restart.failed);
    page.name(
        "drainit_degraded",
        "gauge",
        "1 while Envoy serves without its admin interface, after a hot restart that failed.",
    );
    page.sample(u8::from(snapshot.is_degraded()));
    certificates(&mut page, snapshot);
    page.text
}

/// `duration` in seconds, to the millisecond. As JSON: to print a floating-point number in Rust's own
/// way would take 10 kB of code.
fn exact_seconds(duration: Duration) -> Value {
    seconds(duration).into()
}

fn certificates(page: &mut MetricsPage, snapshot: &Snapshot) {
    page.name(
        "drainit_certificate_not_before_seconds",
        "gauge",
        "When the secret's certificate became valid, in seconds since the epoch.",
    );
    for certificate in &snapshot.certificates {
        if let Some(not_before) = certificate.not_before {
            page.labelled("secret", &certificate.secret, unix_seconds(not_before));
        }
    }
    page.name(
        "drainit_certificate_not_after_seconds",
        "gauge",
        "When the secret's certificate expires, in seconds since the epoch.",
    );
    for certificate in &snapshot.certificates {
        if let Some(not_after) = certificate.not_after {
            page.labelled("secret", &certificate.secret, unix_seconds(not_after));
        }
    }
    page.name(
        "drainit_certificate_generation",
        "gauge",
        "The generation of the secret that Envoy was last given, 0 before the first.",
    );
    for certificate in &snapshot.certificates {
        page.labelled("secret", &certificate.secret, certificate.generation);
    }
    page.name(
        "drainit_certificate_reloads_total",
        "counter",
        "Changes of certificates: ok, refused by drainit, rejected by Envoy, or unconfirmed.",
    );
    for certificate in &snapshot.certificates {
        let results = ["ok", "refused", "rejected", "unconfirmed"];
        for (result, count) in results.into_iter().zip(certificate.reloads) {
            page.twice_labelled([("secret", &certificate.secret), ("result", result)], count);
        }
    }
    page.name(
        "drainit_certificate_stale",
        "gauge",
        "1 where what is in the secret's files now is not what Envoy has, nothing usable is there, \
         or the files cannot be looked at.",
    );
    let hangs = snapshot.certificates_hang.is_some();
    for certificate in &snapshot.certificates {
        let stale = u8::from(certificate.stale || hangs);
        page.labelled("secret", &certificate.secret, stale);
    }
}

/// The page, and the name whose samples are being written. Writing to a `String` cannot fail.
#[derive(Default)]
struct MetricsPage {
    text: String,
    name: &'static str,
}

impl MetricsPage {
    fn name(&mut self, name: &'static str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        self.name = name;
    }

    fn sample(&mut self, value: impl std::fmt::Display) {
        let _ = writeln!(self.text, "{} {value}", self.name);
    }

    fn optional(&mut self, value: Option<impl std::fmt::Display>) {
        if let Some(value) = value {
            self.sample(value);
        }
    }

    fn twice_labelled(&mut self, labels: [(&str, &str); 2], value: impl std::fmt::Display) {
        let [first, second] = labels.map(|(label, is)| format!("{label}=\"{}\"", escaped(is)));
        let _ = writeln!(self.text, "{}{{{first},{second}}} {value}", self.name);
    }

    fn labelled(&mut self, label: &str, is: &str, value: impl std::fmt::Display) {
        let is = escaped(is);
        let _ = writeln!(self.text, "{}{{{label}=\"{is}\"}} {value}", self.name);
    }
}

/// `text` as the value of a label.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::client::Peer;
    use crate::drain::Outcome;
    use crate::envoy::load::{Client, ListenerLoad};
    use crate::process::{End, Exit, ExitClass};
    use crate::status::{Admin, DrainStatus, Drains, EnvoyStatus, LastEnd, Reload, SecretStatus};
    use crate::testing;

    const NAMES: [&str; 21] = [
        "drainit_state",
        "drainit_envoy_up",
        "drainit_envoy_restarts_total",
        "drainit_build_info",
        "drainit_connections",
        "drainit_listener_connections",
        "drainit_requests",
        "drainit_udp_sessions",
        "drainit_drain_seconds",
        "drainit_drain_deadline_seconds",
        "drainit_drains_total",
        "drainit_admin_errors_total",
        "drainit_reaped_processes_total",
        "drainit_envoy_epoch",
        "drainit_hot_restarts_total",
        "drainit_degraded",
        "drainit_certificate_not_before_seconds",
        "drainit_certificate_not_after_seconds",
        "drainit_certificate_generation",
        "drainit_certificate_reloads_total",
        "drainit_certificate_stale",
    ];

    /// A snapshot in which nothing is empty.
    pub(crate) fn full(born: Instant) -> Snapshot {
        let second = Duration::from_secs(1);
        let listener = |name: &str, connections, excluded| ListenerLoad {
            name: name.into(),
            address: Some("127.0.0.1:443".into()),
            connections,
            excluded,
        };
        let load = Load {
            clients: vec![Client {
                age: None,
                rate: None,
                listener: "https".into(),
                address: ([10, 1, 2, 3], 51_234).into(),
                is_closed: false,
                silent: Some(second),
            }],
            listeners: vec![listener("admin", 2, true), listener("https", 9, false)],
            requests: 3,
            tcp_sessions: 4,
            udp_sessions: 5,
            health_failed: true,
            ..Load::default()
        };
        Snapshot {
            state: State::Drained,
            reason: "drained".into(),
            envoy: Some(EnvoyStatus {
                pid: 7,
                version: Some("1.40.0".into()),
                started: born + second,
            }),
            restarts: 1,
            admin: Admin {
                address: "127.0.0.1:9901".parse().ok(),
                peer: Peer::Anyone,
                answered: Some(born + second),
                failing_since: Some(born + 2 * second),
                errors: 6,
                refusal: None,
                listeners: None,
                ready: Some((born + second, Err("connection refused".into()))),
            },
            excluded: vec!["admin".into()],
            load: Some(load.clone()),
            drain: Some(DrainStatus {
                cause: "/shutdown from 127.0.0.1".into(),
                started: born + 10 * second,
                deadline: born + 35 * second,
                stops: false,
                health_failed: Some(born + 11 * second),
                listeners_draining: Some(born + 12 * second),
                last_connection: Some(born + 13 * second),
                came: None,
                lost: crate::drain::Loss::None,
                first: Some(load),
                ended: Some(testing::drain_end(
                    born + 13 * second + second / 2,
                    Outcome::Drained,
                    false,
                )),
            }),
            verdict: Some("drained; exit code 0".into()),
            last_end: Some(LastEnd {
                end: End {
                    exit: Exit::Signal(11),
                    class: Some(ExitClass::Signal),
                    dumped: true,
                },
                at: born + second / 2,
                lived: second / 4,
            }),
            next_start: Some(born + 200 * second),
            reload: Some(Reload {
                number: 1,
                at: born + second,
                result: Ok("done".into()),
                of_certificates: false,
            }),
            drains: Drains {
                drained: 1,
                cut: 2,
                unknown: 2,
                exited: 3,
            },
            reaped: 8,
            certificates: vec![
                SecretStatus {
                    secret: "xds".into(),
                    generation: 2,
                    serial: Some("1f".into()),
                    not_before: Some(UNIX_EPOCH),
                    not_after: Some(UNIX_EPOCH + Duration::from_secs(1_900_000_000)),
                    stale: false,
                    last_result: Some("ok"),
                    last_error: Some("none".into()),
                    changed: Some(born),
                    reloads: [1, 2, 3, 4],
                },
                SecretStatus {
                    secret: "a\"b\\c\nd".into(),
                    stale: true,
                    reloads: [10, 20, 30, 40],
                    ..SecretStatus::default()
                },
            ],
            ..Snapshot::new(born)
        }
    }

    fn page(snapshot: &Snapshot) -> String {
        render(snapshot, snapshot.born + Duration::from_secs(100))
    }

    #[test]
    fn every_name_has_help_and_type_from_the_first_scrape_and_no_other_has() {
        let page = page(&Snapshot::new(Instant::now()));
        for kind in ["HELP", "TYPE"] {
            let prefix = format!("# {kind} ");
            let names: Vec<&str> = page
                .lines()
                .filter_map(|line| line.strip_prefix(&prefix)?.split(' ').next())
                .collect();
            assert_eq!(names, NAMES);
        }
        assert!(!page.contains("\ndrainit_connections "));
        assert!(!page.contains("\ndrainit_listener_connections{"));
        assert!(page.contains("\ndrainit_envoy_up 0\n"));
        assert!(page.contains("drainit_drains_total{result=\"cut\"} 0\n"));
        assert!(page.ends_with('\n'));
    }

    #[test]
    fn one_state_holds_and_the_others_do_not() {
        for state in State::ALL {
            let mut snapshot = Snapshot::new(Instant::now());
            snapshot.state = state;
            let page = page(&snapshot);
            assert_eq!(page.matches("\ndrainit_state{").count(), State::ALL.len());
            let name = state.name();
            assert!(page.contains(&format!("drainit_state{{state=\"{name}\"}} 1\n")));
            let holds = |line: &&str| line.starts_with("drainit_state{") && line.ends_with(" 1");
            assert_eq!(page.lines().filter(holds).count(), 1);
        }
    }

    #[test]
    fn samples_are_what_the_snapshot_says() {
        let page = page(&full(Instant::now()));
        for line in [
            "drainit_envoy_up 1",
            "drainit_envoy_restarts_total 1",
            concat!(
                "drainit_build_info{version=\"",
                env!("CARGO_PKG_VERSION"),
                "\",envoy=\"1.40.0\"} 1"
            ),
            "drainit_connections 9",
            "drainit_listener_connections{listener=\"https\"} 9",
            "drainit_requests 3",
            "drainit_drain_seconds 3.5",
            "drainit_drain_deadline_seconds 25.0",
            "drainit_drains_total{result=\"exited\"} 3",
            "drainit_admin_errors_total 6",
            "drainit_reaped_processes_total 8",
            "drainit_certificate_not_after_seconds{secret=\"xds\"} 1900000000",
            "drainit_certificate_generation{secret=\"a\\\"b\\\\c\\nd\"} 0",
            "drainit_certificate_reloads_total{secret=\"xds\",result=\"unconfirmed\"} 4",
            "drainit_certificate_stale{secret=\"xds\"} 0",
            "drainit_certificate_stale{secret=\"a\\\"b\\\\c\\nd\"} 1",
        ] {
            assert!(page.lines().any(|found| found == line), "{line}\n{page}");
        }
    }

    #[test]
    fn listeners_of_one_name_are_one_and_excluded_ones_are_left_out() {
        let mut snapshot = full(Instant::now());
        let listeners = &mut snapshot.load.as_mut().expect("a load").listeners;
        let twin = listeners[1].clone();
        listeners.push(twin);
        let page = page(&snapshot);
        let samples: Vec<&str> = page
            .lines()
            .filter(|line| line.starts_with("drainit_listener_connections{"))
            .collect();
        assert_eq!(
            samples,
            ["drainit_listener_connections{listener=\"https\"} 18"]
        );
    }
}
