//! A gang leaves by plan: the ranks agree on a step inside its own exchange, and all leave after it with the state.

use std::collections::BTreeSet;

use diptych_common::ids::{JobId, Rank, WorkerId};

use crate::core::{
    LeavePlan, LeaveWhy, Now, Order, Outcome, PhaseState, RankState, Seat, Stage, State,
};
use crate::track::{self, Ending};

/// Tells a gang that steps to leave, to be placed again without the seats in `give`. False where it does not step, or its
/// work is nearly done: then it is better left alone.
pub fn leave(state: &mut State, id: &JobId, plan: LeavePlan, now: Now, out: &mut Outcome) -> bool {
    let deadline = match &plan.why {
        LeaveWhy::Drain(worker) => state.worker(worker).and_then(|worker| worker.draining),
        LeaveWhy::Grow | LeaveWhy::Scale | LeaveWhy::Preempt(_) => None,
    };
    let until = deadline.unwrap_or_else(|| now.mono.after(state.settings().leave_deadline));
    let Some(job) = state.job_mut(id) else {
        return false;
    };
    let Some((index, placement)) = job
        .live()
        .map(|(index, placement)| (index, placement.clone()))
    else {
        return false;
    };
    let phase = &mut job.phases[index];
    let Some(run) = &mut phase.run else {
        return false;
    };
    let stepping = run.ranks.iter().all(|rank| {
        matches!(
            rank,
            RankState::Training | RankState::Back | RankState::Ready { .. }
        )
    });
    if !placement.begun || !stepping || !matches!(run.stage, Stage::Training) {
        return false;
    }
    let (reason, save) = (plan.why.to_string(), plan.save);
    run.stage = Stage::Leaving { until, plan };
    let message = if save {
        format!("{reason}: the ranks save and leave after a step that they agree on")
    } else {
        format!("{reason}: the ranks leave after a step that they agree on")
    };
    let at = Some((index, placement.attempt));
    out.note(job, now.wall, "leaving", at, message);
    for (rank, seat) in (0..).map(Rank::new).zip(&placement.seats) {
        let session = state
            .worker(&seat.worker)
            .and_then(|worker| worker.session());
        if let Some(session) = session {
            out.send(
                session,
                Order::Leave {
                    to: placement.order_to(id, rank),
                    reason: reason.clone(),
                    save,
                },
            );
        }
    }
    true
}

/// Whether every rank of a gang has left it and waits.
pub fn all_held(state: &State, id: &JobId) -> bool {
    let job = state.job(id);
    let run = job.and_then(|job| job.phases[job.live()?.0].run.as_ref());
    run.is_some_and(|run| {
        let held = |rank: &RankState| matches!(rank, RankState::Held { .. });
        run.ranks.iter().all(held)
    })
}

/// A gang has left by plan, or its time for it is over: what it gives up is given up, the rest waits for its next
/// attempt.
pub fn left(state: &mut State, id: &JobId, now: Now, out: &mut Outcome) {
    let Some(job) = state.job(id) else { return };
    let Some((index, _)) = job.live() else { return };
    let Some(Stage::Leaving { plan, .. }) = job.phases[index].run.as_ref().map(|run| &run.stage)
    else {
        return;
    };
    let plan = plan.clone();
    track::end_attempt(state, id, Ending::Planned(plan.why.to_string()), now, out);
    let given: Vec<Seat> = plan.give.into_iter().collect();
    track::recover::dismiss(state, &given, &plan.why.to_string(), now, out);
}

/// Empties a worker: every gang on it leaves by plan and goes on without it. One in which too few ranks would keep the
/// state saves first; one that does not step yet starts again elsewhere.
pub fn drain(state: &mut State, worker: &WorkerId, now: Now, out: &mut Outcome) {
    let here = |seat: &&Seat| &seat.worker == worker;
    for id in state.live().clone() {
        let Some(job) = state.job(&id) else { continue };
        let Some((index, placement)) = job.live() else {
            continue;
        };
        if !placement.is_on(worker) {
            continue;
        }
        let mut beside = track::recover::standing_by(state, &id);
        beside.retain(|seat| &seat.worker == worker);
        let give: BTreeSet<Seat> = placement.seats.iter().filter(here).cloned().collect();
        let rest = placement.seats.len() - give.len();
        let save = rest < job.range(index).min as usize;
        let begun = placement.begun;
        let leaving = matches!(
            job.phases[index].run.as_ref().map(|run| &run.stage),
            Some(Stage::Leaving { .. })
        );
        let done = matches!(&job.phases[index].record.state, PhaseState::Live(placement) if placement.finished.is_some());
        track::recover::dismiss(state, &beside, "its worker is being drained", now, out);
        if give.is_empty() || done {
            continue;
        }
        let why = LeaveWhy::Drain(worker.clone());
        if leaving {
            also_give(state, &id, &give, save);
        } else if begun {
            let plan = LeavePlan { why, give, save };
            leave(state, &id, plan, now, out);
        } else {
            let why = why.to_string();
            track::end_attempt(state, &id, Ending::Planned(why.clone()), now, out);
            let give: Vec<Seat> = give.into_iter().collect();
            track::recover::dismiss(state, &give, &why, now, out);
        }
    }
    let waiting: Vec<Seat> = state
        .jobs()
        .values()
        .flat_map(|job| job.phases.iter().flat_map(|phase| phase.kept.keys()))
        .filter(here)
        .cloned()
        .collect();
    track::recover::dismiss(state, &waiting, "its worker is being drained", now, out);
}

/// A gang that leaves already gives up these, too.
fn also_give(state: &mut State, id: &JobId, seats: &BTreeSet<Seat>, save: bool) {
    let run = state.job_mut(id).and_then(|job| {
        let index = job.live()?.0;
        job.phases[index].run.as_mut()
    });
    if let Some(Stage::Leaving { plan, .. }) = run.map(|run| &mut run.stage) {
        plan.give.extend(seats.iter().cloned());
        plan.save |= save;
    }
}
