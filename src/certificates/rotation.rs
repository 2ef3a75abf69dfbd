//! The rotation of one set of files: does what its [`Decision`] says.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use log::{error, warn};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::CheckTimes;
use super::answers::Answers;
use super::change_check::ChangeCheck;
use super::decision::{Decision, SetStep};
use super::duty::Duty;
use super::lifetime::Term;
use super::notify::{FileEvent, Notify};
use super::probe::Probes;
use super::publish::{Published, SdsTarget};
use super::read::{Contents, Files, Refusal};
use crate::duration::show;
use crate::pulse::Pulse;

/// The most steps in a row: the other sets, and the commands, have their turn.
const STEPS: usize = 20;

/// A file system that has not answered for so long hangs.
const HANGS: Duration = Duration::from_secs(10);
/// After how long without an answer a file system hangs that somebody waits for: an Envoy that is
/// to start, or who asked for a reload.
const HANGS_WANTED: Duration = Duration::from_secs(1);
/// The time between two looks whether a file system that hangs answers again.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_AT_FIRST: Duration = Duration::from_millis(5);

/// A set of files, where it is published, and how far it is.
pub struct Rotation {
    pub decision: Decision,
    /// The set's number among all sets.
    number: usize,
    /// Whether looks may be rare where the kernel tells of every change.
    rely_on_kernel: bool,
    /// Whether looks are rare now.
    told: bool,
    /// Whether the kernel tells of every change, which it does on no file system that hangs, and told
    /// of none since they were last read.
    local: bool,
    files: Files,
    target: SdsTarget,
    names: Vec<String>,
    change_check: ChangeCheck,
    /// When Envoy was last asked about the set, or given it.
    looked: Instant,
    /// The number of the question what a candidate Envoy thinks.
    candidate: Option<u64>,
    /// A file whose name was gone when it was last read, and how often that was so.
    stale: Option<(PathBuf, u32)>,
}

impl Rotation {
    pub fn new(
        number: usize,
        files: Files,
        mut target: SdsTarget,
        duty: Duty,
        check: &CheckTimes,
        start: Instant,
        pulse: &Pulse,
    ) -> Rotation {
        let path = target.first.path.clone();
        let published = pulse.during(&path, || target.take_over());
        let published = published.unwrap_or_else(|error| {
            error!("{}: {error}", path.display());
            Published::default()
        });
        let names: Vec<_> = target.names().into_iter().map(str::to_owned).collect();
        let (generation, contents) = (published.generation, published.contents);
        Rotation {
            decision: Decision::new(
                names.clone(),
                duty,
                check.every,
                start,
                generation,
                contents,
            ),
            number,
            rely_on_kernel: !check.given,
            told: false,
            local: false,
            files,
            target,
            names,
            change_check: ChangeCheck::default(),
            looked: start,
            candidate: None,
            stale: None,
        }
    }

    /// Does what is to be done now; when there will be more. `validate` has a candidate tried,
    /// and answers with the question's number.
    pub fn work(
        &mut self,
        answers: &mut Answers<impl Fn(&str) -> Result<String, String>>,
        (notify, probes, pulse): (&mut Notify, &mut Probes, &Pulse),
        validate: &mut impl FnMut(OwnedFd) -> u64,
    ) -> Instant {
        for _ in 0..STEPS {
            let now = Instant::now();
            match self.decision.next(now) {
                SetStep::Wait(until) => {
                    let stale = self.decision.is_stale(SystemTime::now());
                    self.decision.record.set_stale(stale);
                    return until;
                }
                SetStep::Read => {
                    if let Err((path, since)) = self.read(notify, probes, pulse) {
                        return self.hangs(&path, since);
                    }
                }
                SetStep::Observe => {
                    let fresh = self.decision.wants_fresh_answer();
                    let since = if fresh { now } else { self.looked };
                    let (asked, answer) = answers.of(&self.names, since, now);
                    self.looked = Instant::now();
                    self.decision.observed(asked, self.looked, answer);
                }
                SetStep::Publish(generation, contents) => {
                    let path = &self.target.first.path;
                    let result = pulse.during(path, || self.target.publish(generation, &contents));
                    let result =
                        result.map_err(|error| explain(&error, path.parent().unwrap_or(path)));
                    self.looked = Instant::now();
                    self.decision.published(self.looked, result);
                }
                SetStep::Vacate(generation) => {
                    let path = &self.target.first.path;
                    let result = pulse.during(path, || self.target.vacate(generation));
                    let result =
                        result.map_err(|error| explain(&error, path.parent().unwrap_or(path)));
                    self.decision.vacated(Instant::now(), result);
                }
                SetStep::Validate(contents) => match self.candidate(&contents) {
                    Ok(config) => self.candidate = Some(validate(config)),
                    Err(error) => {
                        // The Envoy that runs, or is going to, judges alone.
                        warn!("a candidate Envoy cannot be asked: {error}");
                        self.decision.validated(now, SystemTime::now(), Ok(()));
                    }
                },
            }
        }
        Instant::now()
    }

    /// The names of the set's secrets, each of which has an SDS file.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The kernel said this of the files: they are read at the next look.
    pub fn hear(&mut self, now: Instant, word: FileEvent) {
        // They may be on another file system now.
        self.local = false;
        self.change_check = ChangeCheck::default();
        self.decision.hear(now, word);
    }

