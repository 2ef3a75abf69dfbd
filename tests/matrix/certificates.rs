//! What happens to the place where the SDS files go.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use crate::support::clients::SlowRequest;
use crate::support::drainit::{Drainit, Setting};
use crate::support::envoy_config::{Admin, EnvoyConfig};
use crate::support::scene;
use crate::support::{PATIENCE, TempDir, wait_for, wait_for_some};

pub fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name)
}

/// Puts a certificate and its key where they are looked for, each whole at once.
fn put(dir: &TempDir, name: &str) {
    for (file, kind) in [("tls.crt", "crt"), ("tls.key", "key")] {
        let new = dir.join("new");
        fs::copy(data(&format!("{name}.{kind}")), &new).unwrap();
        fs::rename(new, dir.join(file)).unwrap();
    }
}

/// A drainit that sees a file system of 20 kB at `DIR/small`, and how the test sees that.
fn with_little_space(dir: &TempDir, script: &str, config: &EnvoyConfig) -> (Drainit, PathBuf) {
    let small = dir.join("small");
    fs::create_dir(&small).unwrap();
    let pair = format!(
        "web={},{}",
        dir.join("tls.crt").display(),
        dir.join("tls.key").display()
    );
    let place = small.display();
    let drainit = Setting::default()
        .behind(&["unshare", "--mount", "--propagation", "private", "--"])
        .behind_script(&format!(
            "mount -t tmpfs -o size=20k tmpfs {place}; {script} exec \"$@\""
        ))
        .envoy(
            &[
                "--secret",
                &pair,
                "--resources-dir",
                &place.to_string(),
                "--certificate-check",
                "100ms",
            ],
            config,
        );
    let seen = PathBuf::from(format!("/proc/{}/root{place}", drainit.pid()));
    (drainit, seen)
}

fn fill(place: &Path) {
    // Until not one byte more goes in: a write that is cut short has filled it, too.
    let mut filler = fs::File::create(place.join("filler")).unwrap();
    while std::io::Write::write_all(&mut filler, &[b'x'; 512]).is_ok() {}
}

#[test]
fn a_full_disk_leaves_the_certificate_that_is_there_until_there_is_space_again() {
    let (upstream, config) = scene::of(Admin::Unix);
    let dir = TempDir::new();
    put(&dir, "ec");
    let (mut drainit, place) = with_little_space(&dir, "", &config);
    drainit.wait_ready();
    let file = place.join("sds/web.json");
    // Envoy does not wait for a listener's secret.
    let before = wait_for_some("the first certificate", PATIENCE, || {
        let text = fs::read_to_string(&file).ok()?;
        text.contains("inline_string").then(|| text.into_bytes())
    });
    fill(&place);
    put(&dir, "rsa");
    drainit.wait_log("No space left on device");
    assert_eq!(fs::read(&file).unwrap(), before);
    assert_eq!(drainit.get("/ready").0, 200);
    fs::remove_file(place.join("filler")).unwrap();
    wait_for("the new certificate", PATIENCE, || {
        fs::read(&file).unwrap() != before
    });
    let slow = SlowRequest::start(config.http, std::time::Duration::from_secs(1));
    upstream.wait_in_flight(1);
    drainit.signal(Signal::SIGTERM);
    assert_eq!(slow.status(), 200);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
}

#[test]
fn a_disk_that_is_full_from_the_start_is_waited_for() {
    let (_upstream, config) = scene::of(Admin::Unix);
    let dir = TempDir::new();
    put(&dir, "ec");
    let full = format!(
        "head -c 100000 /dev/zero >{0}/filler 2>/dev/null || :;",
        dir.join("small").display()
    );
    let (mut drainit, place) = with_little_space(&dir, &full, &config);
    drainit.wait_log("No space left on device");
    let (status, why) = drainit.get("/ready");
    assert!(
        status == 503 && why.contains("waiting for certificates"),
        "{status} {why}"
    );
    // It waits: that is no reason to kill it.
    assert_eq!(drainit.get("/healthz").0, 200);
    fs::remove_file(place.join("filler")).unwrap();
    drainit.wait_ready();
    drainit.signal(Signal::SIGTERM);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
}
