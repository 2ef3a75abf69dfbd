//! What happens to Envoy's process.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::clients::{HttpConnection, SlowRequest, TcpSession};
use crate::support::drainit::{Drainit, Setting};
use crate::support::envoy_config::{Admin, EnvoyConfig};
use crate::support::fake_envoy::shell;
use crate::support::scene;
use crate::support::{PATIENCE, wait_for};
use crate::terminate_within;

const BOUNDS: [&str; 4] = ["--drain-timeout", "3s", "--kill-timeout", "1s"];
const DEADLINE: Duration = Duration::from_secs(3);
const KILL: Duration = Duration::from_secs(1);
const RESTART: [&str; 2] = ["--restart", "on-failure"];

/// Holds a process's main thread, and nothing else of it, as a request would that takes for ever.
struct Wedge(Pid);

impl Wedge {
    fn new(pid: Pid) -> Wedge {
        // SAFETY: seizing touches no memory of ours.
        let seized = unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid.as_raw(), 0, 0) };
        assert_eq!(seized, 0, "{}", std::io::Error::last_os_error());
        // SAFETY: as above; waitpid is given no status to write.
        unsafe {
            assert_eq!(libc::ptrace(libc::PTRACE_INTERRUPT, pid.as_raw(), 0, 0), 0);
            let stopped = libc::waitpid(pid.as_raw(), std::ptr::null_mut(), libc::__WALL);
            assert_eq!(stopped, pid.as_raw());
        }
        Wedge(pid)
    }
}

impl Drop for Wedge {
    fn drop(&mut self) {
        // SAFETY: as above. It fails when the process is gone.
        unsafe {
            libc::ptrace(libc::PTRACE_DETACH, self.0.as_raw(), 0, 0);
        }
    }
}

#[test]
fn a_killed_envoy_is_the_end_with_137_and_a_waiter_is_told() {
    let (_upstream, config, mut drainit) = scene::ready(&[]);
    let _session = TcpSession::open(config.tcp);
    let health = drainit.health.clone();
    let waiter = std::thread::spawn(move || health.request("POST", "/shutdown", PATIENCE * 2));
    drainit.wait_log("draining");
    kill(drainit.envoy_pid(), Signal::SIGKILL).unwrap();
    assert_eq!(drainit.wait_exit(PATIENCE), 137);
    assert_eq!(waiter.join().unwrap().unwrap().status, 200);
    let last = drainit.wait_log("; exit code ");
    assert!(
        last.contains("envoy exited") && last.contains("exit code 137"),
        "{last}"
    );
}

#[test]
fn the_first_question_is_not_lost_because_it_came_before_its_thread() {
    let (_upstream, config) = scene::of(Admin::Unix);
    let drainit = Drainit::envoy(&[], &config);
    wait_for("drainit to be ready", PATIENCE, || {
        let answer = drainit.request("GET", "/ready", PATIENCE);
        answer.is_ok_and(|(status, body)| {
            assert!(!body.contains("thread that asks"), "{body}");
            status == 200
        })
    });
}

#[test]
fn a_stopped_envoy_is_not_ready_and_ends_with_the_deadline() {
    let (_upstream, _config, mut drainit) = scene::ready(&BOUNDS);
    kill(drainit.envoy_pid(), Signal::SIGSTOP).unwrap();
    drainit.wait_unready();
    // It may come back: a minute long, that is no reason to kill it.
    assert_eq!(drainit.get("/healthz").0, 200);
    terminate_within(&mut drainit, DEADLINE, DEADLINE + KILL, 137);
    drainit.wait_log("admin lost, after");
    drainit.wait_log("SIGKILL");
}

#[test]
fn an_envoy_that_was_stopped_for_a_while_loses_nothing() {
    let (upstream, config, mut drainit) = scene::ready(&[]);
    let slow = SlowRequest::start(config.http, Duration::from_millis(500));
    upstream.wait_in_flight(1);
    let envoy = drainit.envoy_pid();
    kill(envoy, Signal::SIGSTOP).unwrap();
    drainit.signal(Signal::SIGTERM);
    drainit.wait_log("no answer in time");
    kill(envoy, Signal::SIGCONT).unwrap();
    assert_eq!(slow.status(), 200);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    drainit.wait_log("drained after");
}

