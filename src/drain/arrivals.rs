//! How long Envoy accepts at the least (`--min-drain`): for a time, or until nobody sends new
//! connections any more, as far as can be told.
//!
//! Those who send connections learn late that this Envoy goes away: a load balancer, a proxy, a
//! client with a pool. Their connections would be refused. So Envoy accepts until none has come
//! for as long as ten of them took on average. With Poisson arrivals at five a second and more,
//! that loses a connection in at most 0.4 % of drains for lags of 0.2 to 20 s (simulated). An HTTP
//! connection that ends was told to close, so that its client comes back: its end is awaited as an
//! arrival is. Where nothing happened for ten seconds, nobody is expected.

use std::time::Duration;

use super::Time;
use crate::envoy::load::{Counters, Load};

/// How long Envoy accepts at the least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MinDrain {
    /// Envoy accepts for this time (`--min-drain DUR`).
    For(Duration),
    /// Until nobody sends new connections any more (`--min-drain auto`).
    Auto {
        /// Envoy accepts for this time at the most, from the end of the delay on.
        most: Duration,
        /// New connections are not waited for in this last part of the drain's time: whoever came
        /// last finishes in it.
        reserve: Duration,
    },
}

/// Nobody is believed to have gone who was silent for less.
const LEAST: Duration = Duration::from_secs(1);

/// A client that was told to close comes back within this, or is not expected: with the last poll, an
/// Envoy on which nothing is left is gone within a second of its last request.
const RETURN: Duration = Duration::from_millis(800);

/// The longest silence through which a next new connection is waited for.
const MOST: Duration = Duration::from_secs(5);

/// The time over which new connections are counted for a rate.
const SECOND: Duration = Duration::from_secs(1);

/// New connections are taken to have stopped after a silence in which so many were to be expected.
const EXPECTED: u32 = 10;

/// The shortest time from which a rate is told.
const WINDOW: Duration = Duration::from_millis(500);

/// Watches whether new connections still come.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Arrivals {
    since: Time,
    /// When counting is over, whatever comes.
    end: Time,
    /// What the counters said first.
    first: Option<u64>,
    /// What the counters said last, and how many came before that since they were last asked.
    arrivals: u64,
    came: u64,
    /// How many connections are open that are told to close, and how many were at the look before.
    open: Option<u64>,
    before: Option<u64>,
    /// How many connections are upgraded; and how many that were are still open, for all that is known.
    upgraded: u64,
    ended: u64,
    /// When the count of what comes in a second began, from how many on, and what was counted last.
    window: (Time, u64),
    rate: Option<u64>,
    /// When a connection last came, and when one last went, as far as was seen.
    last: Time,
    left: Time,
    /// Whether nothing ever came, or nothing happened for a while.
    unused: bool,
    /// Whether Envoy does not tell what comes; and whether it did not tell of all once.
    blind: bool,
    untold: bool,
    /// How many came since the kernel was first asked, if it tells.
    seen: Option<u64>,
}

impl Arrivals {
    /// Envoy is told to go at `since`, and nobody is waited for after `end`.
    pub fn new(since: Time, end: Time) -> Arrivals {
        Arrivals {
            since,
            end,
            first: None,
            arrivals: 0,
            came: 0,
            open: None,
            before: None,
            upgraded: 0,
            ended: 0,
            window: (since, 0),
            rate: None,
            last: since,
            left: since,
            unused: false,
            blind: false,
            untold: false,
            seen: None,
        }
    }

    /// Nobody told how many connections came.
    pub fn on_silence(&mut self) {
        self.blind = true;
    }

    /// Takes what a look has shown to be open.
    pub fn on_open(&mut self, now: Time, load: &Load) {
        let open = load.told_to_close();
        match self.open {
            None => self.unused = load.quiet,
            Some(before) if open < before => self.left = now,
            Some(_) => {}
        }
        self.before = self.open.replace(open);
        let ended = self.upgraded.saturating_sub(load.upgraded);
        (self.ended, self.upgraded) = (self.ended.saturating_add(ended), load.upgraded);
        self.untold |= load.hides_arrivals;
        if self.is_blind() && load.came.is_some_and(|came| came > 0) {
            self.last = now;
            self.unused = false;
        }
        let seen = self.seen.unwrap_or_default();
        self.seen = load.came.map(|came| seen.saturating_add(came));
    }

    /// Whether Envoy's counters tell what comes.
    pub fn are_counted(&self) -> bool {
        !self.blind
    }

    /// Whether Envoy does not tell of all that comes, so that the kernel has to.
    fn is_blind(&self) -> bool {
        self.blind || self.untold
    }

