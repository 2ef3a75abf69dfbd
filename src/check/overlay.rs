//! The command line of a candidate: the operator's, without what would touch another Envoy, and with
//! an admin interface of its own laid over the configuration.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::signal::SigSet;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, pipe2, read, setsid};
use serde_json::Value;

use crate::certificates::sds::Secret;
use crate::envoy::flags;

/// Flags with a value that say where and how loud it logs, and who else shares memory with it.
const APART: [&str; 12] = [
    "--log-path",
    "--log-level",
    "-l",
    "--component-log-level",
    "--log-format",
    "--mode",
    "--admin-address-path",
    "--base-id",
    "--base-id-path",
    "--restart-epoch",
    "--socket-path",
    "--socket-mode",
];

/// Flags of the kind of [`APART`] that have no value.
const APART_SWITCHES: [&str; 4] = [
    "--disable-hot-restart",
    "--use-dynamic-base-id",
    "--skip-hot-restart-on-no-parent",
    "--skip-hot-restart-parent-stats",
];

const YAML: &str = "--config-yaml";

/// The flags that name the configuration's file.
const CONFIG: [&str; 2] = ["-c", "--config-path"];

/// The configuration's file.
pub fn config_file(args: &[OsString]) -> Option<&OsStr> {
    CONFIG.into_iter().find_map(|flag| flags::value(args, flag))
}

/// The command line of an Envoy that has nothing to do with any other.
pub fn apart(args: &[OsString]) -> Vec<OsString> {
    let mut args = flags::without(args, &APART, &APART_SWITCHES);
    args.push("--disable-hot-restart".into());
    args
}

/// The command line of an Envoy apart, with its admin interface at this name in the abstract
/// namespace. `open`: it answers everything. `held`: it never comes to be live, and so to listen:
/// it waits for a cluster of which nobody tells the endpoints (`initial_fetch_timeout` 0).
///
/// # Errors
/// One line, when the configuration cannot be laid under that.
pub fn lay(args: &[OsString], name: &str, open: bool, held: bool) -> Result<Vec<OsString>, String> {
    let open = if open {
        r#","allow_paths":[{"prefix":"/"}]"#
    } else {
        ""
    };
    let ours = format!(r#"{{"admin":{{"address":{{"pipe":{{"path":"@{name}"}}}}{open}}}}}"#);
    let read = |text: &str| serde_json::from_str::<Value>(text).ok();
    let mut over = read(&ours).unwrap_or_default();
    if held {
        merge(&mut over, read(HOLD).unwrap_or_default());
    }
    let mut args = apart(args);
    if let Some(own) = flags::value(&args, YAML) {
        // Envoy takes the flag once.
        let own = own.to_str().and_then(read);
        let own = own.ok_or("its --config-yaml is no JSON: write it as JSON, or as a file")?;
        let ours = std::mem::replace(&mut over, own);
        merge(&mut over, ours);
        args = flags::without(&args, &[YAML], &[]);
    }
    args.extend([YAML.into(), over.to_string().into()]);
    Ok(args)
}

/// A cluster that waits for ever, and the one that it waits for. xDS is for those who have names;
/// `--service-node` wins.
const HOLD: &str = r#"{"node":{"id":"check","cluster":"check"},"static_resources":{"clusters":[
    {"name":"drainit-check","type":"EDS","eds_cluster_config":{"eds_config":{
        "resource_api_version":"V3","initial_fetch_timeout":"0s","api_config_source":{
            "api_type":"GRPC","transport_api_version":"V3",
            "grpc_services":[{"envoy_grpc":{"cluster_name":"drainit-nowhere"}}]}}}},
    {"name":"drainit-nowhere","type":"STATIC","typed_extension_protocol_options":{
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions":{
            "@type":"type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config":{"http2_protocol_options":{}}}},
     "load_assignment":{"cluster_name":"drainit-nowhere","endpoints":[{"lb_endpoints":[{"endpoint":{
        "address":{"socket_address":{"address":"127.0.0.1","port_value":1}}}}]}]}}]}}"#;

/// As protobuf merges: lists grow, objects are merged, anything else is replaced.
fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(from)) => into.extend(from),
        (into, from) => *into = from,
    }
}

/// Files that stand in for those that are only there while drainit runs, and for the configuration
/// that names them; gone with this.
#[derive(Debug)]
pub struct Stage {
    dir: PathBuf,
    _sweeper: Sweeper,
    /// What stands for what: the stand-in's path, and the path that it stands for.
    pairs: Vec<(String, String)>,
}

