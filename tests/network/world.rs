//! A container in small: a pid namespace with its /proc, and a network namespace, which several
//! may share.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::unistd::Pid;

use super::support::drainit::{Log, run_command};
use super::support::fake_admin::FakeAdmin;
use super::support::fake_envoy::{self, SharedModel};
use super::support::process::{self, Process};
use super::support::{self, PATIENCE, TempDir, wait_for, wait_for_some};

/// The user that is nobody in particular.
pub const STRANGER: u32 = 4_711;
/// The user that containers run as.
pub const NOBODY: u32 = 65_534;

pub struct World {
    outer: Process,
    /// Its pid 1, as we see it.
    init: Pid,
    pub log: Log,
    admin: FakeAdmin,
    dir: TempDir,
    is_rootless: bool,
}

impl World {
    /// A world of its own, in which nothing runs yet but a pid 1 that waits.
    pub fn new() -> World {
        World::start(&["--net"], None)
    }

    /// As a user who is not root makes one: with a user namespace, whose root that user is.
    pub fn rootless() -> World {
        World::start(&["--net", "--user", "--map-root-user"], None)
    }

    /// Another one in the same network.
    pub fn beside(&self) -> World {
        World::start(&[], Some(self.init))
    }

    fn start(options: &[&str], network: Option<Pid>) -> World {
        let mut line: Vec<String> = Vec::new();
        let is_rootless = options.contains(&"--user");
        if is_rootless {
            line = user(STRANGER);
        }
        if let Some(pid) = network {
            line.extend(["nsenter".into(), format!("--net=/proc/{pid}/ns/net")]);
        }
        line.extend(
            ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"].map(String::from),
        );
        line.extend(options.iter().map(ToString::to_string));
        let script = "ip link set lo up; read -r line; eval \"exec $line\"";
        line.extend(["sh", "-c", script].map(String::from));
        let mut command = Command::new(&line[0]);
        command.args(&line[1..]).stdin(Stdio::piped());
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut outer = Process::spawn(&mut command);
        let log = Log::default();
        log.collect(outer.child().stderr.take().unwrap());
        let init = wait_for_some("pid 1", PATIENCE, || {
            process::children(outer.pid()).first().copied()
        });
        let admin = SharedModel::default().admin();
        let socket = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(admin.address.text(), socket).unwrap();
        let dir = TempDir::new();
        // Where every user may run it.
        support::copy_program(support::drainit(), dir.join("drainit"));
        let world = World {
            outer,
            init,
            log,
            admin,
            dir,
            is_rootless,
        };
        wait_for("the world's own /proc", PATIENCE, || {
            let ours = std::fs::metadata("/proc/self/ns/mnt").unwrap().ino();
            let mounts = std::fs::metadata(format!("/proc/{init}/ns/mnt"));
            let named = std::fs::read_to_string(format!("/proc/{init}/comm"));
            mounts.is_ok_and(|theirs| theirs.ino() != ours)
                && named.is_ok_and(|name| name == "sh\n")
        });
        world
    }

    /// Its pid 1, as we see it.
    pub fn init(&self) -> Pid {
        self.init
    }

    pub fn program(&self) -> String {
        self.dir.join("drainit").display().to_string()
    }

    /// The command line of a drainit over an Envoy that is not real.
    pub fn drainit(&self, uid: u32, options: &[&str]) -> Vec<String> {
        let admin = self.admin.address.text();
        let mut line = self.user(uid);
        line.push(self.program());
        line.extend(["--envoy-flags", "keep", "--admin-address", &admin].map(String::from));
        line.extend(options.iter().map(ToString::to_string));
        line.push("--".into());
        line.extend(fake_envoy::child());
        line
    }

    /// What makes a command this user's. A user namespace here has no user but root.
    fn user(&self, uid: u32) -> Vec<String> {
        if self.is_rootless {
            Vec::new()
        } else {
            user(uid)
        }
    }

    /// Lets pid 1 become this.
    pub fn become_pid_1(&mut self, line: &[String]) {
        let quoted = line
            .iter()
            .map(|word| format!("'{}' ", word.replace('\'', "'\\''")));
        let mut stdin = self.outer.child().stdin.take().unwrap();
        writeln!(stdin, "{}", quoted.collect::<String>()).unwrap();
    }

