//! Ranks, as people watch them.

use diptych_common::ids::{Rank, WorkerId};
use diptych_proto::v1;

use crate::core::{Job, RankState, State};

/// The ranks of a phase's live attempt, those that stand by last.
pub(super) fn of_phase(job: &Job, index: usize) -> Vec<v1::RankStatus> {
    let phase = &job.phases[index];
    let (Some(placement), Some(run)) = (phase.placement(), &phase.run) else {
        return Vec::new();
    };
    let world = placement.seats.len();
    let status = |((rank, seat), member): ((Rank, &crate::core::Seat), &RankState)| {
        let beside = rank.get() as usize >= world;
        let gone = beside && matches!(member, RankState::Left { .. });
        let stride = run.pulse.strides.get(rank.get() as usize).copied();
        let stride = stride.unwrap_or_default();
        let step = run.pulse.steps.get(rank.get() as usize).copied().flatten();
        let held = match member {
            RankState::Held { step } | RankState::Ready { step, .. } => Some(*step),
            _ => None,
        };
        (!gone).then(|| v1::RankStatus {
            job: job.id().to_string(),
            phase: job.submission.phases[index].name.to_string(),
            attempt: placement.attempt.get(),
            rank: rank.get(),
            worker: seat.worker.to_string(),
            device: seat.device,
            state: if beside && member.is_ready() {
                "reserve".to_owned()
            } else {
                member.name().to_owned()
            },
            step: step.or(held).unwrap_or_default().get(),
            step_s: stride.step_s,
            busy_s: stride.busy_s,
            slowness: run.pulse.slowness(rank).unwrap_or_default(),
        })
    };
    let members = run.ranks.iter().chain(&run.reserves);
    placement.all().zip(members).filter_map(status).collect()
}

/// The ranks that a worker runs.
pub(super) fn of_worker(state: &State, worker: &WorkerId) -> Vec<v1::RankStatus> {
    let live = state.live().iter().filter_map(|id| state.job(id));
    live.filter_map(|job| Some((job, job.live()?)))
        .filter(|(_, (_, placement))| placement.is_on(worker))
        .flat_map(|(job, (index, _))| of_phase(job, index))
        .filter(|rank| rank.worker == worker.as_str())
        .collect()
}
