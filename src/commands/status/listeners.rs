//! The listeners, a line each: the one with the most left first, with who holds it.

use std::cmp::Reverse;

use serde_json::Value;

use super::paint::{Line, Paint, short};
use super::view::{JsonView, unknown};
use crate::status::plural;

/// From so many columns on, clients stand beside their listener; in less, below it.
const WIDE: usize = 120;

/// The most clients that stand below their listener.
const CLIENTS: usize = 3;

/// The widest name and address that are not cut, where there is room for less.
const NAME: usize = 40;

/// A listener that is to be shown.
struct Row<'a> {
    listener: JsonView<'a>,
    name: Option<&'a str>,
    connections: u64,
    before: Option<u64>,
    excluded: bool,
}

impl Row<'_> {
    /// What stands behind the numbers.
    fn behind(&self) -> String {
        let address = self.listener.text("/address");
        let excluded = self.excluded.then(|| "does not count".to_owned());
        let behind: Vec<String> = address.into_iter().chain(excluded).collect();
        behind.join(", ")
    }
}

/// At the most `room` lines of so many columns.
pub fn lines(status: JsonView<'_>, width: usize, room: usize) -> Vec<Line> {
    // There may be thousands: of those that are not shown, nothing is written.
    let mut rows = rows(status);
    rows.sort_unstable_by_key(|row| (row.excluded, Reverse(row.connections), row.name));
    let mut clients = clients(status);
    if needed(status, width) > room {
        // Where connections are left comes before whose they are.
        clients.clear();
    }
    let mut lines = Vec::new();
    let shown = shown(&rows, &clients, width, room);
    let rest = rows.split_off(shown);
    let columns = Columns::new(&rows, width);
    for row in &rows {
        let held: Vec<JsonView<'_>> = held(row, &clients).collect();
        lines.extend(columns.lines(row, &held, width));
    }
    if !rest.is_empty() {
        let connections = rest.iter().filter(|row| !row.excluded);
        let connections = connections.fold(0_u64, |sum, row| sum.saturating_add(row.connections));
        let listeners = plural(rest.len() as u64, "more listener");
        let with = match connections {
            0 => "no connection".to_owned(),
            _ => plural(connections, "connection"),
        };
        lines.push(Line::new(Paint::Dim, format!("  {listeners} with {with}")));
    }
    lines.truncate(room);
    lines
}

/// How many lines all listeners need.
pub fn needed(status: JsonView<'_>, width: usize) -> usize {
    let rows = rows(status);
    let clients = clients(status);
    let shown = shown(&rows, &clients, width, usize::MAX);
    let below: usize = rows.iter().map(|row| below(row, &clients, width)).sum();
    shown + below + usize::from(shown < rows.len())
}

/// The most listeners without a connection that are shown.
const EMPTY: usize = 10;

