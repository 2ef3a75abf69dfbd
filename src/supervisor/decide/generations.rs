//! What a second Envoy changes: the rules of a hot restart.
//!
//! Until the next Envoy is live, nobody can be asked how Envoy is: the old one's admin interface
//! is gone and the new one's knows nothing of it. A drain waits for that, with the deadline
//! running.

mod old;
mod orders;
mod starting;

use std::time::Duration;

use super::asking::{PROBE_REST, Question};
use super::life::{AfterStop, Envoy, Life, Phase};
use super::others::{News, Reloaded, RestartStep, View, Visibility, Who};
use super::{Action, Input, Turn};
use crate::drain::{Answer, Ask, Outcome, Time};
use crate::process::Exit;

use old::LOOK;
#[cfg(test)]
pub(super) use old::{CUT, MOMENT};
pub(super) use old::{Left, Open, Told};
pub use starting::START_LIMIT;
pub(super) use starting::Starting;

/// An old Envoy's time begins when the new one serves, which is seen a little later.
pub(super) const SEEN_LATE: Duration = Duration::from_secs(2);

/// Who is beside the Envoy whose life it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Beside {
    Nobody,
    /// The next configuration is tried.
    Trying,
    /// The next Envoy is about to be spawned, for the second time or not; logs are to be reopened
    /// after that, or not.
    Spawning {
        second: bool,
        reopen: bool,
    },
    /// The next Envoy starts. The life is still that of the Envoy that serves.
    Starting(Starting),
    /// An old Envoy drains.
    Old {
        /// Since when the old Envoy drains.
        since: Time,
        /// What the newest Envoy has told of the old one.
        told: Told,
        /// What the old Envoy has left, and how far its end is.
        left: Left,
        /// What the old Envoy has open.
        open: Open,
        /// When to look next at what the old Envoy has.
        look: Time,
        /// Whether the newest Envoy was spawned a second time.
        second: bool,
    },
    /// An old Envoy drains, and the newest is not started any more: the drain waits for what the
    /// old one has.
    Last {
        since: Time,
        asked: Option<Question>,
    },
}

/// The admin interface of the Envoy that serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum AdminAccess {
    /// The admin interface is its own.
    Own,
    /// An Envoy that started beside it and ended may have had it closed.
    Doubtful,
    /// Envoy was asked since then, in vain.
    Lost,
}

/// What is known of a second Envoy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Generations {
    /// When an old Envoy ends by itself.
    old_time: Option<Duration>,
    pub(super) beside: Beside,
    pub(super) admin: AdminAccess,
    /// Whether somebody waits for a reload's end.
    pub(super) waited: bool,
    /// The reload that is to be done as soon as nothing stands in its way. The last one that was
    /// asked for counts: they are one.
    pub(super) kept: Option<Kept>,
}

/// A reload that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Kept {
    /// When an old Envoy is ended for the reload, whatever that has; none where it waits.
    pub(super) by: Option<Time>,
}

impl Generations {
    pub(super) fn new(old_time: Option<Duration>) -> Generations {
        Generations {
            old_time,
            beside: Beside::Nobody,
            admin: AdminAccess::Own,
            waited: false,
            kept: None,
        }
    }

    /// Whether the next Envoy starts: until it is live, nobody can say how Envoy is, and the old
    /// one serves.
    pub fn is_starting(&self) -> bool {
        matches!(self.beside, Beside::Starting(_))
    }

    /// Whether the next Envoy was not live in time, and is ended for that.
    pub fn has_given_up(&self) -> bool {
        matches!(self.beside, Beside::Starting(next) if next.given_up)
    }

    /// Who the Envoy is that was spawned last.
    pub fn newest(&self) -> Who {
        match self.beside {
            Beside::Starting(_) => Who::Next,
            _ => Who::Newest,
        }
    }

    /// Whether the Envoy that serves may not be there to be asked, because it has handed its admin
    /// interface over to one that ended.
    pub fn is_admin_away(&self) -> bool {
        self.admin != AdminAccess::Own
    }

    /// Whether the Envoy that serves was asked in vain since it handed its admin interface over:
    /// all that is known of it is what the kernel tells.
    pub fn is_degraded(&self) -> bool {
        self.admin == AdminAccess::Lost
    }

    /// Whether the Envoy that serves was seen to accept no connections any more, while the next
    /// one starts.
    pub fn accepts_nothing(&self) -> bool {
        matches!(self.beside, Beside::Starting(next) if next.accepts_nothing)
    }

    /// When its time ends the old Envoy that drains, if there is one.
    pub fn old_ends_at(&self) -> Option<Time> {
        match self.beside {
            Beside::Old { since, .. } | Beside::Last { since, .. } => Some(since + self.old_time?),
            _ => None,
        }
    }

    /// Whether a reload is kept until nothing stands in its way.
    pub fn keeps_reload(&self) -> bool {
        self.kept.is_some()
    }

    /// When the old Envoy is ended for the kept reload, whatever it has left.
    fn hurry(&self) -> Option<Time> {
        self.kept?.by
    }

