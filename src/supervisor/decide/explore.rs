//! Every order of events, as far as small limits let them differ: a breadth-first search over the
//! states of the decision core.
//!
//! The core is not only watched for what it must never do; a [`Record`] keeps its own, simpler
//! account of what has happened, and tells whether each action was called for. Every check is
//! local, of one step from one state: since each state is stepped from, what holds for every step
//! holds for every path. Times are counted from the present, and what makes no difference any
//! more is levelled, so that the states are finitely many and the search ends by itself. Three searches
//! would take many minutes for that, and are cut off: a hold beside a hot restart after [`HELD`]
//! states, a configuration that is followed after [`FOLLOWED`], and a drain that waits for new
//! connections after [`ARRIVING`].

mod events;
mod looks;
mod record;
mod rest;
mod rules;
mod service;
mod world;

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::asking::{Asking, HealthCheck, PROBE_REST, Requester};
use super::generations::{AdminAccess, Beside, CUT, Left, MOMENT, Open, SEEN_LATE, START_LIMIT};
use super::life::{AfterStop, HANDLERS_READY, KILL_PATIENCE};
use super::orders::SAME_ORDER;
use super::*;
use crate::drain::{
    Answer, DOUBT, FLUSH, HANGING, Limits, Loss, MinDrain, Outcome, Readiness, SILENCE_MIN,
};
use crate::envoy::load::{self, Counters, ListenerLoad, Load, OldOpen, Unsent};
use crate::process::Exit;
use crate::supervisor::backoff::Backoff;
use crate::testing::{self, ms};
use events::{COMMAND_NOT_FOUND, Happening, Says};
use record::{DrainSeen, Record};
use rules::must;
use world::World;

/// The present, in every state that is kept.
const BASE: Time = Duration::from_secs(1_000);

/// Time passes in steps of this, and up to whenever the core wants to be woken.
const STEP: Duration = ms(500);

/// Nothing waits for longer than this.
const LONG: Duration = ms(6_000);

/// How late the machine may be.
const LATE: Duration = STEP;

/// The number of failures after which the pauses are as long as they get: how they grow has its own
/// tests.
const GROWN_UP: u32 = 4;

/// The most states that are searched of a hold beside a hot restart.
const HELD: usize = 60_000;

/// The most states that are searched of a configuration that is followed.
const FOLLOWED: usize = 30_000;

/// The most states that are searched of a drain that waits for new connections.
const ARRIVING: usize = 20_000;

/// When an old generation ends by itself.
const OLD_TIME: Duration = ms(2_500);

/// What may happen in a search. Holds multiply the states: they have searches of their own, in which
/// less else happens, since that is searched without them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// Everything but a hold and a resume.
    Drain,
    /// Everything but a hold and a resume, on a machine that is late.
    Late,
    /// A hold and a resume; and of the rest what makes a difference to them.
    Hold,
    /// A configuration that is followed; and of the rest what makes a difference to that.
    Follow,
}

/// A search, from the start of a drainit with these rules.
struct Search {
    seen: HashSet<u64>,
    /// How each state was first reached: from which, by what.
    paths: Vec<(usize, Duration, Happening)>,
    queue: VecDeque<(usize, World)>,
    steps: usize,
    states: BTreeSet<&'static str>,
    moves: BTreeSet<(&'static str, &'static str)>,
}

impl Search {
    fn run(rules: Rules, scene: Scope) -> Search {
        Search::first(usize::MAX, rules, scene)
    }

    /// Searches `most` states, those first that the fewest events lead to.
    fn first(most: usize, rules: Rules, scene: Scope) -> Search {
        let mut search = Search {
            seen: HashSet::new(),
            paths: vec![(0, Duration::ZERO, Happening::Start)],
            queue: VecDeque::new(),
            steps: 0,
            states: BTreeSet::new(),
            moves: BTreeSet::new(),
        };
        let start = World {
            core: Core::new(rules, 1),
            record: Record::default(),
        };
        search.states.insert(start.core.state(BASE).name());
        search.follow(0, &start, BASE, Happening::Start);
        while let Some((path, world)) = search.queue.pop_front()
            && search.seen.len() < most
        {
            for (time, event) in world.events(scene) {
                search.follow(path, &world, BASE + time, event);
            }
        }
        search
    }

