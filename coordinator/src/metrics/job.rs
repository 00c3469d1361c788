//! What is counted of one job.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use diptych_common::ids::{Attempt, JobId, PhaseIndex, PhaseName, Rank, Step};
use diptych_common::operations::{Histogram, Labels};

use crate::core::{CheckpointId, FailureKind, Mono};

/// Seconds of a step, from tiny networks to slow ones.
const STEP_SECONDS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];
/// Seconds of a snapshot.
const STALL_SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];

/// What is counted of one job.
#[derive(Debug, Clone)]
pub(super) struct JobCounts {
    /// Attempts, by what made them necessary.
    pub(super) attempts: BTreeMap<&'static str, u64>,
    /// Phases that had an attempt, by position.
    pub(super) phases: BTreeMap<PhaseIndex, PhaseCounts>,
    /// How long steps stood still for saves.
    pub(super) stalls: Histogram,
    /// Since when it is watched.
    pub(super) since: Mono,
    /// Seconds in steps that were kept.
    pub(super) kept_s: f64,
    /// Since when it has ended, if it has.
    pub(super) over: Option<Mono>,
    pub(super) live: Option<Live>,
    pub(super) former: Option<Former>,
}

/// What is counted of one phase.
#[derive(Debug, Clone)]
pub(super) struct PhaseCounts {
    pub(super) name: PhaseName,
    pub(super) steps: BTreeMap<Rank, Histogram>,
    pub(super) lost_steps: u64,
    pub(super) uploaded: u64,
    /// Checkpoints that are known to be damaged, while they are there.
    broken: BTreeSet<CheckpointId>,
    pub(super) damaged: u64,
}

/// The live attempt.
#[derive(Debug, Clone)]
pub(super) struct Live {
    pub(super) attempt: Attempt,
    pub(super) phase: PhaseIndex,
    pub(super) placed: Mono,
    /// When its ranks were told to begin, and at which step; unknown where that was before this process started.
    pub(super) begun: Option<(Mono, Step)>,
    /// Whether it takes the place of one that failed.
    pub(super) recovers: bool,
    pub(super) stepped: bool,
    last: BTreeMap<Rank, Step>,
}

/// The attempt before.
#[derive(Debug, Clone)]
pub(super) struct Former {
    pub(super) attempt: Attempt,
    pub(super) phase: PhaseIndex,
    pub(super) cause: Cause,
    pub(super) at: Mono,
    /// Ranks that go on and are still in their collectives.
    pub(super) leaving: BTreeSet<Rank>,
    pub(super) reached: Step,
}

/// What makes an attempt necessary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The phase begins.
    Start,
    /// Growth, scale, drain, preemption.
    Planned,
    /// A client wants a job that had ended to go on.
    Retry,
    /// The attempt before it failed.
    Failure(FailureKind),
    /// The one before it ended while no coordinator was there to see why.
    Unknown,
}

impl Cause {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Planned => "planned",
            Self::Retry => "retry",
            Self::Failure(kind) => kind.name(),
            Self::Unknown => "unknown",
        }
    }
}

impl JobCounts {
    pub(super) fn new(now: Mono) -> Self {
        Self {
            attempts: BTreeMap::new(),
            phases: BTreeMap::new(),
            stalls: Histogram::new(STALL_SECONDS),
            since: now,
            kept_s: 0.0,
            over: None,
            live: None,
            former: None,
        }
    }

    /// The live attempt, if it is this one.
    pub(super) fn live(&mut self, attempt: Attempt) -> Option<&mut Live> {
        self.live.as_mut().filter(|live| live.attempt == attempt)
    }

