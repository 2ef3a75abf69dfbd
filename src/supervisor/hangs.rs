//! Notices when a thread hangs in a file system: it cannot tell that itself.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Supervisor;
use super::decide::Input;
use super::helpers::Pulses;
use crate::duration::show;
use crate::status::State;

/// A file system that has not answered for so long hangs.
const LIMIT: Duration = Duration::from_secs(10);

/// Between two looks at what the threads are at: whatever hangs is seen before it is to be told.
const EVERY: Duration = Duration::from_secs(9);

/// What the threads are at that look at files, and what of that hangs.
#[derive(Debug)]
pub(super) struct Hangs {
    pulses: Pulses,
    /// When to look next; none where nothing is to be seen.
    due: Option<Instant>,
    /// The file at which the certificate thread hangs.
    certificates: Option<PathBuf>,
    /// The file at which the thread hangs that asks Envoy's admin interface.
    admin: Option<PathBuf>,
    /// The configuration file, where its thread hangs.
    configuration: Option<PathBuf>,
    /// What the certificate thread last said that it waits for.
    waiting: String,
    /// Whether the log has told that Envoy waits for long.
    told: bool,
}

impl Hangs {
    /// Nothing hangs yet. `due` is when to look for the first time.
    pub(super) fn new(pulses: Pulses, due: Option<Instant>) -> Hangs {
        Hangs {
            pulses,
            due,
            certificates: None,
            admin: None,
            configuration: None,
            waiting: String::new(),
            told: false,
        }
    }

    /// Notes what the certificate thread waits for.
    pub(super) fn note_waiting(&mut self, which: &str) {
        which.clone_into(&mut self.waiting);
    }

    /// When to look next.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.due
    }
}

impl Supervisor {
    /// Tells of threads that hang, and of those that go on.
    pub(super) fn look_for_hangs(&mut self, now: Instant) {
        if self.hangs.due.is_none_or(|due| due > now) {
            return;
        }
        let pulses = &self.hangs.pulses;
        let busy = [&pulses.certificates, &pulses.admin, &pulses.configuration]
            .map(crate::pulse::Pulse::busy);
        let to_tell = busy.iter().flatten().map(|(since, _)| *since + LIMIT);
        // A second is soon enough to see that it answers again.
        let hangs = to_tell.clone().any(|tell| tell <= now);
        let next = if hangs { Duration::from_secs(1) } else { EVERY };
        let next = now + next;
        let waits = self.core.state(self.now()) == State::Waiting && !self.hangs.told;
        let to_warn = waits.then_some(self.born + LIMIT);
        let to_tell = to_tell.chain(to_warn);
        self.hangs.due = to_tell.filter(|tell| *tell > now).chain([next]).min();
        let [certificates, admin, configuration] = busy.map(|busy| {
            let (since, path) = busy?;
            (since + LIMIT <= now).then_some(path)
        });
        if certificates != self.hangs.certificates {
            self.tell_certificates(certificates.as_deref());
            self.hangs.certificates = certificates;
        }
        if to_warn.is_some_and(|at| at <= now) {
            self.hangs.told = true;
            log::warn!(
                "envoy has not been started for {}: {}",
                show(LIMIT),
                self.core.reason()
            );
        }
        if admin != self.hangs.admin {
            match (&admin, &self.hangs.admin) {
                (Some(path), _) => {
                    let line = format!("envoy's admin address: {}", describe(path));
                    log::warn!("{line}");
                    self.board
                        .update(|snapshot| snapshot.admin.ready = Some((now, Err(line))));
                }
                (None, Some(path)) => {
                    log::info!("the file system of {} answers again", path.display())
                }
                (None, None) => {}
            }
            self.hangs.admin = admin;
        }
        if configuration != self.hangs.configuration {
            let line = configuration.as_deref().map(describe);
            match (&line, &self.hangs.configuration) {
                (Some(line), _) => log::warn!("the configuration file: {line}"),
                (None, Some(path)) => {
                    log::info!("the file system of {} answers again", path.display())
                }
                (None, None) => {}
            }
            self.board
                .update(|snapshot| snapshot.configuration_hangs = line);
            self.hangs.configuration = configuration;
        }
    }

    fn tell_certificates(&mut self, hangs_at: Option<&Path>) {
        let line = hangs_at.map(describe);
        match (&line, &self.hangs.certificates) {
            (Some(line), _) => log::warn!("certificates: {line}"),
            (None, Some(path)) => log::info!(
                "certificates: the file system of {} answers again",
                path.display()
            ),
            (None, None) => {}
        }
        let waiting = line.clone().unwrap_or_else(|| self.hangs.waiting.clone());
        self.board
            .update(|snapshot| snapshot.certificates_hang = line);
        // It counts as long as Envoy is not started.
        self.handle(Input::CertificatesMissing(waiting));
    }
}

fn describe(path: &Path) -> String {
    let (path, limit) = (path.display(), show(LIMIT));
    format!("{path} does not answer: its file system has hung for {limit}")
}
