//! The writer: load everything, commit one batch at a time.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use diptych_common::clock;
use diptych_common::ids::{JobId, PhaseIndex};
use diptych_common::spec::{JobDraft, JobSpec};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, Row as _, SqliteConnection};

use super::StoreError;
use super::journal::{Journal, Stored};
use super::lock::Lock;
use super::reader::Reader;
use crate::admit;
use crate::core::{
    Change, CheckpointRecord, Deletion, Failure, FailureKind, Happening, JobRecord, JobState,
    Metric, PhaseRecord, PhaseState, StoredJob, UnixMs, WorkerRecord,
};

/// The one writer. Dropped, it gives the directory free.
#[derive(Debug)]
pub struct Store {
    connection: SqliteConnection,
    _lock: Lock,
}

/// What is committed together.
#[derive(Debug, Default)]
pub struct Batch {
    /// Rows of the state.
    pub changes: Vec<Change>,
    /// Lines of histories.
    pub happened: Vec<Happening>,
    /// Measurements.
    pub points: Vec<Point>,
    /// Objects to delete.
    pub deletions: Vec<Deletion>,
    /// Those of them that are gone, by id.
    pub deleted: Vec<i64>,
}

/// One measurement of a phase.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Whose.
    pub job: JobId,
    /// Of which phase.
    pub phase: PhaseIndex,
    /// What.
    pub metric: Metric,
}

impl Store {
    /// Opens a data directory, made if it is not there, and takes it.
    ///
    /// # Errors
    /// Another coordinator has it; it cannot be written; its database is of a newer coordinator.
    pub async fn open(dir: &Path) -> Result<(Self, Reader), StoreError> {
        std::fs::create_dir_all(dir).map_err(StoreError::file(dir))?;
        let lock = Lock::take(dir)?;
        super::backup::clear(dir)?;
        let options = SqliteConnectOptions::new()
            .filename(dir.join(super::backup::DATABASE))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            // Nobody else writes: whoever holds the database for long is a mistake, and no wait for it helps.
            .busy_timeout(Duration::from_secs(1))
            .disable_statement_logging();
        let mut connection = options.connect().await?;
        sqlx::migrate!("./migrations").run(&mut connection).await?;
        let reader = Reader::open(options)?;
        Ok((
            Self {
                connection,
                _lock: lock,
            },
            reader,
        ))
    }

    /// All jobs, in order of submission. An active job whose spec this version does not accept has failed, and says so: the
    /// others go on.
    async fn jobs(&mut self) -> Result<Vec<StoredJob>, StoreError> {
        let rows = sqlx::query("SELECT id, spec, body FROM jobs ORDER BY sequence")
            .fetch_all(&mut self.connection)
            .await?;
        let mut jobs: Vec<(JobRecord, Rows)> = Vec::with_capacity(rows.len());
        let mut specs = Vec::with_capacity(rows.len());
        let mut positions = std::collections::HashMap::new();
        for row in rows {
            let id = job_id(row.try_get("id")?)?;
            positions.insert(id.clone(), jobs.len());
            specs.push(spec(&id, row.try_get("spec")?));
            jobs.push((decode(&id, row.try_get("body")?)?, Vec::new()));
        }
        let rows = sqlx::query("SELECT job, body FROM phases ORDER BY job, phase")
            .fetch_all(&mut self.connection)
            .await?;
        for row in rows {
            let id = job_id(row.try_get("job")?)?;
            let record: PhaseRecord = decode(&id, row.try_get("body")?)?;
            if let Some(position) = positions.get(&id) {
                jobs[*position].1.push((record, Vec::new()));
            }
        }
        let rows = sqlx::query(
            "SELECT job, phase, body FROM checkpoints ORDER BY job, phase, step, attempt",
        )
        .fetch_all(&mut self.connection)
        .await?;
        for row in rows {
            let id = job_id(row.try_get("job")?)?;
            let record: CheckpointRecord = decode(&id, row.try_get("body")?)?;
            let phase: i64 = row.try_get("phase")?;
            let phases = positions.get(&id).map(|position| &mut jobs[*position].1);
            match phases.and_then(|phases| phases.get_mut(phase as usize)) {
                Some((_, checkpoints)) => checkpoints.push(record),
                None => {
                    return Err(StoreError::row(
                        &id,
                        format!("a checkpoint of phase {phase}, which it has not"),
                    ));
                }
            }
        }
        let mut batch = Batch::default();
        let mut stored = Vec::with_capacity(jobs.len());
        for ((record, phases), spec) in jobs.into_iter().zip(specs) {
            let id = record.id.clone();
            let submission = match spec {
                Ok(spec) => Some(admit::submission(&spec)),
                Err((draft, problem)) => admit::unusable(*draft, problem, phases.len()),
            };
            let submission = submission
                .filter(|submission| submission.phases.len() == phases.len())
                .ok_or_else(|| StoreError::row(&id, "phases are missing"))?;
            let mut job = StoredJob {
                submission: Arc::new(submission),
                record,
                phases,
            };
            give_up_invalid(&mut job, &mut batch);
            stored.push(job);
        }
        if !batch.changes.is_empty() {
            self.commit(&batch).await?;
        }
        Ok(stored)
    }

