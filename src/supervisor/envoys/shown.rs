//! Envoy's command line, as the log shows it.

use std::ffi::{OsStr, OsString};

use crate::envoy::flags;

/// The program and its arguments; a configuration among them is left out.
pub fn show(program: &OsStr, args: &[OsString]) -> String {
    let mut line = program.to_string_lossy().into_owned();
    let mut secret = false;
    for word in args {
        line.push(' ');
        // A configuration may hold a key.
        if std::mem::take(&mut secret) {
            line.push_str("...");
        } else if flags::has(std::slice::from_ref(word), CONFIG) {
            line.push_str(CONFIG);
            secret = word == CONFIG;
            line.push_str(if secret { "" } else { " ..." });
        } else {
            line.push_str(&word.to_string_lossy());
        }
    }
    line
}

/// Envoy's flag for a configuration on the command line.
const CONFIG: &str = "--config-yaml";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_on_the_command_line_is_not_shown() {
        for (args, shown) in [
            (&["-c", "a.yaml", "-l", "info"][..], "-c a.yaml -l info"),
            (
                &["--config-yaml", "{key: 7}", "-l", "info"],
                "--config-yaml ... -l info",
            ),
            (
                &["--config-yaml {key: 7}", "-l", "info"],
                "--config-yaml ... -l info",
            ),
        ] {
            let args: Vec<_> = args.iter().map(OsString::from).collect();
            assert_eq!(show(OsStr::new("envoy"), &args), format!("envoy {shown}"));
        }
    }
}
