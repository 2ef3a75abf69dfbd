//! The thread against real files and a closure for an Envoy.

use super::super::read::Source;
use super::*;
use crate::certificates::{
    CertificateCommand, CertificateReport, CertificateSettings, CheckTimes, run,
};
use crate::mailbox::{Inbox, Mailbox, Waker};
use crate::status::SecretStatus;
use crate::testing::TempDir;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name)
}

struct RunningRotation {
    dir: TempDir,
    commands: Mailbox<CertificateCommand>,
    reports: Inbox<CertificateReport>,
    /// What the admin answers for `/stats`, made of the published files; and all paths asked for.
    asked: Arc<Mutex<Vec<String>>>,
}

impl RunningRotation {
    fn start() -> RunningRotation {
        let dir = TempDir::new();
        let pair = Source::Pair {
            cert: dir.join("tls.crt"),
            key: dir.join("tls.key"),
            staple: None,
        };
        let trust = Source::Trust {
            ca: dir.join("ca.crt"),
            crl: None,
        };
        let config = CertificateSettings {
            xds: Some(Files(vec![pair.clone(), trust])),
            secrets: vec![("edge".to_owned(), pair)],
            resources: dir.join("resources"),
            check: CheckTimes {
                every: Duration::from_millis(50),
                given: true,
            },
        };
        let (mailbox, reports) = Mailbox::new(None);
        let (waker, wakeups) = Waker::new().unwrap();
        let (commands, inbox) = Mailbox::new(Some(waker));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (sds, paths) = (config.resources.join("sds"), asked.clone());
        std::thread::spawn(move || {
            let admin = |path: &str| {
                paths.lock().unwrap().push(path.to_owned());
                Ok(envoy_answers(&sds, path))
            };
            let report = |report| mailbox.send(report);
            let commands = (&inbox, Some(wakeups));
            run(&config, admin, &report, commands, &Pulse::default());
        });
        RunningRotation {
            dir,
            commands,
            reports,
            asked,
        }
    }

    fn write(&self, cert: &str, key: &str) {
        fs::copy(data(cert), self.dir.join("tls.crt")).unwrap();
        fs::copy(data(key), self.dir.join("tls.key")).unwrap();
        fs::copy(data("ca.crt"), self.dir.join("ca.crt")).unwrap();
    }

    /// The first report that is of interest; candidates are all accepted meanwhile.
    fn wait<T>(&self, interest: impl Fn(&CertificateReport) -> Option<T>) -> T {
        loop {
            let report = self.reports.wait(Duration::from_secs(10)).unwrap();
            if let CertificateReport::Validate { id, config } = &report {
                let file = std::fs::File::from(config.try_clone().unwrap());
                assert_eq!(file.metadata().unwrap().nlink(), 0, "it has no name");
                let (id, verdict) = (*id, Ok(()));
                self.commands
                    .send(CertificateCommand::Validated { id, verdict });
            }
            if let Some(found) = interest(&report) {
                return found;
            }
        }
    }
}

impl Drop for RunningRotation {
    fn drop(&mut self) {
        self.commands.send(CertificateCommand::Stop);
    }
}

/// The answer of an Envoy that has taken whatever is published.
fn envoy_answers(sds: &Path, path: &str) -> String {
    if path == "/certs" {
        let serials = ["a1b2c3", "f00000000000000000000000000000000000001"];
        let leaf = |serial| format!("{{\"cert_chain\": [{{\"serial_number\": \"{serial}\"}}]}}");
        return format!("{{\"certificates\": [{}]}}", serials.map(leaf).join(","));
    }
    let mut page = String::new();
    for (name, file) in [
        ("contour_xds_tls_certificate", "xds-tls-certificate.json"),
        (
            "contour_xds_tls_validation_context",
            "xds-validation-context.json",
        ),
        ("edge", "edge.json"),
    ] {
        let text = fs::read(sds.join(file)).unwrap_or_default();
        let json: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        page += &format!("sds.{name}.version_text: {}\n", json["version_info"]);
    }
    page
}

