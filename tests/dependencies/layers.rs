//! The arrows between the files of src: each goes down, and none comes back.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// From the top to the bottom: what a line has may use what the lines below it have, and nothing
/// else.
const LAYERS: &[&[&str]] = &[
    &["main"],
    &["commands", "supervisor"],
    &["check"],
    &["logging", "notify"],
    &["options"],
    &["certificates", "http"],
    &["status"],
    &["drain"],
    &["envoy"],
    &["connections"],
    &["client"],
    &["process"],
    &[
        "cidr", "clock", "duration", "fault", "file", "json", "mailbox", "pulse",
    ],
];

/// What the drain may know of Envoy: words and figures. A socket or a clock is in none of these.
const PURE: &[&str] = &["envoy::load", "envoy::question"];

/// A module by the names that lead to it from the crate's root.
type Module = Vec<String>;

/// What a module has of others under names of its own, by its `use`.
type Imports = BTreeMap<String, Module>;

/// The modules that ship, and which others each of them names: where a name leads to that a module
/// has from another, that is the other one.
fn arrows() -> BTreeMap<Module, BTreeSet<Module>> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut texts = BTreeMap::new();
    let mut tests = BTreeSet::new();
    read(&src, &[], &mut texts, &mut tests);
    texts.retain(|module, _| !tests.iter().any(|test| module.starts_with(test)));
    assert!(texts.len() > 100, "{} modules", texts.len());
    let imports: BTreeMap<_, _> = texts
        .iter()
        .map(|(module, text)| (module.clone(), imports(text, module)))
        .collect();
    let named = |(module, text): (&Module, &String)| {
        let paths = paths(text, module).into_iter();
        let named = paths.filter_map(|path| owner(path, &imports));
        (
            module.clone(),
            named.filter(|other| other != module).collect(),
        )
    };
    texts.iter().map(named).collect()
}

/// The module that has what a path leads to.
fn owner(mut path: Module, imports: &BTreeMap<Module, Imports>) -> Option<Module> {
    // A name that leads on for longer leads in a circle.
    for _ in 0..8 {
        let lengths = (1..=path.len()).rev();
        let mut owners = lengths.filter_map(|length| path.get(..length));
        let owner = owners.find(|owner| imports.contains_key(*owner))?.to_vec();
        let name = path.get(owner.len());
        let Some(target) = name.and_then(|name| imports[&owner].get(name)) else {
            return Some(owner);
        };
        let rest = path.split_off(owner.len() + 1);
        path = target.iter().cloned().chain(rest).collect();
    }
    panic!("{}: that leads nowhere", path.join("::"));
}

/// What a module's text brings in by `use`, with or without `pub`: a child may say `super` for both.
fn imports(text: &str, module: &[String]) -> Imports {
    let mut imports = Imports::new();
    for line in text.match_indices("use ").map(|(at, _)| at) {
        let before = text[..line].rsplit('\n').next().unwrap_or_default();
        if !(before.is_empty() || before.starts_with("pub")) {
            continue;
        }
        let mut rest = &text[line + "use ".len()..];
        let mut start = module.to_vec();
        if let Some(after) = rest.strip_prefix("crate::") {
            (rest, start) = (after, Vec::new());
        }
        while let Some(after) = rest.strip_prefix("super::") {
            start.pop();
            rest = after;
        }
        let mut found = Vec::new();
        expand(rest, &start, &mut found);
        for path in found {
            // What the module has itself, as a macro, leads nowhere else.
            if let Some((name, owner)) = path.split_last()
                && owner != module
            {
                imports.insert(name.clone(), path.clone());
            }
        }
    }
    imports
}

/// The text of each module in `folder`, without comments and unit tests; and which modules are
/// there for unit tests alone.
fn read(
    folder: &Path,
    parent: &[String],
    texts: &mut BTreeMap<Module, String>,
    tests: &mut BTreeSet<Module>,
) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let mut module = parent.to_vec();
        if !["mod", "lib"].contains(&name) {
            module.push(name.to_owned());
        }
        if path.is_dir() {
            read(&path, &module, texts, tests);
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let mut code = String::new();
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if line == "#[cfg(test)]" {
                let next = lines.find(|line| !line.starts_with("#[")).unwrap();
                match next.split_once("mod ") {
                    Some((_, name)) if name.ends_with(';') => {
                        let mut module = module.clone();
                        module.push(name.trim_end_matches(';').to_owned());
                        tests.insert(module);
                    }
                    // Unit tests are a file's last lines.
                    Some(_) => break,
                    None => {}
                }
            } else if !line.trim_start().starts_with("//") {
                code.push_str(line);
                code.push('\n');
            }
        }
        if name != "lib" {
            texts.insert(module, code);
        }
    }
}

