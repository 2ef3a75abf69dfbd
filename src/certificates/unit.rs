//! One set of files and its engine: does what the engine says.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use log::warn;

use super::confirm::{self, Observation};
use super::engine::{Engine, Step};
use super::glance::Glance;
use super::publish::Target;
use super::read::{Contents, Files};

/// The most steps in a row: the other sets, and the commands, have their turn.
const STEPS: usize = 20;

/// One set of files, where it is published, and how far it is.
pub struct Unit {
    pub engine: Engine,
    files: Files,
    target: Target,
    names: Vec<String>,
    buffers: Contents,
    glance: Glance,
    /// The candidate that is being tried, and the question's number.
    candidate: Option<(u64, PathBuf)>,
    /// A file whose name was gone when it was last read, and how often that was so.
    stale: Option<(PathBuf, u32)>,
}

impl Unit {
    pub fn new(files: Files, mut target: Target, check: Duration, start: Instant) -> Unit {
        let published = target.take_over();
        let _ = fs::remove_file(target.candidate_path());
        let names: Vec<_> = target.names().into_iter().map(str::to_owned).collect();
        let (generation, contents) = (published.generation, published.contents);
        Unit {
            engine: Engine::new(names.clone(), check, start, generation, contents),
            files,
            target,
            names,
            buffers: Contents::default(),
            glance: Glance::default(),
            candidate: None,
            stale: None,
        }
    }

    /// Does what is to be done now; when there will be more. `validate` has a candidate tried,
    /// and answers with the question's number.
    pub fn work(
        &mut self,
        admin: &impl Fn(&str) -> Result<String, String>,
        validate: &mut impl FnMut(PathBuf) -> u64,
    ) -> Instant {
        for _ in 0..STEPS {
            let now = Instant::now();
            match self.engine.next(now) {
                Step::Wait(until) => return until,
                Step::Read => self.read(),
                Step::Observe => {
                    let answer = self.observe(admin);
                    self.engine.observed(now, Instant::now(), answer);
                }
                Step::Publish(generation, contents) => {
                    let result = self.target.publish(generation, &contents);
                    let result = result.map_err(|error| error.to_string());
                    self.engine.published(Instant::now(), result);
                }
                Step::Validate(contents) => match self.target.write_candidate(&contents) {
                    Ok(path) => self.candidate = Some((validate(path.clone()), path)),
                    Err(error) => {
                        // Publishing will fail as well, and is tried again.
                        warn!("cannot write a candidate configuration: {error}");
                        self.engine.validated(now, SystemTime::now(), Ok(()));
                    }
                },
            }
        }
        Instant::now()
    }

    /// Somebody wants the files read now, whatever they looked like when they were last.
    pub fn check_now(&mut self, now: Instant) {
        self.glance = Glance::default();
        self.engine.check_now(now);
    }

    /// Whether this question was this set's.
    pub fn asked(&self, id: u64) -> bool {
        self.candidate
            .as_ref()
            .is_some_and(|(asked, _)| *asked == id)
    }

    /// The candidate's verdict is there.
    pub fn validated(&mut self, verdict: Result<(), String>) {
        if let Some((_, path)) = self.candidate.take() {
            let _ = fs::remove_file(path);
        }
        self.engine
            .validated(Instant::now(), SystemTime::now(), verdict);
    }

    fn read(&mut self) {
        let wall = SystemTime::now();
        if !self.glance.must_read(&self.files, wall) {
            // Not even compared: that would fetch all of it into the processor's cache.
            self.engine.unchanged(Instant::now(), wall);
            return;
        }
        let read = self.files.read(&mut self.buffers);
        if read.is_err() {
            // The buffers are not what the files hold: the next look reads again.
            self.glance = Glance::default();
        }
        let stale = read.as_ref().ok().copied().flatten();
        warn_of_stale(&mut self.stale, stale);
        let reading = read.map(|_| &self.buffers);
        self.engine.read(Instant::now(), wall, reading);
    }

    fn observe(
        &self,
        admin: &impl Fn(&str) -> Result<String, String>,
    ) -> Result<Observation, String> {
        let stats = admin(&confirm::stats_query(&self.names))?;
        let serials: Result<HashSet<_>, _> =
            admin("/certs").and_then(|page| confirm::parse_certs(&page));
        Ok(Observation {
            secrets: confirm::parse_stats(&stats, &self.names),
            serials,
        })
    }
}

/// A file without a name was replaced: on the host, behind a bind mount of the file itself, or
/// just while it was read. The second time in a row it is the mount.
fn warn_of_stale(known: &mut Option<(PathBuf, u32)>, now: Option<&Path>) {
    let Some(path) = now else {
        *known = None;
        return;
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
        _ => *known = Some((path.to_owned(), 1)),
    }
}

#[cfg(test)]
#[path = "unit_tests.rs"]
mod tests;
