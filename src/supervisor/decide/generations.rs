//! What is decided of generations: the rules of a hot restart.
//!
//! Until a generation is live, nobody can be asked how Envoy is: the old one's admin interface is
//! gone and the new one's knows nothing of it. A drain waits for that, with the deadline running.

use std::time::Duration;

use super::ending::Then;
use super::{Action, Core, PROBE_FIRST, PROBE_REST, Phase};
use crate::drain::{Outcome, Time};
use crate::duration::show;
use crate::process::Exit;

/// A generation that is not live by then is given up.
pub(super) const RISE: Duration = Duration::from_millis(if cfg!(test) { 500 } else { 60_000 });

/// An old generation's time begins when the new one serves, which is seen a little later.
pub(super) const SEEN_LATE: Duration = Duration::from_secs(2);

/// Between two looks at the sockets of an Envoy that has lost its admin interface: this at the
/// last. With 10,000 connections a look takes 0.17 s of a processor.
const LOOK_REST: Duration = Duration::from_secs(30);

/// How a reload ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reloaded {
    /// The next generation is live, and the old one drains.
    Live,
    /// Not now: another reload is under way.
    UnderWay,
    /// Not now: the generation before this one still drains, and Envoy would end it at once.
    OldDrains,
    /// Not now: Envoy is not live.
    NotLive,
    /// A drain is asked for, or one came in between.
    Draining,
    /// Envoy refuses the configuration.
    Refused,
    /// The next generation ended, or was ended, before it was live.
    Failed,
}

/// The next generation, before it is live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Next {
    /// Its configuration is tried.
    Trying,
    /// It is about to be spawned.
    Spawning,
    /// It rises.
    Rising(Rise),
}

/// A generation that rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Rise {
    /// Since then.
    pub since: Time,
    /// Whether it was given up, and killed.
    pub ended: bool,
    /// Whether the one before is gone.
    pub alone: bool,
}

/// What the newest generation has told of the connections that the old one has.
///
/// It learns of them at each flush of its statistics (`stats_flush_interval`, 5 s unless
/// configured), when its uptime moves on too. Before the first one a zero means nothing; from
/// then on it stays true, because an old generation accepts no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Told {
    Nothing,
    /// This was its uptime when it was first asked.
    Asked(u64),
    /// There was a flush since.
    All,
}

impl Told {
    /// After an answer with this uptime.
    pub fn after(self, uptime: Option<u64>) -> Told {
        match (self, uptime) {
            (Told::Nothing, Some(uptime)) => Told::Asked(uptime),
            (Told::Asked(before), Some(uptime)) if uptime != before => Told::All,
            _ => self,
        }
    }
}

/// The admin interface of the generation that serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Admin {
    /// It is its own.
    Own,
    /// A generation that rose and ended may have had it closed.
    Doubtful,
    /// It was asked since then, in vain.
    Lost,
}

impl Core {
    /// Whether a generation is rising: until it is live, nobody can say how Envoy is, and the old
    /// one serves.
    pub fn is_rising(&self) -> bool {
        matches!(self.next, Some(Next::Rising(_)))
    }

    /// Whether the Envoy that serves may not be there to be asked, because it has handed its admin
    /// interface over to one that ended.
    pub fn is_mute(&self) -> bool {
        self.admin != Admin::Own
    }

    /// Whether that is so: all that is known of it is what the kernel tells.
    pub fn is_degraded(&self) -> bool {
        self.admin == Admin::Lost
    }

    /// Whether the Envoy that serves was seen to accept no connections any more, while the next
    /// one rises.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// How long the old generation still drains, if there is one.
    pub fn old_drains_for(&self, now: Time) -> Option<Duration> {
        let end = self.parent? + self.rules.parent_time?;
        Some(end.saturating_sub(now))
    }

    /// Whether there is an old generation, and the newest is not live: neither can tell what is in
    /// flight.
    pub(super) fn is_unsettled(&self) -> bool {
        self.is_rising() || self.parent.is_some() && self.live.is_none()
    }

    /// Whether an answer of the newest tells of the old generation, too, if there is one.
    pub(super) fn knows_all(&self) -> bool {
        !self.is_unsettled() && (self.parent.is_none() || self.told == Told::All)
    }

    /// Tells whoever waits for a reload how it ended, once.
    pub(super) fn tell(&mut self, how: Reloaded) {
        if std::mem::take(&mut self.waited) {
            self.reloaded = Some(how);
        }
    }

    pub(super) fn take_reload(&mut self, actions: &mut Vec<Action>) {
        let refusal = match self.phase {
            _ if self.drain.is_some() => Reloaded::Draining,
            _ if self.next.is_some() => Reloaded::UnderWay,
            Phase::Running { .. } if self.live.is_none() => Reloaded::NotLive,
            Phase::Running { .. } if self.parent.is_some() => Reloaded::OldDrains,
            Phase::Running { .. } => {
                self.next = Some(Next::Trying);
                self.waited = true;
                actions.push(Action::Try);
                return;
            }
            _ => Reloaded::NotLive,
        };
        // Another reload's own end is told to those who wait for that.
        actions.push(Action::Reloaded(refusal));
    }

    pub(super) fn take_tried(&mut self, passed: bool, actions: &mut Vec<Action>) {
        if self.next.take_if(|next| *next == Next::Trying).is_none() {
            return;
        }
        if passed {
            self.again = false;
            self.next = Some(Next::Spawning);
            actions.push(Action::SpawnNext);
        } else {
            self.tell(Reloaded::Refused);
        }
    }

