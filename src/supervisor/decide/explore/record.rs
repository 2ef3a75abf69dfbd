//! The account of what has happened, apart from what the core makes of it.

use super::*;

/// The drain as somebody would account for it who reads the manual.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct DrainSeen {
    pub(super) deadline: Time,
    pub(super) min_until: Time,
    /// Until when new connections may be waited for, where that is left to the drain.
    pub(super) arrivals_until: Option<Time>,
    /// Whether the last look has shown nothing that counts.
    pub(super) empty: bool,
    /// Until when to wait for word from an Envoy that was never live.
    pub(super) wait_for_word_until: Time,
    pub(super) stops: bool,
    /// Since when every look has shown nothing in flight, and the counters have not moved.
    pub(super) idle_since: Option<Time>,
    /// Whether Envoy has told its state.
    pub(super) word: bool,
    /// Whether Envoy's last poll had no answer.
    pub(super) unanswered: bool,
    /// What the kernel said when it was last asked: which connections there are, or that Envoy
    /// accepts none.
    pub(super) kernel: Option<Says>,
    /// Whether Envoy was told to stop accepting, with whatever success.
    pub(super) closed: bool,
    /// Since when nothing has been in flight, where Envoy sends access logs elsewhere.
    pub(super) entries_since: Option<Time>,
    /// Since when clients have acknowledged nothing of what the kernel still sends.
    pub(super) unsent_since: Option<Time>,
    /// Whether the question in flight is somebody else's.
    pub(super) stale: bool,
    /// Whether an old generation has ended meanwhile, with something open for all that is known.
    pub(super) lost: bool,
}

/// What an Envoy was told of its health check, as long as no drain was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Health {
    #[default]
    Own,
    Told,
    Failed,
}

/// What has happened, apart from what the core makes of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Record {
    /// Whether Envoy was seen to be live.
    pub(super) live: bool,
    /// The drain that is under way.
    pub(super) drain: Option<DrainSeen>,
    /// How often drainit was told to stop, by whatever signal.
    pub(super) stops: u32,
    /// When drainit was last told to stop, by an order that counted.
    pub(super) ordered: Option<Time>,
    /// Whether the rest of the process tree was told, too.
    pub(super) rest: bool,
    pub(super) terminated: Option<Time>,
    pub(super) killed: Option<Time>,
    /// Whether the start script's end was reason to stop.
    pub(super) script_ended: bool,
    /// Which processes there are: the newest Envoy, and an old one beside it.
    pub(super) newest: bool,
    pub(super) old: bool,
    /// The uptime that the newest told first, and whether it has told another since: then it has
    /// told of the old one.
    pub(super) uptime: Option<u64>,
    pub(super) told: bool,
    /// Whether nothing is left of the old one, by both witnesses; since when nothing was left and
    /// somebody answers in its place; when it was sent SIGTERM for that.
    pub(super) empty: bool,
    pub(super) relieved: Option<Time>,
    /// Since when every look has shown the old one without a connection.
    pub(super) none_since: Option<Time>,
    /// Whether the old one had something to cut when its workers ended; none before.
    pub(super) cut: Option<bool>,
    pub(super) old_ended: Option<Time>,
    /// Whether somebody waits for a reload that is under way, and for one that is kept.
    pub(super) waiting: bool,
    pub(super) kept: bool,
    /// Whether the Envoy that serves may have handed its admin interface and its listeners over to
    /// an Envoy that ended.
    pub(super) spent: bool,
    /// Whether the admin interface of the Envoy that serves was asked since `spent`, in vain.
    pub(super) refused: bool,
    /// Whether the last word on Envoy's service was a hold.
    pub(super) held: bool,
    /// What the Envoy that serves was told of its health check, and the one that starts beside it.
    pub(super) health: Health,
    pub(super) next_health: Health,
    /// Whether somebody waits for the end of a hold's wait, or of a resume.
    pub(super) holder: bool,
    pub(super) resumer: bool,
}

