//! What the owner needs of whatever outlives it: SQLite, in production.

use std::fmt;

use diptych_common::ids::{JobId, PhaseIndex, Step};

use super::StoreError;
use super::reader::StoredEvent;
use super::sqlite::{Batch, Point};
use crate::core::{Deletion, Metric, StoredJob, WorkerRecord};

/// Everything that a coordinator starts from.
#[derive(Debug, Clone, Default)]
pub struct Stored {
    /// In order of submission.
    pub jobs: Vec<StoredJob>,
    /// What is remembered of workers.
    pub workers: Vec<WorkerRecord>,
}

/// The one writer.
#[async_trait::async_trait]
pub trait Journal: Send + fmt::Debug {
    /// Everything that was committed.
    ///
    /// # Errors
    /// It cannot be read, or holds what this version cannot understand.
    async fn load(&mut self) -> Result<Stored, StoreError>;

    /// Makes a batch durable, all or nothing, before it returns.
    ///
    /// # Errors
    /// It cannot be written; then nothing of the batch is.
    async fn commit(&mut self, batch: &Batch) -> Result<(), StoreError>;
}

/// Histories, read beside the writer.
#[async_trait::async_trait]
pub trait History: Send + Sync + fmt::Debug {
    /// The next lines of a job's history after the one with this id, a bounded number.
    ///
    /// # Errors
    /// They cannot be read.
    async fn events(&self, job: &JobId, after: i64) -> Result<Vec<StoredEvent>, StoreError>;

    /// The next objects to delete after the ones with this id, a bounded number.
    ///
    /// # Errors
    /// They cannot be read, or understood.
    async fn deletions(&self, after: i64) -> Result<Vec<(i64, Deletion)>, StoreError>;

    /// A page of a phase's measurements, by name and step, after the last of the page before.
    ///
    /// # Errors
    /// They cannot be read.
    async fn metrics(
        &self,
        job: &JobId,
        phase: PhaseIndex,
        after: Option<(&str, Step)>,
    ) -> Result<Vec<Point>, StoreError>;

    /// The last value of each measurement of a phase.
    ///
    /// # Errors
    /// They cannot be read.
    async fn last_metrics(&self, job: &JobId, phase: PhaseIndex)
    -> Result<Vec<Metric>, StoreError>;
}
