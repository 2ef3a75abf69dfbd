//! A hold and a resume, on both Envoys: nothing is lost, and nothing but a resume ends a hold.

use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};

use super::rig::Rig;
use super::support::clients::{HttpConnection, SlowRequest, TcpSession};
use super::support::drainit::{Drainit, Log, Setting, run_command};
use super::support::envoy_config::Admin;
use super::support::load::Load;
use super::support::process::Process;
use super::support::scene;
use super::support::watch::Watch;
use super::support::{PATIENCE, drainit, envoy, other_envoy, process, wait_for};

const OPTIONS: [&str; 6] = [
    "--hot-restart",
    "--restart",
    "on-failure",
    "--drain-timeout",
    "10s",
    "--drain-delay=0s",
];

fn rig(program: PathBuf, options: &[&str]) -> Rig {
    let (upstream, config) = scene::of(Admin::Unix);
    let options: Vec<_> = OPTIONS.iter().chain(options).copied().collect();
    Rig::of_program(program, &options, config, upstream)
}

fn command(drainit_: &Drainit, name: &str) -> Command {
    let mut command = Command::new(drainit());
    let listen = format!("unix:{}", drainit_.health.text());
    command.args([name, "--listen", &listen]);
    command
}

/// `drainit hold` or `resume`: exit code, and what it says.
fn order(drainit: &Drainit, name: &str) -> (i32, String) {
    let (code, out, err) = run_command(&mut command(drainit, name));
    (code, format!("{out}{err}"))
}

/// A `drainit hold` that waits.
struct Waiting {
    process: Process,
    out: Log,
}

impl Waiting {
    fn start(drainit: &Drainit) -> Waiting {
        let mut command = command(drainit, "hold");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Process::spawn(&mut command);
        let out = Log::default();
        out.collect(process.child().stdout.take().unwrap());
        out.collect(process.child().stderr.take().unwrap());
        let waiting = Waiting { process, out };
        wait_held(drainit);
        waiting
    }

    #[track_caller]
    fn ends(mut self, code: i32, text: &str) {
        assert_eq!(
            self.process.wait_exit(PATIENCE),
            code,
            "{:?}",
            self.out.lines()
        );
        wait_for(text, PATIENCE, || self.out.find(text).is_some());
    }
}

#[track_caller]
fn wait_held(drainit: &Drainit) {
    wait_for("a hold", PATIENCE, || {
        drainit.get("/ready") == (503, "HELD".into())
    });
}

/// How often to hold and to resume: `TEST_HOLD_CYCLES=100` for the long run.
fn cycles() -> usize {
    let given = env::var("TEST_HOLD_CYCLES").ok();
    given.map_or(4, |given| given.parse().unwrap())
}

/// Under clients that do not care for `/ready`: they keep their connections for as long as they may,
/// or open a new one for each request.
fn nothing_is_lost_by(cycles: usize, program: PathBuf) {
    let rig = rig(program, &[]);
    let load = Load::steady(rig.config.http, 8, 4);
    let connections = Watch::connections(rig.config.http);
    let mut times: Vec<Duration> = (0..cycles)
        .map(|_| {
            load.wait_answered(30);
            let hold = Waiting::start(&rig.drainit);
            load.wait_answered(30);
            let answer = HttpConnection::open(rig.config.http).unwrap().get("/fast");
            assert!(answer.unwrap().closes(), "clients are told to go");
            let start = Instant::now();
            assert_eq!(order(&rig.drainit, "resume").0, 0);
            while rig.drainit.get("/ready").0 != 200 {
                thread::sleep(Duration::from_millis(2));
            }
            let time = start.elapsed();
            hold.ends(1, "resumed");
            let answer = HttpConnection::open(rig.config.http).unwrap().get("/fast");
            assert!(!answer.unwrap().closes(), "clients may stay");
            time
        })
        .collect();
    times.sort_unstable();
    let (answered, failures) = load.finish();
    let seen = connections.finish();
    println!(
        "{cycles} cycles, {answered} requests and {} connections; from the resume to ready: \
         {times:?}",
        seen.looks
    );
    assert_eq!(failures, Vec::<String>::new());
    assert_eq!(seen.failures, Vec::<String>::new());
    // A busy machine may delay some, not nearly all of them.
    assert!(times[cycles / 4] < Duration::from_millis(200), "{times:?}");
}

#[test]
fn a_hold_and_a_resume_lose_nothing_again_and_again() {
    thread::scope(|scope| {
        for program in [envoy(), other_envoy()] {
            scope.spawn(move || nothing_is_lost_by(cycles(), program));
        }
    });
}