    /// What is remembered of workers.
    async fn workers(&mut self) -> Result<Vec<WorkerRecord>, StoreError> {
        let rows = sqlx::query("SELECT body FROM workers ORDER BY id")
            .fetch_all(&mut self.connection)
            .await?;
        let decode = |row: sqlx::sqlite::SqliteRow| {
            let body: String = row.try_get("body")?;
            serde_json::from_str(&body).map_err(StoreError::worker)
        };
        rows.into_iter().map(decode).collect()
    }
}

#[async_trait::async_trait]
impl Journal for Store {
    async fn load(&mut self) -> Result<Stored, StoreError> {
        Ok(Stored {
            jobs: self.jobs().await?,
            workers: self.workers().await?,
        })
    }

    async fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let mut transaction = self.connection.begin().await?;
        for change in &batch.changes {
            write(&mut transaction, change).await?;
        }
        for line in &batch.happened {
            happened(&mut transaction, line).await?;
        }
        for point in &batch.points {
            measured(&mut transaction, point).await?;
        }
        for deletion in &batch.deletions {
            sqlx::query("INSERT INTO deletions (body) VALUES (?)")
                .bind(serde_json::to_string(deletion).map_err(StoreError::deletion)?)
                .execute(&mut *transaction)
                .await?;
        }
        for id in &batch.deleted {
            sqlx::query("DELETE FROM deletions WHERE id = ?")
                .bind(id)
                .execute(&mut *transaction)
                .await?;
        }
        Ok(transaction.commit().await?)
    }
}

/// The rows of a job's phases.
type Rows = Vec<(PhaseRecord, Vec<CheckpointRecord>)>;

/// A stored spec; else what is left of it, and what is wrong.
fn spec(id: &JobId, text: String) -> Result<JobSpec, (Box<JobDraft>, String)> {
    let draft: JobDraft = decode(id, text).map_err(|error| {
        let name = id.as_str().to_owned();
        let draft = JobDraft {
            name,
            ..JobDraft::default()
        };
        (Box::new(draft), error.to_string())
    })?;
    JobSpec::try_from(draft.clone()).map_err(|errors| (Box::new(draft), errors.to_string()))
}

/// An active job with an invalid spec fails.
fn give_up_invalid(job: &mut StoredJob, batch: &mut Batch) {
    let Some(problem) = &job.submission.invalid else {
        return;
    };
    let open = |(record, _): &(PhaseRecord, _)| !matches!(record.state, PhaseState::Done { .. });
    let (JobState::Active, Some(index)) = (&job.record.state, job.phases.iter().position(open))
    else {
        return;
    };
    let now = UnixMs::new(clock::unix_millis(clock::now()));
    let message = format!(
        "this version of the coordinator does not accept the spec any more ({problem}): submit it anew"
    );
    let phase = &mut job.phases[index].0;
    phase.state = PhaseState::Failed {
        cause: Failure {
            kind: FailureKind::Refused,
            attempt: phase.attempt,
            rank: None,
            worker: None,
            message: message.clone(),
            log: Vec::new(),
            object: None,
            step: None,
        },
    };
    phase.ended = Some(now);
    let plan = &job.submission.phases[index];
    job.record.state = JobState::Failed {
        ended: now,
        phase: plan.index,
    };
    batch.changes.push(Change::PutPhase {
        job: job.record.id.clone(),
        phase: plan.index,
        record: Box::new(phase.clone()),
    });
    batch.changes.push(Change::PutJob {
        submission: Arc::clone(&job.submission),
        record: job.record.clone(),
    });
    batch.happened.push(Happening {
        job: job.record.id.clone(),
        at: now,
        kind: "job_failed".to_owned(),
        phase: Some(plan.name.clone()),
        attempt: phase.attempt,
        message,
    });
}

