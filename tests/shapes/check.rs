//! What `drainit check` says of an Envoy before it runs, and that it leaves no trace.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::support::drainit::{Drainit, run_command};
use crate::support::envoy_config::{Admin, EnvoyConfig};
use crate::support::manifest::example_path;
use crate::support::pki::Pair;
use crate::support::process::Process;
use crate::support::upstream::Upstream;
use crate::support::{self, PATIENCE, TempDir, wait_for};

/// The kernel may give a namespace, or none.
const APART: &[&str] = &[];
const HERE: &[&str] = &[
    "unshare",
    "--user",
    "--map-root-user",
    "sh",
    "-c",
    "echo 0 >/proc/sys/user/max_net_namespaces; exec \"$0\" \"$@\"",
];

/// `WRAPPER drainit check --json ARGUMENTS`: the exit code, and the answer.
fn check<S: AsRef<std::ffi::OsStr>>(wrapper: &[&str], arguments: &[S]) -> (i32, Value) {
    let mut words = wrapper.iter().map(|word| (*word).to_owned());
    let drainit = support::drainit().display().to_string();
    let mut command = Command::new(words.next().unwrap_or_else(|| drainit.clone()));
    command.args(words);
    if !wrapper.is_empty() {
        command.arg(&drainit);
    }
    command.args(["check", "--json", "--grace-period", "60s"]);
    let (code, out, err) = run_command(command.args(arguments));
    let answer = serde_json::from_str(&out);
    (
        code,
        answer.unwrap_or_else(|why| panic!("{why}: {out}{err}")),
    )
}

/// What `drainit check` says beforehand of one of the shapes.
pub fn foretell(options: &[&str], line: &[String]) -> Value {
    let options = options.iter().map(|option| (*option).to_owned());
    let mut arguments: Vec<_> = options.collect();
    arguments.push("--".into());
    arguments.extend_from_slice(line);
    check(APART, &arguments).1
}

/// Where that does not agree with what then happened to what was open on this listener: whether it
/// came to its end, and whether drainit warned that statistics are hidden. (Of allowed paths it asks
/// for more than a drain cannot do without.)
pub fn disagrees(
    answer: &Value,
    admin: bool,
    listener: Option<&str>,
    drained: bool,
    hidden: bool,
) -> Option<String> {
    let rules = answer["findings"].as_array().unwrap().iter();
    let rules: Vec<_> = rules.map(|one| one["rule"].as_str().unwrap()).collect();
    let has = |rule| rules.contains(&rule);
    let listeners = answer["listeners"].as_array().unwrap();
    let row = listeners
        .iter()
        .find(|one| Some(one["name"].as_str().unwrap()) == listener);
    let waits = row.map_or("", |row| row["waits_for"].as_str().unwrap());
    let right = has("admin") != admin
        && has("statistics") == hidden
        && !has("refused")
        && (listener.is_none() || waits.contains("requests") || waits.contains("sessions"))
        // What it says will end was not cut.
        && (drained || has("admin") || has("idle-timeout") && row.is_some_and(|row| row["cut"] != "-"))
        && !(drained && has("idle-timeout"));
    (!right).then(|| format!("{rules:?}, {waits}"))
}

/// The rules that found something, each with its places.
fn found(answer: &Value) -> Vec<String> {
    let findings = answer["findings"].as_array().unwrap();
    let line = |one: &Value| format!("{} {}", one["rule"], one["where"]).replace('"', "");
    findings.iter().map(line).collect()
}

/// The configuration of the tests, whose faults are known.
struct Known {
    config: EnvoyConfig,
    /// Without the one that Envoy has a word for since 1.39.
    old: Vec<String>,
    new: Vec<String>,
}

impl Known {
    fn new() -> Known {
        let config = EnvoyConfig::new(Admin::Unix, &Upstream::start());
        let [http, tcp, metrics] = [config.http, config.tcp, config.metrics];
        let old = vec![
            format!("timeout [http ({http}),metrics ({metrics})]"),
            format!("exclude [metrics ({metrics})]"),
        ];
        let told = format!("tcp-drain [tcp ({tcp})]");
        let new = vec![old[0].clone(), told, old[1].clone()];
        Known { config, old, new }
    }

    /// What this Envoy is found to do.
    fn of(&self, envoy: &Path) -> &[String] {
        match support::minor(envoy) >= 39 {
            true => &self.new,
            false => &self.old,
        }
    }

    fn line(&self, envoy: &Path) -> Vec<String> {
        let mut line = vec!["--".to_owned(), envoy.display().to_string()];
        line.extend(self.config.arguments());
        line
    }
}

#[test]
fn a_check_finds_each_fault_once_and_opens_no_configured_address() {
    let known = Known::new();
    let config = &known.config;
    // Without SO_REUSEPORT: whoever binds one of them now fails.
    let taken = [config.http, config.tcp, config.metrics].map(TcpListener::bind);
    assert!(taken.iter().all(Result::is_ok));
    // Envoy removes what is at a socket's path before it binds it.
    let admin = config.dir.join("admin.sock");
    let _listener = UnixListener::bind(&admin).unwrap();
    for envoy in [support::envoy(), support::other_envoy()] {
        for wrapper in [APART, HERE] {
            let (code, answer) = check(wrapper, &known.line(&envoy));
            assert_eq!(found(&answer), known.of(&envoy), "{answer:#}");
            assert_eq!(code, 1);
            assert_eq!(answer["not_looked_at"], Value::Array(Vec::new()));
            let kinds = answer["listeners"].as_array().unwrap().iter();
            let kinds: Vec<_> = kinds.map(|one| one["kind"].as_str().unwrap()).collect();
            assert_eq!(kinds, ["http", "tcp", "udp", "http"]);
            UnixStream::connect(&admin).expect("the admin interface that runs");
        }
    }
}