fn a_hold_outlives(program: PathBuf) {
    let mut rig = rig(program, &["--settle", "500ms"]);
    let health = rig.drainit.health.clone();
    let closes = || {
        let answer = HttpConnection::open(rig.config.http).unwrap().get("/fast");
        answer.unwrap().closes()
    };
    let (code, said) = order(&rig.drainit, "hold");
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("held: drained after"), "{said}");
    let ready = Watch::start(move || match health.request("GET", "/ready", PATIENCE) {
        Ok(answer) if answer.status == 503 => Ok(()),
        answer => Err(format!("{answer:?}")),
    });
    assert!(closes());
    rig.reload_well();
    assert!(closes(), "the next generation is held, too");
    assert_eq!(rig.metric("drainit_state{state=\"held\"}"), 1);
    rig.wait_alone();
    kill(rig.newest(), Signal::SIGKILL).unwrap();
    wait_for("another Envoy, held", PATIENCE, || {
        rig.status()["envoy"]["restarts"] == 1 && rig.status()["state"] == "held"
    });
    assert!(closes());
    // Nor does anybody else's word end it.
    let admin = rig.config.admin.clone().unwrap();
    admin.request("POST", "/healthcheck/ok", PATIENCE).unwrap();
    wait_for("the hold to be seen to", PATIENCE, || {
        rig.drainit.get("/healthz");
        closes()
    });
    assert_eq!(ready.finish().failures, Vec::<String>::new());
    assert_eq!(order(&rig.drainit, "resume").0, 0);
    assert!(!closes());
    rig.drainit.wait_ready();
    assert_eq!(
        order(&rig.drainit, "resume"),
        (0, "envoy was not held".into())
    );

    // One that comes while a generation rises is heard by that.
    let old = rig.newest();
    rig.drainit.signal(Signal::SIGHUP);
    rig.wait_two(old);
    order(&rig.drainit, "hold");
    wait_held(&rig.drainit);
    wait_for("generation 1", PATIENCE, || rig.epoch() == 1 && closes());
    rig.drainit.signal(Signal::SIGTERM);
    assert_eq!(rig.drainit.wait_exit(PATIENCE), 0);
}

#[test]
fn a_hold_outlives_a_hot_restart_and_a_crash_and_ends_with_a_resume() {
    thread::scope(|scope| {
        for program in [envoy(), other_envoy()] {
            scope.spawn(move || a_hold_outlives(program));
        }
    });
}

#[test]
fn a_hold_waits_as_a_shutdown_does_and_a_sigterm_while_held_cuts_nothing() {
    let (upstream, config) = scene::of(Admin::Unix);
    let mut drainit = Drainit::ready(&["--drain-timeout", "4s"], &config);
    let mut session = TcpSession::open(config.tcp);
    let hold = Waiting::start(&drainit);
    let second = Waiting::start(&drainit);
    // At the deadline it is held all the same, and says what is left.
    hold.ends(1, "held, and not drained after");
    assert!(
        second.out.find("held: 1 connection (tcp 1").is_some(),
        "{:?}",
        second.out.lines()
    );
    second.ends(1, "1 connection (tcp 1");
    assert_eq!(drainit.get("/ready"), (503, "HELD".into()));
    assert_eq!(drainit.get("/healthz").0, 200);
    session.echo().expect("a hold cuts nothing");
    let status = run_command(&mut command(&drainit, "status")).1;
    assert!(status.starts_with("held for"), "{status}");
    let over = drainit.wait_log("envoy stays out of service until a resume");
    assert!(
        over.contains("not drained by the deadline") && over.contains("(left: tcp 1"),
        "{over}"
    );
    drop(session);
    let slow = SlowRequest::start(config.http, Duration::from_secs(1));
    upstream.wait_in_flight(1);
    let hold = Waiting::start(&drainit);
    drainit.signal(Signal::SIGTERM);
    hold.ends(1, "SIGTERM");
    assert_eq!(slow.status(), 200);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    drainit.wait_log("drained after");
}

#[test]
fn a_hold_does_not_call_drained_what_an_old_generations_time_ends() {
    let rig = rig(envoy(), &[]);
    let session = TcpSession::open(rig.config.tcp);
    rig.reload_well();
    let hold = Waiting::start(&rig.drainit);
    hold.ends(1, "held, and not drained after");
    let over = rig
        .drainit
        .wait_log("envoy stays out of service until a resume");
    for part in ["held; not drained after", "ended with 1 connection open"] {
        assert!(over.contains(part), "{over}");
    }
    assert!(session.is_closed());
}

#[test]
fn nothing_leads_back_from_a_drain_and_no_order_comes_over_tcp() {
    let (_upstream, config) = scene::of(Admin::Unix);
    let port = format!("{}:8090", config.ip());
    let mut drainit = Setting::default()
        .health(port.parse().unwrap())
        .ready(&[], &config);
    for path in ["/hold", "/resume"] {
        for method in ["GET", "POST"] {
            let answer = drainit.request(method, path, PATIENCE).unwrap();
            assert_eq!(answer.0, 404, "{method} {path}");
        }
    }
    // The command goes on by the control socket.
    let tcp = |name: &str| {
        let (code, out, err) = super::support::drainit::run(&[name, "--listen", &port]);
        (code, format!("{out}{err}"))
    };
    assert_eq!(tcp("hold").0, 0);
    drainit.signal(Signal::SIGUSR2);
    wait_for("the drain's end", PATIENCE, || {
        drainit.log.find("drained after").is_some()
    });
    for name in ["hold", "resume"] {
        let (code, said) = tcp(name);
        assert_eq!(code, 1, "{said}");
        assert!(
            said.contains("SIGUSR2") && said.contains("restart"),
            "{said}"
        );
    }
    assert_eq!(drainit.get("/ready"), (503, "DRAINING".into()));
    drainit.signal(Signal::SIGTERM);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    assert_eq!(tcp("hold").0, 1);
    assert_eq!(process::children(drainit.pid()), []);
}
