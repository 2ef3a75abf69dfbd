//! What drainit is built from: licenses that go with its own, one version of everything, and
//! nothing from anywhere but the registry.
//!
//! What `cargo deny check licenses bans sources` would say, without compiling cargo-deny for
//! minutes before every run. Advisories are the business of whoever has their database.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

/// Licenses, of which every crate must offer one.
const ALLOWED: [&str; 3] = ["Apache-2.0", "MIT", "Unlicense"];

/// Crates that may be there in several versions. None is.
const SEVERAL_VERSIONS: [&str; 0] = [];

fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["metadata", "--locked", "--format-version", "1"])
        .args(["--filter-platform", "x86_64-unknown-linux-musl"])
        .args(["--filter-platform", "aarch64-unknown-linux-musl"])
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

fn name(package: &Value) -> &str {
    package["name"].as_str().unwrap()
}

/// Whether an SPDX expression of OR and AND, without parentheses, can be met.
fn is_allowed(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ");
    expression
        .split(" OR ")
        .any(|choice| choice.split(" AND ").all(|id| ALLOWED.contains(&id.trim())))
}

#[test]
fn every_license_goes_with_ours() {
    for package in packages() {
        let license = package["license"].as_str().unwrap_or("none");
        assert!(is_allowed(license), "{}: {license}", name(&package));
    }
}

#[test]
fn a_license_that_is_not_allowed_is_found() {
    assert!(is_allowed("MIT/Apache-2.0"));
    assert!(is_allowed("GPL-3.0-only OR MIT"));
    assert!(!is_allowed("MIT AND GPL-3.0-only"));
    assert!(!is_allowed("none"));
}

#[test]
fn nothing_is_there_in_two_versions() {
    let mut versions = BTreeMap::<String, Vec<String>>::new();
    for package in packages() {
        let version = package["version"].as_str().unwrap().to_owned();
        versions
            .entry(name(&package).to_owned())
            .or_default()
            .push(version);
    }
    versions
        .retain(|name, versions| versions.len() > 1 && !SEVERAL_VERSIONS.contains(&name.as_str()));
    assert!(versions.is_empty(), "{versions:?}");
}

#[test]
fn everything_is_from_the_registry() {
    for package in packages() {
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
