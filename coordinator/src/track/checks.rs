//! A committed checkpoint is re-read by a worker before anything relies on it.

use std::time::Duration;

use diptych_common::ids::{JobId, PhaseIndex};

use crate::advance;
use crate::core::outcome::checkpoint_words;
use crate::core::{
    Check, CheckpointId, CheckpointState, Ignored, Job, Now, Order, Outcome, Refusal, Reread,
    State, Trouble, VerifyReport,
};

/// The longest pause between two tries to read a checkpoint.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Asks a worker to re-read a checkpoint: one of the phase's gang (they reach its storage), the last rank's first,
/// so that it is rarely the one that wrote the manifest; else any. One that was asked in vain is asked again only when
/// all others were. False when no worker can be reached.
pub fn order(
    state: &mut State,
    id: &JobId,
    (index, checkpoint): (usize, CheckpointId),
    now: Now,
    out: &mut Outcome,
) -> bool {
    let Some(job) = state.job(id) else {
        return false;
    };
    let Some(found) = job.phases[index].checkpoints.get(&checkpoint) else {
        return false;
    };
    let gang = job.phases[index]
        .record
        .gang
        .iter()
        .rev()
        .filter_map(|worker| state.worker(worker));
    let mut reachable = gang
        .chain(state.workers().values())
        .filter_map(|worker| Some((worker.id.clone(), worker.session()?)));
    let asked = &found.trouble.asked;
    let fresh = reachable
        .clone()
        .find(|(worker, _)| !asked.contains(worker));
    let round_over = fresh.is_none();
    let Some((worker, session)) = fresh.or_else(|| reachable.next()) else {
        return false;
    };
    out.send(
        session,
        Order::Verify {
            job: id.clone(),
            storage: job.submission.draft.storage.clone(),
            checkpoint: found.reference(job.submission.phases[index].name.as_str()),
        },
    );
    let found = state
        .job_mut(id)
        .and_then(|job| job.phases[index].checkpoints.get_mut(&checkpoint));
    if let Some(found) = found {
        if round_over {
            found.trouble.asked.clear();
        }
        found.trouble.asked.insert(worker.clone());
        found.check = Check::Asked {
            worker,
            since: now.mono,
        };
    }
    true
}

/// A client wants a checkpoint re-read.
///
/// # Errors
/// No such job or checkpoint; no worker can be reached.
pub fn check(
    state: &mut State,
    (id, phase, checkpoint): (&JobId, PhaseIndex, CheckpointId),
    now: Now,
    out: &mut Outcome,
) -> Result<(), Refusal> {
    let index = phase.get() as usize;
    let job = state
        .job(id)
        .ok_or_else(|| Refusal::NoSuchJob(id.clone()))?;
    if !job
        .phases
        .get(index)
        .is_some_and(|phase| phase.checkpoints.contains_key(&checkpoint))
    {
        let what = format!(
            "phase {index}, step {}, attempt {}",
            checkpoint.step, checkpoint.attempt
        );
        return Err(Refusal::NoSuchCheckpoint {
            job: id.clone(),
            what,
        });
    }
    if order(state, id, (index, checkpoint), now, out) {
        Ok(())
    } else {
        let what =
            "no worker is connected that could re-read the checkpoint; start one and try again";
        Err(Refusal::NoWorker(what.to_owned()))
    }
}

/// Orders again what nobody answers for: verifications of unverified checkpoints whose worker is gone or too slow.
pub fn renew(state: &mut State, id: &JobId, now: Now, out: &mut Outcome) {
    let again = state.settings().verify_again;
    let Some(job) = state.job(id) else { return };
    let mut open = Vec::new();
    for (index, phase) in job.phases.iter().enumerate() {
        let unverified = phase
            .checkpoints
            .values()
            .filter(|checkpoint| matches!(checkpoint.record.state, CheckpointState::Committed));
        for checkpoint in unverified {
            let asked = match &checkpoint.check {
                Check::Idle => false,
                Check::Later { until } => now.mono < *until,
                Check::Asked { worker, since } => {
                    now.mono.since(*since) < again
                        && state
                            .worker(worker)
                            .is_some_and(|worker| worker.session().is_some())
                }
            };
            if !asked {
                open.push((index, checkpoint.record.id));
            }
        }
    }
    for which in open {
        order(state, id, which, now, out);
    }
}

