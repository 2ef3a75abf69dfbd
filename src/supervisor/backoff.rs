//! Pauses between restarts: exponential, with jitter.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(200);
const LAST: Duration = Duration::from_secs(30);

/// An Envoy that was live for this long starts the pauses anew.
const HEALTHY: Duration = Duration::from_secs(60);

/// The pauses, and where in them we are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Backoff {
    attempt: u32,
    random: u64,
}

impl Backoff {
    /// No restart yet. `seed` makes the jitter differ from node to node.
    pub fn new(seed: u64) -> Backoff {
        // The generator stays at zero for ever if it starts there.
        Backoff {
            attempt: 0,
            random: seed | 1,
        }
    }

    /// Whether there was a restart that has not proved healthy yet.
    pub fn is_under_way(&self) -> bool {
        self.attempt > 0
    }

    /// The next pause: 200 ms doubling to 30 s, each between three quarters and five quarters
    /// of that.
    pub fn next(&mut self) -> Duration {
        let whole = (FIRST * 2u32.saturating_pow(self.attempt.min(16))).min(LAST);
        self.attempt = self.attempt.saturating_add(1);
        // xorshift64
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let percent = 75 + u32::try_from(self.random % 51).unwrap_or(0);
        (whole * percent / 100).min(LAST)
    }

    /// Envoy had been live for this long before it ended.
    pub fn was_healthy_for(&mut self, time: Duration) {
        if time >= HEALTHY {
            self.attempt = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_from_200_ms_to_30_s_with_jitter() {
        let mut backoff = Backoff::new(42);
        let mut whole = FIRST;
        for _ in 0..20 {
            let pause = backoff.next();
            assert!(
                pause >= whole * 3 / 4 && pause <= (whole * 5 / 4).min(LAST),
                "{pause:?}"
            );
            whole = (whole * 2).min(LAST);
        }
        assert_ne!(Backoff::new(1).next(), Backoff::new(0xdead_beef).next());
    }

    #[test]
    fn a_minute_of_health_starts_them_anew() {
        let mut backoff = Backoff::new(7);
        for _ in 0..10 {
            backoff.next();
        }
        backoff.was_healthy_for(HEALTHY - Duration::from_millis(1));
        assert!(backoff.next() > Duration::from_secs(20));
        backoff.was_healthy_for(HEALTHY);
        assert!(backoff.next() <= FIRST * 5 / 4);
    }
}