    /// Takes what Envoy's counters say.
    pub fn on_counters(&mut self, now: Time, counters: Counters) {
        self.blind = false;
        let came = match self.first {
            // Who came before is not known.
            None => u64::MAX,
            Some(_) => counters.arrivals.saturating_sub(self.arrivals),
        };
        if let (Some(open), Some(before), false) = (&mut self.open, self.before, self.untold) {
            // Envoy takes the request off a WebSocket that ends before it takes off the connection, up
            // to a second: that was never told to close. Who came may be counted after the look that
            // shows them, and before.
            let most = before.saturating_add(came).saturating_add(self.came);
            let few = (*open).min(most).max(open.saturating_sub(self.ended));
            (self.ended, *open) = (*open - few, few);
        }
        self.came = came;
        match self.first {
            None => {
                self.first = Some(counters.arrivals);
                self.last = now;
                self.unused |= counters == Counters::default() && self.open == Some(0);
                self.window = (now, counters.arrivals);
            }
            Some(_) if counters.arrivals == self.arrivals => {}
            Some(_) => {
                self.last = now;
                self.unused = false;
            }
        }
        self.arrivals = counters.arrivals;
        let time = now.saturating_sub(self.window.0);
        if time >= SECOND {
            let came = self.arrivals.saturating_sub(self.window.1);
            let rate = Duration::from_secs(came).div_duration_f64(time);
            self.rate = Some(rate.round() as u64);
            self.window = (now, self.arrivals);
        }
    }

    /// How many came in a second, when that was last counted.
    pub fn rate(&self) -> Option<u64> {
        self.rate
    }

    /// How many came since the counters were first asked.
    pub fn count(&self) -> u64 {
        self.arrivals.saturating_sub(self.first.unwrap_or_default())
    }

    /// When nobody is believed to come any more, unless somebody does before.
    pub fn until(&self) -> Time {
        if self.unused {
            return self.since;
        }
        let (count, least) = match (self.is_blind(), self.seen) {
            (false, _) => (self.count(), self.since),
            (true, Some(seen)) => (self.count().max(seen), self.since),
            // Some may come that nobody tells of.
            (true, None) => (self.count(), self.since + MOST),
        };
        (self.last + self.gap(count))
            .max(self.left + RETURN)
            .max(least)
            .min(self.end)
    }

    /// How long nobody came, where nobody comes any more of whom so many came.
    fn gap(&self, count: u64) -> Duration {
        let time = self.last.saturating_sub(self.since).max(WINDOW);
        match u32::try_from(count).unwrap_or(u32::MAX) {
            0 => LEAST,
            count => (time * EXPECTED / count).clamp(LEAST, MOST),
        }
    }

