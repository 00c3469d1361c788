//! An attempt ends before its work is done: abort, free, and again or not.

use std::collections::BTreeSet;

use diptych_common::ids::{JobId, Rank, Step};

use super::budget::{Mark, Verdict, spend};
use super::recover;
use crate::core::outcome::checkpoint_words;
use crate::core::{
    Brings, Checkpoint, CheckpointState, Failure, FailureKind, Hold, Job, JobState, Now,
    Observation, Order, Outcome, PhaseState, Placement, RankId, State,
};

/// Why an attempt ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// Somebody meant it, and the job goes on: the failure budget is not touched.
    Planned(String),
    /// Somebody meant it, and nothing goes on.
    Over(String),
    /// Something went wrong.
    Failed(Failure),
}

impl Ending {
    /// What kind of failure it is, if it is one.
    fn failure(&self) -> Option<FailureKind> {
        match self {
            Self::Planned(_) | Self::Over(_) => None,
            Self::Failed(failure) => Some(failure.kind),
        }
    }
}

/// Ends the live attempt of a job, if it has one: aborts it on every agent of its gang and decides whether there is
/// another. If so, its trainers keep their state and wait for it, but for those that are to blame; the devices of the
/// others are free once they have exited.
pub fn end_attempt(state: &mut State, id: &JobId, ending: Ending, now: Now, out: &mut Outcome) {
    let Some(job) = state.job(id) else { return };
    let Some((index, placement)) = job.live() else {
        return;
    };
    let (job, placement) = (job.clone(), placement.clone());
    let end = to_blame(&job, index, &ending);
    let (kept, away) = match &job.phases[index].run {
        Some(run) => (
            recover::survivors(state, id, (&placement, run), &end),
            recover::away(&placement, run),
        ),
        None => Default::default(),
    };
    let goes_on = !matches!(ending, Ending::Over(_));
    let (failure, going) = (ending.failure(), goes_on.then_some(&kept));
    let ended = Observation::ended((&job, index, &placement), failure, going);
    out.observed.push(ended);
    if failure == Some(FailureKind::Stalled) {
        out.observed
            .extend(Observation::stalled(&job, index, now.mono));
    }
    let (reason, at) = (words(&ending), Some((index, placement.attempt)));
    let failures = state.settings().failures;
    let Some(job) = state.job_mut(id) else { return };
    let phase = &mut job.phases[index];
    phase.run = None;
    phase.waiting = now.mono;
    phase.record.state = PhaseState::Waiting;
    // They were of a state that was never committed.
    phase.record.results.clear();
    let mut blamed = None;
    let goes_on = match ending {
        Ending::Planned(why) => {
            out.note(job, now.wall, "attempt_ended", at, why);
            true
        }
        Ending::Over(why) => {
            out.note(job, now.wall, "attempt_ended", at, why);
            false
        }
        Ending::Failed(failure) => {
            out.note(job, now.wall, "attempt_failed", at, failure.to_string());
            let holds = kept.values().any(|brings| *brings == Brings::State);
            let kept = Some(job.phases[index].progress.step).filter(|_| holds);
            let again = failed(
                job,
                (index, &placement),
                (&failure, kept),
                failures,
                now,
                out,
            );
            let first = job.phases[index].record.budget.failures == 1;
            blamed = Some(failure).filter(|failure| first && failure.kind.is_a_workers_own());
            again
        }
    };
    abort(state, id, &placement, (reason, goes_on, &end), out);
    if goes_on {
        recover::keep(state, id, index, &placement, (kept, away));
    }
    release(state, id, &placement, now);
    if let Some(failure) = blamed {
        blame(state, id, index, &failure, now, out);
    }
}

fn words(ending: &Ending) -> String {
    match ending {
        Ending::Planned(why) | Ending::Over(why) => why.clone(),
        Ending::Failed(failure) => failure.to_string(),
    }
}

