//! The verdict: the one line that says why drainit is over, with its fields for programs.

use log::Level;
use serde_json::{Map, Value};

use super::hot_restart::{cut_elsewhere, known_requests};
use super::sentences;
use crate::clock::seconds;
use crate::envoy::load::Load;
use crate::process::{End, Exit};
use crate::status::{DrainEnd, Snapshot};

/// Why drainit is over.
#[derive(Debug)]
pub struct Verdict {
    /// A warning where something was cut, or where the end is no success.
    pub level: Level,
    /// The line, with what became of it first. Everybody may read it.
    pub line: String,
    /// Who was cut, for the log alone; empty where nobody was, or nobody is known.
    pub clients: String,
    /// The verdict's fields, for programs.
    pub fields: Map<String, Value>,
}

/// How Envoy ended, where that was no drain's doing.
#[derive(Clone, Copy, Debug)]
pub struct Ending<'a> {
    /// Why Envoy could not be started.
    pub failure: Option<&'a str>,
    /// How Envoy exited; none where it did not, or never ran.
    pub exit: Option<End>,
    /// Whether Envoy ever ran.
    pub ran: bool,
    /// Whether Envoy was told to stop.
    pub stopped: bool,
}

impl Verdict {
    /// The verdict on a drainit that ends with this code.
    pub fn new(ending: Ending<'_>, snapshot: &Snapshot, code: u8) -> Verdict {
        let drain = snapshot.drain.as_ref();
        let why = match (ending.failure, drain) {
            (Some(why), _) => why.to_owned(),
            (None, Some(drain)) => match &drain.ended {
                Some(end) => end.verdict.clone(),
                None => "not drained".into(),
            },
            (None, None) => snapshot.reason.clone(),
        };
        let end = match ending.exit {
            _ if !ending.ran => "envoy was not started".into(),
            Some(end) if matches!(end.exit, Exit::Signal(_)) => format!("{} was {end}", end.who()),
            Some(end) => format!("{}'s {end}", end.who()),
            None => "envoy did not end".into(),
        };
        let ended = drain.and_then(|drain| drain.ended.as_ref());
        let cut = ended.is_some_and(|end| end.is_cut);
        let since = ended.filter(|end| !end.is_cut && snapshot.load_at > Some(end.at));
        let again = since.and(snapshot.load.as_ref()).map_or(0, Load::in_flight);
        let again = match again {
            0 => String::new(),
            count => {
                format!("; envoy was used again after that: {count} in flight at the last look")
            }
        };
        let level = match cut || code != 0 || !again.is_empty() {
            true => Level::Warn,
            false => Level::Info,
        };
        Verdict {
            level,
            // It is shown to people as it is (`kubectl describe`), and holds words of Envoy's.
            line: format!("{why}{again}; {end}; exit code {code}").replace(char::is_control, " "),
            clients: match &snapshot.load {
                Some(load) if cut => sentences::clients(load),
                _ => String::new(),
            },
            fields: fields(ending, snapshot, code),
        }
    }
}