impl Stage {
    /// Sets it for this command line, which is changed to go by it. None where nothing is missing. A
    /// configuration that is on the command line alone becomes a file.
    ///
    /// # Errors
    /// One line, when there is no place for such files.
    pub fn set(args: &mut Vec<OsString>, written: &[Secret]) -> Result<Option<Stage>, String> {
        let file = config_file(args).map(PathBuf::from);
        let yaml = flags::value(args, YAML).map(OsStr::to_owned);
        let mut text = match (&file, &yaml) {
            (Some(file), _) => fs::read_to_string(file).unwrap_or_default(),
            (None, Some(yaml)) => yaml.to_string_lossy().into_owned(),
            (None, None) => return Ok(None),
        };
        let mut missing = Vec::new();
        for one in written {
            if one.path.exists() {
                continue;
            }
            let full = one.path.to_string_lossy().into_owned();
            let here = std::env::current_dir().unwrap_or_default();
            let from_here = one.path.strip_prefix(here).map(Path::to_string_lossy);
            let from_here = from_here.unwrap_or_default().into_owned();
            let mut spellings = [full, format!("./{from_here}"), from_here].into_iter();
            missing.extend(spellings.find(|path| !path.is_empty() && text.contains(path)));
        }
        let bare = without_modes(&text);
        if missing.is_empty() && bare == text && file.is_some() {
            return Ok(None);
        }
        text = bare;
        let dir = scratch().ok_or("there is no place for files: /tmp or TMPDIR")?;
        let sweeper = Sweeper::start(&dir).map_err(|error| {
            let _ = fs::remove_dir(&dir);
            error.to_string()
        })?;
        let mut stage = Stage {
            dir,
            _sweeper: sweeper,
            pairs: Vec::new(),
        };
        for path in missing {
            let stand_in = stage.write(&format!("{}.json", stage.pairs.len()), NOTHING)?;
            text = text.replace(path.as_str(), &stand_in);
            stage.pairs.push((stand_in, path));
        }
        let name = file.as_deref().and_then(Path::file_name);
        let name = name.unwrap_or(OsStr::new("envoy.yaml")).to_string_lossy();
        let config = stage.write(&name, &text)?;
        let flags = if file.is_some() { &CONFIG[..] } else { &[YAML] };
        *args = flags::without(args, flags, &[]);
        args.extend(["-c".into(), config.into()]);
        Ok(Some(stage))
    }

    /// A text with the paths that were meant.
    pub fn unmask(&self, mut text: String) -> String {
        for (stand_in, path) in &self.pairs {
            text = text.replace(stand_in.as_str(), path);
        }
        text
    }

    fn write(&self, name: &str, text: &str) -> Result<String, String> {
        let path = self.dir.join(name);
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(path.display().to_string())
    }
}

/// The configuration with the mode of every socket's file at 0, which is none: the overlay's address
/// is merged into a path with a mode, and an abstract one must not have any.
fn without_modes(text: &str) -> String {
    let mut changed = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("pipe") {
        let (before, after) = rest.split_at(at + "pipe".len());
        changed.push_str(before);
        rest = after;
        let Some(mode) = rest.find("mode").filter(|mode| *mode < NEAR) else {
            continue;
        };
        let (before, after) = rest.split_at(mode + "mode".len());
        let value = after.trim_start_matches(['"', ':', ' ']);
        let behind = value.trim_start_matches(|c: char| c.is_ascii_alphanumeric());
        if value.starts_with(|c: char| c.is_ascii_digit()) {
            changed.push_str(before);
            changed.push_str(after.get(..after.len() - value.len()).unwrap_or_default());
            changed.push('0');
            rest = behind;
        }
    }
    changed + rest
}

/// The longest way from `pipe` to its mode: a path has 107 bytes.
const NEAR: usize = 200;

/// A child that removes a directory once we are gone, by Ctrl-C or SIGKILL too: there may be keys in
/// it.
#[derive(Debug)]
struct Sweeper {
    pid: Pid,
    /// Our side of a pipe: when we are gone, the child reads the end of file.
    pipe: Option<OwnedFd>,
}

impl Sweeper {
    fn start(dir: &Path) -> io::Result<Sweeper> {
        let (end, pipe) = pipe2(OFlag::O_CLOEXEC)?;
        // SAFETY: a check has one thread, whose copy may do what we may.
        if let ForkResult::Parent { child: pid } = unsafe { fork() }? {
            let pipe = Some(pipe);
            return Ok(Sweeper { pid, pipe });
        }
        drop(pipe);
        // It outlives what a terminal, or who stops all of a unit, sends.
        let _ = SigSet::all().thread_block();
        let _ = setsid();
        let _ = read(&end, &mut [0]);
        let _ = fs::remove_dir_all(dir);
        // SAFETY: it ends this copy, and nothing of ours.
        unsafe { libc::_exit(0) }
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        self.pipe = None;
        let _ = waitpid(self.pid, None);
    }
}

/// An SDS file without a secret.
const NOTHING: &str = r#"{"resources":[]}"#;

