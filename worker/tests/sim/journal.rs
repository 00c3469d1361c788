//! What outlives the coordinator: rows in memory, whose disk may be full or slow.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use diptych_common::ids::{JobId, PhaseIndex, Step};
use diptych_coordinator::core::{Deletion, Metric};
use diptych_coordinator::store::{Batch, History, Journal, Point, StoreError, Stored, StoredEvent};

use crate::world::World;

/// Everything that was committed.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    pub(crate) stored: Stored,
    pub(crate) events: Vec<(JobId, StoredEvent)>,
    deletions: BTreeMap<i64, Deletion>,
    points: Vec<Point>,
    next: i64,
    /// The disk is full.
    pub(crate) full: bool,
}

/// The disk of one world, as the coordinator sees it.
#[derive(Debug)]
pub(crate) struct Disk(pub(crate) Arc<World>);

impl Rows {
    fn next(&mut self) -> i64 {
        self.next += 1;
        self.next
    }

    fn commit(&mut self, batch: &Batch) {
        for change in &batch.changes {
            self.stored.take(change.clone());
        }
        for line in &batch.happened {
            let event = StoredEvent {
                id: self.next(),
                at: line.at,
                kind: line.kind.clone(),
                phase: line
                    .phase
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
                attempt: line.attempt.get(),
                message: line.message.clone(),
            };
            self.events.push((line.job.clone(), event));
        }
        for deletion in &batch.deletions {
            let id = self.next();
            self.deletions.insert(id, deletion.clone());
        }
        for id in &batch.deleted {
            self.deletions.remove(id);
        }
        self.points.extend(batch.points.iter().cloned());
    }
}

impl Disk {
    async fn spin(&self) {
        tokio::time::sleep(Duration::from_millis(self.0.dice(0..4))).await;
    }
}

#[async_trait::async_trait]
impl Journal for Disk {
    async fn load(&mut self) -> Result<Stored, StoreError> {
        Ok(self.0.rows().stored.clone())
    }

    async fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        self.spin().await;
        {
            let mut rows = self.0.rows();
            if rows.full {
                return Err(StoreError::File {
                    path: "coordinator.db".into(),
                    error: io::ErrorKind::StorageFull.into(),
                });
            }
            rows.commit(batch);
        }
        // A crash here is one between the commit and everything that follows from it.
        self.spin().await;
        Ok(())
    }
}

#[async_trait::async_trait]
impl History for Disk {
    async fn events(&self, job: &JobId, after: i64) -> Result<Vec<StoredEvent>, StoreError> {
        let rows = self.0.rows();
        let of_job = rows.events.iter().filter(|(of, _)| of == job);
        let later = of_job.filter(|(_, event)| event.id > after);
        Ok(later.map(|(_, event)| event.clone()).collect())
    }

    async fn deletions(&self, after: i64) -> Result<Vec<(i64, Deletion)>, StoreError> {
        let rows = self.0.rows();
        let later = rows.deletions.range(after + 1..);
        Ok(later
            .map(|(id, deletion)| (*id, deletion.clone()))
            .collect())
    }

    async fn metrics(
        &self,
        job: &JobId,
        phase: PhaseIndex,
        after: Option<(&str, Step)>,
    ) -> Result<Vec<Point>, StoreError> {
        let rows = self.0.rows();
        let mut points: Vec<Point> = rows
            .points
            .iter()
            .filter(|point| point.job == *job && point.phase == phase)
            .filter(|point| {
                after.is_none_or(|after| (&*point.metric.name, point.metric.step) > after)
            })
            .cloned()
            .collect();
        points.sort_by(|one, other| {
            (&one.metric.name, one.metric.step).cmp(&(&other.metric.name, other.metric.step))
        });
        Ok(points)
    }

    async fn last_metrics(
        &self,
        job: &JobId,
        phase: PhaseIndex,
    ) -> Result<Vec<Metric>, StoreError> {
        let mut last = BTreeMap::new();
        for point in self.metrics(job, phase, None).await? {
            last.insert(point.metric.name.clone(), point.metric);
        }
        Ok(last.into_values().collect())
    }
}
