//! A placement becomes an attempt.

use std::collections::BTreeMap;
use std::sync::Arc;

use diptych_common::ids::{JobId, Rank, WorkerId};

use crate::core::{
    Brings, Hold, Job, Now, Order, OrderTo, Outcome, PhaseState, Placement, PrepareOrder, Progress,
    RankId, RankState, Run, Seat, Stage, StartFrom, State, UnixMs,
};
use crate::place::{Problem, Solution, solve};
use crate::queue::{Readiness, claim, readiness};
use crate::track;

/// Places what can be placed, and tells the gangs to prepare. What waits may make room for itself.
pub fn place(state: &mut State, now: Now, out: &mut Outcome) {
    if state.queue().is_empty() {
        return;
    }
    let solution = solution(state, now);
    for (job, seats) in solution.placed {
        // A job that pauses after a failure keeps its claim, and starts later.
        start(state, &job, seats, now, out);
    }
    super::room::make(state, &solution.waiting, now, out);
}

/// What the queue comes to, as things are.
pub fn solution(state: &State, now: Now) -> Solution {
    let problem = Problem::of(state, now.mono);
    // Where there is nothing to give out, only those at the head of the queue may make room for themselves.
    let most = match problem.free.is_empty() && problem.kept.is_empty() {
        true => HEAD,
        false => usize::MAX,
    };
    let requests = state
        .queue()
        .iter()
        .take(most)
        .filter_map(|key| state.job(&key.job))
        .filter_map(|job| claim(state, job, now.mono));
    solve(&problem, requests)
}

/// The head of the queue.
const HEAD: usize = 64;

/// Issues the next attempt of the job's ready phase. Its number is durable before any order leaves.
fn start(state: &mut State, id: &JobId, seats: Vec<Seat>, now: Now, out: &mut Outcome) {
    let settings = *state.settings();
    let Some(job) = state.job(id) else { return };
    let Readiness::Phase(index) = readiness(state, job, now.mono) else {
        return;
    };
    evict(state, id, &seats, now, out);
    let Some(job) = state.job_mut(id) else { return };
    let attempt = job.record.last_attempt.next();
    job.record.last_attempt = attempt;
    let most = job.range(index).max as usize + job.submission.phases[index].spares as usize;
    let phase = &mut job.phases[index];
    let resume = phase
        .newest_verified()
        .map(|checkpoint| checkpoint.record.id);
    let kept = std::mem::take(&mut phase.kept);
    phase.away = None;
    let remembers = seats
        .iter()
        .any(|seat| kept.get(seat) == Some(&Brings::State));
    let start = if remembers && !phase.record.forget {
        StartFrom::Memory
    } else {
        StartFrom::Checkpoint
    };
    // Trainers that wait and are not of the gang stand by beside it, as many as may be of use.
    let reserves: Vec<Seat> = kept
        .keys()
        .filter(|seat| !seats.contains(seat))
        .take(most.saturating_sub(seats.len()))
        .cloned()
        .collect();
    phase.record.restarts += u32::from(phase.record.started.is_some());
    phase.record.attempt = attempt;
    phase.record.gang = seats.iter().map(|seat| seat.worker.clone()).collect();
    phase.record.started.get_or_insert(now.wall);
    let step = match start {
        StartFrom::Memory => phase.progress.step,
        StartFrom::Checkpoint => resume.map_or_else(Default::default, |id| id.step),
    };
    phase.progress = Progress {
        step,
        reached: phase.progress.reached,
        total: phase.progress.total,
        metrics: std::mem::take(&mut phase.progress.metrics),
        ..Progress::default()
    };
    let stage = Stage::Preparing {
        until: now.mono.after(settings.prepare_deadline),
    };
    let mut run = Run::new(stage, RankState::Starting, seats.len(), now.mono);
    run.reserves = vec![RankState::Starting; reserves.len()];
    phase.run = Some(run);
    let placement = Placement {
        attempt,
        seats: seats.clone(),
        reserves: reserves.clone(),
        start,
        resume,
        begun: false,
        finished: None,
    };
    phase.record.state = PhaseState::Live(placement.clone());
    let message = placed(&placement, &kept);
    out.note(job, now.wall, "placed", Some((index, attempt)), message);
    let idle: Vec<Seat> = kept
        .into_keys()
        .filter(|seat| !seats.contains(seat) && !reserves.contains(seat))
        .collect();
    track::recover::dismiss(state, &idle, "its job has enough ranks", now, out);
    for rank in 0..seats.len() + reserves.len() {
        prepare(state, id, index, Rank::new(rank as u32), now, out);
    }
}

