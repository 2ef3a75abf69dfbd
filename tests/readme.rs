//! The README is true: its options, metrics, paths, states and manifests are those of the program.

mod support;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use drainit::options::{ENTRIES, FLAGS, Topic, help};
use drainit::status::{Snapshot, State, metrics};
use serde_json::Value;

use support::TempDir;
use support::manifest::{blocks, duration_option, manifests, readme};

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
        assert_eq!(shown, help(topic).trim_end(), "{line:?}");
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
        let row = readme
            .lines()
            .find(|line| line.starts_with(&format!("| `{name}")));
        let row = row.unwrap_or_else(|| panic!("{name} is not in the README"));
        assert!(row.contains(&format!(" {kind} ")), "{row} is no {kind}");
    }
    for path in ["/healthz", "/ready", "/shutdown", "/status", "/metrics"] {
        assert!(readme.contains(&format!("{path}` |")), "{path}");
    }
    for signal in ["TERM, INT", "USR2", "QUIT", "USR1", "HUP"] {
        assert!(readme.contains(&format!("\n| {signal} | ")), "{signal}");
    }
    for state in State::ALL {
        assert!(readme.contains(state.name()), "{state:?}");
    }
}

#[test]
fn the_pods_have_time_to_drain_are_probed_have_no_hook_and_are_restricted() {
    let mut pods = 0;
    for manifest in manifests() {
        let Some(pod) = manifest.pointer("/spec/template/spec") else {
            continue;
        };
        pods += 1;
        let text = pod.to_string();
        assert!(!text.contains("preStop") && !text.contains("lifecycle"));
        let grace = pod["terminationGracePeriodSeconds"].as_f64().unwrap();
        let containers = pod["containers"].as_array().unwrap();
        let envoy = containers.iter().find(|one| one["name"] == "envoy");
        let envoy = envoy.unwrap();
        let args = envoy["args"].as_array().unwrap();
        let seconds = |name: &str| {
            let given = duration_option(args, &format!("--{name}"));
            let flag = FLAGS.iter().find(|flag| flag.name == name).unwrap();
            let default = || drainit::duration::parse(flag.default).unwrap();
            given.unwrap_or_else(default).as_secs_f64()
        };
        let needed = seconds("drain-timeout") + seconds("kill-timeout");
        assert!(grace > needed, "{grace} s are not above {needed} s");
        for (probe, path) in [
            ("startupProbe", "/ready"),
            ("readinessProbe", "/ready"),
            ("livenessProbe", "/healthz"),
        ] {
            assert_eq!(envoy[probe]["httpGet"]["path"], path, "{probe}");
        }
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(
            pod["securityContext"]["seccompProfile"]["type"],
            "RuntimeDefault"
        );
        let inits = pod["initContainers"].as_array().unwrap();
        for container in inits.iter().chain(containers) {
            let security = &container["securityContext"];
            assert_eq!(security["allowPrivilegeEscalation"], false);
            assert_eq!(security["readOnlyRootFilesystem"], true);
            assert_eq!(security["capabilities"]["drop"], serde_json::json!(["ALL"]));
            mounts_have_volumes(pod, container);
        }
        // The key is in the SDS files: not on a disk.
        if args
            .iter()
            .any(|arg| arg == "--resources-dir=/config/resources")
        {
            let volumes = pod["volumes"].as_array().unwrap();
            let config = volumes.iter().find(|one| one["name"] == "config").unwrap();
            assert_eq!(config["emptyDir"]["medium"], "Memory");
        }
        let options: Vec<_> = args
            .iter()
            .map(|arg| arg.as_str().unwrap().into())
            .collect();
        if let Err(why) = drainit::options::parse(options, |_| None) {
            panic!("{args:?}: {why}");
        }
    }
    assert_eq!(pods, 3);
}

fn mounts_have_volumes(pod: &Value, container: &Value) {
    let volumes = pod["volumes"].as_array().unwrap();
    for mount in container["volumeMounts"].as_array().unwrap() {
        assert!(
            volumes.iter().any(|volume| volume["name"] == mount["name"]),
            "{mount} has no volume"
        );
    }
}

#[test]
fn the_manifests_fit_kubernetes_published_schema() {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/python/bin/python");
    assert!(python.is_file(), "kubernetes-validate: run scripts/test");
    let dir = TempDir::new();
    let file = dir.join("manifests.json");
    // What is not Kubernetes' own has no schema there.
    let own: Vec<_> = manifests()
        .into_iter()
        .filter(|one| !one["apiVersion"].as_str().unwrap().contains("cert-manager"))
        .collect();
    assert!(own.len() >= 4);
    fs::write(&file, serde_json::to_string(&own).unwrap()).unwrap();
    let script = "import json, sys, kubernetes_validate as k\n\
                  for one in json.load(open(sys.argv[1])): k.validate(one, k.latest_version(), strict=True)";
    let checked = Command::new(python)
        .args(["-c", script])
        .arg(&file)
        .output();
    let checked = checked.unwrap();
    assert!(
        checked.status.success(),
        "{}",
        String::from_utf8_lossy(&checked.stderr)
    );
}

#[test]
fn links_and_scripts_exist_and_anchors_have_their_headings() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = readme();
    let headings: BTreeSet<_> = readme
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .map(|title| title.to_lowercase().replace(' ', "-").replace(',', ""))
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
            // What has an extension is read by a program, not run.
            let runs = script.permissions().mode() & 0o111 != 0;
            assert!(runs || Path::new(word).extension().is_some(), "{word}");
        } else if word.starts_with("src/") {
            assert!(root.join(word).exists(), "{word} does not exist");
        }
    }
    assert!(scripts.contains("scripts/demo") && scripts.contains("scripts/test"));
}

#[test]
fn the_unit_gives_the_drain_its_time_and_the_init_scripts_parse() {
    let unit = blocks("ini").remove(0);
    let setting = |name: &str| {
        let line = unit.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name}")).to_owned()
    };
    assert_eq!(setting("Type="), "notify");
    assert_eq!(setting("KillMode="), "mixed");
    assert!(setting("TimeoutStopSec=").parse::<u64>().unwrap() > 27);
    for name in ["ExecStart=", "ExecReload=", "WatchdogSec="] {
        setting(name);
    }
    let scripts = blocks("sh");
    assert_eq!(scripts.len(), 2);
    for script in scripts {
        let checked = Command::new("sh").args(["-n", "-c", &script]).status();
        assert!(checked.unwrap().success(), "{script}");
    }
}

#[test]
fn the_demo_loses_nothing() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut demo = Command::new("python3");
    demo.arg(root.join("scripts/demo.py"));
    demo.args([support::drainit(), support::envoy()]);
    demo.stdin(Stdio::null());
    let output = demo.output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && told.contains("Nothing was lost."),
        "{told}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
