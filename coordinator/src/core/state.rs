//! Everything that the coordinator knows. One owner changes it, in batches that are kept or undone as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use diptych_common::ids::{JobId, WorkerId};

use super::apart::{Apart, Pair};
use super::change::{self, Change};
use super::job::{Job, RequestId};
use super::record::WorkerRecord;
use super::settings::Settings;
use super::time::Mono;
use super::worker::Worker;
use crate::queue::QueueKey;

/// Everything that the coordinator knows.
///
/// Jobs and workers sit behind `Arc`s: readers hold on to one cheaply, and a batch remembers what it touched by
/// holding on to the former one. A batch ends with [`State::keep`], once its changes are durable, or with
/// [`State::undo`].
#[derive(Debug)]
pub struct State {
    settings: Settings,
    jobs: BTreeMap<JobId, Arc<Job>>,
    workers: BTreeMap<WorkerId, Arc<Worker>>,
    /// Of workers of which something is remembered.
    records: BTreeMap<WorkerId, WorkerRecord>,
    /// Pairs of workers that could not reach each other, until when they are not placed together. Not durable.
    apart: BTreeMap<Pair, Mono>,
    next_sequence: u64,
    // Derived from `jobs`.
    requests: BTreeMap<RequestId, JobId>,
    queue: BTreeSet<QueueKey>,
    live: BTreeSet<JobId>,
    batch: Batch,
    dirty: BTreeSet<JobId>,
}

/// What a batch touched, as it was before.
#[derive(Debug, Default)]
struct Batch {
    jobs: BTreeMap<JobId, Option<Arc<Job>>>,
    workers: BTreeMap<WorkerId, Option<Arc<Worker>>>,
    records: BTreeMap<WorkerId, Option<WorkerRecord>>,
}