    /// Whether the old Envoy is ended now, whatever it has left.
    pub fn hurries(&self, now: Time) -> bool {
        self.hurry().is_some_and(|by| now >= by)
    }

    /// What was asked on behalf of a second Envoy.
    pub(super) fn asked(&self) -> Option<Question> {
        match self.beside {
            Beside::Starting(next) => next.asking.asked,
            Beside::Last { asked, .. } => asked,
            _ => None,
        }
    }

    pub(super) fn is_spawning(&self) -> bool {
        matches!(self.beside, Beside::Spawning { .. })
    }

    /// What the life of one Envoy has to know of the other.
    pub(super) fn view(&self, life: &Life) -> View {
        let sight = match self.beside {
            Beside::Starting(_) => Visibility::Nothing,
            Beside::Old { .. } if !life.is_live() => Visibility::Nothing,
            Beside::Old { told, open, .. } if told != Told::All || open.may_be_cut() => {
                Visibility::Partial
            }
            // Of the old one's HTTP/3 the kernel does not tell.
            Beside::Old { .. } if life.asked().is_some_and(|asked| asked.ask == Ask::Sockets) => {
                Visibility::Partial
            }
            _ if self.is_degraded() => Visibility::Kernel,
            _ => Visibility::Whole,
        };
        View {
            sight,
            another: matches!(self.beside, Beside::Old { .. } | Beside::Last { .. }),
        }
    }

    /// Takes an input before the life does, and hands on what is not about a second Envoy alone.
    pub(super) fn on_input(
        &mut self,
        life: &mut Life,
        turn: &mut Turn,
        input: Input,
    ) -> Option<Input> {
        match (input, &mut self.beside) {
            (Input::HotRestart(News::Reload), _) => self.on_reload(life, turn, None),
            (Input::HotRestart(News::GoBack(by)), _) => self.on_reload(life, turn, Some(by)),
            (Input::Weigh(_), Beside::Spawning { .. } | Beside::Starting(_)) => {}
            (Input::HotRestart(News::Tried(passed)), Beside::Trying) => self.on_tried(turn, passed),
            (Input::HotRestart(News::Spawned(spawned)), Beside::Spawning { .. }) => {
                self.on_next_spawned(life, turn, spawned);
            }
            (Input::HotRestart(News::OldRelieved(relieved)), _) => {
                self.on_relieved(turn.now, relieved)
            }
            (Input::Exited(Who::Old, exit), _) => self.on_old_exit(life, turn, exit),
            (Input::Order(order, from), _) => {
                if self.on_order(life, turn, order, &from) {
                    return Some(Input::Order(order, from));
                }
            }
            (Input::Exited(Who::Next, exit), Beside::Starting(next)) => {
                let next = *next;
                self.fall_back(life, turn, exit, next);
            }
            (Input::Exited(Who::Newest, exit), _) => {
                if self.on_exit(life, turn, exit) {
                    return Some(Input::Exited(Who::Newest, exit));
                }
            }
            (Input::Exited(Who::Next, _) | Input::HotRestart(_), _) => {}
            (Input::Answer(number, answer), _) => {
                if self.on_answer(life, turn, number, answer.as_ref()) {
                    return Some(Input::Answer(number, answer));
                }
            }
            (Input::Probe, Beside::Starting(next)) if life.is_running() => {
                next.asking.on_probe(turn.now);
            }
            (Input::Look, Beside::Starting(next)) if life.is_running() => {
                next.asking.on_look(turn.now);
            }
            (Input::AdminKnown, Beside::Starting(next)) if life.is_running() => {
                next.asking.hurry(turn.now);
            }
            (Input::Spawned, _) => {
                self.admin = AdminAccess::Own;
                return Some(Input::Spawned);
            }
            (input, _) => return Some(input),
        }
        None
    }

    /// Tells whoever waits for a reload how it ended, once.
    fn tell(&mut self, turn: &mut Turn, how: Reloaded) {
        if std::mem::take(&mut self.waited) {
            turn.reloaded = Some(how);
        }
    }

    /// What has become of the life ends a reload that has not spawned anything yet, and is told to
    /// whoever waits for any reload.
    pub(super) fn settle(&mut self, life: &mut Life, turn: &mut Turn) {
        let goes_on = life.is_running() && life.drain().is_none();
        if goes_on {
            return self.begin_kept(life, turn);
        }
        match &mut self.beside {
            Beside::Trying => self.beside = Beside::Nobody,
            // It is not asked any more.
            Beside::Starting(next) if !life.is_running() => next.asking.rest(),
            _ => {}
        }
        let how = match life.phase {
            _ if life.drain().is_some() => Reloaded::Draining,
            Phase::Stopping { .. } => Reloaded::NotLive,
            _ => Reloaded::Failed,
        };
        self.tell(turn, how);
        if self.kept.take().is_some() {
            turn.tell_reloaded();
            turn.reloaded = Some(how);
        }
    }