    /// For the exploration of every state: times are moved by as much as brings `now` to `base`.
    #[cfg(test)]
    pub fn level(&mut self, now: Time, base: Time) {
        let past = |at: Time, kept| (at + base).saturating_sub(now).max(base - kept);
        let level = |count: u64| u64::from(self.gap(count) > LEAST);
        let count = level(self.count());
        self.seen = self.seen.map(level);
        self.arrivals = count;
        self.end = (self.end + base).saturating_sub(now).max(base);
        self.last = past(self.last, MOST);
        self.left = past(self.left, RETURN);
        // Either way the same gap follows.
        self.since = self.last;
        self.first = self.first.map(|_| 0);
        for few in [&mut self.open, &mut self.before].into_iter().flatten() {
            *few = (*few).min(1);
        }
        for few in [&mut self.came, &mut self.upgraded, &mut self.ended] {
            *few = (*few).min(1);
        }
        (self.window, self.rate) = ((base, 0), None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{load, ms};

    fn counters(arrivals: u64) -> Counters {
        Counters {
            activity: arrivals,
            arrivals,
        }
    }

    /// So many connections that are told to close.
    fn open(count: u64, came: Option<u64>) -> Load {
        Load {
            came,
            hides_arrivals: came.is_some(),
            requests: 0,
            ..load(count)
        }
    }

    /// When a drain that begins at 0 and looks every 250 ms is over, of an Envoy whose counters say
    /// this at a time.
    fn over(cap: u64, left: impl Fn(u64) -> u64, arrivals: impl Fn(u64) -> u64) -> u64 {
        let mut watch = Arrivals::new(ms(0), ms(cap));
        let mut now = 0;
        loop {
            watch.on_open(ms(now), &open(left(now), None));
            watch.on_counters(ms(now), counters(arrivals(now)));
            if watch.until() <= ms(now) {
                return now;
            }
            now += 250;
        }
    }

    #[test]
    fn an_envoy_that_nobody_ever_used_waits_for_nobody() {
        assert_eq!(over(5_000, |_| 0, |_| 0), 0);
    }

    #[test]
    fn an_envoy_at_which_nothing_happened_for_a_while_waits_for_nobody_unless_somebody_comes() {
        let mut watch = Arrivals::new(ms(0), ms(5_000));
        let quiet = Load {
            quiet: true,
            ..open(3, None)
        };
        watch.on_open(ms(0), &quiet);
        assert_eq!(watch.until(), ms(0));
        watch.on_counters(ms(0), counters(700));
        assert_eq!(watch.until(), ms(0));
        watch.on_open(ms(250), &open(3, None));
        watch.on_counters(ms(250), counters(701));
        assert_eq!(watch.until(), ms(250 + 5_000).min(ms(5_000)));
    }

    #[test]
    fn what_comes_is_counted_by_the_second() {
        let mut watch = Arrivals::new(ms(0), ms(20_000));
        let mut rates = Vec::new();
        for now in (0..=3_000).step_by(250) {
            watch.on_counters(ms(now), counters(9 + now.min(2_000) * 12 / 1_000));
            rates.push(watch.rate());
        }
        assert_eq!(
            [rates[3], rates[4], rates[8], rates[12]],
            [None, Some(12), Some(12), Some(0)]
        );
    }

    #[test]
    fn an_envoy_that_nobody_uses_any_more_waits_a_second() {
        assert_eq!(over(5_000, |_| 0, |_| 700), 1_000);
    }

    #[test]
    fn arrivals_are_waited_for_until_they_stop_and_two_seconds_longer_at_the_most() {
        for (lag, per_second) in [(200, 20), (1_000, 20), (3_000, 5), (10_000, 20)] {
            let over = over(20_000, |_| 0, |now| 9 + now.min(lag) * per_second / 1_000);
            assert!((lag + 750..=lag + 2_500).contains(&over), "{lag}: {over}");
        }
    }

    #[test]
    fn without_an_orchestrator_it_is_over_though_they_never_stop() {
        assert_eq!(over(5_000, |_| 0, |now| 9 + now / 50), 5_000);
    }

    #[test]
    fn without_envoys_word_the_kernels_count_of_those_who_came_and_went_is_gone_by() {
        // Each connection has ended before the next look.
        let over = |came: &dyn Fn(u64) -> Option<u64>| {
            let mut watch = Arrivals::new(ms(0), ms(20_000));
            let mut now = 0;
            while watch.until() > ms(now) {
                watch.on_open(ms(now), &open(0, came(now)));
                watch.on_silence();
                now += 250;
            }
            now
        };
        assert_eq!(over(&|_| Some(0)), 1_000);
        let three = over(&|now| Some(if now < 3_000 { 5 } else { 0 }));
        assert_eq!(three, 3_750);
        // Nobody tells; or they never stop.
        assert_eq!(over(&|_| None), 5_000);
        assert_eq!(over(&|_| Some(5)), 20_000);
    }

    #[test]
    fn those_whom_the_counters_tell_of_are_waited_for_though_others_are_hidden() {
        let mut watch = Arrivals::new(ms(0), ms(20_000));
        for now in (0..=7_000).step_by(250) {
            let hidden = Load {
                hides_arrivals: now == 0,
                ..open(0, None)
            };
            watch.on_open(ms(now), &hidden);
            watch.on_counters(ms(now), counters(now / 50));
        }
        assert_eq!(watch.until(), ms(8_000));
        watch.on_silence();
        assert_eq!(watch.until(), ms(8_000));
    }

    #[test]
    fn a_client_that_was_told_to_close_is_expected_back() {
        // Each asks within 4 s, is told to close, and comes back at its next request.
        let open = |now: u64| 20_u64.saturating_sub(now / 200);
        let over = over(20_000, open, |_| 700);
        assert!((4_000..=5_250).contains(&over), "{over}");
    }

    /// Envoy takes its request off first: for a moment it looks like a connection that was told to
    /// close.
    #[test]
    fn the_client_of_a_websocket_that_ended_is_not_expected_back() {
        let left = |looks: &[(u64, u64, u64)]| {
            let mut watch = Arrivals::new(ms(0), ms(20_000));
            let mut now = 0;
            for (connections, upgraded, arrivals) in looks.iter().copied() {
                now += 250;
                let load = Load {
                    upgraded,
                    ..open(connections, None)
                };
                watch.on_open(ms(now), &load);
                watch.on_counters(ms(now), counters(arrivals));
            }
            watch.left
        };
        let one = (1, 1, 9);
        let ends = [one, one, one, one, (1, 0, 9), (1, 0, 9), (0, 0, 9)];
        assert_eq!(left(&ends), ms(0));
        let closes = [(1, 0, 9); 5].into_iter().chain([(0, 0, 9)]);
        let closes: Vec<_> = closes.collect();
        assert_eq!(left(&closes), ms(1_500));
        // Who comes during the drain is told to close as well, whenever that is counted.
        for counted in [9, 10] {
            let comes = [
                one,
                one,
                (2, 1, counted),
                (2, 1, 10),
                (2, 1, 10),
                (1, 1, 10),
            ];
            assert_eq!(left(&comes), ms(1_500), "{counted}");
        }
        // And who comes back uncounted, as to a listener that has the admin interface's name.
        let uncounted = [one, one, (2, 1, 9), (1, 1, 9), (2, 1, 9), (1, 1, 9)];
        assert_eq!(left(&uncounted), ms(1_500));
    }
}
