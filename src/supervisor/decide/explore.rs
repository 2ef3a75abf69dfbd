//! Every order of events, as far as small limits let them differ: a breadth-first search over the
//! states of the decision core.
//!
//! The core is not only watched for what it must never do; a [`Witness`] keeps its own, simpler
//! account of what has happened, and tells whether each action was called for. Every check is
//! local, of one step from one state: since each state is stepped from, what holds for every step
//! holds for every path. Times are counted from the present, and what makes no difference any
//! more is levelled, so that the states are finitely many and the search ends by itself.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use super::generations::SEEN_LATE;
use super::*;
use crate::drain::Limits;
use crate::envoy::stats::{Listener, Load};

/// The present, in every state that is kept.
const BASE: Time = Duration::from_secs(1_000);

const fn ms(milliseconds: u64) -> Time {
    Duration::from_millis(milliseconds)
}

/// Time passes in steps of this, and up to whenever the core wants to be woken.
const STEP: Duration = ms(500);

/// Nothing waits for longer than this.
const LONG: Duration = ms(6_000);

/// How late the machine may be.
const LATE: Duration = STEP;

/// When an old generation ends by itself.
const PARENT_TIME: Duration = ms(2_500);

/// What Envoy's admin interface may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    Nothing,
    Live,
    HealthFailed,
    Initializing,
    Version,
    Done,
    /// Nothing is left.
    Zero,
    /// An idle connection is.
    Idle,
    /// A request is.
    Busy,
    /// A UDP session is, without a connection.
    Udp,
    /// Nothing is, and somebody has reverted the health check's failure.
    Reverted,
    /// The kernel says so: Envoy accepts nothing.
    Closed,
}

impl Says {
    fn to(ask: Ask) -> &'static [Says] {
        use Says::*;
        match ask {
            Ask::Ready => &[Nothing, Live, HealthFailed, Initializing],
            Ask::ServerInfo => &[Nothing, Version],
            Ask::FailHealthCheck | Ask::DrainListeners | Ask::StopListeners => &[Nothing, Done],
            Ask::Stats => &[Nothing, Zero, Idle, Busy, Udp, Reverted],
            Ask::Sockets => &[Nothing, Zero, Busy, Closed],
        }
    }

    /// Whether it leads somewhere else than the others.
    fn is_main(&self) -> bool {
        use Says::*;
        !matches!(self, HealthFailed | Idle | Udp | Reverted)
    }

    fn answer(self) -> Option<Answer> {
        let load = |connections, requests, udp_sessions, health_failed| {
            Answer::Stats(Load {
                listeners: vec![Listener {
                    name: "a".into(),
                    connections,
                    excluded: false,
                }],
                requests,
                tcp_sessions: 0,
                udp_sessions,
                parent_connections: 0,
                health_failed,
            })
        };
        Some(match self {
            Says::Nothing => return None,
            Says::Live => Answer::Ready("LIVE".into()),
            Says::HealthFailed => Answer::Ready("DRAINING".into()),
            Says::Initializing => Answer::Ready("INITIALIZING".into()),
            Says::Version => Answer::Version("1.40.0".into()),
            Says::Done => Answer::Done,
            Says::Zero => load(0, 0, 0, true),
            Says::Idle => load(1, 0, 0, true),
            Says::Busy => load(1, 1, 0, true),
            Says::Udp => load(0, 0, 1, true),
            Says::Reverted => load(0, 0, 0, false),
            Says::Closed => Answer::Closed,
        })
    }
}

/// What may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Start,
    Tick,
    Order(Order),
    Probe,
    Certificates,
    AdminKnown,
    Answer(Ask, Says),
    Exited(Exit),
    Spawned,
    SpawnFailed,
    Reload,
    Tried(bool),
    NextSpawned(bool),
    ParentExited(Exit),
}

const COMMAND_NOT_FOUND: u8 = 127;

impl Event {
    fn input(self) -> Input {
        match self {
            Event::Start | Event::Tick => Input::Tick,
            Event::Order(order) => Input::Order(order, "a signal".into()),
            Event::Probe => Input::Probe,
            Event::Certificates => Input::CertificatesReady,
            Event::AdminKnown => Input::AdminKnown,
            Event::Answer(ask, says) => Input::Answer(ask, says.answer()),
            Event::Exited(exit) => Input::Exited(exit),
            Event::Spawned => Input::Spawned,
            Event::SpawnFailed => Input::SpawnFailed(COMMAND_NOT_FOUND),
            Event::Reload => Input::Reload,
            Event::Tried(passed) => Input::Tried(passed),
            Event::NextSpawned(spawned) => Input::NextSpawned(spawned),
            Event::ParentExited(exit) => Input::ParentExited(exit),
        }
    }
}

