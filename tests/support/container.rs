//! Real containers, with runc: a network namespace as a pod has one, and what runs in it.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;
use std::{env, process as std_process};

use nix::libc::AF_NETLINK;
use nix::pty::openpty;
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::geteuid;
use serde_json::{Value, json};

use super::drainit::Log;
use super::process::Process;
use super::{PATIENCE, wait_for};

/// The image's root file system, with Envoy and drainit.
pub fn rootfs() -> PathBuf {
    let path = env::var_os("TEST_ROOTFS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/image/rootfs"),
        PathBuf::from,
    );
    assert!(
        path.join("drainit").is_file(),
        "{} is no root file system: run scripts/image",
        path.display()
    );
    path
}

/// A network namespace of its own, with loopback and an address as a pod's.
pub struct Network(File);

impl Network {
    pub const POD_IP: &str = "10.244.0.7";

    pub fn new() -> Network {
        assert!(
            geteuid().is_root(),
            "the container tests need root, as containers do"
        );
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            ip(&["link", "set", "lo", "up"]);
            ip(&["address", "add", Network::POD_IP, "dev", "lo"]);
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        Network(made.join().unwrap())
    }

    /// Runs this in the namespace: the sockets and threads it makes are there, and stay there.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let entered = thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
                    work()
                })
                .join()
        });
        entered.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Starts a process in the namespace. It ends with the calling thread, or before.
    pub fn spawn(&self, command: &mut Command) -> Process {
        use std::os::fd::AsRawFd;
        use std::os::unix::process::CommandExt;
        let namespace = self.0.as_raw_fd();
        // SAFETY: between fork and exec, setns alone, which is a bare system call on a
        // descriptor that outlives it.
        unsafe {
            command.pre_exec(move || {
                let namespace = std::os::fd::BorrowedFd::borrow_raw(namespace);
                setns(namespace, CloneFlags::CLONE_NEWNET).map_err(Into::into)
            });
        }
        Process::spawn(command)
    }

    /// Takes the network down, as Docker and CNI plugins do when the container in it has ended.
    pub fn take_down(&self) {
        self.enter(|| ip(&["link", "set", "lo", "down"]));
    }

    /// Where the kernel shows it.
    pub fn path(&self) -> String {
        use std::os::fd::AsRawFd;
        format!("/proc/{}/fd/{}", std_process::id(), self.0.as_raw_fd())
    }
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status();
    assert!(
        status.expect("ip (iproute2) is missing").success(),
        "{arguments:?}"
    );
}

/// What a container is made of.
#[derive(Clone, Debug)]
pub struct Spec {
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub user: (u32, u32),
    /// Directories and files from outside: from, to, read-only.
    pub mounts: Vec<(PathBuf, PathBuf, bool)>,
    pub read_only: bool,
    /// Whether /dev/shm is there, as Docker and Kubernetes have it.
    pub shared_memory: bool,
    /// What the root file system is to be without, and of what nothing else is to be left.
    pub without_drainit: bool,
    pub only_drainit: bool,
    /// The system calls that are refused.
    pub refused: Vec<&'static str>,
    /// Whether sockets of netlink are refused, as by a strict seccomp profile.
    pub without_netlink: bool,
    pub memory: Option<i64>,
    /// Whether it has a terminal, as with `docker run -it`.
    pub terminal: bool,
    /// The pid namespace that it joins, as `kubectl debug --target` has it: /proc/PID/ns/pid.
    pub pid_namespace: Option<PathBuf>,
}

impl Spec {
    /// Uid 65534 on a read-only root without a capability, as the image is meant to run.
    pub fn new(args: &[&str]) -> Spec {
        Spec {
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            env: Vec::new(),
            user: (65534, 65534),
            mounts: Vec::new(),
            read_only: true,
            shared_memory: false,
            without_drainit: false,
            only_drainit: false,
            refused: Vec::new(),
            without_netlink: false,
            memory: None,
            terminal: false,
            pid_namespace: None,
        }
    }

