//! A state of the search: the core and who watches it.

use super::*;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) core: Core,
    pub(super) witness: Witness,
}

impl World {
    /// Makes worlds equal that will behave the same, and brings their present to [`BASE`].
    pub(super) fn level(&mut self, now: Time) {
        let past = |at: Time, kept: Duration| (at + BASE).saturating_sub(now).max(BASE - kept);
        let due = |at: Time| past(at, Duration::ZERO);
        let core = &mut self.core;
        core.reason.clear();
        core.stops = core.stops.min(3);
        let counts = |at: Option<Time>| {
            at.filter(|at| now < *at + SAME_ORDER)
                .map(|at| past(at, SAME_ORDER))
        };
        core.ordered = counts(core.ordered);
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
        core.parent = core.parent.map(|at| past(at, PARENT_TIME - SEEN_LATE));
        if core.parent.is_none() {
            core.told = Told::Nothing;
        }
        if let Some(Next::Rising(rise)) = &mut core.next {
            rise.since = past(rise.since, RISE);
        }
        // It makes no other difference, and is forgotten at the next start.
        let running = matches!(core.phase, Phase::Running { .. });
        core.handles = running && core.has_handlers();
        let known = core.live.is_some() || (core.answered && core.drain.is_some());
        match &mut core.phase {
            Phase::Running { since } if known => *since = BASE,
            Phase::Running { since } => *since = past(*since, HANDLERS_READY),
            Phase::Stopping { since, killed, .. } => {
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
            Phase::Judging { until, .. } => *until = due(*until),
            _ => {}
        }
        if let Some(drain) = &mut core.drain {
            drain.level(now, BASE);
        }
        let witness = &mut self.witness;
        witness.stops = witness.stops.min(3);
        witness.ordered = counts(witness.ordered);
        witness.terminated = witness.terminated.map(|at| past(at, LONG));
        witness.killed = witness.killed.map(|at| past(at, LONG));
        if !witness.old || witness.told {
            witness.uptime = None;
        }
        witness.told &= witness.old;
        if let Some(drain) = &mut witness.drain {
            drain.deadline = due(drain.deadline);
            drain.min_until = due(drain.min_until);
            drain.silent_until = if drain.word {
                BASE
            } else {
                due(drain.silent_until)
            };
            drain.entries_since = drain.entries_since.map(|at| past(at, FLUSH));
            let settle = core.rules.limits.settle;
            drain.idle_since = drain.idle_since.map(|at| past(at, settle));
        }
    }

    /// Everything that may happen next, and after what time.
    pub(super) fn events(&self, late: bool) -> Vec<(Duration, Event)> {
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
            if !core.has_handlers() {
                inputs.push(Event::HandlersSeen);
            }
            inputs.extend([Exit::Code(0), Exit::Signal(11)].map(Event::Exited));
            inputs.push(Event::ScriptEnded);
            if !hot {
                inputs.push(Event::Exited(Exit::Code(1)));
            }
        }
        if let Phase::Judging { .. } = core.phase {
            inputs.extend([Event::Judged(true), Event::Judged(false)]);
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
            let says = Says::to(ask).iter().filter(|says| match says {
                Says::Flushed => self.witness.old,
                says => !hot || says.is_main(),
            });
            inputs.extend(says.map(|says| Event::Answer(ask, *says)));
        }
        for time in times {
            events.extend(inputs.iter().map(|input| (time, *input)));
        }
        events
    }

    /// One step, with everything checked that can be told of one.
    pub(super) fn step(
        &mut self,
        from: &World,
        now: Time,
        event: Event,
    ) -> Result<Vec<Action>, String> {
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
        if closed && serves && from.core.next.is_none() && from.core.drain.is_none() {
            must(
                self.core.starts_anew(),
                "an Envoy that accepts nothing is kept",
            )?;
        }
        self.judge_reload(event, &actions)?;
        self.judge_rest(now, &actions)?;
        Ok(actions)
    }
}

impl Core {
    pub(super) fn phase_is_over(&self) -> bool {
        matches!(self.phase, Phase::Over(_))
    }

    /// Whether the old generation is being ended, and nothing else is there.
    pub(super) fn is_stopping_old(&self) -> bool {
        matches!(
            self.phase,
            Phase::Stopping {
                then: Then::ExitAs(_),
                ..
            }
        )
    }

    pub(super) fn starts_anew(&self) -> bool {
        matches!(
            self.phase,
            Phase::Stopping {
                then: Then::StartAnew,
                ..
            }
        )
    }
}
