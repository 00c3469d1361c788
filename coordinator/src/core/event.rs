//! Everything that can happen.

use std::sync::Arc;

use diptych_common::ids::{Attempt, JobId, PhaseIndex, Rank, Step, WorkerId};
use diptych_common::spec::Device;

use super::checkpoint::{CheckpointId, CheckpointRef, StoredObject};
use super::failure::{Exit, FailureKind};
use super::job::{Metric, RequestId, Secret, Submission};
use super::run::Activity;
use super::worker::{RankId, SessionId};

/// One thing that happened. What is random (ids, secrets) comes in with it.
#[derive(Debug, Clone)]
pub enum Event {
    /// A client wants a job.
    Submit(Submit),
    /// A client wants a job stopped.
    Cancel {
        /// Which one.
        job: JobId,
        /// What they said.
        reason: String,
    },
    /// A client wants a failed or cancelled job to go on.
    Retry {
        /// Which one.
        job: JobId,
    },
    /// A client wants an ended job forgotten.
    Delete {
        /// Which one.
        job: JobId,
    },
    /// A client wants a checkpoint kept, or no longer kept.
    Pin {
        /// Whose.
        job: JobId,
        /// Of which phase.
        phase: PhaseIndex,
        /// Which one.
        checkpoint: CheckpointId,
        /// Kept or not.
        pinned: bool,
    },
    /// A client wants a checkpoint re-read.
    Check {
        /// Whose.
        job: JobId,
        /// Of which phase.
        phase: PhaseIndex,
        /// Which one.
        checkpoint: CheckpointId,
    },
    /// An agent opened a stream and said who it is.
    Registered(Registration),
    /// An agent was heard.
    Heartbeat {
        /// On this stream.
        session: SessionId,
        /// Its worker.
        worker: WorkerId,
    },
    /// An agent's stream ended.
    Reset {
        /// This stream.
        session: SessionId,
        /// Its worker.
        worker: WorkerId,
    },
    /// An agent leaves on purpose.
    Leaving {
        /// On this stream.
        session: SessionId,
        /// Its worker.
        worker: WorkerId,
        /// Why.
        reason: String,
    },
    /// A rank reports.
    Rank(RankReport),
    /// An agent re-read a checkpoint.
    Verified(VerifyReport),
    /// Time passed.
    Tick,
    /// Whatever can be placed should be.
    Place,
}

/// A new job.
#[derive(Debug, Clone)]
pub struct Submit {
    /// The id that it gets if it is new.
    pub id: JobId,
    /// What is asked.
    pub submission: Arc<Submission>,
    /// What the client chose.
    pub request: Option<RequestId>,
    /// Random.
    pub secret: Secret,
}

/// Who an agent is, and what it runs.
#[derive(Debug, Clone)]
pub struct Registration {
    /// On this stream.
    pub session: SessionId,
    /// Stable over restarts.
    pub worker: WorkerId,
    /// New for each process.
    pub incarnation: String,
    /// Of its build.
    pub version: String,
    /// Host name.
    pub host: String,
    /// With distinct indices.
    pub devices: Vec<DeviceReport>,
    /// Trainers that are alive, with the device of each.
    pub running: Vec<(RankId, u32)>,
}

/// A device that a worker lends.
#[derive(Debug, Clone)]
pub struct DeviceReport {
    /// On its worker.
    pub index: u32,
    /// What kind.
    pub kind: Device,
    /// For people.
    pub name: String,
    /// Bytes that a rank may use; 0 where unknown.
    pub memory: u64,
}

/// One rank's report, which may be a repetition.
#[derive(Debug, Clone)]
pub struct RankReport {
    /// On this stream.
    pub session: SessionId,
    /// Through this worker.
    pub worker: WorkerId,
    /// Of this job.
    pub job: JobId,
    /// Of this attempt.
    pub attempt: Attempt,
    /// Of this rank.
    pub rank: Rank,
    /// What.
    pub event: RankEvent,
}

/// What a rank can report.
#[derive(Debug, Clone)]
pub enum RankEvent {
    /// It loaded.
    Ready {
        /// host:port of its data plane.
        endpoint: String,
        /// Steps in its state.
        step: Step,
        /// BLAKE3 of its state, hex.
        digest: String,
        /// BLAKE3 of what it sees of its data, hex; empty where it did not say.
        data: String,
        /// Rank 0 on GPUs.
        nccl_id: Vec<u8>,
    },
    /// It steps.
    Progress {
        /// Steps taken.
        step: Step,
        /// Steps of the phase.
        total: u64,
        /// Over all ranks.
        images_per_s: f64,
        /// Of one step.
        step_s: f64,
        /// Since the last report.
        metrics: Vec<Metric>,
    },
    /// Its part of a save is in the store.
    PartSaved {
        /// Which save.
        step: Step,
        /// The part.
        objects: Vec<StoredObject>,
    },
    /// Rank 0: the manifest is in the store.
    ManifestWritten {
        /// The manifest.
        checkpoint: CheckpointRef,
        /// What it measures, where it is the best so far.
        best: Option<Vec<Metric>>,
    },
    /// Its work is done.
    Finished {
        /// Its last step.
        step: Step,
        /// Rank 0: final results.
        results: Vec<Metric>,
    },
    /// It stopped.
    Failed {
        /// What kind.
        kind: FailureKind,
        /// What was wrong.
        message: String,
        /// Key of the manifest, or URL, of a checkpoint that could not be loaded.
        object: Option<String>,
    },
    /// It turns to other work.
    Activity(Activity),
    /// Its process ended.
    Exited {
        /// How.
        exit: Exit,
        /// What it printed last.
        last_lines: Vec<String>,
    },
    /// For the job's events.
    Notice {
        /// What kind.
        kind: String,
        /// For people.
        message: String,
    },
}

/// What re-reading a checkpoint found.
#[derive(Debug, Clone)]
pub struct VerifyReport {
    /// On this stream.
    pub session: SessionId,
    /// Through this worker.
    pub worker: WorkerId,
    /// Whose checkpoint.
    pub job: JobId,
    /// Which one.
    pub checkpoint: CheckpointRef,
    /// What.
    pub reread: Reread,
}

/// What came of re-reading a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reread {
    /// All sizes and hashes hold.
    Whole,
    /// It is not what was written; names the object.
    Damaged(String),
    /// The store did not answer, or not this worker: nothing is known of the checkpoint.
    Unread(String),
}
