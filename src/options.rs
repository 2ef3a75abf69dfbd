//! The command line: one table of flags, from which the parser, the environment variables and
//! `--help` are made. Nothing behind this file sees a string again.

mod flags;
mod help;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use lexopt::{Arg, Parser};

use crate::cidr::Cidr;
use crate::client::Address;
use crate::drain::Limits;
use crate::http::Listen;

pub use flags::{FLAGS, Flag, Value};
pub use help::{help, version};

/// What the user wants.
#[derive(Debug)]
pub enum Command {
    /// Run Envoy.
    Run(Box<Options>, Vec<OsString>),
    /// `drainit shutdown`
    Shutdown(Box<Options>),
    /// `drainit health [live|ready]`
    Health(Box<Options>, Probe),
    /// `drainit status`
    Status(Box<Options>, Look),
    /// `drainit reload`
    Reload(Box<Options>),
    /// `drainit bootstrap`, with its own arguments
    Bootstrap(Vec<OsString>),
    /// `drainit install PATH`
    Install(PathBuf),
    /// `drainit help`
    Help,
    /// `drainit --version`
    Version,
}

/// What `drainit health` asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Whether Envoy runs.
    Live,
    /// Whether it should get traffic.
    Ready,
}

/// How `drainit status` shows what it has to show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Again and again, in place.
    pub watch: bool,
    /// As JSON.
    pub json: bool,
}

/// What becomes of an Envoy that ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Its end is drainit's.
    Never,
    /// It is started again if it failed.
    OnFailure,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// A listener's certificate to keep fresh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// The SDS secret's name, and its file's.
    pub name: String,
    /// The chain's file.
    pub cert: PathBuf,
    /// The key's file.
    pub key: PathBuf,
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
    /// Of a drain.
    pub limits: Limits,
    /// From Envoy's SIGTERM to SIGKILL.
    pub kill_timeout: Duration,
    /// Listeners whose connections do not count.
    pub exclude_listeners: Vec<String>,
    /// Whether Envoy's command line is completed.
    pub add_envoy_flags: bool,
    /// Whether a reload is Envoy's hot restart.
    pub hot_restart: bool,
    /// What becomes of an Envoy that ended by itself.
    pub restart: Restart,
    /// The xDS client's certificate.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
    /// The CA that the xDS server is checked against.
    pub ca_file: Option<PathBuf>,
    /// Where the SDS files go.
    pub resources_dir: Option<PathBuf>,
    /// Further secrets.
    pub secrets: Vec<Secret>,
    /// How often the certificate files are compared.
    pub certificate_check: Duration,
    /// How log lines look.
    pub log_format: LogFormat,
    /// The least level that is logged; where it is not given, `RUST_LOG` has a say.
    pub log_level: Option<log::LevelFilter>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            admin_address: None,
            listen: Listen::Default,
            listen_given: false,
            pid: None,
            shutdown_from: Vec::new(),
            limits: Limits {
                delay: Duration::ZERO,
                timeout: Duration::from_secs(25),
                min: Duration::ZERO,
                settle: Duration::from_secs(5),
                open_connections: 0,
                check_interval: Duration::from_millis(250),
            },
            kill_timeout: Duration::from_secs(2),
            exclude_listeners: Vec::new(),
            add_envoy_flags: true,
            hot_restart: false,
            restart: Restart::Never,
            cert_file: None,
            key_file: None,
            ca_file: None,
            resources_dir: None,
            secrets: Vec::new(),
            certificate_check: Duration::from_secs(1),
            log_format: LogFormat::Text,
            log_level: None,
        }
    }
}

/// Reads a command line, and the environment where that says nothing.
///
/// # Errors
/// One line that says what is wrong and what would be right.
pub fn parse(
    args: impl IntoIterator<Item = OsString>,
    env: impl Fn(&str) -> Option<OsString>,
) -> Result<Command, String> {
    let mut given = Given::default();
    for flag in FLAGS {
        if let Err(why) = flag.take_env(&mut given.options, &env) {
            given.unread.push((flag.name, why));
        }
    }
    let mut parser = Parser::from_args(args);
    loop {
        // `--` ends the options, and what follows is Envoy's even if it has a command's name.
        let verbatim = parser
            .try_raw_args()
            .is_some_and(|rest| rest.peek() == Some(OsStr::new("--")));
        match parser.next().map_err(explain)? {
            None => return Err(MISSING.into()),
            Some(Arg::Short('h') | Arg::Long("help")) => return Ok(Command::Help),
            Some(Arg::Short('V') | Arg::Long("version")) => return Ok(Command::Version),
            Some(Arg::Value(word)) if verbatim => return run(given, word, &mut parser),
            Some(Arg::Value(word)) => return command(given, word, &mut parser),
            Some(arg) => find(&arg)?.take(&mut given.options, &mut parser, &mut given.seen)?,
        }
    }
}

