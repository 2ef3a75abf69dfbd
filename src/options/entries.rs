//! The table of commands, from which the parser and the help are made.

/// A command of drainit's.
#[derive(Debug)]
pub struct Entry {
    /// The command's name.
    pub name: &'static str,
    /// What follows the name.
    pub arguments: &'static str,
    /// What the command does, in one line of the help's first page.
    pub brief: &'static str,
    /// What the command does, and its exit codes: for `drainit help COMMAND`.
    pub doc: &'static str,
    /// The command's own options without the dashes, with their values' names (`pid N`), and what
    /// each does.
    pub switches: &'static [(&'static str, &'static str)],
    /// The options of the main command that this command takes, too.
    pub takes: &'static [&'static str],
}

impl Entry {
    /// How the command is called: `drainit health [live|ready]`.
    pub fn usage(&self) -> String {
        let space = if self.arguments.is_empty() { "" } else { " " };
        format!("drainit {}{space}{}", self.name, self.arguments)
    }

    /// The names of its own options.
    pub fn own_options(&self) -> impl Iterator<Item = &'static str> {
        let names = self
            .switches
            .iter()
            .map(|(usage, _)| usage.split(' ').next());
        names.flatten()
    }
}

/// The options of the commands that speak to a running drainit: which one it is.
const WHICH: &[&str] = &["listen"];

/// The option that says the same by a pid.
const PID: (&str, &str) = ("pid N", "The drainit with this pid, and no other.");

/// The name of the command that writes a bootstrap, which has options of its own.
pub const BOOTSTRAP: &str = "bootstrap";

/// The name of the command that takes what the main one takes.
pub const CHECK: &str = "check";

/// Every command but the main one.
pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "shutdown",
        arguments: "",
        brief: "drain and wait: 0 drained, 1 cut, 2 nothing runs",
        doc: "Asks the running drainit (SIGUSR2) to drain, waits, and prints what is left and where. \
              Envoy stays until drainit is told to stop. It exits with 0 when Envoy is drained, with 1 \
              when the deadline cut something, and with 2 when no drainit runs. For an exec hook, and for \
              systemd's ExecStop.",
        switches: &[PID],
        takes: WHICH,
    },
    Entry {
        name: "hold",
        arguments: "",
        brief: "out of service for maintenance, and wait",
        doc: "Asks the running drainit to take Envoy out of service: its health check fails, and nothing \
              else. It waits until nothing is in flight, at most --drain-timeout, and prints what is left \
              and where. Envoy goes on, and accepts whoever still comes, until resume. It exits with 0 \
              when nothing is left, or with 1 and why: at the drain timeout something was left, and Envoy \
              is held all the same.",
        switches: &[PID],
        takes: WHICH,
    },
    Entry {
        name: "resume",
        arguments: "",
        brief: "take a hold back",
        doc: "Asks the running drainit to put a held Envoy back into service, and waits until it is. It \
              exits with 0 once Envoy is not held any more, and says so where Envoy is not live; or with 1 \
              and why. After a shutdown only a restart of drainit helps.",
        switches: &[PID],
        takes: WHICH,
    },
    Entry {
        name: "health",
        arguments: "[live|ready]",
        brief: "for exec probes: 0 or 1, and one line why",
        doc: "Tells whether Envoy lives (live, the default) or should get traffic (ready), as /healthz and \
              /ready do. It prints one line why, and exits with 0 or 1. For exec probes, and for Docker's \
              HEALTHCHECK.",
        switches: &[PID],
        takes: WHICH,
    },
    Entry {
        name: "status",
        arguments: "[--watch] [--json]",
        brief: "what it is doing, for a person",
        doc: "Shows what the running drainit is doing: its state, Envoy, the connections and requests that \
              are left, the deadline, the certificates and the last reload.",
        switches: &[
            ("watch", "Redraw the status in place; q quits."),
            ("json", "Print the JSON of /status, for programs."),
            PID,
        ],
        takes: WHICH,
    },
    Entry {
        name: "reload",
        arguments: "[--no-wait]",
        brief: "read certificates or the configuration again",
        doc: "Asks the running drainit (SIGHUP) to read the certificates again and, where it was started \
              with --hot-restart, to bring up a new Envoy with the configuration as it is now. A reload \
              that comes while an old generation drains waits until that has ended. The command waits, says \
              what for, and exits with 0, or with 1 and why. Where there is nothing that could be reloaded, it exits with 1 and \
              says what to add. For systemd's ExecReload.",
        switches: &[
            (
                "no-wait",
                "Return as soon as the reload has begun, or waits: 0, or 1 where it was refused at once.",
            ),
            PID,
        ],
        takes: WHICH,
    },
    Entry {
        name: CHECK,
        arguments: "[OPTIONS] [--] ENVOY [ARGS]...",
        brief: "what a SIGTERM will do, and what is wrong",
        doc: "Says what a SIGTERM will do to this Envoy, listener by listener, and what is wrong with its \
              configuration, its command line, the environment and the limits. It takes the options that \
              the Envoy is to be run with. It starts nothing that serves: Envoy is run for moments, behind \
              a filter of system calls that lets it open no address and reach nobody; a start script is \
              not run. `drainit check --pid N` says the same of the Envoy that runs there. It exits with 0 \
              when nothing is wrong, with 1 and the findings, and with 2 on a wrong command line.",
        switches: &[
            (
                "pid N",
                "The drainit with this pid or, with --admin-address, any Envoy.",
            ),
            ("json", "Print one JSON object, for programs."),
        ],
        takes: &["admin-address"],
    },
    Entry {
        name: BOOTSTRAP,
        arguments: "[OPTIONS] PATH",
        brief: "write an Envoy bootstrap for an xDS server",
        doc: "Writes an Envoy configuration to PATH (`-` is standard output): listeners and clusters come \
              from an xDS server, with mutual TLS. It takes the flags of `contour bootstrap`.",
        switches: &[],
        takes: &[],
    },
    Entry {
        name: "install",
        arguments: "PATH",
        brief: "copy drainit to PATH",
        doc: "Copies drainit to PATH. An init container does that to put it into somebody else's image.",
        switches: &[],
        takes: &[],
    },
    Entry {
        name: "help",
        arguments: "[COMMAND|all]",
        brief: "this page, a command's, or every option",
        doc: "Prints the first page, the page of a command, or (all) every option with its default and its \
              environment variables.",
        switches: &[],
        takes: &[],
    },
];

/// The command of this name.
pub fn entry(name: &str) -> Option<&'static Entry> {
    ENTRIES.iter().find(|entry| entry.name == name)
}