/// The drain as somebody would account for it who reads the manual.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct DrainSeen {
    deadline: Time,
    min_until: Time,
    /// Until when to wait for word from an Envoy that was never live.
    silent_until: Time,
    stops: bool,
    /// Since when every look has shown nothing in flight.
    idle_since: Option<Time>,
    /// Whether Envoy was told to stop accepting, with whatever success.
    closed: bool,
}

/// What has happened, apart from what the core makes of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Witness {
    /// Whether Envoy was seen to be live.
    live: bool,
    /// The drain that is under way.
    drain: Option<DrainSeen>,
    /// How often it was told to stop, by whatever signal.
    stops: u32,
    terminated: Option<Time>,
    killed: Option<Time>,
    /// Which processes there are: the newest Envoy, and an old one beside it.
    newest: bool,
    old: bool,
    /// From when on the newest is known to tell of the old one; none while it cannot.
    told_at: Option<Time>,
    /// Whether somebody waits for a reload.
    waiting: bool,
    /// Whether the one that serves may have handed over, to one that ended, its admin interface
    /// and its listeners.
    spent: bool,
    /// Whether its admin interface was asked since, in vain.
    refused: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    core: Core,
    witness: Witness,
}

/// `Err` says what went wrong.
type Verdict = Result<(), String>;

fn must(holds: bool, what: &str) -> Verdict {
    if holds { Ok(()) } else { Err(what.into()) }
}

impl World {
    /// Makes worlds equal that will behave the same, and brings their present to [`BASE`].
    fn level(&mut self, now: Time) {
        let past = |at: Time, kept: Duration| (at + BASE).saturating_sub(now).max(BASE - kept);
        let due = |at: Time| past(at, Duration::ZERO);
        let core = &mut self.core;
        core.reason.clear();
        core.stops = core.stops.min(3);
        core.wake_at = core.wake_at.map(due);
        // Jitter and growth have their own tests.
        let under_way = core.backoff.is_under_way();
        core.backoff = Backoff::new(1);
        if under_way && core.drain.is_none() {
            core.backoff.next();
        }
        core.probe_pause = PROBE_REST;
        core.probe_due = core.probe_due.map(due);
        core.probed = core.probed.map(|at| past(at, PROBE_REST));
        core.live = core.live.map(|_| BASE);
        core.parent = core
            .parent
            .map(|at| past(at, FLUSH.max(PARENT_TIME - SEEN_LATE)));
        if let Some(Next::Rising(rise)) = &mut core.next {
            rise.since = past(rise.since, RISE);
        }
        let known = core.live.is_some() || (core.answered && core.drain.is_some());
        match &mut core.phase {
            Phase::Running { since } if known => *since = BASE,
            Phase::Running { since } => *since = past(*since, HANDLERS_READY),
            Phase::Stopping { since, killed } => {
                *since = past(*since, LONG);
                *killed = killed.map(|at| past(at, LONG));
                (core.live, core.answered, core.version_asked) = (None, false, false);
                (core.probe_due, core.probed) = (None, None);
                (core.again, core.closed, core.reopen) = (false, false, false);
                core.admin = Admin::Own;
                if let Some(Next::Rising(rise)) = &mut core.next {
                    rise.since = BASE;
                }
            }
            Phase::Backoff { until } => *until = due(*until),
            _ => {}
        }
        if let Some(drain) = &mut core.drain {
            drain.level(now, BASE);
        }
        let witness = &mut self.witness;
        witness.stops = witness.stops.min(3);
        witness.terminated = witness.terminated.map(|at| past(at, LONG));
        witness.killed = witness.killed.map(|at| past(at, LONG));
        witness.told_at = witness.told_at.map(due);
        if let Some(drain) = &mut witness.drain {
            drain.deadline = due(drain.deadline);
            drain.min_until = due(drain.min_until);
            drain.silent_until = if witness.live {
                BASE
            } else {
                due(drain.silent_until)
            };
            let settle = core.rules.limits.settle;
            drain.idle_since = drain.idle_since.map(|at| past(at, settle));
        }
    }

