//! Workers that are not placed together: both reach the coordinator, and not each other.

use std::collections::BTreeSet;

use diptych_common::ids::WorkerId;

use super::Seat;

/// Two workers, in the order of names.
pub type Pair = (WorkerId, WorkerId);

/// Pairs of workers that are not placed together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Apart(BTreeSet<Pair>);

impl Apart {
    /// Two workers as their pair.
    pub fn pair(one: &WorkerId, other: &WorkerId) -> Pair {
        (one.min(other).clone(), one.max(other).clone())
    }

    /// The pair that keeps a worker from being placed beside all of these, if one does.
    pub fn conflict(&self, seats: &[Seat], worker: &WorkerId) -> Option<Pair> {
        if self.0.is_empty() {
            return None;
        }
        let mut pairs = seats.iter().map(|seat| Self::pair(&seat.worker, worker));
        pairs.find(|pair| self.0.contains(pair))
    }

    /// Whether a worker may be placed beside all of these.
    pub fn agrees(&self, seats: &[Seat], worker: &WorkerId) -> bool {
        self.conflict(seats, worker).is_none()
    }
}

impl FromIterator<Pair> for Apart {
    fn from_iter<I: IntoIterator<Item = Pair>>(pairs: I) -> Self {
        Self(pairs.into_iter().collect())
    }
}
