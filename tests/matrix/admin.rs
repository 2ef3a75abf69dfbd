//! What happens to Envoy's admin interface, or to the way there.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::clients::{HttpConnection, SlowRequest, TcpSession};
use crate::support::drainit::{Drainit, Setting, run_command};
use crate::support::envoy_config::{Admin, EnvoyConfig};
use crate::support::http::Address;
use crate::support::scene;
use crate::support::upstream::Upstream;
use crate::support::{PATIENCE, drainit, wait_for};
use crate::{envoy_is_at_least, terminate_within};

const DEADLINE: Duration = Duration::from_secs(3);
const BOUND: [&str; 2] = ["--drain-timeout", "3s"];

fn socket(config: &EnvoyConfig) -> PathBuf {
    PathBuf::from(config.admin.as_ref().unwrap().text())
}

/// What is in flight when the interface is lost has the whole deadline, and Envoy ends in order.
#[track_caller]
fn is_bounded_by_the_deadline(mut drainit: Drainit, config: &EnvoyConfig, upstream: &Upstream) {
    drainit.wait_unready();
    assert_eq!(drainit.get("/healthz").0, 200);
    let slow = SlowRequest::start(config.http, Duration::from_secs(2));
    upstream.wait_in_flight(1);
    terminate_within(&mut drainit, DEADLINE, DEADLINE, 0);
    assert_eq!(slow.status(), 200);
    drainit.wait_log("admin lost, after");
}

#[test]
fn its_socket_is_deleted() {
    let (upstream, config, drainit) = scene::ready(&BOUND);
    fs::remove_file(socket(&config)).unwrap();
    is_bounded_by_the_deadline(drainit, &config, &upstream);
}

#[test]
fn its_sockets_permissions_are_taken_away() {
    let (upstream, config) = scene::of(Admin::Unix);
    // The superuser may open anything, unless that right is taken from it.
    let drainit = Setting::default()
        .behind(&[
            "setpriv",
            "--bounding-set=-dac_override,-dac_read_search",
            "--",
        ])
        .ready(&BOUND, &config);
    fs::set_permissions(socket(&config), Permissions::from_mode(0o000)).unwrap();
    is_bounded_by_the_deadline(drainit, &config, &upstream);
}

#[test]
fn its_sockets_permissions_come_back_in_time() {
    let (_upstream, config) = scene::of(Admin::Unix);
    let mut drainit = Setting::default()
        .behind(&[
            "setpriv",
            "--bounding-set=-dac_override,-dac_read_search",
            "--",
        ])
        .ready(&["--drain-timeout", "60s"], &config);
    let session = TcpSession::open(config.tcp);
    fs::set_permissions(socket(&config), Permissions::from_mode(0o000)).unwrap();
    drainit.signal(Signal::SIGTERM);
    drainit.wait_log("ermission denied");
    fs::set_permissions(socket(&config), Permissions::from_mode(0o600)).unwrap();
    drainit.wait_log("draining: 1 of 1 connection");
    drop(session);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    drainit.wait_log("drained after");
}

#[test]
fn its_socket_is_replaced_by_another_envoys_which_is_left_alone() {
    let upstream = Upstream::start();
    let ours = EnvoyConfig::new(Admin::Unix, &upstream);
    let theirs = EnvoyConfig::new(Admin::Unix, &upstream);
    theirs.replace(
        &socket(&theirs).display().to_string(),
        &socket(&ours).display().to_string(),
    );
    let mut drainit = Drainit::ready(&BOUND, &ours);
    // An Envoy takes the path from whoever had it.
    let other = Drainit::ready(&[], &theirs);
    drainit.wait_unready();
    let (_, why) = drainit.get("/ready");
    assert!(why.contains("which is not ours"), "{why}");
    // The other has no connection at all. Were it believed, this one would be cut.
    let mut session = TcpSession::open(ours.tcp);
    let health = other.health.clone();
    let watch = thread::spawn(move || {
        let start = std::time::Instant::now();
        while start.elapsed() < DEADLINE {
            let answer = health.request("GET", "/ready", PATIENCE).unwrap();
            assert_eq!((answer.status, answer.body.trim()), (200, "LIVE"));
            thread::sleep(Duration::from_millis(100));
        }
    });
    terminate_within(&mut drainit, DEADLINE, DEADLINE, 0);
    assert!(session.echo().is_err());
    drainit.wait_log("admin lost, after");
    watch.join().unwrap();
    other.wait_ready();
}

#[test]
fn it_is_behind_a_slow_link() {
    let (upstream, config) = scene::of(Admin::Tcp);
    let Some(Address::Tcp(admin)) = config.admin else {
        unreachable!()
    };
    let link = slow_link(admin, Duration::from_millis(100)).to_string();
    let options = ["--admin-address", &link, "--drain-timeout", "60s"];
    let mut drainit = Drainit::ready(&options, &config);
    let session = TcpSession::open(config.tcp);
    let slow = SlowRequest::start(config.http, Duration::from_secs(2));
    upstream.wait_in_flight(1);
    drainit.signal(Signal::SIGTERM);
    drainit.wait_log("draining: 2 of ");
    drop(session);
    assert_eq!(slow.status(), 200);
    assert_eq!(drainit.wait_exit(PATIENCE * 2), 0);
    drainit.wait_log("drained after");
}

