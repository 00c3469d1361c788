//! How fast a gang goes: what its progress is measured by, and what a phase has learned of its steps.

use std::collections::VecDeque;

use diptych_common::ids::{Rank, Step};

use super::time::Mono;

/// What a gang's progress is measured by.
#[derive(Debug, Clone, PartialEq)]
pub struct Pulse {
    /// When a rank last took a step, turned to other work or wrote a part.
    pub at: Mono,
    /// The furthest step that each rank has reported in this attempt, in rank order.
    pub steps: Vec<Option<Step>>,
    /// What each rank does, in rank order.
    pub doing: Vec<Activity>,
    /// How each rank steps, in rank order.
    pub strides: Vec<Stride>,
}

/// How one rank steps.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Stride {
    /// Seconds of a step, lately; 0 before the first report.
    pub step_s: f64,
    /// Of those, not spent waiting for peers.
    pub busy_s: f64,
    /// Reports in a row in which it was a straggler.
    pub slow: u32,
    /// Whether people were told.
    pub told: bool,
}

/// What a rank does, by how long it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// Steps.
    Training,
    /// An evaluation.
    Evaluating,
    /// Its last save; training is over.
    Saving,
}

/// Step times of a phase over its attempts with one number of ranks: with another, steps take another time. The first
/// report of an attempt holds the warm-up, and counts only while there is no other.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Pace {
    world: usize,
    first: Option<f64>,
    seconds: VecDeque<f64>,
}

/// Reports that a pace remembers.
const REMEMBERED: usize = 31;
/// A rank is a straggler when its own work takes so many times that of the gang's median rank.
pub const STRAGGLER: f64 = 1.5;
/// Reports in a row, a second apart, after which people are told of a straggler.
const SLOW_REPORTS: u32 = 3;

// === impl Pulse ===

impl Pulse {
    /// A gang of `world` that has not moved yet.
    pub fn new(world: usize, now: Mono) -> Self {
        Self {
            at: now,
            steps: vec![None; world],
            doing: vec![Activity::Training; world],
            strides: vec![Stride::default(); world],
        }
    }

    /// A rank reports a step. Only a later one is progress. True where it is the rank's first report.
    pub fn stepped(&mut self, rank: Rank, step: Step, now: Mono) -> bool {
        let Some(last) = self.steps.get_mut(rank.get() as usize) else {
            return false;
        };
        let first = last.is_none();
        if last.is_none_or(|last| step > last) {
            *last = Some(step);
            self.at = now;
        }
        first
    }

    /// A rank turns to other work. That it still does the same is no progress.
    pub fn turned(&mut self, rank: Rank, activity: Activity, now: Mono) {
        if let Some(doing) = self.doing.get_mut(rank.get() as usize)
            && *doing != activity
        {
            *doing = activity;
            self.at = now;
        }
    }

    /// A rank's step time, and how much of it was its own. True where it has been a straggler for several reports in
    /// a row and nobody was told yet.
    pub fn strode(&mut self, rank: Rank, step_s: f64, waited_s: f64) -> bool {
        let index = rank.get() as usize;
        let Some(stride) = self.strides.get_mut(index) else {
            return false;
        };
        stride.step_s = step_s;
        stride.busy_s = (step_s - waited_s).clamp(0.0, step_s.max(0.0));
        let slow = self.slowness(rank).is_some_and(|ratio| ratio > STRAGGLER);
        let stride = &mut self.strides[index];
        stride.slow = if slow {
            stride.slow.saturating_add(1)
        } else {
            0
        };
        let tell = stride.slow >= SLOW_REPORTS && !stride.told;
        stride.told |= tell;
        tell
    }

    /// A rank's own work over that of the gang's median rank; `None` while it is not known, or there is no other.
    pub fn slowness(&self, rank: Rank) -> Option<f64> {
        let own = self.strides.get(rank.get() as usize)?.busy_s;
        let mut all: Vec<f64> = self.strides.iter().map(|stride| stride.busy_s).collect();
        if all.len() < 2 || all.iter().any(|busy| *busy <= 0.0) {
            return None;
        }
        all.sort_by(f64::total_cmp);
        // The lower median: of two ranks, the faster one is the measure.
        all.get((all.len() - 1) / 2).map(|median| own / median)
    }
}

// === impl Pace ===

impl Pace {
    /// Remembers a step time of a gang of `world`; `first` says that it is a rank's first report of an attempt.
    pub fn learn(&mut self, world: usize, step_s: f64, first: bool) {
        if !step_s.is_finite() || step_s <= 0.0 {
            return;
        }
        if self.world != world {
            *self = Self {
                world,
                ..Self::default()
            };
        }
        if first {
            self.first = Some(step_s);
            return;
        }
        if self.seconds.len() == REMEMBERED {
            self.seconds.pop_front();
        }
        self.seconds.push_back(step_s);
    }

    /// The median step time of a gang of `world`, in seconds; `None` before the first.
    pub fn step_s(&self, world: usize) -> Option<f64> {
        let mut seconds: Vec<f64> = self.seconds.iter().copied().collect();
        seconds.sort_by(f64::total_cmp);
        seconds
            .get(seconds.len() / 2)
            .copied()
            .or(self.first)
            .filter(|_| self.world == world)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_not_moved_by_single_stalls() {
        let mut pace = Pace::default();
        assert_eq!(pace.step_s(2), None);
        pace.learn(2, 7.0, true);
        assert_eq!(pace.step_s(2), Some(7.0), "better than nothing");
        for step_s in [0.1, 0.1, 30.0, 0.1, f64::NAN, 0.0] {
            pace.learn(2, step_s, false);
        }
        assert_eq!(pace.step_s(2), Some(0.1));
        assert_eq!(pace.step_s(1), None, "another gang has another pace");
        for _ in 0..REMEMBERED {
            pace.learn(2, 2.0, false);
        }
        assert_eq!(pace.step_s(2), Some(2.0));
        pace.learn(1, 4.0, false);
        assert_eq!(pace.step_s(1), Some(4.0));
    }

    #[test]
    fn the_straggler_is_the_rank_that_does_not_wait() {
        let mut pulse = Pulse::new(3, Mono::default());
        let (fast, slow) = (Rank::new(0), Rank::new(2));
        let mut told = 0;
        for _ in 0..5 {
            assert!(!pulse.strode(fast, 1.0, 0.7));
            assert!(!pulse.strode(Rank::new(1), 1.0, 0.6));
            told += u32::from(pulse.strode(slow, 1.0, 0.0));
        }
        assert_eq!(told, 1, "people are told once");
        assert!(pulse.slowness(slow).is_some_and(|ratio| ratio > 2.4));
        assert!(pulse.slowness(fast).is_some_and(|ratio| ratio < 1.0));
    }
}