    fn follow(&mut self, path: usize, from: &World, now: Time, event: Happening) {
        let mut to = from.clone();
        let actions = to.step(from, now, event);
        let actions = self.expect(path, now, event, actions);
        self.steps += 1;
        let results = if actions.contains(&Action::Spawn) {
            if to.record.old {
                // The spawn waits for a look at the certificates on disk.
                for order in [Order::Stop, Order::StopNow, Order::Drain] {
                    let (mut next, order) = (to.clone(), Happening::Order(order));
                    let actions = next.step(&to, now, order);
                    self.expect(path, now, order, actions);
                    self.keep(path, &to, next, now, order);
                }
            }
            [Happening::Spawned, Happening::SpawnFailed]
        } else if actions.contains(&Action::HotRestart(RestartStep::SpawnNext)) {
            [true, false].map(Happening::NextSpawned)
        } else if actions.contains(&Action::HotRestart(RestartStep::RelieveOld)) {
            [true, false].map(Happening::OldRelieved)
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

    fn keep(&mut self, path: usize, from: &World, mut to: World, now: Time, event: Happening) {
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
    fn expect<T>(&self, path: usize, now: Time, event: Happening, result: Result<T, String>) -> T {
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

impl fmt::Display for Search {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} states, {} steps", self.seen.len(), self.steps)
    }
}

/// Small ones, on the grid of [`STEP`].
const LIMITS: Limits = Limits {
    timeout: ms(1_500),
    settle: ms(500),
    check_interval: ms(500),
    ..testing::LIMITS
};

/// Smaller ones: what a drain does in its time is known without a hold.
const HOLD_LIMITS: Limits = Limits {
    timeout: ms(1_000),
    settle: ms(0),
    ..LIMITS
};

const RULES: Rules = Rules {
    limits: LIMITS,
    kill_timeout: ms(1_000),
    restart: true,
    gated: true,
    old_time: None,
};

/// What an arrow of the README's diagram looks like.
const DRAIN: &str = "-->";
const HOT_RESTART: &str = "-.->";

/// The arrows of this look from state to state, where a line `a & b -->|"why"| c` has two.
fn drawn(arrow: &str) -> BTreeSet<(&'static str, &'static str)> {
    const README: &str = include_str!("../../../README.md");
    let after = README.split("```mermaid\n").nth(1);
    let lines = after.unwrap().split("```").next().unwrap().lines();
    let arrow = format!(" {arrow}|");
    let arrows = lines.filter_map(|line| {
        let (from, to) = line.trim().split_once(&arrow)?;
        let (_, to) = to.rsplit_once("| ")?;
        Some(from.split(" & ").map(move |from| (from, to)))
    });
    arrows.flatten().collect()
}

#[test]
fn every_order_of_events_keeps_the_rules_and_is_what_the_readme_draws() {
    let delay = ms(500);
    let delayed = Search::run(
        Rules {
            limits: Limits { delay, ..LIMITS },
            ..RULES
        },
        Scope::Drain,
    );
    let plain = Search::run(
        Rules {
            restart: false,
            gated: false,
            ..RULES
        },
        Scope::Drain,
    );
    let held = Search::run(
        Rules {
            limits: HOLD_LIMITS,
            kill_timeout: ms(500),
            ..RULES
        },
        Scope::Hold,
    );
    let ended = Search::run(
        Rules {
            limits: Limits {
                timeout: ms(500),
                ..HOLD_LIMITS
            },
            kill_timeout: ms(500),
            restart: false,
            gated: false,
            ..RULES
        },
        Scope::Hold,
    );
    let states: BTreeSet<_> = State::ALL.into_iter().map(State::name).collect();
    let seen: BTreeSet<_> = delayed.states.union(&held.states).copied().collect();
    assert_eq!(seen, states);
    let mut moves = delayed.moves;
    moves.extend(plain.moves);
    moves.extend(held.moves);
    moves.extend(ended.moves);
    assert_eq!(moves, drawn(DRAIN));
}

#[test]
fn every_order_of_events_of_a_hot_restart_keeps_them_too_and_adds_what_is_drawn() {
    let search = Search::run(
        Rules {
            limits: Limits {
                timeout: ms(1_000),
                settle: ms(0),
                ..LIMITS
            },
            kill_timeout: ms(500),
            gated: false,
            old_time: Some(OLD_TIME),
            ..RULES
        },
        Scope::Drain,
    );
    let held = Search::first(
        HELD,
        Rules {
            limits: HOLD_LIMITS,
            kill_timeout: ms(500),
            gated: false,
            old_time: Some(OLD_TIME),
            ..RULES
        },
        Scope::Hold,
    );
    assert!(held.seen.len() >= HELD, "{held}");
    let mut moves = search.moves;
    moves.extend(held.moves);
    let added: BTreeSet<_> = moves.difference(&drawn(DRAIN)).copied().collect();
    assert_eq!(added, drawn(HOT_RESTART));
}

#[test]
fn every_order_of_events_of_a_configuration_that_is_followed_keeps_them_too() {
    let search = Search::first(
        FOLLOWED,
        Rules {
            limits: Limits {
                timeout: ms(500),
                settle: ms(0),
                ..LIMITS
            },
            kill_timeout: ms(500),
            gated: false,
            restart: false,
            old_time: Some(OLD_TIME),
        },
        Scope::Follow,
    );
    assert!(search.seen.len() >= FOLLOWED, "{search}");
}

#[test]
fn a_machine_that_is_late_keeps_them_too() {
    let search = Search::run(
        Rules {
            limits: Limits {
                timeout: ms(1_000),
                min: MinDrain::For(ms(500)),
                ..LIMITS
            },
            gated: false,
            ..RULES
        },
        Scope::Late,
    );
    assert!(search.seen.len() > 10_000, "{search}");
}

#[test]
fn a_drain_that_waits_for_new_connections_keeps_them_too_and_leaves_its_reserve() {
    let search = Search::first(
        ARRIVING,
        Rules {
            limits: Limits {
                delay: ms(500),
                settle: ms(0),
                min: MinDrain::Auto {
                    most: ms(1_500),
                    reserve: ms(500),
                },
                ..LIMITS
            },
            gated: false,
            ..RULES
        },
        Scope::Drain,
    );
    assert!(search.seen.len() >= ARRIVING, "{search}");
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
                min: MinDrain::For(ms(1_000)),
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
        let search = Search::run(rules, Scope::Drain);
        assert!(search.seen.len() > 1_000, "{search}");
    }
}