/// Ranks that do not go on, although others do: the one that failed, save where it only saw another's failure, or saw
/// what all saw.
fn to_blame(job: &Job, index: usize, ending: &Ending) -> BTreeSet<Rank> {
    let Ending::Failed(failure) = ending else {
        return BTreeSet::new();
    };
    let innocent = match failure.kind {
        FailureKind::PeerLost => true,
        FailureKind::NonFinite => job.submission.phases[index].rewinds,
        _ => false,
    };
    failure.rank.filter(|_| !innocent).into_iter().collect()
}

/// Spends the failure, and says whether there is another attempt.
fn failed(
    job: &mut Job,
    (index, placement): (usize, &Placement),
    (failure, kept): (&Failure, Option<Step>),
    limit: u32,
    now: Now,
    out: &mut Outcome,
) -> bool {
    let fault = fault(job, (index, placement), failure);
    if fault == Some(Fault::Resume) && fall_back(job, (index, placement), failure, now, out) {
        job.phases[index].record.forget = true;
        return true;
    }
    let rewinds = job.submission.phases[index].rewinds;
    let phase = &mut job.phases[index];
    let mark = Mark {
        committed: phase.newest_committed(),
        reached: phase.progress.reached,
        kept,
    };
    let at = Some((index, placement.attempt));
    let budget = &mut phase.record.budget;
    let verdict = match (fault, failure.kind, failure.step) {
        (Some(Fault::Other(what)), ..) => Verdict::Stop {
            cause: Failure {
                message: format!("{what} could not be loaded: {}", failure.message),
                ..failure.clone()
            },
            why: "what this phase starts from cannot be loaded, and there is no other".to_owned(),
        },
        (_, FailureKind::NonFinite, Some(step)) if rewinds => {
            let verdict = spend(budget, failure, mark, (limit, false));
            if verdict == Verdict::Again {
                phase.record.forget = true;
                phase.record.skipped.insert(step);
                let message = format!("the batch of step {step} is skipped from now on");
                out.note(job, now.wall, "batch_skipped", at, message);
            }
            verdict
        }
        _ => spend(budget, failure, mark, (limit, failure.kind.is_terminal())),
    };
    let phase = &mut job.phases[index];
    match verdict {
        Verdict::Again => {
            let message = format!(
                "failure {} of {limit} without progress",
                phase.record.budget.failures
            );
            out.note(job, now.wall, "retrying", at, message);
            true
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
            false
        }
    }
}

/// Holds a failure against the worker whose own it was; too many cordon it.
fn blame(
    state: &mut State,
    id: &JobId,
    index: usize,
    failure: &Failure,
    now: Now,
    out: &mut Outcome,
) {
    let Some(worker) = &failure.worker else {
        return;
    };
    let limit = state.settings().suspect_after;
    let what = format!("job {id}, {failure}");
    let mut suspect = None;
    state.remember(worker, |record| {
        if record.blame(what, limit, now.wall) {
            suspect = record.cordoned.clone();
        }
    });
    if let (Some(why), Some(job)) = (suspect, state.job(id)) {
        let message = format!(
            "{worker} takes no new ranks, {why}; `diptych worker uncordon {worker}` lets it in again"
        );
        let at = Some((index, failure.attempt));
        out.note(job, now.wall, "worker_cordoned", at, message);
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

fn abort(
    state: &State,
    id: &JobId,
    placement: &Placement,
    (reason, keep, end): (String, bool, &BTreeSet<Rank>),
    out: &mut Outcome,
) {
    let workers: BTreeSet<_> = placement.all().map(|(_, seat)| &seat.worker).collect();
    for session in workers
        .into_iter()
        .filter_map(|worker| state.worker(worker)?.session())
    {
        let order = Order::Abort {
            job: id.clone(),
            attempt: placement.attempt,
            reason: reason.clone(),
            keep,
            end: end.iter().copied().collect(),
        };
        out.send(session, order);
    }
}

/// The devices of an attempt that has ended wait for their trainers to exit.
pub fn release(state: &mut State, id: &JobId, placement: &Placement, now: Now) {
    for (rank, seat) in placement.all() {
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
