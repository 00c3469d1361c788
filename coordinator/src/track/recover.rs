//! Trainers outlive their attempt: they leave its collectives, keep process and state, and wait for the next one.

use std::collections::{BTreeMap, BTreeSet};

use diptych_common::ids::{JobId, Rank, WorkerId};

use crate::core::{
    Away, Brings, Hold, Now, Order, Outcome, Placement, RankId, RankState, Run, Seat, Stage, State,
};

/// The trainers of an attempt that can go on, by what they bring. Not those in `end`, those whose process has ended,
/// those of lost workers, and those whose work was done.
pub fn survivors(
    state: &State,
    id: &JobId,
    (placement, run): (&Placement, &Run),
    end: &BTreeSet<Rank>,
) -> BTreeMap<Seat, Brings> {
    let states = run.ranks.iter().chain(&run.reserves);
    let member = |((rank, seat), member): ((Rank, &Seat), &RankState)| {
        let worker = state.worker(&seat.worker).filter(|w| !w.is_lost())?;
        let me = RankId {
            job: id.clone(),
            attempt: placement.attempt,
            rank,
        };
        let lives = worker.slot(seat.device)?.hold == Hold::Held(me);
        if !lives || end.contains(&rank) {
            return None;
        }
        let in_gang = (rank.get() as usize) < placement.seats.len();
        let brings = match member {
            RankState::Ready { empty: true, .. } => Brings::Readiness,
            RankState::Ready { .. }
            | RankState::Held { .. }
            | RankState::Back
            | RankState::Training
            | RankState::Finished { .. } => Brings::State,
            RankState::Starting if in_gang && placement.begun => Brings::State,
            RankState::Starting | RankState::Away => Brings::Process,
            RankState::Missing { .. } | RankState::Left { .. } => return None,
        };
        Some((seat.clone(), brings))
    };
    placement.all().zip(states).filter_map(member).collect()
}

/// Workers of an attempt's gang that have not been heard since the coordinator started.
pub fn away(placement: &Placement, run: &Run) -> Option<Away> {
    let Stage::Reattaching { until } = run.stage else {
        return None;
    };
    let unheard = |(seat, rank): (&Seat, &RankState)| {
        matches!(rank, RankState::Away).then(|| seat.worker.clone())
    };
    let workers = placement.seats.iter().zip(&run.ranks).filter_map(unheard);
    let workers = workers.collect();
    Some(Away { workers, until })
}

/// Keeps these trainers for their job's next attempt, and what may come back for it in mind.
pub fn keep(
    state: &mut State,
    id: &JobId,
    index: usize,
    placement: &Placement,
    (kept, away): (BTreeMap<Seat, Brings>, Option<Away>),
) {
    for (rank, seat) in placement.all() {
        let slot = state
            .worker_mut(&seat.worker)
            .and_then(|worker| worker.slot_mut(seat.device));
        if let (Some(slot), true) = (slot, kept.contains_key(seat)) {
            slot.hold = Hold::Kept(RankId {
                job: id.clone(),
                attempt: placement.attempt,
                rank,
            });
        }
    }
    if let Some(job) = state.job_mut(id) {
        job.phases[index].kept = kept;
        job.phases[index].away = away;
    }
}

/// Ends trainers that wait: nobody needs them. Their devices are free once they have exited.
pub fn dismiss(state: &mut State, seats: &[Seat], reason: &str, now: Now, out: &mut Outcome) {
    for seat in seats {
        let slot = state
            .worker_mut(&seat.worker)
            .and_then(|worker| worker.slot_mut(seat.device));
        let Some(slot) = slot else { continue };
        let (Hold::Kept(rank) | Hold::Held(rank)) = slot.hold.clone() else {
            continue;
        };
        slot.hold = Hold::Releasing {
            rank: rank.clone(),
            since: now.mono,
            pressed: false,
        };
        drop_seat(state, &rank, seat);
        let session = state
            .worker(&seat.worker)
            .and_then(|worker| worker.session());
        if let Some(session) = session {
            out.send(
                session,
                Order::End {
                    to: rank.order_to(),
                    reason: reason.to_owned(),
                },
            );
        }
    }
}

/// Ends all trainers of a job that wait.
pub fn dismiss_all(state: &mut State, id: &JobId, reason: &str, now: Now, out: &mut Outcome) {
    let Some(job) = state.job(id) else { return };
    let kept = job.phases.iter().flat_map(|phase| phase.kept.keys());
    let seats: Vec<Seat> = kept.cloned().collect();
    dismiss(state, &seats, reason, now, out);
}

/// A trainer that waited, or stood by, is gone. The place of one that stood by stays, empty: its number is not given to
/// another within the attempt.
pub fn drop_seat(state: &mut State, rank: &RankId, seat: &Seat) {
    let Some(job) = state.job(&rank.job) else {
        return;
    };
    let waits = job.phases.iter().any(|phase| phase.kept.contains_key(seat));
    let stands_by = job.live().and_then(|(index, placement)| {
        let beside = rank.rank.get() as usize >= placement.seats.len();
        (placement.attempt == rank.attempt && beside).then_some(index)
    });
    if !waits && stands_by.is_none() {
        return;
    }
    let Some(job) = state.job_mut(&rank.job) else {
        return;
    };
    for phase in &mut job.phases {
        phase.kept.remove(seat);
    }
    let run = stands_by.and_then(|index| job.phases[index].run.as_mut());
    if let Some(member) = run.and_then(|run| run.member_mut(rank.rank)) {
        *member = RankState::Left {
            step: Default::default(),
        };
    }
}

/// Trainers that stand by beside a live attempt and are there.
pub fn standing_by(state: &State, id: &JobId) -> Vec<Seat> {
    let Some((_, placement)) = state.job(id).and_then(|job| job.live()) else {
        return Vec::new();
    };
    let beside = placement.all().skip(placement.seats.len());
    beside
        .filter(|(rank, seat)| {
            let me = Hold::Held(RankId {
                job: id.clone(),
                attempt: placement.attempt,
                rank: *rank,
            });
            let worker = state.worker(&seat.worker);
            let slot = worker.and_then(|worker| worker.slot(seat.device));
            slot.is_some_and(|slot| slot.hold == me)
        })
        .map(|(_, seat)| seat.clone())
        .collect()
}

/// What waits on a worker is what its agent says next.
pub fn drop_kept(state: &mut State, worker: &WorkerId) {
    let Some(found) = state.worker(worker) else {
        return;
    };
    let kept: Vec<(JobId, Seat)> = found
        .slots
        .iter()
        .filter_map(|slot| match &slot.hold {
            Hold::Kept(rank) => {
                let seat = Seat {
                    worker: worker.clone(),
                    device: slot.index,
                };
                Some((rank.job.clone(), seat))
            }
            Hold::Free | Hold::Held(_) | Hold::Releasing { .. } => None,
        })
        .collect();
    for (job, seat) in kept {
        if let Some(job) = state.job_mut(&job) {
            for phase in &mut job.phases {
                phase.kept.remove(&seat);
            }
        }
    }
}

/// All trainers that wait, or stand by, on a worker are gone with it.
pub fn drop_worker(state: &mut State, worker: &WorkerId) {
    let Some(found) = state.worker(worker) else {
        return;
    };
    let holds: Vec<(RankId, Seat)> = found
        .slots
        .iter()
        .filter_map(|slot| {
            let seat = Seat {
                worker: worker.clone(),
                device: slot.index,
            };
            Some((slot.hold.rank()?.clone(), seat))
        })
        .collect();
    for (rank, seat) in holds {
        drop_seat(state, &rank, &seat);
    }
}