    /// Everything that may happen next, and after what time.
    fn events(&self, late: bool) -> Vec<(Duration, Event)> {
        let core = &self.core;
        // Generations multiply the states; without them everything else is explored, too.
        let hot = core.rules.parent_time.is_some();
        let wake = core.wake_at.map(|at| at - BASE);
        let mut events = vec![(wake.unwrap_or(LONG), Event::Tick)];
        if wake.is_none_or(|wake| wake > STEP) {
            events.push((STEP, Event::Tick));
        }
        let mut times = vec![Duration::ZERO];
        times.extend(wake);
        if late && let Some(wake) = wake {
            times.push(wake + LATE);
            events.push((wake + LATE, Event::Tick));
        }
        let mut inputs = vec![
            Event::Order(Order::Stop),
            Event::Order(Order::StopNow),
            Event::Order(Order::Drain),
            Event::Order(Order::ReopenLogs),
        ];
        if !hot {
            inputs.push(Event::Probe);
        }
        if core.phase == Phase::Waiting || core.phase == Phase::Down {
            inputs.push(Event::Certificates);
        }
        if self.witness.newest {
            inputs.push(Event::AdminKnown);
            inputs.extend([Exit::Code(0), Exit::Signal(11)].map(Event::Exited));
            if !hot {
                inputs.push(Event::Exited(Exit::Code(1)));
            }
        }
        if self.witness.old {
            inputs.extend([Exit::Code(0), Exit::Signal(9)].map(Event::ParentExited));
        }
        if hot {
            inputs.push(Event::Reload);
        }
        if core.next == Some(Next::Trying) {
            inputs.extend([Event::Tried(true), Event::Tried(false)]);
        }
        if let Some(ask) = core.asked {
            let says = Says::to(ask).iter().filter(|says| !hot || says.is_main());
            inputs.extend(says.map(|says| Event::Answer(ask, *says)));
        }
        for time in times {
            events.extend(inputs.iter().map(|input| (time, *input)));
        }
        events
    }

    /// One step, with everything checked that can be told of one.
    fn step(&mut self, from: &World, now: Time, event: Event) -> Result<Vec<Action>, String> {
        let actions = self.core.handle(now, event.input());
        self.witness.note(now, event, &from.core);
        self.judge_outcome(now, event, from)?;
        for action in &actions {
            self.judge_action(now, event, *action, &from.core)?;
        }
        let count = |wanted: fn(&Action) -> bool| actions.iter().filter(|a| wanted(a)).count();
        must(count(|a| matches!(a, Action::Ask(_))) <= 1, "two questions")?;
        must(
            count(|a| matches!(a, Action::Terminate)) <= 1,
            "two SIGTERMs",
        )?;
        self.judge_order(event, from)?;
        let closed = event == Event::Answer(Ask::Sockets, Says::Closed);
        let serves = matches!(from.core.phase, Phase::Running { .. });
        if closed && serves && !from.core.is_reloading() && from.core.drain.is_none() {
            must(self.core.replace, "an Envoy that accepts nothing is kept")?;
        }
        self.judge_reload(event, &actions)?;
        self.judge_rest(now, &actions)?;
        Ok(actions)
    }

    /// Whether whoever wants a reload hears of its end, and once.
    fn judge_reload(&mut self, event: Event, actions: &[Action]) -> Verdict {
        let told = actions
            .iter()
            .filter(|a| matches!(a, Action::Reloaded(_)))
            .count();
        let tried = actions.contains(&Action::Try);
        if event == Event::Reload {
            must(told + usize::from(tried) == 1, "not one answer to a reload")?;
            must(!(tried && self.witness.waiting), "two reloads at once")?;
            self.witness.waiting |= tried;
        } else {
            must(!tried, "a reload that nobody wants")?;
            must(told <= usize::from(self.witness.waiting), "told to nobody")?;
            self.witness.waiting &= told == 0;
        }
        must(
            !self.witness.waiting || self.core.next.is_some(),
            "somebody waits for a reload in vain",
        )
    }

    /// Whether a signal that can wait for nothing was obeyed at once.
    fn judge_order(&self, event: Event, from: &World) -> Verdict {
        let Event::Order(order @ (Order::Stop | Order::StopNow)) = event else {
            return Ok(());
        };
        let again = from
            .core
            .drain
            .as_ref()
            .is_some_and(|drain| drain.outcome().is_some() || drain.stops());
        match from.core.phase {
            Phase::Running { .. } if again || order == Order::StopNow => must(
                self.witness.terminated.is_some(),
                "a signal to stop is ignored",
            ),
            Phase::Stopping { .. } if self.witness.stops >= 3 => {
                must(self.witness.killed.is_some(), "a third signal is ignored")
            }
            Phase::Waiting | Phase::Backoff { .. } | Phase::Down => must(
                matches!(self.core.phase, Phase::Over(_)) != self.witness.old,
                "it does not end",
            ),
            _ => Ok(()),
        }
    }

