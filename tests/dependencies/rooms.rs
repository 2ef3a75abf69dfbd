//! Hot restart has rooms of its own: whoever reads how a drain is decided meets few of its words.
//!
//! Counted are lines of code and of comments, unit tests apart, with at least one of [`WORDS`] in
//! them. `HotRestart` and `hot_restart` are the words `hot restart`.

use std::fs;
use std::path::{Path, PathBuf};

/// Words of hot restart, each with what may follow it; `old` is no word in `told`.
const WORDS: &[&str] = &[
    " hot restart",
    " generation",
    " epoch",
    " newest ",
    " old ",
    " older ",
    " beside ",
    " parent ",
    " handover ",
    " reliev",
    " degraded ",
    " stand in ",
    " next envoy ",
    " second envoy ",
    " another envoy ",
];

/// Where they are at home, from src: files, and folders with all that is in them. The last three
/// follow a configuration, which goes by hot restarts alone.
const ROOMS: &[&str] = &[
    "supervisor/decide/generations",
    "supervisor/decide/generations.rs",
    "supervisor/decide/others.rs",
    "envoy/epoch.rs",
    "envoy/hot_restart.rs",
    "envoy/old.rs",
    "envoy/stand_in.rs",
    "supervisor/envoys",
    "supervisor/envoys.rs",
    "supervisor/hot_restart.rs",
    "supervisor/reload.rs",
    "supervisor/trials.rs",
    "supervisor/copies.rs",
    "supervisor/follow.rs",
    "supervisor/probation.rs",
];

/// What a house of several rooms is, and how many lines outside of [`ROOMS`] may have the words.
const HOUSES: &[(&str, &[&str], usize)] = &[
    ("the drain", &["drain", "drain.rs"], 0),
    (
        "the decision core",
        &["supervisor/decide", "supervisor/decide.rs"],
        30,
    ),
    ("the rest of the supervisor", &["supervisor"], 25),
    ("the snapshot", &["status/mod.rs"], 9),
    ("what is known of Envoy", &["envoy"], 104),
];

fn words(line: &str) -> String {
    let mut words = String::from(" ");
    let mut before = ' ';
    for c in line.chars() {
        if c.is_uppercase() && before.is_lowercase() || !c.is_alphanumeric() {
            words.push(' ');
        }
        if c.is_alphanumeric() {
            words.extend(c.to_lowercase());
        }
        before = c;
    }
    words.push(' ');
    words
}

fn has_words(line: &str) -> bool {
    let words = words(line);
    WORDS.iter().any(|word| words.contains(word))
}

/// The lines of a file that ship: unit tests are its last ones, or a file of their own.
fn shipped(path: &Path) -> Vec<String> {
    let name = path.file_stem().unwrap().to_str().unwrap();
    let is_test = name.ends_with("tests") || ["explore", "level"].contains(&name);
    if is_test {
        return Vec::new();
    }
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().take_while(|line| *line != "#[cfg(test)]");
    lines.map(str::to_owned).collect()
}

fn files(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        let name = path.file_name().unwrap().to_str().unwrap();
        let skipped = name == "explore" || name.ends_with("tests");
        let mut entries: Vec<_> = fs::read_dir(path)
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        entries.retain(|_| !skipped);
        entries.sort();
        entries.iter().for_each(|entry| files(entry, found));
    } else {
        found.push(path.to_owned());
    }
}

#[test]
fn hot_restart_stays_in_its_rooms() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut counted: Vec<PathBuf> = ROOMS.iter().map(|room| src.join(room)).collect();
    assert!(counted.iter().all(|room| room.exists()), "{counted:#?}");
    for (house, places, most) in HOUSES {
        let mut all = Vec::new();
        places
            .iter()
            .for_each(|place| files(&src.join(place), &mut all));
        assert!(!all.is_empty());
        let mut found = Vec::new();
        for path in all {
            if counted.iter().any(|room| path.starts_with(room)) {
                continue;
            }
            for (at, line) in shipped(&path).iter().enumerate() {
                if has_words(line) {
                    let path = path.strip_prefix(&src).unwrap().display();
                    found.push(format!("{path}:{}: {}", at + 1, line.trim()));
                }
            }
        }
        let count = found.len();
        assert!(
            count <= *most,
            "{house}: {count} lines speak of hot restart, {most} may: {found:#?}"
        );
        counted.extend(places.iter().map(|place| src.join(place)));
    }
}

#[test]
fn words_of_hot_restart_are_found_in_names_and_in_prose() {
    for line in [
        "pub struct HotRestart {",
        "self.note_generations();",
        "Whose::Envoy(Who::Old) =>",
        "/// An old Envoy drains.",
        "old_time: None,",
    ] {
        assert!(has_words(line), "{line}");
    }
    for line in [
        "if self.is_told_of() {",
        "let kept = hold;",
        "fn settle() {}",
    ] {
        assert!(!has_words(line), "{line}");
    }
}
