//! The command line: tables of commands and options, from which the parser, the environment
//! variables, the help and the man page are made. Nothing behind this file sees a string again.

pub mod bootstrap;
mod entries;
mod flag;
mod flags;
mod near;
mod parse;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::certificates::name;
use crate::certificates::read::Source;
use crate::cidr::Cidr;
use crate::client::Address;
use crate::drain::{Limits, MinDrain};
use crate::duration;
use crate::http::Listen;

use bootstrap::Bootstrap;

pub use entries::{BOOTSTRAP, ENTRIES, Entry};
pub use flag::{Flag, Settings, Value};
pub use flags::FLAGS;
pub use near::stray_variables;
pub use parse::{ORCHESTRATOR, parse};

/// What the user wants.
#[derive(Debug)]
pub enum Command {
    /// Run Envoy.
    Run(Box<Options>, Vec<OsString>),
    /// `drainit shutdown`
    Shutdown(Box<Options>),
    /// `drainit hold`
    Hold(Box<Options>),
    /// `drainit resume`
    Resume(Box<Options>),
    /// `drainit health [live|ready]`
    Health(Box<Options>, Probe),
    /// `drainit status`
    Status(Box<Options>, StatusMode),
    /// `drainit reload`, and whether it waits for the reload's end
    Reload(Box<Options>, bool),
    /// `drainit check`: of this command line or, where it is empty, of the drainit of `--pid`; as
    /// JSON, if so.
    Check(Box<Options>, Vec<OsString>, bool),
    /// `drainit bootstrap`, which has options of its own
    Bootstrap(Box<Bootstrap>),
    /// `drainit install PATH`
    Install(PathBuf),
    /// `drainit help`, on this
    Help(Topic),
    /// `drainit --version`
    Version,
}

/// What somebody wants to read about.
#[derive(Clone, Copy, Debug)]
pub enum Topic {
    /// The first page: the commands, and the options that people use.
    First,
    /// Every option.
    All,
    /// A command of drainit's.
    Of(&'static Entry),
    /// Everything, as a man page.
    Man,
}

/// What `drainit health` asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Whether Envoy runs.
    Live,
    /// Whether Envoy should get traffic.
    Ready,
}

/// How `drainit status` shows what it has to show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatusMode {
    /// Whether the status is shown again and again, in place.
    pub watch: bool,
    /// Whether the status is shown as JSON.
    pub json: bool,
}

/// What becomes of an Envoy that ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Envoy's end is drainit's.
    Never,
    /// Envoy is started again if it failed.
    OnFailure,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs: a JSON object a line.
    Json,
}

/// Every option, resolved.
#[derive(Clone, Debug)]
pub struct Options {
    /// Envoy's admin address, unless Envoy tells it.
    pub admin_address: Option<Address>,
    /// Where health, status and metrics are served.
    pub listen: Listen,
    /// Whether `listen` was given, so that a client command should go there.
    pub listen_given: bool,
    /// The drainit that a client command is for (`--pid`).
    pub pid: Option<i32>,
    /// Who may ask for a drain over HTTP.
    pub shutdown_from: Vec<Cidr>,
    /// The limits of a drain.
    pub limits: Limits,
    /// What the orchestrator allows from the signal to its SIGKILL, where it tells.
    pub grace_period: Option<Duration>,
    /// The time from Envoy's SIGTERM to SIGKILL.
    pub kill_timeout: Duration,
    /// Listeners whose connections do not count.
    pub exclude_listeners: Vec<String>,
    /// Whether Envoy's command line is completed.
    pub add_envoy_flags: bool,
    /// Whether a reload is Envoy's hot restart.
    pub hot_restart: bool,
    /// Whether the configuration file is followed.
    pub watch_config: bool,
    /// What becomes of an Envoy that ended by itself.
    pub restart: Restart,
    /// The xDS client's certificate.
    pub cert_file: Option<PathBuf>,
    /// The xDS client's private key.
    pub key_file: Option<PathBuf>,
    /// The CA that the xDS server is checked against.
    pub ca_file: Option<PathBuf>,
    /// Where the SDS files go.
    pub resources_dir: Option<PathBuf>,
    /// Certificates of listeners to keep fresh: the SDS secrets' names, and where their files are.
    pub secrets: Vec<(String, Source)>,
    /// CA bundles that listeners check peers against: the SDS secrets' names, and where their files
    /// are.
    pub validations: Vec<(String, Source)>,
    /// How often the certificate files are compared.
    pub certificate_check: Duration,
    /// Whether `certificate_check` was given; where not, the kernel's word may stand for most
    /// looks.
    pub certificate_check_given: bool,
    /// How log lines look.
    pub log_format: LogFormat,
    /// The least level that is logged.
    pub log_level: log::LevelFilter,
    /// Whether `log_level` was given; where not, `RUST_LOG` has a say.
    pub log_level_given: bool,
}

/// How long `--min-drain auto` waits for new connections to stop at the most, without an
/// orchestrator; and what it leaves of the drain's time for those that came last.
const LONE: Duration = Duration::from_secs(5);

/// `--min-drain auto`, before it is known what it may use.
pub(super) const AUTO: MinDrain = MinDrain::Auto {
    most: LONE,
    reserve: LONE,
};