    /// Whether a drain that has just ended had reason to.
    fn judge_outcome(&mut self, now: Time, event: Event, from: &World) -> Verdict {
        let ended = |core: &Core| core.drain.as_ref().map(|drain| drain.outcome());
        let (Some(Some(outcome)), was) = (ended(&self.core), ended(&from.core)) else {
            return Ok(());
        };
        if let Some(Some(was)) = was {
            return must(was == outcome, "an outcome changed");
        }
        let seen = self.witness.drain.take();
        let load = match event {
            Event::Answer(Ask::Stats | Ask::Sockets, says) => match says.answer() {
                Some(Answer::Stats(load)) => Some(load),
                _ => None,
            },
            _ => None,
        };
        let limits = &self.core.rules.limits;
        let known = !self.witness.old || self.witness.told_at.is_some_and(|at| now >= at);
        let clean =
            |seen: &DrainSeen| known && now >= seen.min_until && (!seen.stops || seen.closed);
        let only_the_minimum =
            |seen: &DrainSeen| known && now >= seen.deadline && seen.min_until >= seen.deadline;
        let why = match (outcome, &seen) {
            (Outcome::Drained | Outcome::Idle, Some(seen)) if only_the_minimum(seen) => true,
            (Outcome::Drained, Some(seen)) => {
                clean(seen)
                    && load.is_some_and(|load| {
                        load.connections() <= limits.open_connections && load.udp_sessions == 0
                    })
            }
            (Outcome::Idle, Some(seen)) => {
                let settled = seen.idle_since.is_some_and(|at| now - at >= limits.settle);
                clean(seen)
                    && settled
                    && !limits.settle.is_zero()
                    && load.is_some_and(|load| load.in_flight() == 0)
            }
            (Outcome::Deadline | Outcome::AdminLost, Some(seen)) => now >= seen.deadline,
            (Outcome::NeverLive, None) => matches!(event, Event::Order(_)),
            (Outcome::NeverLive, Some(seen)) => {
                let initializing = event == Event::Answer(Ask::Ready, Says::Initializing);
                !from.witness.live && (seen.stops && initializing || now >= seen.silent_until)
            }
            (Outcome::SecondSignal, Some(_)) => {
                event == Event::Order(Order::StopNow)
                    || event == Event::Order(Order::Stop)
                        && from.witness.drain.as_ref().is_some_and(|drain| drain.stops)
            }
            (Outcome::EnvoyExited, Some(_)) => {
                matches!(event, Event::Exited(_)) || event_is_loss(event, from)
            }
            (Outcome::EnvoyExited, None) => from.core.replace,
            _ => false,
        };
        must(why, &format!("{outcome:?} without reason: {seen:?}"))
    }