/// A worker re-read a checkpoint.
///
/// | it was | whole | damaged | unread |
/// |---|---|---|---|
/// | committed | verified | broken | another worker is asked, after a pause |
/// | verified | still verified | broken | still verified |
/// | broken | verified (the store has recovered) | still broken | still broken |
pub fn verified(state: &mut State, report: VerifyReport, now: Now, out: &mut Outcome) {
    if state
        .worker(&report.worker)
        .and_then(|worker| worker.session())
        != Some(report.session)
    {
        return out.ignore(Ignored::OldSession);
    }
    let Some(job) = state.job(&report.job) else {
        return out.ignore(Ignored::UnknownCheckpoint);
    };
    let Some(index) = job.index_of(&report.checkpoint.phase) else {
        return out.ignore(Ignored::UnknownCheckpoint);
    };
    let found = job.phases[index].checkpoints.values().find(|checkpoint| {
        checkpoint.record.manifest == report.checkpoint.manifest
            && checkpoint.record.digest == report.checkpoint.digest
    });
    let Some(id) = found.map(|checkpoint| checkpoint.record.id) else {
        return out.ignore(Ignored::UnknownCheckpoint);
    };
    let pause = state.settings().unread_pause;
    let Some(job) = state.job_mut(&report.job) else {
        return;
    };
    let Some(checkpoint) = job.phases[index].checkpoints.get_mut(&id) else {
        return;
    };
    checkpoint.check = Check::Idle;
    checkpoint.reports += 1;
    let next = match report.reread {
        Reread::Whole => CheckpointState::Verified,
        Reread::Damaged(problem) => CheckpointState::Broken { problem },
        Reread::Unread(reason) => {
            let said = format!("{} could not read it: {reason}", report.worker);
            return unread(job, (index, id), said, pause, now, out);
        }
    };
    checkpoint.trouble = Trouble::default();
    if checkpoint.record.state == next {
        return out.ignore(Ignored::Repeated);
    }
    let (kind, problem) = match &next {
        CheckpointState::Broken { problem } => ("checkpoint_broken", format!(": {problem}")),
        CheckpointState::Verified | CheckpointState::Committed => {
            ("checkpoint_verified", String::new())
        }
    };
    checkpoint.record.state = next;
    let what = checkpoint_words(job.submission.phases[index].name.as_str(), id);
    out.note(
        job,
        now.wall,
        kind,
        Some((index, id.attempt)),
        what + &problem,
    );
    advance::advance(state, &report.job, index, now, out);
    advance::collect(state, &report.job, index, now, out);
}

/// A worker could not read a checkpoint, which says nothing of it: another one is asked, after a pause that grows.
fn unread(
    job: &mut Job,
    (index, id): (usize, CheckpointId),
    said: String,
    pause: Duration,
    now: Now,
    out: &mut Outcome,
) {
    let Some(checkpoint) = job.phases[index].checkpoints.get_mut(&id) else {
        return;
    };
    let pause = pause
        .saturating_mul(1 << checkpoint.trouble.tries.min(16))
        .min(LONGEST_PAUSE);
    checkpoint.check = Check::Later {
        until: now.mono.after(pause),
    };
    checkpoint.trouble.tries += 1;
    if checkpoint.trouble.last.as_ref() == Some(&said) {
        return;
    }
    checkpoint.trouble.last = Some(said.clone());
    let what = checkpoint_words(job.submission.phases[index].name.as_str(), id);
    let at = Some((index, id.attempt));
    out.note(
        job,
        now.wall,
        "checkpoint_unread",
        at,
        format!("{what}: {said}"),
    );
}