/// A port that leads to `server`; each piece of data takes this long, in each direction.
fn slow_link(server: SocketAddr, delay: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(server) else {
                continue;
            };
            for (mut from, mut to) in [
                (client.try_clone().unwrap(), server.try_clone().unwrap()),
                (server, client),
            ] {
                thread::spawn(move || {
                    let mut piece = [0; 1 << 17];
                    while let Ok(length @ 1..) = from.read(&mut piece) {
                        thread::sleep(delay);
                        if to.write_all(&piece[..length]).is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
    address
}

/// With an admin interface that allows these paths alone. An Envoy before 1.37 refuses such a
/// configuration: that is seen, and there is nothing else to see on it.
fn allowing(paths: &str, upstream: &Upstream) -> Option<EnvoyConfig> {
    let config = EnvoyConfig::new(Admin::Unix, upstream);
    config.replace("admin: {", &format!("admin: {{ allow_paths: [{paths}],"));
    if envoy_is_at_least(37) {
        return Some(config);
    }
    let mut drainit = Drainit::envoy(&BOUND, &config);
    assert_eq!(drainit.wait_exit(PATIENCE), 1);
    drainit.wait_log("'allow_paths'");
    None
}

#[test]
fn it_allows_nothing_but_the_readiness() {
    let upstream = Upstream::start();
    let Some(config) = allowing("{ exact: /ready }", &upstream) else {
        return;
    };
    let mut drainit = Drainit::ready(&BOUND, &config);
    let slow = SlowRequest::start(config.http, Duration::from_secs(2));
    upstream.wait_in_flight(1);
    terminate_within(&mut drainit, DEADLINE, DEADLINE, 0);
    assert_eq!(slow.status(), 200);
    drainit.wait_log("envoy's admin interface answered 403");
    drainit.wait_log("envoy's admin interface refuses /stats: let admin.allow_paths hold it");
    drainit.wait_log("CUT by the deadline");
}

#[test]
fn it_allows_to_look_but_not_to_drain() {
    let upstream = Upstream::start();
    let paths = "{ exact: /ready }, { exact: /server_info }, { prefix: /stats }";
    let Some(config) = allowing(paths, &upstream) else {
        return;
    };
    let program = drainit();
    let mut drainit = Drainit::ready(&["--drain-timeout", "3s"], &config);
    let listen = format!("unix:{}", drainit.health.text());
    let order = |name| run_command(Command::new(&program).args([name, "--listen", &listen]));
    let (code, _, why) = order("hold");
    assert_eq!(code, 1, "{why}");
    let refusal = "envoy has not confirmed that its health check fails: envoy's admin interface \
                   answered 403";
    drainit.wait_log(refusal);
    assert!(why.contains(refusal), "{why}");
    // Nobody has asked how Envoy is meanwhile: it passes its health check all along.
    let (code, _, why) = order("resume");
    assert_eq!(code, 0, "{why}");
    assert_eq!(drainit.get("/ready").0, 200);
    let metrics = drainit.get("/metrics").1;
    let none_failed = metrics.contains("\ndrainit_admin_errors_total 0\n");
    assert!(none_failed, "a refusal is no silence: {metrics}");
    let slow = SlowRequest::start(config.http, Duration::from_secs(1));
    upstream.wait_in_flight(1);
    drainit.signal(Signal::SIGTERM);
    assert_eq!(slow.status(), 200);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    drainit.wait_log("drained after");
    let lines = drainit.log.lines();
    let count = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
    // Each of four steps is refused once, however often Envoy is told.
    assert_eq!(
        count("] envoy's admin interface answered 403"),
        4,
        "{lines:#?}"
    );
    assert_eq!(count("answers again"), 0, "{lines:#?}");
}

#[test]
fn it_allows_to_drain_but_not_to_ask_whether_it_is_ready() {
    let upstream = Upstream::start();
    let paths = "{ prefix: /stats }, { prefix: /healthcheck }, { prefix: /drain_listeners }";
    let Some(config) = allowing(paths, &upstream) else {
        return;
    };
    let mut drainit = Drainit::envoy(&["--drain-timeout", "60s"], &config);
    wait_for("Envoy to serve", PATIENCE, || {
        HttpConnection::open(config.http).is_ok_and(|mut open| open.get("/fast").is_ok())
    });
    let slow = SlowRequest::start(config.http, Duration::from_secs(3));
    upstream.wait_in_flight(1);
    drainit.signal(Signal::SIGTERM);
    assert_eq!(slow.status(), 200);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    drainit.wait_log("drained after");
}
