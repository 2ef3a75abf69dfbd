//! What an option is: its names, its variables, its default, its words, and what it sets.

use std::ffi::{OsStr, OsString};

use lexopt::Parser;

/// The options of a command, which its flags set.
pub trait Settings: 'static {
    /// Forgets the values of a repeatable option: the command line wins over the environment.
    fn clear(&mut self, name: &str);
}

/// An option of a command whose options are a `T`.
#[derive(Debug)]
pub struct Flag<T: 'static> {
    /// The option's name, without the dashes.
    pub name: &'static str,
    /// Other spellings, those of Contour and Envoy Gateway.
    pub aliases: &'static [&'static str],
    /// Whether the option has a variable of its own: `DRAINIT_` and its name in capitals.
    pub own_variable: bool,
    /// A further environment variable, which somebody else sets.
    pub foreign: Option<Foreign>,
    /// What the option's value is called in the help.
    pub value: Value,
    /// The option's default, as the help shows it.
    pub default: &'static str,
    /// Whether that default is words for people, with nothing set; any other default is put through
    /// the option's own setter, so that it stands once.
    pub unset: bool,
    /// What the option does: one sentence or two.
    pub doc: &'static str,
    /// What the option does in a few words, for the help's first page; none where few people use
    /// it.
    pub brief: Option<&'static str>,
    /// The heading of the group of options that begins with this one.
    pub heading: Option<&'static str>,
    set: Setter<T>,
}

/// Sets an option's value, or says what is wrong with it.
pub type Setter<T> = fn(&mut T, &str) -> Result<(), String>;

/// The value of a variable, as the environment has it.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// A variable of somebody else's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// The variable's name.
    pub name: &'static str,
    /// Whether its value is a bare number of seconds.
    pub seconds: bool,
}

