//! The phase of a job that can be placed now.

use std::time::Duration;

use crate::core::{Brings, Job, Mono, Phase, PhaseState, Settings};
use crate::place::GangRequest;

/// What a job without a live attempt is ready for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// This phase, the first in spec order whose inputs are done.
    Phase(usize),
    /// This phase, once its newest checkpoint is verified (or the grace is over).
    Verifying(usize),
    /// This phase, once the pause after its last failure is over.
    Pausing {
        /// Which one.
        index: usize,
        /// What is left of it.
        left: Duration,
    },
    /// Nothing: no phase waits.
    Nothing,
}

/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What a job without a live attempt is ready for. One phase of a job runs at a time.
pub fn readiness(job: &Job, settings: &Settings, now: Mono) -> Readiness {
    let inputs_done = |index: usize| {
        let inputs = &job.submission.phases[index].inputs;
        inputs.iter().all(|input| {
            matches!(
                job.phases[input.get() as usize].record.state,
                PhaseState::Done { .. }
            )
        })
    };
    let waiting = |index: &usize| matches!(job.phases[*index].record.state, PhaseState::Waiting);
    let Some(index) = (0..job.phases.len()).find(|index| waiting(index) && inputs_done(*index))
    else {
        return Readiness::Nothing;
    };
    let phase = &job.phases[index];
    let left =
        pause(phase.record.budget.failures, settings).saturating_sub(now.since(phase.waiting));
    let remembers = !phase.record.forget && phase.kept.values().any(|b| *b == Brings::State);
    if !left.is_zero() {
        Readiness::Pausing { index, left }
    } else if !remembers
        && newer_unverified(phase)
        && now.since(phase.waiting) < settings.verify_grace
    {
        Readiness::Verifying(index)
    } else {
        Readiness::Phase(index)
    }
}

/// The pause before the next attempt, after this many failures in a row without progress. There is none after the first.
pub fn pause(failures: u32, settings: &Settings) -> Duration {
    match failures.checked_sub(2) {
        None => Duration::ZERO,
        Some(doublings) => settings
            .backoff
            .saturating_mul(1 << doublings.min(16))
            .min(LONGEST_PAUSE),
    }
}

/// The gang that a job asks for. One that pauses asks, too: nobody behind it takes its devices meanwhile.
pub fn claim(job: &Job, settings: &Settings, now: Mono) -> Option<GangRequest> {
    let index = match readiness(job, settings, now) {
        Readiness::Phase(index) | Readiness::Pausing { index, .. } => index,
        Readiness::Verifying(_) | Readiness::Nothing => return None,
    };
    let (plan, range) = (&job.submission.phases[index], job.range(index));
    Some(GangRequest {
        job: job.id().clone(),
        kind: plan.device,
        min: range.min,
        max: range.max,
        kept: job.phases[index].kept.clone(),
    })
}

/// Whether a committed checkpoint that nobody has re-read is newer than every verified one.
fn newer_unverified(phase: &Phase) -> bool {
    phase
        .checkpoints
        .values()
        .rev()
        .find(|checkpoint| !checkpoint.is_broken())
        .is_some_and(|c| !c.is_verified())
}
