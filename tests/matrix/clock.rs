//! A wall clock that steps. The machine's own is left alone: a library between drainit and the
//! kernel shifts what drainit and Envoy are told, and the log's timestamps show that it does.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::clients::SlowRequest;
use crate::support::drainit::Setting;
use crate::support::envoy_config::Admin;
use crate::support::scene;
use crate::support::{PATIENCE, TempDir, wait_for};

/// Shifts CLOCK_REALTIME by the length of the file that the environment names, in minutes, minus
/// one day: so that a test steps the clock with one truncation, in both directions.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long shift(void) {
    const char *name = getenv("TEST_CLOCK");
    struct stat file;
    if (!name || stat(name, &file)) return 0;
    return (file.st_size - 1440) * 60;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = syscall(SYS_clock_gettime, clock, time);
    if (!result && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) time->tv_sec += shift();
    return result;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *time) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (time) *time = now.tv_sec;
    return now.tv_sec;
}
"#;

fn an_hours_step_changes_nothing(minutes: i64) {
    let dir = TempDir::new();
    let (source, library, clock) = (dir.join("clock.c"), dir.join("clock.so"), dir.join("clock"));
    fs::write(&source, SHIM).unwrap();
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-O2", "-o"])
        .args([&library, &source])
        .status();
    assert!(compiled.unwrap().success());
    let set = |minutes: i64| {
        let file = fs::File::options()
            .create(true)
            .append(true)
            .open(&clock)
            .unwrap();
        file.set_len((1440 + minutes).try_into().unwrap()).unwrap();
    };
    set(0);

    let (upstream, config) = scene::of(Admin::Unix);
    let mut drainit = Setting::default()
        .debug_build()
        .variable("LD_PRELOAD", library.display())
        .variable("TEST_CLOCK", clock.display())
        .ready(&["--drain-delay", "1s", "--min-drain", "3s"], &config);
    let slow = SlowRequest::start(config.http, Duration::from_secs(2));
    upstream.wait_in_flight(1);
    let start = Instant::now();
    drainit.signal(Signal::SIGTERM);
    drainit.wait_log("envoy serves on for the drain delay");
    set(minutes);
    assert_eq!(drainit.get("/ready").0, 200);
    assert_eq!(drainit.get("/healthz").0, 200);
    drainit.wait_log("draining for");
    set(2 * minutes);
    assert_eq!(drainit.get("/ready").0, 503);
    assert_eq!(slow.status(), 200);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
    let took = start.elapsed();
    assert!(
        took >= Duration::from_secs(3) && took < Duration::from_secs(8),
        "{took:?}"
    );
    let last = drainit.wait_log("drained after 3.");

    // `[2026-01-01T10:20:30.400Z INFO  ...`
    let first = drainit.log.find("envoy started").unwrap();
    let hours = |line: &str| {
        let (day, hour): (i64, i64) = (line[9..11].parse().unwrap(), line[12..14].parse().unwrap());
        day * 24 + hour
    };
    wait_for("the shift to show in the log", Duration::ZERO, || {
        let apart = (hours(&last) - hours(&first) - minutes / 30).abs();
        // Around midnight of a month's last day, the days say little.
        apart <= 1 || line_of_another_month(&first, &last)
    });
}

fn line_of_another_month(first: &str, last: &str) -> bool {
    first[6..8] != last[6..8]
}

#[test]
fn the_wall_clock_steps_forward_by_an_hour_twice_during_a_drain() {
    an_hours_step_changes_nothing(60);
}

#[test]
fn the_wall_clock_steps_back_by_an_hour_twice_during_a_drain() {
    an_hours_step_changes_nothing(-60);
}