/// What an option takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// Nothing: it is on or off.
    Switch,
    /// A value, called so.
    One(&'static str),
    /// A value each time the option is given. In the environment, white space separates them.
    Each(&'static str),
}

impl<T: Settings> Flag<T> {
    /// An option with a variable of its own, and a default for its setter; an empty one is none.
    pub const fn new(
        name: &'static str,
        value: Value,
        default: &'static str,
        doc: &'static str,
        set: Setter<T>,
    ) -> Flag<T> {
        Flag {
            name,
            aliases: &[],
            own_variable: true,
            foreign: None,
            value,
            default,
            unset: default.is_empty(),
            doc,
            brief: None,
            heading: None,
            set,
        }
    }

    /// Gives the option these spellings, too.
    pub const fn also(mut self, aliases: &'static [&'static str]) -> Flag<T> {
        self.aliases = aliases;
        self
    }

    /// Has somebody else's variable set the option, too.
    pub const fn env(mut self, name: &'static str) -> Flag<T> {
        self.foreign = Some(Foreign {
            name,
            seconds: false,
        });
        self
    }

    /// Has somebody else's variable set the option, too: a number of seconds.
    pub const fn env_seconds(mut self, name: &'static str) -> Flag<T> {
        self.foreign = Some(Foreign {
            name,
            seconds: true,
        });
        self
    }

    /// Takes the option's own variable away.
    pub const fn without_variable(mut self) -> Flag<T> {
        self.own_variable = false;
        self
    }

    /// Gives the option a default that is words for people: nothing is set.
    pub const fn unset(mut self) -> Flag<T> {
        self.unset = true;
        self
    }

    /// Puts the option on the help's first page, with these words.
    pub const fn brief(mut self, words: &'static str) -> Flag<T> {
        self.brief = Some(words);
        self
    }

    /// Begins a group of options with this heading.
    pub const fn begins(mut self, heading: &'static str) -> Flag<T> {
        self.heading = Some(heading);
        self
    }

    /// Whether `name` is a spelling of this.
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name || self.aliases.contains(&name)
    }

    /// How the option is written, with its value's name: `--drain-timeout DUR`.
    pub fn usage(&self) -> String {
        match self.value {
            Value::Switch => format!("--{}", self.name),
            Value::One(value) | Value::Each(value) => format!("--{} {value}", self.name),
        }
    }

    /// The option's environment variables, the one that counts most first.
    pub fn variables(&self) -> impl Iterator<Item = String> {
        self.own_variables()
            .chain(self.foreign.map(|foreign| foreign.name.to_owned()))
    }

    /// The option's variables that begin with `DRAINIT_`.
    pub fn own_variables(&self) -> impl Iterator<Item = String> {
        let spellings = std::iter::once(&self.name).chain(self.aliases);
        spellings
            .filter(|_| self.own_variable)
            .map(|name| format!("DRAINIT_{}", name.to_uppercase().replace('-', "_")))
    }

    /// Sets the option to its default.
    ///
    /// # Errors
    /// When the option's own setter refuses that, which a test rules out.
    pub fn take_default(&self, options: &mut T) -> Result<(), String> {
        if self.unset {
            return Ok(());
        }
        (self.set)(options, self.default)
    }

    /// Takes the option from the command line, which wins over the environment.
    pub(crate) fn take(
        &self,
        options: &mut T,
        parser: &mut Parser,
        seen: &mut Vec<&'static str>,
    ) -> Result<(), String> {
        if !seen.contains(&self.name) {
            seen.push(self.name);
            if let Value::Each(_) = self.value {
                options.clear(self.name);
            }
        }
        let spelled = format!("--{}", self.name);
        if self.value == Value::Switch {
            return self.apply(options, OsStr::new("true"), &spelled);
        }
        let value = value(parser, &spelled)?;
        self.apply(options, &value, &spelled)
    }

    /// Takes the option from the environment; whether it is set there.
    pub(crate) fn take_env(&self, options: &mut T, env: Env<'_>) -> Result<bool, String> {
        for name in self.variables() {
            let Some(value) = env(&name).filter(|value| !value.is_empty()) else {
                continue;
            };
            let seconds = self
                .foreign
                .is_some_and(|foreign| foreign.seconds && foreign.name == name);
            if seconds {
                self.apply(options, &seconds_of(&value, &name)?, &name)?;
            } else if let Value::Each(_) = self.value {
                for word in text(&value, &name)?.split_ascii_whitespace() {
                    self.apply(options, OsStr::new(word), &name)?;
                }
            } else {
                self.apply(options, &value, &name)?;
            }
            return Ok(true);
        }
        Ok(false)
    }

    fn apply(&self, options: &mut T, value: &OsStr, spelled: &str) -> Result<(), String> {
        (self.set)(options, text(value, spelled)?).map_err(|why| format!("{spelled}: {why}"))
    }
}

/// What is wrong with the command line, in one line.
pub(super) fn explain(error: lexopt::Error) -> String {
    match error {
        lexopt::Error::MissingValue {
            option: Some(option),
        } => format!("{option} lacks its value: `drainit help all` shows what it takes"),
        lexopt::Error::UnexpectedValue { option, value } => {
            format!(
                "{option} takes no value, but was given `{}`",
                value.to_string_lossy()
            )
        }
        error => error.to_string(),
    }
}

/// An option's value. What looks like the next option is none, unless it is given as
/// `--option=--value`.
pub(super) fn value(parser: &mut Parser, spelled: &str) -> Result<OsString, String> {
    if let Some(value) = parser.optional_value() {
        return Ok(value);
    }
    let value = parser.value().map_err(explain)?;
    match value.to_str() {
        Some(next) if next.starts_with("--") => Err(format!(
            "{spelled} lacks its value, `{next}` follows: `drainit help all` shows what it takes"
        )),
        _ => Ok(value),
    }
}

/// A bare number of seconds as a duration is written.
fn seconds_of(value: &OsStr, name: &str) -> Result<OsString, String> {
    let text = text(value, name)?;
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(format!("{text}s").into());
    }
    Err(format!(
        "{name}: `{text}` is no number of seconds: write it as 30"
    ))
}

fn text<'a>(value: &'a OsStr, spelled: &str) -> Result<&'a str, String> {
    value
        .to_str()
        .ok_or_else(|| format!("{spelled}: the value is no UTF-8"))
}
