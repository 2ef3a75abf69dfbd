//! `drainit bootstrap`: writes a configuration for an Envoy that has its listeners and clusters
//! from an xDS server, with the flags and the files of `contour bootstrap`.
//!
//! Two things are other than Contour's. All resources come over one aggregated stream (ADS),
//! which every control plane serves. And the certificates need not be there yet: `drainit` waits
//! for them.

mod config;

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::certificates::publish::Target;
use crate::certificates::read::Files;
use lexopt::prelude::*;

/// How `drainit bootstrap --help` begins.
const USAGE: &str = "\
Usage: drainit bootstrap [OPTIONS] PATH

Writes an Envoy configuration to PATH ('-' for standard output): listeners and
clusters from an xDS server, with mutual TLS. Takes the flags of `contour
bootstrap`.

Options:
";

/// The options of `drainit bootstrap`, for people.
pub const OPTIONS: &str = "      --xds-address ADDR       The xDS server: a name or an IP address
                               [127.0.0.1]
      --xds-port PORT          Its port [8001]
      --envoy-cafile FILE      CA of the xDS server's certificate
                               [$ENVOY_CAFILE]
      --envoy-cert-file FILE   Envoy's certificate [$ENVOY_CERT_FILE]
      --envoy-key-file FILE    Its key [$ENVOY_KEY_FILE]
                               All three, or none: then without TLS
      --resources-dir DIR      Where the SDS files go, DIR/sds/*.json, for
                               drainit to keep fresh. Without it the certificates
                               are read once
      --admin-address ADDR     Envoy's admin interface: a unix socket's path, or
                               an IP address with --admin-port
                               [/admin/admin.sock]
      --admin-port PORT        Its port, where the address is not a path [9001]
      --namespace NAME         For the clusters' names in statistics, and Envoy's
                               node.cluster; its node.id is $ENVOY_POD_NAME, else
                               the host's name [$CONTOUR_NAMESPACE, else
                               projectcontour]
      --dns-lookup-family F    How the xDS server's name is looked up: auto, v4,
                               v6 or all [auto]
      --overload-max-heap N    Refuse requests when Envoy's heap nears N bytes; 0
                               for no limit [0]
      --overload-downstream-max-conn N
                               The most connections that Envoy accepts; 0 for no
                               limit [0]
      --xds-resource-version V Only v3 is there [v3]
  -h, --help                   Print this
";

/// Why there is no configuration, in one line.
#[derive(Debug)]
pub enum Error {
    /// The command line is wrong: exit code 2.
    Usage(String),
    /// Something cannot be read or written: exit code 1.
    Io(String),
}

impl Error {
    /// drainit's exit code.
    pub fn code(&self) -> u8 {
        match self {
            Error::Usage(_) => 2,
            Error::Io(_) => 1,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Usage(why) | Error::Io(why) => out.write_str(why),
        }
    }
}

impl std::error::Error for Error {}

impl From<lexopt::Error> for Error {
    fn from(error: lexopt::Error) -> Error {
        Error::Usage(format!(
            "bootstrap: {error}: see `drainit bootstrap --help`"
        ))
    }
}

/// What is to be written.
#[derive(Clone, Debug)]
struct Options {
    path: PathBuf,
    resources: Option<PathBuf>,
    admin: config::Admin,
    xds_address: String,
    xds_port: u16,
    tls: Option<Files>,
    namespace: String,
    node: String,
    dns_family: &'static str,
    max_heap: u64,
    max_connections: u64,
}

/// Writes what these arguments (without the program's and the command's name) ask for.
///
/// # Errors
/// When they are wrong, or a file cannot be read or written.
pub fn run(args: impl Iterator<Item = OsString>) -> Result<(), Error> {
    match parse(args, |name| env::var_os(name))? {
        Some(options) => write(&options),
        None => print([USAGE, OPTIONS].concat().as_bytes()),
    }
}

/// The options; none where help is asked for. An empty value is none, as in Contour.
fn parse(
    args: impl Iterator<Item = OsString>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Option<Options>, Error> {
    let path = |name: &str| variable(name).map(PathBuf::from);
    let (mut ca, mut cert) = (path("ENVOY_CAFILE"), path("ENVOY_CERT_FILE"));
    let (mut key, mut resources, mut to) = (path("ENVOY_KEY_FILE"), None, None);
    let namespace = variable("CONTOUR_NAMESPACE").filter(|name| !name.is_empty());
    let mut namespace = namespace
        .unwrap_or_else(|| "projectcontour".into())
        .string()?;
    let (mut admin_address, mut admin_port) = (String::new(), 0);
    let (mut xds_address, mut xds_port) = (String::new(), 0);
    let (mut max_heap, mut max_connections) = (0, 0);
    let mut family = String::new();
    let mut args = lexopt::Parser::from_args(args);
    while let Some(arg) = args.next()? {
        match arg {
            Long("resources-dir") => resources = Some(PathBuf::from(args.value()?)),
            Long("admin-address") => admin_address = args.value()?.string()?,
            Long("admin-port") => admin_port = number(&mut args, "admin-port")?,
            Long("xds-address") => xds_address = args.value()?.string()?,
            Long("xds-port") => xds_port = number(&mut args, "xds-port")?,
            Long("envoy-cafile") => ca = Some(PathBuf::from(args.value()?)),
            Long("envoy-cert-file") => cert = Some(PathBuf::from(args.value()?)),
            Long("envoy-key-file") => key = Some(PathBuf::from(args.value()?)),
            Long("namespace") => namespace = args.value()?.string()?,
            Long("dns-lookup-family") => family = args.value()?.string()?,
            Long("overload-max-heap") => max_heap = number(&mut args, "overload-max-heap")?,
            // Contour 1.30 has the flag with a letter missing.
            Long("overload-downstream-max-conn" | "overload-dowstream-max-conn") => {
                max_connections = number(&mut args, "overload-downstream-max-conn")?;
            }
            Long("xds-resource-version") => match args.value()?.string()?.as_str() {
                "v3" => {}
                other => {
                    let why = format!("bootstrap: --xds-resource-version is v3, not {other:?}");
                    return Err(Error::Usage(why));
                }
            },
            Short('h') | Long("help") => return Ok(None),
            Value(value) if to.is_none() => to = Some(PathBuf::from(value)),
            other => return Err(other.unexpected().into()),
        }
    }
    let given = |path: &Option<PathBuf>| path.as_ref().is_some_and(|path| path != Path::new(""));
    let tls = match [&ca, &cert, &key].map(given) {
        [true, true, true] => ca.zip(cert).zip(key).map(|((ca, cert), key)| Files {
            cert,
            key,
            ca: Some(ca),
        }),
        [false, false, false] => None,
        given => {
            let flags = ["--envoy-cafile", "--envoy-cert-file", "--envoy-key-file"];
            let missing = flags.iter().zip(given).filter(|(_, given)| !given);
            let missing: Vec<_> = missing.map(|(flag, _)| *flag).collect();
            let why = format!(
                "bootstrap: {} missing: all three, or none",
                missing.join(" and ")
            );
            return Err(Error::Usage(why));
        }
    };
    let dns_family = match family.as_str() {
        "" | "auto" => "AUTO",
        "v4" => "V4_ONLY",
        "v6" => "V6_ONLY",
        "all" => "ALL",
        other => {
            let why =
                format!("bootstrap: --dns-lookup-family is auto, v4, v6 or all, not {other:?}");
            return Err(Error::Usage(why));
        }
    };
    let to = to.filter(|path| path != Path::new(""));
    let missing = || Error::Usage("bootstrap: PATH missing, where to write ('-': stdout)".into());
    Ok(Some(Options {
        path: to.ok_or_else(missing)?,
        resources: resources.filter(|path| path != Path::new("")),
        admin: config::Admin::new(or(admin_address, "/admin/admin.sock"), admin_port),
        xds_address: or(xds_address, "127.0.0.1"),
        xds_port: if xds_port == 0 { 8001 } else { xds_port },
        tls,
        namespace,
        node: node_id(&variable),
        dns_family,
        max_heap,
        max_connections,
    }))
}

/// A flag's value, which must be a whole number, and not too large a one.
fn number<T: FromStr>(args: &mut lexopt::Parser, flag: &str) -> Result<T, Error> {
    let value = args.value()?.string()?;
    value.parse().map_err(|_| {
        let bits = 8 * size_of::<T>();
        Error::Usage(format!(
            "bootstrap: --{flag} is a number of {bits} bits, not {value:?}"
        ))
    })
}

/// Who Envoy says that it is, where its command line has no `--service-node`: SDS wants to know.
/// An init container has the pod's name for a host name.
fn node_id(variable: impl Fn(&str) -> Option<OsString>) -> String {
    let pod = variable("ENVOY_POD_NAME").and_then(|name| name.into_string().ok());
    let host = || fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = pod.or_else(host).unwrap_or_default();
    or(name.trim().to_owned(), "envoy")
}

fn or(value: String, default: &str) -> String {
    if value.is_empty() {
        default.to_owned()
    } else {
        value
    }
}

fn write(options: &Options) -> Result<(), Error> {
    let transport = match (&options.tls, &options.resources) {
        (None, _) => None,
        (Some(files), None) => Some(config::tls_by_file(files)?),
        (Some(files), Some(resources)) => {
            let target = Target::contour(resources);
            write_secrets(&target, files)?;
            Some(config::tls_by_sds(&target)?)
        }
    };
    // Contour's own form: indented, for people.
    let mut text = serde_json::to_string_pretty(&config::bootstrap(options, transport))
        .map_err(|error| Error::Io(format!("bootstrap: {error}")))?;
    text.push('\n');
    if options.path == Path::new("-") {
        return print(text.as_bytes());
    }
    write_file(&options.path, text.as_bytes())
}

/// The SDS files, which name the certificates' files: there is no secret in them, and without
/// `drainit` Envoy sees at least some changes by itself. `drainit` takes them over.
fn write_secrets(target: &Target, files: &Files) -> Result<(), Error> {
    let [cert, key] = [utf8(&files.cert)?, utf8(&files.key)?];
    let ca = files.ca.as_deref().map_or(Ok(""), utf8)?;
    for (secret, response) in target.by_filename(cert, key, ca) {
        let written = target.write(secret, &response);
        written.map_err(|error| io_error(&secret.path, &error))?;
    }
    Ok(())
}

/// Writes a file that everybody can read: an init container may run as another user than Envoy.
fn write_file(path: &Path, text: &[u8]) -> Result<(), Error> {
    let failed = |error: io::Error| io_error(path, &error);
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(failed)?;
    }
    fs::write(path, text).map_err(failed)
}

/// A path for a JSON file, which has no others.
fn utf8(path: &Path) -> Result<&str, Error> {
    let why = || Error::Usage(format!("bootstrap: {} is not UTF-8", path.display()));
    OsStr::to_str(path.as_os_str()).ok_or_else(why)
}

fn print(text: &[u8]) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text).and_then(|()| out.flush());
    written.map_err(|error| io_error(Path::new("stdout"), &error))
}

fn io_error(path: &Path, error: &io::Error) -> Error {
    Error::Io(format!("bootstrap: {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn options(args: &str, variables: &[(&str, &str)]) -> Result<Options, String> {
        let args = args.split_whitespace().map(OsString::from);
        let variable = |name: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| OsString::from(value))
        };
        match parse(args, variable) {
            Ok(Some(options)) => Ok(options),
            Ok(None) => Err("help".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn bootstrap(args: &str) -> Value {
        config::bootstrap(&options(args, &[]).unwrap(), None)
    }

    #[test]
    fn contours_command_line_is_taken() {
        let args = "/config/envoy.json --xds-address=contour --xds-port=8002 \
            --xds-resource-version=v3 --resources-dir=/config/resources \
            --envoy-cafile=/certs/ca.crt --envoy-cert-file=/certs/tls.crt \
            --envoy-key-file=/certs/tls.key --overload-max-heap=0";
        let variables = [("CONTOUR_NAMESPACE", "here"), ("ENVOY_POD_NAME", "me")];
        let options = options(args, &variables).unwrap();
        assert_eq!(options.path, Path::new("/config/envoy.json"));
        assert_eq!(
            options.resources.as_deref(),
            Some(Path::new("/config/resources"))
        );
        let config = config::bootstrap(&options, None);
        assert_eq!(
            config["node"],
            serde_json::json!({ "id": "me", "cluster": "here" })
        );
        let contour = &config["static_resources"]["clusters"][0];
        assert_eq!(contour["alt_stat_name"], "here_contour_8002");
        assert_eq!(contour["type"], "STRICT_DNS");
        assert_eq!(config["overload_manager"], Value::Null);
        let admin = &config["admin"]["address"]["pipe"];
        assert_eq!(admin["path"], "/admin/admin.sock");
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line() {
        for (args, why) in [
            ("", "bootstrap: PATH missing, where to write ('-': stdout)"),
            (
                "a b",
                "bootstrap: unexpected argument \"b\": see `drainit bootstrap --help`",
            ),
            (
                "a --nope",
                "bootstrap: invalid option '--nope': see `drainit bootstrap --help`",
            ),
            (
                "a --xds-port 70000",
                "bootstrap: --xds-port is a number of 16 bits, not \"70000\"",
            ),
            (
                "a --xds-resource-version v2",
                "bootstrap: --xds-resource-version is v3, not \"v2\"",
            ),
            (
                "a --dns-lookup-family v5",
                "bootstrap: --dns-lookup-family is auto, v4, v6 or all, not \"v5\"",
            ),
            (
                "a --envoy-cafile x",
                "bootstrap: --envoy-cert-file and --envoy-key-file missing: all three, or none",
            ),
        ] {
            assert_eq!(options(args, &[]).unwrap_err(), why, "{args}");
        }
    }

    #[test]
    fn the_environment_is_read_and_the_command_line_wins() {
        let variables = [
            ("ENVOY_CAFILE", "/e/ca"),
            ("ENVOY_CERT_FILE", "/e/cert"),
            ("ENVOY_KEY_FILE", "/e/key"),
        ];
        let tls = options("- --envoy-key-file /c/key", &variables)
            .unwrap()
            .tls
            .unwrap();
        assert_eq!(tls.cert, Path::new("/e/cert"));
        assert_eq!(tls.key, Path::new("/c/key"));
    }

    #[test]
    fn an_address_may_be_a_name_an_ip_or_a_socket() {
        let config = bootstrap("- --xds-address ::1 --admin-address 127.0.0.1 --admin-port 9002");
        let contour = &config["static_resources"]["clusters"][0];
        assert_eq!(contour["type"], "STATIC");
        let admin = &config["admin"]["address"]["socket_address"];
        assert_eq!(admin["address"], "127.0.0.1");
        assert_eq!(admin["port_value"], 9002);
    }

    #[test]
    fn limits_become_an_overload_manager() {
        let config = bootstrap("- --overload-max-heap 2147483648 --overload-downstream-max-conn 9");
        let manager = &config["overload_manager"];
        let monitors = manager["resource_monitors"].as_array().unwrap();
        assert_eq!(monitors.len(), 2);
        assert_eq!(
            monitors[0]["typed_config"]["max_heap_size_bytes"],
            2_147_483_648u64
        );
        assert_eq!(manager["actions"].as_array().unwrap().len(), 2);
    }
}
