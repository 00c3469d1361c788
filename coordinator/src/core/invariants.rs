//! What always holds, between any two events.

use std::collections::{BTreeMap, BTreeSet};

use super::job::{Job, JobState, Phase, PhaseState, Seat};
use super::state::State;
use super::worker::{Hold, RankId};
use crate::queue::QueueKey;

/// Checks what always holds. Tests call it after each step.
///
/// # Errors
/// Names the first promise that is broken, and by whom.
pub fn check_invariants(state: &State) -> Result<(), String> {
    for job in state.jobs().values() {
        check_job(state, job).map_err(|broken| format!("job {}: {broken}", job.id()))?;
    }
    check_devices(state)?;
    check_derived(state)
}

fn check_job(state: &State, job: &Job) -> Result<(), String> {
    if job.phases.len() != job.submission.phases.len() {
        return Err("phases do not match the spec".into());
    }
    let live = job
        .phases
        .iter()
        .filter(|phase| phase.placement().is_some())
        .count();
    if live > 1 {
        return Err(format!("I1: {live} live attempts"));
    }
    if live > 0 && !job.is_active() {
        return Err("I9: ended, and has a live attempt".into());
    }
    let done = job
        .phases
        .iter()
        .all(|phase| matches!(phase.record.state, PhaseState::Done { .. }));
    if done != matches!(job.record.state, JobState::Succeeded { .. }) {
        return Err("succeeded exactly when every phase is done".into());
    }
    let failed = job
        .phases
        .iter()
        .any(|phase| matches!(phase.record.state, PhaseState::Failed { .. }));
    if failed != matches!(job.record.state, JobState::Failed { .. }) {
        return Err("failed exactly when a phase has failed".into());
    }
    for (index, phase) in job.phases.iter().enumerate() {
        check_phase(state, job, index, phase)
            .map_err(|broken| format!("phase {index}: {broken}"))?;
    }
    Ok(())
}

fn check_phase(state: &State, job: &Job, index: usize, phase: &Phase) -> Result<(), String> {
    if phase.run.is_some() != phase.placement().is_some() {
        return Err("ranks exist exactly while an attempt is live".into());
    }
    if phase.record.attempt > job.record.last_attempt {
        return Err("an attempt that was never issued".into());
    }
    if phase
        .checkpoints
        .keys()
        .any(|id| id.attempt > job.record.last_attempt)
    {
        return Err("a checkpoint of an attempt that was never issued".into());
    }
    if phase.record.budget.failures > state.settings().failures {
        return Err("more failures than the budget allows".into());
    }
    let plan = &job.submission.phases[index];
    let started = !matches!(phase.record.state, PhaseState::Waiting);
    for input in &plan.inputs {
        let input = &job.phases[input.get() as usize];
        let PhaseState::Done { last, .. } = input.record.state else {
            if started {
                return Err("started before its input was done".into());
            }
            continue;
        };
        let finished = matches!(phase.record.state, PhaseState::Done { .. });
        if !finished && !input.checkpoints.contains_key(&last) {
            return Err("I5: the final checkpoint of its input was collected".into());
        }
    }
    if let PhaseState::Done { last, .. } = phase.record.state
        && !phase
            .checkpoints
            .get(&last)
            .is_some_and(|checkpoint| checkpoint.is_verified() || checkpoint.is_broken())
    {
        return Err("I4: done without a verified final checkpoint".into());
    }
    let (Some(placement), Some(run)) = (phase.placement(), &phase.run) else {
        return Ok(());
    };
    if placement.attempt != job.record.last_attempt || placement.attempt != phase.record.attempt {
        return Err("I1: the live attempt is not the newest".into());
    }
    let world = placement.seats.len();
    // Within its range when it is placed; a range that is changed is followed at an agreed step.
    let most = plan.most.max(plan.max) as usize;
    if world != run.ranks.len() || !(1..=most).contains(&world) {
        return Err(format!("I6: a gang of {world}, not of 1 to {most}"));
    }
    if run.reserves.len() != placement.reserves.len() {
        return Err("I6: those that stand by are not those that were placed".into());
    }
    if !phase.kept.is_empty() {
        return Err("trainers wait for an attempt that is live".into());
    }
    if placement.seats.iter().collect::<BTreeSet<_>>().len() != world {
        return Err("I6: two ranks on one device".into());
    }
    if placement
        .resume
        .is_some_and(|resume| !phase.checkpoints.contains_key(&resume))
    {
        return Err("I5: the checkpoint that it started from was collected".into());
    }
    Ok(())
}

fn check_devices(state: &State) -> Result<(), String> {
    let mut held: BTreeMap<&RankId, usize> = BTreeMap::new();
    for worker in state.workers().values() {
        for slot in &worker.slots {
            if worker.is_lost() && slot.hold != Hold::Free {
                return Err(format!("lost worker {} holds ranks", worker.id));
            }
            let seat = Seat {
                worker: worker.id.clone(),
                device: slot.index,
            };
            let rank = match &slot.hold {
                Hold::Held(rank) => rank,
                Hold::Kept(rank) => {
                    let job = state.job(&rank.job);
                    let waits = job.is_some_and(|job| {
                        let mut phases = job.phases.iter();
                        job.is_active() && phases.any(|phase| phase.kept.contains_key(&seat))
                    });
                    if !waits {
                        return Err(format!("I6: {seat:?} is kept for nobody: {rank:?}"));
                    }
                    continue;
                }
                Hold::Free | Hold::Releasing { .. } => continue,
            };
            *held.entry(rank).or_default() += 1;
            let live = state
                .job(&rank.job)
                .and_then(|job| job.live().map(|(_, placement)| placement));
            let seated = live.is_some_and(|placement| {
                placement.attempt == rank.attempt && placement.seat(rank.rank) == Some(&seat)
            });
            if !seated {
                return Err(format!(
                    "I6: {}[{}] is held by {rank:?}, which does not sit there",
                    worker.id, slot.index
                ));
            }
        }
    }
    for job in state.jobs().values() {
        for seat in job.phases.iter().flat_map(|phase| phase.kept.keys()) {
            let worker = state.worker(&seat.worker);
            let slot = worker.and_then(|worker| worker.slot(seat.device));
            let kept = slot.is_some_and(
                |slot| matches!(&slot.hold, Hold::Kept(rank) if &rank.job == job.id()),
            );
            if !kept {
                return Err(format!(
                    "I6: {} waits on {seat:?}, which is not kept for it",
                    job.id()
                ));
            }
        }
    }
    match held.iter().find(|(_, count)| **count > 1) {
        Some((rank, _)) => Err(format!("I6: {rank:?} holds two devices")),
        None => Ok(()),
    }
}

fn check_derived(state: &State) -> Result<(), String> {
    let live: BTreeSet<_> = state
        .jobs()
        .values()
        .filter(|job| job.live().is_some())
        .map(|job| job.id().clone())
        .collect();
    if &live != state.live() {
        return Err("the index of live jobs is stale".into());
    }
    let waiting = state
        .jobs()
        .values()
        .filter(|job| job.is_active() && job.live().is_none());
    let queue: BTreeSet<_> = waiting.map(|job| QueueKey::of(job)).collect();
    if &queue != state.queue() {
        return Err("the queue is stale".into());
    }
    Ok(())
}
