//! Collectives between the ranks of a gang: one trait, several backends, one conformance suite.
//!
//! Every rank of a gang makes the same calls in the same order on a channel. On host memory no rank returns from a call
//! before every rank has entered it, so a call that returned proves that all ranks reached that point. On device memory
//! calls are queued, and [`settle`](Collective::settle) is what proves it.

mod error; // what a caller branches on
mod call; // what all ranks must agree on before bytes move
mod operand; // dtype, shape and memory of a tensor, checked once
mod sum; // the arithmetic of a reduction, on bytes
pub mod solo; // a gang of one
pub mod tcp; // CPU gangs: sockets
pub mod staged; // device memory through the host's
pub mod nccl; // CUDA gangs: NCCL, and tcp for the host's memory
#[cfg(test)]
mod conformance; // one suite for every backend
#[cfg(test)]
pub(crate) use conformance::pretend_gangs;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use diptych_common::ids::Rank;
use tch::Tensor;

pub use call::{Call, Disagreement, Op};
pub use error::{CollectiveError, ConnectError, LossCause, Refusal};
pub use operand::{Dtype, OperandProblem};

/// Blocking collectives over one channel of a gang.
///
/// All ranks must make the same calls in the same order: a different operation, shape, dtype or root is
/// [`CollectiveError::Mismatch`] on every rank, never a hang. Calls of several threads on one channel are served one
/// after the other. There is no timeout: a lost peer is seen at once, and [`abort`](Collective::abort) frees a blocked
/// call. After any error the whole gang has failed; every later call repeats the first error.
///
/// Tensors must be dense and contiguous and live where the backend works (`tcp`: the host's memory; `nccl`: also that of
/// its device). A call on device memory is queued between the caller's operations before and after it, as if it were one
/// of them, and its errors may come with a later call.
pub trait Collective: Send + Sync + fmt::Debug {
    /// This process's index in the gang, `0..world`.
    fn rank(&self) -> Rank;

    /// Number of ranks in the gang, at least 1.
    fn world(&self) -> usize;

    /// Replaces `tensor` by its elementwise sum over all ranks, the same bits on every rank and in every run with
    /// this world. Takes f32, f64, i64 and bf16 (summed in f32, rounded once); any shape, empty ones too.
    ///
    /// # Errors
    /// See [`CollectiveError`]; the contents of `tensor` are then unspecified.
    fn all_reduce(&self, tensor: &mut Tensor) -> Result<(), CollectiveError>;

    /// [`all_reduce`](Self::all_reduce), but the caller's later operations on the device do not wait for it: `tensor` is
    /// not to be touched before [`join`](Self::join), which may be called by another thread.
    ///
    /// # Errors
    /// As [`all_reduce`](Self::all_reduce).
    fn begin_all_reduce(&self, tensor: &mut Tensor) -> Result<(), CollectiveError> {
        self.all_reduce(tensor)
    }

    /// Concatenates the ranks' tensors along dimension 0, in rank order. `rows_per_rank[r]` is the size of rank r's
    /// dimension 0 (shares may be uneven, or 0); the other dimensions are the same on all ranks. Carries no gradient.
    ///
    /// # Errors
    /// See [`CollectiveError`].
    fn all_gather(&self, tensor: &Tensor, rows_per_rank: &[i64])
    -> Result<Tensor, CollectiveError>;

    /// Replaces `tensor` by the root's.
    ///
    /// # Errors
    /// See [`CollectiveError`]; the contents of `tensor` are then unspecified, except on the root.
    fn broadcast(&self, tensor: &mut Tensor, root: Rank) -> Result<(), CollectiveError>;

    /// Returns when every rank has called it.
    ///
    /// # Errors
    /// See [`CollectiveError`].
    fn barrier(&self) -> Result<(), CollectiveError>;

    /// Whether [`begin_all_reduce`](Self::begin_all_reduce) of device memory waits for no peer. Then one thread has to make
    /// the calls of both channels of a step, in the same order on every rank: a device may not run them side by side.
    fn only_queues(&self) -> bool {
        false
    }

    /// What this thread queues on the device from now on comes after every call made so far.
    ///
    /// # Errors
    /// See [`CollectiveError`].
    fn join(&self) -> Result<(), CollectiveError> {
        Ok(())
    }

    /// Returns when every call made so far has come to its end on this rank, in agreement with all others: the one place
    /// where the host waits for the device.
    ///
    /// # Errors
    /// See [`CollectiveError`].
    fn settle(&self) -> Result<(), CollectiveError> {
        Ok(())
    }

    /// Time that calls on this channel have spent blocked because no peer was ready, since the gang was formed.
    fn waited(&self) -> Duration;

    /// Fails the whole gang (both channels, all ranks) and frees every blocked call: [`CollectiveError::Aborted`]
    /// here, [`CollectiveError::PeerLost`] on the other ranks. May be called from any thread, any number of times.
    fn abort(&self);
}

/// The two independent channels of one attempt: neither blocks the other.
///
/// Dropping all handles to a gang says goodbye to the peers, who may still finish the call they are in.
#[derive(Debug, Clone)]
pub struct Gang {
    /// Batch-norm statistics, embeddings, metrics, agreement: small and latency-bound.
    pub statistics: Arc<dyn Collective>,
    /// Gradient buckets: large, overlapped with backward.
    pub gradients: Arc<dyn Collective>,
    /// Frees every call of either channel from any thread.
    pub abort: AbortHandle,
}

/// Aborts a gang from any thread, also one that is still connecting. Does not keep the gang alive.
#[derive(Clone)]
pub struct AbortHandle(Arc<dyn Fn() + Send + Sync>);

// === impl Gang ===

impl Gang {
    /// This process's index in the gang.
    pub fn rank(&self) -> Rank {
        self.statistics.rank()
    }

    /// Number of ranks in the gang.
    pub fn world(&self) -> usize {
        self.statistics.world()
    }
}

// === impl AbortHandle ===

impl AbortHandle {
    pub(crate) fn new(abort: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(abort))
    }

    /// Fails the gang; see [`Collective::abort`].
    pub fn abort(&self) {
        (self.0)();
    }
}

impl fmt::Debug for AbortHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AbortHandle")
    }
}
