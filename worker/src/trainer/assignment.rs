//! What a rank is told: its share of an attempt, where its peers are, and what becomes of its saves.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use diptych_common::checkpoint::{CheckpointRef, StoredObject};
use diptych_common::digest::Digest;
use diptych_common::ids::{Attempt, JobId, PhaseIndex, PhaseName, Rank, Step, WorkerId};
use diptych_common::spec::JobSpec;
use diptych_common::units::Bytes;

/// A rank's share of one attempt. The spec is valid and `phase` is one of its phases.
#[derive(Debug, Clone)]
pub struct Assignment {
    /// The job.
    pub job: JobId,
    /// The attempt: part of object keys and of the data plane's handshake.
    pub attempt: Attempt,
    /// This rank.
    pub rank: Rank,
    /// Ranks in the gang, at least 1.
    pub world: u32,
    /// Stands by beside the gang, its rank beyond the world: everything is loaded but the state.
    pub reserve: bool,
    /// The whole job.
    pub spec: JobSpec,
    /// Which phase of it.
    pub phase: PhaseIndex,
    /// Proves to peers that this rank belongs to the attempt.
    pub secret: Secret,
    /// Which state the rank begins with.
    pub start: StartFrom,
    /// The newest checkpoint of this phase; `None` where nothing of it has been committed.
    pub resume: Option<CheckpointRef>,
    /// Steps, counted from 0, whose batch is drawn but changes nothing.
    pub skip: BTreeSet<Step>,
    /// Final checkpoints of the phases that `from` and `teacher` name.
    pub inputs: BTreeMap<PhaseName, CheckpointRef>,
    /// Age of the state that a crash now would fall back to: since `resume` was committed or, without one, since the
    /// phase first started.
    pub unsaved: Duration,
    /// What the agent gives to every trainer on this machine.
    pub place: Place,
}

/// Which state a rank begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StartFrom {
    /// What `resume` names or, without it, the beginning; what the process holds in memory is forgotten.
    #[default]
    Checkpoint,
    /// What the process holds in memory; where that is nothing, a peer's state.
    Memory,
}

/// What a trainer may use of its machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Index of the device on this worker.
    pub device: u32,
    /// Host name or address under which peers reach this machine; the data plane binds a free port.
    pub data_address: String,
    /// Threads of libtorch's pool and of the data loader, at least 1.
    pub threads: usize,
    /// What it may use of the host's memory; `None` where that is unknown.
    pub memory: Option<Bytes>,
    /// A directory of this rank and attempt alone, for caches; removed by the agent after the trainer has ended.
    pub work_dir: PathBuf,
}

/// The secret of one attempt's data plane. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

/// Every rank stands ready: connect and train.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begin {
    /// All ranks, in rank order.
    pub peers: Vec<Peer>,
    /// Rank 0's NCCL id; empty on CPU.
    pub nccl_id: Vec<u8>,
    /// The rank whose state all others take before the first step; `None` where all hold the same.
    pub source: Option<Rank>,
    /// The state that every rank begins with; `None` where the coordinator did not say.
    pub state: Option<(Step, Digest)>,
}

/// One rank of the gang.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Which rank.
    pub rank: Rank,
    /// `host:port` of its data plane; empty in a world of one.
    pub endpoint: String,
    /// The worker that runs it, for messages to people.
    pub worker: WorkerId,
}

/// What the coordinator asks of a rank that trains. A command may come twice, after a reconnect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Rank 0 only: every part of the save of `step` is in the store; write its manifest.
    WriteManifest {
        /// The save.
        step: Step,
        /// All ranks' objects, in rank order.
        objects: Vec<StoredObject>,
    },
    /// This checkpoint is committed: it will be found by the next attempt.
    Committed(CheckpointRef),
}

/// Leave by plan, after a step that all ranks agree on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leave {
    /// Why.
    pub reason: String,
    /// Save that step first.
    pub save: bool,
    /// Nobody gathers parts and commits: the ranks do it among themselves.
    pub alone: bool,
}

impl Secret {
    /// Wraps the bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key of the handshake's MAC.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
