//! What time alone brings about: lost workers, gangs that take too long, verifications that nobody answers for.

use diptych_common::ids::{JobId, Rank, WorkerId};

use super::ending::{Ending, end_attempt};
use super::{checks, stall, workers};
use crate::advance::work_committed;
use crate::assign;
use crate::core::{
    Failure, FailureKind, Job, Link, Mono, Now, Outcome, RankState, Run, Stage, State,
};

/// Time passed.
pub fn tick(state: &mut State, now: Now, out: &mut Outcome) {
    workers::leases(state, now, out);
    let live: Vec<JobId> = state.live().iter().cloned().collect();
    for id in &live {
        if leaves_too_long(state, id, now.mono) {
            assign::left(state, id, now, out);
        }
        if let Some(failure) = state.job(id).and_then(|job| overdue(state, job, now.mono)) {
            end_attempt(state, id, Ending::Failed(failure), now, out);
        }
    }
    for worker in draining(state) {
        assign::drain(state, &worker, now, out);
    }
    assign::grow(state, now, out);
    let unsettled = |job: &&JobId| {
        let phases = state
            .job(job)
            .map(|job| job.phases.as_slice())
            .unwrap_or_default();
        phases
            .iter()
            .flat_map(|phase| phase.checkpoints.values())
            .any(|c| !c.is_verified() && !c.is_broken())
    };
    let waiting = state.queue().iter().map(|key| &key.job);
    let open: Vec<JobId> = live
        .iter()
        .chain(waiting)
        .filter(unsettled)
        .cloned()
        .collect();
    for id in open {
        checks::renew(state, &id, now, out);
    }
}

/// Workers that are being emptied and still run ranks of gangs that step: one that did not step when the wish came does
/// now.
fn draining(state: &State) -> Vec<WorkerId> {
    let workers = state.workers().values();
    let draining = workers.filter(|worker| worker.draining.is_some());
    let steps_on = |worker: &WorkerId| {
        let mut jobs = state.live().iter().filter_map(|id| state.job(id));
        jobs.any(|job| {
            let Some((index, placement)) = job.live() else {
                return false;
            };
            let run = job.phases[index].run.as_ref();
            placement.seats.iter().any(|seat| &seat.worker == worker)
                && run.is_some_and(|run| matches!(run.stage, Stage::Training))
        })
    };
    draining
        .map(|worker| worker.id.clone())
        .filter(steps_on)
        .collect()
}

/// Whether a gang that was told to leave has used up its time for it.
fn leaves_too_long(state: &State, id: &JobId, now: Mono) -> bool {
    let job = state.job(id);
    let run = job.and_then(|job| job.phases[job.live()?.0].run.as_ref());
    matches!(run.map(|run| &run.stage), Some(Stage::Leaving { until, .. }) if now >= *until)
}

/// Why a live attempt has waited for too long, if it has.
fn overdue(state: &State, job: &Job, now: Mono) -> Option<Failure> {
    let (index, placement) = job.live()?;
    let phase = &job.phases[index];
    let run = phase.run.as_ref()?;
    if work_committed(phase) {
        return None;
    }
    let failure = |kind, rank: Option<Rank>, message: String| Failure {
        kind,
        attempt: placement.attempt,
        rank,
        worker: rank
            .and_then(|rank| placement.seats.get(rank.get() as usize))
            .map(|seat| seat.worker.clone()),
        message,
        log: Vec::new(),
        object: None,
        step: None,
    };
    let silent = (0..)
        .map(Rank::new)
        .zip(&run.ranks)
        .find_map(|(rank, member)| match member {
            RankState::Missing { until } if now >= *until => Some(rank),
            _ => None,
        });
    if let Some(rank) = silent {
        let message = "its agent came back without its trainer".to_owned();
        return Some(failure(FailureKind::Crashed, Some(rank), message));
    }
    match &run.stage {
        Stage::Reattaching { until } if now >= *until => {
            let rank = lacking(run, |member| !member.is_attached());
            let message = "it did not come back after the coordinator restarted".to_owned();
            Some(failure(FailureKind::WorkerLost, rank, message))
        }
        Stage::Preparing { until } if now >= *until => {
            let rank = lacking(run, |member| !matches!(member, RankState::Ready { .. }));
            let message =
                "it did not become ready in time; its log says how far it came".to_owned();
            Some(failure(FailureKind::NotReady, rank, message))
        }
        Stage::Doubt { until, symptom, .. } if now >= *until => {
            // A worker that is suspect is about to be lost or back: that is the better answer.
            let suspect = |seat: &crate::core::Seat| {
                state
                    .worker(&seat.worker)
                    .is_some_and(|worker| matches!(worker.link, Link::Suspect { .. }))
            };
            (!placement.seats.iter().any(suspect)).then(|| symptom.clone())
        }
        Stage::Training => stall::stalled((placement, phase), run, state.settings(), now),
        Stage::Reattaching { .. }
        | Stage::Preparing { .. }
        | Stage::Doubt { .. }
        | Stage::Leaving { .. } => None,
    }
}

fn lacking(run: &Run, lacks: impl Fn(&RankState) -> bool) -> Option<Rank> {
    (0..)
        .map(Rank::new)
        .zip(&run.ranks)
        .find(|(_, member)| lacks(member))
        .map(|(rank, _)| rank)
}