    /// Whether an action was called for.
    fn judge_action(&mut self, now: Time, event: Event, action: Action, before: &Core) -> Verdict {
        let core = &self.core;
        let outcome = core.drain.as_ref().and_then(Drain::outcome);
        let running = matches!(before.phase, Phase::Running { .. }) || event == Event::Spawned;
        match action {
            Action::Try => must(core.drain.is_none() && running, "tried although it drains"),
            Action::Reloaded(_) => Ok(()),
            Action::SpawnNext => {
                must(
                    self.witness.newest && !self.witness.old,
                    "a third generation",
                )?;
                must(core.drain.is_none(), "raised although told to drain")
            }
            Action::KillNewest => {
                if let Event::ParentExited(_) = event {
                    self.witness.killed = Some(now);
                    return must(running && self.witness.newest, "SIGKILL to nobody");
                }
                let Some(Next::Rising(rise)) = before.next else {
                    return Err("SIGKILL to a generation that does not rise".into());
                };
                must(now >= rise.since + RISE && !rise.ended, "given up early")
            }
            Action::TerminateParent => {
                must(self.witness.old, "SIGTERM to no old generation")?;
                must(
                    !self.witness.newest,
                    "SIGTERM to an old generation with a new one",
                )?;
                self.witness.terminated.get_or_insert(now);
                Ok(())
            }
            Action::Spawn => {
                must(!self.witness.newest, "two newest")?;
                must(core.phase == Phase::Spawning, "spawned twice")?;
                must(core.drain.is_none(), "spawned although told to drain")
            }
            Action::Ask(ask) => {
                must(running && core.asked == Some(ask), "a question to nobody")?;
                if ask == Ask::Sockets {
                    let lost = self.witness.refused || core.is_rising();
                    must(lost, "the kernel is asked instead of Envoy")?;
                }
                let answered = matches!(event, Event::Answer(..) | Event::Exited(_))
                    || matches!(event, Event::Spawned | Event::NextSpawned(_));
                must(before.asked.is_none() || answered, "two questions at once")?;
                let at_rest = core.live.is_some() && core.drain.is_none() && !core.is_rising();
                let anew = matches!(event, Event::Exited(_) | Event::NextSpawned(_));
                if ask == Ask::Ready && at_rest && !anew {
                    let rested = before.probed.is_none_or(|at| now - at >= PROBE_REST);
                    must(rested, "asked more than once a second at rest")?;
                }
                Ok(())
            }
            Action::Terminate
                if before.is_rising()
                    && matches!(event, Event::Exited(_))
                    && matches!(before.phase, Phase::Stopping { .. }) =>
            {
                // Now the one before.
                let stopping = matches!(before.phase, Phase::Stopping { killed: None, .. });
                must(stopping && self.witness.newest, "SIGTERM too early")
            }
            Action::Terminate => {
                must(
                    running && self.witness.terminated.is_none(),
                    "SIGTERM twice",
                )?;
                self.witness.terminated = Some(now);
                let told = self.witness.stops > 0;
                let now_at_once = event == Event::Order(Order::StopNow);
                let closed = event == Event::Answer(Ask::Sockets, Says::Closed);
                must(
                    told && (now_at_once || outcome.is_some())
                        || closed && core.replace && core.drain.is_none(),
                    "SIGTERM too early",
                )
            }
            Action::Kill => {
                let Some(at) = self.witness.terminated else {
                    return Err("SIGKILL without SIGTERM".into());
                };
                must(self.witness.killed.is_none(), "SIGKILL twice")?;
                self.witness.killed = Some(now);
                let due = now >= at + core.rules.kill_timeout;
                let third = matches!(event, Event::Order(Order::Stop | Order::StopNow))
                    && self.witness.stops >= 3;
                must(due || third, "SIGKILL too early")
            }
            Action::ReopenLogs => {
                let Phase::Running { since } = before.phase else {
                    return Err("SIGUSR1 to nobody".into());
                };
                let handlers = core.answered || now - since >= HANDLERS_READY;
                must(handlers, "SIGUSR1 to an Envoy without handlers")
            }
            Action::Exit(code) => {
                must(
                    !self.witness.newest && !self.witness.old || self.witness.killed.is_some(),
                    "a generation is forgotten",
                )?;
                let kept = core.exit.map(Exit::code);
                let patient = |at: Time| now >= at + KILL_PATIENCE;
                let cut = code == 137 && self.witness.killed.is_some_and(patient);
                let right = match event {
                    Event::Exited(exit) => code == kept.unwrap_or(exit.code()),
                    Event::ParentExited(_) => Some(code) == kept,
                    Event::SpawnFailed => code == COMMAND_NOT_FOUND,
                    Event::Order(_) => code == 0 && !running && before.phase != Phase::Spawning,
                    _ => false,
                };
                must(right || cut, &format!("exit {code}"))
            }
        }
    }