    /// A rank has taken steps, of which each took so long. True where they are the attempt's first.
    pub(super) fn stepped(
        &mut self,
        attempt: Attempt,
        rank: Rank,
        step: Step,
        step_s: f64,
    ) -> bool {
        let Some(live) = self.live.as_mut().filter(|live| live.attempt == attempt) else {
            return false;
        };
        let begun = live.begun.map(|(_, step)| step);
        // Without a beginning, the first report only says where the rank is.
        let before = live.last.insert(rank, step).or(begun).unwrap_or(step);
        let taken = step.get().saturating_sub(before.get());
        if taken == 0 {
            return false;
        }
        if let Some(phase) = self.phases.get_mut(&live.phase) {
            let seconds = phase.steps.entry(rank);
            seconds
                .or_insert_with(|| Histogram::new(STEP_SECONDS))
                .observe_times(step_s, taken);
        }
        if rank.get() == 0 {
            self.kept_s += step_s * taken as f64;
        }
        !std::mem::replace(&mut live.stepped, true)
    }

    /// An attempt begins at this step: what the one before it had done beyond is done again.
    pub(super) fn begins(&mut self, phase: PhaseIndex, step: Step) {
        let Some(former) = self.former.as_mut().filter(|former| former.phase == phase) else {
            return;
        };
        let lost = former.reached.get().saturating_sub(step.get());
        // Counted once.
        former.reached = step;
        if let Some(counts) = self.phases.get_mut(&phase) {
            counts.lost_steps += lost;
            let usual = counts
                .steps
                .get(&Rank::new(0))
                .map_or(0.0, |steps| steps.sum() / (steps.count().max(1)) as f64);
            self.kept_s = (self.kept_s - usual * lost as f64).max(0.0);
        }
    }

    /// Time in steps that were kept, over all time since it is watched.
    pub(super) fn goodput(&self, now: Mono) -> f64 {
        let all = now.since(self.since).as_secs_f64();
        if all > 0.0 {
            (self.kept_s / all).min(1.0)
        } else {
            0.0
        }
    }
}

impl PhaseCounts {
    pub(super) fn new(name: PhaseName) -> Self {
        Self {
            name,
            steps: BTreeMap::new(),
            lost_steps: 0,
            uploaded: 0,
            broken: BTreeSet::new(),
            damaged: 0,
        }
    }

    /// As [`PhaseCounts::new`], of a phase that has damaged checkpoints already.
    pub(super) fn with_broken(name: PhaseName, broken: BTreeSet<CheckpointId>) -> Self {
        Self {
            broken,
            ..Self::new(name)
        }
    }

    /// A checkpoint is damaged, which counts once.
    pub(super) fn broke(&mut self, id: CheckpointId) {
        self.damaged += u64::from(self.broken.insert(id));
    }

    /// A checkpoint is gone.
    pub(super) fn dropped(&mut self, id: CheckpointId) {
        self.broken.remove(&id);
    }
}

impl Live {
    /// An attempt that is placed.
    pub(super) fn new(attempt: Attempt, phase: PhaseIndex, placed: Mono, recovers: bool) -> Self {
        Self {
            attempt,
            phase,
            placed,
            begun: None,
            recovers,
            stepped: false,
            last: BTreeMap::new(),
        }
    }

    /// Its ranks are told to begin. False where they had been told.
    pub(super) fn begin(&mut self, step: Step, now: Mono) -> bool {
        let first = self.begun.is_none() && self.last.is_empty();
        if first {
            self.begun = Some((now, step));
        }
        first
    }
}

impl Former {
    /// A rank is out of its collectives. How long it took from the notice, where it was the last.
    pub(super) fn left(&mut self, rank: Rank, now: Mono) -> Option<Duration> {
        (self.leaving.remove(&rank) && self.leaving.is_empty()).then(|| now.since(self.at))
    }
}

/// Labels of a job's series.
pub(super) fn of_job(job: &JobId) -> Labels {
    vec![("job_id", job.to_string())]
}

/// Labels of a phase's series.
pub(super) fn of_phase(job: &JobId, phase: &PhaseName) -> Labels {
    vec![("job_id", job.to_string()), ("phase", phase.to_string())]
}

/// Labels of a rank's series.
pub(super) fn of_rank(job: &JobId, phase: &PhaseName, rank: Rank) -> Labels {
    let mut labels = of_phase(job, phase);
    labels.push(("rank", rank.to_string()));
    labels
}
