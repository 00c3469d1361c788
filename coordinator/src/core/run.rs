//! The ranks of a live attempt. Nothing here is durable: ranks report again.

use std::collections::{BTreeMap, BTreeSet};

use diptych_common::ids::{JobId, Rank, Step, WorkerId};

use super::checkpoint::StoredObject;
use super::failure::Failure;
use super::job::Seat;
use super::pace::Pulse;
use super::time::Mono;

/// The ranks of a live attempt. Not durable: ranks report again.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// How far the gang is.
    pub stage: Stage,
    /// In rank order.
    pub ranks: Vec<RankState>,
    /// Trainers that stand by beside the gang, in the order of the placement's reserves: ranks from `world` on.
    pub reserves: Vec<RankState>,
    /// Since when the gang is as it is and steps.
    pub begun: Option<Mono>,
    /// Saves on their way, by step.
    pub saves: BTreeMap<Step, Save>,
    /// How many notices its ranks have sent.
    pub notices: u32,
    /// When it last progressed.
    pub pulse: Pulse,
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
    /// The ranks were told to leave after a step that they agree on, until this time.
    Leaving {
        /// Or they are aborted.
        until: Mono,
        /// What follows.
        plan: LeavePlan,
    },
}

/// What a gang leaves for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeavePlan {
    /// Why.
    pub why: LeaveWhy,
    /// Seats that are given up once everybody has left; the rest goes on.
    pub give: BTreeSet<Seat>,
    /// Whether the step is saved first: too few would keep its state.
    pub save: bool,
}

/// Why a gang leaves by plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaveWhy {
    /// Ranks that stand by join it.
    Grow,
    /// A client wants other numbers of ranks.
    Scale,
    /// A worker is being emptied.
    Drain(WorkerId),
    /// A job of higher priority needs devices.
    Preempt(JobId),
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
        /// It holds no state yet.
        empty: bool,
        /// The state's tensors, to say where two states differ.
        tensors: Vec<TensorDigest>,
    },
    /// It left the gang with a whole state, and waits.
    Held {
        /// Steps in that state.
        step: Step,
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

/// One tensor of a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorDigest {
    /// Its name.
    pub name: String,
    /// The first 8 bytes of its BLAKE3.
    pub digest: u64,
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
            reserves: Vec::new(),
            begun: None,
            saves: BTreeMap::new(),
            notices: 0,
            pulse: Pulse::new(world, now),
        }
    }
}

impl Run {
    /// A rank of the gang, or one that stands by beside it.
    pub fn member(&self, rank: Rank) -> Option<&RankState> {
        let mut all = self.ranks.iter().chain(&self.reserves);
        all.nth(rank.get() as usize)
    }

    /// A rank of the gang, or one that stands by beside it.
    pub fn member_mut(&mut self, rank: Rank) -> Option<&mut RankState> {
        let mut all = self.ranks.iter_mut().chain(&mut self.reserves);
        all.nth(rank.get() as usize)
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
            | Self::Held { .. }
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
            | Self::Held { .. }
            | Self::Back
            | Self::Training
            | Self::Finished { .. }
            | Self::Left { .. } => true,
        }
    }

    /// Whether it can take a place in a gang without starting up.
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Ready { .. })
    }

    /// Stable name, for people and programs.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Away | Self::Missing { .. } => "away",
            Self::Starting => "starting",
            Self::Ready { .. } => "ready",
            Self::Held { .. } => "held",
            Self::Back | Self::Training => "training",
            Self::Finished { .. } | Self::Left { .. } => "finished",
        }
    }
}

// === impl LeaveWhy ===

impl std::fmt::Display for LeaveWhy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Grow => f.write_str("ranks that stand by join the gang"),
            Self::Scale => f.write_str("its number of ranks was changed"),
            Self::Drain(worker) => write!(f, "worker {worker} is being drained"),
            Self::Preempt(job) => write!(f, "job {job} of higher priority needs devices"),
        }
    }
}
