//! Why Envoy refuses a configuration or a command line, in its own words.

/// The longest reason that is told, in characters: the cause of an error in the configuration stands
/// behind the path to it.
const LONGEST: usize = 800;

/// What an Envoy that refuses a configuration says, and nobody else.
const MARK: &str = "initializing config";

/// Why Envoy refuses its configuration, in what it said.
pub fn of_configuration(said: &str) -> Option<String> {
    let line = said.lines().rev().find(|line| line.contains(MARK))?;
    Some(reason(line, said))
}

/// The last thing that it said: why it refuses its command line.
pub fn last_word(said: &str) -> Option<String> {
    let last = said.lines().map(str::trim).rfind(|line| !line.is_empty())?;
    Some(last.chars().take(LONGEST).collect())
}

/// The reason alone, without Envoy's log prefix. It says `error initializing configuration 'FILE':
/// WHY`, or, with reasons of several lines, ``error `WHY` initializing config ...``.
fn reason(line: &str, said: &str) -> String {
    let quoted = line
        .split_once("error `")
        .and_then(|(_, rest)| rest.split_once('`'));
    let named = line.split_once("': ").map(|(_, reason)| reason);
    let reason = quoted.map(|(reason, _)| reason).or(named);
    match reason {
        Some(reason) => reason.chars().take(LONGEST).collect(),
        None => last_word(said).unwrap_or_else(|| line.to_owned()),
    }
}
