//! The phase of a job that can be placed now.

use std::time::Duration;

use diptych_common::ids::WorkerId;

use crate::core::{Away, Brings, Job, Mono, Phase, PhaseState, Seat, Settings, State};
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
    /// This phase, once a worker is back whose trainers may hold its state (or is known not to come).
    Returning(usize),
    /// Nothing: no phase waits.
    Nothing,
}

/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What a job without a live attempt is ready for. One phase of a job runs at a time.
pub fn readiness(state: &State, job: &Job, now: Mono) -> Readiness {
    let settings = state.settings();
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
    let memory = memory(state, phase, now);
    if !left.is_zero() {
        Readiness::Pausing { index, left }
    } else if memory == Memory::Returning {
        Readiness::Returning(index)
    } else if memory == Memory::None
        && newer_unverified(phase)
        && now.since(phase.waiting) < settings.verify_grace
    {
        Readiness::Verifying(index)
    } else {
        Readiness::Phase(index)
    }
}

/// Whether trainers hold the state that a phase is to go on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Memory {
    /// On a worker that can be reached.
    Here,
    /// On workers that may be back in a moment: a checkpoint would lose what they hold.
    Returning,
    /// Nowhere.
    None,
}

fn memory(state: &State, phase: &Phase, now: Mono) -> Memory {
    if phase.record.forget {
        return Memory::None;
    }
    let brings = |(seat, brings): (&Seat, &Brings)| match brings {
        Brings::State => state.worker(&seat.worker),
        Brings::Readiness | Brings::Process => None,
    };
    let mut holders = phase.kept.iter().filter_map(brings).peekable();
    let suspect = holders.peek().is_some();
    if holders.any(|worker| worker.session().is_some()) {
        return Memory::Here;
    }
    let unheard = |worker: &WorkerId| state.worker(worker).is_none();
    let away = |away: &Away| now < away.until && away.workers.iter().any(unheard);
    if suspect || phase.away.as_ref().is_some_and(away) {
        Memory::Returning
    } else {
        Memory::None
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

/// The gang that a job asks for. One that pauses, or whose state is on its way, asks, too: nobody behind it takes its
/// devices meanwhile.
pub fn claim(state: &State, job: &Job, now: Mono) -> Option<GangRequest> {
    let index = match readiness(state, job, now) {
        Readiness::Phase(index)
        | Readiness::Pausing { index, .. }
        | Readiness::Returning(index) => index,
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
