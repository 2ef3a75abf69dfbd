//! What drainit is built from: licenses that go with its own, one version of everything, and
//! nothing from anywhere but the registry.
//!
//! What `cargo deny check licenses bans sources` says, by .cargo/deny.toml, without compiling
//! cargo-deny for minutes before every run: scripts/release has the real one look, at advisories
//! too.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

mod layers;
mod rooms;

const POLICY: &str = include_str!("../../.cargo/deny.toml");

/// Licenses, of which every crate must offer one.
fn allowed() -> impl Iterator<Item = &'static str> {
    let list = POLICY
        .lines()
        .find_map(|line| line.strip_prefix("allow = "));
    list.unwrap().split('"').skip(1).step_by(2)
}

/// Crates that may be there in several versions. None is.
const SEVERAL_VERSIONS: [&str; 0] = [];

/// As .cargo/deny.toml has them.
const TARGETS: [&str; 2] = ["x86_64-unknown-linux-musl", "aarch64-unknown-linux-musl"];

/// What is built for one of the targets that ship, tests included.
fn packages(target: &str) -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["metadata", "--locked", "--format-version", "1"])
        .args(["--filter-platform", target])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap().clone();
    assert!(packages.len() > 10, "{} packages", packages.len());
    packages
}

fn all_packages() -> Vec<Value> {
    TARGETS.into_iter().flat_map(packages).collect()
}

fn name(package: &Value) -> &str {
    package["name"].as_str().unwrap()
}

/// Whether an SPDX expression of OR, AND and parentheses can be met.
fn is_allowed(expression: &str) -> bool {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    let met = any(&mut words);
    met && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any(words: &mut Words) -> bool {
    let mut met = all(words);
    while words.next_if_eq(&"OR").is_some() {
        met |= all(words);
    }
    met
}

fn all(words: &mut Words) -> bool {
    let mut met = one(words);
    while words.next_if_eq(&"AND").is_some() {
        met &= one(words);
    }
    met
}

fn one(words: &mut Words) -> bool {
    match words.next() {
        Some("(") => any(words) & words.next_if_eq(&")").is_some(),
        Some(id) => allowed().any(|allowed| allowed == id),
        None => false,
    }
}

#[test]
fn every_license_goes_with_ours() {
    for package in all_packages() {
        let license = package["license"].as_str().unwrap_or("none");
        assert!(is_allowed(license), "{}: {license}", name(&package));
    }
}

#[test]
fn a_license_that_is_not_allowed_is_found() {
    assert!(is_allowed("MIT/Apache-2.0"));
    assert!(is_allowed("GPL-3.0-only OR MIT"));
    assert!(is_allowed("(GPL-3.0-only OR MIT) AND Unicode-3.0"));
    assert!(!is_allowed("MIT AND GPL-3.0-only"));
    assert!(!is_allowed("(MIT"));
    assert!(!is_allowed("MIT WITH something"));
    assert!(!is_allowed("none"));
}

#[test]
fn nothing_is_there_in_two_versions() {
    let mut versions = BTreeMap::<String, BTreeSet<String>>::new();
    for package in all_packages() {
        let version = package["version"].as_str().unwrap().to_owned();
        versions
            .entry(name(&package).to_owned())
            .or_default()
            .insert(version);
    }
    versions
        .retain(|name, versions| versions.len() > 1 && !SEVERAL_VERSIONS.contains(&name.as_str()));
    assert!(versions.is_empty(), "{versions:?}");
}

#[test]
fn everything_is_from_the_registry() {
    for package in all_packages() {
        let source = package["source"].as_str();
        match name(&package) {
            "drainit" => assert_eq!(source, None),
            other => assert!(
                source.is_some_and(|source| source.starts_with("registry+")),
                "{other}: {source:?}"
            ),
        }
    }
}
