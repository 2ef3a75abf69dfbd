//! A machine whose pid 1 is systemd: a runc container with the host's /usr and nothing else of it.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
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

/// How drainit is on a machine.
#[derive(Clone, Copy, Debug)]
enum Drainit {
    /// In /usr/local/bin, with the README's unit and its user.
    InPlace,
    None,
}

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
        Machine::boot_with(Drainit::InPlace, change)
    }

    /// A machine that is up and has Envoy with its configuration, but no drainit, no unit and no
    /// user for it. Packages can be installed: what they write to /usr goes with the machine.
    pub fn boot_bare() -> Machine {
        Machine::boot_with(Drainit::None, |_| {})
    }

    fn boot_with(drainit: Drainit, change: impl FnOnce(&EnvoyConfig)) -> Machine {
        let network = Network::new();
        let upstream = network.enter(Upstream::start);
        let config = network.enter(|| EnvoyConfig::new(Admin::Tcp, &upstream));
        // The unit has a /tmp of its own.
        config.replace(config.dir.path().to_str().unwrap(), "/tmp");
        change(&config);

        let bundle = Bundle::new();
        let root = bundle.root();
        for dir in ["etc/envoy", "etc/systemd/system", "usr", "var/tmp"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        for dir in ["bin", "lib", "lib64", "sbin"] {
            symlink(format!("usr/{dir}"), root.join(dir)).unwrap();
        }
        let mut users = "root:x:0:0::/root:/bin/sh\n\
                         nobody:x:65534:65534::/:/usr/sbin/nologin\n"
            .to_owned();
        let mut groups = "root:x:0:\nnogroup:x:65534:\n".to_owned();
        let write = |file: &str, text: &str| {
            let path = root.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        match drainit {
            Drainit::InPlace => {
                users += &format!("envoy:x:{ENVOY_UID}:{ENVOY_UID}::/:/usr/sbin/nologin\n");
                groups += &format!("envoy:x:{ENVOY_UID}:\n");
                let unit = example("envoy.service");
                write("etc/systemd/system/envoy.service", &unit);
            }
            Drainit::None => {
                write("var/lib/dpkg/status", "");
                for dir in ["info", "updates"] {
                    fs::create_dir(root.join("var/lib/dpkg").join(dir)).unwrap();
                }
            }
        }
        write("etc/passwd", &users);
        write("etc/group", &groups);
        // A machine without an id is taken for a new one, which enables all that is in /usr.
        write("etc/machine-id", "d7a1d7a1d7a1d7a1d7a1d7a1d7a1d7a1\n");
        fs::copy(&config.file, root.join("etc/envoy/envoy.yaml")).unwrap();

        let dir = |name: &str| {
            let dir = bundle.dir.join(name);
            fs::create_dir(&dir).unwrap();
            dir
        };
        let programs = dir("bin");
        let mut mounts = vec![
            bind(&programs, "/usr/local/bin", "rw"),
            bind(&support::envoy(), "/usr/local/bin/envoy", "ro"),
        ];
        match drainit {
            Drainit::InPlace => {
                mounts.insert(0, bind(Path::new("/usr"), "/usr", "ro"));
                mounts.push(bind(&support::drainit(), "/usr/local/bin/drainit", "ro"));
            }
            Drainit::None => {
                let (changes, work) = (dir("changes"), dir("work"));
                let changes = format!("upperdir={}", changes.display());
                let work = format!("workdir={}", work.display());
                let usr = json!({"destination": "/usr", "type": "overlay", "source": "overlay",
                                 "options": ["lowerdir=/usr", changes, work]});
                mounts.insert(0, usr);
            }
        }
        let mut machine = Machine {
            container: bundle.start(&oci(&root, &mounts, &network)),
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

    /// The files and directories that are the machine's own: what was written on it, below /usr too,
    /// the logs and dpkg's notes apart. Of a machine for packages.
    pub fn written(&self) -> BTreeSet<String> {
        let changes = self.root.with_file_name("changes");
        let mut written = BTreeSet::new();
        for (dir, place) in [(&self.root, ""), (&changes, "/usr")] {
            let mut find = Command::new("find");
            find.arg(dir).args(["-mindepth", "1", "-printf", "%P\\n"]);
            let list = find.output().unwrap();
            let list = String::from_utf8(list.stdout).unwrap();
            written.extend(list.lines().map(|path| format!("{place}/{path}")));
        }
        // A directory of the host's /usr in which something was written is shown, too.
        written.retain(|path| !(path.starts_with("/usr/") && Path::new(path).is_dir()));
        written.retain(|path| !path.starts_with("/var/lib/dpkg/") && !path.starts_with("/var/log"));
        written
    }

    /// Copies this file to the machine's /root.
    pub fn copy(&self, file: &Path) -> String {
        let to = Path::new("root").join(file.file_name().unwrap());
        fs::create_dir_all(self.root.join("root")).unwrap();
        fs::copy(file, self.root.join(&to)).unwrap();
        format!("/{}", to.display())
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

fn bind(from: &Path, to: &str, access: &str) -> Value {
    json!({"destination": to, "type": "bind", "source": from, "options": ["bind", access]})
}

fn oci(root: &Path, mounts: &[Value], network: &Network) -> Value {
    let tmpfs = |at: &str, mode: &str| {
        json!({"destination": at, "type": "tmpfs", "source": "tmpfs",
               "options": ["nosuid", "nodev", format!("mode={mode}")]})
    };
    let capabilities = json!(CAPABILITIES);
    let mut config = json!({
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
        ],
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"},
                {"type": "cgroup"}, {"type": "network", "path": network.path()},
            ],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/sysrq-trigger"],
            "readonlyPaths": ["/proc/bus", "/proc/irq", "/proc/sys"],
        },
    });
    config["mounts"]
        .as_array_mut()
        .unwrap()
        .extend_from_slice(mounts);
    config
}