#[test]
fn a_wedged_main_thread_is_no_reason_to_cut_what_the_workers_carry() {
    let (upstream, config, mut drainit) = scene::ready(&BOUNDS);
    let wedge = Wedge::new(drainit.envoy_pid());
    drainit.wait_unready();
    assert_eq!(drainit.get("/healthz").0, 200);
    HttpConnection::idle(config.http);
    let slow = SlowRequest::start(config.http, Duration::from_secs(2));
    upstream.wait_in_flight(1);
    terminate_within(&mut drainit, DEADLINE, DEADLINE + KILL, 137);
    assert_eq!(slow.status(), 200);
    drainit.wait_log("admin lost, after");
    drop(wedge);
}

#[test]
fn a_main_thread_that_was_wedged_for_a_while_drains_after_all() {
    let (_upstream, config) = scene::of(Admin::Tcp);
    let mut drainit = Drainit::ready(&[], &config);
    let mut session = TcpSession::open(config.tcp);
    let wedge = Wedge::new(drainit.envoy_pid());
    drainit.signal(Signal::SIGTERM);
    drainit.wait_log("no answer in time");
    session.echo().unwrap();
    drop(wedge);
    drainit.wait_log("envoy's listeners drain");
    session.echo().unwrap();
    drop(session);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    drainit.wait_log("drained after");
}

#[test]
fn a_main_thread_that_is_wedged_for_a_minute_fails_the_liveness_probe_and_then_not() {
    let (_upstream, _config, drainit) = scene::ready(&[]);
    let wedge = Wedge::new(drainit.envoy_pid());
    let start = Instant::now();
    wait_for(
        "/healthz to fail",
        PATIENCE + Duration::from_secs(60),
        || {
            std::thread::sleep(Duration::from_millis(200));
            drainit.get("/healthz").0 == 503
        },
    );
    assert!(
        start.elapsed() >= Duration::from_secs(59),
        "{:?}",
        start.elapsed()
    );
    let (_, why) = drainit.get("/healthz");
    assert!(
        why.contains("admin interface has not answered for 6"),
        "{why}"
    );
    drop(wedge);
    wait_for("/healthz to be well again", PATIENCE, || {
        drainit.get("/healthz").0 == 200
    });
    drainit.wait_ready();
}

#[test]
fn a_refused_configuration_is_the_end_with_1_and_is_not_tried_again() {
    let (_upstream, config) = scene::of(Admin::Unix);
    config.replace("static_resources:", "static_ressources:");
    for options in [&[][..], &RESTART] {
        let mut drainit = Drainit::envoy(options, &config);
        assert_eq!(drainit.wait_exit(PATIENCE), 1);
        let last = drainit.wait_log("; exit code ");
        assert!(
            last.contains("envoy refuses its command line or configuration:")
                && last.contains("static_ressources"),
            "{last}"
        );
        let starts = drainit
            .log
            .lines()
            .iter()
            .filter(|line| line.contains("envoy started"))
            .count();
        assert_eq!(starts, 1);
    }
}

fn starts(drainit: &Drainit) -> usize {
    let lines = drainit.log.lines();
    let starts = lines.iter().filter(|line| line.contains("envoy started"));
    starts.count()
}

#[test]
fn a_refused_command_line_is_the_end_with_its_reason() {
    let (_upstream, config) = scene::of(Admin::Unix);
    let mut command = vec![crate::support::envoy().display().to_string()];
    command.extend(config.arguments());
    command.push("--bogus".into());
    let mut drainit = Drainit::start(&RESTART, &command);
    assert_eq!(drainit.wait_exit(PATIENCE), 1);
    let last = drainit.wait_log("; exit code ");
    assert!(last.contains("--bogus"), "{last}");
    assert_eq!(starts(&drainit), 1);
}

