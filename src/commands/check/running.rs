//! The Envoy of a running drainit.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::geteuid;
use serde_json::Value;

use crate::check::candidate::DUMP;
use crate::check::config::Config;
use crate::check::facts::{AdminSetting, Facts};
use crate::check::host;
use crate::client::{Address, Method, Peer, fetch_from};
use crate::commands::{find, pid_in, read_status};
use crate::envoy::kin;
use crate::options::{self, Command, Options};

/// What is known of the Envoy that runs under the drainit with this pid, or has this pid itself.
/// Without a drainit, `given` says where its admin interface is.
///
/// # Errors
/// One line, when there is neither.
pub fn facts(options: Options) -> Result<Facts, String> {
    let pid = options.pid.unwrap_or_default();
    let given = options.admin_address.clone();
    let mut facts = Facts::default();
    let found = drainit_of(options);
    let mut first = false;
    let (envoy, told) = match &found {
        Ok(status) => {
            let drainit = pid_in(status).ok_or("that drainit runs in another container")?;
            first = drainit == 1;
            read_command_line(drainit, &mut facts);
            let text = |path| status.pointer(path).and_then(Value::as_str);
            facts.version = text("/envoy/version").map(str::to_owned);
            let envoy = status.pointer("/envoy/pid").and_then(Value::as_i64);
            let envoy = envoy.and_then(|envoy| i32::try_from(envoy).ok());
            (envoy, text("/admin/address").map(str::to_owned))
        }
        Err(why) if given.is_none() || !Path::new(&format!("/proc/{pid}")).exists() => {
            return Err(why.clone());
        }
        Err(_) => {
            facts.args = kin::arguments(pid);
            (Some(pid), None)
        }
    };
    let told = told.map(|told| told.parse().unwrap_or_else(|_| Address::Unix(told.into())));
    let address = given.or(told);
    let process = envoy.map_or("self".into(), |envoy| envoy.to_string());
    let variables = variables(&process);
    facts.host = host::look(&process, first, &|name| {
        value_of(&variables, name).is_some()
    });
    let is_its_user = is_its_user(&process);
    if is_its_user && has_our_root(&process) {
        facts.certificates = host::certificates(&facts.options);
    } else if facts.options.has_certificates() {
        let what =
            "the certificate files: Envoy has another root directory or user than this check";
        facts.unseen.push(what.into());
    }
    if !is_its_user && facts.host.no_shared_memory.take().is_some() && facts.options.hot_restart {
        facts
            .unseen
            .push("/dev/shm: Envoy has another user than this check".into());
    }
    let Some(address) = address else {
        facts.unread = Some("Envoy has told no admin address".into());
        return Ok(facts);
    };
    facts.admin = AdminSetting::At(address.clone());
    let answer = fetch_from(Peer::Anyone, &address, Method::Get, "/config_dump", DUMP);
    let dump = match answer {
        Ok((200, body)) => Config::of_dump(&body),
        Ok((status, _)) => {
            facts.unread = Some(format!("/config_dump answers with {status}"));
            return Ok(facts);
        }
        Err(why) => {
            facts.unread = Some(why);
            return Ok(facts);
        }
    };
    match dump {
        Some(config) => {
            // drainit asks for it a moment after its Envoy is live.
            facts.version = facts.version.or_else(|| config.version());
            facts.config = Some(config);
        }
        None => facts.unread = Some("/config_dump has no bootstrap in it".into()),
    }
    Ok(facts)
}

/// Whether a path means to this process what it means to that one.
fn has_our_root(process: &str) -> bool {
    let root = |path: &str| fs::metadata(path).ok().map(|root| (root.dev(), root.ino()));
    let there = root(&format!("/proc/{process}/root/"));
    there.is_some() && there == root("/")
}

/// Whether what that process may look at may be looked at here.
fn is_its_user(process: &str) -> bool {
    let user = geteuid();
    let entry = fs::metadata(format!("/proc/{process}"));
    user.is_root() || entry.is_ok_and(|entry| entry.uid() == user.as_raw())
}

/// How many processes above an Envoy may stand between it and its drainit.
const ABOVE: usize = 8;

/// The status of the drainit with this pid, or of the one that has started it.
fn drainit_of(mut options: Options) -> Result<Value, String> {
    let mut first = None;
    for _ in 0..ABOVE {
        let found = find::target(&options);
        match found.and_then(|target| read_status(&target, true)) {
            Ok(status) => return Ok(status),
            Err(why) => {
                first.get_or_insert(why);
            }
        }
        let parent = options.pid.and_then(parent_of).filter(|parent| *parent > 0);
        let Some(parent) = parent else {
            break;
        };
        options.pid = Some(parent);
    }
    Err(first.unwrap_or_default())
}

fn parent_of(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    parent.trim().parse().ok()
}

/// The variables of a process, as far as we may see them.
fn variables(process: &str) -> Vec<(String, OsString)> {
    let all = fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
    let mut variables = Vec::new();
    for entry in all.split(|byte| *byte == 0) {
        let mut halves = entry.splitn(2, |byte| *byte == b'=');
        if let (Some(name), Some(value)) = (halves.next(), halves.next()) {
            let name = String::from_utf8_lossy(name).into_owned();
            variables.push((name, OsStr::from_bytes(value).to_owned()));
        }
    }
    variables
}

fn value_of(variables: &[(String, OsString)], name: &str) -> Option<OsString> {
    let mut all = variables.iter();
    all.find(|(known, _)| known == name)
        .map(|(_, value)| value.clone())
}

/// The options that a drainit was started with, and its Envoy's arguments.
fn read_command_line(pid: i32, facts: &mut Facts) {
    let variables = variables(&pid.to_string());
    let parsed = options::parse(kin::arguments(pid), |name| value_of(&variables, name));
    match parsed {
        Ok(Command::Run(options, line)) => {
            facts.options = *options;
            facts.args = line.into_iter().skip(1).collect();
        }
        _ => facts
            .unseen
            .push(format!("the options of process {pid}: they cannot be read")),
    }
    if variables.is_empty() {
        let what = format!("the environment of process {pid}: it may not be read by this user");
        facts.unseen.push(what);
    }
    facts.strays = options::stray_variables(variables);
}
