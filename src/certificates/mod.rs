//! Envoy's certificates, kept fresh: the files are read, what is bad is refused, the rest is
//! published as SDS files, and Envoy is asked whether it took them.
//!
//! [`run`] is the body of a thread of its own. It does what a [`Decision`](decision::Decision) for
//! each set tells it to, and may hang on a stuck file system: nobody waits for it. Started again
//! after a panic it goes on from what is published; tell it [`CertificateCommand::EnvoyStarted`]
//! then.

mod answers;
mod change_check;
pub mod check;
pub mod confirm;
pub mod decision;
pub mod der;
mod directory;
mod duty;
mod existing;
pub mod lifetime;
pub mod many;
pub mod name;
mod notify;
pub mod ocsp;
pub mod pem;
mod pending;
mod probe;
pub mod publish;
pub mod read;
pub mod record;
mod rotation;
pub mod sds;
pub mod secret;
pub mod serial;
pub mod trust;
pub mod usable;
mod watch;
pub mod x509;

use std::io;
use std::mem;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use log::{error, info};

use self::answers::Answers;
use self::duty::Duty;
use self::name::{CONTOUR_CA, CONTOUR_LEAF};
use self::notify::Notify;
use self::probe::Probes;
use self::publish::SdsTarget;
use self::read::{Files, Source};
use self::rotation::Rotation;
use self::sds::SecretKind;
use crate::fault;
use crate::mailbox::{Inbox, Wakeups};
use crate::pulse::Pulse;
use crate::status::SecretStatus;

/// The thread wakes at least this often.
const AT_MOST: Duration = Duration::from_secs(3600);

/// A long wait may be that much longer.
const SLACK: Duration = Duration::from_millis(5);

/// The next question's number, also for a thread that is started again: an answer may be late.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// What is to be kept fresh.
#[derive(Clone, Debug)]
pub struct CertificateSettings {
    /// The xDS client's certificate, key and CA.
    pub xds: Option<Files>,
    /// Further secrets, for listeners: a name that [`name::check`] takes, and where its files are.
    /// Each name once.
    pub secrets: Vec<(String, Source)>,
    /// The directory in whose `sds` the SDS files go.
    pub resources: PathBuf,
    /// How often the files are looked at.
    pub check: CheckTimes,
}

/// How often files are looked at.
#[derive(Clone, Copy, Debug)]
pub struct CheckTimes {
    /// The longest time between two looks at the files.
    pub every: Duration,
    /// Whether the operator asked for this interval: then it holds also where the kernel tells of
    /// every change.
    pub given: bool,
}

impl CertificateSettings {
    /// What is known of the secrets before any file was looked at: their names.
    pub fn unread(&self) -> Vec<SecretStatus> {
        let xds = self.xds.iter().flat_map(|_| [CONTOUR_LEAF, CONTOUR_CA]);
        let others = self.secrets.iter().map(|(name, _)| name.as_str());
        let unread = |name: &str| SecretStatus {
            secret: name.to_owned(),
            stale: true,
            ..SecretStatus::default()
        };
        xds.chain(others).map(unread).collect()
    }
}

/// What the certificate thread tells the main one.
#[derive(Debug)]
pub enum CertificateReport {
    /// Envoy must not be started yet, because of this. Sent when it changes.
    Waiting(String),
    /// Envoy may start: the xDS client's set is published, and each other secret, or that there is
    /// none so far.
    FirstSetReady,
    /// Run `envoy --mode validate -c` on this file, by `/dev/fd`, and answer
    /// [`CertificateCommand::Validated`].
    Validate {
        /// The question's number, to be sent back.
        id: u64,
        /// The file, which has no name: it holds a key, and is gone with the last who has it open.
        config: OwnedFd,
    },
    /// What is known of the secrets. Sent when it changes.
    Status(Vec<SecretStatus>),
    /// The SDS files are looked after, as the last [`CertificateCommand::CheckPublished`] with this
    /// number asked: they hold what was published.
    PublishedChecked(u64),
    /// What came of the last [`CertificateCommand::CheckNow`], by its number, in one line.
    Reloaded(u64, Result<String, String>),
}

