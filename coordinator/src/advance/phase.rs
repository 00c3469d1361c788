//! Done, and what comes next.

use diptych_common::ids::{JobId, Step};

use crate::core::outcome::checkpoint_words;
use crate::core::{
    Checkpoint, CheckpointId, CheckpointState, Deletion, Effect, Failure, FailureKind, JobState,
    Now, Outcome, Phase, PhaseState, State,
};
use crate::track::{self, Ending};

/// The final checkpoint of a live attempt whose ranks have all finished, if it is committed.
fn last_checkpoint(phase: &Phase) -> Option<&Checkpoint> {
    let placement = phase.placement()?;
    phase.checkpoints.get(&CheckpointId {
        step: placement.finished?,
        attempt: placement.attempt,
    })
}

/// Whether all that a live attempt has to do is done and committed: only its verification is left, which needs none
/// of its ranks.
pub fn work_committed(phase: &Phase) -> bool {
    last_checkpoint(phase).is_some_and(|checkpoint| !checkpoint.is_broken())
}

/// Moves a phase on if its final checkpoint is verified and, where the spec asks for it, its best one; ends the attempt
/// if the final one turned out broken. A best one that did leaves the next best, or the final one, as the result.
pub fn advance(state: &mut State, id: &JobId, index: usize, now: Now, out: &mut Outcome) {
    let Some(job) = state.job(id) else { return };
    let phase = &job.phases[index];
    let (Some(placement), Some(last)) = (phase.placement(), last_checkpoint(phase)) else {
        return;
    };
    match &last.record.state {
        CheckpointState::Committed => {}
        CheckpointState::Verified => match phase.best() {
            Some(best) if !best.is_verified() => {}
            best => {
                let (result, steps) = (best.unwrap_or(last).record.id, last.record.id.step);
                done(state, id, index, (result, steps), now, out);
            }
        },
        CheckpointState::Broken { problem } => {
            let failure = Failure {
                kind: FailureKind::Storage,
                attempt: placement.attempt,
                rank: None,
                worker: None,
                message: format!("the final checkpoint did not verify: {problem}"),
                log: Vec::new(),
                object: None,
                step: None,
            };
            track::end_attempt(state, id, Ending::Failed(failure), now, out);
        }
    }
}

fn done(
    state: &mut State,
    id: &JobId,
    index: usize,
    (result, steps): (CheckpointId, Step),
    now: Now,
    out: &mut Outcome,
) {
    let Some(placement) = state
        .job(id)
        .and_then(|job| job.phases[index].placement())
        .cloned()
    else {
        return;
    };
    let beside = track::recover::standing_by(state, id);
    track::recover::dismiss(state, &beside, "its phase is done", now, out);
    track::ending::release(state, id, &placement, now);
    let Some(job) = state.job_mut(id) else { return };
    let phase = &mut job.phases[index];
    let best = phase.checkpoints.get(&result);
    if let Some(measured) = best.and_then(|best| best.record.best.clone()) {
        phase.record.results = measured;
    }
    phase.record.state = PhaseState::Done {
        last: result,
        steps: Some(steps),
    };
    phase.record.ended = Some(now.wall);
    phase.run = None;
    phase.progress.step = steps;
    for next in &mut job.phases {
        if matches!(next.record.state, PhaseState::Waiting) {
            next.waiting = now.mono;
        }
    }
    let mut what = checkpoint_words(job.submission.phases[index].name.as_str(), result);
    if result.step != steps {
        what = format!("{what}, the best of {steps} steps");
    }
    out.note(
        job,
        now.wall,
        "phase_done",
        Some((index, placement.attempt)),
        what,
    );
    out.effects.push(Effect::Delete(Deletion::Leftovers {
        job: id.clone(),
        phase: job.submission.phases[index].index,
        before: placement.attempt.next(),
    }));
    if job
        .phases
        .iter()
        .all(|phase| matches!(phase.record.state, PhaseState::Done { .. }))
    {
        job.record.state = JobState::Succeeded { ended: now.wall };
        out.note(
            job,
            now.wall,
            "job_succeeded",
            None,
            format!("{} phases done", job.phases.len()),
        );
    }
}
