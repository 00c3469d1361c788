//! A job: what was asked, where it is, and what it has saved. Records are durable, the rest lives in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use diptych_common::ids::{Attempt, JobId, PhaseIndex, PhaseName, Step, WorkerId};
use diptych_common::spec::{Device, JobDraft};
use serde::{Deserialize, Serialize};

use super::checkpoint::{Checkpoint, CheckpointId};
use super::failure::Failure;
use super::pace::Pace;
use super::run::Run;
use super::time::{Mono, UnixMs};

/// What was asked for, and what the coordinator needs to know of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    /// The spec as it was submitted.
    pub draft: JobDraft,
    /// BLAKE3 of the spec, hex.
    pub digest: String,
    /// Higher runs first.
    pub priority: i32,
    /// The phases, in spec order.
    pub phases: Vec<PhasePlan>,
    /// Why this version cannot run it, where an older one accepted it.
    pub invalid: Option<String>,
}

/// What the coordinator needs to know of a phase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhasePlan {
    /// Position in the spec.
    pub index: PhaseIndex,
    /// Unique in the job.
    pub name: PhaseName,
    /// `pretrain`, `linear_eval`, `finetune` or `distill`.
    pub kind: &'static str,
    /// Kind of device of every rank.
    pub device: Device,
    /// Fewest ranks.
    pub min: u32,
    /// Most ranks.
    pub max: u32,
    /// The most ranks that its lanes allow.
    pub most: u32,
    /// Trainers that stand by beside the gang.
    pub spares: u32,
    /// Whether a number that is not finite leads back to a checkpoint, in place of the end.
    pub rewinds: bool,
    /// Phases whose final checkpoint it reads.
    pub inputs: Vec<PhaseIndex>,
    /// Verified checkpoints to keep.
    pub keep: u32,
}

/// What a client chose to make its submit safe to repeat.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(pub String);

/// 32 random bytes that only the coordinator and the job's trainers know. `Debug` does not print them.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret([u8; 32]);

/// One submitted pipeline.
#[derive(Debug, Clone)]
pub struct Job {
    /// What was asked.
    pub submission: Arc<Submission>,
    /// The durable part.
    pub record: JobRecord,
    /// In spec order, one for each of the submission's.
    pub phases: Vec<Phase>,
}

/// The durable part of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    /// The spec's name and a suffix.
    pub id: JobId,
    /// Order of submission.
    pub sequence: u64,
    /// What the client chose, if anything.
    pub request: Option<RequestId>,
    /// From which each attempt's secret is derived.
    pub secret: Secret,
    /// When it was accepted.
    pub submitted: UnixMs,
    /// The newest attempt issued; 0 before the first. Only grows.
    pub last_attempt: Attempt,
    /// Where it is.
    pub state: JobState,
}

/// Where a job is. All but `Active` are absorbing, save for an explicit retry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum JobState {
    /// Waits or runs.
    Active,
    /// Every phase is done.
    Succeeded {
        /// When.
        ended: UnixMs,
    },
    /// A phase failed for good.
    Failed {
        /// When.
        ended: UnixMs,
        /// Which one.
        phase: PhaseIndex,
    },
    /// Somebody stopped it.
    Cancelled {
        /// When.
        ended: UnixMs,
        /// What they said.
        reason: String,
    },
}

/// One phase of a job.
#[derive(Debug, Clone)]
pub struct Phase {
    /// The durable part.
    pub record: PhaseRecord,
    /// What it saved and still has.
    pub checkpoints: BTreeMap<CheckpointId, Checkpoint>,
    /// What its ranks reported lately.
    pub progress: Progress,
    /// The live attempt's ranks; present exactly while the state is [`PhaseState::Live`].
    pub run: Option<Run>,
    /// Since when it waits for a place, after an attempt ended.
    pub waiting: Mono,
    /// Trainers of its last attempt that wait for the next one, by what they bring; only while it waits.
    pub kept: BTreeMap<Seat, Brings>,
    /// Who may still bring its state, after a restart of the coordinator; only while it waits.
    pub away: Option<Away>,
    /// What was learned of its steps.
    pub pace: Pace,
}