    /// Whether it may rest until it is woken.
    fn judge_rest(&self, now: Time, actions: &[Action]) -> Verdict {
        let core = &self.core;
        let over = matches!(core.phase, Phase::Over(_));
        let exits = actions.iter().any(|a| matches!(a, Action::Exit(_)));
        must(
            over == exits,
            "over without an exit, or the other way round",
        )?;
        if let Some(at) = core.wake_at {
            must(at >= now + ms(1), "it spins")?;
        }
        let wakes_by = |at: Time, what: &str| {
            must(now < at, &format!("{what} is overdue"))?;
            let wakes = core.wake_at.is_some_and(|wake| wake <= at);
            must(wakes, &format!("{what} will be overslept"))
        };
        if let Some(drain) = &core.drain {
            if drain.outcome().is_none() {
                let Some(seen) = &self.witness.drain else {
                    return Err("a drain that nobody asked for".into());
                };
                must(seen.deadline == drain.deadline(), "the deadline moved")?;
                must(
                    seen.stops == drain.stops(),
                    "whether it stops was forgotten",
                )?;
                wakes_by(seen.deadline, "the deadline")?;
            } else if let Phase::Running { .. } = core.phase {
                must(!drain.stops(), "the drain is over and Envoy goes on")?;
            }
        }
        match core.phase {
            Phase::Spawning => must(actions.contains(&Action::Spawn), "not spawned")?,
            Phase::Backoff { until } => wakes_by(until, "the restart")?,
            Phase::Stopping { .. } => {
                let end = match (self.witness.killed, self.witness.terminated) {
                    (Some(at), _) => at + KILL_PATIENCE,
                    (None, Some(at)) => at + core.rules.kill_timeout,
                    (None, None) => return Err("stopping without a SIGTERM".into()),
                };
                wakes_by(end, "the end")?;
            }
            Phase::Over(_) | Phase::Down => {
                must(core.wake_at.is_none(), "woken for nothing")?;
                must(self.witness.drain.is_none(), "a waiter is forgotten")?;
            }
            Phase::Running { .. } if core.live.is_none() && core.drain.is_none() => {
                must(
                    core.asked.is_some() || core.wake_at.is_some(),
                    "no look any more",
                )?;
            }
            _ => {}
        }
        let running = matches!(core.phase, Phase::Running { .. });
        let accepts = running && core.live.is_some() && !self.witness.spent;
        let ends = over || core.drain.is_some();
        must(
            accepts
                || ends
                || core.phase == Phase::Waiting
                || core.asked.is_some()
                || core.wake_at.is_some()
                || core.phase == Phase::Spawning
                || actions.contains(&Action::SpawnNext),
            "nothing may accept, and nothing is planned",
        )?;
        must(
            core.asked.is_none()
                || running
                || self.witness.terminated.is_some()
                || self.witness.killed.is_some(),
            "asks nobody",
        )
    }

    /// What holds for a state, whatever led to it.
    fn judge_state(&self) -> Verdict {
        // The loop ends every turn with a tick: another one finds nothing to do.
        let mut again = self.core.clone();
        let actions = again.handle(BASE, Input::Tick);
        if let Phase::Over(code) = self.core.phase {
            return must(actions == [Action::Exit(code)], "it is not over");
        }
        must(
            actions.is_empty(),
            &format!("a second tick does {actions:?}"),
        )?;
        must(
            again.wake_at == self.core.wake_at,
            &format!(
                "a second tick wakes at {:?} instead of {:?}",
                again.wake_at, self.core.wake_at
            ),
        )?;
        must(again == self.core, "a second tick changes the state")?;
        for ask in [
            Ask::Ready,
            Ask::ServerInfo,
            Ask::FailHealthCheck,
            Ask::DrainListeners,
            Ask::StopListeners,
            Ask::Stats,
            Ask::Sockets,
        ] {
            if self.core.asked == Some(ask) {
                continue;
            }
            for says in Says::to(ask) {
                let actions = again.handle(BASE, Input::Answer(ask, says.answer()));
                must(
                    actions.is_empty() && again == self.core,
                    "a stale answer was taken",
                )?;
            }
        }
        Ok(())
    }
}

