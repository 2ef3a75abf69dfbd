//! One drainit with everything that happens to it at once; one that reloads by hot restart again
//! and again; one that is held and resumed, and asked who has its 1,000 connections; and beside them
//! others, whose whole life is a start and a drain. For twelve seconds,
//! or `SOAK_MINUTES`: `scripts/soak`.

mod support;

use std::fmt;
use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use support::clients::{HttpConnection, SlowRequest};
use support::drainit::{Drainit, Setting};
use support::envoy_config::{Admin, EnvoyConfig};
use support::fake_envoy::shell;
use support::http::Address;
use support::kubelet::write_volume;
use support::upstream::Upstream;
use support::{PATIENCE, TempDir, wait_for};

/// For Envoy to be live again: the longest pause before a restart is half of this.
const RESTARTED: Duration = Duration::from_secs(60);

/// By how much the memory may seem to grow: pages that are touched late.
const SLACK_KB: u64 = 256;

/// Connections that stay open on the one that is held.
const OPEN: usize = 1_000;

/// Certificates in `tests/data`, and their serials.
const LEAVES: [(&str, &str); 3] = [
    ("ec", "a1b2c3"),
    ("rsa", "f00000000000000000000000000000000000001"),
    ("other", "700"),
];

/// What must not grow.
#[derive(Clone, Debug)]
struct Figures {
    descriptors: usize,
    threads: usize,
    zombies: usize,
    rss_kb: u64,
    pss_kb: u64,
}

impl Figures {
    fn of(pid: Pid) -> Figures {
        let memory = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let kb = |name: &str| {
            let line = memory.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap()
                .trim()
                .trim_end_matches(" kB")
                .parse()
                .unwrap()
        };
        Figures {
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(),
            threads: fs::read_dir(format!("/proc/{pid}/task")).unwrap().count(),
            zombies: zombies_of(pid),
            rss_kb: kb("Rss:"),
            pss_kb: kb("Pss:"),
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} descriptors, {} threads, {} zombies, RSS {} kB, Pss {} kB",
            self.descriptors, self.threads, self.zombies, self.rss_kb, self.pss_kb
        )
    }
}

fn zombies_of(pid: Pid) -> usize {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let is_zombie = |child: &&str| {
        fs::read_to_string(format!("/proc/{child}/stat")).is_ok_and(|stat| stat.contains(") Z "))
    };
    children.split_whitespace().filter(is_zombie).count()
}

fn status(drainit: &Drainit) -> Value {
    serde_json::from_str(&drainit.get("/status").1).unwrap()
}

/// Writes a certificate and its key as a kubelet does.
fn rotate(volume: &Path, number: usize, name: &str) {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let text = |kind: &str| fs::read_to_string(data.join(format!("{name}.{kind}"))).unwrap();
    let files = [("tls.crt", text("crt")), ("tls.key", text("key"))];
    write_volume(volume, &number.to_string(), &files);
}

#[derive(Default)]
struct Counts {
    requests: AtomicU64,
    strangers: AtomicU64,
    signals: AtomicU64,
    kills: AtomicU64,
    rotations: AtomicU64,
    drains: AtomicU64,
    reloads: AtomicU64,
    holds: AtomicU64,
    looks: AtomicU64,
}

/// Those that must not grow, and what they live on.
struct Soaked {
    /// Has everything happen to it.
    busy: Drainit,
    /// Reloads by hot restart.
    hot: Drainit,
    /// Is held and resumed.
    held: Drainit,
    /// The connections of its Envoy.
    open: Vec<HttpConnection>,
    upstream: Upstream,
    /// Where the certificates of the first are.
    volume: TempDir,
    /// Their Envoys'.
    configs: [EnvoyConfig; 3],
}

