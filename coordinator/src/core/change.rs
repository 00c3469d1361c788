//! What became different, as rows. Computed from before and after, so that no handler can forget a row.

use std::sync::Arc;

use diptych_common::ids::{JobId, PhaseIndex, WorkerId};

use super::checkpoint::{Checkpoint, CheckpointId, CheckpointRecord};
use super::job::{Job, JobRecord, Phase, PhaseRecord, Submission};
use super::record::WorkerRecord;

/// A row to write.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// A job is new or different.
    PutJob {
        /// Its spec; written once.
        submission: Arc<Submission>,
        /// The row.
        record: JobRecord,
    },
    /// A phase is new or different.
    PutPhase {
        /// Whose.
        job: JobId,
        /// Which one.
        phase: PhaseIndex,
        /// The row.
        record: Box<PhaseRecord>,
    },
    /// A checkpoint is new or different.
    PutCheckpoint {
        /// Whose.
        job: JobId,
        /// Of which phase.
        phase: PhaseIndex,
        /// The row.
        record: CheckpointRecord,
    },
    /// A checkpoint is gone.
    DropCheckpoint {
        /// Whose.
        job: JobId,
        /// Of which phase.
        phase: PhaseIndex,
        /// Which one.
        id: CheckpointId,
    },
    /// A job is forgotten, with everything of it.
    DropJob {
        /// Which one.
        job: JobId,
    },
    /// What is remembered of a worker is new or different.
    PutWorker {
        /// The row.
        record: WorkerRecord,
    },
    /// Nothing is to be remembered of a worker.
    DropWorker {
        /// Which one.
        worker: WorkerId,
    },
}

/// A job as the store holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredJob {
    /// The spec.
    pub submission: Arc<Submission>,
    /// The job's row.
    pub record: JobRecord,
    /// A row per phase and its checkpoints, in spec order.
    pub phases: Vec<(PhaseRecord, Vec<CheckpointRecord>)>,
}

/// The rows that take the store from `before` to `after`.
pub(super) fn between(before: Option<&Job>, after: Option<&Job>, changes: &mut Vec<Change>) {
    let Some(job) = after else {
        if let Some(gone) = before {
            changes.push(Change::DropJob {
                job: gone.id().clone(),
            });
        }
        return;
    };
    if before.is_none_or(|before| before.record != job.record) {
        changes.push(Change::PutJob {
            submission: Arc::clone(&job.submission),
            record: job.record.clone(),
        });
    }
    for (index, phase) in job.phases.iter().enumerate() {
        let former = before.and_then(|before| before.phases.get(index));
        let plan = &job.submission.phases[index];
        if former.is_none_or(|former| former.record != phase.record) {
            let record = phase.record.clone();
            changes.push(Change::PutPhase {
                job: job.id().clone(),
                phase: plan.index,
                record: Box::new(record),
            });
        }
        checkpoints_between(job.id(), plan.index, former, phase, changes);
    }
}

fn checkpoints_between(
    job: &JobId,
    index: PhaseIndex,
    before: Option<&Phase>,
    after: &Phase,
    changes: &mut Vec<Change>,
) {
    let former = |id: &CheckpointId| before.and_then(|before| before.checkpoints.get(id));
    for (id, checkpoint) in &after.checkpoints {
        if former(id).is_none_or(|former| former.record != checkpoint.record) {
            let record = checkpoint.record.clone();
            changes.push(Change::PutCheckpoint {
                job: job.clone(),
                phase: index,
                record,
            });
        }
    }
    for id in before.iter().flat_map(|before| before.checkpoints.keys()) {
        if !after.checkpoints.contains_key(id) {
            changes.push(Change::DropCheckpoint {
                job: job.clone(),
                phase: index,
                id: *id,
            });
        }
    }
}

impl StoredJob {
    /// The durable part of a job.
    pub fn of(job: &Job) -> Self {
        let rows = |phase: &Phase| {
            (
                phase.record.clone(),
                phase
                    .checkpoints
                    .values()
                    .map(|checkpoint| checkpoint.record.clone())
                    .collect(),
            )
        };
        Self {
            submission: Arc::clone(&job.submission),
            record: job.record.clone(),
            phases: job.phases.iter().map(rows).collect(),
        }
    }

    /// The job again, with nothing known that is not durable.
    pub fn into_job(self) -> Job {
        let phases = self.phases.into_iter().map(|(record, checkpoints)| {
            let checkpoints = checkpoints
                .into_iter()
                .map(|record| (record.id, Checkpoint::new(record)))
                .collect();
            Phase {
                record,
                checkpoints,
                ..Phase::new()
            }
        });
        Job {
            submission: self.submission,
            record: self.record,
            phases: phases.collect(),
        }
    }
}