    fn config(&self, root: &Path, network: &Network) -> Value {
        let mut env = vec!["PATH=/usr/local/bin:/usr/bin:/bin".to_owned()];
        env.extend(
            self.env
                .iter()
                .map(|(name, value)| format!("{name}={value}")),
        );
        // No /tmp, no /run: Envoy and drainit need none.
        let mut mounts = vec![
            json!({"destination": "/proc", "type": "proc", "source": "proc"}),
            json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                   "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        ];
        if self.shared_memory {
            mounts.push(
                json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]}),
            );
        }
        if self.terminal {
            mounts.push(
                json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]}),
            );
        }
        mounts.extend(self.mounts.iter().map(|(from, to, read_only)| {
            let access = if *read_only { "ro" } else { "rw" };
            json!({"destination": to, "type": "bind", "source": from,
                   "options": ["rbind", "nosuid", "nodev", access]})
        }));
        let mut config = json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": self.terminal,
                "user": {"uid": self.user.0, "gid": self.user.1},
                "cwd": "/",
                "args": self.args,
                "env": env,
                "noNewPrivileges": true,
                "capabilities": {"bounding": [], "effective": [], "permitted": [],
                                 "inheritable": [], "ambient": []},
            },
            "root": {"path": root, "readonly": self.read_only},
            "mounts": mounts,
            "linux": {
                "namespaces": [
                    {"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"},
                    {"type": "network", "path": network.path()},
                ],
            },
        });
        let mut refused = Vec::new();
        if !self.refused.is_empty() {
            refused.push(json!({"names": self.refused, "action": "SCMP_ACT_ERRNO"}));
        }
        if self.without_netlink {
            refused.push(json!({"names": ["socket"], "action": "SCMP_ACT_ERRNO",
                "args": [{"index": 0, "value": AF_NETLINK, "op": "SCMP_CMP_EQ"}]}));
        }
        if !refused.is_empty() {
            config["linux"]["seccomp"] =
                json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": refused});
        }
        if let Some(path) = &self.pid_namespace {
            config["linux"]["namespaces"][0]["path"] = json!(path);
        }
        if let Some(limit) = self.memory {
            config["linux"]["resources"] = json!({"memory": {"limit": limit}});
        }
        config
    }
}

/// What runc makes a container of.
pub struct Bundle {
    id: String,
    pub dir: PathBuf,
}

impl Bundle {
    /// Its directory, empty.
    pub fn new() -> Bundle {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("drainit-test-{}-{number}", std_process::id());
        // Beside the image, so that it can be copied by hard links: runc makes the missing mount
        // points in it.
        let dir = rootfs().parent().unwrap().join("containers").join(&id);
        fs::create_dir_all(&dir).unwrap();
        Bundle { id, dir }
    }

    /// Where its root file system belongs.
    pub fn root(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    pub fn start(self, config: &Value) -> Container {
        let Bundle { id, dir } = self;
        fs::write(dir.join("config.json"), config.to_string()).unwrap();
        let mut run = runc(&dir);
        run.args(["run", "-b"]).arg(&dir).arg(&id);
        let (log, out) = (Log::default(), Log::default());
        let mut terminal = None;
        let process = if config["process"]["terminal"] == true {
            let pty = openpty(None, None).unwrap();
            let slave = || pty.slave.try_clone().unwrap();
            run.stdin(slave()).stdout(slave()).stderr(slave());
            log.collect(File::from(pty.master.try_clone().unwrap()));
            terminal = Some(File::from(pty.master));
            Process::spawn(&mut run)
        } else {
            run.stdin(Stdio::null());
            run.stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut process = Process::spawn(&mut run);
            log.collect(process.child().stderr.take().unwrap());
            out.collect(process.child().stdout.take().unwrap());
            process
        };
        Container {
            log,
            out,
            terminal,
            process,
            id,
            dir,
        }
    }
}

/// A running container. What it leaves behind goes with it.
pub struct Container {
    pub log: Log,
    pub out: Log,
    /// The near end of its terminal, from which a person would see `log`.
    pub terminal: Option<File>,
    process: Process,
    id: String,
    dir: PathBuf,
}

impl Container {
    pub fn start(spec: &Spec, network: &Network) -> Container {
        let bundle = Bundle::new();
        let (source, root) = (rootfs(), bundle.root());
        if spec.only_drainit {
            fs::create_dir(&root).unwrap();
            fs::hard_link(source.join("drainit"), root.join("drainit")).unwrap();
        } else {
            let mut copy = Command::new("cp");
            copy.arg("-al").args([&source, &root]);
            assert!(copy.status().unwrap().success(), "{copy:?}");
        }
        if spec.without_drainit {
            fs::remove_file(root.join("drainit")).unwrap();
        }
        let config = spec.config(&root, network);
        bundle.start(&config)
    }