async fn write(connection: &mut SqliteConnection, change: &Change) -> Result<(), StoreError> {
    match change {
        Change::PutJob { submission, record } => {
            sqlx::query(
                "INSERT INTO jobs (id, sequence, request, spec, body) VALUES (?, ?, ?, ?, ?)
                 ON CONFLICT (id) DO UPDATE SET body = excluded.body",
            )
            .bind(record.id.as_str())
            .bind(record.sequence as i64)
            .bind(record.request.as_ref().map(|request| request.0.as_str()))
            .bind(encode(&record.id, &submission.draft)?)
            .bind(encode(&record.id, record)?)
            .execute(connection)
            .await?;
        }
        Change::PutPhase { job, phase, record } => {
            sqlx::query("INSERT OR REPLACE INTO phases (job, phase, body) VALUES (?, ?, ?)")
                .bind(job.as_str())
                .bind(i64::from(phase.get()))
                .bind(encode(job, record)?)
                .execute(connection)
                .await?;
        }
        Change::PutCheckpoint { job, phase, record } => {
            sqlx::query("INSERT OR REPLACE INTO checkpoints (job, phase, step, attempt, body) VALUES (?, ?, ?, ?, ?)")
                .bind(job.as_str())
                .bind(i64::from(phase.get()))
                .bind(record.id.step.get() as i64)
                .bind(record.id.attempt.get() as i64)
                .bind(encode(job, record)?)
                .execute(connection)
                .await?;
        }
        Change::DropCheckpoint { job, phase, id } => {
            sqlx::query(
                "DELETE FROM checkpoints WHERE job = ? AND phase = ? AND step = ? AND attempt = ?",
            )
            .bind(job.as_str())
            .bind(i64::from(phase.get()))
            .bind(id.step.get() as i64)
            .bind(id.attempt.get() as i64)
            .execute(connection)
            .await?;
        }
        Change::DropJob { job } => {
            sqlx::query("DELETE FROM jobs WHERE id = ?")
                .bind(job.as_str())
                .execute(connection)
                .await?;
        }
        Change::PutWorker { record } => {
            sqlx::query("INSERT OR REPLACE INTO workers (id, body) VALUES (?, ?)")
                .bind(record.id.as_str())
                .bind(serde_json::to_string(record).map_err(StoreError::worker)?)
                .execute(connection)
                .await?;
        }
        Change::DropWorker { worker } => {
            sqlx::query("DELETE FROM workers WHERE id = ?")
                .bind(worker.as_str())
                .execute(connection)
                .await?;
        }
    }
    Ok(())
}

async fn happened(connection: &mut SqliteConnection, line: &Happening) -> Result<(), StoreError> {
    // A job that was deleted in the same batch has no history any more.
    sqlx::query(
        "INSERT INTO events (job, at_ms, kind, phase, attempt, message)
         SELECT id, ?, ?, ?, ?, ? FROM jobs WHERE id = ?",
    )
    .bind(line.at.get() as i64)
    .bind(&line.kind)
    .bind(line.phase.as_ref().map(|phase| phase.as_str()))
    .bind(line.attempt.get() as i64)
    .bind(&line.message)
    .bind(line.job.as_str())
    .execute(connection)
    .await?;
    Ok(())
}

async fn measured(connection: &mut SqliteConnection, point: &Point) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT OR REPLACE INTO metrics (job, phase, name, step, value)
         SELECT id, ?, ?, ?, ? FROM jobs WHERE id = ?",
    )
    .bind(i64::from(point.phase.get()))
    .bind(&point.metric.name)
    .bind(point.metric.step.get() as i64)
    .bind(point.metric.value)
    .bind(point.job.as_str())
    .execute(connection)
    .await?;
    Ok(())
}

fn job_id(text: String) -> Result<JobId, StoreError> {
    text.parse().map_err(|error| StoreError::Row {
        job: text,
        problem: format!("{error}"),
    })
}

fn encode<T: Serialize>(job: &JobId, value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::row(job, error))
}

fn decode<T: DeserializeOwned>(job: &JobId, text: String) -> Result<T, StoreError> {
    serde_json::from_str(&text).map_err(|error| StoreError::row(job, error))
}
