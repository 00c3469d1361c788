//! A save: every rank's part, then rank 0's manifest, then the commit.

use std::collections::BTreeSet;

use diptych_common::checkpoint::CheckpointKey;
use diptych_common::ids::{Attempt, JobId, Rank, Step};

use super::checks;
use crate::advance;
use crate::core::outcome::checkpoint_words;
use crate::core::{
    Checkpoint, CheckpointId, CheckpointRecord, CheckpointRef, CheckpointState, Ignored, Job,
    Metric, Now, Order, OrderTo, Outcome, PhaseState, Save, State, StoredObject,
};

/// Saves of one attempt that may be on their way at once.
const SAVES: usize = 8;

/// Folder of a save. Its attempt is part of it: a stale one writes elsewhere.
fn save_key(job: &Job, index: usize, step: Step, attempt: Attempt) -> CheckpointKey {
    let plan = &job.submission.phases[index];
    CheckpointKey {
        job: job.id().clone(),
        phase: plan.index,
        name: plan.name.clone(),
        step,
        attempt,
    }
}

/// A rank's part is in the store. With the last one, rank 0 is told to write the manifest.
pub fn part_saved(
    state: &mut State,
    id: &JobId,
    (index, rank, step): (usize, Rank, Step),
    objects: Vec<StoredObject>,
    now: Now,
    out: &mut Outcome,
) {
    let Some(job) = state.job(id) else { return };
    let Some(placement) = job.phases[index].placement() else {
        return;
    };
    let (attempt, seats) = (placement.attempt, placement.seats.clone());
    let folder = format!("{}/", save_key(job, index, step, attempt));
    if objects
        .iter()
        .any(|object| !object.key.starts_with(&folder))
    {
        return out.ignore(Ignored::ForeignObject);
    }
    let committed = CheckpointId { step, attempt };
    if let Some(checkpoint) = job.phases[index].checkpoints.get(&committed) {
        // The commit's announcement may have been lost with a connection.
        let checkpoint = checkpoint.reference(job.submission.phases[index].name.as_str());
        out.ignore(Ignored::Repeated);
        let session = state
            .worker(&seats[rank.get() as usize].worker)
            .and_then(|worker| worker.session());
        if let Some(session) = session {
            let to = OrderTo {
                job: id.clone(),
                attempt,
                rank,
            };
            out.send(session, Order::Committed { to, checkpoint });
        }
        return;
    }
    let Some(run) = state
        .job_mut(id)
        .and_then(|job| job.phases[index].run.as_mut())
    else {
        return;
    };
    if run.saves.len() >= SAVES && !run.saves.contains_key(&step) {
        // A save that never completes (its ranks skipped it) gives way to newer ones.
        if run
            .saves
            .first_key_value()
            .is_some_and(|(oldest, _)| *oldest > step)
        {
            return out.ignore(Ignored::TooMany);
        }
        run.saves.pop_first();
    }
    let save: &mut Save = run.saves.entry(step).or_default();
    if save.parts.insert(rank, objects).is_none() {
        run.pulse.at = now.mono;
    }
    if save.parts.len() < seats.len() {
        return;
    }
    save.ordered = true;
    let objects = save.parts.values().flatten().cloned().collect();
    if let Some(session) = state
        .worker(&seats[0].worker)
        .and_then(|worker| worker.session())
    {
        let to = OrderTo {
            job: id.clone(),
            attempt,
            rank: Rank::new(0),
        };
        out.send(session, Order::WriteManifest { to, step, objects });
    }
}

/// Rank 0's manifest is in the store: the checkpoint is committed, and a worker is told to re-read it.
///
/// A manifest whose parts this process never saw (it restarted in between) is committed too: re-reading decides.
pub fn manifest_written(
    state: &mut State,
    id: &JobId,
    (index, rank): (usize, Rank),
    (written, best): (CheckpointRef, Option<Vec<Metric>>),
    now: Now,
    out: &mut Outcome,
) {
    let Some(job) = state.job(id) else { return };
    let Some(placement) = job.phases[index].placement() else {
        return;
    };
    if rank.get() != 0 {
        return out.ignore(Ignored::NotRankZero);
    }
    let checkpoint = CheckpointId {
        step: written.step,
        attempt: placement.attempt,
    };
    let expected = save_key(job, index, checkpoint.step, checkpoint.attempt)
        .manifest()
        .to_string();
    let digest_ok =
        written.digest.len() == 64 && written.digest.bytes().all(|byte| byte.is_ascii_hexdigit());
    if written.manifest != expected
        || !digest_ok
        || placement
            .resume
            .is_some_and(|from| written.step < from.step)
    {
        return out.ignore(Ignored::ForeignObject);
    }
    if let Some(known) = job.phases[index].checkpoints.get(&checkpoint) {
        out.ignore(Ignored::Repeated);
        if known.record.digest == written.digest {
            announce(state, id, index, checkpoint, out);
        }
        return;
    }
    let Some(job) = state.job_mut(id) else { return };
    let phase = &mut job.phases[index];
    let save = phase
        .run
        .as_mut()
        .and_then(|run| run.saves.remove(&written.step))
        .unwrap_or_default();
    let objects: BTreeSet<_> = save
        .parts
        .values()
        .flatten()
        .map(|object| (&object.key, object.size))
        .collect();
    let record = CheckpointRecord {
        id: checkpoint,
        manifest: written.manifest,
        digest: written.digest,
        bytes: objects.iter().map(|(_, size)| size).sum(),
        at: now.wall,
        state: CheckpointState::Committed,
        pinned: false,
        best,
    };
    phase
        .checkpoints
        .insert(checkpoint, Checkpoint::new(record));
    let what = checkpoint_words(job.submission.phases[index].name.as_str(), checkpoint);
    out.note(
        job,
        now.wall,
        "checkpoint_committed",
        Some((index, checkpoint.attempt)),
        what,
    );
    announce(state, id, index, checkpoint, out);
    checks::order(state, id, (index, checkpoint), now, out);
    advance::advance(state, id, index, now, out);
}

/// Tells every rank that a checkpoint is committed.
fn announce(state: &State, id: &JobId, index: usize, checkpoint: CheckpointId, out: &mut Outcome) {
    let Some(job) = state.job(id) else { return };
    let PhaseState::Live(placement) = &job.phases[index].record.state else {
        return;
    };
    let Some(found) = job.phases[index].checkpoints.get(&checkpoint) else {
        return;
    };
    let reference = found.reference(job.submission.phases[index].name.as_str());
    for (rank, seat) in (0..).map(Rank::new).zip(&placement.seats) {
        if let Some(session) = state
            .worker(&seat.worker)
            .and_then(|worker| worker.session())
        {
            let to = OrderTo {
                job: id.clone(),
                attempt: placement.attempt,
                rank,
            };
            out.send(
                session,
                Order::Committed {
                    to,
                    checkpoint: reference.clone(),
                },
            );
        }
    }
}