/// Does something again and again, on a thread, until `stop`.
fn again<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    stop: &'scope AtomicBool,
    count: &'scope AtomicU64,
    mut work: impl FnMut() + Send + 'scope,
) {
    scope.spawn(move || {
        while !stop.load(Ordering::SeqCst) {
            work();
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
}

/// Lets an Envoy live for a moment, and every sixth for a minute, after which the pauses before a
/// restart begin anew; and kills it.
fn kill_after_a_while(drainit: &Drainit, counts: &Counts, stop: &AtomicBool) {
    let kills = counts.kills.load(Ordering::SeqCst);
    let mut life = Duration::from_millis(if kills % 6 == 5 { 61_000 } else { 300 });
    const SLICE: Duration = Duration::from_millis(20);
    while !life.is_zero() {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        thread::sleep(SLICE);
        if drainit.get("/ready").0 == 200 {
            life = life.saturating_sub(SLICE);
        }
    }
    // Its children are orphans, too.
    if let Some(envoy) = status(drainit)["envoy"]["pid"].as_i64() {
        let killed = kill(Pid::from_raw(envoy.try_into().unwrap()), Signal::SIGKILL);
        counts
            .kills
            .fetch_add(u64::from(killed.is_ok()), Ordering::SeqCst);
    }
}

/// The next generation, as soon as there may be one.
fn reload(hot: &Drainit) {
    wait_for("the old generation's end", RESTARTED, || {
        status(hot)["envoy"]["old_generation_pid"].is_null()
    });
    let number = status(hot)["reload"]["number"].as_u64();
    hot.signal(Signal::SIGHUP);
    wait_for("the next generation", RESTARTED, || {
        status(hot)["reload"]["number"].as_u64() > number
    });
    let reload = &status(hot)["reload"];
    assert_eq!(reload["ok"], true, "{reload}");
}

/// Out of service, and back.
fn hold_and_resume(held: &Drainit) {
    for (path, ready) in [("/hold", 503), ("/resume", 200)] {
        let (code, body) = held.request("POST", path, RESTARTED).expect(path);
        assert_eq!(code, 200, "{path}: {body}");
        wait_for(path, PATIENCE, || held.get("/ready").0 == ready);
    }
}

/// All of its connections are seen.
fn look(held: &Drainit) {
    let seen = status(held);
    assert_eq!(seen["connections"], OPEN, "{seen}");
    thread::sleep(Duration::from_millis(50));
}

/// Everything at once, for this long.
fn load(soaked: &Soaked, counts: &Counts, time: Duration) {
    let stop = AtomicBool::new(false);
    let (drainit, volume) = (&soaked.busy, soaked.volume.path());
    let Address::Unix(health) = &drainit.health else {
        unreachable!()
    };
    thread::scope(|scope| {
        for path in ["/healthz", "/ready", "/metrics", "/status", "/nowhere"] {
            again(scope, &stop, &counts.requests, move || {
                drainit.request("GET", path, PATIENCE).expect(path);
            });
        }
        again(scope, &stop, &counts.strangers, || {
            if let Ok(mut stranger) = UnixStream::connect(health) {
                let _ = stranger.write_all(b"GET /healthz HTTP/1.1\r\nHalf");
            }
            // Leave the others some of the processor.
            thread::sleep(Duration::from_millis(1));
        });
        again(scope, &stop, &counts.signals, || {
            for signal in [
                Signal::SIGWINCH,
                Signal::SIGUSR1,
                Signal::SIGHUP,
                Signal::SIGCHLD,
            ] {
                drainit.signal(signal);
            }
            thread::sleep(Duration::from_millis(5));
        });
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                kill_after_a_while(drainit, counts, &stop);
            }
        });
        again(scope, &stop, &counts.rotations, || {
            let number = counts.rotations.load(Ordering::SeqCst) as usize + 1;
            let (name, serial) = LEAVES[number % LEAVES.len()];
            rotate(volume, number, name);
            wait_for("the rotation", RESTARTED, || {
                status(drainit)["certificates"][0]["serial"] == serial
            });
        });
        again(scope, &stop, &counts.drains, || {
            let config = EnvoyConfig::new(Admin::Unix, &soaked.upstream);
            let mut other = Drainit::ready(&[], &config);
            let _idle = HttpConnection::idle(config.http);
            let slow = SlowRequest::start(config.http, Duration::from_millis(50));
            other.signal(Signal::SIGTERM);
            assert!(
                slow.finish().is_ok_and(|answer| answer.status == 200),
                "a request was cut"
            );
            drop(_idle);
            assert_eq!(other.wait_exit(PATIENCE), 0);
        });
        again(scope, &stop, &counts.reloads, || reload(&soaked.hot));
        again(scope, &stop, &counts.holds, || {
            hold_and_resume(&soaked.held)
        });
        again(scope, &stop, &counts.looks, || look(&soaked.held));
        let start = Instant::now();
        while start.elapsed() < time {
            thread::sleep(Duration::from_millis(200));
            for one in [drainit, &soaked.hot, &soaked.held] {
                assert!(kill(one.pid(), None).is_ok(), "it is gone");
            }
        }
        stop.store(true, Ordering::SeqCst);
    });
}

/// What it is like once everybody has gone.
fn at_rest(drainit: &Drainit) -> Figures {
    wait_for("Envoy to be live again", RESTARTED, || {
        drainit.get("/ready").0 == 200
    });
    let mut last = Figures::of(drainit.pid());
    let mut same = 0;
    let mut zombies = last.zombies;
    wait_for("the figures to settle", PATIENCE, || {
        thread::sleep(Duration::from_millis(100));
        let now = Figures::of(drainit.pid());
        same = if (now.descriptors, now.threads) == (last.descriptors, last.threads) {
            same + 1
        } else {
            0
        };
        // The orphans go on: whoever ended just now is not yet reaped.
        zombies = zombies.min(now.zombies);
        last = now;
        // Half a request is thrown out after two seconds.
        same > 25
    });
    Figures { zombies, ..last }
}

