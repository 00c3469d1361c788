//! How long to wait before the next try.

use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(2);

/// Pauses that double up to a bound, until patience runs out.
#[derive(Debug)]
pub(crate) struct Backoff {
    patience: Duration,
    pause: Duration,
    since: Option<Instant>,
}

impl Backoff {
    /// Gives up `patience` after the first failure.
    pub(crate) fn new(patience: Duration) -> Self {
        Self {
            patience,
            pause: FIRST,
            since: None,
        }
    }

    /// After a success: the next failure is a first one again.
    pub(crate) fn reset(&mut self) {
        self.pause = FIRST;
        self.since = None;
    }

    /// The pause after a failure now, or nothing once patience has run out.
    pub(crate) fn next(&mut self) -> Option<Duration> {
        self.next_at(Instant::now())
    }

    fn next_at(&mut self, now: Instant) -> Option<Duration> {
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= self.patience {
            return None;
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST);
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_end() {
        let mut backoff = Backoff::new(Duration::from_secs(10));
        let start = Instant::now();
        let pauses: Vec<_> = (0..6)
            .map(|_| backoff.next_at(start).unwrap().as_millis())
            .collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 2000]);
        assert_eq!(backoff.next_at(start + Duration::from_secs(10)), None);
        backoff.reset();
        assert_eq!(
            backoff.next_at(start + Duration::from_secs(10)),
            Some(FIRST)
        );
    }
}
