//! The README is true: its options, metrics, paths and states are those of the program, its captures
//! are what the program prints, and the examples that it links to work as they are.

mod captures;
mod examples;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use drainit::commands::help;
use drainit::http::endpoints::PATHS;
use drainit::options::{ENTRIES, FLAGS, Topic};
use drainit::status::{Snapshot, State, metrics};
use support::manifest::readme;

/// The table of options, from the table that the help is made of.
fn options_table() -> String {
    let mut table = String::from("| option | default | meaning |\n| --- | --- | --- |\n");
    for flag in FLAGS {
        let default = match flag.default {
            "" => String::new(),
            words if flag.unset => words.to_owned(),
            default => format!("`{default}`"),
        };
        let mut doc = flag.doc.to_owned();
        for name in flag.aliases {
            let _ = write!(doc, " Also `--{name}`.");
        }
        if let Some(foreign) = flag.foreign {
            let seconds = if foreign.seconds {
                ", a number of seconds"
            } else {
                ""
            };
            let _ = write!(doc, " Also `{}`{seconds}.", foreign.name);
        }
        let usage = flag.usage().replace('|', "\\|");
        let _ = writeln!(table, "| `{usage}` | {default} | {doc} |");
    }
    table
}

#[test]
fn the_table_of_options_is_the_one_of_help() {
    let table = options_table();
    assert!(
        readme().contains(&table),
        "the README's table of options should be:\n{table}"
    );
}

#[test]
fn every_command_is_in_the_readme_and_has_its_page() {
    let readme = readme();
    let pages = [
        (vec!["help"], Topic::First),
        (vec!["help", "all"], Topic::All),
    ];
    let commands = ENTRIES
        .iter()
        .map(|entry| (vec!["help", entry.name], Topic::Of(entry)));
    for (line, topic) in pages.into_iter().chain(commands) {
        let (code, shown, told) = support::drainit::run(&line);
        assert_eq!((code, told.as_str()), (0, ""), "{line:?}");
        assert_eq!(shown, help::page(topic).trim_end(), "{line:?}");
    }
    for entry in ENTRIES {
        let shown = format!("| `{}`", entry.usage().replace('|', "\\|"));
        assert!(readme.contains(&shown), "{shown}");
    }
}

#[test]
fn every_metric_path_signal_and_state_is_in_the_readme() {
    let readme = readme();
    let now = Instant::now();
    let page = metrics::render(&Snapshot::new(now), now);
    let named = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .map(|line| line.split_once(' ').unwrap());
    for (name, kind) in named {
        // A row's first cell has the metrics that are told of together.
        let named = [format!("`{name}`"), format!("`{name}{{")];
        let row = readme.lines().find(|line| {
            let cell = line
                .strip_prefix("| ")
                .and_then(|row| row.split(" |").next());
            cell.is_some_and(|cell| named.iter().any(|name| cell.contains(name)))
        });
        let row = row.unwrap_or_else(|| panic!("{name} is not in the README"));
        assert!(row.contains(&format!(" | {kind} | ")), "{row} is no {kind}");
    }
    for (path, _) in PATHS {
        let named = format!(" {path}`");
        let mut rows = readme.lines().filter_map(|line| line.strip_prefix("| `"));
        assert!(rows.any(|row| row.contains(&named)), "{path}");
    }
    for signal in ["TERM, INT", "USR2", "QUIT", "USR1", "HUP"] {
        assert!(readme.contains(&format!("\n| {signal} | ")), "{signal}");
    }
    for state in State::ALL {
        assert!(readme.contains(state.name()), "{state:?}");
    }
}

#[test]
fn links_and_scripts_exist_and_anchors_have_their_headings() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = readme();
    let headings: BTreeSet<_> = readme
        .lines()
        .filter_map(|line| line.strip_prefix("### ").or(line.strip_prefix("## ")))
        .map(|title| {
            title
                .to_lowercase()
                .replace(' ', "-")
                .replace([',', '.'], "")
        })
        .collect();
    let mut links = 0;
    for target in readme.split("](").skip(1) {
        let target = target.split(')').next().unwrap();
        links += 1;
        match target.strip_prefix('#') {
            Some(anchor) => assert!(headings.contains(anchor), "no heading for #{anchor}"),
            None => assert!(root.join(target).exists(), "{target} does not exist"),
        }
    }
    assert!(links > 10);
    let words = readme.split(|c: char| !(c.is_ascii_alphanumeric() || "/._-".contains(c)));
    let mut scripts = BTreeSet::new();
    for word in words.map(|word| word.trim_end_matches('.')) {
        if word.starts_with("scripts/") {
            scripts.insert(word);
            let script = fs::metadata(root.join(word));
            let script = script.unwrap_or_else(|error| panic!("{word}: {error}"));
            // What has an extension is read by a program, not run; so is every example.
            let runs = script.permissions().mode() & 0o111 != 0;
            let is_read =
                word.starts_with("scripts/examples") || Path::new(word).extension().is_some();
            assert!(runs || is_read, "{word}");
        } else if word.starts_with("src/") {
            assert!(root.join(word).exists(), "{word} does not exist");
        }
    }
    assert!(scripts.contains("scripts/demo") && scripts.contains("scripts/test"));
}

#[test]
fn the_demo_loses_nothing() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut stories = vec![("demo", support::envoy())];
    // A minute for each Envoy.
    if env::var_os("TEST_DAY").is_some() {
        stories.extend([("day", support::envoy()), ("day", support::other_envoy())]);
    }
    for (story, envoy) in stories {
        let mut demo = Command::new("python3");
        demo.arg(root.join(format!("scripts/{story}.py")));
        demo.args([support::drainit(), envoy]).stdin(Stdio::null());
        let output = demo.output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && told.contains("Nothing was lost."),
            "{told}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
