//! The table of options.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use lexopt::Parser;

use super::{LogFormat, Options, Restart, Secret};
use crate::certificates::publish;
use crate::cidr::Cidr;
use crate::duration;

/// One option.
#[derive(Debug)]
pub struct Flag {
    /// Its name, without the dashes. Its environment variable is `DRAINIT_` and this in capitals.
    pub name: &'static str,
    /// Other spellings, those of Contour and Envoy Gateway.
    pub aliases: &'static [&'static str],
    /// A further environment variable, Contour's.
    pub env: Option<&'static str>,
    /// What its value is called in `--help`.
    pub value: Value,
    /// Its default, for `--help`.
    pub default: &'static str,
    /// What it does, for `--help`: one sentence or two.
    pub doc: &'static str,
    set: fn(&mut Options, &str) -> Result<(), String>,
}

/// What an option takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// Nothing: it is on or off.
    Switch,
    /// One value, called so.
    One(&'static str),
    /// One value each time it is given. In the environment, white space separates them.
    Each(&'static str),
}

impl Flag {
    /// Whether `name` is a spelling of this.
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name || self.aliases.contains(&name)
    }

    /// Its environment variables, the one that counts most first.
    pub fn variables(&self) -> impl Iterator<Item = String> {
        let spellings = std::iter::once(&self.name).chain(self.aliases);
        let own = spellings.map(|name| name.to_uppercase().replace('-', "_"));
        own.map(|name| format!("DRAINIT_{name}"))
            .chain(self.env.map(str::to_owned))
    }

    /// Takes it from the command line, which wins over the environment.
    pub(super) fn take(
        &self,
        options: &mut Options,
        parser: &mut Parser,
        seen: &mut Vec<&'static str>,
    ) -> Result<(), String> {
        if !seen.contains(&self.name) {
            seen.push(self.name);
            if let Value::Each(_) = self.value {
                self.clear(options);
            }
        }
        let spelled = format!("--{}", self.name);
        if self.value == Value::Switch {
            return self.apply(options, OsStr::new("true"), &spelled);
        }
        let value = value(parser, &spelled)?;
        self.apply(options, &value, &spelled)
    }

    /// Takes it from the environment, where it is set there.
    pub(super) fn take_env(
        &self,
        options: &mut Options,
        env: &impl Fn(&str) -> Option<OsString>,
    ) -> Result<(), String> {
        for name in self.variables() {
            let name = name.as_str();
            let Some(value) = env(name).filter(|value| !value.is_empty()) else {
                continue;
            };
            if let Value::Each(_) = self.value {
                let text = text(&value, name)?;
                for word in text.split_ascii_whitespace() {
                    self.apply(options, OsStr::new(word), name)?;
                }
            } else {
                self.apply(options, &value, name)?;
            }
            return Ok(());
        }
        Ok(())
    }

    fn apply(&self, options: &mut Options, value: &OsStr, spelled: &str) -> Result<(), String> {
        (self.set)(options, text(value, spelled)?).map_err(|why| format!("{spelled}: {why}"))
    }

    fn clear(&self, options: &mut Options) {
        match self.name {
            "exclude-listener" => options.exclude_listeners.clear(),
            "secret" => options.secrets.clear(),
            _ => {}
        }
    }
}

/// An option's value. What looks like the next option is none, unless it is given as
/// `--option=--value`.
pub(super) fn value(parser: &mut Parser, spelled: &str) -> Result<OsString, String> {
    if let Some(value) = parser.optional_value() {
        return Ok(value);
    }
    let value = parser.value().map_err(super::explain)?;
    match value.to_str() {
        Some(next) if next.starts_with("--") => Err(format!(
            "{spelled} lacks its value, `{next}` follows: `drainit help` shows what it takes"
        )),
        _ => Ok(value),
    }
}

fn text<'a>(value: &'a OsStr, spelled: &str) -> Result<&'a str, String> {
    value
        .to_str()
        .ok_or_else(|| format!("{spelled}: the value is no UTF-8"))
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

fn secret(text: &str) -> Result<Secret, String> {
    let parts = text
        .split_once('=')
        .and_then(|(name, files)| files.split_once(',').map(|(cert, key)| (name, cert, key)))
        .filter(|(name, cert, key)| !name.is_empty() && !cert.is_empty() && !key.is_empty());
    let Some((name, cert, key)) = parts else {
        return Err(format!("`{text}` is no secret: write NAME=CERT,KEY"));
    };
    if let Some((_, more)) = key.split_once(',') {
        return Err(format!(
            "`{more}` is too much: write NAME=CERT,KEY, two files"
        ));
    }
    publish::check_name(name)?;
    Ok(Secret {
        name: name.into(),
        cert: cert.into(),
        key: key.into(),
    })
}

const fn flag(
    name: &'static str,
    value: Value,
    default: &'static str,
    doc: &'static str,
    set: fn(&mut Options, &str) -> Result<(), String>,
) -> Flag {
    Flag {
        name,
        aliases: &[],
        env: None,
        value,
        default,
        doc,
        set,
    }
}

impl Flag {
    const fn also(mut self, aliases: &'static [&'static str]) -> Flag {
        self.aliases = aliases;
        self
    }

    const fn env(mut self, name: &'static str) -> Flag {
        self.env = Some(name);
        self
    }
}

use Value::{Each, One, Switch};

