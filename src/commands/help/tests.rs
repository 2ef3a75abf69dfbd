use std::ffi::OsString;

use super::*;
use crate::http::endpoints::PATHS;
use crate::options::{self, Command};

#[test]
fn no_line_of_any_page_is_longer_than_80_columns() {
    let topics = [Topic::First, Topic::All];
    for topic in topics.into_iter().chain(ENTRIES.iter().map(Topic::Of)) {
        let page = super::page(topic);
        for line in page.lines() {
            assert!(line.chars().count() <= 80, "{topic:?}: {line}");
            assert_eq!(line, line.trim_end(), "{topic:?}");
        }
        assert!(!page.trim().is_empty() && page.ends_with('\n'), "{topic:?}");
    }
    let first = page(Topic::First);
    assert!(first.lines().count() <= 40, "{first}");
    for entry in ENTRIES {
        assert!(first.contains(&format!("\n  {} ", entry.name)), "{first}");
    }
}

#[test]
fn the_page_of_all_tells_every_option_with_default_and_variable() {
    let words = |page: String| page.split_whitespace().collect::<Vec<_>>().join(" ");
    let all = words(page(Topic::All));
    let man = words(page(Topic::Man)).replace("\\-", "-");
    let own = FLAGS.iter().map(|flag| {
        assert!(flag.variables().next().is_some());
        (
            flag.usage(),
            flag.variables().collect::<Vec<_>>(),
            flag.default,
        )
    });
    let bootstrap = bootstrap::FLAGS
        .iter()
        .map(|flag| (flag.usage(), flag.variables().collect(), flag.default));
    for (usage, variables, default) in own.chain(bootstrap) {
        for page in [&all, &man] {
            let at = page
                .find(&format!("{usage} "))
                .unwrap_or_else(|| panic!("{usage}"));
            let rest = &page[at..];
            for variable in &variables {
                assert!(rest.contains(variable), "{variable}");
            }
            let default = format!("Default: {default}.");
            assert!(
                default == "Default: ." || rest.contains(&default),
                "{usage}"
            );
        }
    }
}

#[test]
fn the_help_tells_every_endpoint() {
    let [http, _] = REST;
    let named = http
        .split([' ', ',', ';', '.'])
        .filter(|word| word.starts_with('/'));
    let paths = PATHS.map(|(path, _)| path);
    assert_eq!(named.collect::<Vec<_>>(), paths);
}

#[test]
fn a_commands_page_tells_its_options() {
    for (line, told) in [
        (
            &["help", "status"][..],
            &["drainit status", "--watch", "--listen"][..],
        ),
        (
            &["status", "--help"],
            &["drainit status", "--watch", "--listen"],
        ),
        (
            &["bootstrap", "-h"],
            &["PATH", "--xds-address", "CONTOUR_NAMESPACE"],
        ),
        (&["install", "--help"], &["PATH"]),
        (&["--help"], &["Commands:"]),
        (&["help", "all"], &["--certificate-check"]),
    ] {
        let Ok(Command::Help(topic)) = options::parse(line.iter().map(OsString::from), |_| None)
        else {
            panic!("{line:?}");
        };
        let page = super::page(topic);
        for text in told {
            assert!(page.contains(text), "{line:?}: {text}");
        }
    }
    for entry in ENTRIES {
        for name in entry.takes {
            assert!(FLAGS.iter().any(|flag| flag.name == *name), "{name}");
        }
    }
}
