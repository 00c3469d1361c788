//! What is remembered of a worker whether or not it is there: who keeps ranks off it, and what it was blamed for.

use std::time::Duration;

use diptych_common::ids::WorkerId;
use serde::{Deserialize, Serialize};

use super::time::UnixMs;

/// The durable part of a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerRecord {
    /// Whose.
    pub id: WorkerId,
    /// Why no new ranks are placed on it, if so.
    pub cordoned: Option<String>,
    /// Whether what it runs is to be moved elsewhere.
    #[serde(default)]
    pub drains: bool,
    /// Failures of late that were its own, oldest first.
    pub blame: Vec<Blame>,
}

/// One failure that was a worker's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blame {
    /// When.
    pub at: UnixMs,
    /// What happened, for people.
    pub what: String,
}

/// How long a failure is held against a worker.
const WINDOW: Duration = Duration::from_secs(3600);

impl WorkerRecord {
    /// A worker that nobody has anything against.
    pub fn new(id: WorkerId) -> Self {
        Self {
            id,
            cordoned: None,
            drains: false,
            blame: Vec::new(),
        }
    }

    /// Holds a failure against it. With `limit` of them within an hour it is cordoned: true where that is new.
    pub fn blame(&mut self, what: String, limit: u32, now: UnixMs) -> bool {
        self.blame.retain(|blame| now.since(blame.at) < WINDOW);
        self.blame.push(Blame { at: now, what });
        let suspect = limit > 0 && self.blame.len() >= limit as usize;
        if !suspect || self.cordoned.is_some() {
            return false;
        }
        let last = self.blame.last().map(|blame| blame.what.clone());
        self.cordoned = Some(format!(
            "suspect: {} failures within an hour were its own, the last: {}",
            self.blame.len(),
            last.unwrap_or_default()
        ));
        true
    }

    /// Whether there is nothing to remember.
    pub fn is_clean(&self) -> bool {
        self.cordoned.is_none() && self.blame.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_suspect_after_so_many_failures_of_its_own_within_an_hour() {
        let mut record = WorkerRecord::new("w".parse().unwrap());
        let hour = 3_600_000;
        assert!(!record.blame("a".into(), 3, UnixMs::new(0)));
        assert!(!record.blame("b".into(), 3, UnixMs::new(hour - 1)));
        assert!(
            !record.blame("c".into(), 3, UnixMs::new(hour + 1)),
            "the first is forgotten"
        );
        assert!(record.blame("d".into(), 3, UnixMs::new(hour + 2)));
        assert!(!record.blame("e".into(), 3, UnixMs::new(hour + 3)), "once");
        let mut never = WorkerRecord::new("w".parse().unwrap());
        for at in 0..100 {
            assert!(!never.blame("x".into(), 0, UnixMs::new(at)));
        }
    }
}