/// Somebody who has a listener's address, and lets it go when dropped.
fn squatter(config: &EnvoyConfig) -> std::net::TcpListener {
    std::net::TcpListener::bind(config.http).unwrap()
}

#[test]
fn an_address_that_is_taken_for_a_while_is_no_refused_configuration() {
    let (upstream, config) = scene::of(Admin::Unix);
    let taken = squatter(&config);
    let mut drainit = Drainit::envoy(&RESTART, &config);
    wait_for("two more starts", PATIENCE, || starts(&drainit) >= 3);
    assert!(!drainit.has_exited());
    drop(taken);
    drainit.wait_ready();
    HttpConnection::idle(config.http);

    // And where nobody starts it again, it is no refusal either.
    let config = EnvoyConfig::new(Admin::Unix, &upstream);
    let _taken = squatter(&config);
    let mut never = Drainit::envoy(&[], &config);
    assert_eq!(never.wait_exit(PATIENCE), 1);
    let last = never.wait_log("; exit code ");
    assert!(!last.contains("refuse"), "{last}");
}

#[test]
fn a_script_that_drops_its_arguments_is_never_asked_and_one_that_hands_them_on_is() {
    let (_upstream, config) = scene::of(Admin::Unix);
    let envoy = crate::support::envoy().display().to_string();
    let lives = config.dir.join("lives");
    // Asked whether it refuses its configuration, it would start an Envoy that serves.
    let script = format!(
        "echo >>{lives}; [ $(wc -l <{lives}) -gt 2 ] || exit 1
         exec {envoy} --disable-hot-restart {}",
        config.arguments().join(" "),
        lives = lives.display(),
    );
    let drainit = Drainit::start(&RESTART, &shell(&script));
    wait_for("the third life", PATIENCE, || starts(&drainit) == 3);
    wait_for("envoy to serve", PATIENCE, || {
        HttpConnection::open(config.http).is_ok()
    });
    assert_eq!(fs::read_to_string(&lives).unwrap().lines().count(), 3);
    drop(drainit);

    let mut command = shell("\"$@\"; exit $?");
    command.extend(["sh".into(), envoy]);
    command.extend(config.arguments());
    let mut drainit = Drainit::start(&RESTART, &command);
    drainit.wait_ready();
    config.replace("static_resources:", "static_ressources:");
    let shell = drainit.envoy_pid();
    let envoy = crate::support::process::children(shell)[0];
    kill(envoy, Signal::SIGKILL).unwrap();
    assert_eq!(drainit.wait_exit(PATIENCE), 1);
    let last = drainit.wait_log("; exit code ");
    assert!(last.contains("static_ressources"), "{last}");
}

#[test]
fn an_end_that_nobody_here_asked_for_is_a_failure_and_a_warning() {
    let (_upstream, config) = scene::of(Admin::Unix);
    let quit = |drainit: &Drainit| {
        let admin = config.admin.as_ref().unwrap();
        let _ = admin.request("POST", "/quitquitquit", PATIENCE);
        drainit.wait_log("which nobody here asked for");
    };
    let mut drainit = Drainit::ready(&RESTART, &config);
    let envoy = drainit.envoy_pid();
    quit(&drainit);
    wait_for("another life", PATIENCE, || {
        restarts(&drainit) == 1 && drainit.get("/ready").0 == 200
    });
    assert_ne!(drainit.envoy_pid(), envoy);
    drainit.signal(Signal::SIGTERM);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);

    let mut never = Drainit::ready(&[], &config);
    quit(&never);
    assert_eq!(never.wait_exit(PATIENCE), 0);

    let version = [
        crate::support::envoy().display().to_string(),
        "--version".into(),
    ];
    let mut version = Drainit::start(&RESTART, &version);
    assert_eq!(version.wait_exit(PATIENCE), 0);
    assert_eq!(starts(&version), 1);
}

