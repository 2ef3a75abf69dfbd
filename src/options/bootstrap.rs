//! The options of `drainit bootstrap`: the flags of `contour bootstrap`, in a table of their own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use lexopt::{Arg, Parser};

use super::flag::{Env, Flag, Setter, Settings, Value, explain};
use super::near::find;

/// What `drainit bootstrap` is to write, and where.
#[derive(Clone, Debug, Default)]
pub struct Bootstrap {
    /// Where to write it; `-` is standard output.
    pub path: PathBuf,
    /// The xDS server's name or address.
    pub xds_address: String,
    /// The xDS server's port.
    pub xds_port: u16,
    /// How the xDS server's name is looked up, as Envoy spells it.
    pub dns_family: &'static str,
    /// The certificates' files; none for an xDS server without TLS.
    pub tls: Option<[PathBuf; 3]>,
    /// Where the SDS files go.
    pub resources: Option<PathBuf>,
    /// Envoy's admin interface: a unix socket's path or an IP address.
    pub admin_address: String,
    /// The admin interface's port, where the address is not a path.
    pub admin_port: u16,
    /// Contour's namespace.
    pub namespace: String,
    /// The bytes that Envoy's heap may have; 0 for no limit.
    pub max_heap: u64,
    /// The connections that Envoy may have; 0 for no limit.
    pub max_connections: u64,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl Settings for Bootstrap {
    fn clear(&mut self, _: &str) {}
}

const fn flag(
    name: &'static str,
    value: &'static str,
    default: &'static str,
    doc: &'static str,
    set: Setter<Bootstrap>,
) -> Flag<Bootstrap> {
    // Contour has variables for a few of them, and drainit's own belong to the main command.
    Flag::new(name, Value::One(value), default, doc, set).without_variable()
}

/// Every option of `drainit bootstrap`, in the order of the help.
pub const FLAGS: &[Flag<Bootstrap>] = &[
    flag(
        "xds-address",
        "ADDR",
        "127.0.0.1",
        "The xDS server: a name or an IP address.",
        |o, v| given(&mut o.xds_address, v),
    ),
    flag("xds-port", "PORT", "8001", "The xDS server's port.", |o, v| {
        number(&mut o.xds_port, v)
    }),
    flag(
        "envoy-cafile",
        "FILE",
        "",
        "The CA of the xDS server's certificate. All three files are given, or none: then there is no TLS.",
        |o, v| path(&mut o.ca, v),
    )
    .env("ENVOY_CAFILE"),
    flag(
        "envoy-cert-file",
        "FILE",
        "",
        "Envoy's certificate.",
        |o, v| path(&mut o.cert, v),
    )
    .env("ENVOY_CERT_FILE"),
    flag("envoy-key-file", "FILE", "", "Envoy's key.", |o, v| {
        path(&mut o.key, v)
    })
    .env("ENVOY_KEY_FILE"),
    flag(
        "resources-dir",
        "DIR",
        "",
        "Where the SDS files go, DIR/sds/*.json, for drainit to keep fresh. Without it the certificates are read once.",
        |o, v| path(&mut o.resources, v),
    ),
    flag(
        "admin-address",
        "ADDR",
        "/admin/admin.sock",
        "Envoy's admin interface: a unix socket's path, or an IP address with --admin-port.",
        |o, v| given(&mut o.admin_address, v),
    ),
    flag(
        "admin-port",
        "PORT",
        "9001",
        "The admin interface's port, where its address is not a path.",
        |o, v| number(&mut o.admin_port, v),
    ),
    flag(
        "namespace",
        "NAME",
        "projectcontour",
        "Contour's namespace, for the clusters' names in statistics and for Envoy's node.cluster. Envoy's node.id is $ENVOY_POD_NAME, or else the host's name.",
        |o, v| {
            v.clone_into(&mut o.namespace);
            Ok(())
        },
    )
    .env("CONTOUR_NAMESPACE"),
    flag(
        "dns-lookup-family",
        "FAMILY",
        "auto",
        "How the xDS server's name is looked up: auto, v4, v6 or all.",
        |o, v| {
            o.dns_family = match v {
                "" | "auto" => "AUTO",
                "v4" => "V4_ONLY",
                "v6" => "V6_ONLY",
                "all" => "ALL",
                _ => return Err(format!("`{v}` is none of auto, v4, v6, all")),
            };
            Ok(())
        },
    ),
    flag(
        "overload-max-heap",
        "N",
        "0",
        "Refuse requests when Envoy's heap nears N bytes; 0 for no limit.",
        |o, v| limit(&mut o.max_heap, v),
    ),
    // Contour 1.30 has the flag with a letter missing.
    flag(
        "overload-downstream-max-conn",
        "N",
        "0",
        "The most connections that Envoy accepts; 0 for no limit.",
        |o, v| limit(&mut o.max_connections, v),
    )
    .also(&["overload-dowstream-max-conn"]),
    flag(
        "xds-resource-version",
        "VERSION",
        "v3",
        "The version of the xDS API: v3 is the only one.",
        |_, v| match v {
            "v3" => Ok(()),
            _ => Err(format!("`{v}` is no version of the xDS API that Envoy has: write v3")),
        },
    ),
];

/// An empty value is none, as in Contour.
fn given(target: &mut String, text: &str) -> Result<(), String> {
    if !text.is_empty() {
        text.clone_into(target);
    }
    Ok(())
}

fn path(target: &mut Option<PathBuf>, text: &str) -> Result<(), String> {
    *target = (!text.is_empty()).then(|| text.into());
    Ok(())
}

/// A port; 0 is none, as in Contour.
fn number(target: &mut u16, text: &str) -> Result<(), String> {
    let port = parsed(text, "65535")?;
    if port > 0 {
        *target = port;
    }
    Ok(())
}

fn limit(target: &mut u64, text: &str) -> Result<(), String> {
    *target = parsed(text, "18446744073709551615")?;
    Ok(())
}

fn parsed<T: FromStr>(text: &str, most: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| format!("`{text}` is no number from 0 to {most}"))
}

