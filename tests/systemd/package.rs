//! The Debian package that scripts/deb makes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::machine::Machine;
use crate::support::{self, TempDir};

/// Runs the arguments that follow, and has what they say in one stream.
const SHELL: [&str; 4] = ["sh", "-c", "exec \"$@\" 2>&1", "sh"];

/// A package of the program under test, made by scripts/deb in this directory.
fn package(directory: &Path, umask: &str) -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/deb");
    let mut deb = Command::new("sh");
    deb.args(["-c", "umask $1; shift; exec \"$@\"", "sh", umask, script]);
    deb.args([&support::drainit(), directory]);
    let output = deb.env("SOURCE_DATE_EPOCH", "1700000000").output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

#[test]
fn two_packages_of_one_program_are_the_same() {
    let dirs = [TempDir::new(), TempDir::new()];
    let packages = [(&dirs[0], "022"), (&dirs[1], "077")]
        .map(|(dir, umask)| fs::read(package(dir.path(), umask)).unwrap());
    assert!(packages[0] == packages[1]);
}

#[test]
fn a_package_brings_program_unit_and_manual_and_a_purge_leaves_nothing() {
    let dir = TempDir::new();
    let machine = Machine::boot_bare();
    let package = machine.copy(&package(dir.path(), "022"));
    let before = machine.written();
    let run = |command: &[&str]| {
        let (code, out) = machine.run(&[&SHELL[..], command].concat());
        assert_eq!(code, 0, "{command:?}: {out}\n{}", machine.journal());
        out
    };
    run(&["dpkg", "--install", &package]);
    assert!(machine.written().contains("/usr/bin/drainit"));
    let version = format!("drainit {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(run(&["drainit", "--version"]), version);
    assert_eq!(run(&["systemd-analyze", "verify", "envoy.service"]), "");
    // It serves nobody until somebody says so.
    assert_eq!(machine.property("ActiveState"), "inactive");
    assert_eq!(machine.property("UnitFileState"), "disabled");

    // Line breaks apart.
    let manual = "man --warnings -P cat -l /usr/share/man/man8/drainit.8.gz | tr -s ' \\n' ' '";
    let manual = run(&["sh", "-c", manual]);
    for text in [
        "DRAINIT(8)",
        "drainit - pid 1 of an Envoy container",
        "--drain-timeout DUR",
    ] {
        assert!(manual.contains(text), "{text} is not in {manual}");
    }
    // So troff's warnings about the page begin.
    assert!(!manual.contains("<standard input>"), "{manual}");

    run(&["systemctl", "enable", "--now", "envoy"]);
    assert!(machine.is_ready());
    run(&["systemctl", "reload", "envoy"]);
    assert!(machine.is_ready());
    // The same package again: no connection is lost by that.
    let main = machine.property("MainPID");
    run(&["dpkg", "--install", &package]);
    assert_eq!(machine.property("MainPID"), main);
    assert!(machine.is_ready());

    run(&["dpkg", "--purge", "drainit"]);
    assert_eq!(machine.property("LoadState"), "not-found");
    let processes = run(&["ps", "-e", "-o", "comm="]);
    for name in ["drainit", "envoy"] {
        assert!(
            !processes.lines().any(|process| process == name),
            "{processes}"
        );
    }
    assert!(
        machine.journal().contains("drained after "),
        "{}",
        machine.journal()
    );
    let after = machine.written();
    assert_eq!(after, before);
}