impl State {
    /// Knows nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            jobs: BTreeMap::new(),
            workers: BTreeMap::new(),
            records: BTreeMap::new(),
            apart: BTreeMap::new(),
            next_sequence: 1,
            requests: BTreeMap::new(),
            queue: BTreeSet::new(),
            live: BTreeSet::new(),
            batch: Batch::default(),
            dirty: BTreeSet::new(),
        }
    }

    /// How long to wait for what.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// All jobs, by id.
    pub fn jobs(&self) -> &BTreeMap<JobId, Arc<Job>> {
        &self.jobs
    }

    /// One job.
    pub fn job(&self, id: &JobId) -> Option<&Arc<Job>> {
        self.jobs.get(id)
    }

    /// The job that a request id made.
    pub fn job_of_request(&self, request: &RequestId) -> Option<&Arc<Job>> {
        self.requests.get(request).and_then(|id| self.jobs.get(id))
    }

    /// All workers, by id.
    pub fn workers(&self) -> &BTreeMap<WorkerId, Arc<Worker>> {
        &self.workers
    }

    /// One worker.
    pub fn worker(&self, id: &WorkerId) -> Option<&Arc<Worker>> {
        self.workers.get(id)
    }

    /// What is remembered of a worker.
    pub fn record(&self, id: &WorkerId) -> Option<&WorkerRecord> {
        self.records.get(id)
    }

    /// What is remembered of workers, by id.
    pub fn records(&self) -> &BTreeMap<WorkerId, WorkerRecord> {
        &self.records
    }

    /// Whether new ranks may be placed on a worker.
    pub fn takes_ranks(&self, worker: &Worker) -> bool {
        let cordoned = |record: &WorkerRecord| record.cordoned.is_some();
        worker.session().is_some()
            && worker.draining.is_none()
            && !self.records.get(&worker.id).is_some_and(cordoned)
    }

    /// Pairs of workers that are not placed together.
    pub fn apart(&self, now: Mono) -> Apart {
        let open = self.apart.iter().filter(|(_, until)| now < **until);
        open.map(|(pair, _)| pair.clone()).collect()
    }

    /// Does not place two workers together until then.
    pub(crate) fn keep_apart(&mut self, one: &WorkerId, other: &WorkerId, until: Mono) {
        self.apart.insert(Apart::pair(one, other), until);
    }

    /// Places a worker beside any other again.
    pub(crate) fn join_again(&mut self, worker: &WorkerId) {
        self.apart
            .retain(|(one, other), _| one != worker && other != worker);
    }

    /// Active jobs without a live attempt, in the order in which they are placed.
    pub fn queue(&self) -> &BTreeSet<QueueKey> {
        &self.queue
    }

    /// Jobs with a live attempt.
    pub fn live(&self) -> &BTreeSet<JobId> {
        &self.live
    }

    /// The position in the order of submission that the next job gets.
    pub fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// A job to change.
    pub(crate) fn job_mut(&mut self, id: &JobId) -> Option<&mut Job> {
        let job = self.jobs.get_mut(id)?;
        self.batch
            .jobs
            .entry(id.clone())
            .or_insert_with(|| Some(Arc::clone(job)));
        self.dirty.insert(id.clone());
        Some(Arc::make_mut(job))
    }

    /// Adds a job.
    pub(crate) fn insert_job(&mut self, job: Job) {
        let id = job.id().clone();
        self.next_sequence = self.next_sequence.max(job.record.sequence + 1);
        let former = self.jobs.insert(id.clone(), Arc::new(job));
        self.batch.jobs.entry(id.clone()).or_insert(former);
        self.dirty.insert(id);
    }

    /// Forgets a job.
    pub(crate) fn remove_job(&mut self, id: &JobId) {
        if let Some(former) = self.jobs.remove(id) {
            self.queue.remove(&QueueKey::of(&former));
            if let Some(request) = &former.record.request {
                self.requests.remove(request);
            }
            self.batch.jobs.entry(id.clone()).or_insert(Some(former));
            self.dirty.insert(id.clone());
        }
    }

    /// A worker to change.
    pub(crate) fn worker_mut(&mut self, id: &WorkerId) -> Option<&mut Worker> {
        let worker = self.workers.get_mut(id)?;
        self.batch
            .workers
            .entry(id.clone())
            .or_insert_with(|| Some(Arc::clone(worker)));
        Some(Arc::make_mut(worker))
    }

    /// Adds a worker, or puts it in the place of its former self.
    pub(crate) fn insert_worker(&mut self, worker: Worker) {
        let id = worker.id.clone();
        let former = self.workers.insert(id.clone(), Arc::new(worker));
        self.batch.workers.entry(id).or_insert(former);
    }

    /// Forgets a worker.
    pub(crate) fn remove_worker(&mut self, id: &WorkerId) {
        if let Some(former) = self.workers.remove(id) {
            self.batch.workers.entry(id.clone()).or_insert(Some(former));
        }
    }

    /// Changes what is remembered of a worker.
    pub(crate) fn remember(&mut self, id: &WorkerId, change: impl FnOnce(&mut WorkerRecord)) {
        let former = self.records.get(id).cloned();
        let mut record = former
            .clone()
            .unwrap_or_else(|| WorkerRecord::new(id.clone()));
        change(&mut record);
        self.batch.records.entry(id.clone()).or_insert(former);
        if record.is_clean() {
            self.records.remove(id);
        } else {
            self.records.insert(id.clone(), record);
        }
    }

    /// Takes over what the store remembers of workers.
    pub(crate) fn recall(&mut self, records: Vec<WorkerRecord>) {
        self.records = records
            .into_iter()
            .map(|record| (record.id.clone(), record))
            .collect();
    }

    /// Brings what is derived up to date; the last thing that `apply` does.
    pub(crate) fn derive(&mut self) {
        for id in std::mem::take(&mut self.dirty) {
            let former = self.batch.jobs.get(&id).and_then(Option::as_ref);
            let job = self.jobs.get(&id);
            if let Some(any) = job.or(former) {
                self.queue.remove(&QueueKey::of(any));
            }
            self.live.remove(&id);
            if let Some(request) = former.and_then(|former| former.record.request.as_ref()) {
                self.requests.remove(request);
            }
            let Some(job) = job else { continue };
            if let Some(request) = &job.record.request {
                self.requests.insert(request.clone(), id.clone());
            }
            if job.live().is_some() {
                self.live.insert(id);
            } else if job.is_active() {
                self.queue.insert(QueueKey::of(job));
            }
        }
    }

    /// Jobs that this batch touched.
    pub fn touched(&self) -> impl Iterator<Item = &JobId> {
        self.batch.jobs.keys()
    }

    /// What became different in this batch and has to be durable.
    pub fn changes(&self) -> Vec<Change> {
        let mut changes = Vec::new();
        for (id, former) in &self.batch.jobs {
            change::between(
                former.as_deref(),
                self.jobs.get(id).map(AsRef::as_ref),
                &mut changes,
            );
        }
        for (id, former) in &self.batch.records {
            match self.records.get(id) {
                Some(record) if Some(record) == former.as_ref() => {}
                Some(record) => changes.push(Change::PutWorker {
                    record: record.clone(),
                }),
                None if former.is_some() => changes.push(Change::DropWorker { worker: id.clone() }),
                None => {}
            }
        }
        changes
    }

    /// Ends the batch: its changes are durable.
    pub fn keep(&mut self) {
        self.batch = Batch::default();
    }

    /// Ends the batch: everything is again as it was at its start.
    pub fn undo(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        for (id, former) in batch.jobs {
            // The derived indices follow through the ordinary path.
            if let Some(job) = self.jobs.remove(&id) {
                self.batch.jobs.insert(id.clone(), Some(job));
            }
            if let Some(former) = former {
                self.jobs.insert(id.clone(), former);
            }
            self.dirty.insert(id);
        }
        self.derive();
        self.batch = Batch::default();
        for (id, former) in batch.records {
            match former {
                Some(former) => self.records.insert(id, former),
                None => self.records.remove(&id),
            };
        }
        for (id, former) in batch.workers {
            match former {
                Some(former) => self.workers.insert(id, former),
                None => self.workers.remove(&id),
            };
        }
    }
}
