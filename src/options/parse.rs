//! From a command line, and the environment where that says nothing, to a command.

use std::ffi::{OsStr, OsString};

use lexopt::{Arg, Parser};

use super::bootstrap;
use super::entries::{self, ENTRIES, Entry};
use super::flag::{self, Env, explain};
use super::flags::FLAGS;
use super::near::{self, find};
use super::{Command, Options, Probe, StatusMode, Topic};

/// Reads a command line, and the environment where that says nothing.
///
/// # Errors
/// One line that says what is wrong and what would be right.
pub fn parse(
    args: impl IntoIterator<Item = OsString>,
    env: impl Fn(&str) -> Option<OsString>,
) -> Result<Command, String> {
    // Once in the program, and not once for each kind of environment.
    parse_all(args.into_iter().collect(), &env)
}

fn parse_all(args: Vec<OsString>, env: Env<'_>) -> Result<Command, String> {
    let mut given = Given {
        orchestrator: env(ORCHESTRATOR).is_some_and(|host| !host.is_empty()),
        ..Given::default()
    };
    for flag in FLAGS {
        match flag.take_env(&mut given.options, env) {
            Ok(true) => given.from_env.push(flag.name),
            Ok(false) => {}
            Err(why) => given.unread.push((flag.name, why)),
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
            Some(Arg::Short('h') | Arg::Long("help")) => return Ok(Command::Help(Topic::First)),
            Some(Arg::Short('V') | Arg::Long("version")) => return Ok(Command::Version),
            Some(Arg::Value(word)) if verbatim => return run(given, word, &mut parser),
            Some(Arg::Value(word)) => return command(given, word, &mut parser, env),
            Some(arg) => {
                find(FLAGS, &arg, &[])?.take(&mut given.options, &mut parser, &mut given.seen)?
            }
        }
    }
}

