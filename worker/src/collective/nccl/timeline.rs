use std::fmt;

use tch::{TchError, Tensor};

use super::library::RawStream;
use crate::device::stream::Stream;

/// The order in which the operations of a channel run beside the caller's own.
pub(super) trait Timeline: Send + Sync + fmt::Debug {
    /// What NCCL queues on.
    fn handle(&self) -> Result<RawStream, TchError>;

    /// What is queued from now on waits for what this thread has queued for itself.
    fn after_caller(&self) -> Result<(), TchError>;

    /// What this thread queues for itself from now on waits for what has been queued here.
    fn before_caller(&self) -> Result<(), TchError>;

    /// The tensor's memory stays until what has been queued here has run.
    fn keep(&self, tensor: &Tensor) -> Result<(), TchError>;

    /// Whether all that was queued here has run.
    fn idle(&self) -> Result<bool, TchError>;
}

// === impl Timeline for Stream ===

impl Timeline for Stream {
    fn handle(&self) -> Result<RawStream, TchError> {
        Self::handle(self)
    }

    fn after_caller(&self) -> Result<(), TchError> {
        self.after_current()
    }

    fn before_caller(&self) -> Result<(), TchError> {
        self.before_current()
    }

    fn keep(&self, tensor: &Tensor) -> Result<(), TchError> {
        Self::keep(self, tensor)
    }

    fn idle(&self) -> Result<bool, TchError> {
        Self::idle(self)
    }
}
