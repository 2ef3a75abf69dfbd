//! The old Envoy beside the newest: what it has left, and its end.

use std::time::Duration;

use super::super::Turn;
use super::super::asking::{Asking, PROBE_REST, Requester};
use super::super::life::{AfterStop, KILL_PATIENCE, Life, Phase};
use super::{Beside, Generations, RestartStep, SEEN_LATE};
use crate::drain::{Ask, Drain, Loss, Outcome, Time};
use crate::envoy::load::{Load, OldOpen};
use crate::process::Exit;

/// How long an old Envoy has had nothing left, and somebody has answered in its place, before it is
/// ended: an answer of its own that was on the way has come by then, and the last entry of an access
/// log that it sends elsewhere has gone (within 1 s by default).
pub(in super::super) const MOMENT: Duration =
    Duration::from_millis(if cfg!(test) { 500 } else { 1_200 });

/// Between two looks at what an old Envoy has left.
pub(super) const LOOK: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 2 });

/// What the newest Envoy has told of the connections that the old one has.
///
/// It learns of them at each flush of its statistics (`stats_flush_interval`, 5 s unless
/// configured), when its uptime moves on too. Before the first one a zero means nothing; from
/// then on it stays true, because an old Envoy accepts no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in super::super) enum Told {
    Nothing,
    /// The newest Envoy was first asked when its uptime was this.
    Asked(u64),
    /// The newest Envoy has flushed its statistics since: by now it has told of all that the old
    /// one has.
    All,
}

impl Told {
    /// What has been told after an answer with this uptime.
    pub fn after(self, uptime: Option<u64>) -> Told {
        match (self, uptime) {
            (Told::Nothing, Some(uptime)) => Told::Asked(uptime),
            (Told::Asked(before), Some(uptime)) if uptime != before => Told::All,
            _ => self,
        }
    }
}

/// An Envoy that ends closes its connections a moment before it is gone. Where none was left for this
/// long before its end, each of them had ended by itself.
pub(in super::super) const CUT: Duration = Duration::from_millis(500);

/// What the old Envoy has open, by the freshest witness: the kernel, which every look asks, and the
/// newest Envoy's word where the kernel cannot be asked. That word is as old as the newest's last flush,
/// and calls open what has ended since. Of HTTP/3 the kernel does not tell: such connections are
/// known by that word alone.
///
/// Whatever is open when the old Envoy ends is lost to a drain or a hold that waits for it, an idle
/// HTTP connection as well: nobody tells whether an old Envoy has a request on a connection, since
/// the newest does not pass that on, and to the kernel a long poll is as silent as an idle
/// connection. What had ended before is not lost. A look is as old as the drain's pace is long, 250 ms
/// as a rule, and the end of one of the last connections brings the next look forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in super::super) enum Open {
    /// Nobody has told yet.
    Unknown,
    /// The old Envoy has so many connections open.
    Connections(u64),
    /// The old Envoy has had nothing open since then, and had this open before: its end may be what
    /// has cut it.
    NothingSince(Time, Loss),
    /// The old Envoy has had nothing open for so long that its end cuts nothing.
    Nothing,
    /// The old Envoy is about to end, and this went with its workers.
    Ending(Loss),
}

impl Open {
    /// What is open after a look that showed so many connections; none where that is not known.
    /// `ends` is whether the workers have ended.
    fn after(self, now: Time, connections: Option<u64>, ends: bool) -> Open {
        match (self, connections) {
            (Open::Ending(_), _) => self,
            _ if ends => Open::Ending(self.loss(now)),
            (_, Some(count @ 1..)) => Open::Connections(count),
            (Open::Unknown | Open::Connections(_), Some(_)) => {
                Open::NothingSince(now, self.loss(now))
            }
            (Open::NothingSince(since, _), Some(_)) if now >= since + CUT => Open::Nothing,
            _ => self,
        }
    }

    /// What is lost if the old Envoy is gone now.
    fn loss(self, now: Time) -> Loss {
        match self {
            Open::Unknown => Loss::Unknown,
            Open::Connections(count) => Loss::Connections(count),
            Open::NothingSince(since, before) if now < since + CUT => before,
            Open::NothingSince(..) | Open::Nothing => Loss::None,
            Open::Ending(loss) => loss,
        }
    }

