//! Everything that can happen.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use diptych_common::ids::{Attempt, JobId, PhaseIndex, Rank, Step, WorkerId};
use diptych_common::spec::Device;

use super::checkpoint::{CheckpointId, CheckpointRef, StoredObject};
use super::failure::{Exit, FailureKind};
use super::job::{Metric, RequestId, Secret, Submission};
use super::pace::Activity;
use super::run::TensorDigest;
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
    /// A client wants phases of a job to have other numbers of ranks.
    Scale(Scale),
    /// A client wants new ranks kept off a worker, or let onto it again.
    Cordon {
        /// Which one.
        worker: WorkerId,
        /// Why; `None` lets it in again.
        reason: Option<String>,
    },
    /// A client wants a worker emptied.
    Drain {
        /// Which one.
        worker: WorkerId,
        /// Why.
        reason: String,
        /// Ranks that are still there after this are aborted.
        deadline: Duration,
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
        /// It ends its trainers after this.
        grace: Duration,
    },
    /// Two agents of one attempt cannot reach each other.
    LinkLost {
        /// On this stream.
        session: SessionId,
        /// The one that says so.
        worker: WorkerId,
        /// The other.
        other: WorkerId,
        /// Of this attempt.
        rank: (JobId, Attempt),
        /// What it saw.
        reason: String,
    },
    /// A device broke.
    DeviceTrouble {
        /// On this stream.
        session: SessionId,
        /// Of this worker.
        worker: WorkerId,
        /// Its index there.
        device: u32,
        /// What, and what to do.
        problem: String,
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

/// Other numbers of ranks.
#[derive(Debug, Clone)]
pub struct Scale {
    /// Of this job.
    pub job: JobId,
    /// Of this phase; `None`: of all that are not done.
    pub phase: Option<PhaseIndex>,
    /// Fewest ranks; `None`: as it is.
    pub min: Option<u32>,
    /// Most ranks; `None`: as it is.
    pub max: Option<u32>,
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
    /// Trainers that are alive.
    pub running: Vec<RunningRank>,
    /// host:port where other agents reach it; empty where they cannot.
    pub peer: String,
}

/// A trainer that lives when its agent registers.
#[derive(Debug, Clone)]
pub struct RunningRank {
    /// What it last was.
    pub rank: RankId,
    /// The device that it has.
    pub device: u32,
    /// Of which phase.
    pub phase: PhaseIndex,
    /// Steps in the state that it holds, where it has left its gang and waits.
    pub held: Option<Step>,
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
    /// Why no rank can run on it.
    pub problem: Option<String>,
    /// Where it is on its machine; devices with equal values are near each other.
    pub labels: BTreeMap<String, String>,
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
        /// It holds no state yet.
        empty: bool,
        /// The state's tensors.
        tensors: Vec<TensorDigest>,
    },
    /// It left its gang, and waits with a whole state.
    Held {
        /// Steps in that state.
        step: Step,
        /// Why it left.
        reason: String,
        /// Peers that it lost.
        lost: Vec<Rank>,
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
        /// Of those, spent waiting for peers.
        waited_s: f64,
        /// Since the last report.
        metrics: Vec<Metric>,
    },
    /// Its part of a save is in the store.
    PartSaved {
        /// Which save.
        step: Step,
        /// The part.
        objects: Vec<StoredObject>,
        /// How long the rank's steps stood still for it; `None` from releases that did not say.
        stall: Option<Duration>,
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
        /// A number that is not finite: steps that were committed before its step.
        step: Option<Step>,
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