/// Takes the device of a rank, or of one that stands by, and tells it to prepare.
pub fn prepare(
    state: &mut State,
    id: &JobId,
    index: usize,
    rank: Rank,
    now: Now,
    out: &mut Outcome,
) {
    let Some(placement) = state.job(id).and_then(|job| job.phases[index].placement()) else {
        return;
    };
    let attempt = placement.attempt;
    let Some(seat) = placement.seat(rank).cloned() else {
        return;
    };
    let me = RankId {
        job: id.clone(),
        attempt,
        rank,
    };
    if let Some(slot) = state
        .worker_mut(&seat.worker)
        .and_then(|worker| worker.slot_mut(seat.device))
    {
        slot.hold = Hold::Held(me);
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

/// Trainers of other jobs that wait on these seats give way.
fn evict(state: &mut State, id: &JobId, seats: &[Seat], now: Now, out: &mut Outcome) {
    let others: Vec<Seat> = seats
        .iter()
        .filter(|seat| {
            let worker = state.worker(&seat.worker);
            let slot = worker.and_then(|worker| worker.slot(seat.device));
            slot.is_some_and(|slot| matches!(&slot.hold, Hold::Kept(rank) if &rank.job != id))
        })
        .cloned()
        .collect();
    let reason = format!("job {id} stands before its job in the queue");
    track::recover::dismiss(state, &others, &reason, now, out);
}

/// Who is placed where, and from what, in words.
fn placed(placement: &Placement, kept: &BTreeMap<Seat, Brings>) -> String {
    let place = |seat: &Seat| format!("{}[{}]", seat.worker, seat.device);
    let places: Vec<_> = placement.seats.iter().map(place).collect();
    let from = match (placement.start, placement.resume) {
        (StartFrom::Memory, _) => {
            let holds = |seat: &&Seat| kept.get(*seat) == Some(&Brings::State);
            let holders = placement.seats.iter().filter(holds).count();
            format!("from the memory of {holders} of them")
        }
        (StartFrom::Checkpoint, Some(id)) => format!("from step {}", id.step),
        (StartFrom::Checkpoint, None) => "from its beginning".to_owned(),
    };
    let beside = match placement.reserves.as_slice() {
        [] => String::new(),
        reserves => {
            let reserves: Vec<_> = reserves.iter().map(place).collect();
            format!(", {} stand by on {}", reserves.len(), reserves.join(", "))
        }
    };
    format!(
        "{} ranks on {}, {from}{beside}",
        places.len(),
        places.join(", ")
    )
}

/// What one rank of a live attempt, or one that stands by, needs to start.
pub fn prepare_order(job: &Job, index: usize, rank: Rank, now: UnixMs) -> Option<Order> {
    let phase = &job.phases[index];
    let placement = phase.placement()?;
    let plan = &job.submission.phases[index];
    let seat = placement.seat(rank)?;
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
        to: placement.order_to(job.id(), rank),
        device: seat.device,
        submission: Arc::clone(&job.submission),
        phase: plan.index,
        world: placement.seats.len() as u32,
        secret: job.attempt_secret(placement.attempt),
        resume: resume.map(|checkpoint| checkpoint.reference(plan.name.as_str())),
        inputs: plan.inputs.iter().filter_map(input).collect(),
        unsaved: saved.map_or_else(Default::default, |at| now.since(at)),
        start: placement.start,
        reserve: rank.get() as usize >= placement.seats.len(),
        skip: phase.record.skipped.iter().copied().collect(),
    })))
}

// === impl Placement ===

impl Placement {
    /// Where a rank of the gang sits, or one that stands by beside it.
    pub fn seat(&self, rank: Rank) -> Option<&Seat> {
        let mut all = self.seats.iter().chain(&self.reserves);
        all.nth(rank.get() as usize)
    }

    /// Every rank with its seat, those that stand by last.
    pub fn all(&self) -> impl Iterator<Item = (Rank, &Seat)> {
        let seats = self.seats.iter().chain(&self.reserves);
        (0..).map(Rank::new).zip(seats)
    }

    /// Whether a worker has a rank of the gang or one that stands by.
    pub fn is_on(&self, worker: &WorkerId) -> bool {
        self.all().any(|(_, seat)| &seat.worker == worker)
    }

    /// A rank of it, as orders name it.
    pub fn order_to(&self, job: &JobId, rank: Rank) -> OrderTo {
        OrderTo {
            job: job.clone(),
            attempt: self.attempt,
            rank,
        }
    }
}
