//! `--watch-config`: the configuration that the file holds, the one that Envoy runs, and the last
//! good one, to which it goes back.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::time::{Duration, Instant};

use super::Supervisor;
use super::copies::{ConfigurationReport, Copies, Copy, Print};
use super::decide::{Input, News};
use super::probation::{self, Probation, TrackRecord};
use crate::drain::Time;
use crate::envoy::traffic::Traffic;
use crate::process;
use crate::status::{Configuration, State};

/// Before somebody asks again who could not ask now.
const RETRY: Duration = Duration::from_millis(50);

/// What is known of the configurations.
#[derive(Debug)]
pub(super) struct Follow {
    copies: Copies,
    /// What the Envoy that serves runs, and what the one that starts beside it does.
    runs: Option<Copy>,
    next: Option<Copy>,
    /// The last good configuration.
    good: Option<Copy>,
    /// The configuration that was gone back from: nobody but a person has it tried again.
    refused: Option<Print>,
    /// What the Envoy that serves has done.
    record: TrackRecord,
    /// The watch over a new configuration, while Envoy runs one.
    probation: Option<Probation>,
    /// Why the reload that is under way or kept goes back to the last good one.
    back: Option<String>,
    /// The file has changed, and no reload has begun for that.
    changed: bool,
    /// Whether no reload could begin for that, because there was no Envoy that could be followed.
    missed: bool,
    /// When to look next at what the Envoy that serves does.
    due: Time,
    /// Whether Envoy is to be asked for that look, and has not told anything since.
    waits: bool,
}

impl Follow {
    pub(super) fn new(copies: Copies) -> Follow {
        Follow {
            copies,
            runs: None,
            next: None,
            good: None,
            refused: None,
            record: TrackRecord::default(),
            probation: None,
            back: None,
            changed: false,
            missed: false,
            due: Time::ZERO,
            waits: false,
        }
    }

    pub(super) fn copies(&self) -> &Copies {
        &self.copies
    }

    /// A copy that is neither run nor gone back to is not kept.
    fn discard(&self, copy: Option<Copy>) {
        let kept = [&self.runs, &self.next, &self.good];
        if let Some(copy) = copy
            && !kept.into_iter().flatten().any(|it| it.path == copy.path)
        {
            let _ = fs::remove_file(copy.path);
        }
    }

    /// The configuration that runs has proven good.
    fn settle(&mut self) {
        self.probation = None;
        self.record = TrackRecord::default();
        let before = std::mem::replace(&mut self.good, self.runs.clone());
        self.discard(before);
    }

    fn runs_print(&self) -> Option<Print> {
        self.runs.as_ref().map(|copy| copy.print)
    }
}

impl Supervisor {
    /// When to look at the Envoy that serves, where somebody does.
    pub(super) fn follow_wake_at(&self) -> Option<Instant> {
        let follow = self.follow.as_ref()?;
        (self.core.state(self.now()) == State::Live).then(|| self.born + follow.due)
    }

    /// Looks at what the Envoy that serves does, if that is due.
    pub(super) fn go_on_following(&mut self) {
        let now = self.now();
        let live = self.core.state(now) == State::Live;
        let Some(follow) = self.follow.as_mut().filter(|_| live) else {
            return;
        };
        if std::mem::take(&mut follow.missed) {
            self.ask_for_reload();
        } else if follow.due <= now {
            let generations = self.core.generations();
            let away = generations.is_starting() || generations.is_degraded();
            // Whoever probes Envoy once a second takes each question that Envoy has its rest before.
            let waits = std::mem::replace(&mut follow.waits, true);
            let urgent = waits || follow.probation.is_some() || self.board.read().is_reloading();
            // Nobody can be asked, and that may last.
            let retry = if away || !urgent {
                probation::LOOK
            } else {
                RETRY
            };
            follow.due = now + retry;
            self.handle(Input::Weigh(urgent));
        }
    }

    /// The file was looked at.
    pub(super) fn on_configuration(&mut self, word: ConfigurationReport) {
        let starts = self.core.generations().is_starting();
        let Some(follow) = &mut self.follow else {
            return;
        };
        match word {
            ConfigurationReport::Lost(why) => log::warn!(
                "the configuration file {} {why}: envoy goes on with what it has",
                follow.copies.file().display()
            ),
            ConfigurationReport::Read(copy) => {
                follow.good.get_or_insert_with(|| copy.clone());
                let place = if starts {
                    &mut follow.next
                } else {
                    &mut follow.runs
                };
                let before = place.replace(copy);
                follow.discard(before);
            }
            ConfigurationReport::Changed(copy) => {
                let (print, is_back) = (Some(copy.print), self.envoys.runs_copy());
                follow.discard(Some(copy));
                if print == follow.runs_print() {
                    if is_back {
                        log::info!(
                            "the configuration file holds the last good configuration again"
                        );
                        self.envoys.run_copy(None);
                        self.show_configuration(None);
                    }
                } else if print == follow.refused {
                    log::warn!(
                        "the configuration in the file was worse before: it is not tried again"
                    );
                } else {
                    log::info!("the configuration file has changed");
                    (follow.refused, follow.back) = (None, None);
                    follow.changed = true;
                    self.ask_for_reload();
                }
            }
        }
    }

    /// A reload begins: with which configuration, the next Envoy's is decided here.
    pub(super) fn choose_configuration(&mut self) {
        let now = self.now();
        if let Some(follow) = &mut self.follow {
            // What the one before did is known up to now.
            follow.due = now;
            follow.changed = false;
            let good = follow.good.as_ref().filter(|_| follow.back.is_some());
            let good = good.map(|copy| copy.path.clone());
            self.envoys.try_copy(good);
        }
    }

