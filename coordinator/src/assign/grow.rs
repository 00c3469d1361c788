//! Ranks that stand by beside a gang, and when they join it.

use std::collections::BTreeSet;

use diptych_common::ids::{JobId, Rank};
use diptych_common::spec::Device;

use super::attempt::{prepare, solution};
use super::leave::leave;
use crate::core::{
    Apart, LeavePlan, LeaveWhy, Mono, Now, Outcome, PhaseState, Placement, RankState, Run, Seat,
    Settings, Stage, State,
};
use crate::place::Problem;

/// What a live gang does about devices that nobody needs.
#[derive(Debug, PartialEq, Eq)]
enum Growth {
    /// So many more trainers should stand by.
    StandBy(usize),
    /// Those that stand by are ready, and the gang has been as it is for long enough.
    Join,
    Nothing,
}

/// Lets gangs that could be larger, or that want spares, prepare trainers on free devices, and grow once these are ready.
/// Only while no job waits for such devices.
pub fn grow(state: &mut State, now: Now, out: &mut Outcome) {
    let apart = state.apart(now.mono);
    for id in state.live().clone() {
        let Some(job) = state.job(&id) else { continue };
        let Some((index, placement)) = job.live() else {
            continue;
        };
        let (plan, range) = (&job.submission.phases[index], job.range(index));
        let Some(run) = &job.phases[index].run else {
            continue;
        };
        let wishes = Wishes {
            max: range.max as usize,
            spares: plan.spares as usize,
        };
        match growth((placement, run), wishes, &apart, state.settings(), now.mono) {
            Growth::StandBy(count) => stand_by(state, &id, index, count, now, out),
            Growth::Join => {
                let plan = LeavePlan {
                    why: LeaveWhy::Grow,
                    give: BTreeSet::new(),
                    save: false,
                };
                leave(state, &id, plan, now, out);
            }
            Growth::Nothing => {}
        }
    }
}

/// What a phase would have.
#[derive(Debug, Clone, Copy)]
struct Wishes {
    max: usize,
    spares: usize,
}

fn growth(
    (placement, run): (&Placement, &Run),
    wishes: Wishes,
    apart: &Apart,
    settings: &Settings,
    now: Mono,
) -> Growth {
    let (Stage::Training, Some(begun)) = (&run.stage, run.begun) else {
        return Growth::Nothing;
    };
    if placement.finished.is_some() || run.ranks.iter().any(|rank| rank.finished().is_some()) {
        return Growth::Nothing;
    }
    let lacking = wishes.max.saturating_sub(placement.seats.len());
    let there = |(seat, member): &(&Seat, &RankState)| {
        !matches!(member, RankState::Left { .. }) && apart.agrees(&placement.seats, &seat.worker)
    };
    let standing: Vec<_> = placement
        .reserves
        .iter()
        .zip(&run.reserves)
        .filter(there)
        .collect();
    let ready = standing
        .iter()
        .filter(|(_, member)| member.is_ready())
        .count();
    let standing = standing.len();
    let quiet = now.since(begun);
    if standing < lacking + wishes.spares && quiet >= settings.settle {
        return Growth::StandBy(lacking + wishes.spares - standing);
    }
    let join = lacking > 0 && ready > 0 && (ready == standing || ready >= lacking);
    if join && quiet >= settings.grow_after {
        return Growth::Join;
    }
    Growth::Nothing
}

/// Prepares trainers beside a gang on free devices, as far as there are any that no job waits for.
fn stand_by(
    state: &mut State,
    id: &JobId,
    index: usize,
    count: usize,
    now: Now,
    out: &mut Outcome,
) {
    let Some(job) = state.job(id) else { return };
    let kind = job.submission.phases[index].device;
    let problem = Problem::of(state, now.mono);
    let Some((_, placement)) = job.live() else {
        return;
    };
    let free = problem.free.iter().filter(|device| {
        device.kind == kind && problem.apart.agrees(&placement.seats, &device.seat.worker)
    });
    let seats: Vec<Seat> = free.map(|device| device.seat.clone()).take(count).collect();
    if seats.is_empty() || wanted(state, kind, now) {
        return;
    }
    let Some(job) = state.job_mut(id) else { return };
    let phase = &mut job.phases[index];
    let (PhaseState::Live(placement), Some(run)) = (&mut phase.record.state, &mut phase.run) else {
        return;
    };
    let attempt = placement.attempt;
    let world = placement.seats.len();
    let mut ranks = Vec::with_capacity(seats.len());
    for seat in &seats {
        ranks.push(Rank::new((world + placement.reserves.len()) as u32));
        placement.reserves.push(seat.clone());
        run.reserves.push(RankState::Starting);
    }
    let places: Vec<_> = seats
        .iter()
        .map(|seat| format!("{}[{}]", seat.worker, seat.device))
        .collect();
    let message = format!("{} stand by on {}", seats.len(), places.join(", "));
    out.note(
        job,
        now.wall,
        "standing_by",
        Some((index, attempt)),
        message,
    );
    for rank in ranks {
        prepare(state, id, index, rank, now, out);
    }
}

/// Whether a job in the queue waits for devices of this kind.
fn wanted(state: &State, kind: Device, now: Now) -> bool {
    if state.queue().is_empty() {
        return false;
    }
    let waiting = solution(state, now).waiting;
    waiting.iter().any(|(job, _)| {
        let job = state.job(job);
        job.is_some_and(|job| {
            let mut open = job.phases.iter().zip(&job.submission.phases);
            open.any(|(phase, plan)| {
                plan.device == kind && matches!(phase.record.state, PhaseState::Waiting)
            })
        })
    })
}