/// What was given so far.
#[derive(Default)]
struct Given {
    options: Options,
    /// Options of the command line.
    seen: Vec<&'static str>,
    /// Whether an orchestrator has started this.
    orchestrator: bool,
    /// Options of the environment.
    from_env: Vec<&'static str>,
    /// Options whose environment variable is wrong: it counts where the command line does not say
    /// otherwise, and where it is used.
    unread: Vec<(&'static str, String)>,
}

impl Given {
    /// What is wrong with the first such option's variable, where that counts.
    fn unread_of(&self, is_used: impl Fn(&str) -> bool) -> Option<String> {
        let counts = |name: &str| !self.seen.contains(&name) && is_used(name);
        let found = self.unread.iter().find(|(name, _)| counts(name));
        found.map(|(_, why)| why.clone())
    }
}

/// Kubernetes sets this variable in every container.
pub const ORCHESTRATOR: &str = "KUBERNETES_SERVICE_HOST";

const MISSING: &str =
    "which Envoy? Write `drainit -- envoy -c envoy.yaml`; `drainit help` tells all";

const NOTHING_TO_CHECK: &str = "check which Envoy? Write `drainit check -- envoy -c envoy.yaml`, or \
    --pid N for one that runs";

fn run(given: Given, program: OsString, parser: &mut Parser) -> Result<Command, String> {
    let (options, line) = whole(given, program, parser)?;
    Ok(Command::Run(options, line))
}

/// `check`, which takes what the main command takes.
fn check(mut given: Given, entry: &'static Entry, parser: &mut Parser) -> Result<Command, String> {
    let mut json = false;
    while let Some(arg) = parser.next().map_err(explain)? {
        match arg {
            Arg::Short('h') | Arg::Long("help") => return Ok(Command::Help(Topic::Of(entry))),
            Arg::Long("json") => json = true,
            Arg::Long("pid") => given.options.pid = Some(pid(&flag::value(parser, "--pid")?)?),
            Arg::Value(word) if given.options.pid.is_none() => {
                let (options, line) = whole(given, word, parser)?;
                return Ok(Command::Check(options, line, json));
            }
            Arg::Value(_) => {
                return Err("--pid and ENVOY both say what is checked: give one".into());
            }
            arg => {
                let switches: Vec<_> = entry.own_options().collect();
                find(FLAGS, &arg, &switches)?.take(&mut given.options, parser, &mut given.seen)?;
            }
        }
    }
    if given.options.pid.is_none() {
        return Err(NOTHING_TO_CHECK.into());
    }
    match given.seen.iter().find(|name| !entry.takes.contains(name)) {
        Some(name) => Err(format!(
            "--pid reads the options of the drainit that runs there: leave --{name} out"
        )),
        None => Ok(Command::Check(Box::new(given.options), Vec::new(), json)),
    }
}

/// All options, and a command line that begins with this word.
fn whole(
    mut given: Given,
    program: OsString,
    parser: &mut Parser,
) -> Result<(Box<Options>, Vec<OsString>), String> {
    if let Some(why) = given.unread_of(|_| true) {
        return Err(why);
    }
    let seen = given.seen.iter().chain(&given.from_env);
    let seen: Vec<_> = seen.copied().collect();
    given.options.resolve(&seen, given.orchestrator);
    given.options.check()?;
    if program.is_empty() {
        return Err(MISSING.into());
    }
    let mut line = vec![program];
    line.extend(parser.raw_args().map_err(explain)?);
    Ok((Box::new(given.options), line))
}

fn command(
    mut given: Given,
    word: OsString,
    parser: &mut Parser,
    env: Env<'_>,
) -> Result<Command, String> {
    let Some(entry) = word.to_str().and_then(entries::entry) else {
        return match word.to_str().and_then(near_command) {
            Some(question) => Err(question),
            None => run(given, word, parser),
        };
    };
    if entry.name == entries::BOOTSTRAP {
        let read = bootstrap::parse(parser.raw_args().map_err(explain)?, env)?;
        return Ok(read.map_or(Command::Help(Topic::Of(entry)), |options| {
            Command::Bootstrap(Box::new(options))
        }));
    }
    if entry.name == entries::CHECK {
        return check(given, entry, parser);
    }
    let mut words = Vec::new();
    let mut look = StatusMode::default();
    let mut waits = true;
    while let Some(arg) = parser.next().map_err(explain)? {
        match arg {
            Arg::Short('h') | Arg::Long("help") => return Ok(Command::Help(Topic::Of(entry))),
            Arg::Long("watch") if entry.name == "status" => look.watch = true,
            Arg::Long("json") if entry.name == "status" => look.json = true,
            Arg::Long("no-wait") if entry.name == "reload" => waits = false,
            Arg::Long("pid") if entry.own_options().any(|name| name == "pid") => {
                given.options.pid = Some(pid(&flag::value(parser, "--pid")?)?);
            }
            Arg::Value(word) => words.push(word),
            arg => {
                let switches: Vec<_> = entry.own_options().collect();
                let flag = find(FLAGS, &arg, &switches)?;
                if !entry.takes.contains(&flag.name) {
                    return Err(format!(
                        "`drainit {}` takes no --{}: `drainit help {0}` shows what it takes",
                        entry.name, flag.name
                    ));
                }
                flag.take(&mut given.options, parser, &mut given.seen)?;
            }
        }
    }
    if let Some(why) = given.unread_of(|name| entry.takes.contains(&name)) {
        return Err(why);
    }
    if given.options.pid.is_some() && given.seen.contains(&"listen") {
        return Err("--pid and --listen both say which drainit is meant: give one".into());
    }
    let options = Box::new(given.options);
    let mut words = words.into_iter();
    let command = match entry.name {
        "health" => Command::Health(options, probe(words.next())?),
        "install" => Command::Install(
            words
                .next()
                .ok_or("install where? Write `drainit install PATH`")?
                .into(),
        ),
        "shutdown" => Command::Shutdown(options),
        "hold" => Command::Hold(options),
        "resume" => Command::Resume(options),
        "status" => Command::Status(options, look),
        "reload" => Command::Reload(options, waits),
        "help" => Command::Help(topic(words.next())?),
        // A row of the table without its line here, which a test rules out.
        name => return Err(format!("`drainit {name}` does nothing")),
    };
    match words.next() {
        Some(word) => Err(format!(
            "unexpected argument `{}`: `drainit help {}` shows what `drainit {1}` takes",
            word.to_string_lossy(),
            entry.name
        )),
        None => Ok(command),
    }
}

/// The question whether a word that is nearly a command's name is meant to be one.
fn near_command(word: &str) -> Option<String> {
    let meant = ENTRIES
        .iter()
        .find(|entry| near::is_slip(word, entry.name))?;
    Some(format!(
        "`{word}` is no command: did you mean `drainit {}`? A program of that name is run by `drainit -- {word}`",
        meant.name
    ))
}

fn topic(word: Option<OsString>) -> Result<Topic, String> {
    let Some(word) = word else {
        return Ok(Topic::First);
    };
    let word = word.to_string_lossy();
    match word.as_ref() {
        "all" => Ok(Topic::All),
        "man" => Ok(Topic::Man),
        name => entries::entry(name).map(Topic::Of).ok_or_else(|| {
            let names: Vec<_> = ENTRIES.iter().map(|entry| entry.name).collect();
            format!(
                "`{name}` is no command: help is there on all, {}",
                names.join(", ")
            )
        }),
    }
}

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