    /// The newest Envoy is live, spawned anew beside an old one: the old one's time begins again,
    /// and so does what is not known of it.
    pub(super) fn on_live(&mut self, life: &mut Life, now: Time) {
        if let (
            Beside::Old {
                since,
                told,
                left,
                look,
                ..
            },
            Phase::Running(envoy),
        ) = (&mut self.beside, &mut life.phase)
        {
            *since = now;
            *told = Told::Nothing;
            *left = Left::Something;
            *look = now + LOOK;
            envoy.asking.figures_at(now + PROBE_REST);
        }
    }

    /// An answer to a question that somebody else asked is handed on.
    fn on_answer(
        &mut self,
        life: &mut Life,
        turn: &mut Turn,
        number: u64,
        answer: Option<&Answer>,
    ) -> bool {
        match &mut self.beside {
            Beside::Starting(_) => {
                self.on_answer_starting(life, turn, number, answer);
                return false;
            }
            Beside::Last { asked, .. } => {
                if let (Some(question), Some(drain)) = (
                    asked.take_if(|asked| asked.number == number),
                    life.service.drain_mut(),
                ) {
                    drain.on_answer(turn.now, question.at, question.ask, answer);
                }
                return false;
            }
            _ => {}
        }
        let Some(question) = life.asked().filter(|asked| asked.number == number) else {
            return false;
        };
        if let Some(Answer::Stats(load)) = answer {
            self.note_old(life, turn, question.ask, load);
        }
        if question.ask.is_to_envoy() {
            self.admin = match self.admin {
                AdminAccess::Doubtful | AdminAccess::Lost if answer.is_none() => AdminAccess::Lost,
                _ => AdminAccess::Own,
            };
        } else if answer == Some(&Answer::Closed)
            && self.beside == Beside::Nobody
            && self.admin != AdminAccess::Own
            && life.drain().is_none()
        {
            // Its listeners ended with the Envoy that it had handed them to.
            life.reason = "envoy accepts no connections any more".into();
            life.terminate(turn, AfterStop::StartAnew);
            return false;
        }
        true
    }

    /// Takes the newest Envoy's end; hands it on to the life unless the same Envoy is started
    /// again.
    fn on_exit(&mut self, life: &mut Life, turn: &mut Turn, exit: Exit) -> bool {
        match &mut self.beside {
            Beside::Trying | Beside::Spawning { .. } => self.beside = Beside::Nobody,
            Beside::Old { left, .. } if left.is_relieved() => {
                // Nobody could start beside it: whoever answers in its place has no sockets.
                self.beside = Beside::Nobody;
                turn.step(RestartStep::KillOld);
            }
            Beside::Old { second, .. } if !*second && life.is_live() && life.drain().is_none() => {
                // The listeners are closed now; the same Envoy, started again, finds the old one.
                // Once: one that keeps ending is subject to the rules.
                *second = true;
                life.reason = format!("envoy exited: {exit}");
                life.phase = Phase::Spawning;
                return false;
            }
            _ => {}
        }
        true
    }

    /// The Envoy that serves is gone while the next one starts, which is not to be trusted without
    /// it.
    fn lose_everything(&mut self, life: &mut Life, turn: &mut Turn, exit: Exit) {
        if !life.is_running() {
            return;
        }
        life.reason = format!("envoy exited: {exit}");
        let then = match life.service.drain_mut() {
            Some(drain) => {
                drain.end(Outcome::EnvoyExited);
                AfterStop::ExitAs(exit)
            }
            None => AfterStop::StartAnew,
        };
        self.kill_newest(life, turn, then);
    }

    /// Ends the newest Envoy without asking it.
    fn kill_newest(&mut self, life: &mut Life, turn: &mut Turn, then: AfterStop) {
        life.phase = Phase::Stopping {
            since: turn.now,
            rest: false,
            killed: Some(turn.now),
            then,
        };
        turn.step(RestartStep::KillNewest);
        self.tell(turn, Reloaded::Failed);
    }

    /// Does what is due beside the life.
    pub(super) fn advance(&mut self, life: &mut Life, turn: &mut Turn) -> Option<Time> {
        match &mut self.beside {
            Beside::Starting(next) if life.is_running() => {
                next.advance(turn, life.service.wants_failed())
            }
            Beside::Old { .. } => self.advance_old(life, turn),
            Beside::Last { .. } => self.advance_last(life, turn),
            _ => None,
        }
    }
}

impl Turn {
    /// Has a step of a hot restart done.
    pub fn step(&mut self, step: RestartStep) {
        self.act(Action::HotRestart(step));
    }

    /// Tells now how the reload under way ended, before another begins or ends.
    pub fn tell_reloaded(&mut self) {
        if let Some(how) = self.reloaded.take() {
            self.step(RestartStep::Reloaded(how));
        }
    }
}

/// The Envoy that took over, as it is when it is seen to be live.
fn newest(next: Starting, now: Time) -> Envoy {
    let mut asking = next.asking;
    asking.version_asked = false;
    if !asking.owes_figures() {
        // A first look, for later ones to be compared with.
        asking.figures_at(now + PROBE_REST);
    }
    Envoy {
        since: next.since,
        live: Some(now),
        handlers: true,
        reopen: false,
        asking,
    }
}
