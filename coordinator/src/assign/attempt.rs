//! A placement becomes an attempt.

use diptych_common::ids::{JobId, Rank};

use crate::core::{
    Hold, Job, Now, Order, OrderTo, Outcome, PhaseState, Placement, PrepareOrder, Progress, RankId,
    RankState, Run, Seat, Stage, State, UnixMs,
};
use crate::place::{Problem, solve};
use crate::queue::{Readiness, claim, readiness};

/// Places what can be placed, and tells the gangs to prepare.
pub fn place(state: &mut State, now: Now, out: &mut Outcome) {
    let problem = Problem::of(state, now.mono);
    if problem.free.is_empty() {
        return;
    }
    let settings = *state.settings();
    let requests = state
        .queue()
        .iter()
        .filter_map(|key| state.job(&key.job))
        .filter_map(|job| claim(job, &settings, now.mono));
    let solution = solve(&problem, requests);
    for (job, seats) in solution.placed {
        // A job that pauses after a failure keeps its claim, and starts later.
        start(state, &job, seats, now, out);
    }
}

/// Issues the next attempt of the job's ready phase. Its number is durable before any order leaves.
fn start(state: &mut State, id: &JobId, seats: Vec<Seat>, now: Now, out: &mut Outcome) {
    let settings = *state.settings();
    let Some(job) = state.job_mut(id) else { return };
    let Readiness::Phase(index) = readiness(job, &settings, now.mono) else {
        return;
    };
    let attempt = job.record.last_attempt.next();
    job.record.last_attempt = attempt;
    let phase = &mut job.phases[index];
    let resume = phase
        .newest_verified()
        .map(|checkpoint| checkpoint.record.id);
    phase.record.restarts += u32::from(phase.record.started.is_some());
    phase.record.attempt = attempt;
    phase.record.gang = seats.iter().map(|seat| seat.worker.clone()).collect();
    phase.record.started.get_or_insert(now.wall);
    phase.progress = Progress {
        step: resume.map_or_else(Default::default, |id| id.step),
        reached: phase.progress.reached,
        total: phase.progress.total,
        metrics: std::mem::take(&mut phase.progress.metrics),
        ..Progress::default()
    };
    let stage = Stage::Preparing {
        until: now.mono.after(settings.prepare_deadline),
    };
    phase.run = Some(Run::new(stage, RankState::Starting, seats.len(), now.mono));
    phase.record.state = PhaseState::Live(Placement {
        attempt,
        seats: seats.clone(),
        resume,
        begun: false,
        finished: None,
    });
    let from = resume.map_or_else(
        || "from its beginning".to_owned(),
        |id| format!("from step {}", id.step),
    );
    let places: Vec<_> = seats
        .iter()
        .map(|seat| format!("{}[{}]", seat.worker, seat.device))
        .collect();
    let message = format!("{} ranks on {}, {from}", seats.len(), places.join(", "));
    out.note(job, now.wall, "placed", Some((index, attempt)), message);

    for (rank, seat) in (0..).map(Rank::new).zip(&seats) {
        if let Some(slot) = state
            .worker_mut(&seat.worker)
            .and_then(|worker| worker.slot_mut(seat.device))
        {
            slot.hold = Hold::Held(RankId {
                job: id.clone(),
                attempt,
                rank,
            });
        }
        let order = state
            .job(id)
            .and_then(|job| prepare_order(job, index, rank, now.wall));
        let session = state
            .worker(&seat.worker)
            .and_then(|worker| worker.session());
        if let (Some(order), Some(session)) = (order, session) {
            out.send(session, order);
        }
    }
}

/// What one rank of a live attempt needs to start.
pub fn prepare_order(job: &Job, index: usize, rank: Rank, now: UnixMs) -> Option<Order> {
    let phase = &job.phases[index];
    let placement = phase.placement()?;
    let plan = &job.submission.phases[index];
    let seat = placement.seats.get(rank.get() as usize)?;
    let resume = placement.resume.and_then(|id| phase.checkpoints.get(&id));
    let saved = resume
        .map(|checkpoint| checkpoint.record.at)
        .or(phase.record.started);
    let input = |input: &diptych_common::ids::PhaseIndex| {
        let (phase, plan) = (
            &job.phases[input.get() as usize],
            &job.submission.phases[input.get() as usize],
        );
        match phase.record.state {
            PhaseState::Done { last, .. } => phase
                .checkpoints
                .get(&last)
                .map(|c| c.reference(plan.name.as_str())),
            PhaseState::Waiting | PhaseState::Live(_) | PhaseState::Failed { .. } => None,
        }
    };
    Some(Order::Prepare(Box::new(PrepareOrder {
        to: OrderTo {
            job: job.id().clone(),
            attempt: placement.attempt,
            rank,
        },
        device: seat.device,
        submission: std::sync::Arc::clone(&job.submission),
        phase: plan.index,
        world: placement.seats.len() as u32,
        secret: job.attempt_secret(placement.attempt),
        resume: resume.map(|checkpoint| checkpoint.reference(plan.name.as_str())),
        inputs: plan.inputs.iter().filter_map(input).collect(),
        unsaved: saved.map_or_else(Default::default, |at| now.since(at)),
    })))
}