/// A new directory of our own.
fn scratch() -> Option<PathBuf> {
    let places = [std::env::temp_dir(), "/dev/shm".into(), "/run".into()];
    let name = crate::process::mute::name_of_answering();
    places.into_iter().find_map(|place| {
        use std::os::unix::fs::DirBuilderExt;
        let dir = place.join(&name);
        fs::DirBuilder::new().mode(0o700).create(&dir).ok()?;
        Some(dir)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Vec<OsString> {
        text.split('|').map(OsString::from).collect()
    }

    #[test]
    fn what_would_touch_another_envoy_is_left_out() {
        let args = line("-c|x.yaml|--log-path|/log|--base-id 7|-l|off|--concurrency|2|--log-pathx");
        let expected = line("-c|x.yaml|--concurrency|2|--log-pathx|--disable-hot-restart");
        assert_eq!(apart(&args), expected);
        assert_eq!(
            apart(&line("-c|x|--use-dynamic-base-id")),
            line("-c|x|--disable-hot-restart")
        );
    }

    #[test]
    fn an_overlay_is_merged_with_the_one_that_is_there() {
        let own =
            r#"{"admin":{"profile_path":"/p"},"static_resources":{"clusters":[{"name":"a"}]}}"#;
        let args = lay(&line(&format!("-c|x|--config-yaml|{own}")), "n", true, true).unwrap();
        assert_eq!(args.iter().filter(|arg| *arg == YAML).count(), 1);
        let text = args.last().unwrap().to_str().unwrap();
        let over: Value = serde_json::from_str(text).unwrap();
        assert_eq!(over["admin"]["profile_path"], "/p");
        assert_eq!(over["admin"]["address"]["pipe"]["path"], "@n");
        assert_eq!(
            over["static_resources"]["clusters"]
                .as_array()
                .unwrap()
                .len(),
            3
        );
        assert!(lay(&line("-c|x|--config-yaml|admin: {}"), "n", false, false).is_err());
    }

    #[test]
    fn a_socket_has_no_mode_in_the_copy() {
        for (text, expected) in [
            (
                "pipe: { path: /a, mode: 0644 }",
                "pipe: { path: /a, mode: 0 }",
            ),
            (
                r#""pipe":{"mode":420,"path":"/a"}"#,
                r#""pipe":{"mode":0,"path":"/a"}"#,
            ),
            ("pipe: {path: /a}\nmode: x", "pipe: {path: /a}\nmode: x"),
            ("pipeline, mode", "pipeline, mode"),
        ] {
            assert_eq!(without_modes(text), expected);
        }
    }

    #[test]
    fn what_drainit_will_write_has_a_stand_in_until_it_is_there() {
        let dir = scratch().unwrap();
        let config = dir.join("a.yaml");
        let path = dir.join("sds/www.json");
        fs::write(&config, format!("path: {}\n", path.display())).unwrap();
        let secret = Secret {
            name: "www".into(),
            kind: crate::certificates::sds::SecretKind::Certificate,
            path: path.clone(),
        };
        let mut args = line(&format!("-c|{}|-l|off", config.display()));
        let stage = Stage::set(&mut args, std::slice::from_ref(&secret))
            .unwrap()
            .unwrap();
        let copy = PathBuf::from(args.last().unwrap());
        let text = fs::read_to_string(&copy).unwrap();
        assert_eq!(copy.file_name().unwrap(), "a.yaml");
        assert!(!text.contains("sds/www.json"), "{text}");
        assert!(stage.unmask(text).contains(&path.display().to_string()));
        drop(stage);
        assert!(!copy.exists());
        fs::create_dir(dir.join("sds")).unwrap();
        fs::write(&path, NOTHING).unwrap();
        let mut args = line(&format!("-c|{}", config.display()));
        assert!(Stage::set(&mut args, &[secret]).unwrap().is_none());
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_file_that_is_named_from_here_has_a_stand_in_too() {
        let dir = scratch().unwrap();
        let config = dir.join("a.yaml");
        for path in ["no/www.json", "./no/www.json"] {
            fs::write(&config, format!("path: {path}\n")).unwrap();
            let secret = Secret {
                name: "www".into(),
                kind: crate::certificates::sds::SecretKind::Certificate,
                path: std::env::current_dir().unwrap().join("no/www.json"),
            };
            let mut args = line(&format!("-c|{}", config.display()));
            let stage = Stage::set(&mut args, &[secret]).unwrap().unwrap();
            let text = fs::read_to_string(args.last().unwrap()).unwrap();
            assert!(text.starts_with("path: /"), "{text}");
            assert_eq!(stage.unmask(text), format!("path: {path}\n"));
        }
        fs::remove_dir_all(dir).unwrap();
    }
}