#[test]
fn a_core_dump_is_told() {
    let script = "ulimit -c unlimited; kill -ABRT $$";
    let dumps = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let dir = crate::support::TempDir::new();
    let script = format!("cd {}; {script}", dir.path().display());
    let mut drainit = Drainit::start(&[], &shell(&script));
    assert_eq!(drainit.wait_exit(PATIENCE), 134);
    let last = drainit.wait_log("; exit code ");
    assert!(
        last.contains("envoy was killed by SIGABRT, core dumped"),
        "{last} ({dumps})"
    );
}

#[test]
fn a_crash_at_every_start_is_tried_again_ever_more_slowly_and_a_sigterm_ends_it_at_once() {
    let start = Instant::now();
    let mut drainit = Drainit::start(&RESTART, &shell("kill -SEGV $$"));
    wait_for("four restarts", PATIENCE, || restarts(&drainit) >= 4);
    // 200, 400, 800 and 1600 ms, each three quarters of that at the least.
    assert!(
        start.elapsed() >= Duration::from_millis(2250),
        "{:?}",
        start.elapsed()
    );
    // This shell, too, is soon gone; then there are three seconds.
    wait_for("the fifth crash", PATIENCE, || {
        let log = drainit.log.lines();
        let crash = |line: &&String| line.contains("restarting: envoy exited: killed by SIGSEGV");
        log.iter().filter(crash).count() >= 5
    });
    wait_for("the pause", PATIENCE, || {
        let (status, why) = drainit.get("/ready");
        status == 503 && why.contains("envoy is being restarted")
    });
    assert_eq!(drainit.get("/healthz").0, 503);
    assert!(drainit.get("/status").1.contains("\"restarting\""));
    assert!(
        drainit
            .get("/metrics")
            .1
            .contains("drainit_state{state=\"restarting\"} 1")
    );
    terminate_within(&mut drainit, Duration::ZERO, Duration::ZERO, 0);
    drainit.wait_log("restarting: envoy exited: killed by SIGSEGV");
}

#[test]
fn without_restart_a_crash_at_the_start_is_the_end_with_its_code() {
    let mut drainit = Drainit::start(&[], &shell("kill -SEGV $$"));
    assert_eq!(drainit.wait_exit(PATIENCE), 139);
}

fn restarts(drainit: &Drainit) -> u64 {
    let metrics = drainit
        .request("GET", "/metrics", PATIENCE)
        .unwrap_or_default()
        .1;
    let line = metrics
        .lines()
        .find(|line| line.starts_with("drainit_envoy_restarts_total "));
    line.and_then(|line| line.split(' ').nth(1)?.parse().ok())
        .unwrap_or_default()
}

#[test]
fn a_killed_envoy_is_started_again_where_that_is_asked_for() {
    let (upstream, config, mut drainit) = scene::ready(&RESTART);
    for round in 1..=3 {
        let envoy = drainit.envoy_pid();
        kill(envoy, Signal::SIGKILL).unwrap();
        wait_for("the restart to show", PATIENCE, || {
            let (status, why) = drainit.get("/ready");
            status == 503
                && why.contains("envoy is being restarted: envoy exited: killed by SIGKILL")
        });
        drainit.wait_ready();
        assert_ne!(drainit.envoy_pid(), envoy);
        assert_eq!(restarts(&drainit), round);
        HttpConnection::idle(config.http);
    }
    assert!(
        drainit.get("/status").1.contains("\"restarts\":3"),
        "{}",
        drainit.get("/status").1
    );
    scene::a_request_is_waited_for(&mut drainit, &config, &upstream);
}

#[test]
fn a_killed_envoy_is_not_started_again_while_it_drains() {
    let (_upstream, config, mut drainit) = scene::ready(&RESTART);
    let _session = TcpSession::open(config.tcp);
    drainit.signal(Signal::SIGTERM);
    drainit.wait_unready();
    kill(drainit.envoy_pid(), Signal::SIGKILL).unwrap();
    assert_eq!(drainit.wait_exit(PATIENCE), 137);
}

/// A memory cgroup that is removed with its test.
pub struct MemoryLimit(PathBuf);