/// What the kubelet needs for itself of a pod's grace period, so that its SIGKILL never comes first.
const RESERVE: Duration = Duration::from_secs(3);

impl Default for Options {
    /// Each option as it is where nobody says otherwise: the table has its default.
    fn default() -> Options {
        let mut options = Options::blank();
        for flag in FLAGS {
            // None fails: see the tests.
            let _ = flag.take_default(&mut options);
        }
        options.listen_given = false;
        options
    }
}

impl Options {
    /// Nothing set: what the table's defaults are put into.
    fn blank() -> Options {
        Options {
            admin_address: None,
            listen: Listen::Default,
            listen_given: false,
            pid: None,
            shutdown_from: Vec::new(),
            limits: Limits::BLANK,
            grace_period: None,
            kill_timeout: Duration::ZERO,
            exclude_listeners: Vec::new(),
            add_envoy_flags: false,
            hot_restart: false,
            watch_config: false,
            restart: Restart::Never,
            cert_file: None,
            key_file: None,
            ca_file: None,
            resources_dir: None,
            secrets: Vec::new(),
            validations: Vec::new(),
            certificate_check: Duration::ZERO,
            certificate_check_given: false,
            log_format: LogFormat::Text,
            log_level: log::LevelFilter::Off,
            log_level_given: false,
        }
    }

    /// What follows from which options were given.
    ///
    /// Where an `orchestrator` allows a time, `--min-drain auto` may use nearly all of it. Elsewhere
    /// `docker stop` kills after 10 s, and a lone container's clients never leave: of a time below
    /// that, no more than half is spent on them.
    fn resolve(&mut self, given: &[&str], orchestrator: bool) {
        self.log_level_given = given.contains(&"log-level");
        self.certificate_check_given = given.contains(&"certificate-check");
        if let Some(grace) = self.grace_period
            && !given.contains(&"drain-timeout")
        {
            let rest = grace.saturating_sub(self.kill_timeout + RESERVE);
            self.limits.timeout = rest.max(grace / 2);
        }
        if let MinDrain::Auto { most, reserve } = &mut self.limits.min {
            let timeout = self.limits.timeout;
            (*most, *reserve) = match orchestrator || self.grace_period.is_some() {
                true => (timeout, LONE),
                false => (LONE, LONE.min(timeout / 2)),
            };
        }
    }

    /// Whether any certificates are to be kept fresh.
    pub fn has_certificates(&self) -> bool {
        self.resources_dir.is_some()
    }

    /// What only shows when all options are known.
    fn check(&self) -> Result<(), String> {
        let Limits {
            delay,
            timeout,
            min,
            ..
        } = self.limits;
        let all = duration::show(timeout);
        if delay > timeout {
            return Err(format!(
                "--drain-delay is longer than --drain-timeout ({all}), which it is a part of"
            ));
        }
        if let MinDrain::For(min) = min
            && min > timeout
        {
            return Err(format!(
                "--min-drain is longer than --drain-timeout ({all})"
            ));
        }
        if self.watch_config && !self.hot_restart {
            return Err(
                "--watch-config needs --hot-restart, by which a changed configuration is loaded"
                    .into(),
            );
        }
        let files = [
            ("--envoy-cert-file", self.cert_file.is_some()),
            ("--envoy-key-file", self.key_file.is_some()),
            ("--envoy-cafile", self.ca_file.is_some()),
        ];
        let given = files.iter().any(|(_, given)| *given);
        if given && let Some((missing, _)) = files.iter().find(|(_, given)| !given) {
            return Err(format!(
                "{missing} is missing: --envoy-cert-file, --envoy-key-file, --envoy-cafile and --resources-dir go together"
            ));
        }
        let secrets = self.secrets.iter().map(|(name, _)| ("--secret", &**name));
        let validations = self.validations.iter();
        let validations = validations.map(|(name, _)| ("--validation", &**name));
        check_names(secrets.chain(validations))?;
        let given = given || !self.secrets.is_empty() || !self.validations.is_empty();
        match (&self.resources_dir, given) {
            (None, true) => Err("--resources-dir is missing: it is where the SDS files of the certificates go".into()),
            (Some(_), false) => Err("--resources-dir is given, but no certificates: add --envoy-cert-file, --envoy-key-file and --envoy-cafile, or --secret, or --validation".into()),
            _ => Ok(()),
        }
    }
}

/// Whether no two secrets, each with its option, have one name, in Envoy's statistics either.
fn check_names<'a>(secrets: impl Iterator<Item = (&'a str, &'a str)>) -> Result<(), String> {
    let mut seen: Vec<(String, &str)> = Vec::new();
    for (option, name) in secrets {
        let in_statistics = name::in_statistics(name);
        let same = seen.iter().find(|(known, _)| *known == in_statistics);
        match same {
            Some((_, other)) if *other == name => {
                return Err(format!("{option} {name} is given twice"));
            }
            Some((_, other)) => {
                return Err(format!(
                    "{option} {name}: Envoy has it under one name with {other} in its statistics, \
                     which tell whether it took them: rename one"
                ));
            }
            None => seen.push((in_statistics, name)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
