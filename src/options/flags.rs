//! The table of options.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::flag::{Flag, Setter, Settings, Value};
use super::{AUTO, LogFormat, Options, Restart};
use crate::certificates::name;
use crate::certificates::read::Source;
use crate::cidr::Cidr;
use crate::drain::MinDrain;
use crate::duration;

impl Settings for Options {
    fn clear(&mut self, name: &str) {
        match name {
            "exclude-listener" => self.exclude_listeners.clear(),
            "secret" => self.secrets.clear(),
            "validation" => self.validations.clear(),
            _ => {}
        }
    }
}

fn set<T>(target: &mut T, value: Result<T, String>) -> Result<(), String> {
    value.map(|value| *target = value)
}

fn path(text: &str) -> Result<Option<PathBuf>, String> {
    if text.is_empty() {
        return Err("the path is empty".into());
    }
    Ok(Some(text.into()))
}

/// A duration that is an interval: too short a one would spin.
fn interval(text: &str) -> Result<Duration, String> {
    let interval = duration::parse(text)?;
    if interval < Duration::from_millis(10) {
        return Err(format!("`{text}` is too short: 10ms is the least"));
    }
    Ok(interval)
}

/// A duration that a deadline is made of: added to a clock, it must not overflow.
fn span(text: &str) -> Result<Duration, String> {
    let span = duration::parse(text)?;
    if span > Duration::from_secs(30 * 86_400) {
        return Err(format!("`{text}` is too long: 720h is the most"));
    }
    Ok(span)
}

/// What `auto` may use depends on other options.
fn min_drain(text: &str) -> Result<MinDrain, String> {
    match text {
        "auto" => Ok(AUTO),
        text => span(text).map(MinDrain::For),
    }
}

fn switch(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(format!("`{text}` is neither true nor false")),
    }
}

fn one_of<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    choices
        .iter()
        .find(|(name, _)| *name == text)
        .map(|(_, choice)| *choice)
        .ok_or_else(|| {
            let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
            format!("`{text}` is none of {}", names.join(", "))
        })
}

fn networks(text: &str) -> Result<Vec<Cidr>, String> {
    match text.trim() {
        "none" | "off" => return Ok(Vec::new()),
        "loopback" => return Ok(Cidr::loopback().to_vec()),
        _ => {}
    }
    let networks: Vec<Cidr> = list(text)?;
    if networks.is_empty() {
        let why = "the list is empty: write none, loopback, or networks such as 10.0.0.0/8";
        return Err(why.into());
    }
    Ok(networks)
}

fn list<T: FromStr<Err = String>>(text: &str) -> Result<Vec<T>, String> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(str::parse)
        .collect()
}

/// How a secret and a validation context are written.
const SECRET: &str = "NAME=CERT,KEY[,ocsp=FILE]";
const VALIDATION: &str = "NAME=CA[,crl=FILE]";

fn secret(text: &str) -> Result<(String, Source), String> {
    let (name, [cert, key], staple) = files(text, "ocsp=", SECRET)?;
    Ok((name, Source::Pair { cert, key, staple }))
}

fn validation(text: &str) -> Result<(String, Source), String> {
    let (name, [ca], crl) = files(text, "crl=", VALIDATION)?;
    Ok((name, Source::Trust { ca, crl }))
}

/// A secret's name, its files, and the one that may be behind them, marked by `more`.
fn files<const N: usize>(
    text: &str,
    more: &str,
    form: &str,
) -> Result<(String, [PathBuf; N], Option<PathBuf>), String> {
    let wrong = |why: &str| format!("`{text}` {why}: write {form}");
    let (name, files) = text.split_once('=').ok_or_else(|| wrong("has no '='"))?;
    let mut parts = files.split(',');
    let mut needed = std::array::from_fn(|_| PathBuf::new());
    for file in &mut needed {
        let part = parts.next().unwrap_or_default();
        if part.is_empty() || part.starts_with(more) {
            return Err(wrong("lacks a file"));
        }
        *file = part.into();
    }
    let mut last = None;
    for part in parts {
        match part.strip_prefix(more) {
            Some("") => return Err(wrong(&format!("has no file behind {more}"))),
            Some(_) if last.is_some() => return Err(wrong(&format!("has {more} twice"))),
            Some(file) => last = Some(file.into()),
            None => return Err(wrong(&format!("has `{part}` too much"))),
        }
    }
    name::check(name)?;
    Ok((name.into(), needed, last))
}

const fn flag(
    name: &'static str,
    value: Value,
    default: &'static str,
    doc: &'static str,
    set: Setter<Options>,
) -> Flag<Options> {
    Flag::new(name, value, default, doc, set)
}