/// What the main thread tells the certificate thread.
#[derive(Clone, Debug)]
pub enum CertificateCommand {
    /// Look at the files now, and act on them: answered by [`CertificateReport::Reloaded`], unless
    /// another one comes before that.
    CheckNow(u64),
    /// Look whether the SDS files still hold what was published, and write them again where they do
    /// not: answered by [`CertificateReport::PublishedChecked`] once they do, unless another one
    /// comes before that.
    CheckPublished(u64),
    /// An Envoy runs from here on; its admin may not answer yet.
    EnvoyStarted,
    /// Another Envoy runs from here on, and its admin interface answers.
    EnvoyReplaced,
    /// No Envoy runs from here on.
    EnvoyGone,
    /// The answer to [`CertificateReport::Validate`]. `Ok` also when no verdict could be had.
    Validated {
        /// The question's number.
        id: u64,
        /// Why Envoy refused the set, in one line.
        verdict: Result<(), String>,
    },
    /// End the thread.
    Stop,
}

impl CertificateCommand {
    /// Whether the thread need not take the command `before` any more, which waits in the queue, since
    /// this one has come. So one command of each kind waits at the most while the thread hangs in a
    /// file system; verdicts apart, of which there are as many as the thread has asked for.
    pub fn replaces(&self, before: &CertificateCommand) -> bool {
        use CertificateCommand::{EnvoyGone, EnvoyReplaced, EnvoyStarted, Validated};
        match (self, before) {
            (Validated { .. }, _) => false,
            (EnvoyGone, EnvoyStarted | EnvoyReplaced) => true,
            _ => mem::discriminant(self) == mem::discriminant(before),
        }
    }
}

/// Keeps everything fresh until it is told to stop. `admin` GETs a path of Envoy's admin
/// interface and answers with the body of a 200, or why there is none, within some seconds.
/// `report` tells the main thread; `pulse` shows what file this is at. The kernel is asked to tell of
/// changes only where `commands` come with their wakeups.
pub fn run(
    config: &CertificateSettings,
    admin: impl Fn(&str) -> Result<String, String>,
    report: &dyn Fn(CertificateReport),
    (commands, wakeups): (&Inbox<CertificateCommand>, Option<Wakeups>),
    pulse: &Pulse,
) {
    let mut rotations = rotations(config, pulse);
    let names: Vec<_> = rotations
        .iter()
        .flat_map(Rotation::names)
        .cloned()
        .collect();
    let mut answers = Answers::new(admin, &names);
    // Where Envoy needs all instances of inotify, it shall have them.
    let mut notify = Notify::new(wakeups, many::leaves_inotify(names.len(), pulse));
    let mut probes = Probes::default();
    let mut start = many::Start::of(&mut rotations);
    let mut ready = false;
    let mut waiting = String::new();
    let mut reload = None;
    let mut checks_published = None;
    // What is known already comes first: that an Envoy runs, above all.
    let mut wake = Instant::now();
    loop {
        let mut pause = wake.saturating_duration_since(Instant::now());
        if pause > SLACK * 10 {
            // Sets that are due at about the same time share a wake-up.
            pause += SLACK;
        }
        let command = notify.wait(commands, pause);
        fault::point("certificates");
        if command.is_some() {
            answers.forget();
        }
        let now = Instant::now();
        for (set, word) in notify.words() {
            let of_it = |number: usize| set.is_none_or(|set| set == number);
            let heard = rotations.iter_mut().enumerate();
            let heard = heard.filter(|(number, _)| of_it(*number));
            heard.for_each(|(_, rotation)| rotation.hear(now, word));
        }
        match command {
            Some(CertificateCommand::CheckNow(number)) => {
                reload = Some(number);
                rotations
                    .iter_mut()
                    .for_each(|rotation| rotation.check_now(now));
                rotations
                    .iter_mut()
                    .for_each(|rotation| rotation.check_published(pulse));
            }
            Some(CertificateCommand::CheckPublished(number)) => {
                checks_published = Some(number);
                rotations
                    .iter_mut()
                    .for_each(|rotation| rotation.check_published(pulse));
            }
            Some(CertificateCommand::EnvoyStarted) => {
                rotations
                    .iter_mut()
                    .for_each(|rotation| rotation.decision.envoy_started(now));
            }
            Some(CertificateCommand::EnvoyReplaced) => {
                rotations
                    .iter_mut()
                    .for_each(|rotation| rotation.decision.envoy_replaced(now));
            }
            Some(CertificateCommand::EnvoyGone) => rotations
                .iter_mut()
                .for_each(|rotation| rotation.decision.envoy_gone()),
            Some(CertificateCommand::Validated { id, verdict }) => {
                if let Some(rotation) = rotations.iter_mut().find(|rotation| rotation.asked(id)) {
                    rotation.validated(verdict);
                }
            }
            Some(CertificateCommand::Stop) => return,
            None => {}
        }
        wake = Instant::now() + AT_MOST;
        for rotation in &mut rotations {
            let places = (&mut notify, &mut probes, pulse);
            wake = wake.min(rotation.work(&mut answers, places, &mut |config| {
                let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
                report(CertificateReport::Validate { id, config });
                id
            }));
        }
        if rotations.iter_mut().fold(false, |any, rotation| {
            any | rotation.decision.record.changed().is_some()
        }) {
            let status = rotations
                .iter()
                .flat_map(|rotation| rotation.decision.record.status());
            report(CertificateReport::Status(status.cloned().collect()));
        }
        if !ready {
            let lacking = rotations
                .iter()
                .filter(|rotation| !rotation.decision.is_ready());
            let lacking: Vec<_> = lacking
                .map(|rotation| rotation.decision.waiting_for())
                .collect();
            let mut known: Vec<_> = lacking.iter().flatten().map(String::as_str).collect();
            known.dedup();
            let text = known.join("; ");
            if lacking.is_empty() {
                ready = true;
                report(CertificateReport::FirstSetReady);
            } else if !known.is_empty() && waiting != text {
                waiting = text;
                info!("waiting for certificates: {waiting}");
                report(CertificateReport::Waiting(waiting.clone()));
            }
        }
        start.tell(&mut rotations, ready);
        let astray = |rotation: &Rotation| rotation.decision.is_astray();
        if !rotations.iter().any(astray)
            && let Some(number) = checks_published.take()
        {
            report(CertificateReport::PublishedChecked(number));
        }
        if let Some(number) = reload
            && rotations.iter().all(|rotation| rotation.decision.is_idle())
        {
            reload = None;
            report(CertificateReport::Reloaded(number, outcome(&rotations)));
        }
    }
}

