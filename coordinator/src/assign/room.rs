//! A job that waits makes room for itself: what stands by gives way to it, and gangs of lower priority leave by plan.

use std::collections::BTreeSet;

use diptych_common::ids::JobId;
use diptych_common::spec::Device;

use super::leave::leave;
use crate::core::{LeavePlan, LeaveWhy, Now, Outcome, Seat, Stage, State};
use crate::place::{Running, Wait, preempt};
use crate::queue::{Readiness, readiness};
use crate::track::recover;

/// What the first waiting job of each kind of device can do about it.
pub fn make(state: &mut State, waiting: &[(JobId, Wait)], now: Now, out: &mut Outcome) {
    for kind in [Device::Cpu, Device::Cuda] {
        let first = waiting
            .iter()
            .find(|(job, _)| wants(state, job, now) == Some(kind));
        let Some((
            job,
            Wait::NotEnoughDevices {
                needed,
                free,
                total,
            },
        )) = first
        else {
            continue;
        };
        let needed = *needed as usize;
        if *total >= needed && *free < needed {
            for_one(state, job, kind, needed - free, now, out);
        }
    }
}

/// The kind of device that a job waits for.
fn wants(state: &State, id: &JobId, now: Now) -> Option<Device> {
    let job = state.job(id)?;
    match readiness(state, job, now.mono) {
        Readiness::Phase(index) | Readiness::Pausing { index, .. } => {
            Some(job.submission.phases[index].device)
        }
        Readiness::Verifying(_) | Readiness::Returning(_) | Readiness::Nothing => None,
    }
}

fn for_one(
    state: &mut State,
    id: &JobId,
    kind: Device,
    lacking: usize,
    now: Now,
    out: &mut Outcome,
) {
    let live: Vec<JobId> = live_on(state, kind);
    let beside: Vec<Seat> = live
        .iter()
        .flat_map(|other| recover::standing_by(state, other))
        .collect();
    if !beside.is_empty() {
        let reason = format!("job {id} waits for devices");
        let some: Vec<Seat> = beside.into_iter().take(lacking).collect();
        return recover::dismiss(state, &some, &reason, now, out);
    }
    let for_us = |other: &JobId| {
        let job = state.job(other);
        let run = job.and_then(|job| job.phases[job.live()?.0].run.as_ref());
        matches!(
            run.map(|run| &run.stage),
            Some(Stage::Leaving { plan, .. }) if plan.why == LeaveWhy::Preempt(id.clone())
        )
    };
    if live.iter().any(for_us) {
        return;
    }
    let Some(priority) = state.job(id).map(|job| job.submission.priority) else {
        return;
    };
    let running: Vec<Running> = live.iter().filter_map(|job| running(state, job)).collect();
    for given in preempt(lacking, priority, &running) {
        let Some((_, placement)) = state.job(&given.job).and_then(|job| job.live()) else {
            continue;
        };
        let rest = placement.seats.len() - given.ranks;
        let give: BTreeSet<Seat> = placement.seats.iter().skip(rest).cloned().collect();
        let plan = LeavePlan {
            why: LeaveWhy::Preempt(id.clone()),
            give,
            save: rest == 0,
        };
        leave(state, &given.job, plan, now, out);
    }
}

fn live_on(state: &State, kind: Device) -> Vec<JobId> {
    let on_it = |id: &&JobId| {
        let job = state.job(id);
        let device = job.and_then(|job| Some(job.submission.phases[job.live()?.0].device));
        device == Some(kind)
    };
    state.live().iter().filter(on_it).cloned().collect()
}

/// A gang that can leave by plan.
fn running(state: &State, id: &JobId) -> Option<Running> {
    let job = state.job(id)?;
    let (index, placement) = job.live()?;
    let run = job.phases[index].run.as_ref()?;
    let steps = matches!(run.stage, Stage::Training) && placement.begun;
    let done = run.ranks.iter().any(|rank| rank.finished().is_some());
    (steps && !done).then(|| Running {
        job: id.clone(),
        priority: job.submission.priority,
        sequence: job.record.sequence,
        world: placement.seats.len(),
        min: job.range(index).min as usize,
    })
}
