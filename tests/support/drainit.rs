//! The program under test, running.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::envoy_config::EnvoyConfig;
use super::http::Address;
use super::process::{self, Process};
use super::{PATIENCE, TempDir, wait_for, wait_for_some};

/// The lines a process has written, as they come.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub fn collect(&self, output: impl std::io::Read + Send + 'static) {
        let log = self.clone();
        thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                log.0.lock().unwrap().push(line);
            }
        });
    }

    pub fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// The first line that holds `text`.
    pub fn find(&self, text: &str) -> Option<String> {
        let lines = self.0.lock().unwrap();
        lines.iter().find(|line| line.contains(text)).cloned()
    }
}

/// A running `drainit`. Its health address is a unix socket, so that no port is fought over.
pub struct Drainit {
    pub log: Log,
    pub health: Address,
    process: Process,
    _dir: TempDir,
}

impl Drainit {
    /// `drainit OPTIONS -- COMMAND`.
    pub fn start(options: &[&str], command: &[String]) -> Drainit {
        let dir = TempDir::new();
        let health = Address::Unix(dir.join("health.sock"));
        let listen = format!("unix:{}", health.text());
        let mut arguments = Vec::from(options);
        if !options.contains(&"--listen") {
            arguments.extend(["--listen", &listen]);
        }
        arguments.push("--");
        let mut drainit = Command::new(super::drainit());
        drainit.args(arguments).args(command);
        Drainit::spawn(&mut drainit, health, dir)
    }

    /// The real Envoy, with this configuration, under `drainit`.
    pub fn envoy(options: &[&str], config: &EnvoyConfig) -> Drainit {
        let mut command = vec![super::envoy().display().to_string()];
        command.extend(config.arguments());
        Drainit::start(options, &command)
    }

    /// The same, ready.
    pub fn ready(options: &[&str], config: &EnvoyConfig) -> Drainit {
        let drainit = Drainit::envoy(options, config);
        drainit.wait_ready();
        drainit
    }

    fn spawn(command: &mut Command, health: Address, dir: TempDir) -> Drainit {
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        let mut process = Process::spawn(command);
        let log = Log::default();
        log.collect(process.child().stderr.take().unwrap());
        Drainit {
            log,
            health,
            process,
            _dir: dir,
        }
    }

    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// Status and body of a GET on the health address.
    #[track_caller]
    pub fn get(&self, path: &str) -> (u16, String) {
        self.request("GET", path, PATIENCE).unwrap()
    }

    /// The same by any method; an error where nothing answers.
    pub fn request(
        &self,
        method: &str,
        path: &str,
        patience: Duration,
    ) -> std::io::Result<(u16, String)> {
        let answer = self.health.request(method, path, patience)?;
        Ok((answer.status, answer.body))
    }

    #[track_caller]
    pub fn wait_ready(&self) {
        wait_for("drainit to be ready", PATIENCE, || {
            self.request("GET", "/ready", PATIENCE)
                .is_ok_and(|(status, _)| status == 200)
        });
    }

    #[track_caller]
    pub fn wait_unready(&self) {
        wait_for("drainit not to be ready", PATIENCE, || {
            self.get("/ready").0 == 503
        });
    }

    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// The child that `drainit` runs.
    #[track_caller]
    pub fn envoy_pid(&self) -> Pid {
        wait_for_some("drainit's child", PATIENCE, || {
            process::children(self.pid()).first().copied()
        })
    }

    pub fn has_exited(&mut self) -> bool {
        self.process.has_exited()
    }

    /// Waits for the end; the exit code as a shell gives it. Nothing may be left behind.
    #[track_caller]
    pub fn wait_exit(&mut self, timeout: Duration) -> i32 {
        let code = self.process.wait_exit(timeout);
        wait_for("drainit's descendants to be gone", PATIENCE, || {
            self.process.descendants().is_empty()
        });
        code
    }

    /// Waits for a line that holds `text`.
    #[track_caller]
    pub fn wait_log(&self, text: &str) -> String {
        wait_for_some(&format!("a log line with {text:?}"), PATIENCE, || {
            self.log.find(text)
        })
    }

    /// The arguments Envoy was started with.
    pub fn envoy_arguments(&self) -> Vec<String> {
        let line = fs::read(format!("/proc/{}/cmdline", self.envoy_pid())).unwrap();
        line.split(|&byte| byte == 0)
            .filter(|argument| !argument.is_empty())
            .map(|argument| String::from_utf8_lossy(argument).into_owned())
            .collect()
    }
}

impl Drop for Drainit {
    fn drop(&mut self) {
        // What it said is what one wants to read when a test fails.
        if thread::panicking() {
            eprintln!("--- log of drainit {}", self.pid());
            self.log.lines().iter().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// What a run that ends by itself gave: exit code, standard output, standard error.
pub fn run(arguments: &[&str]) -> (i32, String, String) {
    run_with(arguments, &[])
}

/// The same with these environment variables.
pub fn run_with(arguments: &[&str], variables: &[(&str, &str)]) -> (i32, String, String) {
    let mut command = Command::new(super::drainit());
    command.args(arguments).envs(variables.iter().copied());
    run_command(&mut command)
}

/// The same for a command made elsewhere.
pub fn run_command(command: &mut Command) -> (i32, String, String) {
    command.stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = Process::spawn(command);
    let (out, err) = (Log::default(), Log::default());
    out.collect(process.child().stdout.take().unwrap());
    err.collect(process.child().stderr.take().unwrap());
    let code = process.wait_exit(PATIENCE);
    // The readers are a moment behind the end.
    wait_for("the output's end", PATIENCE, || {
        Arc::strong_count(&out.0) == 1 && Arc::strong_count(&err.0) == 1
    });
    (code, out.lines().join("\n"), err.lines().join("\n"))
}
