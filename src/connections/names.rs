//! The listeners' own names, and the addresses that go with each, as Envoy's admin interface
//! tells them: `/listeners?format=json` (Envoy 1.36 to 1.40).

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use super::Local;

/// What to ask Envoy's admin interface for.
pub const QUERY: &str = "/listeners?format=json";

/// A listener of Envoy's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The listener's name; none where the configuration has none, so that Envoy made up a random
    /// UUID.
    pub name: Option<String>,
    /// The listener's address and its additional ones, with the ports that the kernel chose. An
    /// internal listener has none.
    pub locals: Vec<Local>,
}

impl Named {
    /// How the listener is named to a person: by its own name, or else by its address.
    pub fn title(&self) -> String {
        let address = self.locals.first().map(ToString::to_string);
        self.name.clone().or(address).unwrap_or_default()
    }

    /// The listener's addresses, where they are not all that it is named by.
    pub fn address(&self) -> Option<String> {
        let all: Vec<String> = self.locals.iter().map(ToString::to_string).collect();
        let all = (self.name.is_some() || all.len() > 1).then(|| all.join(", "));
        all.filter(|all| !all.is_empty())
    }

    /// Whether `word` means this listener: its name, or one of its addresses.
    pub fn is_called(&self, word: &str) -> bool {
        let mut locals = self.locals.iter();
        self.name.as_deref() == Some(word) || locals.any(|local| local.is_called(word))
    }
}

/// Whether the words mean each of these listeners that has this address. TCP and QUIC may have one in
/// common, and Envoy does not tell whose a name is.
pub fn are_meant(all: &[Named], local: &Local, words: &[String]) -> bool {
    let mut here = all.iter().filter(|named| named.locals.contains(local));
    here.all(|named| words.iter().any(|word| named.is_called(word)))
}

/// Reads the answer to [`QUERY`]. Envoy does not tell TCP from UDP here, and lists a listener
/// that was told to stop for as long as its configuration has it.
///
/// # Errors
/// One line, when that is no such answer: then no listener is known, which is not to say that there
/// are none.
pub fn parse(text: &str) -> Result<Vec<Named>, String> {
    let unknown = |why: &str| format!("envoy's listeners are not known: {why}");
    let page: Value =
        serde_json::from_str(text).map_err(|error| unknown(&format!("no JSON: {error}")))?;
    let Some(page) = page.as_object() else {
        return Err(unknown("no JSON object"));
    };
    let Some(all) = page.get("listener_statuses") else {
        // Protobuf leaves an empty list out.
        return match page.is_empty() {
            true => Ok(Vec::new()),
            false => Err(unknown("the answer lacks listener_statuses")),
        };
    };
    let all = all.as_array();
    let all = all.ok_or_else(|| unknown("listener_statuses is no list"))?;
    Ok(read(all))
}

/// Reads the list in such an answer, its `listener_statuses`.
pub fn read(all: &[Value]) -> Vec<Named> {
    all.iter().map(named).collect()
}

fn named(status: &Value) -> Named {
    let name = status.get("name").and_then(Value::as_str);
    let more = status.get("additional_local_addresses");
    let more = more.and_then(Value::as_array).into_iter().flatten();
    Named {
        name: name
            .filter(|name| !name.is_empty() && !is_made_up(name))
            .map(str::to_owned),
        locals: status
            .get("local_address")
            .into_iter()
            .chain(more)
            .filter_map(local)
            .collect(),
    }
}

fn local(address: &Value) -> Option<Local> {
    if let Some(path) = address.pointer("/pipe/path") {
        return Some(Local::Unix(path.as_str()?.into()));
    }
    let socket = address.get("socket_address")?;
    let ip: IpAddr = socket.get("address")?.as_str()?.parse().ok()?;
    let port = socket.get("port_value")?.as_u64()?;
    let port = u16::try_from(port).ok()?;
    Some(Local::Ip(SocketAddr::new(ip.to_canonical(), port)))
}

/// Whether Envoy made the name up: a random UUID, as `2635ee74-1da4-46b0-9477-dbfeedd91da8`.
fn is_made_up(name: &str) -> bool {
    let mut groups = name.split('-');
    [8, 4, 4, 4, 12].iter().all(|length| {
        groups.next().is_some_and(|group| {
            group.len() == *length && group.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
    }) && groups.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWERS: [&str; 2] = [
        include_str!("../../tests/data/listeners-1.36.4.json"),
        include_str!("../../tests/data/listeners-1.40.0.json"),
    ];

    #[test]
    fn the_listeners_of_both_envoys_are_read_with_all_their_addresses() {
        for answer in ANSWERS {
            let all = parse(answer).unwrap();
            let shown = |named: &Named| -> Vec<String> {
                let locals = named.locals.iter();
                locals
                    .map(|local| match local {
                        Local::Ip(address) => address.ip().to_string(),
                        Local::Unix(path) => path.clone(),
                    })
                    .collect()
            };
            let read: Vec<_> = all.iter().map(|n| (n.name.as_deref(), shown(n))).collect();
            let expected: [(Option<&str>, &[&str]); 7] = [
                (Some("web"), &["127.0.0.1", "::1", "127.0.0.2"]),
                (Some("six"), &["::"]),
                (Some("pipe"), &["/run/l.sock"]),
                (Some("abstract"), &["@drainit-abstract"]),
                // Made up by Envoy.
                (None, &["0.0.0.0"]),
                (Some("inner"), &[]),
                (Some("dns"), &["127.0.0.1"]),
            ];
            assert_eq!(read.len(), expected.len());
            for ((name, locals), (expected_name, expected)) in read.iter().zip(expected) {
                assert_eq!(
                    (*name, locals.as_slice()),
                    (
                        expected_name,
                        &*expected.iter().map(|&s| s.to_owned()).collect::<Vec<_>>()
                    )
                );
            }
        }
    }

    #[test]
    fn no_listeners_are_an_empty_object_and_nothing_else() {
        assert_eq!(parse("{}"), Ok(Vec::new()));
        assert_eq!(parse("{\"listener_statuses\": []}"), Ok(Vec::new()));
        for text in [
            "",
            "[]",
            "null",
            "web::127.0.0.1:80",
            "{\"listeners\": []}",
            "{\"listener_statuses\": 1}",
        ] {
            let why = parse(text).unwrap_err();
            assert!(
                why.contains("not known") && !why.contains('\n'),
                "{text}: {why}"
            );
        }
    }

    #[test]
    fn a_mapped_ipv4_address_is_an_ipv4_address() {
        let text = "{\"listener_statuses\": [{\"name\": \"a\", \"local_address\": {\"socket_address\": {\"address\": \"::ffff:127.0.0.1\", \"port_value\": 80}}}]}";
        let expected = [Local::Ip("127.0.0.1:80".parse().unwrap())];
        assert_eq!(parse(text).unwrap()[0].locals, expected);
    }
}