/// The paths from the crate's root that a module's text names.
fn paths(text: &str, module: &[String]) -> Vec<Module> {
    let mut found = Vec::new();
    for root in ["crate::", "drainit::", "super::"] {
        for (at, _) in text.match_indices(root) {
            let before = text[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let mut rest = &text[at..];
            let mut start = match root {
                "super::" => module.to_vec(),
                _ => Vec::new(),
            };
            rest = match root {
                "super::" => rest,
                _ => &rest[root.len()..],
            };
            while let Some(after) = rest.strip_prefix("super::") {
                start.pop();
                rest = after;
            }
            expand(rest, &start, &mut found);
        }
    }
    found
}

/// Every path that a text begins with, its braces taken apart. Returns what is behind it.
fn expand<'a>(text: &'a str, start: &[String], found: &mut Vec<Module>) -> &'a str {
    let mut path = start.to_vec();
    let mut rest = text.trim_start();
    loop {
        if let Some(mut inside) = rest.strip_prefix('{') {
            loop {
                inside = expand(inside, &path, found).trim_start();
                match inside.strip_prefix(',') {
                    Some(more) if !more.trim_start().starts_with('}') => inside = more,
                    more => {
                        let inside = more.unwrap_or(inside).trim_start();
                        return inside.strip_prefix('}').unwrap_or(inside);
                    }
                }
            }
        }
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
        let (name, after) = rest.split_at(end.unwrap_or(rest.len()));
        if !name.is_empty() && name != "self" {
            path.push(name.to_owned());
        }
        match after.strip_prefix("::") {
            Some(after) => rest = after,
            None => {
                found.push(path);
                return after;
            }
        }
    }
}

/// The layer of a module: the further down, the higher the number.
fn layer(module: &[String]) -> usize {
    let has = |layer: &[&str]| {
        module
            .first()
            .is_some_and(|name| layer.contains(&name.as_str()))
    };
    let found = LAYERS.iter().position(|layer| has(layer));
    found.unwrap_or_else(|| panic!("{}: which layer is that?", module.join("::")))
}

#[test]
fn every_arrow_between_two_parts_goes_down() {
    let mut wrong = Vec::new();
    for (module, named) in arrows() {
        for other in named {
            if module.first() != other.first() && layer(&module) >= layer(&other) {
                wrong.push(format!("{} > {}", module.join("::"), other.join("::")));
            }
        }
    }
    assert!(wrong.is_empty(), "these arrows go up: {wrong:#?}");
}

#[test]
fn the_drain_names_nothing_that_does_io() {
    for (module, named) in arrows() {
        if module.first().is_some_and(|name| name == "drain") {
            for other in named {
                let name = other.join("::");
                let is_own = other.first().is_some_and(|name| name == "drain");
                assert!(
                    is_own || PURE.contains(&name.as_str()),
                    "{module:?}: {name}"
                );
            }
        }
    }
}

/// Between the files of a folder, a parent's aside: a child says `super` for what the parent has,
/// and the parent names its children.
#[test]
fn no_files_of_a_folder_name_each_other_in_a_circle() {
    let arrows = arrows();
    let mut siblings = BTreeMap::<Module, BTreeSet<Module>>::new();
    for (module, named) in &arrows {
        for other in named {
            let same = module
                .iter()
                .zip(other)
                .take_while(|(one, other)| one == other);
            let same = same.count();
            if let (Some(from), Some(to)) = (module.get(..=same), other.get(..=same)) {
                siblings
                    .entry(from.to_vec())
                    .or_default()
                    .insert(to.to_vec());
            }
        }
    }
    let mut circles = Vec::new();
    for start in siblings.keys() {
        let mut reached = BTreeSet::new();
        let mut open = vec![start];
        while let Some(at) = open.pop() {
            for next in siblings.get(at).into_iter().flatten() {
                if reached.insert(next) {
                    open.push(next);
                }
            }
        }
        if reached.contains(start) {
            circles.push(start.join("::"));
        }
    }
    assert!(
        circles.is_empty(),
        "these are part of a circle: {circles:#?}"
    );
}

#[test]
fn what_a_text_names_is_found() {
    let text = "use crate::a::{self, b::{C, d}, E};\nuse super::f;\nfn g(x: crate::h::I) {}";
    let module = ["j".to_owned(), "k".to_owned()];
    let found: BTreeSet<_> = paths(text, &module)
        .iter()
        .map(|path| path.join("::"))
        .collect();
    let expected = ["a", "a::b::C", "a::b::d", "a::E", "j::f", "h::I"];
    assert_eq!(found, expected.map(str::to_owned).into());
}

#[test]
fn what_a_parent_has_from_a_child_is_the_childs() {
    let path = |text: &str| -> Module { text.split("::").map(str::to_owned).collect() };
    let texts = [
        ("a", "mod b;\npub(super) use b::{C, D};\nuse crate::h::I;\n"),
        ("a::b", "use super::E;\n"),
        ("a::j", ""),
        ("h", ""),
    ];
    let imports = texts.map(|(module, text)| (path(module), imports(text, &path(module))));
    let imports = imports.into();
    for (named, has) in [
        ("a::C", "a::b"),
        ("a::D::new", "a::b"),
        ("a::I", "h"),
        ("a::E", "a"),
        ("a::j::F", "a::j"),
    ] {
        assert_eq!(owner(path(named), &imports), Some(path(has)), "{named}");
    }
    assert_eq!(owner(path("std::fmt"), &imports), None);
}
