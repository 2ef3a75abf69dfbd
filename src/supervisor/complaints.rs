//! What the log has told of late of an admin interface that fails.

use std::time::{Duration, Instant};

use crate::envoy::question::Failure;

/// At the most this often the log has the same complaint about Envoy's admin interface.
const COMPLAINT: Duration = Duration::from_secs(5);

/// The most different complaints that the log has within [`COMPLAINT`].
const COMPLAINTS_MAX: usize = 8;

/// The last complaints: what was told, and when; of a refusal, when it came last.
#[derive(Debug, Default)]
pub struct Complaints(Vec<(Failure, Instant)>);

impl Complaints {
    /// Whether the log is to have this. A drain has several questions, and each may fail in its own
    /// way again and again. A refusal that goes on is told once.
    pub fn is_news(&mut self, now: Instant, what: &Failure) -> bool {
        self.0
            .retain(|(_, at)| now.saturating_duration_since(*at) < COMPLAINT);
        if let Some((before, at)) = self.0.iter_mut().find(|(before, _)| before == what) {
            if before.is_refusal {
                *at = now;
            }
            return false;
        }
        let is_news = self.0.len() < COMPLAINTS_MAX;
        if is_news {
            self.0.push((what.clone(), now));
        }
        is_news
    }

    /// Envoy has answered: whether the log has told of a silence that this ends.
    pub fn end_silence(&mut self) -> bool {
        let before = self.0.len();
        self.0.retain(|(what, _)| what.is_refusal);
        self.0.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(why: &str, is_refusal: bool) -> Failure {
        Failure {
            why: why.into(),
            is_refusal,
        }
    }

    #[test]
    fn a_refusal_is_told_once_and_is_no_silence_that_ends() {
        let (mut complaints, start) = (Complaints::default(), Instant::now());
        let refusal = failure("403", true);
        let mut told = 0;
        for second in 0..100 {
            let now = start + Duration::from_secs(second);
            told += u8::from(complaints.is_news(now, &refusal));
            assert!(!complaints.end_silence());
        }
        assert_eq!(told, 1);
        assert!(complaints.is_news(start + Duration::from_secs(200), &refusal));
    }

    #[test]
    fn a_silence_is_told_again_while_it_lasts_and_so_is_its_end() {
        let (mut complaints, start) = (Complaints::default(), Instant::now());
        let silence = failure("no answer in time", false);
        let told = (0..10).filter(|second| {
            let now = start + Duration::from_secs(*second);
            complaints.is_news(now, &silence)
        });
        assert_eq!(told.count(), 2);
        assert!(complaints.end_silence());
        assert!(!complaints.end_silence());
        assert!(complaints.is_news(start, &silence));
        let others =
            (0..20).filter(|it| complaints.is_news(start, &failure(&it.to_string(), false)));
        assert_eq!(others.count(), COMPLAINTS_MAX - 1);
    }
}
