//! The order of jobs.

use std::cmp::Reverse;

use diptych_common::ids::JobId;

use crate::core::Job;

/// A waiting job. Field order is the policy: priority, then age.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct QueueKey {
    /// Higher first.
    pub priority: Reverse<i32>,
    /// Earlier first; unique.
    pub sequence: u64,
    /// Which job.
    pub job: JobId,
}

impl QueueKey {
    /// A job's place in the order. It never changes.
    pub fn of(job: &Job) -> Self {
        Self {
            priority: Reverse(job.submission.priority),
            sequence: job.record.sequence,
            job: job.id().clone(),
        }
    }
}
