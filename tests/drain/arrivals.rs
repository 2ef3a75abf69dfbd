//! How long Envoy accepts (`--min-drain auto`): as long as somebody sends new connections.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;

/// The number that stands between these, before the second the nearest to it.
#[track_caller]
fn number_between(line: &str, before: &str, after: &str) -> u64 {
    let (head, _) = line.split_once(after).expect(line);
    let (_, number) = head.rsplit_once(before).expect(line);
    number.parse().expect(line)
}

/// Connections that are made anew for each request, for as long as a load balancer learns late.
fn asked_anew_for(time: Duration, config: &EnvoyConfig) -> usize {
    let start = Instant::now();
    let mut asked = 0;
    while start.elapsed() < time {
        let answer = HttpConnection::open(config.http).and_then(|mut one| one.get("/fast"));
        assert_eq!(answer.expect("refused").status, 200);
        asked += 1;
        thread::sleep(Duration::from_millis(40));
    }
    asked
}

#[test]
fn new_connections_are_accepted_for_as_long_as_somebody_sends_them() {
    let (_upstream, config, mut drainit) = scene::ready(&[]);
    asked_anew_for(Duration::from_millis(500), &config);
    drainit.signal(Signal::SIGTERM);
    assert!(asked_anew_for(Duration::from_secs(2), &config) > 10);
    assert_eq!(drainit.wait_exit(Duration::from_secs(8)), 0);
    drainit.wait_log("drained after");
}

#[test]
fn clients_with_pools_that_are_told_to_close_are_expected_back() {
    let (_upstream, config, mut drainit) = scene::ready(&[]);
    let mut pool: Vec<_> = (0..20).map(|_| HttpConnection::idle(config.http)).collect();
    drainit.signal(Signal::SIGTERM);
    drainit.wait_log("envoy's health check is failed");
    // Each asks once more, is told to close, and comes back on a new connection.
    for connection in &mut pool {
        thread::sleep(Duration::from_millis(40));
        assert!(connection.get("/fast").unwrap().closes());
        *connection = HttpConnection::open(config.http).expect("refused");
        assert_eq!(connection.get("/fast").expect("cut").status, 200);
    }
    drop(pool);
    assert_eq!(drainit.wait_exit(Duration::from_secs(8)), 0);
    drainit.wait_log("drained after");
}

/// As in a pod: twenty clients ask four times a second, and hear a second late that they are to go
/// elsewhere. Until then, each that is told to close comes back with its next request.
fn a_pool_that_hears_late_loses_nothing(envoy: PathBuf) {
    const LAG: Duration = Duration::from_secs(1);
    let (_upstream, config) = scene::of(Admin::Unix);
    let setting = Setting::default().with_envoy(envoy);
    let setting = setting.variable("KUBERNETES_SERVICE_HOST", "10.0.0.1");
    let mut drainit = setting.ready(&[], &config);
    let pool: Vec<_> = (0..20).map(|_| HttpConnection::idle(config.http)).collect();
    let (heard, returned) = (AtomicBool::new(false), AtomicU64::new(0));
    let heard_late = || heard.load(Ordering::Relaxed);
    thread::scope(|scope| {
        for (number, connection) in (0..).zip(pool) {
            let (heard_late, returned, config) = (&heard_late, &returned, &config);
            scope.spawn(move || {
                thread::sleep(Duration::from_millis(12 * number));
                let mut connection = Some(connection);
                while !heard_late() {
                    let mut open = connection.take().unwrap_or_else(|| {
                        returned.fetch_add(1, Ordering::Relaxed);
                        HttpConnection::open(config.http).expect("refused")
                    });
                    let answer = open.get("/fast").expect("cut");
                    assert_eq!(answer.status, 200);
                    connection = (!answer.closes()).then_some(open);
                    thread::sleep(Duration::from_millis(250));
                }
            });
        }
        thread::sleep(Duration::from_millis(300));
        drainit.signal(Signal::SIGTERM);
        thread::sleep(LAG);
        heard.store(true, Ordering::Relaxed);
    });
    assert!(returned.load(Ordering::Relaxed) > 20);
    // The minimum alone could last 20 s here.
    assert_eq!(drainit.wait_exit(Duration::from_secs(8)), 0);
    drainit.wait_log("drained after");
}

#[test]
fn clients_with_pools_that_hear_late_find_envoy_still_there() {
    each_envoy(a_pool_that_hears_late_loses_nothing);
}

#[test]
fn without_an_orchestrator_steady_traffic_keeps_it_up_for_five_seconds_and_no_longer() {
    let (_upstream, config) = scene::of(Admin::Unix);
    for (variables, most) in [
        (&[][..], Duration::from_secs(8)),
        (
            &[("TERMINATION_GRACE_PERIOD_SECONDS", "18")],
            Duration::from_secs(12),
        ),
    ] {
        let mut command = vec![support::envoy().display().to_string()];
        command.extend(config.arguments());
        let mut drainit = Drainit::start_under(&[], variables, &[], &command);
        drainit.wait_ready();
        let (stop, opened) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    if let Ok(mut one) = HttpConnection::open(config.http) {
                        opened.fetch_add(1, Ordering::Relaxed);
                        let _ = one.get("/fast");
                    }
                    thread::sleep(Duration::from_millis(20));
                }
            });
            thread::sleep(Duration::from_millis(200));
            let before = opened.load(Ordering::Relaxed);
            let start = Instant::now();
            drainit.signal(Signal::SIGTERM);
            assert_eq!(drainit.wait_exit(PATIENCE), 0);
            stop.store(true, Ordering::Relaxed);
            let took = start.elapsed();
            assert!(
                took > Duration::from_millis(4_500) && took < most,
                "{took:?}"
            );
            assert_eq!(
                variables.is_empty(),
                took < Duration::from_secs(7),
                "{took:?}"
            );
            // What it waited for, and what it saw: no more than there were, and most of them.
            let still = drainit.wait_log(" new connections a second, ");
            let rate = number_between(&still, ", still ", " new connections a second, ");
            assert!((1..=50).contains(&rate), "{still}");
            let verdict = drainit.wait_log(" new connections came meanwhile");
            let came = number_between(&verdict, "; ", " new connections came meanwhile");
            let opened = opened.load(Ordering::Relaxed) - before;
            assert!(
                came <= opened + 1 && came > opened / 2,
                "{opened}: {verdict}"
            );
        });
    }
}

#[test]
fn an_envoy_that_nobody_used_for_ten_seconds_goes_at_once() {
    let mut instances = [support::envoy(), support::other_envoy()].map(|envoy| {
        let (upstream, config) = scene::of(Admin::Tcp);
        // Nobody but Envoy knows who comes there.
        config.leave_udp_out();
        let mut command = vec![envoy.display().to_string()];
        command.extend(config.arguments());
        let drainit = Drainit::start(&[], &command);
        drainit.wait_ready();
        assert_eq!(
            HttpConnection::open(config.http)
                .unwrap()
                .get("/fast")
                .unwrap()
                .status,
            200
        );
        let idle = HttpConnection::idle(config.http);
        (upstream, config, drainit, idle)
    });
    thread::sleep(Duration::from_millis(11_500));
    let took = instances.iter_mut().map(|(_, _, drainit, _)| {
        let start = Instant::now();
        drainit.signal(Signal::SIGTERM);
        assert_eq!(drainit.wait_exit(PATIENCE), 0);
        start.elapsed()
    });
    // Whoever might come is waited for a second at the least.
    let fastest = took.min().unwrap();
    assert!(fastest < Duration::from_secs(1), "{fastest:?}");
}
