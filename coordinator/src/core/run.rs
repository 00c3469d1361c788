//! The ranks of a live attempt. Nothing here is durable: ranks report again.

use std::collections::{BTreeMap, BTreeSet};

use diptych_common::ids::{Rank, Step};

use super::checkpoint::StoredObject;
use super::failure::Failure;
use super::time::Mono;

/// The ranks of a live attempt. Not durable: ranks report again.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// How far the gang is.
    pub stage: Stage,
    /// In rank order.
    pub ranks: Vec<RankState>,
    /// Saves on their way, by step.
    pub saves: BTreeMap<Step, Save>,
    /// How many notices its ranks have sent.
    pub notices: u32,
    /// When it last progressed.
    pub pulse: Pulse,
}

/// What a gang's progress is measured by.
#[derive(Debug, Clone, PartialEq)]
pub struct Pulse {
    /// When a rank last took a step, turned to other work or wrote a part.
    pub at: Mono,
    /// The furthest step that each rank has reported in this attempt, in rank order.
    pub steps: Vec<Option<Step>>,
    /// What each rank does, in rank order.
    pub doing: Vec<Activity>,
    /// The longest step time that was reported, in seconds; 0 before the first.
    pub step_s: f64,
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

/// How far a gang is.
#[derive(Debug, Clone, PartialEq)]
pub enum Stage {
    /// The coordinator restarted: members come back until this time.
    Reattaching {
        /// Or the attempt is aborted.
        until: Mono,
    },
    /// Trainers start and load until this time.
    Preparing {
        /// Or the attempt is aborted.
        until: Mono,
    },
    /// `Begin` was sent.
    Training,
    /// A rank lost its peer: the failure behind it is awaited until this time.
    Doubt {
        /// Or the attempt is aborted for the symptom.
        until: Mono,
        /// The symptom.
        symptom: Failure,
        /// Ranks that show it.
        bereft: BTreeSet<Rank>,
    },
}

/// Where one rank is.
#[derive(Debug, Clone, PartialEq)]
pub enum RankState {
    /// Its worker has not been heard since the coordinator started.
    Away,
    /// Its worker came back without it; its last words may follow until this time.
    Missing {
        /// Or the attempt is aborted.
        until: Mono,
    },
    /// `Prepare` was sent.
    Starting,
    /// It loaded, and waits for `Begin`.
    Ready {
        /// host:port of its data plane; empty in a world of one.
        endpoint: String,
        /// Steps in the state that it holds.
        step: Step,
        /// BLAKE3 of that state, hex.
        digest: String,
        /// BLAKE3 of what it sees of its data, hex; empty where it did not say.
        data: String,
        /// Rank 0 on GPUs.
        nccl_id: Vec<u8>,
    },
    /// It came back to an attempt that had begun; how far it is will be heard.
    Back,
    /// It steps.
    Training,
    /// Its work is done; it waits for the final commit.
    Finished {
        /// Its last step.
        step: Step,
    },
    /// It finished and its process ended as it should.
    Left {
        /// Its last step.
        step: Step,
    },
}

/// A save on its way.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Save {
    /// Objects of the ranks that have written theirs.
    pub parts: BTreeMap<Rank, Vec<StoredObject>>,
    /// Whether rank 0 was told to write the manifest.
    pub ordered: bool,
}

// === impl Run ===

impl Run {
    /// `world` ranks that are all in one state.
    pub fn new(stage: Stage, rank: RankState, world: usize, now: Mono) -> Self {
        Self {
            stage,
            ranks: vec![rank; world],
            saves: BTreeMap::new(),
            notices: 0,
            pulse: Pulse {
                at: now,
                steps: vec![None; world],
                doing: vec![Activity::Training; world],
                step_s: 0.0,
            },
        }
    }
}

// === impl Pulse ===

impl Pulse {
    /// A rank reports a step. Only a later one is progress.
    pub fn stepped(&mut self, rank: Rank, step: Step, step_s: f64, now: Mono) {
        self.step_s = self.step_s.max(step_s);
        if let Some(last) = self.steps.get_mut(rank.get() as usize)
            && last.is_none_or(|last| step > last)
        {
            *last = Some(step);
            self.at = now;
        }
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
}

// === impl RankState ===

impl RankState {
    /// The last step, once its work is done.
    pub fn finished(&self) -> Option<Step> {
        match self {
            Self::Finished { step } | Self::Left { step } => Some(*step),
            Self::Away
            | Self::Missing { .. }
            | Self::Starting
            | Self::Ready { .. }
            | Self::Back
            | Self::Training => None,
        }
    }

    /// Whether its worker has shown that it lives.
    pub fn is_attached(&self) -> bool {
        match self {
            Self::Away | Self::Missing { .. } => false,
            Self::Starting
            | Self::Ready { .. }
            | Self::Back
            | Self::Training
            | Self::Finished { .. }
            | Self::Left { .. } => true,
        }
    }
}