/// What a trainer that was kept brings to the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Brings {
    /// The phase's state.
    State,
    /// Everything but the state.
    Readiness,
    /// A process that still loads.
    Process,
}

/// Workers of a phase's last attempt that had not been heard since the coordinator started when it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Away {
    /// Which ones.
    pub workers: BTreeSet<WorkerId>,
    /// How long it is worth waiting for what their trainers may hold.
    pub until: Mono,
}

/// Numbers of ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// Fewest.
    pub min: u32,
    /// Most.
    pub max: u32,
}

/// The durable part of a phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhaseRecord {
    /// Where it is.
    pub state: PhaseState,
    /// The newest attempt at this phase; 0 before the first.
    pub attempt: Attempt,
    /// How many attempts it had before that one.
    #[serde(default)]
    pub restarts: u32,
    /// Workers of that attempt, in rank order.
    pub gang: Vec<WorkerId>,
    /// Failures so far.
    pub budget: Budget,
    /// Rank 0's final results.
    pub results: Vec<Metric>,
    /// When the first attempt was placed.
    pub started: Option<UnixMs>,
    /// When it was done or failed.
    pub ended: Option<UnixMs>,
    /// The numbers of ranks that a client wants in place of the spec's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<Range>,
    /// Steps whose batch changes nothing, after a number that was not finite.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub skipped: BTreeSet<Step>,
    /// The next attempt starts from a checkpoint, whatever trainers hold in memory.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forget: bool,
}

/// Where a phase is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum PhaseState {
    /// For its inputs, for its turn or for devices.
    Waiting,
    /// An attempt is placed.
    Live(Placement),
    /// Its result is verified: its final checkpoint or, where the spec asks for it, its best one.
    Done {
        /// That checkpoint.
        last: CheckpointId,
        /// The steps that it took; absent from releases whose result was always the final checkpoint.
        #[serde(default)]
        steps: Option<Step>,
    },
    /// For good.
    Failed {
        /// The first failure of the series that ended it.
        cause: Failure,
    },
}

/// An attempt's gang.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Its number.
    pub attempt: Attempt,
    /// One seat per rank, in rank order; never empty.
    pub seats: Vec<Seat>,
    /// Trainers that stand by beside the gang: ranks from `seats.len()` on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reserves: Vec<Seat>,
    /// What its ranks begin with.
    #[serde(default)]
    pub start: StartFrom,
    /// The checkpoint that it started from or, from memory, would have.
    pub resume: Option<CheckpointId>,
    /// Whether `Begin` was sent.
    pub begun: bool,
    /// The last step, once every rank's work is done.
    pub finished: Option<Step>,
}

/// Which state the ranks of an attempt begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartFrom {
    /// The checkpoint's or, without one, the beginning.
    #[default]
    Checkpoint,
    /// The most advanced that a rank holds in memory.
    Memory,
}

/// Where one rank sits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Seat {
    /// The worker.
    pub worker: WorkerId,
    /// Index of the device on it.
    pub device: u32,
}

/// Failures of a phase since it last made progress.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Budget {
    /// How many in a row.
    pub failures: u32,
    /// The newest committed step at the last of them.
    pub committed: Option<Step>,
    /// The furthest step seen by then.
    pub reached: Step,
    /// The furthest step that survivors held by then.
    #[serde(default)]
    pub kept: Option<Step>,
    /// The first of them.
    pub first: Option<Failure>,
}

/// One measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// When, in steps.
    pub step: Step,
    /// Of what.
    pub name: String,
    /// How much.
    pub value: f64,
}

