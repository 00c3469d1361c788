//! What a phase has saved.

use std::collections::BTreeSet;

use diptych_common::ids::{Attempt, Step, WorkerId};
use serde::{Deserialize, Serialize};

use super::job::Metric;
use super::time::{Mono, UnixMs};

/// A checkpoint within its phase. Ordered by step, then by attempt: the last is the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CheckpointId {
    /// Steps in it.
    pub step: Step,
    /// The attempt that wrote it.
    pub attempt: Attempt,
}

/// A committed checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// The durable part.
    pub record: CheckpointRecord,
    /// The verification under way.
    pub check: Check,
    /// Verification reports since this process started.
    pub reports: u64,
    /// What kept workers from reading it since it was last read.
    pub trouble: Trouble,
}

/// Failed tries to re-read a checkpoint, which say nothing of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Trouble {
    /// Workers that were asked; the next one is another, while there is one.
    pub asked: BTreeSet<WorkerId>,
    /// How many tries.
    pub tries: u32,
    /// Who failed last, and why.
    pub last: Option<String>,
}

/// The durable part of a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckpointRecord {
    /// Which one.
    pub id: CheckpointId,
    /// Object key of the manifest under the job's storage URL.
    pub manifest: String,
    /// BLAKE3 of the manifest, hex.
    pub digest: String,
    /// Of all objects; 0 where the coordinator did not see the parts.
    pub bytes: u64,
    /// When it was committed.
    pub at: UnixMs,
    /// What is known of it.
    pub state: CheckpointState,
    /// Never collected.
    pub pinned: bool,
    /// What it measures, where the spec asks for the best checkpoint and it was the best when it was written.
    #[serde(default)]
    pub best: Option<Vec<Metric>>,
}

/// What is known of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum CheckpointState {
    /// The manifest is in the store.
    Committed,
    /// Sizes and hashes were re-read.
    Verified,
    /// Re-reading failed, or a trainer could not load it.
    Broken {
        /// The object, and what is wrong with it.
        problem: String,
    },
}

/// A verification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// Nobody is asked.
    Idle,
    /// A worker is asked.
    Asked {
        /// Which one.
        worker: WorkerId,
        /// When.
        since: Mono,
    },
    /// A worker could not read it; another is asked at this time.
    Later {
        /// When.
        until: Mono,
    },
}

/// One object of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredObject {
    /// Key under the job's storage URL.
    pub key: String,
    /// In bytes.
    pub size: u64,
    /// BLAKE3, hex.
    pub digest: String,
}

/// A checkpoint as workers know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointRef {
    /// Name of the phase that wrote it.
    pub phase: String,
    /// Object key of the manifest.
    pub manifest: String,
    /// BLAKE3 of the manifest, hex.
    pub digest: String,
    /// Steps in it.
    pub step: Step,
}

impl Checkpoint {
    /// One that nobody is asked about.
    pub fn new(record: CheckpointRecord) -> Self {
        Self {
            record,
            check: Check::Idle,
            reports: 0,
            trouble: Trouble::default(),
        }
    }

    /// Whether sizes and hashes were re-read.
    pub fn is_verified(&self) -> bool {
        matches!(self.record.state, CheckpointState::Verified)
    }

    /// Whether it is known to be unusable.
    pub fn is_broken(&self) -> bool {
        matches!(self.record.state, CheckpointState::Broken { .. })
    }

    /// As workers know it.
    pub fn reference(&self, phase: &str) -> CheckpointRef {
        CheckpointRef {
            phase: phase.to_owned(),
            manifest: self.record.manifest.clone(),
            digest: self.record.digest.clone(),
            step: self.record.id.step,
        }
    }
}