    /// Whether the old Envoy may be about to end, and have cut what it had.
    pub fn may_be_cut(self) -> bool {
        match self {
            Open::Ending(loss) => loss != Loss::None,
            _ => matches!(self, Open::NothingSince(..)),
        }
    }
}

/// What the old Envoy has left, and how far its end is.
///
/// An Envoy that has told the one before it to drain asks it for its statistics until its parent
/// shutdown time, and aborts where nobody is there to answer (`sendHotRestartMessage` in Envoy's
/// source/server/hot_restarting_base.cc). So the old one is relieved first: somebody else answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in super::super) enum Left {
    /// The old Envoy has something left, or nobody knows whether it has.
    Something,
    /// Somebody is asked to answer in the old Envoy's place. As a rule it has nothing left, by both
    /// witnesses: the newest Envoy's word, since a flush of its statistics, and the kernel's. Where
    /// a reload ends it early, it may have something left.
    Relieving,
    /// Nobody can answer in the old Envoy's place: it ends at its parent shutdown time.
    Unrelieved,
    /// Somebody answers in the old Envoy's place since then, and it is sent SIGTERM next.
    Relieved(Time),
    /// The old Envoy was sent SIGTERM then.
    Terminated(Time),
}

impl Left {
    /// Whether somebody answers in the old Envoy's place.
    pub fn is_relieved(self) -> bool {
        matches!(self, Left::Relieved(_) | Left::Terminated(_))
    }
}

impl Asking {
    /// Looks at what is open, again and again, with this pause between, as long as an old Envoy may
    /// have something. Returns when to look next.
    fn look_for_old(&mut self, turn: &mut Turn, look: &mut Time, pause: Duration) -> Option<Time> {
        if self.asked.is_some() {
            return None;
        }
        let due = self.rested(*look);
        if turn.now < due {
            return Some(due);
        }
        *look = turn.now + pause;
        self.forget_figures();
        self.put_off(turn.now);
        self.ask(turn, Ask::Stats, Requester::Look);
        None
    }
}

impl Generations {
    /// The old Envoy has ended: at its time, by our order, or by somebody else's.
    pub(super) fn on_old_exit(&mut self, life: &mut Life, turn: &mut Turn, exit: Exit) {
        match self.beside {
            Beside::Starting(_) => {
                self.beside = Beside::Nobody;
                self.lose_everything(life, turn, exit);
            }
            Beside::Old {
                since, left, open, ..
            } => {
                self.beside = Beside::Nobody;
                let time = self.old_time.unwrap_or_default();
                let is_its_time = life.is_live() && turn.now + SEEN_LATE >= since + time;
                match life.phase {
                    Phase::Stopping {
                        then: AfterStop::ExitAs(exit),
                        ..
                    } => life.phase = Phase::Over(exit.code()),
                    Phase::Running(_)
                        if life.drain().is_none()
                            && !left.is_relieved()
                            && (exit != Exit::Code(0) || !is_its_time) =>
                    {
                        // The newest still serves, but its main thread hangs when it would talk to
                        // the old one: for ten seconds, then it aborts. SIGTERM makes it do so at
                        // once.
                        life.reason = format!(
                            "the old generation ended, and drainit had not ended it: {exit}"
                        );
                        self.kill_newest(life, turn, AfterStop::StartAnew);
                    }
                    Phase::Running(_) => {
                        if let Some(wait) = life.service.wait_mut() {
                            wait.on_loss(open.loss(turn.now));
                        }
                    }
                    _ => {}
                }
            }
            Beside::Last { .. } => {
                self.beside = Beside::Nobody;
                if let Some(drain) = life.service.drain_mut() {
                    drain.end(Outcome::EnvoyExited);
                    if drain.stops() {
                        let view = self.view(life);
                        life.end(turn, view, Exit::Code(0));
                    }
                }
            }
            _ => {}
        }
    }

