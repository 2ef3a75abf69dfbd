//! What Envoy answered last. Sets that change together share an answer: each one tells of all secrets,
//! and costs Envoy's main thread the more the more listeners there are.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::confirm::{self, Observation};
use super::serial::Serial;

/// How old an answer may be that a set shares.
const FRESH: Duration = Duration::from_millis(50);

/// Asks Envoy's admin interface.
pub struct Answers<A> {
    admin: A,
    /// The question for what is needed of all secrets' statistics.
    query: String,
    last: Option<LastAnswer>,
}

struct LastAnswer {
    asked: Instant,
    answered: Instant,
    stats: Result<String, String>,
    serials: Result<HashSet<Serial>, String>,
    starting: bool,
}

impl<A: Fn(&str) -> Result<String, String>> Answers<A> {
    /// Nothing was asked so far; `names` are all secrets'.
    pub fn new(admin: A, names: &[String]) -> Answers<A> {
        Answers {
            admin,
            query: confirm::stats_query(names),
            last: None,
        }
    }

    /// Forgets the last answer, because another Envoy may answer from here on.
    pub fn forget(&mut self) {
        self.last = None;
    }

    /// What Envoy says of these secrets at `now`; and when it was asked, not before `since`.
    pub fn of(
        &mut self,
        names: &[String],
        since: Instant,
        now: Instant,
    ) -> (Instant, Result<Observation, String>) {
        let shared = self.last.take().filter(|last| {
            last.asked >= since && now.saturating_duration_since(last.answered) < FRESH
        });
        let answer = shared.unwrap_or_else(|| {
            let stats = (self.admin)(&self.query);
            let serials = match &stats {
                Ok(_) => (self.admin)("/certs").and_then(|page| confirm::parse_certs(&page)),
                Err(why) => Err(why.clone()),
            };
            // Last: what Envoy came to since it was asked about the secrets shows in the next answer.
            let starting = stats.is_ok() && confirm::is_starting(&(self.admin)("/ready"));
            LastAnswer {
                asked: now,
                answered: Instant::now(),
                stats,
                serials,
                starting,
            }
        });
        let observed = answer.stats.as_ref().map(|stats| Observation {
            starting: answer.starting,
            secrets: confirm::parse_stats(stats, names),
            hidden: !stats.contains("sds."),
            serials: answer.serials.clone(),
        });
        let observed = observed.map_err(Clone::clone);
        let asked = answer.asked;
        self.last = Some(answer);
        (asked, observed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn sets_that_change_together_share_an_answer_and_none_gets_one_from_before_its_change() {
        let asked = RefCell::new(Vec::new());
        let admin = |path: &str| {
            asked.borrow_mut().push(path.to_owned());
            match path {
                "/certs" => Ok("{\"certificates\": []}".to_owned()),
                "/ready" => Ok("LIVE".to_owned()),
                _ => Ok("sds.b.version_text: \"gen-2\"".to_owned()),
            }
        };
        let names = ["a", "b"].map(|name| vec![name.to_owned()]);
        let mut answers = Answers::new(admin, &names.concat());
        let start = Instant::now();
        let later = start + Duration::from_millis(1);
        let mut seen = |name: usize, since, now| {
            let (at, answer) = answers.of(&names[name], since, now);
            (answer.unwrap().secrets[0].known, at)
        };
        assert_eq!(seen(0, start, start), (false, start));
        // However much later it is, the answer is as old as the question.
        assert_eq!(seen(1, start, later), (true, start));
        assert_eq!(asked.borrow().len(), 3, "{asked:?}");
        // What a set published since shows in no answer from before.
        assert_eq!(seen(1, later, later), (true, later));
        assert_eq!(seen(0, start, later), (false, later));
        assert_eq!(asked.borrow().len(), 6, "{asked:?}");
        assert!(seen(1, start, later + FRESH * 100).0);
        assert_eq!(asked.borrow().len(), 9, "{asked:?}");
    }
}
