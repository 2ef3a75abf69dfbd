//! `drainit bootstrap`: writes a configuration for an Envoy that has its listeners and clusters
//! from an xDS server, with the flags and the files of `contour bootstrap`.
//!
//! Two things are other than Contour's. All resources come over one aggregated stream (ADS),
//! which every control plane serves. And the certificates need not be there yet: `drainit` waits
//! for them.

mod config;

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::certificates::publish::SdsTarget;
use crate::options::bootstrap::Bootstrap;

/// Writes what these options ask for.
///
/// # Errors
/// One line, when a file cannot be written.
pub fn run(options: &Bootstrap) -> Result<(), String> {
    let node = node_id(|name| env::var_os(name));
    let transport = match (&options.tls, &options.resources) {
        (None, _) => None,
        (Some(files), None) => Some(config::tls_by_file(files)?),
        (Some(files), Some(resources)) => {
            let target = SdsTarget::contour(resources);
            write_secrets(&target, files)?;
            Some(config::tls_by_sds(&target)?)
        }
    };
    // Contour's own form: indented, for people.
    let text = format!("{:#}\n", config::bootstrap(options, &node, transport));
    if options.path == Path::new("-") {
        return print(text.as_bytes());
    }
    write_file(&options.path, text.as_bytes())
}

/// Who Envoy says that it is, where its command line has no `--service-node`: SDS wants to know.
/// An init container has the pod's name for a host name.
fn node_id(variable: impl Fn(&str) -> Option<OsString>) -> String {
    let pod = variable("ENVOY_POD_NAME").and_then(|name| name.into_string().ok());
    let host = || fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = pod.or_else(host).unwrap_or_default();
    match name.trim() {
        "" => "envoy".into(),
        name => name.into(),
    }
}

/// The SDS files, which name the certificates' files: there is no secret in them, and without
/// `drainit` Envoy sees at least some changes by itself. `drainit` takes them over.
fn write_secrets(target: &SdsTarget, [cert, key, ca]: &[PathBuf; 3]) -> Result<(), String> {
    for (secret, response) in target.by_filename(utf8(cert)?, utf8(key)?, utf8(ca)?) {
        let written = target.write(secret, &response);
        written.map_err(|error| io_error(&secret.path, &error))?;
    }
    Ok(())
}

/// Writes a file that everybody can read: an init container may run as another user than Envoy.
fn write_file(path: &Path, text: &[u8]) -> Result<(), String> {
    let failed = |error: io::Error| io_error(path, &error);
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(failed)?;
    }
    fs::write(path, text).map_err(failed)
}

/// A path for a JSON file, which has no others.
fn utf8(path: &Path) -> Result<&str, String> {
    let why = || format!("bootstrap: {} is not UTF-8", path.display());
    OsStr::to_str(path.as_os_str()).ok_or_else(why)
}

fn print(text: &[u8]) -> Result<(), String> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text).and_then(|()| out.flush());
    written.map_err(|error| io_error(Path::new("stdout"), &error))
}

fn io_error(path: &Path, error: &io::Error) -> String {
    format!("bootstrap: {}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::bootstrap::parse;
    use serde_json::Value;

    fn options(args: &str, variables: &[(&str, &str)]) -> Bootstrap {
        let args = args.split_whitespace().map(OsString::from);
        let variable = |name: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| OsString::from(value))
        };
        parse(args, &variable).unwrap().unwrap()
    }

    fn bootstrap(args: &str) -> Value {
        config::bootstrap(&options(args, &[]), "me", None)
    }

    #[test]
    fn contours_command_line_is_taken() {
        let args = "/config/envoy.json --xds-address=contour --xds-port=8002 \
            --xds-resource-version=v3 --resources-dir=/config/resources \
            --envoy-cafile=/certs/ca.crt --envoy-cert-file=/certs/tls.crt \
            --envoy-key-file=/certs/tls.key --overload-max-heap=0";
        let options = options(args, &[("CONTOUR_NAMESPACE", "here")]);
        assert_eq!(options.path, Path::new("/config/envoy.json"));
        assert_eq!(
            options.resources.as_deref(),
            Some(Path::new("/config/resources"))
        );
        let config = config::bootstrap(&options, "me", None);
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