fn status(report: &CertificateReport, generation: u64, result: Option<&str>) -> Option<()> {
    let CertificateReport::Status(status) = report else {
        return None;
    };
    assert_eq!(status.len(), 3);
    let there = status.iter().all(|secret| {
        // The first one was that there is none.
        let vacant = u64::from(secret.secret == "edge");
        secret.generation == generation + vacant && secret.last_result == result
    });
    there.then_some(())
}

#[test]
fn the_thread_goes_the_whole_way_from_nothing_to_a_rotation() {
    let thread = RunningRotation::start();
    let lacking = thread.wait(|report| match report {
        CertificateReport::Waiting(what) => Some(what.clone()),
        _ => None,
    });
    assert!(lacking.contains("tls.crt: is missing"), "{lacking}");
    assert!(
        !lacking.contains("; "),
        "edge keeps nobody waiting: {lacking}"
    );
    thread.write("ec.crt", "ec.key");
    thread.wait(|report| matches!(report, CertificateReport::FirstSetReady).then_some(()));
    assert!(thread.asked.lock().unwrap().is_empty(), "no Envoy runs");
    thread.commands.send(CertificateCommand::EnvoyStarted);
    thread.wait(|report| status(report, 1, Some("ok")));
    thread.write("rsa.crt", "rsa.key");
    thread.wait(|report| status(report, 2, Some("ok")));
    thread.commands.send(CertificateCommand::CheckNow(1));
    let line = thread.wait(|report| match report {
        CertificateReport::Reloaded(1, line) => Some(line.clone()),
        _ => None,
    });
    assert!(line.unwrap().contains("edge: gen-3, serial f0"));
    // Somebody else may write there, too.
    let sds = thread.dir.join("resources/sds");
    let leaf = sds.join("xds-tls-certificate.json");
    fs::remove_file(sds.join("edge.json")).unwrap();
    fs::write(&leaf, "?").unwrap();
    for expected in [["gen-3", "gen-4"]; 2] {
        thread.commands.send(CertificateCommand::CheckPublished(7));
        thread
            .wait(|report| matches!(report, CertificateReport::PublishedChecked(7)).then_some(()));
        let text = |path: &Path| fs::read_to_string(path).unwrap();
        let found = [text(&leaf), text(&sds.join("edge.json"))];
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.contains(expected), "{found}");
        }
    }
    fs::remove_dir_all(&sds).unwrap();
    fs::write(thread.dir.join("tls.key"), "").unwrap();
    thread.commands.send(CertificateCommand::CheckNow(1));
    let line = thread.wait(|report| match report {
        CertificateReport::Reloaded(1, line) => Some(line.clone()),
        _ => None,
    });
    assert!(line.unwrap_err().contains("the key: is empty"));
    let mut names: Vec<_> = fs::read_dir(thread.dir.join("resources/sds"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let expected = [
        "edge.json",
        "xds-tls-certificate.json",
        "xds-validation-context.json",
    ];
    assert_eq!(names, expected, "no candidate is left");
}

/// Memory that is mapped is written without a word of the kernel's (inotify(7)).
#[test]
fn what_the_kernel_does_not_tell_of_is_found_in_the_interval_that_was_asked_for() {
    let thread = RunningRotation::start();
    thread.write("ec.crt", "ec.key");
    thread.wait(|report| matches!(report, CertificateReport::FirstSetReady).then_some(()));
    thread.commands.send(CertificateCommand::EnvoyStarted);
    let all = |report: &CertificateReport, wanted: &str| {
        let CertificateReport::Status(secrets) = report else {
            return None;
        };
        let ended = |secret: &SecretStatus| secret.last_result == Some(wanted);
        secrets.iter().all(ended).then_some(())
    };
    thread.wait(|report| all(report, "ok"));
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(thread.dir.join("tls.key"))
        .unwrap();
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let length = 16.try_into().unwrap();
    // SAFETY: the file is longer than that, and nobody cuts it while it is mapped.
    let map = unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, &file, 0) }.unwrap();
    // SAFETY: the pages are mapped for writing, and nobody else has a reference into them.
    unsafe { map.cast::<u8>().write_volatile(b'?') };
    thread.wait(|report| all(report, "refused"));
    // SAFETY: nobody has a reference into the pages.
    unsafe { munmap(map, length.get()) }.unwrap();
}
