//! Rules over the configuration as a whole.

use std::path::{self, Path};

use serde_json::{Map, Value};

use super::config;
use super::config::{Config, items};
use super::facts::Facts;
use super::listener::{self, ConfiguredListener};
use super::matcher::{any_fits, expression, hides};
use super::report::Report;
use crate::certificates::sds::SecretKind;
use crate::envoy::{roll_call, stats};

/// Every rule over the configuration as a whole.
pub const ALL: &[fn(&Facts, &Config, &mut Report)] = &[
    admin_paths,
    statistics,
    namesakes,
    certificates_by_file,
    secrets,
    descriptors,
];

/// What drainit asks Envoy's admin interface, with what follows the path: `allow_paths` sees both.
const ASKED: [&str; 11] = [
    "/ready",
    "/server_info",
    "/listeners",
    "/listeners?format=json",
    stats::QUERY,
    stats::ACTIVITY,
    roll_call::QUERY,
    "/healthcheck/fail",
    "/healthcheck/ok",
    "/drain_listeners?graceful&skip_exit",
    "/drain_listeners",
];

/// Since Envoy 1.37 the admin interface can refuse to answer.
fn admin_paths(facts: &Facts, config: &Config, report: &mut Report) {
    let allowed = items(&config.bootstrap, "/admin/allow_paths");
    if allowed.is_empty() {
        return;
    }
    let certs = facts.options.has_certificates().then_some("/certs");
    let mut refused: Vec<&str> = Vec::new();
    for asked in ASKED.into_iter().chain(certs) {
        let path = asked.split('?').next().unwrap_or_default();
        match any_fits(allowed, asked) {
            Some(false) if !refused.contains(&path) => refused.push(path),
            Some(_) => {}
            None => report.miss(format!(
                "whether admin.allow_paths lets {path} through: a regular expression decides"
            )),
        }
    }
    if !refused.is_empty() {
        let what = "admin.allow_paths refuses what a drain needs: ";
        let what = format!("{what}{}", refused.join(", "));
        let remedy = format!("add {{ prefix: {} }}", refused.join(" }, { prefix: "));
        report.find("admin-paths", what, "", &remedy);
    }
}

/// Envoy adds up what several listeners have that share a name.
fn namesakes(facts: &Facts, config: &Config, report: &mut Report) {
    let listeners = listener::all(config);
    let named = |one: &&ConfiguredListener<'_>| {
        let counts = !one.is_internal() && !one.is_called(&facts.options.exclude_listeners);
        counts && !config::text(one.json, "/stat_prefix").is_empty()
    };
    let listeners: Vec<_> = listeners.iter().filter(named).collect();
    for one in &listeners {
        let same = |other: &&&ConfiguredListener<'_>| other.scope() == one.scope();
        if listeners.iter().filter(same).count() > 1 {
            let what = format!(
                "several listeners have the stat_prefix {}: Envoy tells their connections as one sum",
                one.scope()
            );
            let remedy = "a stat_prefix for each listener, or none";
            report.find("stat-prefix", what, &one.place(), remedy);
        }
    }
}