use Value::{Each, One, Switch};

/// Every option of the main command, in the order of the help.
pub const FLAGS: &[Flag<Options>] = &[
    flag(
        "admin-address",
        One("ADDR"),
        "found out",
        "Envoy's admin interface: a unix socket's path or host:port. By default Envoy tells it.",
        |o, v| set(&mut o.admin_address, v.parse().map(Some)),
    )
    .begins("Where things are")
    .unset(),
    flag(
        "listen",
        One("ADDR"),
        "[::]:8090, else 0.0.0.0:8090",
        "Where health, status and metrics are served: IP:port, unix:PATH or off.",
        |o, v| {
            o.listen_given = true;
            set(&mut o.listen, v.parse())
        },
    )
    .unset()
    .brief("Where health, status and metrics are served"),
    flag(
        "shutdown-from",
        One("CIDR,...|none"),
        "none",
        "Who may GET or POST /shutdown over TCP; loopback is 127.0.0.0/8 and ::1. The local control socket is for root and drainit's own user, always.",
        |o, v| set(&mut o.shutdown_from, networks(v)),
    ),
    flag(
        "drain-delay",
        One("DUR"),
        "0s",
        "Keep serving and stay ready this long after the signal, for load balancers that deregister slowly.",
        |o, v| set(&mut o.limits.delay, span(v)),
    )
    .begins("The drain")
    .brief("Stay ready this long after the signal"),
    flag(
        "drain-timeout",
        One("DUR"),
        "25s",
        "The time from the signal to Envoy's SIGTERM at the latest, delay included; below a pod's grace period of 30 s.",
        |o, v| set(&mut o.limits.timeout, span(v)),
    )
    .brief("The drain's deadline, from the signal on"),
    flag(
        "grace-period",
        One("DUR"),
        "",
        "What the orchestrator allows from the signal to its SIGKILL. Unless --drain-timeout is given, the drain timeout is then the grace period minus --kill-timeout minus 3 s, and at least half of the grace period.",
        |o, v| set(&mut o.grace_period, span(v).map(Some)),
    )
    .env_seconds("TERMINATION_GRACE_PERIOD_SECONDS")
    .brief("The time that the orchestrator allows"),
    flag(
        "min-drain",
        One("auto|DUR"),
        "auto",
        "How long Envoy accepts connections at the least. auto: until nobody sends new ones any more, as far as their rate tells; at once where nobody used Envoy for 10 s (a second later with a unix, UDP or HTTP/3 listener, or without netlink); at most 5 s or half of --drain-timeout; in a pod (KUBERNETES_SERVICE_HOST is set) or with --grace-period, at most --drain-timeout less 5 s.",
        |o, v| set(&mut o.limits.min, min_drain(v)),
    )
    .brief("Accept connections at least this long")
    .also(&["min-drain-duration"]),
    flag(
        "settle",
        One("DUR"),
        "5s",
        "A connection on which nothing was received or sent for this long, with no request or session open on it, holds nothing up. Connections that only Envoy tells of (QUIC) hold nothing up after this long without a request on any of them. 0 turns both off.",
        |o, v| set(&mut o.limits.settle, span(v)),
    ),
    flag(
        "open-connections",
        One("N"),
        "0",
        "The drain does not wait for the last N connections.",
        |o, v| {
            set(
                &mut o.limits.open_connections,
                v.parse()
                    .map_err(|_| format!("`{v}` is no number: write 0 or more")),
            )
        },
    )
    .also(&["min-open-connections", "exit-at-connections"]),
    flag(
        "check-interval",
        One("DUR"),
        "250ms",
        "The least time between two polls; a slow admin interface stretches it, so that polling takes under 5 % of Envoy's main thread.",
        |o, v| set(&mut o.limits.check_interval, interval(v)),
    ),
    flag(
        "kill-timeout",
        One("DUR"),
        "2s",
        "The time from Envoy's SIGTERM to SIGKILL.",
        |o, v| set(&mut o.kill_timeout, span(v)),
    ),
    flag(
        "exclude-listener",
        Each("NAME"),
        "",
        "A listener (its name, its stat prefix, address:port or :port) whose connections do not count; repeatable.",
        |o, v| {
            if v.is_empty() {
                return Err("the name is empty: write a name, a stat prefix, address:port or :port".into());
            }
            o.exclude_listeners.push(v.into());
            Ok(())
        },
    )
    .brief("A listener whose connections do not count"),
    flag(
        "envoy-flags",
        One("add|keep"),
        "add",
        "add: --drain-time-s, --drain-strategy immediate, --admin-address-path and --disable-hot-restart are appended where Envoy's command line lacks them. keep: they are not.",
        |o, v| {
            set(
                &mut o.add_envoy_flags,
                one_of(v, &[("add", true), ("keep", false)]),
            )
        },
    )
    .begins("Envoy's command line and its lives"),
    flag(
        "hot-restart",
        Switch,
        "off",
        "Reload by Envoy's hot restart: a new Envoy starts beside the old one, and has 60 s to become live. Once it is live, the old one drains.",
        |o, v| set(&mut o.hot_restart, switch(v)),
    )
    .brief("Reload by Envoy's hot restart"),
    Flag::new(
        "watch-config",
        Value::Switch,
        "off",
        "With --hot-restart: reload by itself when the contents of the configuration file (Envoy's -c) have changed and stayed, and go back to the last good ones if the new Envoy does worse in its first 30 s.",
        |o, v| set(&mut o.watch_config, switch(v)),
    ),
    flag(
        "restart",
        One("never|on-failure"),
        "never",
        "never: drainit ends when Envoy ends. on-failure: start it again with exponential backoff, for nodes without an orchestrator. An Envoy whose configuration or command line envoy --mode validate refuses is not started again, and one that exits 0 before it is live has done its work.",
        |o, v| {
            set(
                &mut o.restart,
                one_of(
                    v,
                    &[
                        ("never", Restart::Never),
                        ("on-failure", Restart::OnFailure),
                    ],
                ),
            )
        },
    )
    .brief("Whether a failed Envoy is started again"),
    flag(
        "envoy-cert-file",
        One("PATH"),
        "off",
        "The xDS client's certificate to keep fresh.",
        |o, v| set(&mut o.cert_file, path(v)),
    )
    .begins("Certificates")
    .unset()
    .env("ENVOY_CERT_FILE"),
    flag("envoy-key-file", One("PATH"), "off", "The xDS client's private key.", |o, v| {
        set(&mut o.key_file, path(v))
    })
    .unset()
    .env("ENVOY_KEY_FILE"),
    flag(
        "envoy-cafile",
        One("PATH"),
        "off",
        "The CA that the xDS server is checked against.",
        |o, v| set(&mut o.ca_file, path(v)),
    )
    .unset()
    .env("ENVOY_CAFILE"),
    flag(
        "resources-dir",
        One("DIR"),
        "off",
        "Where the SDS files go: DIR/sds/xds-tls-certificate.json and DIR/sds/xds-validation-context.json.",
        |o, v| set(&mut o.resources_dir, path(v)),
    )
    .unset()
    .brief("Where the SDS files of the certificates go"),
    flag(
        "secret",
        Each(SECRET),
        "",
        "One more SDS secret to keep fresh, for a listener: DIR/sds/NAME.json, where bytes of NAME other than letters, digits, '.', '_' and '-' are percent-encoded; FILE is an OCSP response to staple, DER; repeatable.",
        |o, v| {
            o.secrets.push(secret(v)?);
            Ok(())
        },
    )
    .brief("A listener's certificate to keep fresh"),
    flag(
        "validation",
        Each(VALIDATION),
        "",
        "One more SDS validation context to keep fresh, for a listener's client certificates: DIR/sds/NAME.json, with NAME as for --secret; CA is a PEM file of CAs, FILE one of revocation lists; repeatable.",
        |o, v| {
            o.validations.push(validation(v)?);
            Ok(())
        },
    )
    .brief("A listener's client CA to keep fresh"),
    flag(
        "certificate-check",
        One("DUR"),
        "1s",
        "How often the certificate files' contents are compared. A change that the kernel tells of is seen at once; where the kernel tells of every change, the files are compared every 30s unless this is given.",
        |o, v| set(&mut o.certificate_check, interval(v)),
    ),
    flag(
        "log-format",
        One("text|json"),
        "text",
        "How log lines look, on stderr, one line an event.",
        |o, v| {
            set(
                &mut o.log_format,
                one_of(v, &[("text", LogFormat::Text), ("json", LogFormat::Json)]),
            )
        },
    )
    .begins("The log")
    .brief("How log lines look"),
    flag(
        "log-level",
        One("LEVEL"),
        "info",
        "How much is logged: off, error, warn, info, debug or trace. Where this option is not given, RUST_LOG counts.",
        |o, v| {
            set(
                &mut o.log_level,
                v.parse()
                    .map_err(|_| format!("`{v}` is none of off, error, warn, info, debug, trace")),
            )
        },
    )
    .brief("off, error, warn, info, debug or trace"),
];
