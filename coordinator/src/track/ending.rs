//! An attempt ends before its work is done: abort, free, and again or not.

use std::collections::BTreeSet;

use diptych_common::ids::{JobId, Rank};

use super::budget::{Mark, Verdict, spend};
use crate::core::outcome::checkpoint_words;
use crate::core::{
    Checkpoint, CheckpointState, Failure, FailureKind, Hold, Job, JobState, Now, Order, Outcome,
    PhaseState, Placement, RankId, State,
};

/// Why an attempt ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// Somebody meant it: the failure budget is not touched.
    Planned(String),
    /// Something went wrong.
    Failed(Failure),
}

/// Ends the live attempt of a job, if it has one: aborts it on every agent of its gang and decides whether there is
/// another. Its devices are free once their trainers have exited.
pub fn end_attempt(state: &mut State, id: &JobId, ending: Ending, now: Now, out: &mut Outcome) {
    let Some((index, placement)) = state.job(id).and_then(|job| job.live()) else {
        return;
    };
    let placement = placement.clone();
    let reason = match &ending {
        Ending::Planned(why) => why.clone(),
        Ending::Failed(failure) => failure.to_string(),
    };
    abort(state, id, &placement, reason, out);
    release(state, id, &placement, now);

    let limit = state.settings().failures;
    let Some(job) = state.job_mut(id) else { return };
    let phase = &mut job.phases[index];
    phase.run = None;
    phase.waiting = now.mono;
    phase.record.state = PhaseState::Waiting;
    // They were of a state that was never committed.
    phase.record.results.clear();
    let at = Some((index, placement.attempt));
    match ending {
        Ending::Planned(why) => out.note(job, now.wall, "attempt_ended", at, why),
        Ending::Failed(failure) => {
            out.note(job, now.wall, "attempt_failed", at, failure.to_string());
            failed(job, (index, &placement), failure, limit, now, out);
        }
    }
}

fn failed(
    job: &mut Job,
    (index, placement): (usize, &Placement),
    failure: Failure,
    limit: u32,
    now: Now,
    out: &mut Outcome,
) {
    let fault = fault(job, (index, placement), &failure);
    if fault == Some(Fault::Resume) && fall_back(job, (index, placement), &failure, now, out) {
        return;
    }
    let phase = &mut job.phases[index];
    let mark = Mark {
        committed: phase.newest_committed(),
        reached: phase.progress.reached,
    };
    let at = Some((index, placement.attempt));
    let verdict = match fault {
        Some(Fault::Other(what)) => Verdict::Stop {
            cause: Failure {
                message: format!("{what} could not be loaded: {}", failure.message),
                ..failure
            },
            why: "what this phase starts from cannot be loaded, and there is no other".to_owned(),
        },
        Some(Fault::Resume) | None => spend(&mut phase.record.budget, &failure, mark, limit),
    };
    match verdict {
        Verdict::Again => {
            let message = format!(
                "failure {} of {limit} without progress",
                phase.record.budget.failures
            );
            out.note(job, now.wall, "retrying", at, message);
        }
        Verdict::Stop { cause, why } => {
            let message = format!("{why}; {cause}");
            phase.record.state = PhaseState::Failed { cause };
            phase.record.ended = Some(now.wall);
            let phase = job.submission.phases[index].index;
            job.record.state = JobState::Failed {
                ended: now.wall,
                phase,
            };
            out.note(job, now.wall, "job_failed", at, message);
        }
    }
}

/// What could not be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fault {
    /// The checkpoint that the attempt went on from.
    Resume,
    /// An input, a teacher or an import, in words: nothing older can take its place.
    Other(String),
}

/// What a failure to load is about, if it is one. A trainer that does not name the object means its own checkpoint.
fn fault(job: &Job, (index, placement): (usize, &Placement), failure: &Failure) -> Option<Fault> {
    if failure.kind != FailureKind::BadCheckpoint {
        return None;
    }
    let resume = placement
        .resume
        .and_then(|id| job.phases[index].checkpoints.get(&id));
    let Some(object) = &failure.object else {
        return resume.map(|_| Fault::Resume);
    };
    let folder = |key: &str| key.rsplit_once('/').map(|(folder, _)| folder.to_owned());
    let same = |checkpoint: &Checkpoint| folder(&checkpoint.record.manifest) == folder(object);
    if resume.is_some_and(same) {
        return Some(Fault::Resume);
    }
    let inputs = &job.submission.phases[index].inputs;
    let input = inputs.iter().find_map(|input| {
        let input = input.get() as usize;
        let found = job.phases[input].checkpoints.values().find(|c| same(c))?;
        let name = job.submission.phases[input].name.as_str();
        Some(checkpoint_words(name, found.record.id))
    });
    Some(Fault::Other(match input {
        Some(input) => format!("its input, {input} ({object}),"),
        None => object.clone(),
    }))
}

/// The checkpoint that the attempt started from is no good: the next older verified one is used. Free of charge, for
/// there are only so many. False when the attempt had not started from one.
fn fall_back(
    job: &mut Job,
    (index, placement): (usize, &Placement),
    failure: &Failure,
    now: Now,
    out: &mut Outcome,
) -> bool {
    let phase = &mut job.phases[index];
    let Some(bad) = placement
        .resume
        .and_then(|id| phase.checkpoints.get_mut(&id))
    else {
        return false;
    };
    if bad.is_broken() {
        return false;
    }
    bad.record.state = CheckpointState::Broken {
        problem: failure.message.clone(),
    };
    let bad = bad.record.id;
    let name = job.submission.phases[index].name.as_str();
    let next = match job.phases[index].newest_verified() {
        Some(checkpoint) => format!(
            "going on from {}",
            checkpoint_words(name, checkpoint.record.id)
        ),
        None => "there is no older one: starting again".to_owned(),
    };
    let message = format!(
        "{} could not be loaded ({}); {next}",
        checkpoint_words(name, bad),
        failure.message
    );
    out.note(
        job,
        now.wall,
        "checkpoint_fallback",
        Some((index, placement.attempt)),
        message,
    );
    true
}

fn abort(state: &State, id: &JobId, placement: &Placement, reason: String, out: &mut Outcome) {
    let workers: BTreeSet<_> = placement.seats.iter().map(|seat| &seat.worker).collect();
    for session in workers
        .into_iter()
        .filter_map(|worker| state.worker(worker)?.session())
    {
        let order = Order::Abort {
            job: id.clone(),
            attempt: placement.attempt,
            reason: reason.clone(),
        };
        out.send(session, order);
    }
}

/// The devices of an attempt that has ended wait for their trainers to exit.
pub fn release(state: &mut State, id: &JobId, placement: &Placement, now: Now) {
    for (rank, seat) in (0..).map(Rank::new).zip(&placement.seats) {
        let held = Hold::Held(RankId {
            job: id.clone(),
            attempt: placement.attempt,
            rank,
        });
        let slot = state
            .worker_mut(&seat.worker)
            .and_then(|worker| worker.slot_mut(seat.device));
        if let Some(slot) = slot.filter(|slot| slot.hold == held) {
            let rank = RankId {
                job: id.clone(),
                attempt: placement.attempt,
                rank,
            };
            slot.hold = Hold::Releasing {
                rank,
                since: now.mono,
                pressed: false,
            };
        }
    }
}
