//! Why an attempt ended before its time.

use std::fmt;

use diptych_common::ids::{Attempt, Rank, Step, WorkerId};
use serde::{Deserialize, Serialize};

/// What kind of failure; the first five are terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The data is unusable.
    BadData,
    /// The spec cannot run on this data or machine.
    Refused,
    /// Loss or weights are not finite.
    NonFinite,
    /// Ranks disagree on state or on a collective.
    Diverged,
    /// Ranks see different data under the same URLs.
    DataDiffers,
    /// A peer or the link to it was lost: a symptom, the cause is elsewhere.
    PeerLost,
    /// The object store failed.
    Storage,
    /// A trainer's process ended unexpectedly.
    Crashed,
    /// A bug.
    Internal,
    /// A checkpoint did not verify.
    BadCheckpoint,
    /// A worker is gone.
    WorkerLost,
    /// A rank did not become ready in time, or its machine could not run it.
    NotReady,
    /// A gang did not progress for too long.
    Stalled,
}

impl FailureKind {
    /// Whether trying again cannot help.
    pub const fn is_terminal(self) -> bool {
        match self {
            Self::BadData
            | Self::Refused
            | Self::NonFinite
            | Self::Diverged
            | Self::DataDiffers => true,
            Self::PeerLost
            | Self::Storage
            | Self::Crashed
            | Self::Internal
            | Self::BadCheckpoint
            | Self::WorkerLost
            | Self::NotReady
            | Self::Stalled => false,
        }
    }

    /// Whether it speaks against the worker that it happened on, and not against the job.
    pub const fn is_a_workers_own(self) -> bool {
        match self {
            Self::Crashed | Self::WorkerLost | Self::NotReady | Self::Stalled => true,
            Self::BadData
            | Self::Refused
            | Self::NonFinite
            | Self::Diverged
            | Self::DataDiffers
            | Self::PeerLost
            | Self::Storage
            | Self::Internal
            | Self::BadCheckpoint => false,
        }
    }

    /// Stable name, for people and programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadData => "bad_data",
            Self::Refused => "refused",
            Self::NonFinite => "non_finite",
            Self::Diverged => "diverged",
            Self::DataDiffers => "data_differs",
            Self::PeerLost => "peer_lost",
            Self::Storage => "storage",
            Self::Crashed => "crashed",
            Self::Internal => "internal",
            Self::BadCheckpoint => "bad_checkpoint",
            Self::WorkerLost => "worker_lost",
            Self::NotReady => "not_ready",
            Self::Stalled => "stalled",
        }
    }
}

/// One failure: who, where and what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What kind.
    pub kind: FailureKind,
    /// The attempt that it ended.
    pub attempt: Attempt,
    /// The rank, where it was one rank's.
    pub rank: Option<Rank>,
    /// The worker, where it was one worker's.
    pub worker: Option<WorkerId>,
    /// What was wrong, and what to do.
    pub message: String,
    /// The last lines that the rank printed.
    pub log: Vec<String>,
    /// Key of the manifest, or URL, of a checkpoint that could not be loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// A number that is not finite: steps that were committed before its step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<Step>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "attempt {}", self.attempt)?;
        if let Some(rank) = self.rank {
            write!(f, ", rank {rank}")?;
        }
        if let Some(worker) = &self.worker {
            write!(f, " on {worker}")?;
        }
        write!(f, ": {} ({})", self.message, self.kind.name())
    }
}

/// How a trainer's process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// With this status.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// The agent could not tell.
    Unknown,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with status {code}"),
            Self::Signal(9) => f.write_str(
                "was killed by signal 9 (SIGKILL: the kernel's out-of-memory killer, or a person)",
            ),
            Self::Signal(signal) => write!(f, "was killed by signal {signal}"),
            Self::Unknown => f.write_str("ended, how is not known"),
        }
    }
}
