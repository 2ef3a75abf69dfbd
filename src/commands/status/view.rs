//! A look into the JSON of `/status`, in which anything may be missing.

use std::time::Duration;

use serde_json::Value;

use crate::commands::clean;
use crate::duration::show;
use crate::status::clients::ShownClient;

/// The longest text, in characters.
const TEXT: usize = 1_000;

/// The JSON, or a part of it.
#[derive(Clone, Copy)]
pub struct JsonView<'a>(pub &'a Value);

impl<'a> JsonView<'a> {
    /// What is at this JSON pointer; none for null, too.
    pub fn at(self, path: &str) -> Option<&'a Value> {
        self.0.pointer(path).filter(|value| !value.is_null())
    }

    /// What waits for what is in flight: the drain, or the wait of a hold.
    pub fn wait(self) -> Option<JsonView<'a>> {
        let wait = self.at("/drain").or_else(|| self.at("/hold"));
        wait.map(JsonView)
    }

    /// A text, not too long, and without anything that a terminal obeys.
    pub fn text(self, path: &str) -> Option<String> {
        Some(clean(self.at(path)?.as_str()?, TEXT))
    }

    /// A whole number.
    pub fn count(self, path: &str) -> Option<u64> {
        self.at(path)?.as_u64()
    }

    /// Whether this is true.
    pub fn holds(self, path: &str) -> bool {
        self.at(path).and_then(Value::as_bool).unwrap_or(false)
    }

    /// A number of seconds; none when it is negative, too.
    pub fn span(self, path: &str) -> Option<Duration> {
        Duration::try_from_secs_f64(self.at(path)?.as_f64()?).ok()
    }

    /// A number of seconds, for a person.
    pub fn shown(self, path: &str) -> String {
        self.span(path).map_or_else(unknown, show)
    }

    /// A client's connection.
    pub fn client(self) -> ShownClient {
        ShownClient {
            listener: self.text("/listener").unwrap_or_else(unknown),
            address: self.text("/address").unwrap_or_else(unknown),
            age: self.span("/age_seconds"),
            silent: self.span("/silent_seconds"),
            rate: self.count("/bytes_per_second"),
        }
    }

    /// The items of a list; of anything else, none.
    pub fn items(self, path: &str) -> impl Iterator<Item = JsonView<'a>> + use<'a> {
        let items = self.at(path).and_then(Value::as_array);
        items.into_iter().flatten().map(JsonView)
    }
}

/// What stands for what is missing.
pub fn unknown() -> String {
    "unknown".into()
}