    /// Somebody has looked at what is open.
    pub(super) fn note_old(&mut self, life: &mut Life, turn: &mut Turn, ask: Ask, load: &Load) {
        let (now, hurry) = (turn.now, self.hurry());
        let Beside::Old {
            told, left, open, ..
        } = &mut self.beside
        else {
            return;
        };
        *told = told.after(load.uptime);
        let word = load.old_connections;
        let is_told = *told == Told::All || word > 0;
        let connections = match load.old_open {
            Some(old) if old.is_exact => Some(old.clients),
            _ => (is_told && ask != Ask::Sockets).then_some(word),
        };
        let ends = load.old_open.is_some_and(|old| old.ends);
        let waits = |wait: &Drain| wait.outcome().is_none();
        let is_waited_for = life.service.wait().is_some_and(waits);
        *open = match open.after(now, connections, ends) {
            // What went before somebody waited for it is no loss to them.
            Open::Ending(_) if !is_waited_for => Open::Ending(Loss::None),
            open => open,
        };
        let is_empty = |old: OldOpen| old.is_all && old.clients == 0;
        let nothing = *told == Told::All && word == 0 && load.old_open.is_some_and(is_empty);
        match left {
            Left::Something if nothing && life.drain().is_none() => {
                *left = Left::Relieving;
                turn.step(RestartStep::RelieveOld);
            }
            // It accepts nothing, so that this is a look that failed.
            Left::Relieved(since) if !nothing && hurry.is_none_or(|by| now < by) => {
                *since = now;
            }
            _ => {}
        }
    }

    /// Somebody answers in the old Envoy's place, or nobody can.
    pub(super) fn on_relieved(&mut self, now: Time, relieved: bool) {
        if let Beside::Old { left, .. } = &mut self.beside
            && *left == Left::Relieving
        {
            *left = match relieved {
                true => Left::Relieved(now),
                false => Left::Unrelieved,
            };
        }
    }

    /// Ends an old Envoy that has nothing left; until then, sees to it that somebody looks.
    pub(super) fn advance_old(&mut self, life: &mut Life, turn: &mut Turn) -> Option<Time> {
        let hurry = self.hurry();
        let Beside::Old {
            since,
            left,
            look,
            open,
            ..
        } = &mut self.beside
        else {
            return None;
        };
        let hurries = *left == Left::Something && life.is_live();
        let hurry = hurry.filter(|_| hurries);
        if hurry.is_some_and(|by| turn.now >= by) {
            *left = Left::Relieving;
            turn.step(RestartStep::RelieveOld);
            return None;
        }
        let patience = life.rules.kill_timeout.max(KILL_PATIENCE);
        let due = match *left {
            // When its time has come, the newest tells it to end, and whoever answers in its
            // place hears that.
            Left::Relieved(at) => {
                Some((at + MOMENT).min(*since + self.old_time.unwrap_or_default()))
            }
            Left::Terminated(at) => Some(at + patience),
            Left::Something | Left::Relieving | Left::Unrelieved => None,
        };
        let due = match *left {
            Left::Relieved(_) if due <= Some(turn.now) => {
                *left = Left::Terminated(turn.now);
                turn.step(RestartStep::TerminateOld);
                Some(turn.now + patience)
            }
            Left::Terminated(_) if due <= Some(turn.now) => {
                if let Some(wait) = life.service.wait_mut() {
                    wait.on_loss(open.loss(turn.now));
                }
                self.beside = Beside::Nobody;
                turn.step(RestartStep::KillOld);
                self.begin_kept(life, turn);
                return None;
            }
            _ => due,
        };
        let (drains, pause) = match life.drain() {
            // Its polls tell all.
            Some(drain) if !drain.is_delayed(turn.now) => (true, LOOK),
            Some(_) => (false, PROBE_REST),
            None => (false, LOOK),
        };
        let next = match &mut life.phase {
            Phase::Running(envoy)
                if envoy.live.is_some()
                    && !drains
                    && matches!(left, Left::Something | Left::Relieved(_)) =>
            {
                envoy.asking.look_for_old(turn, look, pause)
            }
            _ => None,
        };
        [due, next, hurry].into_iter().flatten().min()
    }
}