impl Witness {
    fn note(&mut self, now: Time, event: Event, before: &Core) {
        let running = matches!(before.phase, Phase::Running { .. });
        if let Event::Answer(ask, says) = event
            && ask != Ask::Sockets
            && self.spent
            && !before.is_rising()
        {
            self.refused = says == Says::Nothing;
            self.spent = self.refused;
        }
        match event {
            Event::Order(order) => {
                match order {
                    Order::Stop => self.stops += 1,
                    // It goes as far as a second one.
                    Order::StopNow => self.stops = (self.stops + 1).max(2),
                    Order::Drain | Order::ReopenLogs => {}
                }
                if !running || order == Order::ReopenLogs {
                    return;
                }
                if order != Order::Drain
                    && let Some(drain) = &mut self.drain
                {
                    drain.stops = true;
                }
                let limits = &before.rules.limits;
                let uptime = match before.phase {
                    Phase::Running { since } => now - since,
                    _ => Duration::ZERO,
                };
                if before.drain.is_none() && order != Order::StopNow {
                    self.drain = Some(DrainSeen {
                        deadline: now + limits.timeout,
                        min_until: now + limits.min,
                        silent_until: now + uptime.max(ms(1_000)),
                        stops: order == Order::Stop,
                        idle_since: None,
                        closed: false,
                    });
                }
            }
            Event::Answer(Ask::Ready, Says::Live | Says::HealthFailed) => {
                self.live = true;
                (self.spent, self.refused) = (false, false);
                if running && before.is_unsettled() {
                    self.told_at = Some(now + FLUSH);
                }
            }
            Event::Answer(Ask::StopListeners, _) => {
                if let Some(drain) = &mut self.drain {
                    drain.closed = true;
                }
            }
            Event::Answer(Ask::Stats | Ask::Sockets, says) => {
                if let (Some(drain), Some(Answer::Stats(load))) = (&mut self.drain, says.answer()) {
                    if load.in_flight() > 0 {
                        drain.idle_since = None;
                    } else {
                        drain.idle_since.get_or_insert(now);
                    }
                }
            }
            Event::Spawned => {
                self.live = self.old;
                self.newest = true;
                self.told_at = None;
                (self.terminated, self.killed) = (None, None);
                (self.spent, self.refused) = (false, false);
            }
            Event::NextSpawned(true) => (self.old, self.told_at) = (true, None),
            Event::ParentExited(_) => self.old = false,
            // While one rises it is that one, and the one before is the newest again.
            Event::Exited(_) if before.is_rising() && self.old => {
                (self.old, self.spent, self.refused) = (false, true, false);
            }
            Event::Exited(_) => self.newest = false,
            _ => {}
        }
    }
}

/// One search, from the start of a drainit with these rules.
struct Search {
    seen: HashSet<u64>,
    /// How each state was first reached: from which, by what.
    paths: Vec<(usize, Duration, Event)>,
    queue: VecDeque<(usize, World)>,
    steps: usize,
    states: BTreeSet<&'static str>,
    moves: BTreeSet<(&'static str, &'static str)>,
}

impl Search {
    fn run(rules: Rules, late: bool) -> Search {
        let mut search = Search {
            seen: HashSet::new(),
            paths: vec![(0, Duration::ZERO, Event::Start)],
            queue: VecDeque::new(),
            steps: 0,
            states: BTreeSet::new(),
            moves: BTreeSet::new(),
        };
        let start = World {
            core: Core::new(rules, 1),
            witness: Witness::default(),
        };
        search.states.insert(start.core.state(BASE).name());
        search.follow(0, &start, BASE, Event::Start);
        while let Some((path, world)) = search.queue.pop_front() {
            for (time, event) in world.events(late) {
                search.follow(path, &world, BASE + time, event);
            }
        }
        search
    }

    fn follow(&mut self, path: usize, from: &World, now: Time, event: Event) {
        let mut to = from.clone();
        let actions = to.step(from, now, event);
        let actions = self.expect(path, now, event, actions);
        self.steps += 1;
        let results = if actions.contains(&Action::Spawn) {
            [Event::Spawned, Event::SpawnFailed]
        } else if actions.contains(&Action::SpawnNext) {
            [true, false].map(Event::NextSpawned)
        } else {
            return self.keep(path, from, to, now, event);
        };
        for result in results {
            let mut next = to.clone();
            let actions = next.step(&to, now, result);
            self.expect(path, now, result, actions);
            self.keep(path, from, next, now, result);
        }
    }

    fn keep(&mut self, path: usize, from: &World, mut to: World, now: Time, event: Event) {
        let (was, is) = (from.core.state(BASE).name(), to.core.state(now).name());
        self.states.insert(is);
        if was != is {
            self.moves.insert((was, is));
        }
        to.level(now);
        let mut hasher = DefaultHasher::new();
        to.hash(&mut hasher);
        if !self.seen.insert(hasher.finish()) {
            return;
        }
        let verdict = to.judge_state();
        self.expect(path, now, event, verdict);
        self.paths.push((path, now - BASE, event));
        if to.core.phase_is_over() {
            return;
        }
        self.queue.push_back((self.paths.len() - 1, to));
    }

    /// Fails with the way that led there.
    fn expect<T>(&self, path: usize, now: Time, event: Event, result: Result<T, String>) -> T {
        result.unwrap_or_else(|why| {
            let mut way = vec![format!("{:?} later: {event:?}", now - BASE)];
            let mut at = path;
            while at != 0 {
                let (from, time, event) = self.paths[at];
                way.push(format!("{time:?} later: {event:?}"));
                at = from;
            }
            way.reverse();
            panic!("{why}\n{}", way.join("\n"))
        })
    }
}

