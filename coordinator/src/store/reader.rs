//! Histories, read beside the writer.

use std::path::Path;

use diptych_common::ids::{JobId, PhaseIndex, Step};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions, SqliteRow};
use sqlx::{Row as _, SqlitePool};

use super::StoreError;
use super::journal::History;
use super::sqlite::Point;
use crate::core::{Deletion, Metric, UnixMs};

/// Rows per query.
const PAGE: i64 = 1000;

/// Reads what is committed. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reader {
    pool: SqlitePool,
}

/// One line of a job's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// Grows.
    pub id: i64,
    /// When.
    pub at: UnixMs,
    /// e.g. `submitted`.
    pub kind: String,
    /// Empty where it concerns the whole job.
    pub phase: String,
    /// 0 for none.
    pub attempt: u64,
    /// For people.
    pub message: String,
}

impl Reader {
    pub(super) fn open(options: SqliteConnectOptions) -> Result<Self, StoreError> {
        Ok(Self {
            pool: SqlitePoolOptions::new()
                .max_connections(4)
                .connect_lazy_with(options.read_only(true)),
        })
    }
}

#[async_trait::async_trait]
impl History for Reader {
    async fn events(&self, job: &JobId, after: i64) -> Result<Vec<StoredEvent>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, at_ms, kind, phase, attempt, message FROM events WHERE job = ? AND id > ? ORDER BY id LIMIT ?",
        )
        .bind(job.as_str())
        .bind(after)
        .bind(PAGE)
        .fetch_all(&self.pool)
        .await?;
        let event = |row: SqliteRow| {
            Ok(StoredEvent {
                id: row.try_get("id")?,
                at: UnixMs::new(row.try_get::<i64, _>("at_ms")? as u64),
                kind: row.try_get("kind")?,
                phase: row
                    .try_get::<Option<String>, _>("phase")?
                    .unwrap_or_default(),
                attempt: row.try_get::<i64, _>("attempt")? as u64,
                message: row.try_get("message")?,
            })
        };
        rows.into_iter().map(event).collect()
    }

    async fn deletions(&self, after: i64) -> Result<Vec<(i64, Deletion)>, StoreError> {
        let rows = sqlx::query("SELECT id, body FROM deletions WHERE id > ? ORDER BY id LIMIT ?")
            .bind(after)
            .bind(PAGE)
            .fetch_all(&self.pool)
            .await?;
        let deletion = |row: SqliteRow| {
            let body: String = row.try_get("body")?;
            let deletion = serde_json::from_str(&body).map_err(StoreError::deletion)?;
            Ok((row.try_get("id")?, deletion))
        };
        rows.into_iter().map(deletion).collect()
    }

    async fn metrics(
        &self,
        job: &JobId,
        phase: PhaseIndex,
        after: Option<(&str, Step)>,
    ) -> Result<Vec<Point>, StoreError> {
        let (name, step) = after.map_or(("", -1), |(name, step)| (name, step.get() as i64));
        let rows = sqlx::query(
            "SELECT name, step, value FROM metrics WHERE job = ? AND phase = ? AND (name, step) > (?, ?)
             ORDER BY name, step LIMIT ?",
        )
        .bind(job.as_str())
        .bind(i64::from(phase.get()))
        .bind(name)
        .bind(step)
        .bind(PAGE)
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|row| point(job, phase, &row))
            .collect()
    }

    async fn last_metrics(
        &self,
        job: &JobId,
        phase: PhaseIndex,
    ) -> Result<Vec<Metric>, StoreError> {
        let rows = sqlx::query(
            "SELECT name, max(step) AS step, value FROM metrics WHERE job = ? AND phase = ? GROUP BY name ORDER BY name",
        )
        .bind(job.as_str())
        .bind(i64::from(phase.get()))
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|row| point(job, phase, &row).map(|point| point.metric))
            .collect()
    }

    async fn copy_to(&self, file: &Path) -> Result<(), StoreError> {
        // One read transaction: commits go on beside it, and are not in it.
        sqlx::query("VACUUM INTO ?")
            .bind(file.to_string_lossy().as_ref())
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}

fn point(job: &JobId, phase: PhaseIndex, row: &SqliteRow) -> Result<Point, StoreError> {
    let metric = Metric {
        name: row.try_get("name")?,
        step: Step::new(row.try_get::<i64, _>("step")? as u64),
        value: row.try_get("value")?,
    };
    Ok(Point {
        job: job.clone(),
        phase,
        metric,
    })
}
