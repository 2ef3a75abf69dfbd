//! A terminal, and a person before it.

use std::process::Command;

use nix::unistd::Pid;

use crate::support::drainit::Drainit;
use crate::support::process::children;
use crate::support::{self, PATIENCE, TempDir, wait_for};

/// A terminal of a tmux server's own; it goes with this.
pub struct Terminal {
    socket: String,
    _dir: TempDir,
}

impl Terminal {
    /// A shell in a terminal of 100 columns and 30 rows.
    pub fn start() -> Terminal {
        Terminal::of(100, 30)
    }

    /// A shell in a terminal of so many columns and rows.
    pub fn of(columns: u16, rows: u16) -> Terminal {
        let dir = TempDir::new();
        let socket = dir.join("tmux").display().to_string();
        let terminal = Terminal { socket, _dir: dir };
        terminal.tmux(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            &columns.to_string(),
            "-y",
            &rows.to_string(),
            "sh",
        ]);
        terminal
    }

    pub fn tmux(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.args(["-S", &self.socket]).args(arguments);
        command
            .env_remove("TMUX")
            .env("PS1", "prompt> ")
            .env_remove("NO_COLOR");
        let output = command.output().expect("tmux");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn types(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    pub fn shows(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// One of tmux' variables of the terminal.
    pub fn variable(&self, name: &str) -> String {
        let format = format!("#{{{name}}}");
        self.tmux(&["display-message", "-p", &format])
            .trim()
            .to_owned()
    }

    /// The pid of what the shell runs.
    pub fn job(&self) -> Pid {
        let shell = Pid::from_raw(self.variable("pane_pid").parse().unwrap());
        children(shell)[0]
    }

    #[track_caller]
    pub fn wait_picture(&self) {
        wait_for("the picture", PATIENCE, || {
            self.variable("alternate_on") == "1" && self.shows().starts_with("live for ")
        });
    }

    /// Nothing of a picture is left: neither its screen, nor a hidden cursor, nor lines that do
    /// not wrap.
    #[track_caller]
    pub fn check_is_the_shells(&self) {
        let flags = ["alternate_on", "cursor_flag", "wrap_flag"];
        assert_eq!(flags.map(|flag| self.variable(flag)), ["0", "1", "1"]);
    }

    /// Makes it so large.
    pub fn resize(&self, columns: u16, rows: u16) {
        let (columns, rows) = (columns.to_string(), rows.to_string());
        self.tmux(&["resize-window", "-x", &columns, "-y", &rows]);
    }

    /// Its words, however they are broken into lines.
    pub fn words(&self) -> String {
        let shown = self.shows();
        shown.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Waits for these words, however they are broken into lines.
    #[track_caller]
    pub fn wait_words(&self, text: &str) {
        wait_for(&format!("the words {text:?}"), PATIENCE, || {
            self.words().contains(text)
        });
    }

    #[track_caller]
    pub fn wait(&self, text: &str) {
        let mut seen = String::new();
        wait_for(&format!("{text:?} on the terminal"), PATIENCE, || {
            seen = self.shows();
            seen.contains(text)
        });
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- terminal\n{}", self.shows());
        }
        self.tmux(&["kill-server"]);
    }
}

/// The command line of `drainit status` for this one.
pub fn command(drainit: &Drainit, more: &str) -> String {
    let program = support::drainit().display().to_string();
    format!(
        "{program} status --listen unix:{} {more}",
        drainit.health.text()
    )
}