/// Whether the generation that served is gone.
fn event_is_loss(event: Event, from: &World) -> bool {
    matches!(event, Event::ParentExited(_)) && from.core.is_rising()
}

impl Core {
    fn phase_is_over(&self) -> bool {
        matches!(self.phase, Phase::Over(_))
    }
}

/// Small ones, on the grid of [`STEP`].
const LIMITS: Limits = Limits {
    delay: ms(0),
    timeout: ms(1_500),
    min: ms(0),
    settle: ms(500),
    open_connections: 0,
    check_interval: ms(500),
};

const RULES: Rules = Rules {
    limits: LIMITS,
    kill_timeout: ms(1_000),
    restart: true,
    gated: true,
    parent_time: None,
};

/// From each state to each that may follow it. The README draws this.
const DIAGRAM: [(State, State); 25] = [
    (State::Waiting, State::Starting),
    (State::Waiting, State::Drained),
    (State::Waiting, State::Gone),
    (State::Starting, State::Live),
    (State::Starting, State::Draining),
    (State::Starting, State::Stopping),
    (State::Starting, State::Restarting),
    (State::Starting, State::Gone),
    (State::Live, State::Delaying),
    (State::Live, State::Draining),
    (State::Live, State::Stopping),
    (State::Live, State::Restarting),
    (State::Live, State::Gone),
    (State::Delaying, State::Draining),
    (State::Delaying, State::Stopping),
    (State::Delaying, State::Gone),
    (State::Draining, State::Drained),
    (State::Draining, State::Stopping),
    (State::Draining, State::Gone),
    (State::Drained, State::Stopping),
    (State::Drained, State::Gone),
    (State::Stopping, State::Gone),
    (State::Restarting, State::Starting),
    (State::Restarting, State::Drained),
    (State::Restarting, State::Gone),
];

#[test]
fn every_order_of_events_keeps_the_rules_and_draws_the_diagram() {
    let delay = ms(500);
    let delayed = Search::run(
        Rules {
            limits: Limits { delay, ..LIMITS },
            ..RULES
        },
        false,
    );
    let plain = Search::run(
        Rules {
            restart: false,
            gated: false,
            ..RULES
        },
        false,
    );
    println!(
        "{} and {} states, {} and {} steps",
        delayed.seen.len(),
        plain.seen.len(),
        delayed.steps,
        plain.steps
    );
    let states: BTreeSet<_> = State::ALL.into_iter().map(State::name).collect();
    assert_eq!(delayed.states, states);
    let moves: BTreeSet<_> = delayed.moves.union(&plain.moves).copied().collect();
    let diagram: BTreeSet<_> = DIAGRAM
        .into_iter()
        .map(|(from, to)| (from.name(), to.name()))
        .collect();
    assert_eq!(moves, diagram);
}

#[test]
fn every_order_of_events_of_a_hot_restart_keeps_the_rules() {
    let search = Search::run(
        Rules {
            limits: Limits {
                timeout: ms(1_000),
                settle: ms(0),
                ..LIMITS
            },
            kill_timeout: ms(500),
            gated: false,
            parent_time: Some(PARENT_TIME),
            ..RULES
        },
        false,
    );
    println!("{} states, {} steps", search.seen.len(), search.steps);
}

#[test]
fn a_machine_that_is_late_keeps_them_too() {
    let search = Search::run(
        Rules {
            limits: Limits {
                timeout: ms(1_000),
                min: ms(500),
                ..LIMITS
            },
            gated: false,
            ..RULES
        },
        true,
    );
    println!("{} states, {} steps", search.seen.len(), search.steps);
}

#[test]
fn other_limits_keep_them_too() {
    for (limits, kill_timeout) in [
        // No settle time, and a connection that counts as none.
        (
            Limits {
                settle: ms(0),
                open_connections: 1,
                timeout: ms(1_000),
                ..LIMITS
            },
            ms(0),
        ),
        // No time at all.
        (
            Limits {
                timeout: ms(0),
                ..LIMITS
            },
            ms(500),
        ),
        // Nothing but the delay.
        (
            Limits {
                delay: ms(1_000),
                timeout: ms(1_000),
                min: ms(1_000),
                ..LIMITS
            },
            ms(500),
        ),
    ] {
        let rules = Rules {
            limits,
            kill_timeout,
            gated: false,
            ..RULES
        };
        let search = Search::run(rules, false);
        println!("{} states, {} steps", search.seen.len(), search.steps);
    }
}
