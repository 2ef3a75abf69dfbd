//! Rules over options, command line, environment and machine: what holds without a configuration.

use std::time::Duration;

use super::facts::{AdminSetting, Facts, Orchestrator};
use super::report::Report;
use crate::client::Address;
use crate::duration::show;
use crate::envoy::address::ADMIN_BLOCK;
use crate::envoy::{flags, hot_restart};

/// Every rule over options, command line, environment and machine.
pub const ALL: &[fn(&Facts, &mut Report)] = &[
    refused,
    admin,
    drain_time,
    grace,
    shared_memory,
    certificates,
    variables,
];

/// Envoy would not start.
fn refused(facts: &Facts, report: &mut Report) {
    if let Some(why) = &facts.missing {
        report.find(
            "program",
            why.clone(),
            "",
            "a path, or a name that is on PATH",
        );
    }
    if let (Some(why), None) = (&facts.unread, &facts.refusal) {
        report.find(
            "unread",
            format!("the configuration could not be read, and was not checked: {why}"),
            "",
            "check where Envoy is to run, as the user that it runs as",
        );
    }
    let Some(why) = &facts.refusal else {
        return;
    };
    let remedy = match () {
        () if why.contains("node 'id' and 'cluster'") => {
            "node: { id: envoy, cluster: envoy } in the configuration, or --service-node and \
             --service-cluster behind `--`"
        }
        () if why.contains("must refer to an existing path") => {
            "the path is that of a file that is there; what drainit is to write there is named by \
             --resources-dir and --secret"
        }
        () => "correct that, and check again",
    };
    report.find("refused", format!("Envoy refuses it: {why}"), "", remedy);
}

/// drainit has to know where to ask.
fn admin(facts: &Facts, report: &mut Report) {
    let given = facts.options.admin_address.as_ref();
    if facts.admin == AdminSetting::Missing {
        let what = "Envoy has no admin interface: a drain goes by the connections that the kernel \
                    shows, idle ones too, and /ready is never 200";
        report.find("admin", what.into(), "", &format!("add {ADMIN_BLOCK}"));
        return;
    }
    let keep = !facts.options.add_envoy_flags;
    if keep && given.is_none() && !flags::has(&facts.args, "--admin-address-path") {
        let what =
            "with --envoy-flags keep Envoy does not tell drainit where its admin interface is";
        report.find("admin", what.into(), "", "--admin-address ADDR");
    }
    if let (Some(given), AdminSetting::At(told)) = (given, &facts.admin)
        && differ(given, told)
    {
        let what = format!("--admin-address is {given}, and Envoy's admin interface is at {told}");
        report.find(
            "admin",
            what,
            "",
            "leave --admin-address out: Envoy tells it",
        );
    }
}

/// Whether two addresses cannot be one. A host has many names.
fn differ(given: &Address, told: &Address) -> bool {
    let port = |address: &str| address.rsplit_once(':').map(|(_, port)| port.to_owned());
    match (given, told) {
        (Address::Tcp(given), Address::Tcp(told)) => {
            port(told).as_deref() != Some("0") && port(given) != port(told)
        }
        (Address::Unix(given), Address::Unix(told)) => {
            given.is_absolute() && told.is_absolute() && given != told
        }
        (Address::Abstract(given), Address::Abstract(told)) => given != told,
        _ => true,
    }
}

/// Envoy 1.40 and newer closes sessions in use from two thirds of the drain time on: see
/// [`flags::drain_time`].
fn drain_time(facts: &Facts, report: &mut Report) {
    let given = flags::value(&facts.args, "--drain-time-s");
    let Some(seconds) = given.and_then(|given| given.to_str()?.parse::<u64>().ok()) else {
        return;
    };
    let deadline = facts.deadline();
    let needed = deadline.as_millis().div_ceil(1_000) as u64 * 3 / 2 + 1;
    if seconds < needed && facts.is_since(40) != Some(false) {
        let what = format!(
            "--drain-time-s {seconds}: from 2/3 of that on Envoy closes WebSockets and CONNECT tunnels \
             in use, and a drain may last {}",
            show(deadline)
        );
        let remedy = format!("leave it out (drainit sets 600 or more), or {needed} or more");
        report.find("drain-time", what, "", &remedy);
    }
}

/// `docker stop` and `podman stop` wait for so long.
const DOCKER: Duration = Duration::from_secs(10);

/// Who sends SIGKILL must not be earlier than the drain.
fn grace(facts: &Facts, report: &mut Report) {
    let needed = facts.deadline() + facts.options.kill_timeout;
    let told = facts.options.grace_period;
    let docker = facts.host.orchestrator == Orchestrator::Docker;
    let Some(grace) = told.or(docker.then_some(DOCKER)) else {
        let what = match facts.host.orchestrator {
            Orchestrator::Kubernetes => "the pod's terminationGracePeriodSeconds",
            Orchestrator::PerhapsDocker => "the time that `docker stop` gives (10 s by default)",
            _ => return,
        };
        let needed = show(needed);
        report.miss(format!(
            "whether {what} is above {needed}: tell it by --grace-period"
        ));
        return;
    };
    if needed >= grace {
        let of = match told {
            Some(_) => "the grace period is",
            None => "`docker stop` and `podman stop` kill after",
        };
        let what = format!(
            "{of} {}, and drainit may take {}: --drain-timeout plus --kill-timeout",
            show(grace),
            show(needed)
        );
        let remedy = match told {
            Some(_) => "a longer grace period, or a shorter --drain-timeout",
            None => {
                "`--stop-timeout`, stop_grace_period or `docker stop --time`, and --grace-period with \
                 the same time"
            }
        };
        report.find("grace-period", what, "", remedy);
    }
}

/// Two generations of Envoy meet in /dev/shm.
fn shared_memory(facts: &Facts, report: &mut Report) {
    let options = &facts.options;
    if options.hot_restart
        && let Some(flag) = hot_restart::contradiction(&facts.args)
    {
        let what = format!("--hot-restart contradicts Envoy's {flag}");
        report.find("hot-restart", what, "", "leave one of them out");
    }
    let kept = !options.add_envoy_flags && !flags::has(&facts.args, "--disable-hot-restart");
    if (options.hot_restart || kept)
        && let Some(why) = &facts.host.no_shared_memory
    {
        let (what, remedy) = match options.hot_restart {
            true => ("--hot-restart needs", "mount a tmpfs at /dev/shm"),
            false => (
                "Envoy's hot restart needs",
                "--disable-hot-restart behind `--`",
            ),
        };
        let what = format!("{what} a writable /dev/shm: {why}");
        report.find("shared-memory", what, "", remedy);
    }
}

/// What could not be served.
fn certificates(facts: &Facts, report: &mut Report) {
    for (place, why) in &facts.certificates {
        let remedy = "a certificate that is valid now, with its own key, both in PEM";
        report.find("secret", why.clone(), place, remedy);
    }
}

/// A variable that nobody reads.
fn variables(facts: &Facts, report: &mut Report) {
    for sentence in &facts.strays {
        report.find(
            "variable",
            sentence.clone(),
            "",
            "correct its name, or take it out",
        );
    }
}