impl MemoryLimit {
    #[track_caller]
    pub fn new(name: &str, bytes: u64) -> MemoryLimit {
        let (root, file) = match Path::new("/sys/fs/cgroup/memory").exists() {
            true => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            false => ("/sys/fs/cgroup", "memory.max"),
        };
        let name = format!("drainit-{name}-{}", std::process::id());
        let limit = MemoryLimit(Path::new(root).join(name));
        fs::create_dir(&limit.0)
            .and_then(|()| fs::write(limit.0.join(file), bytes.to_string()))
            .unwrap_or_else(|error| panic!("no memory cgroup at {}: {error}", limit.0.display()));
        limit
    }

    /// A shell's words for: from here on, in it.
    pub fn enter(&self) -> String {
        format!("echo $$ >{}/cgroup.procs", self.0.display())
    }

    pub fn holds(&self, pid: Pid) -> bool {
        let processes = fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
        processes.lines().any(|line| line == pid.to_string())
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// A process that holds this many bytes of a memory cgroup, so that the kernel kills Envoy in it.
struct Hog(Child);

impl Hog {
    fn new(limit: &MemoryLimit, bytes: u64, envoy: Pid) -> Hog {
        // Else it would be the largest.
        fs::write(format!("/proc/{envoy}/oom_score_adj"), "1000").unwrap();
        let script = format!(
            "{} && exec python3 -c '{}'",
            limit.enter(),
            format_args!("import sys; held = b\"x\" * {bytes}; sys.stdin.read()")
        );
        let mut hog = Command::new("sh");
        hog.args(["-c", &script]).stdin(Stdio::piped());
        Hog(hog.spawn().unwrap())
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_envoy_that_the_kernel_kills_for_its_memory_is_137() {
    let (_upstream, config) = scene::of(Admin::Unix);
    let limit = MemoryLimit::new("oom", 256 << 20);
    let hog = |drainit: &Drainit| Hog::new(&limit, 240 << 20, drainit.envoy_pid());
    // As in a container: drainit, which needs little, is in it too.
    let inside = || Setting::default().behind_script(&format!("{}; exec \"$@\"", limit.enter()));
    let mut drainit = inside().ready(&[], &config);
    {
        let _hog = hog(&drainit);
        assert_eq!(drainit.wait_exit(PATIENCE), 137);
    }
    let last = drainit.wait_log("; exit code ");
    assert!(last.contains("killed by SIGKILL, out of memory"), "{last}");

    let mut drainit = inside().ready(&RESTART, &config);
    {
        let _hog = hog(&drainit);
        wait_for("restarts", PATIENCE, || restarts(&drainit) >= 1);
    }
    drainit.wait_log("envoy exited: killed by SIGKILL, out of memory");
    drainit.wait_ready();
    terminate_within(&mut drainit, Duration::ZERO, Duration::from_secs(2), 0);

    // A SIGKILL of drainit's is not called that, whatever else the kernel has killed meanwhile.
    let mut drainit = inside().ready(&["--kill-timeout", "100ms"], &config);
    let greedy = format!(
        "{} && echo 1000 >/proc/$$/oom_score_adj && exec python3 -c 'b\"x\" * {}'",
        limit.enter(),
        300 << 20
    );
    let greedy = Command::new("sh").args(["-c", &greedy]).status().unwrap();
    assert_eq!(greedy.signal(), Some(9), "{greedy}");
    kill(drainit.envoy_pid(), Signal::SIGSTOP).unwrap();
    drainit.signal(Signal::SIGQUIT);
    assert_eq!(drainit.wait_exit(PATIENCE), 137);
    let last = drainit.wait_log("; exit code ");
    assert!(!last.contains("memory"), "{last}");

    // Nor is one of somebody else's.
    let mut drainit = Drainit::ready(&[], &config);
    kill(drainit.envoy_pid(), Signal::SIGKILL).unwrap();
    assert_eq!(drainit.wait_exit(PATIENCE), 137);
    let last = drainit.wait_log("; exit code ");
    assert!(!last.contains("memory"), "{last}");
}
