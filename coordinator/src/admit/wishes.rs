//! Cancel, retry, delete, pin.

use std::sync::Arc;

use diptych_common::ids::{JobId, PhaseIndex};

use crate::advance;
use crate::core::outcome::checkpoint_words;
use crate::core::{Budget, CheckpointId, Job, JobState, Now, Outcome, PhaseState, Refusal, State};
use crate::track::{self, Ending};

/// Ends an active job. A cancelled job is cancelled already.
///
/// # Errors
/// No such job; it succeeded or failed.
pub fn cancel(
    state: &mut State,
    id: &JobId,
    reason: String,
    now: Now,
    out: &mut Outcome,
) -> Result<(), Refusal> {
    let job = find(state, id)?;
    match &job.record.state {
        JobState::Active => {}
        JobState::Cancelled { .. } => return Ok(()),
        JobState::Succeeded { .. } => {
            return Err(wrong(id, "has succeeded: there is nothing to cancel"));
        }
        JobState::Failed { .. } => return Err(wrong(id, "has failed: there is nothing to cancel")),
    }
    let why = if reason.is_empty() {
        "cancelled".to_owned()
    } else {
        format!("cancelled: {reason}")
    };
    track::end_attempt(state, id, Ending::Over(why.clone()), now, out);
    track::recover::dismiss_all(state, id, &why, now, out);
    if let Some(job) = state.job_mut(id) {
        job.record.state = JobState::Cancelled {
            ended: now.wall,
            reason,
        };
        out.note(job, now.wall, "cancelled", None, why);
    }
    Ok(())
}

/// Queues a failed or cancelled job again, with a fresh failure budget.
///
/// # Errors
/// No such job; it is active or has succeeded.
pub fn retry(state: &mut State, id: &JobId, now: Now, out: &mut Outcome) -> Result<(), Refusal> {
    match find(state, id)?.record.state {
        JobState::Failed { .. } | JobState::Cancelled { .. } => {}
        JobState::Active => return Err(wrong(id, "is still active: cancel it first")),
        JobState::Succeeded { .. } => {
            return Err(wrong(id, "has succeeded: submit it again to run it again"));
        }
    }
    if let Some(problem) = &find(state, id)?.submission.invalid {
        let why = format!("cannot be run by this version ({problem}): submit it anew");
        return Err(wrong(id, &why));
    }
    let Some(job) = state.job_mut(id) else {
        return Ok(());
    };
    job.record.state = JobState::Active;
    for phase in &mut job.phases {
        if matches!(phase.record.state, PhaseState::Failed { .. }) {
            phase.record.state = PhaseState::Waiting;
            phase.record.ended = None;
        }
        if matches!(phase.record.state, PhaseState::Waiting) {
            phase.record.budget = Budget::default();
            phase.waiting = now.mono;
        }
    }
    out.note(job, now.wall, "retried", None, "queued again".to_owned());
    Ok(())
}

/// An ended job that may be forgotten.
///
/// # Errors
/// No such job; it is active, or a trainer of it may still write.
pub fn deletable<'a>(state: &'a State, id: &JobId) -> Result<&'a Job, Refusal> {
    let job = find(state, id)?;
    if job.is_active() {
        return Err(wrong(id, "is still active: cancel it first"));
    }
    let slots = state.workers().values().flat_map(|worker| &worker.slots);
    if slots
        .into_iter()
        .any(|slot| slot.hold.rank().is_some_and(|rank| &rank.job == id))
    {
        return Err(wrong(
            id,
            "has trainers that are still ending: try again in a few seconds",
        ));
    }
    Ok(job)
}

/// Forgets an ended job.
///
/// # Errors
/// As [`deletable`].
pub fn delete(state: &mut State, id: &JobId) -> Result<(), Refusal> {
    deletable(state, id)?;
    state.remove_job(id);
    Ok(())
}

/// Keeps a checkpoint from being collected, or no longer does.
///
/// # Errors
/// No such job or checkpoint.
pub fn pin(
    state: &mut State,
    (id, phase, checkpoint): (&JobId, PhaseIndex, CheckpointId),
    pinned: bool,
    now: Now,
    out: &mut Outcome,
) -> Result<(), Refusal> {
    find(state, id)?;
    let index = phase.get() as usize;
    let Some(job) = state.job_mut(id) else {
        return Ok(());
    };
    let found = job
        .phases
        .get_mut(index)
        .and_then(|phase| phase.checkpoints.get_mut(&checkpoint));
    let Some(found) = found else {
        let what = format!(
            "phase {index}, step {}, attempt {}",
            checkpoint.step, checkpoint.attempt
        );
        return Err(Refusal::NoSuchCheckpoint {
            job: id.clone(),
            what,
        });
    };
    if found.record.pinned == pinned {
        return Ok(());
    }
    found.record.pinned = pinned;
    let what = checkpoint_words(job.submission.phases[index].name.as_str(), checkpoint);
    let kind = if pinned { "pinned" } else { "unpinned" };
    out.note(job, now.wall, kind, Some((index, checkpoint.attempt)), what);
    advance::collect(state, id, index, now, out);
    Ok(())
}

fn find<'a>(state: &'a State, id: &JobId) -> Result<&'a Arc<Job>, Refusal> {
    state.job(id).ok_or_else(|| Refusal::NoSuchJob(id.clone()))
}

fn wrong(id: &JobId, why: &str) -> Refusal {
    Refusal::WrongState {
        job: id.clone(),
        why: why.to_owned(),
    }
}
