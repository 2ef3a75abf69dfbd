//! The man page, in roff, made from the same tables as the help: `drainit help man`.

use std::fmt::Write;

use super::{REST, SIGNALS, USAGE, VARIABLES, sentences};
use crate::options::{ENTRIES, FLAGS, Flag, Settings, bootstrap};

/// The page, for section 8: commands of the system's administrator.
pub fn render() -> String {
    let mut page = format!(
        ".TH DRAINIT 8 \"\" \"drainit {}\"\n.SH NAME\ndrainit \\- pid 1 of an Envoy container\n",
        env!("CARGO_PKG_VERSION")
    );
    section(&mut page, "SYNOPSIS");
    let _ = writeln!(page, ".B {}", escape(USAGE));
    for entry in ENTRIES {
        let _ = writeln!(page, ".br\n.B {}", escape(&entry.usage()));
    }
    section(&mut page, "COMMANDS");
    for entry in ENTRIES {
        item(&mut page, &entry.usage(), entry.doc);
        for (name, does) in entry.switches {
            let _ = writeln!(page, ".RS");
            item(&mut page, &format!("--{name}"), does);
            let _ = writeln!(page, ".RE");
        }
    }
    section(&mut page, "OPTIONS");
    let _ = writeln!(page, "{}", escape(VARIABLES));
    options(&mut page, FLAGS);
    section(&mut page, "OPTIONS OF BOOTSTRAP");
    options(&mut page, bootstrap::FLAGS);
    section(&mut page, "SIGNALS");
    for (name, does) in SIGNALS {
        item(&mut page, name, does);
    }
    section(&mut page, "HTTP AND EXIT CODE");
    for text in REST {
        let _ = writeln!(page, "{}\n.PP", escape(text));
    }
    page
}

fn options<T: Settings>(page: &mut String, flags: &[Flag<T>]) {
    for flag in flags {
        if let Some(heading) = flag.heading {
            let _ = writeln!(page, ".SS {}", escape(heading));
        }
        let variables: Vec<String> = flag.variables().collect();
        let mut usage = flag.usage();
        if !variables.is_empty() {
            let _ = write!(usage, "  [{}]", variables.join(", "));
        }
        item(page, &usage, &sentences(flag));
    }
}

fn section(page: &mut String, title: &str) {
    let _ = writeln!(page, ".SH {title}");
}

fn item(page: &mut String, term: &str, text: &str) {
    let _ = writeln!(page, ".TP\n.B {}\n{}", escape(term), escape(text));
}

/// A hyphen in roff is a dash unless escaped, and a dot or quote that begins a line is a request.
fn escape(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) {
        return format!("\\&{text}");
    }
    text
}