/// Orphans all the time, as long as its Envoy lives.
fn start_busy(config: &EnvoyConfig, volume: &Path) -> Drainit {
    config.serve_tls("edge");
    let orphans = "(while kill -0 $$ 2>/dev/null; do (: &); (sleep 0.1 &); (true & true &); \
                   sleep 0.02; done) & exec \"$@\"";
    let mut command = shell(orphans);
    command.extend(["sh".into(), support::envoy().display().to_string()]);
    command.extend(config.arguments());
    rotate(volume, 0, LEAVES[0].0);
    let [cert, key] = ["tls.crt", "tls.key"].map(|name| volume.join(name).display().to_string());
    let secret = format!("edge={cert},{key}");
    let resources = config.resources().display().to_string();
    let options = [
        "--restart",
        "on-failure",
        "--secret",
        &secret,
        "--resources-dir",
        &resources,
        "--certificate-check",
        "100ms",
    ];
    Setting::default().start(&options, &command)
}

/// One whose old generations go soon.
fn start_hot(config: &EnvoyConfig) -> Drainit {
    let mut command = vec![support::envoy().display().to_string()];
    command.extend(config.arguments());
    command.extend(["--drain-time-s", "1", "--parent-shutdown-time-s", "2"].map(String::from));
    Setting::default().start(&["--hot-restart", "--drain-timeout", "5s"], &command)
}

/// One that is asked for what is open, with a settle time that is soon over.
fn start_held(config: &EnvoyConfig) -> Drainit {
    let mut command = vec![support::envoy().display().to_string()];
    command.extend(config.arguments());
    Setting::default().start(&["--settle", "200ms"], &command)
}

impl Soaked {
    fn start() -> Soaked {
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
        let upstream = Upstream::start();
        let configs = [(); 3].map(|()| EnvoyConfig::new(Admin::Unix, &upstream));
        let volume = TempDir::new();
        let mut soaked = Soaked {
            busy: start_busy(&configs[0], volume.path()),
            hot: start_hot(&configs[1]),
            held: start_held(&configs[2]),
            open: Vec::new(),
            upstream,
            volume,
            configs,
        };
        soaked.busy.wait_ready();
        soaked.hot.wait_ready();
        soaked.held.wait_ready();
        let address = soaked.configs[2].http;
        soaked.open = (0..OPEN).map(|_| HttpConnection::idle(address)).collect();
        soaked
    }

    /// What each is like once everybody has gone.
    fn at_rest(&self, when: &str) -> [Figures; 3] {
        let figures = [&self.busy, &self.hot, &self.held].map(at_rest);
        for (name, figures) in ["busy", "hot", "held"].iter().zip(&figures) {
            println!("{when:7} {name}: {figures}");
        }
        figures
    }
}

#[test]
fn nothing_grows() {
    let minutes: f64 = std::env::var("SOAK_MINUTES").map_or(0.2, |text| text.parse().unwrap());
    let time = Duration::from_secs_f64(minutes * 60.0);
    let mut soaked = Soaked::start();
    let counts = Counts::default();
    soaked.at_rest("fresh");
    load(&soaked, &counts, (time / 3).min(Duration::from_secs(15)));
    let before = soaked.at_rest("warm");
    load(&soaked, &counts, time / 2);
    soaked.at_rest("middle");
    load(&soaked, &counts, time / 2);
    let after = soaked.at_rest("after");
    let count = |count: &AtomicU64| count.load(Ordering::SeqCst);
    println!(
        "{} requests, {} half requests, {} signals, Envoy killed {} times, {} rotations, {} \
         reloads, {} holds, {} looks at {OPEN} connections, {} other drainits started and drained",
        count(&counts.requests),
        count(&counts.strangers),
        count(&counts.signals) * 4,
        count(&counts.kills),
        count(&counts.rotations),
        count(&counts.reloads),
        count(&counts.holds),
        count(&counts.looks),
        count(&counts.drains),
    );
    for (name, one) in [
        ("busy", &soaked.busy),
        ("hot", &soaked.hot),
        ("held", &soaked.held),
    ] {
        let metrics = one.get("/metrics").1;
        for line in metrics.lines().filter(|line| line.contains("_total")) {
            if !line.starts_with('#') && !line.ends_with(" 0") {
                println!("{name}: {line}");
            }
        }
    }
    for (before, after) in before.iter().zip(&after) {
        // The socket by which the kernel tells of ends at rest is closed for a while after each.
        let descriptors = before.descriptors.abs_diff(after.descriptors);
        assert!(descriptors <= 1, "{before:?}, {after:?}");
        assert_eq!(after.threads, before.threads, "threads");
        assert_eq!(after.zombies, 0, "zombies");
        assert!(after.rss_kb <= before.rss_kb + SLACK_KB, "memory");
    }
    let (_, serial) = LEAVES[count(&counts.rotations) as usize % LEAVES.len()];
    let secret = &status(&soaked.busy)["certificates"][0];
    assert_eq!(secret["serial"], serial, "{secret}");
    assert!(secret["last_error"].is_null(), "{secret}");
    soaked.open.clear();
    for one in [&mut soaked.busy, &mut soaked.hot, &mut soaked.held] {
        one.signal(Signal::SIGTERM);
        assert_eq!(one.wait_exit(PATIENCE), 0);
    }
}
