//! The phase of a job that can be placed now.

use crate::core::{Job, Mono, Phase, PhaseState, Settings};

/// What a job without a live attempt is ready for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// This phase, the first in spec order whose inputs are done.
    Phase(usize),
    /// This phase, once its newest checkpoint is verified (or the grace is over).
    Verifying(usize),
    /// Nothing: no phase waits.
    Nothing,
}

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
    if newer_unverified(phase) && now.since(phase.waiting) < settings.verify_grace {
        Readiness::Verifying(index)
    } else {
        Readiness::Phase(index)
    }
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
