//! One drainit for a long time, with everything that happens to it at once; and beside it others,
//! whose whole life is a start and a drain. Run by `scripts/soak`.

mod support;

use std::fmt;
use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use support::clients::{HttpConnection, SlowRequest};
use support::drainit::{Drainit, Setting};
use support::envoy_config::{Admin, EnvoyConfig};
use support::fake_envoy::shell;
use support::http::Address;
use support::upstream::Upstream;
use support::{PATIENCE, wait_for};

/// What must not grow.
#[derive(Clone, Debug)]
struct Figures {
    descriptors: usize,
    threads: usize,
    zombies: usize,
    memory_kb: u64,
}

impl Figures {
    fn of(pid: Pid) -> Figures {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        Figures {
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(),
            threads: fs::read_dir(format!("/proc/{pid}/task")).unwrap().count(),
            zombies: zombies_of(pid),
            memory_kb: line
                .unwrap()
                .split_whitespace()
                .nth(1)
                .unwrap()
                .parse()
                .unwrap(),
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} descriptors, {} threads, {} zombies, {} kB",
            self.descriptors, self.threads, self.zombies, self.memory_kb
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

#[derive(Default)]
struct Counts {
    requests: AtomicU64,
    strangers: AtomicU64,
    signals: AtomicU64,
    kills: AtomicU64,
    drains: AtomicU64,
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

/// Everything at once, for this long.
fn load(drainit: &Drainit, upstream: &Upstream, counts: &Counts, time: Duration) {
    let stop = AtomicBool::new(false);
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
        // As often as the pauses between restarts allow.
        again(scope, &stop, &counts.kills, || {
            let live = || drainit.get("/ready").0 == 200;
            while !live() && !stop.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(50));
            }
            if live() {
                let _ = kill(drainit.envoy_pid(), Signal::SIGKILL);
            }
        });
        again(scope, &stop, &counts.drains, || {
            let config = EnvoyConfig::new(Admin::Unix, upstream);
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
        let start = Instant::now();
        while start.elapsed() < time {
            thread::sleep(Duration::from_millis(200));
            assert!(kill(drainit.pid(), None).is_ok(), "it is gone");
        }
        stop.store(true, Ordering::SeqCst);
    });
}

/// What it is like once everybody has gone.
fn at_rest(drainit: &Drainit) -> Figures {
    wait_for("Envoy to be live again", Duration::from_secs(60), || {
        drainit.get("/ready").0 == 200
    });
    let mut last = Figures::of(drainit.pid());
    let mut same = 0;
    wait_for("the figures to settle", PATIENCE, || {
        thread::sleep(Duration::from_millis(100));
        let now = Figures::of(drainit.pid());
        same = if (now.descriptors, now.threads) == (last.descriptors, last.threads) {
            same + 1
        } else {
            0
        };
        last = now;
        // Half a request is thrown out after two seconds.
        same > 30
    });
    last
}

#[test]
#[ignore = "takes minutes: scripts/soak runs it"]
fn nothing_grows() {
    let minutes: f64 = std::env::var("SOAK_MINUTES").map_or(3.0, |text| text.parse().unwrap());
    let time = Duration::from_secs_f64(minutes * 60.0);
    let upstream = Upstream::start();
    let config = EnvoyConfig::new(Admin::Unix, &upstream);
    // Orphans all the time, as long as this Envoy lives.
    let orphans = "(while kill -0 $$ 2>/dev/null; do (: &); (sleep 0.1 &); (true & true &); \
                   sleep 0.02; done) & exec \"$@\"";
    let mut command = shell(orphans);
    command.extend(["sh".into(), support::envoy().display().to_string()]);
    command.extend(config.arguments());
    let mut drainit = Setting::default().start(&["--restart", "on-failure"], &command);
    drainit.wait_ready();

    let fresh = at_rest(&drainit);
    println!("fresh: {fresh}");
    let counts = Counts::default();
    load(
        &drainit,
        &upstream,
        &counts,
        time.min(Duration::from_secs(15)),
    );
    let before = at_rest(&drainit);
    println!("warm:  {before}");
    load(&drainit, &upstream, &counts, time);
    let after = at_rest(&drainit);
    println!("after: {after}");
    let metrics = drainit.get("/metrics").1;
    let reaped = metrics
        .lines()
        .find(|line| line.starts_with("drainit_reaped_processes_total "));
    println!(
        "{} requests, {} half requests, {} signals, {} of Envoy's ends, {} other drainits started \
         and drained; {}",
        counts.requests.load(Ordering::SeqCst),
        counts.strangers.load(Ordering::SeqCst),
        counts.signals.load(Ordering::SeqCst) * 4,
        counts.kills.load(Ordering::SeqCst),
        counts.drains.load(Ordering::SeqCst),
        reaped.unwrap_or_default(),
    );
    assert_eq!(after.descriptors, before.descriptors, "descriptors");
    assert_eq!(after.threads, before.threads, "threads");
    assert!(
        after.zombies <= 2,
        "zombies, but for those that came just now"
    );
    assert!(after.memory_kb <= before.memory_kb + 256, "memory");
    drainit.signal(Signal::SIGTERM);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
}
