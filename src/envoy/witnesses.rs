//! What is open, by two witnesses: Envoy's statistics, and the kernel's table of sockets.
//!
//! Envoy knows requests, sessions and QUIC; what it hides it does not tell. The kernel knows each
//! TCP connection, its silence, and what waits to be accepted. The larger count stands, and what
//! neither tells is never nothing.

use std::time::{Duration, Instant};

use super::fetch::{HasTime, ask_stats, fetch_page, refused};
use super::kernel::{self, Measure, Seen};
use super::lines::Lines;
use super::load::{Load, Sight};
use super::old::OldWitness;
use super::question::{Answer, Processes};
use super::roll_call::{self, Hidden, RollCall};
use super::stats;
use super::titles::Titles;
use super::traffic;
use super::watch::EndWatch;
use crate::client::{Address, GoesOn, Peer, SLICE};
use crate::connections::names::{self, Named};

/// An admin interface that has not answered for so long may hang.
const HANGS: Duration = Duration::from_millis(300);

/// The most listeners that the log names where an excluded word fits none.
const LISTENERS_NAMED: usize = 10;

/// What is hidden while a roll call has had no answer.
const UNHEARD: &str = "envoy has not answered which statistics it has: what they hide is not known";

/// Whose listeners answer a roll call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Subject {
    /// The process whose sockets are looked at.
    pid: Option<i32>,
    /// How many listeners the Envoy has, and how many HTTP connection managers tell of themselves of
    /// which the roll call had no word.
    listeners: Option<u64>,
    strangers: usize,
}

/// Asks both witnesses.
pub struct Witnesses<'a> {
    /// What counts.
    pub measure: Measure<'a>,
    /// What Envoy could tell when it last answered that, until when that is believed, and of which
    /// Envoy.
    roll: Option<(RollCall, Instant, Subject)>,
    known: kernel::KernelMemory,
    old: OldWitness,
    /// Whether the admin interface did not answer the last question with patience.
    hangs: bool,
    /// Tells when one of the last connections ends.
    pub watch: EndWatch,
    /// How many requests of roll calls had no answer.
    pub more_failed: u64,
}

