//! How batch norm gets its statistics.

use std::sync::{Arc, Mutex, PoisonError};

use crate::collective::{Collective, CollectiveError};

/// What a forward pass normalises by.
#[derive(Debug, Clone, Copy)]
pub enum Mode<'a> {
    /// The statistics of the batch, per group, over all ranks.
    Train(&'a TrainMode),
    /// The running statistics; nothing is recorded.
    Eval,
}

/// A forward pass in training over whole batch-norm groups. Every rank of the channel makes the same passes in the
/// same order.
#[derive(Debug, Clone)]
pub struct TrainMode {
    /// This rank's rows of each group, which lie one after the other in the batch: `[group][view][lane, j]`.
    pub group_rows: Vec<i64>,
    /// Keep the group statistics for the step's commit. Off in a first pass that is run again.
    pub stage: bool,
    channel: Arc<dyn Collective>,
    failure: Failure,
}

/// Where a collective that fails inside libtorch's backward pass leaves its reason.
#[derive(Debug, Clone, Default)]
pub(crate) struct Failure(Arc<Mutex<Option<CollectiveError>>>);

// === impl TrainMode ===

impl TrainMode {
    /// Statistics over `channel`.
    pub fn new(group_rows: Vec<i64>, stage: bool, channel: Arc<dyn Collective>) -> Self {
        Self {
            group_rows,
            stage,
            channel,
            failure: Failure::default(),
        }
    }

    /// The statistics channel.
    pub(crate) fn channel(&self) -> &Arc<dyn Collective> {
        &self.channel
    }

    /// The reason of a failed backward pass, if it was a collective.
    pub(crate) fn failure(&self) -> &Failure {
        &self.failure
    }
}

// === impl Failure ===

impl Failure {
    pub(crate) fn set(&self, error: CollectiveError) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(error);
    }

    pub(crate) fn take(&self) -> Option<CollectiveError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