    /// Runs a container to its end: exit code and output.
    pub fn run(spec: &Spec, network: &Network) -> (i32, Vec<String>) {
        let mut container = Container::start(spec, network);
        let code = container.wait_exit(PATIENCE);
        (code, container.log.lines())
    }

    /// The container's pid 1, as the host sees it.
    pub fn pid(&self) -> u32 {
        let state = self.runc(&["state"], &[]);
        let state: Value = serde_json::from_slice(&state.stdout).unwrap();
        u32::try_from(state["pid"].as_u64().unwrap()).unwrap()
    }

    pub fn is_running(&self) -> bool {
        let state = self.runc(&["state"], &[]);
        let state = serde_json::from_slice::<Value>(&state.stdout);
        state.is_ok_and(|state| state["status"] == "running")
    }

    /// A line of its /proc/PID/status.
    pub fn status(&self, name: &str) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let fields: Vec<_> = line.unwrap().split_whitespace().collect();
        fields.join(" ")
    }

    /// What the processes inside have in common.
    pub fn pid_namespace(&self) -> PathBuf {
        fs::read_link(format!("/proc/{}/ns/pid", self.pid())).unwrap()
    }

    pub fn kill(&self, signal: &str) {
        let killed = self.runc(&["kill"], &[signal]);
        assert!(killed.status.success(), "{killed:?}");
    }

    /// Runs a program inside: exit code and standard output.
    pub fn exec(&self, command: &[&str]) -> (i32, String) {
        let output = self.runc(&["exec"], command);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code().unwrap(), text)
    }

    fn runc(&self, verb: &[&str], arguments: &[&str]) -> Output {
        let mut command = runc(&self.dir);
        command.args(verb).arg(&self.id).args(arguments);
        command.stdin(Stdio::null()).output().unwrap()
    }

    pub fn has_exited(&mut self) -> bool {
        self.process.has_exited()
    }

    #[track_caller]
    pub fn wait_exit(&mut self, timeout: Duration) -> i32 {
        self.process.wait_exit(timeout)
    }
}

fn runc(dir: &Path) -> Command {
    let mut command = Command::new("runc");
    command.arg("--root").arg(dir.join("state"));
    command
}

impl Drop for Container {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- log of container {}", self.id);
            self.log.lines().iter().for_each(|line| eprintln!("{line}"));
        }
        let mut delete = runc(&self.dir);
        delete.args(["delete", "--force", &self.id]);
        let _ = delete.stdout(Stdio::null()).stderr(Stdio::null()).status();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Lets everybody write there, the container's user among them.
pub fn open_to_all(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(0o777))
}

/// An empty file that everybody may write, such as the kubelet makes for /dev/termination-log.
pub fn writable_file(path: &Path) {
    fs::write(path, "").unwrap();
    open_to_all(path).unwrap();
}

/// Waits until a file holds this text.
#[track_caller]
pub fn wait_text(path: &Path, text: &str) {
    wait_for(&format!("{text:?} in {}", path.display()), PATIENCE, || {
        fs::read_to_string(path).is_ok_and(|found| found.contains(text))
    });
}