fn fields(ending: Ending<'_>, snapshot: &Snapshot, code: u8) -> Map<String, Value> {
    let drain = snapshot.drain.as_ref();
    let ended = drain.and_then(|drain| drain.ended.as_ref());
    let result = match ended {
        Some(end) => end.outcome.name(),
        None if !ending.ran => "not started",
        None if ending.stopped => "stopped",
        None => "envoy exited",
    };
    let span = |end: &DrainEnd| drain.map(|drain| seconds(end.at - drain.started));
    let first = drain.and_then(|drain| drain.first.as_ref());
    let is_known =
        |load: &&Load| !ended.is_some_and(|end| sentences::is_lost(end.outcome, Some(load)));
    let last = first.and(snapshot.load.as_ref()).filter(is_known);
    let left = last.filter(|_| ended.is_some_and(|end| end.is_cut));
    let cut = left.map(Load::by_name).into_iter().flatten();
    let cut = cut.chain(cut_elsewhere(drain.map(|drain| drain.lost), left));
    let cut = cut.filter(|(_, connections)| *connections > 0);
    let mut cut_by_listener = Map::new();
    for (listener, connections) in cut {
        cut_by_listener.insert(listener.to_owned(), connections.into());
    }
    let class = ending.exit.and_then(|end| end.class);
    let fields = [
        ("result", result.into()),
        ("seconds", ended.and_then(span).into()),
        ("connections_at_start", first.map(Load::connections).into()),
        ("connections_at_end", last.map(Load::connections).into()),
        ("cut_by_listener", cut_by_listener.into()),
        ("requests", last.and_then(known_requests).into()),
        ("exit_code", code.into()),
        (
            "exit_class",
            class.map_or(Value::Null, |class| class.name().into()),
        ),
    ];
    let mut all = Map::new();
    for (name, value) in fields {
        all.insert(name.to_owned(), value);
    }
    let bytes = last.map(Load::unacknowledged).filter(|bytes| *bytes > 0);
    all.extend(bytes.map(|bytes| ("unacknowledged_bytes".to_owned(), bytes.into())));
    all
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::drain::Outcome;
    use crate::json::json;
    use crate::process::ExitClass;
    use crate::status::State;
    use crate::testing::{self, load};

    const fn end(exit: Exit, class: Option<ExitClass>) -> End {
        End {
            exit,
            class,
            dumped: false,
        }
    }

    const RAN: Ending<'static> = Ending {
        failure: None,
        exit: Some(end(Exit::Code(0), None)),
        ran: true,
        stopped: true,
    };

    fn drained(outcome: Outcome, first: Option<Load>, last: Option<Load>) -> Snapshot {
        let now = Instant::now();
        let mut snapshot = Snapshot::new(now);
        snapshot.state = State::Gone;
        snapshot.load = last;
        let mut drain = testing::drain(first, now);
        let at = now + Duration::from_millis(20_040);
        drain.ended = Some(sentences::end(&drain, at, outcome, &snapshot));
        snapshot.drain = Some(drain);
        snapshot
    }

    #[test]
    fn an_envoy_that_was_used_again_after_a_drain_is_not_called_drained_alone() {
        let mut snapshot = drained(Outcome::Drained, Some(load(3)), Some(Load::default()));
        snapshot.load = Some(load(2));
        let ended = snapshot
            .drain
            .as_ref()
            .and_then(|drain| drain.ended.as_ref());
        let at = ended.map(|end| end.at).unwrap();
        for (look, level) in [
            (at, Level::Info),
            (at + Duration::from_secs(9), Level::Warn),
        ] {
            snapshot.load_at = Some(look);
            let verdict = Verdict::new(RAN, &snapshot, 0);
            assert_eq!(verdict.level, level, "{}", verdict.line);
            let is_told = verdict.line.contains("used again after that: 2 in flight");
            assert_eq!(is_told, level == Level::Warn, "{}", verdict.line);
        }
    }

    #[test]
    fn a_drain_that_cut_something_is_a_warning_with_what_it_cut() {
        let snapshot = drained(Outcome::Deadline, Some(load(3)), Some(load(2)));
        let verdict = Verdict::new(RAN, &snapshot, 0);
        assert_eq!(verdict.level, Level::Warn);
        assert_eq!(
            verdict.line,
            "CUT by the deadline after 20.0 s (SIGTERM): 3 connections at the start, 2 at the end \
             (cut: https 2; 2 requests in flight); envoy's exit code 0; exit code 0"
        );
        assert_eq!(
            Value::from(verdict.fields),
            json!({
                "result": "deadline",
                "seconds": 20.04,
                "connections_at_start": 3,
                "connections_at_end": 2,
                "cut_by_listener": { "https": 2 },
                "requests": 2,
                "exit_code": 0,
                "exit_class": Value::Null,
            })
        );
    }

    #[test]
    fn only_what_is_known_to_be_clean_is_no_cut() {
        let verdict = |outcome, first: Option<u64>, last: Option<u64>| {
            let snapshot = drained(outcome, first.map(load), last.map(load));
            let verdict = Verdict::new(RAN, &snapshot, 0);
            let begin = verdict.line.split(" after").next().unwrap_or_default();
            (verdict.level == Level::Warn, begin.to_owned())
        };
        for (outcome, first, last, warns, begin) in [
            (Outcome::Drained, Some(3), Some(0), false, "drained"),
            (Outcome::Idle, Some(3), Some(3), false, "idle"),
            (Outcome::NeverLive, None, None, false, "never live"),
            (
                Outcome::Deadline,
                Some(1),
                Some(0),
                false,
                "ended by the deadline",
            ),
            (
                Outcome::Deadline,
                None,
                Some(0),
                true,
                "CUT by the deadline",
            ),
            (
                Outcome::SecondSignal,
                Some(1),
                Some(1),
                true,
                "CUT by a second signal",
            ),
            (
                Outcome::SecondSignal,
                Some(0),
                Some(0),
                false,
                "ended by a second signal",
            ),
            (Outcome::Unknown, None, None, true, "unknown"),
            (
                Outcome::AdminLost,
                Some(1),
                Some(0),
                true,
                "CUT by the deadline, admin lost,",
            ),
            (Outcome::EnvoyExited, Some(1), Some(1), true, "envoy exited"),
            (
                Outcome::EnvoyExited,
                Some(1),
                Some(0),
                false,
                "envoy exited",
            ),
            // As `--open-connections 1` has it.
            (Outcome::Drained, Some(3), Some(1), true, "drained"),
        ] {
            assert_eq!(
                verdict(outcome, first, last),
                (warns, begin.to_owned()),
                "{outcome:?}, {first:?} to {last:?}"
            );
        }
    }

    #[test]
    fn what_an_envoy_had_that_ended_in_a_drain_is_not_known_by_the_kernel_alone() {
        let kernel = Load {
            sight: crate::envoy::load::Sight::Kernel,
            requests: 0,
            ..load(0)
        };
        let snapshot = drained(Outcome::EnvoyExited, Some(load(1)), Some(kernel));
        let verdict = Verdict::new(RAN, &snapshot, 0);
        assert_eq!(verdict.level, Level::Warn);
        let unknown = "(SIGTERM): what was in flight at its end is not known";
        assert!(verdict.line.contains(unknown), "{}", verdict.line);
        assert!(verdict.fields["connections_at_end"].is_null());
    }

    #[test]
    fn an_end_without_a_drain_has_a_result_and_a_class() {
        let mut snapshot = Snapshot::new(Instant::now());
        snapshot.reason = "envoy exited: killed by SIGABRT".into();
        let verdict = |ending: Ending<'_>, code| {
            let verdict = Verdict::new(ending, &snapshot, code);
            let text = |name: &str| verdict.fields[name].as_str().map(str::to_owned);
            (verdict.level, text("result"), text("exit_class"))
        };
        let some = |text: &str| Some(text.to_owned());
        let by_itself = Ending {
            stopped: false,
            ..RAN
        };
        let ended = |exit| Ending {
            exit: Some(end(exit, exit.class())),
            ..by_itself
        };
        let exited = some("envoy exited");
        for (ending, code, level, result, class) in [
            (RAN, 0, Level::Info, some("stopped"), None),
            (by_itself, 0, Level::Info, exited.clone(), None),
            (
                ended(Exit::Signal(6)),
                134,
                Level::Warn,
                exited.clone(),
                some("assert"),
            ),
            (
                ended(Exit::Signal(11)),
                139,
                Level::Warn,
                exited.clone(),
                some("signal"),
            ),
            (ended(Exit::Code(1)), 1, Level::Warn, exited.clone(), None),
            (
                Ending {
                    exit: Some(end(Exit::Code(1), Some(ExitClass::Configuration))),
                    ..by_itself
                },
                1,
                Level::Warn,
                exited,
                some("configuration"),
            ),
        ] {
            assert_eq!(verdict(ending, code), (level, result, class), "{ending:?}");
        }
        // It stood before an Envoy that had drained, and was told to end.
        let exit = Some(end(Exit::Signal(15), Some(ExitClass::StartScript)));
        let script = Ending { exit, ..RAN };
        let class = some("start script");
        let stopped = some("stopped");
        assert_eq!(verdict(script, 143), (Level::Warn, stopped, class));
        let line = Verdict::new(script, &snapshot, 143).line;
        assert!(
            line.ends_with("; the start script was killed by SIGTERM; exit code 143"),
            "{line}"
        );
        let never = Ending {
            failure: Some("envoy: not found on PATH"),
            exit: None,
            ran: false,
            ..by_itself
        };
        assert_eq!(
            verdict(never, 127),
            (Level::Warn, some("not started"), None)
        );
    }
}