/// What ranks reported lately. Not durable.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Progress {
    /// Furthest step of the current attempt.
    pub step: Step,
    /// Furthest step of any attempt.
    pub reached: Step,
    /// Steps of the phase; 0 while unknown.
    pub total: u64,
    /// Over all ranks.
    pub images_per_s: f64,
    /// Seconds of one step.
    pub step_s: f64,
    /// The last value of each measurement.
    pub metrics: BTreeMap<String, Metric>,
}

// === impl Job ===

impl Job {
    /// Its id.
    pub fn id(&self) -> &JobId {
        &self.record.id
    }

    /// Whether it waits or runs.
    pub fn is_active(&self) -> bool {
        matches!(self.record.state, JobState::Active)
    }

    /// The phase with a live attempt, if any.
    pub fn live(&self) -> Option<(usize, &Placement)> {
        self.phases
            .iter()
            .enumerate()
            .find_map(|(index, phase)| phase.placement().map(|placement| (index, placement)))
    }

    /// The numbers of ranks that a phase may have: the spec's, or what a client set.
    pub fn range(&self, index: usize) -> Range {
        let plan = &self.submission.phases[index];
        self.phases[index].record.scale.unwrap_or(Range {
            min: plan.min,
            max: plan.max,
        })
    }

    /// Position of a phase.
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.submission
            .phases
            .iter()
            .position(|plan| plan.name.as_str() == name)
    }

    /// The data plane's secret of one attempt: keyed BLAKE3 of its number.
    pub fn attempt_secret(&self, attempt: Attempt) -> [u8; 32] {
        *blake3::keyed_hash(&self.record.secret.0, &attempt.get().to_le_bytes()).as_bytes()
    }
}

// === impl Phase ===

impl Phase {
    /// A phase that has not begun.
    pub fn new() -> Self {
        Self {
            record: PhaseRecord {
                state: PhaseState::Waiting,
                attempt: Attempt::default(),
                restarts: 0,
                gang: Vec::new(),
                budget: Budget::default(),
                results: Vec::new(),
                started: None,
                ended: None,
                scale: None,
                skipped: BTreeSet::new(),
                forget: false,
            },
            checkpoints: BTreeMap::new(),
            progress: Progress::default(),
            run: None,
            waiting: Mono::default(),
            kept: BTreeMap::new(),
            away: None,
            pace: Pace::default(),
        }
    }

    /// The live attempt's gang.
    pub fn placement(&self) -> Option<&Placement> {
        match &self.record.state {
            PhaseState::Live(placement) => Some(placement),
            PhaseState::Waiting | PhaseState::Done { .. } | PhaseState::Failed { .. } => None,
        }
    }

    /// The newest verified checkpoint.
    pub fn newest_verified(&self) -> Option<&Checkpoint> {
        self.checkpoints
            .values()
            .rev()
            .find(|checkpoint| checkpoint.is_verified())
    }

    /// The best checkpoint, where the spec asks for it: the newest that was the best when it was written, broken ones
    /// aside.
    pub fn best(&self) -> Option<&Checkpoint> {
        self.checkpoints
            .values()
            .rev()
            .find(|checkpoint| checkpoint.record.best.is_some() && !checkpoint.is_broken())
    }

    /// What later phases and exports take: the result of a phase that is done, before that its newest verified
    /// checkpoint.
    pub fn result(&self) -> Option<&Checkpoint> {
        match &self.record.state {
            PhaseState::Done { last, .. } => self.checkpoints.get(last),
            PhaseState::Waiting | PhaseState::Live(_) | PhaseState::Failed { .. } => {
                self.newest_verified()
            }
        }
    }

    /// The newest committed step that has not turned out broken.
    pub fn newest_committed(&self) -> Option<Step> {
        self.checkpoints
            .values()
            .rev()
            .find(|checkpoint| !checkpoint.is_broken())
            .map(|c| c.record.id.step)
    }
}

impl Default for Phase {
    fn default() -> Self {
        Self::new()
    }
}

// === impl Secret ===

impl Secret {
    /// Wraps random bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}
