//! The ends of processes: Envoy's, its start script's, orphans', and our own.

use std::time::{Duration, Instant};

use nix::libc;

use super::Supervisor;
use super::decide::{Input, Order, Who};
use super::envoys::Whose;
use super::leaving::{Leaving, LeavingStep};
use super::trials::{self, Purpose};
use crate::certificates::CertificateCommand;
use crate::drain::Time;
use crate::process::cgroup;
use crate::process::{self, End, Exit, ExitClass};
use crate::status::{LastEnd, State};

/// An Envoy that ends so soon after we were told to stop, and before we told it, was told by
/// somebody else.
const TOLD_BY_ANOTHER: Duration = Duration::from_millis(100);

impl Supervisor {
    pub(super) fn reap(&mut self) {
        while let Some((pid, end)) = process::reap() {
            let exit = end.exit;
            self.board.update_quietly(|snapshot| snapshot.reaped += 1);
            match self.envoys.on_exit(pid, self.core.generations().newest()) {
                Whose::Envoy(Who::Old) => self.on_old_exit(exit),
                Whose::Envoy(who) => self.on_exit(who, end),
                Whose::Script { newest } => self.on_script_exit(exit, newest),
                Whose::Another => match self.trials.on_exit(pid, exit) {
                    Some(verdict) => self.on_verdict(verdict),
                    None => log::debug!("reaped {pid}: {exit}"),
                },
            }
        }
    }

    fn on_exit(&mut self, who: Who, mut end: End) {
        let exit = end.exit;
        // A SIGKILL of ours has nothing to do with what the kernel killed, and when.
        let killed = exit.code() == Exit::Signal(9).code() && !self.envoys.was_killed();
        if killed && cgroup::has_risen(self.oom_kills, cgroup::oom_kills()) {
            end.class = Some(ExitClass::OutOfMemory);
        } else if self.envoys.was_script(exit) {
            end.class = Some(ExitClass::StartScript);
        }
        let at = Instant::now();
        let given_up = self.has_given_up(who);
        self.board.update(|snapshot| {
            if given_up {
                // It is the reload's to tell, which has failed.
                return;
            }
            let started = snapshot.envoy.as_ref().map_or(at, |envoy| envoy.started);
            snapshot.last_end = Some(LastEnd {
                end,
                at,
                lived: at.saturating_duration_since(started),
            });
        });
        if exit == Exit::Code(0) && self.core.serves_unasked(who) {
            log::warn!(
                "envoy ended with exit code 0, which nobody here asked for: a signal or a \
                 /quitquitquit came from elsewhere"
            );
        }
        if who == Who::Next {
            self.fall_back(exit, given_up);
        } else {
            self.warn_of_another(exit);
            self.forsake_configuration();
            self.helpers.tell(CertificateCommand::EnvoyGone);
            self.reporter.on_exit(end);
            self.board.update(|snapshot| snapshot.envoy = None);
        }
        self.handle(Input::Exited(who, exit));
        if self.leaving.is_none() {
            self.envoys.end_gone(libc::SIGTERM);
        }
    }

    /// Has Envoy, which ended before it was live, say whether it refuses what it was started with.
    pub(super) fn judge(&mut self) {
        match self.envoys.trial_of_start() {
            Some(line) => self.trials.ask(Purpose::Start, line),
            None => self.handle(Input::Judged(None)),
        }
    }

    /// Envoy said whether it refuses what it was started with.
    pub(super) fn on_start_tried(&mut self, verdict: &trials::TrialResult) {
        let refusal = {
            let itself = self.envoys.is_envoy_itself();
            verdict.refusal_of_start(itself, self.options.add_envoy_flags)
        };
        if refusal.is_some() {
            let class = Some(ExitClass::Configuration);
            self.board.update(|snapshot| {
                if let Some(last) = &mut snapshot.last_end {
                    last.end.class = class;
                }
            });
        }
        self.handle(Input::Judged(refusal));
    }