    /// Lets pid 1 become a drainit of this user; ready.
    pub fn serve(&mut self, uid: u32, options: &[&str]) {
        let line = self.drainit(uid, options);
        self.become_pid_1(&line);
        wait_for("an Envoy that is live", PATIENCE, || {
            self.log.find("live").is_some()
        });
    }

    /// The inode of its pid namespace.
    pub fn pid_namespace(&self) -> u64 {
        let path = format!("/proc/{}/ns/pid", self.init);
        std::fs::metadata(path).unwrap().ino()
    }

    /// The name that the drainit with this pid would like to have.
    pub fn name(&self, pid: i32) -> String {
        format!("drainit/{}/{pid}", self.pid_namespace())
    }

    fn enter(&self, line: &[String]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.init.to_string(), "-n", "-p", "-m"]);
        if self.is_rootless {
            command.arg("-U");
        }
        command.arg("--");
        command.args(line);
        command.env_remove("MAINPID");
        command
    }

    /// Runs `drainit ARGUMENTS` in it, as this user: exit code, output, errors.
    pub fn run(&self, uid: u32, arguments: &[&str]) -> (i32, String, String) {
        self.run_with(uid, &[], arguments)
    }

    pub fn run_with(
        &self,
        uid: u32,
        variables: &[(&str, &str)],
        arguments: &[&str],
    ) -> (i32, String, String) {
        let mut line = self.user(uid);
        line.push(self.program());
        line.extend(arguments.iter().map(ToString::to_string));
        run_command(self.enter(&line).envs(variables.iter().copied()))
    }

    /// Starts something else in it; see [`Guest`].
    pub fn spawn(&self, line: &[String]) -> Guest {
        let mut whole = ["sh", "-c", "echo $$; exec \"$@\"", "sh"]
            .map(String::from)
            .to_vec();
        whole.extend_from_slice(line);
        let mut command = self.enter(&whole);
        command.stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Process::spawn(&mut command);
        let log = Log::default();
        log.collect(process.child().stderr.take().unwrap());
        let mut out = BufReader::new(process.child().stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let pid = line.trim().parse().unwrap();
        log.collect(out);
        Guest { pid, log, process }
    }

    /// A drainit that is not pid 1; ready.
    pub fn guest(&self, uid: u32, options: &[&str]) -> Guest {
        let guest = self.spawn(&self.drainit(uid, options));
        guest.wait_log("live");
        guest
    }

    /// Somebody of this user who says that he is a drainit; he listens.
    pub fn squatter(&self, uid: u32, arguments: &[&str]) -> Guest {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/network/squatter.py");
        let copy: PathBuf = self.dir.join("squatter.py");
        std::fs::copy(script, &copy).unwrap();
        let mut line = vec!["prlimit".to_owned(), "--nofile=20000:20000".to_owned()];
        line.extend(user(uid));
        line.extend(["/usr/bin/python3".to_owned(), copy.display().to_string()]);
        line.extend(arguments.iter().map(ToString::to_string));
        let squatter = self.spawn(&line);
        squatter.wait_log("ready");
        squatter
    }

    /// A process of root's that says which signals it was sent.
    pub fn victim(&self) -> Guest {
        let script = "for s in HUP USR1 USR2 TERM; do trap \"echo got $s\" $s; done; echo waits; \
                      while :; do sleep 0.05; done";
        let victim = self.spawn(&["sh", "-c", script].map(String::from));
        victim.wait_log("waits");
        victim
    }
}

/// A process in a world that is not its pid 1.
pub struct Guest {
    /// Its pid there.
    pub pid: i32,
    pub log: Log,
    process: Process,
}

impl Guest {
    #[track_caller]
    pub fn wait_log(&self, text: &str) -> String {
        wait_for_some(&format!("a line with {text:?}"), PATIENCE, || {
            self.log.find(text)
        })
    }

    /// Itself, as we see it.
    pub fn outside(&self) -> Pid {
        process::children(self.process.pid())[0]
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- process {} of its world", self.pid);
            self.log.lines().iter().for_each(|line| eprintln!("{line}"));
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- pid 1 of its world");
            self.log.lines().iter().for_each(|line| eprintln!("{line}"));
        }
    }
}

fn user(uid: u32) -> Vec<String> {
    let uid = uid.to_string();
    [
        "setpriv",
        "--reuid",
        &uid,
        "--regid",
        &uid,
        "--clear-groups",
    ]
    .map(str::to_owned)
    .into()
}