/// A statistic that is hidden is not zero, and not known.
fn statistics(facts: &Facts, config: &Config, report: &mut Report) {
    let ours = config.bootstrap.pointer("/stats_config/stats_matcher");
    let listeners = listener::all(config);
    let count = |one: &&ConfiguredListener<'_>| {
        !one.is_internal() && !one.is_called(&facts.options.exclude_listeners)
    };
    let seen = |matcher: &Value, place: &str, name: &str, prefix: &str, report: &mut Report| {
        match hides(matcher, name) {
            Some(false) => {}
            Some(true) => {
                let what = match prefix {
                    ACCESS_LOGS => {
                        "a stats_matcher hides that Envoy sends an access log elsewhere: the last \
                         entries before Envoy's end are lost"
                    }
                    _ => {
                        "a stats_matcher hides what is in flight: the kernel has to count it, which \
                         does not know requests and UDP sessions"
                    }
                };
                let place = format!("{place}{name}");
                let remedy = crate::stats_prefixes!();
                let known = report
                    .findings
                    .iter()
                    .filter(|one| one.rule == "statistics");
                // One of each kind is enough to see it.
                let mut places = known.flat_map(|one| &one.places);
                if !places.any(|known| known.contains(prefix)) {
                    report.find("statistics", what.into(), &place, remedy);
                }
            }
            None => {
                let lists = ["/inclusion_list/patterns", "/exclusion_list/patterns"];
                let found = lists
                    .iter()
                    .find_map(|list| expression(items(matcher, list)));
                report.miss(format!(
                    "what a stats_matcher hides by the regular expression {}",
                    found.unwrap_or_default()
                ));
            }
        }
    };
    if let Some(ours) = ours {
        seen(ours, "", "server.live", "server.", report);
    }
    for listener in listeners.iter().filter(count) {
        let own = listener.json.get("stats_matcher");
        let names = names_of(listener);
        for (matcher, place) in [
            (ours, String::new()),
            (own, format!("{}: ", listener.place())),
        ] {
            for (name, prefix) in &names {
                if let Some(matcher) = matcher {
                    seen(matcher, &place, name, prefix, report);
                }
            }
        }
    }
}

/// How the statistics begin by which drainit knows of an access log that Envoy sends elsewhere.
const ACCESS_LOGS: &str = "access_logs.";

/// What is in the type of such an access log, and one of its statistics.
const SENT_LOGS: [(&str, &str); 3] = [
    (".access_loggers.grpc.", "grpc_access_log.logs_written"),
    (
        ".access_loggers.open_telemetry.",
        "open_telemetry_access_log.logs_written",
    ),
    (".access_loggers.fluentd.", "fluentd.events_sent"),
];

/// What drainit reads of a listener's statistics, and how each begins.
fn names_of(listener: &ConfiguredListener<'_>) -> Vec<(String, &'static str)> {
    let mut names = Vec::new();
    if listener.kind != listener::ListenerKind::Udp {
        let name = format!("listener.{}.downstream_cx_active", listener.scope());
        names.push((name, "listener."));
    }
    for (manager, _) in &listener.managers {
        let prefix = config::text(manager, "/stat_prefix");
        for gauge in ["cx", "rq"] {
            names.push((format!("http.{prefix}.downstream_{gauge}_active"), "http."));
        }
    }
    for proxy in &listener.datagrams {
        let prefix = config::text(proxy, "/stat_prefix");
        names.push((format!("udp.{prefix}.downstream_sess_active"), "udp."));
    }
    let json = listener.json.to_string();
    for (logger, name) in SENT_LOGS {
        if json.contains(logger) {
            names.push((format!("{ACCESS_LOGS}{name}"), ACCESS_LOGS));
        }
    }
    names
}

/// Envoy reads a file that the configuration names once.
fn certificates_by_file(_: &Facts, config: &Config, report: &mut Report) {
    config.visit(&mut |place, object| {
        let list = object.get("tls_certificates").and_then(Value::as_array);
        let secret = place.starts_with("secret ").then(|| object.get("tls_certificate"));
        let all = list.into_iter().flatten().chain(secret.flatten());
        for certificate in all {
            let file = config::text(certificate, "/certificate_chain/filename");
            if !file.is_empty() {
                let what = format!("the certificate {file} is read once: Envoy never takes a new one");
                let remedy = "drainit's --secret NAME=CERT,KEY, and tls_certificate_sds_secret_configs \
                              with that NAME in the place of the files";
                report.find("certificate-file", what, place, remedy);
            }
        }
    });
}

/// The file of an SDS secret, if it is in one.
fn sds_file(object: &Map<String, Value>) -> Option<&str> {
    let source = object.get("sds_config")?;
    let path = source.pointer("/path_config_source/path");
    path.or_else(|| source.get("path"))?.as_str()
}