/// Every option, in the order of `--help`.
pub const FLAGS: &[Flag] = &[
    flag(
        "admin-address",
        One("ADDR"),
        "found out",
        "Envoy's admin interface: a unix socket's path or host:port. By default Envoy tells it.",
        |o, v| set(&mut o.admin_address, v.parse().map(Some)),
    ),
    flag(
        "listen",
        One("ADDR"),
        "[::]:8090, else 0.0.0.0:8090",
        "Where health, status and metrics are served: IP:port, unix:PATH or off.",
        |o, v| {
            o.listen_given = true;
            set(&mut o.listen, v.parse())
        },
    ),
    flag(
        "shutdown-from",
        One("CIDR,...|none"),
        "none",
        "Who may GET or POST /shutdown over TCP. The local control socket is for root and drainit's own user, always.",
        |o, v| set(&mut o.shutdown_from, networks(v)),
    ),
    flag(
        "drain-delay",
        One("DUR"),
        "0s",
        "Keep serving and stay ready this long after the signal, for load balancers that deregister slowly.",
        |o, v| set(&mut o.limits.delay, span(v)),
    ),
    flag(
        "drain-timeout",
        One("DUR"),
        "25s",
        "From the signal to Envoy's SIGTERM at the latest, delay included; below a pod's grace period of 30 s.",
        |o, v| set(&mut o.limits.timeout, span(v)),
    ),
    flag(
        "min-drain",
        One("DUR"),
        "0s",
        "Drain at least this long, even with nothing left.",
        |o, v| set(&mut o.limits.min, span(v)),
    )
    .also(&["min-drain-duration"]),
    flag(
        "settle",
        One("DUR"),
        "5s",
        "With no request and no TCP or UDP session in flight for this long, idle keep-alive connections hold nothing up; 0 turns that off.",
        |o, v| set(&mut o.limits.settle, span(v)),
    ),
    flag(
        "open-connections",
        One("N"),
        "0",
        "This many connections left count as none.",
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
        "Between polls at the most often; a slow admin stretches it, so that polling takes under 5 % of Envoy's main thread.",
        |o, v| set(&mut o.limits.check_interval, interval(v)),
    ),
    flag(
        "kill-timeout",
        One("DUR"),
        "2s",
        "From Envoy's SIGTERM to SIGKILL.",
        |o, v| set(&mut o.kill_timeout, span(v)),
    ),
    flag(
        "exclude-listener",
        Each("NAME"),
        "",
        "A listener (its stat prefix, or address:port) whose connections do not count; repeatable.",
        |o, v| {
            if v.is_empty() {
                return Err("the name is empty: write a stat prefix or address:port".into());
            }
            o.exclude_listeners.push(v.into());
            Ok(())
        },
    ),
    flag(
        "envoy-flags",
        One("add|keep"),
        "add",
        "Whether to append --drain-time-s, --drain-strategy immediate, --admin-address-path and --disable-hot-restart where Envoy's command line lacks them.",
        |o, v| {
            set(
                &mut o.add_envoy_flags,
                one_of(v, &[("add", true), ("keep", false)]),
            )
        },
    ),
    flag(
        "hot-restart",
        Switch,
        "off",
        "Reload by Envoy's hot restart: next epoch, health gate, the old one drains.",
        |o, v| set(&mut o.hot_restart, switch(v)),
    ),
    flag(
        "restart",
        One("never|on-failure"),
        "never",
        "never: Envoy's end is the container's. on-failure: start it again with exponential backoff, for nodes without an orchestrator. One whose configuration or command line envoy --mode validate refuses is not, and one that exits 0 before it is live has done its work.",
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
    ),
    flag(
        "envoy-cert-file",
        One("PATH"),
        "off",
        "The xDS client's certificate to keep fresh.",
        |o, v| set(&mut o.cert_file, path(v)),
    )
    .env("ENVOY_CERT_FILE"),
    flag("envoy-key-file", One("PATH"), "off", "Its key.", |o, v| {
        set(&mut o.key_file, path(v))
    })
    .env("ENVOY_KEY_FILE"),
    flag(
        "envoy-cafile",
        One("PATH"),
        "off",
        "The CA that the xDS server is checked against.",
        |o, v| set(&mut o.ca_file, path(v)),
    )
    .env("ENVOY_CAFILE"),
    flag(
        "resources-dir",
        One("DIR"),
        "off",
        "Where the SDS files go: DIR/sds/xds-tls-certificate.json and DIR/sds/xds-validation-context.json.",
        |o, v| set(&mut o.resources_dir, path(v)),
    ),
    flag(
        "secret",
        Each("NAME=CERT,KEY"),
        "",
        "One more SDS secret to keep fresh, for a listener: DIR/sds/NAME.json; repeatable.",
        |o, v| {
            o.secrets.push(secret(v)?);
            Ok(())
        },
    ),
    flag(
        "certificate-check",
        One("DUR"),
        "1s",
        "How often the certificate files' contents are compared.",
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
    ),
    flag(
        "log-level",
        One("LEVEL"),
        "info",
        "off, error, warn, info, debug or trace. Where it is not given, RUST_LOG counts.",
        |o, v| {
            set(
                &mut o.log_level,
                v.parse()
                    .map(Some)
                    .map_err(|_| format!("`{v}` is none of off, error, warn, info, debug, trace")),
            )
        },
    ),
];