/// Reads what follows `drainit bootstrap`; none where help is asked for.
///
/// # Errors
/// One line that says what is wrong and what would be right.
pub fn parse(
    args: impl Iterator<Item = OsString>,
    env: Env<'_>,
) -> Result<Option<Bootstrap>, String> {
    read(args, env).map_err(|why| format!("bootstrap: {why}"))
}

fn read(args: impl Iterator<Item = OsString>, env: Env<'_>) -> Result<Option<Bootstrap>, String> {
    let mut options = Bootstrap::default();
    for flag in FLAGS {
        flag.take_default(&mut options)?;
        flag.take_env(&mut options, env)?;
    }
    let mut seen = Vec::new();
    let mut to = None;
    let mut parser = Parser::from_args(args);
    while let Some(arg) = parser.next().map_err(explain)? {
        match arg {
            Arg::Short('h') | Arg::Long("help") => return Ok(None),
            Arg::Value(path) if to.is_none() => to = Some(PathBuf::from(path)),
            arg => find(FLAGS, &arg, &[])?.take(&mut options, &mut parser, &mut seen)?,
        }
    }
    options.path = to
        .filter(|path| path != Path::new(""))
        .ok_or("where to? Write `drainit bootstrap PATH`; `-` is standard output")?;
    options.tls = match (&options.cert, &options.key, &options.ca) {
        (Some(cert), Some(key), Some(ca)) => Some([cert, key, ca].map(PathBuf::clone)),
        (None, None, None) => None,
        files => {
            let missing: Vec<_> = [
                ("--envoy-cafile", files.2),
                ("--envoy-cert-file", files.0),
                ("--envoy-key-file", files.1),
            ]
            .into_iter()
            .filter_map(|(flag, file)| file.is_none().then_some(flag))
            .collect();
            return Err(format!(
                "{} missing: all three files, or none",
                missing.join(" and ")
            ));
        }
    };
    Ok(Some(options))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(args: &str, variables: &[(&str, &str)]) -> Result<Bootstrap, String> {
        let args = args.split_whitespace().map(OsString::from);
        let variable = |name: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| OsString::from(value))
        };
        parse(args, &variable).map(Option::unwrap)
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line() {
        for (args, why) in [
            (
                "",
                "bootstrap: where to? Write `drainit bootstrap PATH`; `-` is standard output",
            ),
            ("a b", "bootstrap: unexpected argument `b`"),
            (
                "a --xds-adress x",
                "bootstrap: unknown option --xds-adress: did you mean --xds-address?",
            ),
            (
                "a --xds-port 70000",
                "bootstrap: --xds-port: `70000` is no number from 0 to 65535",
            ),
            (
                "a --xds-resource-version v2",
                "bootstrap: --xds-resource-version: `v2` is no version of the xDS API that Envoy has: write v3",
            ),
            (
                "a --dns-lookup-family v5",
                "bootstrap: --dns-lookup-family: `v5` is none of auto, v4, v6, all",
            ),
            (
                "a --envoy-cafile x",
                "bootstrap: --envoy-cert-file and --envoy-key-file missing: all three files, or none",
            ),
        ] {
            assert_eq!(options(args, &[]).unwrap_err(), why, "{args}");
        }
    }

    #[test]
    fn every_default_is_taken_by_its_own_option() {
        for flag in FLAGS {
            assert_eq!(flag.take_default(&mut Bootstrap::default()), Ok(()));
        }
        let options = options("-", &[]).unwrap();
        assert_eq!(options.xds_address, "127.0.0.1");
        assert_eq!((options.xds_port, options.admin_port), (8001, 9001));
        assert_eq!(options.admin_address, "/admin/admin.sock");
        assert_eq!(options.namespace, "projectcontour");
        assert_eq!(options.dns_family, "AUTO");
        assert!(options.tls.is_none() && options.resources.is_none());
    }

    #[test]
    fn an_empty_value_and_port_0_are_none_as_in_contour() {
        let line = "- --xds-address= --xds-port=0 --resources-dir= --admin-port=0 --envoy-cafile=";
        let options = options(line, &[("ENVOY_CAFILE", "/ca")]).unwrap();
        assert_eq!(options.xds_address, "127.0.0.1");
        assert_eq!((options.xds_port, options.admin_port), (8001, 9001));
        assert!(options.tls.is_none() && options.resources.is_none());
    }

    #[test]
    fn the_environment_is_read_and_the_command_line_wins() {
        let variables = [
            ("ENVOY_CAFILE", "/e/ca"),
            ("ENVOY_CERT_FILE", "/e/cert"),
            ("ENVOY_KEY_FILE", "/e/key"),
            ("CONTOUR_NAMESPACE", "here"),
            ("DRAINIT_RESOURCES_DIR", "/not/for/bootstrap"),
        ];
        let options = options("- --envoy-key-file /c/key", &variables).unwrap();
        let tls = options.tls.unwrap();
        assert_eq!(tls[0], Path::new("/e/cert"));
        assert_eq!(tls[1], Path::new("/c/key"));
        assert_eq!(options.namespace, "here");
        assert_eq!(options.resources, None);
    }
}