    pub(super) fn take_next(&mut self, now: Time, spawned: bool) {
        if self.next.take_if(|next| *next == Next::Spawning).is_none() {
            return;
        }
        if spawned {
            self.next = Some(Next::Rising(Rise {
                since: now,
                ended: false,
                alone: false,
            }));
            self.asked = None;
            self.probe_pause = PROBE_FIRST;
            self.probe_due = Some(now);
        } else {
            if self.again {
                // The first attempt may have got further.
                self.serve_on(now);
            }
            self.tell(Reloaded::Failed);
        }
    }

    /// The rising generation answered, or did not.
    pub(super) fn take_rise(
        &mut self,
        now: Time,
        since: Time,
        serves: bool,
        actions: &mut Vec<Action>,
    ) {
        if !serves {
            self.look_again(now, PROBE_REST);
            return;
        }
        self.phase = Phase::Running { since };
        self.live = Some(now);
        self.parent = Some(now);
        self.next = None;
        self.again = false;
        self.admin = Admin::Own;
        self.closed = false;
        self.version_asked = false;
        self.probed = Some(now);
        // A first look, for later ones to be compared with.
        self.told = Told::Nothing;
        self.look_wanted = true;
        self.probe_due = Some(now + PROBE_REST);
        if self.drain.is_none() {
            self.reason = format!(
                "live {} after its start, next to the one before",
                show(now.saturating_sub(since))
            );
        }
        self.reopen_now(actions);
        self.tell(Reloaded::Live);
    }

    /// The generation that rose is gone, and the one before serves on, with its admin interface
    /// gone for good if the new one got as far as that.
    pub(super) fn fall_back(
        &mut self,
        now: Time,
        exit: Exit,
        rise: Rise,
        actions: &mut Vec<Action>,
    ) {
        self.next = None;
        if let Phase::Stopping { killed, .. } = self.phase {
            if killed.is_none() {
                actions.push(Action::Terminate);
            }
            return;
        }
        let crashed = matches!(exit, Exit::Signal(_)) && !rise.ended;
        if crashed && !self.again && self.drain.is_none() {
            // Not its configuration's fault, by the look of it; and the old one may have stopped
            // accepting for it.
            self.again = true;
            self.look_wanted = true;
            self.next = Some(Next::Spawning);
            actions.push(Action::SpawnNext);
            return;
        }
        self.serve_on(now);
        self.reopen_now(actions);
        self.tell(Reloaded::Failed);
    }

    /// No other generation rises any more. How the one that serves is must be seen.
    fn serve_on(&mut self, now: Time) {
        self.admin = Admin::Doubtful;
        self.closed = false;
        self.look_wanted = false;
        self.probe_due = Some(now);
        self.probe_pause = PROBE_REST;
    }

    /// Envoy's admin interface was asked. A generation that rises has its own.
    pub(super) fn note_admin(&mut self, answered: bool) {
        if self.is_rising() {
            return;
        }
        self.admin = match self.admin {
            Admin::Doubtful | Admin::Lost if !answered => Admin::Lost,
            _ => Admin::Own,
        };
    }

    /// The kernel told of the sockets of the Envoy that serves, or did not.
    pub(super) fn take_sockets(&mut self, now: Time, closed: bool, actions: &mut Vec<Action>) {
        self.look_wanted = false;
        self.probed = Some(now);
        if self.is_rising() {
            self.closed = closed;
            self.probe_due = Some(now);
            return;
        }
        if closed && self.drain.is_none() && self.next.is_none() {
            // Its listeners ended with the generation that it had handed them to.
            self.reason = "envoy accepts no connections any more".into();
            self.terminate(now, Then::StartAnew, actions);
            return;
        }
        self.look_again(now, LOOK_REST);
    }

    /// Logs that were to be reopened while a generation rose: it would have died of the signal.
    pub(super) fn reopen_now(&mut self, actions: &mut Vec<Action>) {
        if std::mem::take(&mut self.reopen) {
            actions.push(Action::ReopenLogs);
        }
    }

    pub(super) fn take_parent_exit(&mut self, now: Time, exit: Exit, actions: &mut Vec<Action>) {
        if let Some(Next::Rising(rise)) = &mut self.next {
            rise.alone = true;
            self.lose_everything(now, exit, actions);
            return;
        }
        let Some(since) = self.parent.take() else {
            return;
        };
        let is_its_time = self.live.is_some()
            && self
                .rules
                .parent_time
                .is_some_and(|time| now + SEEN_LATE >= since + time);
        match self.phase {
            Phase::Stopping {
                then: Then::ExitAs(exit),
                ..
            } => self.phase = Phase::Over(exit.code()),
            Phase::Outlived => {
                if let Some(drain) = &mut self.drain {
                    drain.end(Outcome::EnvoyExited);
                }
            }
            Phase::Running { .. }
                if self.drain.is_none() && (exit != Exit::Code(0) || !is_its_time) =>
            {
                // The newest still serves, but its main thread hangs when it would talk to the old
                // one: for ten seconds, then it aborts. SIGTERM makes it do so at once.
                self.reason = format!("the old generation's end was none of ours: {exit}");
                self.next = self.next.filter(|next| *next != Next::Trying);
                self.kill_newest(now, Then::StartAnew, actions);
            }
            _ => {}
        }
    }

    /// The generation that serves is gone while the next one rises, which is not to be trusted
    /// without it.
    fn lose_everything(&mut self, now: Time, exit: Exit, actions: &mut Vec<Action>) {
        let Phase::Running { .. } = self.phase else {
            return;
        };
        self.reason = format!("envoy exited: {exit}");
        let then = match &mut self.drain {
            Some(drain) => {
                drain.end(Outcome::EnvoyExited);
                Then::ExitAs(exit)
            }
            None => Then::StartAnew,
        };
        self.kill_newest(now, then, actions);
    }
}