/// How many of the rows have room, with one line for those that have none.
fn shown(rows: &[Row<'_>], clients: &Clients<'_>, width: usize, room: usize) -> usize {
    let used = rows.iter().filter(|row| row.connections > 0).count();
    let most = used.saturating_add(EMPTY).min(rows.len());
    let (mut lines, mut shown) = (0, 0);
    for (at, row) in rows.iter().take(most).enumerate() {
        lines += 1 + below(row, clients, width);
        let rest = usize::from(at + 1 < rows.len());
        if lines + rest > room {
            break;
        }
        shown = at + 1;
    }
    shown
}

fn below(row: &Row<'_>, clients: &Clients<'_>, width: usize) -> usize {
    if width >= WIDE {
        return 0;
    }
    held(row, clients).count().min(CLIENTS)
}

fn rows(status: JsonView<'_>) -> Vec<Row<'_>> {
    let first = status.wait().into_iter();
    let mut before: Vec<(&str, u64)> = first
        .flat_map(|wait| wait.items("/first/listeners"))
        .filter_map(|one| Some((one.at("/name")?.as_str()?, one.count("/connections")?)))
        .collect();
    before.sort_unstable();
    let before = |name: &str| {
        let place = before.binary_search_by_key(&name, |(known, _)| known);
        before.get(place.ok()?).map(|(_, connections)| *connections)
    };
    status
        .items("/listeners")
        .map(|listener| {
            let name = listener.at("/name").and_then(Value::as_str);
            let connections = listener.count("/connections").unwrap_or(0);
            let before = name.and_then(before);
            Row {
                listener,
                name,
                connections,
                before: before.filter(|before| *before >= connections),
                excluded: listener.holds("/excluded"),
            }
        })
        .collect()
}

/// The clients that are told, each with its listener's name, sorted by that.
type Clients<'a> = Vec<(&'a str, JsonView<'a>)>;

fn clients(status: JsonView<'_>) -> Clients<'_> {
    let clients = status.items("/clients");
    let mut clients: Clients<'_> = clients
        .filter_map(|client| Some((client.at("/listener")?.as_str()?, client)))
        .collect();
    // Those of a listener stay in their order.
    clients.sort_by_key(|(listener, _)| *listener);
    clients
}

/// The clients of the row's listener.
fn held<'a>(row: &Row<'_>, clients: &[(&str, JsonView<'a>)]) -> impl Iterator<Item = JsonView<'a>> {
    let name = row.name.unwrap_or_default();
    let first = clients.partition_point(|(listener, _)| *listener < name);
    let rest = clients.get(first..).unwrap_or_default();
    let of_it = rest
        .iter()
        .take_while(move |(listener, _)| *listener == name);
    of_it.map(|(_, client)| *client)
}

/// The columns' widths.
struct Columns {
    name: usize,
    connections: usize,
    before: usize,
    address: usize,
}

impl Columns {
    fn new(rows: &[Row<'_>], width: usize) -> Columns {
        let widest = |text: &dyn Fn(&Row<'_>) -> usize| rows.iter().map(text).max().unwrap_or(0);
        let digits = |number: u64| number.to_string().len();
        let connections = widest(&|row| digits(row.connections));
        let before = widest(&|row| row.before.map_or(0, digits));
        let numbers = connections + if before > 0 { 4 + before } else { 0 };
        let room = width.saturating_sub(2 + 2 + numbers).min(NAME);
        let name = widest(&|row| row.name.map_or(7, |name| name.chars().count()));
        Columns {
            name: name.min(room),
            connections,
            before,
            address: widest(&|row| row.behind().chars().count()).min(NAME),
        }
    }

    fn lines(&self, row: &Row<'_>, clients: &[JsonView<'_>], width: usize) -> Vec<Line> {
        let name = row.listener.text("/name").unwrap_or_else(unknown);
        let name = short(&name, self.name);
        let mut line = Line::new(
            Paint::Plain,
            format!(
                "  {name:<name_width$}  {:>width$}",
                row.connections,
                name_width = self.name,
                width = self.connections
            ),
        );
        if self.before > 0 {
            let before = match row.before {
                Some(before) => format!(" of {before:>width$}", width = self.before),
                None => " ".repeat(4 + self.before),
            };
            line.push(Paint::Plain, before);
        }
        if width < WIDE {
            line.push(Paint::Dim, format!("  {}", row.behind()));
            let below = clients.iter().take(CLIENTS).enumerate();
            let more = clients.len().saturating_sub(CLIENTS);
            let below = below.map(|(at, one)| {
                let more = match (at + 1 == CLIENTS, more) {
                    (false, _) | (true, 0) => String::new(),
                    (true, more) => format!(", and {more} more"),
                };
                Line::new(Paint::Plain, format!("    {}{more}", one.client()))
            });
            return std::iter::once(line).chain(below).collect();
        }
        let behind = short(&row.behind(), self.address);
        line.push(
            Paint::Dim,
            format!("  {behind:<width$}", width = self.address),
        );
        beside(&mut line, clients, width);
        vec![line]
    }
}

/// Adds as many clients as there is room for.
fn beside(line: &mut Line, clients: &[JsonView<'_>], width: usize) {
    let mut text = String::new();
    let start = line.width() + 2;
    for (at, one) in clients.iter().enumerate() {
        let comma = if at > 0 { "; " } else { "" };
        let more = clients.len() - at - 1;
        let next = format!("{text}{comma}{}", one.client());
        let rest = format!("; and {more} more");
        let tail = if more > 0 { rest.len() } else { 0 };
        if start.saturating_add(next.chars().count() + tail) > width {
            let rest = clients.len() - at;
            text = match at {
                0 => format!("held by {}", plural(rest as u64, "client")),
                _ => format!("{text}; and {rest} more"),
            };
            break;
        }
        text = next;
    }
    if !text.is_empty() {
        line.push(Paint::Plain, format!("  {text}"));
    }
}
