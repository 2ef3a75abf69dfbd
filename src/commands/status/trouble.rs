//! What is wrong, in words that come first on their lines.

use std::time::Duration;

use super::paint::{Line, Paint};
use super::view::JsonView;
use crate::duration::show;
use crate::status::plural;

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    paint: Paint,
    /// What is wrong, in capitals.
    word: &'static str,
    /// When that began or was, before now.
    ago: Option<String>,
    /// The cause.
    text: String,
    /// What is so until then, which changes as time passes.
    until: String,
}

impl Trouble {
    fn new(word: &'static str, text: impl Into<String>) -> Trouble {
        Trouble {
            paint: Paint::Bad,
            word,
            ago: None,
            text: text.into(),
            until: String::new(),
        }
    }

    fn ago(self, ago: Option<Duration>) -> Trouble {
        let ago = ago.map(|ago| format!(" {} ago", show(ago)));
        Trouble { ago, ..self }
    }

    /// `REFUSED 3 min ago: why`
    pub fn line(&self) -> Line {
        let ago = self.ago.as_deref().unwrap_or_default();
        Line::new(self.paint, format!("{}{ago}:", self.word))
            .and(Paint::Plain, format!(" {}{}", self.text, self.until))
    }

    /// The trouble without the time: new only when something new is wrong.
    pub fn event(&self) -> String {
        format!("{}: {}", self.word, self.text)
    }
}

/// An end of Envoy is news for so long; after that it is a detail.
const NEWS: Duration = Duration::from_secs(3_600);

/// A silence of the admin interface is worth a word from here on.
const SILENCE: Duration = Duration::from_secs(1);

/// All that is wrong now, the worst first.
pub fn all(status: JsonView<'_>) -> Vec<Trouble> {
    let mut all = Vec::new();
    if status.holds("/degraded") {
        let text = "envoy serves without its admin interface, which it lost to a hot restart that \
                    failed; the next good reload mends that";
        all.push(Trouble::new("DEGRADED", text));
    }
    all.extend(last_end(status).filter(|_| is_news(status)));
    all.extend(silence(status));
    all.extend(reload(status));
    all.extend(certificates(status));
    if let Some(why) = status.text("/hidden") {
        let paint = Paint::Busy;
        all.push(Trouble {
            paint,
            ..Trouble::new("HIDDEN", why)
        });
    }
    let is_live = status.text("/state").as_deref() == Some("live");
    if is_live && status.count("/admin/listeners") == Some(0) {
        let text = "envoy has no listener that anybody could connect to";
        all.push(Trouble::new("NOT READY", text));
    }
    all
}

/// Whether how Envoy last ended is the news, and not only a detail.
pub fn is_news(status: JsonView<'_>) -> bool {
    let is_down = matches!(
        status.text("/state").as_deref(),
        Some("restarting" | "starting")
    );
    let ago = status.span("/envoy/last_end/seconds_ago");
    is_down || ago.is_some_and(|ago| ago < NEWS)
}

/// How Envoy last ended, if it is to run again: the end of one that was to end is the verdict's.
pub fn last_end(status: JsonView<'_>) -> Option<Trouble> {
    let how = status.text("/envoy/last_end/how")?;
    if matches!(status.text("/state").as_deref(), Some("stopping" | "gone")) {
        return None;
    }
    let lived = status.span("/envoy/last_end/lived_seconds");
    let lived = lived.map(|lived| format!(", {} after its start", show(lived)));
    let restarts = match status.count("/envoy/restarts") {
        None | Some(0) => String::new(),
        Some(1) => "; restarted once so far".into(),
        Some(count) => format!("; restarted {count} times so far"),
    };
    let text = format!("envoy: {how}{}{restarts}", lived.unwrap_or_default());
    let ago = status.span("/envoy/last_end/seconds_ago");
    Some(Trouble::new("ENDED", text).ago(ago))
}

fn silence(status: JsonView<'_>) -> Option<Trouble> {
    let failing = status.span("/admin/failing_seconds")?;
    if failing < SILENCE || status.at("/envoy/pid").is_none() || status.holds("/degraded") {
        return None;
    }
    let why = status.text("/admin/error");
    let why = why.unwrap_or_else(|| "envoy's admin interface does not answer".into());
    let since = format!(" for {}", show(failing));
    Some(Trouble {
        ago: Some(since),
        ..Trouble::new("NO ANSWER", why)
    })
}

