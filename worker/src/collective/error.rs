use std::fmt;
use std::net::SocketAddr;

use diptych_common::ids::{Attempt, Rank};

use super::call::{Disagreement, Op};
use super::nccl::NcclError;
use super::operand::OperandProblem;

/// Why a collective did not complete. The gang has failed as a whole: only a new attempt can go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CollectiveError {
    /// `abort()` was called in this process.
    #[error("the collective was aborted on this rank")]
    Aborted,
    /// Another rank is gone.
    #[error("lost rank {rank}: {cause}")]
    PeerLost {
        /// The rank that is gone.
        rank: Rank,
        /// How it went.
        cause: LossCause,
    },
    /// The ranks did not make the same call. Every rank gets this.
    #[error("{0}; all ranks must make the same calls in the same order")]
    Mismatch(Box<Disagreement>),
    /// A peer sent bytes that are no message of this protocol.
    #[error("rank {rank} sent a malformed {what}")]
    Malformed {
        /// The sender.
        rank: Rank,
        /// The message it should have been.
        what: &'static str,
    },
    /// This rank passed something that the operation cannot take. The other ranks see this rank as aborted.
    #[error("{op} refused: {problem}")]
    Operand {
        /// The operation called.
        op: Op,
        /// What is wrong with its arguments.
        problem: OperandProblem,
    },
    /// The gang could not be formed.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// NCCL is missing, or failed, and no peer is known to be the cause.
    #[error(transparent)]
    Nccl(Box<NcclError>),
}

/// How a rank was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LossCause {
    /// Its connection closed or was reset without a word: the process died or the network broke.
    Died,
    /// It said that it gave up: aborted, or failed on its own.
    Aborted,
    /// It left the gang in order, but this rank still waited for it.
    Left,
    /// Another rank reported the loss.
    ReportedBy(Rank),
}

/// Why a gang could not be formed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The data-plane address cannot be listened on.
    #[error("listen on {addr}: {detail}")]
    Bind {
        /// The address asked for.
        addr: String,
        /// The system's words.
        detail: String,
    },
    /// Rank, world and list of peers do not fit each other.
    #[error(
        "rank {rank} of {world} with {peers} peer endpoints: need one endpoint per rank and rank < world"
    )]
    Shape {
        /// This rank.
        rank: Rank,
        /// Ranks in the gang.
        world: u32,
        /// Endpoints given.
        peers: usize,
    },
    /// A peer's endpoint is not `host:port` or does not resolve.
    #[error("endpoint {endpoint:?} of rank {rank}: {detail}")]
    Endpoint {
        /// The peer.
        rank: Rank,
        /// Its endpoint as given.
        endpoint: String,
        /// What is wrong.
        detail: String,
    },
    /// A peer refused this rank.
    #[error("rank {rank} at {addr} refused this rank: {reason}")]
    Refused {
        /// The peer dialled.
        rank: Rank,
        /// Where it was dialled.
        addr: SocketAddr,
        /// The reason it gave.
        reason: Refusal,
    },
    /// Whoever answers at a peer's endpoint does not know the attempt's secret.
    #[error(
        "whoever answers for rank {rank} at {addr} did not prove the secret of attempt {attempt}"
    )]
    Unproven {
        /// The peer dialled.
        rank: Rank,
        /// Where it was dialled.
        addr: SocketAddr,
        /// This rank's attempt.
        attempt: Attempt,
    },
    /// The deadline passed before every peer was connected.
    #[error(
        "deadline passed while connecting; still missing rank(s) {}",
        list(missing)
    )]
    Deadline {
        /// Peers without all their links.
        missing: Vec<Rank>,
    },
    /// The operating system refused what a connection needs (files, threads).
    #[error("{what}: {detail}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The system's words.
        detail: String,
    },
}

/// Why a handshake was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The caller belongs to another job.
    Job,
    /// The caller belongs to another attempt of the job: a stale one, or this rank is stale.
    Attempt,
    /// The caller's rank, or the rank it meant to reach, is not possible here.
    Rank,
    /// The caller believes in another number of ranks.
    World,
    /// The caller did not prove the attempt's secret.
    Secret,
}

impl ConnectError {
    /// The peers that could not be reached; `None` where the fault is this rank's own.
    pub fn peers(&self) -> Option<Vec<Rank>> {
        match self {
            Self::Endpoint { rank, .. }
            | Self::Refused { rank, .. }
            | Self::Unproven { rank, .. } => Some(vec![*rank]),
            Self::Deadline { missing } => Some(missing.clone()),
            Self::Bind { .. } | Self::Shape { .. } | Self::System { .. } => None,
        }
    }
}

impl From<NcclError> for CollectiveError {
    fn from(error: NcclError) -> Self {
        Self::Nccl(Box::new(error))
    }
}

fn list(ranks: &[Rank]) -> String {
    ranks
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

impl fmt::Display for LossCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Died => f.write_str("its connection closed without a word"),
            Self::Aborted => f.write_str("it aborted"),
            Self::Left => f.write_str("it left the gang while this rank still waited for it"),
            Self::ReportedBy(rank) => write!(f, "reported by rank {rank}"),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Job => "wrong job",
            Self::Attempt => "wrong attempt",
            Self::Rank => "wrong rank",
            Self::World => "wrong number of ranks",
            Self::Secret => "wrong secret",
        })
    }
}
