//! The program under test, running.

use std::fs;
use std::io::{BufRead, BufReader, PipeReader};
use std::net::SocketAddr;
use std::path::PathBuf;
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
    unread: Mutex<Option<PipeReader>>,
    _dir: TempDir,
}

impl Drainit {
    /// `drainit OPTIONS -- COMMAND`.
    pub fn start(options: &[&str], command: &[String]) -> Drainit {
        Setting::default().start(options, command)
    }

    /// The same with environment variables, and started by a program that becomes it: `prlimit`,
    /// `ip netns exec`.
    pub fn start_under(
        wrapper: &[&str],
        variables: &[(&str, &str)],
        options: &[&str],
        command: &[String],
    ) -> Drainit {
        let setting = Setting::default().behind(wrapper);
        let setting = variables.iter().fold(setting, |setting, (name, value)| {
            setting.variable(name, value)
        });
        setting.start(options, command)
    }

    /// The same with a log that nobody reads before [`Drainit::read_log`].
    pub fn start_unread(options: &[&str], command: &[String]) -> Drainit {
        let (reader, writer) = std::io::pipe().unwrap();
        let drainit = Setting::default().stderr(writer).start(options, command);
        *drainit.unread.lock().unwrap() = Some(reader);
        drainit
    }

    /// Begins to read a log that was not.
    pub fn read_log(&self) {
        let unread = self.unread.lock().unwrap().take();
        self.log.collect(unread.unwrap());
    }

    /// The real Envoy, with this configuration, under `drainit`.
    pub fn envoy(options: &[&str], config: &EnvoyConfig) -> Drainit {
        Setting::default().envoy(options, config)
    }

    /// The same, ready.
    pub fn ready(options: &[&str], config: &EnvoyConfig) -> Drainit {
        let drainit = Drainit::envoy(options, config);
        drainit.wait_ready();
        drainit
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
            let answer = self.request("GET", "/ready", PATIENCE);
            answer.is_ok_and(|(status, _)| status == 200)
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

/// What a drainit is started in. By default the one that ships, with nothing special.
#[derive(Default)]
pub struct Setting {
    program: Option<PathBuf>,
    wrapper: Vec<String>,
    variables: Vec<(String, String)>,
    envoy: Option<PathBuf>,
    health: Option<SocketAddr>,
    stdin: Option<Stdio>,
    stderr: Option<Stdio>,
}

impl Setting {
    /// This program: another copy, or another build.
    pub fn program(mut self, program: impl Into<PathBuf>) -> Setting {
        self.program = Some(program.into());
        self
    }

    /// cargo's build, which is no static one, and has the faults in it that tests ask for.
    pub fn debug_build(self) -> Setting {
        self.program(env!("CARGO_BIN_EXE_drainit"))
    }

    /// Behind a command that ends in an exec of its last arguments.
    pub fn behind<S: ToString>(mut self, wrapper: &[S]) -> Setting {
        self.wrapper.extend(wrapper.iter().map(S::to_string));
        self
    }

    /// Behind a shell script that ends in `exec "$@"`.
    pub fn behind_script(self, script: &str) -> Setting {
        self.behind(&["sh", "-ec", script, "sh"])
    }

    pub fn variable(mut self, name: &str, value: impl ToString) -> Setting {
        self.variables.push((name.to_owned(), value.to_string()));
        self
    }

    /// With another Envoy.
    pub fn with_envoy(mut self, envoy: impl Into<PathBuf>) -> Setting {
        self.envoy = Some(envoy.into());
        self
    }

    /// With the health address on TCP.
    pub fn health(mut self, address: SocketAddr) -> Setting {
        self.health = Some(address);
        self
    }

    /// With this for its standard input.
    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Setting {
        self.stdin = Some(stdin.into());
        self
    }

    /// With this for its standard error, of which the test then sees nothing.
    pub fn stderr(mut self, stderr: impl Into<Stdio>) -> Setting {
        self.stderr = Some(stderr.into());
        self
    }

    pub fn start(self, options: &[&str], command: &[String]) -> Drainit {
        let dir = TempDir::new();
        let health = self
            .health
            .map_or_else(|| Address::Unix(dir.join("health.sock")), Address::Tcp);
        let listen = match &health {
            Address::Unix(path) => format!("unix:{}", path.display()),
            Address::Tcp(address) => address.to_string(),
        };
        let program = self.program.unwrap_or_else(super::drainit);
        let mut line = self.wrapper;
        line.push(program.display().to_string());
        line.extend(options.iter().map(ToString::to_string));
        if !options.contains(&"--listen") {
            line.extend(["--listen".to_owned(), listen]);
        }
        line.push("--".to_owned());
        line.extend_from_slice(command);
        let mut command = Command::new(&line[0]);
        command.args(&line[1..]).envs(self.variables);
        command.stdin(self.stdin.unwrap_or_else(Stdio::null));
        command.stderr(self.stderr.unwrap_or_else(Stdio::piped));
        let mut process = Process::spawn(&mut command);
        let log = Log::default();
        if let Some(stderr) = process.child().stderr.take() {
            log.collect(stderr);
        }
        Drainit {
            log,
            health,
            process,
            unread: Mutex::default(),
            _dir: dir,
        }
    }

    /// The real Envoy, with this configuration.
    pub fn envoy(mut self, options: &[&str], config: &EnvoyConfig) -> Drainit {
        let envoy = self.envoy.take().unwrap_or_else(super::envoy);
        let mut command = vec![envoy.display().to_string()];
        command.extend(config.arguments());
        self.start(options, &command)
    }

    /// The same, ready.
    pub fn ready(self, options: &[&str], config: &EnvoyConfig) -> Drainit {
        let drainit = self.envoy(options, config);
        drainit.wait_ready();
        drainit
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

/// The same for a command that is set up in another way.
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
