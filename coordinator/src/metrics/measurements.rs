//! What is counted: a fold over committed batches. A coordinator that starts again counts from nothing, as Prometheus
//! expects of counters.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use diptych_common::ids::{Attempt, JobId, PhaseIndex};
use diptych_common::operations::Histogram;

use super::job::{Cause, Former, JobCounts, Live, PhaseCounts};
use crate::core::{
    Change, CheckpointState, Effect, Job, JobState, Mono, Observation, Order, Outcome, PhaseState,
    State,
};
use crate::place::Wait;

/// Seconds of a recovery's parts, of detection and of aborts.
const RECOVERY_SECONDS: &[f64] = &[
    0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0,
];
/// Seconds in the queue.
const QUEUE_SECONDS: &[f64] = &[
    0.1, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0,
];
/// Seconds of a commit.
const COMMIT_SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
];

/// How long an ended job keeps its series, so that its last values are scraped.
const LINGER: Duration = Duration::from_secs(3600);
/// Jobs with series of their own; of more, those that ended longest ago go first.
const JOBS: usize = 1000;

/// What was counted since this process started.
#[derive(Debug)]
pub struct Measurements {
    pub(super) jobs: BTreeMap<JobId, JobCounts>,
    /// Since when jobs wait.
    waiting: BTreeMap<JobId, Mono>,
    pub(super) detect: Histogram,
    pub(super) abort: Histogram,
    pub(super) recovery: BTreeMap<&'static str, Histogram>,
    pub(super) queue_wait: Histogram,
    pub(super) commits: Histogram,
    pub(super) blocked: BTreeMap<&'static str, u64>,
}

/// Measurements that the owner fills and others read.
#[derive(Debug, Clone)]
pub struct Measured(Arc<Mutex<Measurements>>);

impl Measured {
    /// Shares them.
    pub fn new(measurements: Measurements) -> Self {
        Self(Arc::new(Mutex::new(measurements)))
    }

    /// Held for moments only: the owner waits for it.
    pub fn lock(&self) -> MutexGuard<'_, Measurements> {
        // Counts are whole after every operation.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Measurements {
    /// Nothing is counted yet; attempts that live are known.
    pub fn new(state: &State, now: Mono) -> Self {
        let mut measurements = Self {
            jobs: BTreeMap::new(),
            waiting: BTreeMap::new(),
            detect: Histogram::new(RECOVERY_SECONDS),
            abort: Histogram::new(RECOVERY_SECONDS),
            recovery: ["detect", "abort", "place", "load", "first_step"]
                .map(|part| (part, Histogram::new(RECOVERY_SECONDS)))
                .into(),
            queue_wait: Histogram::new(QUEUE_SECONDS),
            commits: Histogram::new(COMMIT_SECONDS),
            blocked: BTreeMap::new(),
        };
        for id in state.live() {
            let Some(job) = state.job(id) else { continue };
            let Some((index, placement)) = job.live() else {
                continue;
            };
            let phase = job.submission.phases[index].index;
            let mut counts = JobCounts::new(now);
            counts.live = Some(Live::new(placement.attempt, phase, now, false));
            counts.phases.insert(phase, counts_of(job, index));
            measurements.jobs.insert(id.clone(), counts);
        }
        let waiting = state.queue().iter().map(|key| (key.job.clone(), now));
        measurements.waiting = waiting.collect();
        measurements
    }

    /// Takes a batch that is durable, before the state forgets what it touched.
    pub fn take(&mut self, state: &State, outcomes: &[Outcome], changes: &[Change], now: Mono) {
        for observation in outcomes.iter().flat_map(|outcome| &outcome.observed) {
            self.observed(observation, now);
        }
        for change in changes {
            self.changed(state, change, now);
        }
        for effect in outcomes.iter().flat_map(|outcome| &outcome.effects) {
            self.begun(effect, now);
        }
        for id in state.touched() {
            let job = state.job(id);
            if job.is_some_and(|job| job.is_active() && job.live().is_none()) {
                self.waiting.entry(id.clone()).or_insert(now);
            } else {
                self.waiting.remove(id);
            }
        }
    }

