//! What a rank has to say to its agent, and through it to the coordinator.

use std::time::Duration;

use diptych_common::checkpoint::{CheckpointRef, StoredObject};
use diptych_common::digest::Digest;
use diptych_common::ids::{Rank, Step};
use diptych_proto::v1::FailureKind;

/// One report of a rank.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    /// Prepared: data open, weights loaded, data-plane port bound.
    Ready(Ready),
    /// Where the rank is. Reports within a second are merged into one.
    Progress(Progress),
    /// This rank's objects of the save of `step` are in the store.
    PartSaved {
        /// The save.
        step: Step,
        /// This rank's objects, in the order of their keys.
        objects: Vec<StoredObject>,
        /// How long training stood still for the snapshot.
        stall: Duration,
    },
    /// Rank 0: the manifest is in the store.
    ManifestWritten {
        /// The checkpoint.
        checkpoint: CheckpointRef,
        /// Its results, where the spec asks for the best checkpoint and this is the best so far.
        best: Option<Vec<Measurement>>,
    },
    /// The phase's work is done: last step taken, evaluated, last parts reported.
    Finished {
        /// Steps taken.
        step: Step,
        /// Rank 0: final results; empty elsewhere.
        results: Vec<Measurement>,
    },
    /// The rank stops before its end.
    Failed {
        /// What the coordinator acts on.
        kind: FailureKind,
        /// What was wrong, where, and what to do.
        message: String,
        /// Key of the manifest, or URL, of a checkpoint that could not be loaded.
        object: Option<String>,
        /// [`FailureKind::NonFinite`]: steps that were committed before the step that it appeared in.
        step: Option<Step>,
    },
    /// It has left its gang, holds a whole state, and waits for the next assignment.
    Held(Held),
    /// The answer to a ping.
    Pong,
    /// What the rank does from now on.
    Activity(Activity),
    /// Something that people should know.
    Notice {
        /// A short word in snake case, e.g. `bad_image`, `save_skipped`, `save_failed`, `fresh_head`, `stopped_early`,
        /// `tensorboard_failed`, `batch_skipped`.
        kind: &'static str,
        /// What happened, where.
        message: String,
    },
}

/// Work that takes longer than a step, or is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// Steps.
    Training,
    /// An evaluation.
    Evaluating,
    /// The last save is being written.
    Saving,
}

/// What a prepared rank says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// `host:port` where this rank listens; empty in a world of one, and for a reserve.
    pub endpoint: String,
    /// The state that it holds; `None` where a peer is to give it one.
    pub state: Option<StateSummary>,
    /// Rank 0 on GPUs; empty elsewhere.
    pub nccl_id: Vec<u8>,
    /// BLAKE3 of what it sees of its data: the same on every rank.
    pub data_digest: Digest,
}

/// A state, as the coordinator compares it over the ranks: same step must mean same digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateSummary {
    /// Steps committed in it.
    pub step: Step,
    /// BLAKE3 over all of it.
    pub digest: Digest,
    /// Its tensors by name, in its order, each with the first 8 bytes of its own BLAKE3.
    pub tensors: Vec<(String, u64)>,
}

/// A rank that waits between two attempts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Steps committed in the state that it holds; 0 where it holds none.
    pub step: Step,
    /// Why it left its gang.
    pub reason: String,
    /// The peers whose loss it saw; empty where it was told to leave.
    pub lost_peers: Vec<Rank>,
}

/// Where a rank is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Progress {
    /// Steps committed.
    pub step: Step,
    /// Steps of the whole phase.
    pub total_steps: Step,
    /// Images per second over all ranks, lately.
    pub images_per_s: f64,
    /// Seconds of one step on this rank, lately.
    pub step_s: f64,
    /// Seconds of `step_s` in which it waited for peers.
    pub waited_s: f64,
    /// Rank 0: measurements since the last report; empty elsewhere.
    pub measurements: Vec<Measurement>,
}

/// One measured value at one step.
#[derive(Debug, Clone, PartialEq)]
pub struct Measurement {
    /// Steps committed when it was taken.
    pub step: Step,
    /// e.g. `loss`, `learning_rate`, `probe_top1`, `knn_top1`, `eval_top1`.
    pub name: String,
    /// The value; accuracies are shares in [0, 1].
    pub value: f64,
}