#[test]
fn a_check_of_the_examples_finds_nothing() {
    let dir = TempDir::new();
    let pair = Pair::ca("check").leaf();
    let [cert, key] = ["tls.crt", "tls.key"].map(|name| dir.join(name));
    fs::write(&cert, &pair.cert).unwrap();
    fs::write(&key, &pair.key).unwrap();
    let secret = format!("www={},{}", cert.display(), key.display());
    let bootstrap = dir.join("envoy.json").display().to_string();
    let mut write = Command::new(support::drainit());
    write.args(["bootstrap", &bootstrap, "--xds-address=contour"]);
    assert_eq!(run_command(&mut write).0, 0);
    let example = |name| example_path(name).display().to_string();
    for envoy in [support::envoy(), support::other_envoy()] {
        let envoy = envoy.display().to_string();
        let tls = ["--resources-dir", "/run/envoy", "--secret", &secret];
        let contour = ["--exclude-listener", "0.0.0.0:8002"];
        for (options, file, unseen) in [
            (&[][..], example("envoy.yaml"), 0),
            (&tls, example("tls.yaml"), 0),
            (&contour, bootstrap.clone(), 1),
        ] {
            let mut arguments = Vec::from(options);
            arguments.extend(["--", &envoy, "-c", &file]);
            let (code, answer) = check(APART, &arguments);
            assert_eq!(
                (code, found(&answer)),
                (0, Vec::new()),
                "{file}: {answer:#}"
            );
            assert_eq!(answer["not_looked_at"].as_array().unwrap().len(), unseen);
        }
    }
    assert!(!Path::new("/run/envoy/sds").exists());
}

#[test]
fn a_check_runs_no_start_script_and_tells_what_envoy_refuses() {
    let known = Known::new();
    let dir = &known.config.dir;
    let script = dir.join("start.sh");
    let trace = dir.join("was-run");
    fs::write(&script, format!("#!/bin/sh\ntouch {}\n", trace.display())).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let (_, answer) = check(APART, &known.line(&script));
    assert!(!trace.exists());
    let unseen = answer["not_looked_at"].to_string();
    assert!(
        unseen.contains("start.sh is a start script, and was not run"),
        "{unseen}"
    );
    known.config.replace("connect_timeout", "connect_timout");
    let (code, answer) = check(APART, &known.line(&support::envoy()));
    assert_eq!(
        (code, &answer["findings"][0]["rule"]),
        (1, &"refused".into())
    );
    let why = answer["findings"][0]["what"].as_str().unwrap();
    assert!(why.contains("connect_timout"), "{why}");
}

#[test]
fn a_check_that_is_ended_leaves_no_copy_of_the_configuration() {
    let known = Known::new();
    // Of a socket with a mode it takes a copy.
    known.config.replace("admin.sock", "admin.sock, mode: 384");
    fs::write(
        &known.config.file,
        fs::read_to_string(&known.config.file).unwrap() + "# a key\n",
    )
    .unwrap();
    for signal in [
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGKILL,
    ] {
        let place = TempDir::new();
        let files = || fs::read_dir(place.path()).unwrap().flatten();
        let mut command = Command::new(support::drainit());
        command.env("TMPDIR", place.path()).arg("check");
        let mut check = Process::spawn(command.args(known.line(&support::envoy())));
        let copies = || files().flat_map(|dir| fs::read_dir(dir.path()).into_iter().flatten());
        wait_for("a copy", PATIENCE, || {
            let mut texts = copies()
                .flatten()
                .map(|copy| fs::read_to_string(copy.path()));
            texts.any(|text| text.is_ok_and(|text| text.ends_with("# a key\n")))
        });
        kill(check.pid(), signal).unwrap();
        let status = check.child().wait().unwrap();
        assert_eq!(status.signal(), Some(signal as i32));
        wait_for("the copy to be gone", PATIENCE, || files().count() == 0);
    }
}

#[test]
fn a_check_of_a_running_one_says_the_same() {
    let known = Known::new();
    let drainit = Drainit::ready(&["--exclude-listener", "metrics"], &known.config);
    let told = known.of(&support::envoy());
    // Without what the excluded listener does.
    let mut expected = vec![format!("timeout [http ({})]", known.config.http)];
    expected.extend(told[1..told.len() - 1].iter().cloned());
    for pid in [drainit.pid(), drainit.envoy_pid()] {
        let mut command = Command::new(support::drainit());
        command.args(["check", "--json", "--pid", &pid.to_string()]);
        let (code, out, err) = run_command(&mut command);
        let answer: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{err}"));
        assert_eq!((code, found(&answer)), (1, expected.clone()), "{answer:#}");
        assert_eq!(answer["listeners"][3]["excluded"], true);
    }
    // Where no drainit has asked for its version.
    let alone = Known::new();
    let mut command = Command::new(support::envoy());
    let envoy = Process::spawn(command.args(alone.config.arguments()));
    let admin = alone.config.admin.clone().unwrap();
    wait_for("its admin interface", PATIENCE, || {
        admin
            .request("GET", "/ready", PATIENCE)
            .is_ok_and(|answer| answer.status == 200)
    });
    let mut command = Command::new(support::drainit());
    command.args(["check", "--json", "--admin-address", &admin.text()]);
    let (_, out, err) = run_command(command.args(["--pid", &envoy.pid().to_string()]));
    let answer: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{err}"));
    assert_eq!(answer["envoy_version"], support::version(&support::envoy()));
    assert_eq!(found(&answer), alone.of(&support::envoy()), "{answer:#}");
    let usage = run_command(Command::new(support::drainit()).arg("check"));
    assert_eq!((usage.0, usage.2.lines().count()), (2, 1));
}
