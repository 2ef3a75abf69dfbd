//! A machine whose pid 1 is systemd: a runc container with the host's /usr and nothing else of it.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::container::{Bundle, Container, Network};
use crate::support::envoy_config::{Admin, EnvoyConfig};
use crate::support::http::Address;
use crate::support::manifest::example;
use crate::support::upstream::Upstream;
use crate::support::{self, PATIENCE, wait_for};

/// What systemd and its sandboxes need, and no more: not the clock, the modules or the network.
const CAPABILITIES: [&str; 15] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_ADMIN",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
];

/// The uid of the unit's `User=envoy`.
pub const ENVOY_UID: &str = "999";

pub struct Machine {
    pub config: EnvoyConfig,
    pub upstream: Upstream,
    pub network: Network,
    container: Container,
    root: PathBuf,
}

impl Machine {
    /// A machine that is up, with the example's unit in its place, not started. `change` may change
    /// Envoy's configuration.
    pub fn boot(change: impl FnOnce(&EnvoyConfig)) -> Machine {
        let network = Network::new();
        let upstream = network.enter(Upstream::start);
        let config = network.enter(|| EnvoyConfig::new(Admin::Tcp, &upstream));
        // The unit has a /tmp of its own.
        config.replace(config.dir.path().to_str().unwrap(), "/tmp");
        change(&config);

        let bundle = Bundle::new();
        let root = bundle.root();
        for dir in ["etc/envoy", "etc/systemd/system", "usr", "var"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        for dir in ["bin", "lib", "lib64", "sbin"] {
            symlink(format!("usr/{dir}"), root.join(dir)).unwrap();
        }
        let users = format!(
            "root:x:0:0::/root:/bin/sh\n\
             envoy:x:{ENVOY_UID}:{ENVOY_UID}::/:/usr/sbin/nologin\n\
             nobody:x:65534:65534::/:/usr/sbin/nologin\n"
        );
        let groups = format!("root:x:0:\nenvoy:x:{ENVOY_UID}:\nnogroup:x:65534:\n");
        let unit = example("envoy.service");
        for (file, text) in [
            ("passwd", users.as_str()),
            ("group", &groups),
            // A machine without an id is taken for a new one, which enables all that is in /usr.
            ("machine-id", "d7a1d7a1d7a1d7a1d7a1d7a1d7a1d7a1\n"),
            ("systemd/system/envoy.service", &unit),
        ] {
            fs::write(root.join("etc").join(file), text).unwrap();
        }
        fs::copy(&config.file, root.join("etc/envoy/envoy.yaml")).unwrap();

        let programs = bundle.dir.join("bin");
        fs::create_dir(&programs).unwrap();
        let mut machine = Machine {
            container: bundle.start(&oci(&root, &programs, &network)),
            config,
            upstream,
            network,
            root,
        };
        wait_for("systemd to be up", PATIENCE, || {
            assert!(!machine.container.has_exited(), "systemd has ended");
            let (_, state) = machine.run(&["systemctl", "is-system-running"]);
            ["running", "degraded"].contains(&state.trim())
        });
        machine
    }

    /// Runs a program on it: exit code and standard output.
    pub fn run(&self, command: &[&str]) -> (i32, String) {
        self.container.exec(command)
    }

    /// systemctl, which must succeed.
    #[track_caller]
    pub fn systemctl(&self, arguments: &[&str]) {
        let (code, _) = self.run(&[&["systemctl"], arguments].concat());
        assert_eq!(code, 0, "{arguments:?}: {}", self.journal());
    }

    /// What systemd knows of the unit by this name.
    pub fn property(&self, name: &str) -> String {
        let (_, value) = self.run(&["systemctl", "show", "-P", name, "envoy"]);
        value.trim().to_owned()
    }

    /// What the unit has logged, and what systemd has to say of it.
    pub fn journal(&self) -> String {
        self.run(&["journalctl", "--no-pager", "-o", "cat", "-u", "envoy"])
            .1
    }

    /// Overrides some of the unit's settings, as `systemctl edit` does.
    pub fn edit(&self, settings: &str) {
        let dir = self.root.join("etc/systemd/system/envoy.service.d");
        fs::create_dir_all(&dir).unwrap();
        fs::write(
            dir.join("override.conf"),
            format!("[Service]\n{settings}\n"),
        )
        .unwrap();
        self.systemctl(&["daemon-reload"]);
    }

    /// Envoy's configuration, as the unit reads it.
    pub fn envoy_yaml(&self) -> PathBuf {
        self.root.join("etc/envoy/envoy.yaml")
    }

    /// Whether drainit answers, and Envoy is live.
    pub fn is_ready(&self) -> bool {
        let address = Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 8090)));
        let patience = Duration::from_secs(1);
        self.network
            .enter(|| address.request("GET", "/ready", patience))
            .is_ok_and(|answer| answer.status == 200)
    }

    /// The unit's processes: pid, as the machine counts them, and name.
    pub fn processes(&self) -> Vec<(String, String)> {
        let (_, list) = self.run(&["ps", "-o", "pid=,comm=", "-u", ENVOY_UID]);
        let line = |line: &str| {
            let (pid, name) = line.trim().split_once(' ')?;
            Some((pid.to_owned(), name.trim().to_owned()))
        };
        list.lines().filter_map(line).collect()
    }

    /// The pid of the unit's only process of this name, as the machine counts them.
    pub fn pid(&self, name: &str) -> Option<String> {
        let all = self.processes();
        let mut found = all.into_iter().filter(|(_, process)| process == name);
        let (pid, _) = found.next()?;
        found.next().is_none().then_some(pid)
    }

    pub fn kill(&self, signal: &str, pid: &str) {
        assert_eq!(self.run(&["kill", "-s", signal, pid]).0, 0);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- journal\n{}", self.journal());
        }
    }
}

fn oci(root: &PathBuf, programs: &PathBuf, network: &Network) -> Value {
    let tmpfs = |at: &str, mode: &str| {
        json!({"destination": at, "type": "tmpfs", "source": "tmpfs",
               "options": ["nosuid", "nodev", format!("mode={mode}")]})
    };
    let bind = |from: &PathBuf, to: &str, access: &str| json!({"destination": to, "type": "bind", "source": from, "options": ["bind", access]});
    let capabilities = json!(CAPABILITIES);
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "cwd": "/",
            "args": ["/usr/lib/systemd/systemd", "--unit=basic.target", "--show-status=no"],
            "env": ["PATH=/usr/local/bin:/usr/sbin:/usr/bin", "container=runc"],
            "capabilities": {"bounding": capabilities, "effective": capabilities,
                             "permitted": capabilities},
        },
        "root": {"path": root, "readonly": false},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs",
             "options": ["ro", "nosuid", "noexec", "nodev"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["rw", "nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "mode=755"]},
            tmpfs("/dev/shm", "1777"),
            tmpfs("/run", "755"),
            tmpfs("/tmp", "1777"),
            bind(&"/usr".into(), "/usr", "ro"),
            bind(programs, "/usr/local/bin", "rw"),
            bind(&support::drainit(), "/usr/local/bin/drainit", "ro"),
            bind(&support::envoy(), "/usr/local/bin/envoy", "ro"),
        ],
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"},
                {"type": "cgroup"}, {"type": "network", "path": network.path()},
            ],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/sysrq-trigger"],
            "readonlyPaths": ["/proc/bus", "/proc/irq", "/proc/sys"],
        },
    })
}