/// The files that drainit writes, those that Envoy reads, and how many Envoy can watch.
fn secrets(facts: &Facts, config: &Config, report: &mut Report) {
    // Each file once, and where it is read.
    let mut files: Vec<(&str, String)> = Vec::new();
    config.visit(&mut |place, object| {
        if let Some(path) = sds_file(object)
            && !files.iter().any(|(known, _)| *known == path)
        {
            files.push((path, place.to_owned()));
        }
    });
    let count = files.len() as u64;
    if let Some((most, name)) = facts.host.watches.filter(|(most, _)| count >= *most) {
        let what = format!(
            "Envoy takes an inotify instance for each of {count} SDS files, and aborts where the kernel \
             gives it none: a user may have {most}"
        );
        let remedy = format!(
            "the host's sysctl {name} at {} or more",
            count.saturating_mul(2)
        );
        report.find("inotify", what, "", &remedy);
    }
    let Some(dir) = &facts.options.resources_dir else {
        return;
    };
    let written = facts.written();
    let full = |path: &Path| path::absolute(path).unwrap_or_default();
    let sds = full(&dir.join("sds"));
    for (path, place) in &files {
        let own = full(Path::new(path));
        if own.starts_with(&sds) && !written.iter().any(|one| one.path == own) {
            let what = format!("Envoy reads {path}, which no option has drainit write");
            let remedy = "--secret with the name that the file has";
            report.find("secret", what, place, remedy);
        }
    }
    if config.bootstrap.get("dynamic_resources").is_some() {
        return;
    }
    for one in written {
        let path = one.path.to_string_lossy();
        if !files
            .iter()
            .any(|(known, _)| full(Path::new(known)) == one.path)
        {
            let what = format!("nothing in the configuration reads {path}");
            let context = match one.kind {
                SecretKind::Certificate => "tls_certificate_sds_secret_configs",
                SecretKind::Validation => "validation_context_sds_secret_config",
            };
            let remedy = format!(
                "{context} with the name {} and path_config_source {{ path: {path} }}",
                one.name
            );
            report.find("secret", what, "", &remedy);
        }
    }
}

/// More connections than descriptors end as refused ones.
fn descriptors(facts: &Facts, config: &Config, report: &mut Report) {
    let Some(limit) = facts.host.descriptors else {
        return;
    };
    let monitors = items(&config.bootstrap, "/overload_manager/resource_monitors").iter();
    let monitor = |one: &Value| {
        let most = one.pointer("/typed_config/max_active_downstream_connections")?;
        // Protobuf writes 64 bits as text.
        most.as_u64().or_else(|| most.as_str()?.parse().ok())
    };
    let layers = items(&config.bootstrap, "/layered_runtime/layers").iter();
    let layers: Vec<_> = layers
        .filter_map(|layer| layer.get("static_layer"))
        .collect();
    let runtime = |key: &str| layers.iter().rev().find_map(|layer| in_layer(layer, key));
    let global = monitors.filter_map(monitor).max();
    let global = global.or_else(|| runtime("overload.global_downstream_max_connections"));
    let names = listener::all(config);
    let own = names.iter().filter_map(|listener| {
        let name = config::text(listener.json, "/name");
        runtime(&format!(
            "envoy.resource_limits.listener.{name}.connection_limit"
        ))
    });
    let own: Option<u64> = own.reduce(u64::saturating_add);
    let allowed = [global, own].into_iter().flatten().min();
    if let Some(allowed) = allowed.filter(|allowed| *allowed >= limit) {
        let what = format!(
            "the configuration allows {allowed} connections, and Envoy may have {limit} files open \
             (RLIMIT_NOFILE)"
        );
        let remedy = format!(
            "LimitNOFILE=, `--ulimit nofile=` or `ulimit -n` of {} or more, since upstream \
             connections count as well; or lower limits",
            allowed.saturating_mul(2)
        );
        report.find("descriptors", what, "", &remedy);
    }
}

/// A number in a layer of the runtime, whose names may be nested or written with dots.
fn in_layer(layer: &Value, key: &str) -> Option<u64> {
    if let Some(value) = layer.get(key) {
        // The runtime's numbers are floating.
        return value.as_f64().map(|number| number as u64);
    }
    let dots = key.match_indices('.');
    let mut halves = dots.filter_map(|(at, _)| Some((key.get(..at)?, key.get(at + 1..)?)));
    halves.find_map(|(first, rest)| in_layer(layer.get(first)?, rest))
}