    /// A person wants the file's configuration, whatever was decided before, unless a reload has
    /// begun.
    pub(super) fn prefer_file(&mut self) {
        let reloading = self.board.read().is_reloading();
        if let Some(follow) = self.follow.as_mut().filter(|_| !reloading) {
            follow.back = None;
        }
    }

    /// A reload was refused because there was no Envoy that could be followed.
    pub(super) fn miss_configuration(&mut self) {
        if let Some(follow) = &mut self.follow {
            follow.missed = follow.changed;
        }
    }

    /// A reload has come to its end: the next Envoy is live, or there is none.
    pub(super) fn on_followed(&mut self, live: bool) {
        let now = self.now();
        let Some(follow) = &mut self.follow else {
            return;
        };
        let back = follow.back.take();
        match (live, back) {
            (true, Some(why)) => {
                let before = std::mem::replace(&mut follow.runs, follow.good.clone());
                follow.discard(before);
                follow.next = None;
                follow.record = TrackRecord::default();
                follow.due = now + probation::LOOK;
                self.envoys.keep_copy();
                log::error!(
                    "Envoy runs the last good configuration again: the file's was worse: {why}"
                );
                self.show_configuration(Some(why));
            }
            (true, None) => {
                let next = follow.next.take();
                let before = match next {
                    Some(next) => follow.runs.replace(next),
                    None => None,
                };
                follow.discard(before);
                let record = match &follow.probation {
                    // It follows one that has not proven good.
                    Some(probation) => probation.before(),
                    None => std::mem::take(&mut follow.record),
                };
                follow.probation = Some(Probation::new(record, now));
                follow.due = now + probation::LOOK;
                self.envoys.keep_copy();
                self.show_configuration(None);
            }
            (false, back) => {
                let next = follow.next.take();
                follow.discard(next);
                if let Some(why) = back {
                    log::error!(
                        "envoy could not go back from the configuration that is worse: {why}"
                    );
                }
            }
        }
    }

    /// The Envoy that serves told what it does, or did not.
    pub(super) fn on_traffic(&mut self, traffic: Option<&Traffic>) {
        let now = self.now();
        let Some(follow) = &mut self.follow else {
            return;
        };
        follow.due = now + probation::LOOK;
        follow.waits = false;
        let Some(traffic) = traffic else {
            return;
        };
        let runs = follow.runs_print();
        let Some(probation) = &mut follow.probation else {
            follow.record.on_look(now, traffic.clone());
            follow.due = now + probation::LOOK_AT_REST;
            return;
        };
        let good = follow.good.as_ref().map(|copy| copy.print);
        if runs == good || runs == follow.refused {
            // Another Envoy with the same, or a person wants this one in spite of all.
            follow.refused = follow.refused.filter(|print| Some(*print) != runs);
            follow.settle();
        } else if let Some(why) = probation.on_look(now, traffic.clone()) {
            let until = probation.until();
            self.go_back(why, until);
        } else if now >= probation.until() {
            log::info!("the new configuration is good: nothing has become worse in 30 s");
            follow.settle();
            self.show_configuration(None);
        }
    }

    /// The configuration that runs is worse: the next Envoy runs the last good one. What an old one
    /// still has is waited for until then.
    fn go_back(&mut self, why: String, until: Time) {
        let pid = self.envoys.pid();
        let Some(follow) = &mut self.follow else {
            return;
        };
        let Some(good) = follow.good.clone() else {
            return;
        };
        follow.probation = None;
        follow.refused = follow.runs_print();
        log::error!("the new configuration is worse: {why}: going back to the last good one");
        // A start script may have left root; and Envoy's user, have led the file to what it may not
        // read itself.
        if let Some(pid) = pid
            && let Ok(envoy) = fs::metadata(format!("/proc/{pid}"))
            && good.readers.include(envoy.uid(), &process::groups(pid))
        {
            let _ = chown(&good.path, Some(envoy.uid()), Some(envoy.gid()));
        }
        follow.back = Some(why);
        self.count_reload();
        self.handle(Input::HotRestart(News::GoBack(until)));
    }

    /// The newest Envoy has ended, and whatever is started next is not to run what it ran if that is
    /// not known to be good.
    pub(super) fn forsake_configuration(&mut self) {
        let Some(follow) = &mut self.follow else {
            return;
        };
        follow.record = TrackRecord::default();
        let is_ours = self.core.drain().is_some() || self.sent.terminated.is_some();
        if follow.probation.take().is_none() || is_ours {
            return;
        }
        let Some(good) = follow.good.clone() else {
            return;
        };
        follow.refused = follow.runs_print();
        let path = good.path.clone();
        let before = follow.runs.replace(good);
        follow.discard(before);
        self.envoys.run_copy(Some(path));
        let why = "Envoy ended before it had proven good";
        log::error!(
            "the new configuration is worse: {why}: if drainit starts another Envoy, it runs the last good one"
        );
        self.show_configuration(Some(why.into()));
    }

    /// Shows which configuration runs: the last good one instead of the file's, for this reason, or
    /// the file's.
    fn show_configuration(&self, why: Option<String>) {
        let follow = self.follow.as_ref();
        let probation = follow.and_then(|follow| follow.probation.as_ref());
        let watched = probation.map(|probation| self.born + probation.until());
        self.board.update(|snapshot| {
            snapshot.configuration = Some(Configuration {
                worse: why,
                since: Instant::now(),
                watched,
            });
        });
    }

    /// Shows that the configuration is followed.
    pub(super) fn begin_following(&self) {
        if self.follow.is_some() {
            self.show_configuration(None);
        }
    }
}