    /// Somebody wants the files read now, whatever they looked like when they were last.
    pub fn check_now(&mut self, now: Instant) {
        self.change_check = ChangeCheck::default();
        self.decision.check_now(now);
    }

    /// Looks whether the SDS files still hold what was published: an Envoy that starts reads them,
    /// and whoever may write there may have removed or overwritten them.
    pub fn check_published(&mut self, pulse: &Pulse) {
        let Some((generation, contents)) = self.decision.published_as() else {
            return;
        };
        let path = &self.target.first.path;
        let why = match pulse.during(path, || self.target.holds(generation, contents)) {
            Ok(true) => return,
            Ok(false) => "its SDS file was removed or changed by somebody".to_owned(),
            Err(error) => format!("its SDS file cannot be read: {error}"),
        };
        warn!(
            "{}: {why}: writing {} again",
            self.target.first.name,
            path.display()
        );
        self.decision.lost();
    }

    /// Whether this question was this set's.
    pub fn asked(&self, id: u64) -> bool {
        self.candidate == Some(id)
    }

    /// The candidate's verdict is there.
    pub fn validated(&mut self, verdict: Result<(), String>) {
        self.candidate = None;
        self.decision
            .validated(Instant::now(), SystemTime::now(), verdict);
    }

    /// A candidate configuration, in a file that has no name and is in memory alone: no key can be
    /// left behind.
    fn candidate(&self, contents: &Contents) -> io::Result<OwnedFd> {
        // A container's runtime makes it (OCI runtime specification), and Envoy takes no other path
        // to a descriptor.
        if !Path::new("/dev/fd").exists() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "there is no /dev/fd",
            ));
        }
        let mut file = File::from(memfd_create("candidate", MFdFlags::MFD_CLOEXEC)?);
        file.write_all(&self.target.candidate(contents)?)?;
        // It holds a key, and is no program: a shell that was given it by mistake would run it.
        file.set_permissions(Permissions::from_mode(0o444))?;
        Ok(file.into())
    }

    /// Notes that the files' file system has not answered since then. Returns when to look again.
    fn hangs(&mut self, path: &Path, since: Instant) -> Instant {
        let now = Instant::now();
        let time = now.saturating_duration_since(since);
        let limit = if self.decision.is_wanted() {
            HANGS_WANTED
        } else {
            HANGS
        };
        self.change_check = ChangeCheck::default();
        if time >= limit {
            let (path, limit) = (path.display(), show(limit));
            let refusal = Refusal {
                file: None,
                why: format!("{path} does not answer: its file system has hung for {limit}"),
                term: Term::default(),
            };
            self.decision.read(now, SystemTime::now(), Err(refusal));
            self.decision.record.set_stale(true);
        }
        let again = now + time.clamp(AGAIN_AT_FIRST, AGAIN);
        self.decision.asks().map_or(again, |asks| again.min(asks))
    }

    /// Reads the set's files, if they may have changed, and tells the decision what they hold.
    ///
    /// # Errors
    /// Where the files' file system does not answer: at which file, and since when.
    fn read(
        &mut self,
        notify: &mut Notify,
        probes: &mut Probes,
        pulse: &Pulse,
    ) -> Result<(), (PathBuf, Instant)> {
        let wall = SystemTime::now();
        if !self.local {
            probes.answers(&self.files, false)?;
        }
        if !self.change_check.must_read(&self.files, wall, pulse) {
            // Not even compared: that would fetch all of it into the processor's cache.
            self.decision.unchanged(Instant::now(), wall);
            return Ok(());
        }
        if !self.local {
            probes.answers(&self.files, true)?;
        }
        if self.change_check.is_new() || self.told {
            // Before they are read: what happens from here on is told. The way to them may be
            // another.
            let paths = self.files.each().map(|(_, path)| path);
            let all = notify.watch(self.number, paths, pulse);
            self.local = all;
            self.told = all && self.rely_on_kernel;
            self.decision.rely_on_kernel(self.told);
        }
        let read = self.files.read(pulse);
        if read.is_err() {
            // Whatever it was may be over without a sign: the next look reads again.
            self.change_check = ChangeCheck::default();
        }
        let stale = read.as_ref().ok().and_then(|(_, stale)| *stale);
        let again = warn_of_stale(&mut self.stale, stale);
        let reading = read.map(|(contents, _)| contents);
        let now = Instant::now();
        self.decision.read(now, wall, reading);
        if again {
            self.hear(now, FileEvent::Touched);
        }
        Ok(())
    }
}

/// What went wrong in a directory, which the kernel's own errors do not name.
pub fn explain(error: &io::Error, path: &Path) -> String {
    match error.raw_os_error() {
        Some(_) => format!("{}: {error}", path.display()),
        None => error.to_string(),
    }
}

/// A file without a name was replaced: on the host, behind a bind mount of the file itself, or
/// just while it was read. The second time in a row it is the mount: whether to look that once more.
fn warn_of_stale(known: &mut Option<(PathBuf, u32)>, now: Option<&Path>) -> bool {
    let Some(path) = now else {
        *known = None;
        return false;
    };
    match known {
        Some((known, times)) if known == path => {
            *times = times.saturating_add(1);
            if *times == 2 {
                warn!(
                    "{} was replaced on the host, and this container keeps the old file for ever: \
                     mount its directory instead",
                    path.display()
                );
            }
        }
        _ => {
            *known = Some((path.to_owned(), 1));
            return true;
        }
    }
    false
}

#[cfg(test)]
#[path = "rotation_tests.rs"]
mod tests;