    /// The start script is gone, and Envoy is our own child now.
    fn on_script_exit(&mut self, exit: Exit, newest: bool) {
        let what = "the start script ended before envoy, which lives on";
        if newest && self.core.state(self.now()) != State::Stopping {
            log::warn!("{what}: {exit}");
            self.handle(Input::ScriptEnded(exit));
        } else {
            log::info!("{what}: {exit}");
        }
        self.show_envoy();
    }

    /// Envoy has answered: by now it has become what it will be, behind a start script or not.
    pub(super) fn identify(&mut self) {
        if !self.identified {
            self.identified = true;
            self.envoys.identify();
            self.show_envoy();
        }
    }

    fn show_envoy(&self) {
        let Some(pid) = self.envoys.pid() else {
            return;
        };
        self.board.update(|snapshot| {
            if let Some(envoy) = &mut snapshot.envoy {
                envoy.pid = pid;
            }
        });
        self.note_generations();
    }

    /// A drain that somebody else's SIGTERM to Envoy made impossible is worth a word.
    fn warn_of_another(&self, exit: Exit) {
        let now = self.now();
        let told = |exit| matches!(exit, Exit::Code(0 | 143)) || exit == Exit::Signal(15);
        let just_begun = |started: Time| now.saturating_sub(started) <= TOLD_BY_ANOTHER;
        let Some(drain) = self.core.drain() else {
            return;
        };
        if self.sent.terminated.is_none()
            && drain.stops()
            && just_begun(drain.started())
            && told(exit)
        {
            log::warn!(
                "envoy ended within {} ms of {}, and drainit had not told it to: somebody else \
                 signals envoy, too, and what was in flight is cut. systemd does so with \
                 KillMode=control-group, its default: set KillMode=mixed. Others that signal \
                 every process of a cgroup or container can be told to signal drainit alone",
                TOLD_BY_ANOTHER.as_millis(),
                drain.cause()
            );
        }
    }

    /// Envoy is over; so are we, once nothing is left of what it was started with.
    pub(super) fn leave(&mut self, now: Time, code: u8) {
        let (timeout, sent) = (self.options.kill_timeout, self.sent);
        self.leaving
            .get_or_insert_with(|| Leaving::new(now, code, timeout, sent));
    }

    /// Hurries the end of what Envoy has left behind, after another order to stop.
    pub(super) fn hurry_leaving(&mut self, order: Order) {
        if let (Some(leaving), Order::Stop | Order::StopNow) = (&mut self.leaving, order) {
            leaving.hurry();
        }
    }

    pub(super) fn go_on_leaving(&mut self) {
        let now = self.now();
        let Some(leaving) = &mut self.leaving else {
            return;
        };
        loop {
            let rest = match process::has_children() {
                true => process::descendants(),
                false => Vec::new(),
            };
            match leaving.next(now, !rest.is_empty()) {
                LeavingStep::Wait(_) => return,
                LeavingStep::Exit => {
                    self.exit = Some(leaving.code);
                    return;
                }
                LeavingStep::Terminate => {
                    log::info!(
                        "sending SIGTERM to what envoy leaves behind: {}",
                        list(&rest)
                    );
                    process::signal_descendants(&rest, libc::SIGTERM);
                }
                LeavingStep::Kill => {
                    log::warn!(
                        "sending SIGKILL to what envoy leaves behind: {}",
                        list(&rest)
                    );
                    self.envoys.kill_all();
                }
            }
        }
    }
}

/// `process 12`, `processes 12, 13, 14 and 5 more`
fn list(processes: &[process::Process]) -> String {
    const SHOWN: usize = 5;
    let pids: Vec<_> = processes
        .iter()
        .map(|process| process.pid.to_string())
        .collect();
    match pids.len() {
        0 | 1 => format!("process {}", pids.concat()),
        count if count <= SHOWN => format!("processes {}", pids.join(", ")),
        count => format!(
            "processes {} and {} more",
            pids.get(..SHOWN).unwrap_or_default().join(", "),
            count - SHOWN
        ),
    }
}