    /// A commit took so long.
    pub fn committed(&mut self, took: Duration) {
        self.commits.observe(took.as_secs_f64());
    }

    /// These gangs could not be placed.
    pub fn blocked(&mut self, waiting: &[(JobId, Wait)]) {
        for (_, wait) in waiting {
            *self.blocked.entry(wait.code()).or_default() += 1;
        }
    }

    fn observed(&mut self, observation: &Observation, now: Mono) {
        match observation {
            Observation::Noticed { after } => {
                self.detect.observe(after.as_secs_f64());
                self.part("detect", *after);
            }
            Observation::Ended {
                job,
                attempt,
                failure,
                leaving,
                reached,
            } => {
                let Some(counts) = self.jobs.get_mut(job) else {
                    return;
                };
                let Some(live) = counts.live.take_if(|live| live.attempt == *attempt) else {
                    return;
                };
                let all_out = leaving.as_ref().is_some_and(BTreeSet::is_empty);
                counts.former = Some(Former {
                    attempt: *attempt,
                    phase: live.phase,
                    cause: failure.map_or(Cause::Planned, Cause::Failure),
                    at: now,
                    leaving: leaving.clone().unwrap_or_default(),
                    reached: *reached,
                });
                if all_out && failure.is_some() {
                    self.aborted(Duration::ZERO);
                }
            }
            Observation::Stepped {
                job,
                attempt,
                rank,
                step,
                step_s,
            } => {
                let Some(counts) = self.jobs.get_mut(job) else {
                    return;
                };
                let first = counts.stepped(*attempt, *rank, *step, *step_s);
                let live = counts.live(*attempt).filter(|live| first && live.recovers);
                if let Some((begun, _)) = live.and_then(|live| live.begun) {
                    self.part("first_step", now.since(begun));
                }
            }
            Observation::Left { job, attempt, rank } => {
                let counts = self.jobs.get_mut(job);
                let former = counts.and_then(|counts| counts.former.as_mut());
                let former = former.filter(|former| former.attempt == *attempt);
                let failed = |former: &&mut Former| matches!(former.cause, Cause::Failure(_));
                let took = former
                    .filter(failed)
                    .and_then(|former| former.left(*rank, now));
                if let Some(took) = took {
                    self.aborted(took);
                }
            }
            Observation::Saved {
                job,
                attempt,
                bytes,
                stall,
            } => {
                let Some(counts) = self.jobs.get_mut(job) else {
                    return;
                };
                if let Some(stall) = stall {
                    counts.stalls.observe(stall.as_secs_f64());
                }
                let phase = counts.live(*attempt).map(|live| live.phase);
                if let Some(phase) = phase.and_then(|phase| counts.phases.get_mut(&phase)) {
                    phase.uploaded += bytes;
                }
            }
        }
    }

    fn changed(&mut self, state: &State, change: &Change, now: Mono) {
        match change {
            Change::PutPhase { job, phase, record } => {
                if let PhaseState::Live(placement) = &record.state {
                    self.placed(state, job, *phase, placement.attempt, now);
                }
            }
            Change::PutJob { record, .. } => self.put(&record.id, &record.state, now),
            Change::DropJob { job } => {
                self.jobs.remove(job);
            }
            Change::PutCheckpoint { job, phase, record } => {
                if matches!(record.state, CheckpointState::Broken { .. })
                    && let Some(found) = state.job(job)
                {
                    let ended = (!found.is_active()).then_some(now);
                    let counts = self.jobs.entry(job.clone()).or_insert_with(|| JobCounts {
                        over: ended,
                        ..JobCounts::new(now)
                    });
                    let name = &found.submission.phases[phase.get() as usize].name;
                    let phase = counts.phases.entry(*phase);
                    phase
                        .or_insert_with(|| PhaseCounts::new(name.clone()))
                        .broke(record.id);
                }
            }
            Change::DropCheckpoint { job, phase, id } => {
                let counts = self.jobs.get_mut(job);
                if let Some(phase) = counts.and_then(|counts| counts.phases.get_mut(phase)) {
                    phase.dropped(*id);
                }
            }
            Change::PutWorker { .. } | Change::DropWorker { .. } => {}
        }
    }