fn rotations(config: &CertificateSettings, pulse: &Pulse) -> Vec<Rotation> {
    let start = Instant::now();
    match pulse.during(&config.resources, || SdsTarget::sweep(&config.resources)) {
        Ok(said) => info!("{said}"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => error!("{}", rotation::explain(&error, &config.resources)),
    }
    let xds = config.xds.iter().map(|files| {
        let target = SdsTarget::contour(&config.resources);
        (files.clone(), target, Duty::Gate)
    });
    let secrets = config.secrets.iter().map(|(name, source)| {
        let target = SdsTarget::listener(&config.resources, name, SecretKind::of(source));
        (Files(vec![source.clone()]), target, Duty::Listener)
    });
    let rotation = |(number, (files, target, duty)): (usize, (Files, SdsTarget, Duty))| {
        Rotation::new(number, files, target, duty, &config.check, start, pulse)
    };
    xds.chain(secrets).enumerate().map(rotation).collect()
}

/// What came of looking at everything, in one line.
fn outcome(rotations: &[Rotation]) -> Result<String, String> {
    let mut lines = Vec::new();
    let mut failed = false;
    for rotation in rotations {
        if let Some(first) = rotation.decision.record.status().first() {
            let (secret, generation) = (&first.secret, first.generation);
            failed |= first.last_error.is_some();
            lines.push(match (&first.last_error, &first.serial) {
                (Some(why), _) => format!("{secret}: {why}"),
                (None, Some(serial)) => format!("{secret}: gen-{generation}, serial {serial}"),
                (None, None) => format!("{secret}: gen-{generation}"),
            });
        }
    }
    let line = lines.join("; ");
    if failed { Err(line) } else { Ok(line) }
}
