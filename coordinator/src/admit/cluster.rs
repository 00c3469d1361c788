//! Other numbers of ranks; workers kept free or emptied.

use std::collections::BTreeSet;
use std::time::Duration;

use diptych_common::ids::{JobId, WorkerId};

use crate::assign;
use crate::core::{
    Job, LeavePlan, LeaveWhy, Now, Outcome, PhaseState, Range, Refusal, Scale, Seat, State,
};

/// Sets how many ranks phases may have. A gang that is too large shrinks at an agreed step; one that is too small leaves
/// and waits for devices; one that may be larger grows in its own time.
///
/// # Errors
/// No such job; it has ended; numbers that a phase cannot have, all of them at once.
pub fn scale(state: &mut State, wish: &Scale, now: Now, out: &mut Outcome) -> Result<(), Refusal> {
    let id = &wish.job;
    let job = state
        .job(id)
        .ok_or_else(|| Refusal::NoSuchJob(id.clone()))?;
    if !job.is_active() {
        return Err(Refusal::WrongState {
            job: id.clone(),
            why: "has ended: there is nothing to scale".to_owned(),
        });
    }
    let open = |index: &usize| {
        let phase = &job.phases[*index];
        let named = wish
            .phase
            .is_none_or(|wanted| wanted.get() as usize == *index);
        named && !matches!(phase.record.state, PhaseState::Done { .. })
    };
    let phases: Vec<usize> = (0..job.phases.len()).filter(open).collect();
    if phases.is_empty() {
        return Err(Refusal::WrongState {
            job: id.clone(),
            why: "has no such phase that is not done".to_owned(),
        });
    }
    let mut problems = Vec::new();
    let mut ranges = Vec::new();
    for index in phases {
        match wanted(job, index, wish) {
            Ok(range) => ranges.push((index, range)),
            Err(problem) => problems.push(problem),
        }
    }
    if !problems.is_empty() {
        return Err(Refusal::Ranks {
            job: id.clone(),
            problems,
        });
    }
    let Some(job) = state.job_mut(id) else {
        return Ok(());
    };
    for (index, range) in &ranges {
        let plan = &job.submission.phases[*index];
        let spec = Range {
            min: plan.min,
            max: plan.max,
        };
        job.phases[*index].record.scale = Some(*range).filter(|range| *range != spec);
        let attempt = job.phases[*index].record.attempt;
        let message = format!("{} to {} ranks", range.min, range.max);
        out.note(job, now.wall, "scaled", Some((*index, attempt)), message);
    }
    fit(state, id, now, out);
    Ok(())
}

/// The numbers that a phase would have.
fn wanted(job: &Job, index: usize, wish: &Scale) -> Result<Range, String> {
    let (plan, before) = (&job.submission.phases[index], job.range(index));
    let range = Range {
        min: wish.min.unwrap_or(before.min),
        max: wish.max.unwrap_or(before.max),
    };
    let name = &plan.name;
    if range.min == 0 {
        return Err(format!("phase {name}: at least 1 rank is needed"));
    }
    if range.min > range.max {
        let Range { min, max } = range;
        return Err(format!(
            "phase {name}: min ({min}) is more than max ({max})"
        ));
    }
    if range.max > plan.most {
        return Err(format!(
            "phase {name}: {} is more than the {} ranks that its lanes and groups allow",
            range.max, plan.most
        ));
    }
    Ok(range)
}

/// A live gang that its range does not allow any more leaves by plan.
fn fit(state: &mut State, id: &JobId, now: Now, out: &mut Outcome) {
    let Some(job) = state.job(id) else { return };
    let Some((index, placement)) = job.live() else {
        return;
    };
    let (range, world) = (job.range(index), placement.seats.len());
    if (range.min as usize..=range.max as usize).contains(&world) {
        return;
    }
    let give: BTreeSet<Seat> = placement
        .seats
        .iter()
        .skip(range.max as usize)
        .cloned()
        .collect();
    let plan = LeavePlan {
        why: LeaveWhy::Scale,
        give,
        save: false,
    };
    assign::leave(state, id, plan, now, out);
}

/// Keeps new ranks off a worker, or lets them onto it again and forgets what it was blamed for.
///
/// # Errors
/// No such worker.
pub fn cordon(state: &mut State, worker: &WorkerId, reason: Option<String>) -> Result<(), Refusal> {
    known(state, worker)?;
    if reason.is_none()
        && let Some(worker) = state.worker_mut(worker)
    {
        worker.draining = None;
    }
    state.remember(worker, |record| {
        if reason.is_none() {
            record.blame.clear();
            record.drains = false;
        }
        record.cordoned = reason;
    });
    Ok(())
}

/// Cordons a worker and moves what it runs elsewhere.
///
/// # Errors
/// No such worker.
pub fn drain(
    state: &mut State,
    worker: &WorkerId,
    (reason, deadline): (String, Duration),
    now: Now,
    out: &mut Outcome,
) -> Result<(), Refusal> {
    let reason = if reason.is_empty() {
        "drained".to_owned()
    } else {
        format!("drained: {reason}")
    };
    cordon(state, worker, Some(reason))?;
    state.remember(worker, |record| record.drains = true);
    if let Some(worker) = state.worker_mut(worker) {
        worker.draining = Some(now.mono.after(deadline));
    }
    assign::drain(state, worker, now, out);
    Ok(())
}

fn known(state: &State, worker: &WorkerId) -> Result<(), Refusal> {
    if state.worker(worker).is_none() && state.record(worker).is_none() {
        return Err(Refusal::NoSuchWorker(worker.clone()));
    }
    Ok(())
}
