//! A family of Envoys under `drainit --hot-restart`, and what is seen of it.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::Pid;
use serde_json::Value;

use crate::support::clients::HttpConnection;
use crate::support::drainit::{Drainit, Setting, run_command};
use crate::support::envoy_config::{Admin, EnvoyConfig};
use crate::support::scene;
use crate::support::upstream::Upstream;
use crate::support::{PATIENCE, TempDir, drainit, envoy, process, wait_for, wait_for_some};

pub const OPTIONS: [&str; 5] = [
    "--hot-restart",
    "--drain-timeout",
    "10s",
    "--kill-timeout",
    "2s",
];

pub struct Rig {
    pub drainit: Drainit,
    pub config: EnvoyConfig,
    pub upstream: Upstream,
    /// Where drainit finds Envoy: a symbolic link of the test's own.
    pub program: PathBuf,
    _dir: TempDir,
}

impl Rig {
    pub fn start() -> Rig {
        Rig::start_with(&OPTIONS, |_| {})
    }

    pub fn start_with(options: &[&str], prepare: impl FnOnce(&EnvoyConfig)) -> Rig {
        let (upstream, config) = scene::of(Admin::Unix);
        prepare(&config);
        Rig::of(options, config, upstream)
    }

    pub fn of(options: &[&str], config: EnvoyConfig, upstream: Upstream) -> Rig {
        Rig::of_program(envoy(), options, config, upstream)
    }

    /// With this Envoy.
    pub fn of_program(
        program: PathBuf,
        options: &[&str],
        config: EnvoyConfig,
        upstream: Upstream,
    ) -> Rig {
        Rig::build(&[], program, options, config, upstream, ["1", "3"])
    }

    /// Behind a program that becomes Envoy, such as a shell.
    pub fn behind(
        before: &[&str],
        options: &[&str],
        config: EnvoyConfig,
        upstream: Upstream,
    ) -> Rig {
        Rig::build(before, envoy(), options, config, upstream, ["1", "3"])
    }

    /// With this drain time and parent shutdown time, in seconds.
    pub fn with_times(
        options: &[&str],
        config: EnvoyConfig,
        upstream: Upstream,
        times: [&str; 2],
    ) -> Rig {
        Rig::build(&[], envoy(), options, config, upstream, times)
    }

    /// With these words before Envoy's command line, this Envoy and these times.
    pub fn build(
        before: &[&str],
        envoy: PathBuf,
        options: &[&str],
        config: EnvoyConfig,
        upstream: Upstream,
        [drain, parent]: [&str; 2],
    ) -> Rig {
        let dir = TempDir::new();
        let program = dir.join("envoy");
        std::os::unix::fs::symlink(envoy, &program).unwrap();
        let mut command: Vec<_> = before.iter().map(|word| (*word).to_owned()).collect();
        command.push(program.display().to_string());
        command.extend(config.arguments());
        let times = ["--drain-time-s", drain, "--parent-shutdown-time-s", parent];
        command.extend(times.map(String::from));
        let drainit = Setting::default().start(options, &command);
        drainit.wait_ready();
        Rig {
            drainit,
            config,
            upstream,
            program,
            _dir: dir,
        }
    }

    /// `drainit reload`: exit code and what it says.
    pub fn reload(&self) -> (i32, String) {
        self.reload_with(&[])
    }

    pub fn reload_with(&self, options: &[&str]) -> (i32, String) {
        let mut command = Command::new(drainit());
        let crate::support::http::Address::Unix(path) = &self.drainit.health else {
            panic!("a unix socket");
        };
        command.args(["reload", "--listen", &format!("unix:{}", path.display())]);
        command.args(options);
        let (code, out, err) = run_command(&mut command);
        (code, format!("{out}{err}"))
    }

    /// The same once nothing stands in its way: an old generation that drains does.
    #[track_caller]
    pub fn reload_well(&self) -> String {
        self.wait_alone();
        let (code, said) = self.reload();
        assert_eq!(code, 0, "{said}");
        said
    }

    /// A reload that is refused, or fails, with this in what it says.
    #[track_caller]
    pub fn reload_badly(&self, why: &str) {
        let (code, said) = self.reload();
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(why), "{said}");
    }

    pub fn status(&self) -> Value {
        serde_json::from_str(&self.drainit.get("/status?now").1).unwrap()
    }

    pub fn epoch(&self) -> u64 {
        self.status()["envoy"]["epoch"].as_u64().unwrap_or(u64::MAX)
    }

    pub fn newest(&self) -> Pid {
        wait_for_some("a newest envoy", PATIENCE, || {
            let pid = self.status()["envoy"]["pid"].as_i64()?;
            Some(Pid::from_raw(i32::try_from(pid).ok()?))
        })
    }

    /// Waits until no old generation is there.
    #[track_caller]
    pub fn wait_alone(&self) {
        wait_for("the old generation's end", PATIENCE, || {
            process::children(self.drainit.pid()).len() == 1
        });
    }

    /// Waits until a second Envoy is there, and gives old and new.
    #[track_caller]
    pub fn wait_two(&self, old: Pid) -> Pid {
        wait_for_some("a next generation", PATIENCE, || {
            process::children(self.drainit.pid())
                .into_iter()
                .find(|pid| *pid != old && generation(*pid).is_some())
        })
    }

    /// The metric's value.
    #[track_caller]
    pub fn metric(&self, name: &str) -> u64 {
        let page = self.drainit.get("/metrics").1;
        let line = page
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} is not in\n{page}"))
            .parse()
            .unwrap()
    }

    #[track_caller]
    pub fn serves(&self) {
        assert_eq!(
            HttpConnection::open(self.config.http)
                .unwrap()
                .get("/fast")
                .unwrap()
                .status,
            200
        );
    }

    /// Lets the path lead to another program.
    pub fn replace_program(&self, to: &Path) {
        std::fs::remove_file(&self.program).unwrap();
        std::os::unix::fs::symlink(to, &self.program).unwrap();
    }

    /// Whether Envoy's shared memory lies about.
    pub fn memory(&self) -> PathBuf {
        let pid = process::children(self.drainit.pid())[0];
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        let words: Vec<_> = line.split(|&byte| byte == 0).collect();
        let at = words.iter().position(|word| *word == b"--base-id").unwrap();
        let id = String::from_utf8_lossy(words[at + 1]);
        format!("/dev/shm/envoy_shared_memory_{id}0").into()
    }
}

/// Whether it is an Envoy that serves or rises, and no trial.
pub fn is_generation(pid: Pid) -> bool {
    generation(pid).is_some()
}

/// The restart epoch of a serving Envoy; a trial has none.
fn generation(pid: Pid) -> Option<u64> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<_> = line.split(|&byte| byte == 0).collect();
    let at = words.iter().position(|word| *word == b"--restart-epoch")?;
    String::from_utf8_lossy(words.get(at + 1)?).parse().ok()
}