impl<'a> Witnesses<'a> {
    /// Nobody was asked yet.
    pub fn new(measure: Measure<'a>) -> Witnesses<'a> {
        Witnesses {
            measure,
            roll: None,
            known: kernel::KernelMemory::default(),
            old: OldWitness::default(),
            hangs: false,
            watch: EndWatch::default(),
            more_failed: 0,
        }
    }

    /// What the kernel says alone, of the Envoy with this pid. For `winds_down` see
    /// [`Seen::is_closed`].
    ///
    /// # Errors
    /// One line, when not all can be seen.
    pub fn look(
        &mut self,
        processes: Processes,
        admin: Option<&Address>,
        winds_down: bool,
    ) -> Result<Answer, String> {
        if let Processes::Retired(old) = processes {
            return self.look_at_retired(old);
        }
        self.watch.begin();
        let old = self.see_old(processes, admin).transpose()?;
        let mut seen = self.see(processes.serving(), admin)?;
        if let Some(old) = &old {
            seen.add_doors(old);
        }
        let quiet = self.watch.is_quiet(seen.quiet.as_deref());
        self.watch.count();
        let came = self.watch.came(seen.sockets);
        self.watch
            .aim(&seen.doors, (&seen.all_doors, seen.sockets), false);
        let has_old = old.as_ref().is_some_and(|old| old.has_any);
        if seen.is_closed(winds_down) && !has_old {
            return Ok(Answer::Closed);
        }
        let load = Load {
            came,
            quiet,
            ..seen.alone()
        };
        Ok(Answer::Stats(match old {
            Some(old) => self.with_old(load, None, Some(old)),
            None => load,
        }))
    }

    /// Looks at an old generation that the one which took over from it had told to drain. It
    /// accepts nothing, and reads no UDP; its other connections at a listener's port are clients'.
    fn look_at_retired(&mut self, pid: i32) -> Result<Answer, String> {
        let mut load = self.see(Some(pid), None)?.alone();
        load.udp_sessions = 0;
        Ok(Answer::Stats(load))
    }

    fn see(&mut self, pid: Option<i32>, admin: Option<&Address>) -> Result<Seen, String> {
        let pid = pid.ok_or("there is no envoy to look at")?;
        let roll = self.roll.as_ref().map(|(roll, ..)| roll);
        let known = match self.old.is_of(pid) {
            true => self.old.memory(),
            false => &mut self.known,
        };
        kernel::look(pid, admin, self.measure, roll, known)
    }

    /// The old generation, if there is one beside the newest.
    fn see_old(
        &mut self,
        processes: Processes,
        admin: Option<&Address>,
    ) -> Option<Result<Seen, String>> {
        let Processes::Both { old, .. } = processes else {
            return None;
        };
        let roll = self.roll.as_ref().map(|(roll, ..)| roll);
        let looked = self
            .old
            .look(old, &mut self.known, admin, self.measure, roll);
        Some(looked)
    }

    /// The newest Envoy's `load` with that of an old generation, which was `seen` after the newest had
    /// `told`.
    fn with_old(&mut self, load: Load, told: Option<&Load>, seen: Option<Seen>) -> Load {
        let open = |seen: Seen| {
            let open = self.old.open(told, &seen);
            (seen, open)
        };
        load.with_old(seen.map(open))
    }

    /// What both witnesses say, for as long as the question `has_time`. For `watched` see
    /// [`Witnesses::patiently`].
    ///
    /// # Errors
    /// One line that says why there is no answer of Envoy's, or none that can be believed.
    pub fn ask(
        &mut self,
        address: &Address,
        peer: Peer,
        processes: Processes,
        watched: Option<i32>,
        has_time: HasTime<'_>,
    ) -> Result<Answer, String> {
        self.watch.begin();
        let pid = processes.serving();
        let mut page = stats::GaugeReader::default();
        let sink = |piece: &[u8]| page.feed(piece);
        let head = self.patiently(watched, address, has_time, |goes_on| {
            ask_stats(peer, address, stats::QUERY, goes_on, sink)
        })?;
        let figures = page.finish();
        let excluded = self.measure.excluded;
        let told = match head.status {
            200 if head.is_envoy => {
                let roll = self.roll_call((peer, address), pid, &figures, has_time);
                figures.load(roll, excluded)
            }
            200 if figures.is_proven() => figures.load(&RollCall::of_a_stand_in(), excluded),
            200 => return Err("the answer lacks server.live: it is cut, or no statistics".into()),
            400..=499 if head.is_envoy => stats::ToldLoad::nothing(),
            status => return Err(refused(status, "to /stats")),
        };
        let old = self.see_old(processes, Some(address));
        let mut seen = self.see(pid, Some(address));
        if let (Ok(seen), Some(Ok(old))) = (&mut seen, &old) {
            seen.add_doors(old);
        }
        let mut told = told;
        let mut hidden = told.hidden.iter();
        // One name has the sum of what came to two listeners.
        let hides = |hidden: &Hidden| hidden.is_told_by_kernel() && *hidden != Hidden::Shared;
        told.load.hides_arrivals = hidden.any(hides);
        match &seen {
            Ok(seen) => {
                told.load.quiet = self.watch.is_quiet(seen.quiet.as_deref())
                    && told.load.old_connections == 0
                    && told.load.udp_sessions == 0;
                let excluded = seen.miscounted(told.excluded);
                let told_of = told.load.on_listeners().saturating_add(excluded);
                let open = seen.load.connections();
                told.load.hides_arrivals |= open > told_of;
                if told.load.hides_arrivals {
                    self.watch.count();
                }
                told.load.came = self.watch.came(seen.sockets);
                self.watch
                    .aim(&seen.doors, (&seen.all_doors, seen.sockets), told_of > open);
            }
            Err(why) => log::debug!("{why}"),
        }
        let word = Load {
            uptime: told.load.uptime,
            old_connections: told.load.old_connections,
            ..Load::default()
        };
        let load = self.weigh(told, seen.ok(), figures.shows_itself());
        Ok(Answer::Stats(match old {
            Some(old) => self.with_old(load, Some(&word), old.ok()),
            None => load,
        }))
    }

    /// Puts a question to Envoy's admin interface. Where that does not answer, the kernel is looked
    /// at beside it: no answer is waited for while the process that is `watched` has nothing open.
    /// Once that was so, less patience is had with the next question. Where none is watched, the answer
    /// is waited for as long as the question `has_time`.
    ///
    /// # Errors
    /// As the question's.
    pub fn patiently<T>(
        &mut self,
        watched: Option<i32>,
        address: &Address,
        has_time: HasTime<'_>,
        question: impl FnOnce(GoesOn<'_>) -> Result<T, String>,
    ) -> Result<T, String> {
        let mut look = if self.hangs { SLICE } else { HANGS };
        let mut gave_up = false;
        let mut goes_on = |waited: Duration| {
            if watched.is_none() {
                return has_time(waited);
            }
            if waited >= look {
                look = waited + HANGS / 2;
                let seen = self.see(watched, Some(address));
                gave_up = seen.is_ok_and(|seen| seen.all_connections() == Some(0));
            }
            !gave_up
        };
        let answer = question(Some(&mut goes_on));
        self.hangs = gave_up || self.hangs && answer.is_err();
        answer
    }

    /// Has the kernel remember whether a connection of the Envoy with this pid ends, from now on.
    pub fn rest(&mut self, pid: Option<i32>, admin: &Address) {
        let Some(pid) = pid.filter(|pid| self.watch.is_idle(*pid)) else {
            return;
        };
        match self.known.doors(pid, Some(admin), self.measure.excluded) {
            Ok(doors) => self.watch.rest(pid, doors),
            Err(why) => log::debug!("envoy's listeners are not known: {why}"),
        }
    }

    /// What Envoy's counters say.
    ///
    /// # Errors
    /// One line that says why there is no answer, or none that can be believed.
    pub fn ask_counters(
        &mut self,
        address: &Address,
        peer: Peer,
        watched: Option<i32>,
    ) -> Result<Answer, String> {
        let mut lines = Lines::default();
        let excluded = self.measure.excluded;
        let roll = self.roll.take();
        let unknown = Titles::default();
        let titles = roll
            .as_ref()
            .map_or(&unknown, |(roll, ..)| &roll.listed.titles);
        // Where a listener tells nothing, requests are known by their connection manager alone.
        let tells = |(roll, ..): &(RollCall, Instant, Subject)| roll.tells_by_listener();
        let by_listener = !excluded.is_empty() && roll.as_ref().is_some_and(tells);
        let mut activity = stats::ActivityReader::new(by_listener);
        let sink = |piece: &[u8]| {
            lines.feed(piece, |name, value| {
                activity.add(name, value, excluded, titles);
            });
        };
        let head = self.patiently(watched, address, &|_| true, |goes_on| {
            ask_stats(peer, address, stats::ACTIVITY, goes_on, sink)
        });
        lines.end(|name, value| activity.add(name, value, excluded, titles));
        self.roll = roll;
        let counters = head.and_then(|head| match head.status {
            200 => activity.finish(),
            status => Err(refused(status, "to /stats")),
        });
        if counters.is_err() {
            self.watch.count();
        }
        counters.map(Answer::Activity)
    }

    /// How well Envoy serves.
    ///
    /// # Errors
    /// One line that says why there is no answer.
    pub fn ask_traffic(
        &self,
        address: &Address,
        peer: Peer,
        has_time: HasTime<'_>,
    ) -> Result<Answer, String> {
        let mut reader = traffic::TrafficReader::default();
        let mut goes_on = |waited| has_time(waited);
        let sink = |piece: &[u8]| reader.feed(piece);
        let head = ask_stats(peer, address, traffic::QUERY, Some(&mut goes_on), sink)?;
        if head.status != 200 {
            return Err(refused(head.status, "to /stats"));
        }
        let (status, listed) = fetch_page(peer, address, names::QUERY, has_time)?;
        if status != 200 {
            return Err(refused(status, &listed));
        }
        let listed = names::parse(&listed)?;
        let traffic = reader.finish(listed, self.measure.excluded);
        Ok(Answer::Traffic(Box::new(traffic)))
    }

    /// What follows from what Envoy `told` and from what was `seen` beside it.
    fn weigh(&self, told: stats::ToldLoad, seen: Option<Seen>, shows_itself: bool) -> Load {
        let stats::ToldLoad {
            mut load,
            http,
            quic,
            excluded,
            mut hidden,
        } = told;
        let may_hide = hidden.iter().any(|hidden| hidden.is_told_by_kernel());
        let hides = |hidden: &Hidden| hidden.is_told_by_kernel() && hidden.is_certain();
        let hides = hidden.iter().any(hides);
        let untold = |hidden: &Hidden| hidden.is_told_by_kernel() && *hidden != Hidden::Shared;
        let untold = hidden.iter().any(untold);
        // Where something is surely hidden, rather too many are taken to be in flight.
        let (surely, perhaps) = quic;
        let quic = if hides { perhaps } else { surely };
        let told = load.tcp_sessions;
        // Of excluded connections the kernel leaves these out as well. They are taken for HTTP, though
        // Envoy need not say so: rather too many are in flight.
        let out = seen.as_ref().map_or(0, |seen| seen.load.excluded());
        let http = http.saturating_sub(out);
        match seen {
            Some(seen) if may_hide => {
                let roll = self
                    .roll
                    .as_ref()
                    .filter(|_| !hidden.contains(&Hidden::Statistics));
                let roll = roll.map(|(roll, ..)| roll);
                // Where nothing is surely hidden, Envoy's list of its listeners is believed.
                let hides_udp = seen.has_hidden_udp(roll, !hides);
                if hides_udp {
                    let unsure =
                        |one: &&mut Hidden| matches!(one, Hidden::Shared | Hidden::Draining);
                    hidden
                        .iter_mut()
                        .filter(unsure)
                        .for_each(|one| *one = Hidden::Listeners);
                }
                load.sight = match seen.load.sight {
                    _ if hides_udp => Sight::Partial,
                    Sight::Partial => Sight::Partial,
                    _ if hides => Sight::Kernel,
                    _ => Sight::Whole,
                };
                if load.sight == Sight::Whole {
                    hidden.retain(|hidden| hidden.is_certain());
                }
                let excluded = if hides { 0 } else { seen.miscounted(excluded) };
                load = load.beside(seen.alone(), http, quic, excluded);
            }
            Some(seen) if seen.knows_excluded => load = load.beside(seen.load, http, quic, 0),
            // Those of excluded listeners may be among them.
            Some(seen) => load.unsent = seen.load.unsent,
            None => {
                hidden.retain(|hidden| *hidden != Hidden::Count || !shows_itself);
                if hidden.iter().any(|hidden| hidden.is_told_by_kernel()) {
                    load.sight = Sight::Partial;
                }
            }
        }
        if hidden.contains(&Hidden::UdpSessions) {
            load.sight = Sight::Partial;
        }
        let hides_requests = self
            .roll
            .as_ref()
            .is_some_and(|(roll, ..)| roll.hides_requests);
        if hides_requests && load.tcp_sessions > 0 && !hidden.contains(&Hidden::Requests) {
            hidden.push(Hidden::Requests);
        }
        // Of what a connection carries that the kernel alone shows, nobody tells.
        load.requests_untold = untold && load.tcp_sessions > told
            || hidden.contains(&Hidden::Requests)
            || hidden.contains(&Hidden::Statistics);
        let mut all = String::new();
        for hidden in hidden {
            let sentence = hidden.sentence();
            if all.contains(sentence) {
                continue;
            }
            if !all.is_empty() {
                all += "; ";
            }
            all += sentence;
            if load.sight == Sight::Partial && hidden != Hidden::Requests {
                all += "; the kernel does not tell it either, so that a drain lasts until its \
                        deadline";
            }
        }
        let is_heard = |(roll, ..): &(RollCall, Instant, Subject)| roll.is_heard();
        if !all.is_empty() && !self.roll.as_ref().is_none_or(is_heard) {
            // No matcher is to blame for that.
            all = UNHEARD.into();
        }
        load.hidden = Some(all).filter(|all| !all.is_empty());
        load
    }

    /// Warns of what `--exclude-listener` names and the Envoy at this address does not have.
    /// May be given up for want of time.
    pub fn check_excluded(&mut self, address: &Address, peer: Peer, has_time: HasTime<'_>) {
        let roll = match roll_call::call(peer, address, &mut self.more_failed, has_time) {
            // An Envoy without a listener may get one from its control plane.
            Ok(roll) if !roll.listed.titles.all().is_empty() => roll,
            Ok(_) => return,
            Err(why) => return log::debug!("envoy's listeners are not known: {why}"),
        };
        let mut known: Vec<String> = roll.listed.titles.all().iter().map(Named::title).collect();
        known.sort_unstable();
        let more = known.len().saturating_sub(LISTENERS_NAMED);
        known.truncate(LISTENERS_NAMED);
        if more > 0 {
            known.push(format!("{more} more"));
        }
        for word in roll.listed.titles.unknown(self.measure.excluded) {
            log::warn!(
                "--exclude-listener {word}: envoy has no listener of this name, stat prefix, \
                 address:port or :port; it has {}",
                known.join(", ")
            );
        }
    }

    /// What this Envoy could tell of its load. Where it does not answer, what it answered before
    /// stands; of half an answer, the other half.
    fn roll_call(
        &mut self,
        (peer, address): (Peer, &Address),
        pid: Option<i32>,
        page: &stats::Figures,
        has_time: HasTime<'_>,
    ) -> &RollCall {
        let of = |roll: &RollCall| Subject {
            pid,
            listeners: page.listeners(),
            strangers: page.strangers(roll),
        };
        let now = Instant::now();
        let before = self
            .roll
            .take_if(|(roll, until, before)| *before != of(roll) || now >= *until);
        let (roll, ..) = self.roll.get_or_insert_with(|| {
            let before = before.filter(|(_, _, before)| before.pid == pid);
            let before = before.map_or_else(RollCall::default, |(roll, ..)| roll);
            let failed = &mut self.more_failed;
            let (roll, lasts) = roll_call::call_again(peer, address, before, failed, has_time);
            let of = of(&roll);
            (roll, Instant::now() + lasts, of)
        });
        roll
    }
}

#[cfg(test)]
#[path = "witnesses_tests.rs"]
mod tests;