fn reload(status: JsonView<'_>) -> Option<Trouble> {
    status.at("/reload")?;
    if status.holds("/reload/ok") || status.holds("/reloading") {
        return None;
    }
    let why = status.text("/reload/message").unwrap_or_default();
    // A certificate that was loaded well since is wrong no more.
    let text = |view: JsonView<'_>, path| view.at(path)?.as_str().map(str::to_owned);
    let told = text(status, "/reload/message").unwrap_or_default();
    let is_so = |certificate| match text(certificate, "/last_error") {
        Some(error) => told.contains(&error),
        None => certificate.holds("/stale"),
    };
    if status.holds("/reload/of_certificates") && !status.items("/certificates").any(is_so) {
        return None;
    }
    Some(Trouble::new("RELOAD FAILED", why).ago(status.span("/reload/ended_seconds_ago")))
}

/// Certificates that are not what they should be; those of one set are one.
fn certificates(status: JsonView<'_>) -> Vec<Trouble> {
    let mut all: Vec<(Trouble, String, Vec<String>)> = Vec::new();
    for certificate in status.items("/certificates") {
        let name = certificate.text("/secret").unwrap_or_default();
        let left = left(certificate);
        let why = certificate.text("/last_error");
        let trouble = match (&why, left) {
            (Some(_), _) => {
                let word = match certificate.text("/last_result").as_deref() {
                    Some("refused") => "REFUSED",
                    Some("rejected") => "REJECTED",
                    Some("unconfirmed") => "NOT CONFIRMED",
                    _ => "STALE",
                };
                Trouble::new(word, "").ago(certificate.span("/changed_seconds_ago"))
            }
            (None, Some(Err(since))) => Trouble::new("EXPIRED", "").ago(Some(since)),
            (None, _) => continue,
        };
        let until = match (&why, left) {
            (None, _) => String::new(),
            (_, Some(Ok(left))) if is_unconfirmed(certificate) => {
                format!("; it is good for {}", show(left))
            }
            (_, Some(Ok(left))) => format!("; the old one is good for {}", show(left)),
            (_, Some(Err(since))) => format!("; the old one expired {} ago", show(since)),
            (_, None) if certificate.count("/generation") == Some(0) => {
                "; there is no old one".into()
            }
            (_, None) => String::new(),
        };
        let trouble = Trouble { until, ..trouble };
        let why = why.unwrap_or_default();
        match all.last_mut() {
            Some((last, reason, names)) if *last == trouble && *reason == why => names.push(name),
            _ => all.push((trouble, why, vec![name])),
        }
    }
    all.into_iter()
        .map(|(trouble, why, names)| {
            let name = names.join(", ");
            let text = match () {
                () if why.is_empty() => name,
                () if why.starts_with(&format!("{name}: ")) => why,
                () => format!("{name}: {why}"),
            };
            Trouble { text, ..trouble }
        })
        .collect()
}

fn is_unconfirmed(certificate: JsonView<'_>) -> bool {
    certificate.text("/last_result").as_deref() == Some("unconfirmed")
}

/// How long a certificate is still good; or since when it is not any more.
pub fn left(certificate: JsonView<'_>) -> Option<Result<Duration, Duration>> {
    let left = certificate.at("/left_seconds")?.as_f64()?;
    let span = Duration::try_from_secs_f64(left.abs()).ok()?;
    Some(if left > 0.0 { Ok(span) } else { Err(span) })
}

/// What a drain waits for: `3 requests, 2 TCP sessions`.
pub fn waits_for(status: JsonView<'_>) -> String {
    let Some(connections) = status.count("/connections") else {
        return "envoy has not told what is left".into();
    };
    let parts: Vec<String> = [
        ("/requests", "request"),
        ("/tcp_sessions", "TCP session"),
        ("/udp_sessions", "UDP session"),
        (
            "/old_generation_connections",
            "connection of the old generation",
        ),
    ]
    .into_iter()
    .filter_map(|(path, name)| Some((status.count(path).filter(|count| *count > 0)?, name)))
    .map(|(count, name)| match name.split_once(' ') {
        Some(("connection", rest)) => format!("{} {rest}", plural(count, "connection")),
        _ => plural(count, name),
    })
    .collect();
    let unacknowledged = status.count("/unacknowledged_bytes").unwrap_or(0);
    match (parts.is_empty(), connections) {
        (true, _) if unacknowledged > 0 => {
            let bytes = plural(unacknowledged, "byte");
            format!("waits for clients to take the last {bytes}")
        }
        (true, 0) => "nothing is left that counts".into(),
        (true, _) => format!(
            "waits for {} to close",
            plural(connections, "idle connection")
        ),
        (false, _) => format!("waits for {}", parts.join(", ")),
    }
}
