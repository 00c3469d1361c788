//! Why a phase stops before its end.

use std::fmt;

use diptych_common::ids::{Rank, Step};
use diptych_common::store::StoreError;
use diptych_proto::v1::FailureKind;

use crate::batch::LoadError;
use crate::collective::CollectiveError;
use crate::device::StepError;
use crate::trainer::Aborted;

/// Why a rank cannot prepare, or stops before the end of its phase.
#[derive(Debug, thiserror::Error)]
pub enum PhaseError {
    /// The data is unusable: missing, empty, wrongly labelled, too many bad images, or changed since the checkpoint.
    #[error("{0}")]
    BadData(String),
    /// The spec cannot run on this data or these inputs, or on no machine like this one.
    #[error("{0}")]
    Refused(String),
    /// This machine cannot run it now; another one may.
    #[error("{0}")]
    Unfit(String),
    /// A loss, gradient or weight is infinite or not a number.
    #[error(
        "{tensor} is not finite at step {step}: lower the learning rate, lengthen the warm-up or use fp32"
    )]
    NonFinite {
        /// Name of the first such tensor, or `loss`.
        tensor: String,
        /// Steps that were committed when it appeared.
        step: Step,
    },
    /// Ranks disagree on their state or on a collective.
    #[error("ranks disagree: {0}")]
    Diverged(String),
    /// A peer, or the link to it, was lost.
    #[error("{reason}")]
    PeerLost {
        /// What was seen of it.
        reason: String,
        /// The peers.
        peers: Vec<Rank>,
    },
    /// The agent ended the attempt.
    #[error("the attempt was aborted: {0}")]
    Aborted(String),
    /// The object store failed.
    #[error("{0}")]
    Storage(String),
    /// A checkpoint or import did not verify, or does not fit.
    #[error("{object}: {problem}")]
    BadCheckpoint {
        /// Key or URL of the object at fault.
        object: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A bug, or libtorch failed.
    #[error("{0}")]
    Internal(String),
}

impl PhaseError {
    /// A checkpoint or import that is damaged or does not fit.
    pub fn bad_checkpoint(object: impl fmt::Display, problem: impl fmt::Display) -> Self {
        Self::BadCheckpoint {
            object: object.to_string(),
            problem: problem.to_string(),
        }
    }

    /// The kind that the coordinator acts on. An aborted rank counts as one that lost its peers: the cause was
    /// reported by another rank.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::BadData(_) => FailureKind::BadData,
            Self::Refused(_) => FailureKind::Refused,
            Self::Unfit(_) => FailureKind::Unfit,
            Self::NonFinite { .. } => FailureKind::NonFinite,
            Self::Diverged(_) => FailureKind::Diverged,
            Self::PeerLost { .. } | Self::Aborted(_) => FailureKind::PeerLost,
            Self::Storage(_) => FailureKind::Storage,
            Self::BadCheckpoint { .. } => FailureKind::BadCheckpoint,
            Self::Internal(_) => FailureKind::Internal,
        }
    }

    /// Key or URL of the checkpoint or import at fault.
    pub fn object(&self) -> Option<&str> {
        if let Self::BadCheckpoint { object, .. } = self {
            Some(object)
        } else {
            None
        }
    }

    /// Steps that were committed before a number was not finite.
    pub fn step(&self) -> Option<Step> {
        match self {
            Self::NonFinite { step, .. } => Some(*step),
            _ => None,
        }
    }
}

impl From<tch::TchError> for PhaseError {
    fn from(error: tch::TchError) -> Self {
        Self::Internal(format!("libtorch: {error}"))
    }
}

impl From<CollectiveError> for PhaseError {
    fn from(error: CollectiveError) -> Self {
        let text = error.to_string();
        match error {
            CollectiveError::Aborted => Self::Aborted(text),
            CollectiveError::PeerLost { rank, .. } => Self::PeerLost {
                reason: text,
                peers: vec![rank],
            },
            CollectiveError::Connect(error) => match error.peers() {
                Some(peers) => Self::PeerLost {
                    reason: text,
                    peers,
                },
                None => Self::Internal(text),
            },
            CollectiveError::Mismatch(_) | CollectiveError::Malformed { .. } => {
                Self::Diverged(text)
            }
            CollectiveError::Operand { .. } | CollectiveError::Nccl(_) => Self::Internal(text),
        }
    }
}

impl From<Aborted> for PhaseError {
    fn from(aborted: Aborted) -> Self {
        Self::Aborted(aborted.reason)
    }
}

impl From<StoreError> for PhaseError {
    fn from(error: StoreError) -> Self {
        Self::Storage(error.to_string())
    }
}

impl From<StepError> for PhaseError {
    fn from(error: StepError) -> Self {
        match error {
            StepError::Collective(error) => error.into(),
            other => Self::Internal(other.to_string()),
        }
    }
}

impl From<LoadError> for PhaseError {
    fn from(error: LoadError) -> Self {
        let text = error.to_string();
        match error {
            LoadError::Aborted => Self::Aborted(text),
            LoadError::Threads { .. } | LoadError::Memory { .. } | LoadError::Panicked { .. } => {
                Self::Internal(text)
            }
            LoadError::Layout(_) | LoadError::Order(_) | LoadError::NoRoom { .. } => {
                Self::Refused(text)
            }
            error if error.is_transient() => Self::Storage(text),
            LoadError::Data(_) | LoadError::Labels(_) | LoadError::TooManyBad { .. } => {
                Self::BadData(text)
            }
        }
    }
}