impl Record {
    fn take_word(&mut self) {
        if let Some(drain) = &mut self.drain
            && !drain.word
        {
            (drain.word, drain.kernel) = (true, None);
        }
    }

    /// The old one is gone.
    pub(super) fn lose_old(&mut self) {
        self.old = false;
        (self.relieved, self.old_ended, self.none_since) = (None, None, None);
        self.cut = None;
    }

    /// Whether the old one surely had nothing to cut, were it gone now.
    pub(super) fn old_is_empty(&self, now: Time) -> bool {
        let empty = self.none_since.is_some_and(|at| now >= at + CUT);
        !self.cut.unwrap_or(!empty)
    }

    pub(super) fn note(&mut self, now: Time, event: Happening, before: &Core) {
        let running = matches!(before.life.phase, Phase::Running(_));
        if let Happening::Answer(ask, says) = event
            && ask.is_to_envoy()
            && self.spent
            && !before.generations.is_starting()
        {
            self.refused = says == Says::Nothing;
            self.spent = self.refused;
        }
        let uptime = match before.life.phase {
            Phase::Running(envoy) => now - envoy.since,
            _ => Duration::ZERO,
        };
        let limits = &before.life.rules.limits;
        let min = match limits.min {
            MinDrain::For(time) => time,
            MinDrain::Auto { .. } => Duration::ZERO,
        };
        let arrivals_until = match limits.min {
            MinDrain::For(_) => None,
            MinDrain::Auto { most, reserve } => {
                Some((now + limits.delay + most).min(now + limits.timeout - reserve))
            }
        };
        let word = self.live || self.old;
        let drain = |stops| DrainSeen {
            deadline: now + limits.timeout,
            min_until: now + min,
            arrivals_until,
            empty: false,
            wait_for_word_until: now + uptime.max(ms(1_000)).max(min),
            stops,
            idle_since: None,
            word,
            unanswered: false,
            kernel: None,
            closed: false,
            entries_since: None,
            unsent_since: None,
            stale: before.asks() == Some(Ask::Sockets),
            lost: false,
        };
        let stale = matches!(event, Happening::Answer(..))
            && self
                .drain
                .as_mut()
                .is_some_and(|seen| std::mem::take(&mut seen.stale));
        self.note_health(event, before);
        match event {
            Happening::Hold if !before.life.is_leaving() => {
                self.held = true;
                let waits = before.hold().is_some_and(|wait| wait.outcome().is_none());
                if !waits {
                    self.drain = running.then(|| drain(false));
                }
            }
            Happening::Resume if !before.life.is_leaving() => {
                self.held = false;
                self.drain = None;
            }
            Happening::Order(order) => {
                match order {
                    Order::Stop if self.ordered.is_some_and(|at| now < at + SAME_ORDER) => return,
                    Order::Stop => {
                        self.stops += 1;
                        self.ordered = Some(now);
                    }
                    // It goes as far as a second one.
                    Order::StopNow => {
                        self.stops = (self.stops + 1).max(2);
                        self.ordered = Some(now);
                    }
                    Order::Drain | Order::ReopenLogs => {}
                }
                // Without a newest, an old generation is waited for.
                let between = matches!(
                    before.life.phase,
                    Phase::Backoff { .. } | Phase::Judging { .. } | Phase::Spawning
                );
                let outlived = self.old && (between || before.is_last());
                if !(running || outlived) || order == Order::ReopenLogs {
                    return;
                }
                if order != Order::Drain
                    && let Some(drain) = &mut self.drain
                {
                    drain.stops = true;
                }
                if before.life.drain().is_none() && order != Order::StopNow {
                    self.drain = Some(DrainSeen {
                        // It accepts nothing.
                        closed: outlived,
                        ..drain(order == Order::Stop)
                    });
                    // All that is there is seen.
                    self.told |= outlived;
                }
            }
            Happening::ScriptEnded
                if running && before.life.drain().is_none() && !before.life.rules.restart =>
            {
                self.drain = Some(drain(true));
                self.script_ended = true;
            }
            Happening::Answer(Ask::Ready, Says::Initializing) => self.take_word(),
            Happening::Answer(Ask::Ready, Says::Live | Says::HealthFailed) => {
                self.live = true;
                (self.spent, self.refused) = (false, false);
                self.take_word();
                if running && before.view().sight == Visibility::Nothing {
                    (self.uptime, self.told) = (None, false);
                }
            }
            Happening::Answer(Ask::StopListeners, _) => {
                if let Some(drain) = &mut self.drain {
                    drain.closed = true;
                }
            }
            Happening::Answer(Ask::Activity, says) => {
                if let Some(drain) = &mut self.drain {
                    match says {
                        Says::Still if drain.idle_since.is_some() => {}
                        Says::Nothing => drain.idle_since = None,
                        _ => drain.idle_since = Some(now),
                    }
                }
            }
            Happening::Answer(ask, says) if ask.tells_open() => {
                // What was in flight when it began was the kernel's word.
                if let Some(drain) = &mut self.drain
                    && (!stale || ask.is_to_envoy())
                {
                    match ask {
                        Ask::Stats => drain.unanswered = says == Says::Nothing,
                        _ => drain.kernel = (says != Says::Nothing).then_some(says),
                    }
                }
                if let (true, Some(Answer::Stats(load))) = (self.old, says.answer()) {
                    let first = *self.uptime.get_or_insert(load.uptime.unwrap());
                    self.told |= load.uptime != Some(first);
                    self.empty = self.told
                        && load
                            .old_open
                            .is_some_and(|old| old.is_all && old.clients == 0);
                    if !self.empty && !before.generations.hurries(now) {
                        self.relieved = self.relieved.map(|_| now);
                    }
                    if let Beside::Old { .. } = before.generations.beside {
                        if says == Says::Ending && self.cut.is_none() {
                            let waits = before.life.service.wait();
                            let waits = waits.is_some_and(|wait| wait.outcome().is_none());
                            self.cut = Some(waits && !self.old_is_empty(now));
                        }
                        let none = load.connections() == 0;
                        self.none_since = none.then(|| self.none_since.unwrap_or(now));
                    }
                }
                if let (Some(drain), Some(Answer::Stats(load))) = (&mut self.drain, says.answer()) {
                    if load.in_flight() > 0 || load.connections() == 0 {
                        drain.idle_since = None;
                    }
                    let logs = says == Says::Logs;
                    drain.entries_since = logs.then(|| drain.entries_since.unwrap_or(now));
                    let sends = load.unsent() > 0;
                    drain.empty = load.connections() <= limits.open_connections
                        && load.udp_sessions == 0
                        && load.sight != load::Sight::Partial;
                    drain.unsent_since = sends.then(|| drain.unsent_since.unwrap_or(now));
                }
            }
            Happening::Spawned => {
                self.live = self.old;
                self.newest = true;
                (self.uptime, self.told) = (None, false);
                self.empty = false;
                (self.terminated, self.killed, self.rest) = (None, None, false);
                (self.spent, self.refused) = (false, false);
            }
            Happening::NextSpawned(true) => self.old = true,
            Happening::OldRelieved(true) => self.relieved = Some(now),
            Happening::OldExited(_) => {
                let lost = !self.old_is_empty(now);
                if let Some(seen) = &mut self.drain {
                    seen.lost |= lost;
                }
                self.lose_old();
            }
            // While one rises it is that one, and the one before is the newest again.
            Happening::Exited(_) if before.generations.is_starting() && self.old => {
                (self.old, self.spent, self.refused) = (false, true, false);
            }
            Happening::Exited(_) => self.newest = false,
            _ => {}
        }
    }
}
