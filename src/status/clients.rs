//! Clients' connections, as people are told of them.

use std::fmt;
use std::time::Duration;

use crate::duration::show;

/// Less than this is not worth a word.
const SECOND: Duration = Duration::from_secs(1);

/// A client's connection. Shown as `10.1.2.3:51234, over 41 min old, silent 12 s` or
/// `10.1.9.9:40112, 3 kB/s`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownClient {
    /// The listener's name.
    pub listener: String,
    /// The client's address and port.
    pub address: String,
    /// The connection's age, at the least.
    pub age: Option<Duration>,
    /// For how long nothing was received or sent over the connection.
    pub silent: Option<Duration>,
    /// Bytes a second over the connection.
    pub rate: Option<u64>,
}

impl fmt::Display for ShownClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)?;
        let silent = self.silent.unwrap_or_default();
        // What has been silent for so long is as old.
        if let Some(age) = self.age.filter(|age| *age > silent + SECOND) {
            write!(f, ", over {} old", show(age))?;
        }
        let rate = self.rate.filter(|rate| *rate > 0 && silent < SECOND);
        match (rate, self.silent) {
            (Some(rate @ 1_000_000..), _) => write!(f, ", {} MB/s", rate / 1_000_000),
            (Some(rate @ 1_000..), _) => write!(f, ", {} kB/s", rate / 1_000),
            (Some(rate), _) => write!(f, ", {rate} B/s"),
            (None, Some(silent)) => write!(f, ", silent {}", show(silent)),
            (None, None) => Ok(()),
        }
    }
}

/// `postgres: 10.1.2.3:51234, over 41 min old, silent 12 s; 10.1.9.9:40112, 3 kB/s; and 7 more`:
/// some of those who have connections, and how many there are beside them; empty where nobody is
/// known.
pub fn list(clients: &[ShownClient], more: u64) -> String {
    let mut text = String::new();
    let mut add = |listener: &str, client: &dyn fmt::Display| {
        text = match text.is_empty() {
            true => format!("{listener}{client}"),
            false => format!("{text}; {listener}{client}"),
        };
    };
    for (at, first) in clients.iter().enumerate() {
        let same = |one: &&ShownClient| one.listener == first.listener;
        // There are ten at the most.
        if clients.iter().take(at).any(|one| same(&one)) {
            continue;
        }
        let mut listener = format!("{}: ", first.listener);
        for one in clients.iter().filter(same) {
            add(&listener, one);
            listener.clear();
        }
    }
    if more > 0 && !clients.is_empty() {
        add("and ", &format_args!("{more} more"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ms, s};

    #[test]
    fn a_client_is_told_with_its_age_its_silence_or_its_rate() {
        let client = |listener: &str, age, silent, rate| ShownClient {
            listener: listener.into(),
            address: "10.1.2.3:7".into(),
            age,
            silent,
            rate,
        };
        let clients = vec![
            client("tcp", Some(s(2_460)), Some(s(12)), Some(3_000)),
            client("https", None, None, None),
            client("tcp", Some(ms(900)), Some(ms(200)), Some(3_700)),
            client("tcp", Some(s(12)), Some(s(12)), Some(0)),
            client("tcp", Some(s(4)), Some(ms(250)), Some(2_000_000)),
        ];
        assert_eq!(
            list(&clients, 4),
            "tcp: 10.1.2.3:7, over 41 min old, silent 12 s; 10.1.2.3:7, 3 kB/s; 10.1.2.3:7, silent 12 s; \
             10.1.2.3:7, over 4 s old, 2 MB/s; https: 10.1.2.3:7; and 4 more"
        );
        assert_eq!(list(&[], 4), "");
    }
}