    fn placed(
        &mut self,
        state: &State,
        id: &JobId,
        index: PhaseIndex,
        attempt: Attempt,
        now: Mono,
    ) {
        let Some(job) = state.job(id) else { return };
        let counts = self
            .jobs
            .entry(id.clone())
            .or_insert_with(|| JobCounts::new(now));
        if counts.live(attempt).is_some() {
            return;
        }
        let first = job.phases[index.get() as usize].record.restarts == 0;
        let former = counts.former.as_ref();
        let former = former.filter(|former| former.phase == index || former.cause == Cause::Retry);
        let cause = match former {
            _ if first => Cause::Start,
            Some(former) => former.cause,
            None => Cause::Unknown,
        };
        let failed = former.filter(|_| matches!(cause, Cause::Failure(_)));
        let waited = failed.map(|former| now.since(former.at));
        *counts.attempts.entry(cause.name()).or_default() += 1;
        counts.live = Some(Live::new(attempt, index, now, waited.is_some()));
        let phase = counts.phases.entry(index);
        phase.or_insert_with(|| counts_of(job, index.get() as usize));
        if let Some(waited) = waited {
            self.part("place", waited);
        }
        let queued = self.waiting.remove(id);
        if queued.is_some() || cause == Cause::Start {
            let wait = queued.map_or(Duration::ZERO, |since| now.since(since));
            self.queue_wait.observe(wait.as_secs_f64());
        }
    }

    /// A job has ended, or goes on.
    fn put(&mut self, id: &JobId, state: &JobState, now: Mono) {
        let Some(counts) = self.jobs.get_mut(id) else {
            return;
        };
        if !matches!(state, JobState::Active) {
            counts.live = None;
            counts.over.get_or_insert(now);
            self.forget(now);
        } else if counts.over.take().is_some()
            && let Some(former) = &mut counts.former
        {
            former.cause = Cause::Retry;
        }
    }

    /// The first order to begin that leaves tells what the gang begins with.
    fn begun(&mut self, effect: &Effect, now: Mono) {
        let Effect::Send {
            order: Order::Begin { to, state, .. },
            ..
        } = effect
        else {
            return;
        };
        let Some(counts) = self.jobs.get_mut(&to.job) else {
            return;
        };
        let live = counts.live(to.attempt).filter(|live| live.begun.is_none());
        let Some(live) = live else { return };
        if !live.begin(state.step, now) {
            return;
        }
        let (phase, loads, recovers) = (live.phase, now.since(live.placed), live.recovers);
        counts.begins(phase, state.step);
        if recovers {
            self.part("load", loads);
        }
    }

    fn aborted(&mut self, took: Duration) {
        self.abort.observe(took.as_secs_f64());
        self.part("abort", took);
    }

    fn part(&mut self, part: &'static str, took: Duration) {
        if let Some(part) = self.recovery.get_mut(part) {
            part.observe(took.as_secs_f64());
        }
    }

    /// Bounds the series.
    pub(super) fn forget(&mut self, now: Mono) {
        let lingers = |over: Mono| now.since(over) < LINGER;
        self.jobs
            .retain(|_, counts| counts.over.is_none_or(lingers));
        while self.jobs.len() > JOBS {
            let ended = self
                .jobs
                .iter()
                .filter_map(|(id, counts)| Some((counts.over?, id)));
            let Some(oldest) = ended.min().map(|(_, id)| id.clone()) else {
                return;
            };
            self.jobs.remove(&oldest);
        }
    }
}

fn counts_of(job: &Job, index: usize) -> PhaseCounts {
    let name = job.submission.phases[index].name.clone();
    let checkpoints = job.phases[index].checkpoints.iter();
    let broken = checkpoints.filter(|(_, checkpoint)| checkpoint.is_broken());
    PhaseCounts::with_broken(name, broken.map(|(id, _)| *id).collect())
}