/// What was given so far.
#[derive(Default)]
struct Given {
    options: Options,
    /// Options of the command line.
    seen: Vec<&'static str>,
    /// Options whose environment variable is wrong: it counts where the command line does not say
    /// otherwise, and where it is used.
    unread: Vec<(&'static str, String)>,
}

const MISSING: &str =
    "which Envoy? Write `drainit -- envoy -c envoy.yaml`; `drainit help` tells all";

fn find(arg: &Arg<'_>) -> Result<&'static Flag, String> {
    match arg {
        Arg::Long(name) => FLAGS
            .iter()
            .find(|flag| flag.is_called(name))
            .ok_or_else(|| match nearest(name) {
                Some(flag) => format!("unknown option --{name}: did you mean --{}?", flag.name),
                None => format!("unknown option --{name}: `drainit help` lists them, and Envoy's own go behind `--`"),
            }),
        Arg::Short(letter) => Err(format!(
            "unknown option -{letter}: `drainit help` lists them, and Envoy's own go behind `--`"
        )),
        Arg::Value(value) => Err(format!("unexpected argument `{}`", value.to_string_lossy())),
    }
}

/// The flag whose name shares the longest beginning with a wrong one, if that is no accident.
fn nearest(name: &str) -> Option<&'static Flag> {
    let shared = |flag: &&Flag| {
        flag.name
            .bytes()
            .zip(name.bytes())
            .take_while(|(a, b)| a == b)
            .count()
    };
    FLAGS
        .iter()
        .max_by_key(shared)
        .filter(|flag| shared(flag) >= 5)
}

fn explain(error: lexopt::Error) -> String {
    match error {
        lexopt::Error::MissingValue {
            option: Some(option),
        } => format!("{option} lacks its value: `drainit help` shows what it takes"),
        lexopt::Error::UnexpectedValue { option, value } => {
            format!(
                "{option} takes no value, but was given `{}`",
                value.to_string_lossy()
            )
        }
        error => error.to_string(),
    }
}

fn run(given: Given, program: OsString, parser: &mut Parser) -> Result<Command, String> {
    let Given {
        options,
        seen,
        unread,
    } = given;
    if let Some((_, why)) = unread.into_iter().find(|(name, _)| !seen.contains(name)) {
        return Err(why);
    }
    options.check()?;
    let mut line = vec![program];
    line.extend(parser.raw_args().map_err(explain)?);
    Ok(Command::Run(Box::new(options), line))
}

fn command(mut given: Given, word: OsString, parser: &mut Parser) -> Result<Command, String> {
    let name = match word.to_str() {
        Some(name @ ("shutdown" | "health" | "status" | "reload" | "install" | "help")) => {
            name.to_owned()
        }
        Some("bootstrap") => {
            return Ok(Command::Bootstrap(
                parser.raw_args().map_err(explain)?.collect(),
            ));
        }
        _ => return run(given, word, parser),
    };
    let mut words = Vec::new();
    let mut look = Look::default();
    while let Some(arg) = parser.next().map_err(explain)? {
        match arg {
            Arg::Short('h') | Arg::Long("help") => return Ok(Command::Help),
            Arg::Long("watch") if name == "status" => look.watch = true,
            Arg::Long("json") if name == "status" => look.json = true,
            Arg::Long("pid") if CLIENTS.contains(&name.as_str()) => {
                let value = flags::value(parser, "--pid")?;
                given.options.pid = Some(pid(&value)?);
            }
            Arg::Value(word) => words.push(word),
            arg => find(&arg)?.take(&mut given.options, parser, &mut given.seen)?,
        }
    }
    if given.options.pid.is_some() && given.seen.contains(&"listen") {
        return Err("--pid and --listen both say which drainit is meant: give one".into());
    }
    let options = Box::new(given.options);
    let mut words = words.into_iter();
    let command = match name.as_str() {
        "health" => Command::Health(options, probe(words.next())?),
        "install" => Command::Install(
            words
                .next()
                .ok_or("install where? Write `drainit install PATH`")?
                .into(),
        ),
        "shutdown" => Command::Shutdown(options),
        "status" => Command::Status(options, look),
        "reload" => Command::Reload(options),
        _ => Command::Help,
    };
    match words.next() {
        Some(word) => Err(format!(
            "unexpected argument `{}`: `drainit help` shows what `drainit {name}` takes",
            word.to_string_lossy()
        )),
        None => Ok(command),
    }
}

/// The commands that speak to a running drainit.
const CLIENTS: [&str; 4] = ["shutdown", "health", "status", "reload"];

fn pid(value: &OsStr) -> Result<i32, String> {
    let text = value.to_string_lossy();
    let pid = text.parse().ok().filter(|pid| *pid > 0);
    pid.ok_or_else(|| format!("--pid: `{text}` is no pid: write 1 or more"))
}

fn probe(word: Option<OsString>) -> Result<Probe, String> {
    match word.as_deref().map(OsStr::to_str) {
        None | Some(Some("live")) => Ok(Probe::Live),
        Some(Some("ready")) => Ok(Probe::Ready),
        Some(_) => {
            Err("health of what? Write `drainit health live` or `drainit health ready`".into())
        }
    }
}

impl Options {
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
        if delay > timeout {
            return Err(
                "--drain-delay is longer than --drain-timeout, which it is a part of".into(),
            );
        }
        if min > timeout {
            return Err("--min-drain is longer than --drain-timeout".into());
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
        for (at, secret) in self.secrets.iter().enumerate() {
            if self
                .secrets
                .iter()
                .take(at)
                .any(|other| other.name == secret.name)
            {
                return Err(format!("--secret {} is given twice", secret.name));
            }
        }
        match (&self.resources_dir, given || !self.secrets.is_empty()) {
            (None, true) => Err("--resources-dir is missing: it is where the SDS files of the certificates go".into()),
            (Some(_), false) => Err("--resources-dir is given, but no certificates: add --envoy-cert-file, --envoy-key-file and --envoy-cafile, or --secret".into()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
