//! What the owner needs of whatever outlives it: SQLite, in production.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use diptych_common::ids::{JobId, PhaseIndex, Step};

use super::StoreError;
use super::reader::StoredEvent;
use super::sqlite::{Batch, Point};
use crate::core::{
    Change, CheckpointRecord, Deletion, Job, Metric, State, StoredJob, WorkerRecord,
};

/// Everything that a coordinator starts from.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stored {
    /// In order of submission.
    pub jobs: Vec<StoredJob>,
    /// What is remembered of workers.
    pub workers: Vec<WorkerRecord>,
}

impl Stored {
    /// What one more change makes of it: the model that every [`Journal`] is held to. A change of a job that is not there
    /// changes nothing.
    pub fn take(&mut self, change: Change) {
        match change {
            Change::PutJob { submission, record } => match self.job(&record.id) {
                Some(stored) => stored.record = record,
                None => self.jobs.push(StoredJob {
                    submission,
                    record,
                    phases: Vec::new(),
                }),
            },
            Change::PutPhase { job, phase, record } => {
                let Some(job) = self.job(&job) else { return };
                match job.phases.get_mut(phase.get() as usize) {
                    Some(row) => row.0 = *record,
                    None => job.phases.push((*record, Vec::new())),
                }
            }
            Change::PutCheckpoint { job, phase, record } => {
                if let Some(rows) = self.checkpoints(&job, phase) {
                    rows.retain(|row| row.id != record.id);
                    rows.push(record);
                    rows.sort_by_key(|row| row.id);
                }
            }
            Change::DropCheckpoint { job, phase, id } => {
                if let Some(rows) = self.checkpoints(&job, phase) {
                    rows.retain(|row| row.id != id);
                }
            }
            Change::DropJob { job } => self.jobs.retain(|stored| stored.record.id != job),
            Change::PutWorker { record } => {
                self.workers.retain(|row| row.id != record.id);
                self.workers.push(record);
                self.workers.sort_by(|one, other| one.id.cmp(&other.id));
            }
            Change::DropWorker { worker } => self.workers.retain(|row| row.id != worker),
        }
    }

    /// Whether these are the rows of a state (I12). Tests call it after each step.
    ///
    /// # Errors
    /// Names what differs.
    pub fn check(&self, state: &State) -> Result<(), String> {
        if !state.records().values().eq(&self.workers) {
            return Err(
                "I12: what the store remembers of workers is not what is known of them".to_owned(),
            );
        }
        let rows: BTreeMap<&JobId, &StoredJob> =
            self.jobs.iter().map(|row| (&row.record.id, row)).collect();
        let differs = |(id, job): &(&JobId, &Arc<Job>)| {
            rows.get(id).is_none_or(|row| **row != StoredJob::of(job))
        };
        match state.jobs().iter().find(differs) {
            Some((id, _)) => Err(format!(
                "I12: the store's rows of job {id} are not the live ones"
            )),
            None if rows.len() == state.jobs().len() => Ok(()),
            None => Err("I12: the store has rows of a job that is not live".to_owned()),
        }
    }

    /// A job's rows.
    pub fn job(&mut self, id: &JobId) -> Option<&mut StoredJob> {
        self.jobs.iter_mut().find(|stored| stored.record.id == *id)
    }

    fn checkpoints(
        &mut self,
        job: &JobId,
        phase: PhaseIndex,
    ) -> Option<&mut Vec<CheckpointRecord>> {
        let phases = &mut self.job(job)?.phases;
        Some(&mut phases.get_mut(phase.get() as usize)?.1)
    }
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

    /// Writes a consistent copy of all that is committed to a file that is not there yet, or empty.
    ///
    /// # Errors
    /// It cannot be written; a store that is no file has none.
    async fn copy_to(&self, file: &Path) -> Result<(), StoreError> {
        let _ = file;
        Err(StoreError::NoCopy)
    }
}
