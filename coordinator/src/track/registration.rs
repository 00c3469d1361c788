//! Registration: what an agent runs and what should run on it are brought into agreement.

use diptych_common::ids::{JobId, Rank, WorkerId};

use super::ending::{Ending, end_attempt};
use super::recover;
use super::workers::members;
use crate::advance::work_committed;
use crate::assign;
use crate::core::{
    Brings, Effect, Failure, FailureKind, Hold, Ignored, Link, Now, Order, Outcome, PhaseState,
    Placement, RankId, RankState, Registration, RunningRank, Seat, Settings, Slot, State, Worker,
    WorkerRecord,
};

/// An agent opened a stream. It takes the place of the worker's former one, if any; what it runs is reconciled with
/// what should run on it: ranks of ended attempts are aborted, missing ranks are failures. Another agent that claims
/// to be a worker whose own agent is connected and heard is turned away; a stream that was reset is not connected.
pub fn register(state: &mut State, registration: Registration, now: Now, out: &mut Outcome) {
    let former = state.worker(&registration.worker).cloned();
    if let Some(reason) = former
        .as_deref()
        .and_then(|worker| taken(worker, &registration, state.settings(), now))
    {
        out.effects.push(Effect::Close {
            session: registration.session,
            reason,
            // That one may be about to leave, or dead without a word.
            retry: true,
        });
        return out.ignore(Ignored::AnotherAgent);
    }
    if let Some(old) = former.as_ref().and_then(|worker| worker.session()) {
        let reason = format!("worker {} opened a new stream", registration.worker);
        out.effects.push(Effect::Close {
            session: old,
            reason,
            retry: false,
        });
    }
    out.send(registration.session, Order::Welcome);
    // Its stream broke, too: what the others said of their links to it was its own end.
    state.join_again(&registration.worker);
    let mut slots: Vec<_> = registration
        .devices
        .iter()
        .map(|device| Slot {
            index: device.index,
            kind: device.kind,
            name: device.name.clone(),
            memory: device.memory,
            problem: device.problem.clone(),
            labels: device.labels.clone(),
            hold: Hold::Free,
        })
        .collect();
    slots.sort_by_key(|slot| slot.index);
    let since = match former.as_deref() {
        Some(Worker {
            link: Link::Up { .. },
            since,
            ..
        }) => *since,
        Some(_) | None => now.wall,
    };
    let renewed = former
        .as_ref()
        .is_some_and(|former| former.incarnation != registration.incarnation);
    let mut worker = Worker {
        id: registration.worker.clone(),
        incarnation: registration.incarnation.clone(),
        version: registration.version.clone(),
        host: registration.host.clone(),
        slots,
        link: Link::Up {
            session: registration.session,
            heard: now.mono,
        },
        since,
        registered: now.mono,
        peer: registration.peer.clone(),
        draining: None,
    };
    if let Some(former) = &former {
        // One that comes back brings no new devices: no gang waits for more because of it, however often it does.
        worker.registered = former.registered;
        worker.draining = former.draining.filter(|_| !renewed);
    }
    let drains = |record: &WorkerRecord| record.drains;
    if worker.draining.is_none() && state.record(&worker.id).is_some_and(drains) {
        // The wish for it outlives both processes.
        worker.draining = Some(now.mono.after(state.settings().leave_deadline));
    }
    let mut waiting = Vec::new();
    for running in &registration.running {
        let (rank, device) = (&running.rank, running.device);
        let live = sits(state, rank, &worker.id, device);
        let waits = !live && waits(state, running);
        if let Some(slot) = worker.slot_mut(device) {
            slot.hold = if live {
                Hold::Held(rank.clone())
            } else if waits {
                Hold::Kept(rank.clone())
            } else {
                Hold::Releasing {
                    rank: rank.clone(),
                    since: now.mono,
                    pressed: false,
                }
            };
        }
        if waits {
            let seat = Seat {
                worker: worker.id.clone(),
                device,
            };
            waiting.push((rank.job.clone(), running.phase, seat));
        } else if !live {
            let reason = format!("attempt {} of {} has ended", rank.attempt, rank.job);
            out.send(
                registration.session,
                Order::End {
                    to: rank.order_to(),
                    reason,
                },
            );
        }
    }
    if renewed {
        recover::drop_worker(state, &registration.worker);
    } else {
        recover::drop_kept(state, &registration.worker);
    }
    state.insert_worker(worker);
    for (job, phase, seat) in waiting {
        if let Some(job) = state.job_mut(&job) {
            let phase = &mut job.phases[phase.get() as usize];
            phase.kept.insert(seat, Brings::State);
        }
    }
    for job in members(state, &registration.worker) {
        reconcile(state, &job, &registration, renewed, now, out);
    }
}

/// Why an agent may not be this worker: another one is.
fn taken(
    worker: &Worker,
    registration: &Registration,
    settings: &Settings,
    now: Now,
) -> Option<String> {
    let Link::Up { heard, .. } = worker.link else {
        return None;
    };
    let silent = now.mono.since(heard);
    let other = worker.incarnation != registration.incarnation && silent < settings.dead_after;
    other.then(|| {
        format!(
            "another agent is connected as worker {} from host {} and was heard {:.1} s ago: stop that one, or give this one another --id",
            worker.id,
            worker.host,
            silent.as_secs_f64()
        )
    })
}

/// Whether a trainer holds the state of a phase that waits for a place: that of its newest attempt.
fn waits(state: &State, running: &RunningRank) -> bool {
    let rank = &running.rank;
    let Some(job) = state.job(&rank.job).filter(|job| job.is_active()) else {
        return false;
    };
    let phase = job.phases.get(running.phase.get() as usize);
    running.held.is_some()
        && phase.is_some_and(|phase| {
            matches!(phase.record.state, PhaseState::Waiting)
                && phase.record.attempt == rank.attempt
                && job.record.last_attempt == rank.attempt
        })
}

/// Whether a rank of a live attempt, or one that stands by, sits on this device.
fn sits(state: &State, rank: &RankId, worker: &WorkerId, device: u32) -> bool {
    state
        .job(&rank.job)
        .and_then(|job| job.live())
        .is_some_and(|(_, placement)| {
            let seat = placement.seat(rank.rank);
            placement.attempt == rank.attempt
                && seat.is_some_and(|seat| &seat.worker == worker && seat.device == device)
        })
}

/// Brings one live attempt and the worker that came back into agreement.
fn reconcile(
    state: &mut State,
    id: &JobId,
    registration: &Registration,
    renewed: bool,
    now: Now,
    out: &mut Outcome,
) {
    let last_words = now.mono.after(state.settings().reconnect);
    let Some((index, placement)) = state.job(id).and_then(|job| job.live()) else {
        return;
    };
    let placement = placement.clone();
    let complete = state
        .job(id)
        .is_some_and(|job| work_committed(&job.phases[index]));
    let mut gone = None;
    for (rank, seat) in (0..).map(Rank::new).zip(&placement.seats) {
        if seat.worker != registration.worker {
            continue;
        }
        let me = RankId {
            job: id.clone(),
            attempt: placement.attempt,
            rank,
        };
        let found = registration
            .running
            .iter()
            .find(|running| running.rank == me && running.device == seat.device);
        let runs = found.is_some();
        let held = found.and_then(|running| running.held);
        let Some(run) = state
            .job_mut(id)
            .and_then(|job| job.phases[index].run.as_mut())
        else {
            return;
        };
        let member = &mut run.ranks[rank.get() as usize];
        match (&*member, runs) {
            (_, true) if held.is_some() => {
                let step = held.unwrap_or_default();
                *member = RankState::Held { step };
            }
            (RankState::Away | RankState::Missing { .. }, true) => {
                *member = if placement.begun {
                    RankState::Back
                } else {
                    RankState::Starting
                };
            }
            (_, true) | (RankState::Left { .. }, false) => {}
            (_, false) if complete => {}
            (RankState::Starting, false) if !renewed => {
                // The order was lost with the connection, or its trainer's last words are about to follow.
                if let Some(slot) = state
                    .worker_mut(&seat.worker)
                    .and_then(|worker| worker.slot_mut(seat.device))
                    && slot.hold == Hold::Free
                {
                    slot.hold = Hold::Held(me);
                }
                if let Some(order) = state
                    .job(id)
                    .and_then(|job| assign::prepare_order(job, index, rank, now.wall))
                {
                    out.send(registration.session, order);
                }
            }
            (_, false) if renewed => gone = Some(rank),
            (_, false) => *member = RankState::Missing { until: last_words },
        }
    }
    if let Some(rank) = gone {
        let failure = Failure {
            kind: FailureKind::WorkerLost,
            attempt: placement.attempt,
            rank: Some(rank),
            worker: Some(registration.worker.clone()),
            message: "its agent was restarted, and its trainer ended with the former one"
                .to_owned(),
            log: Vec::new(),
            object: None,
            step: None,
        };
        return end_attempt(state, id, Ending::Failed(failure), now, out);
    }
    stand_by_again(state, id, (index, &placement), registration);
    assign::reattached(state, id, now, out);
    if placement.begun {
        assign::begin_if_ready(state, id, index, now, out);
    }
}

/// Trainers that stood by before the coordinator restarted report again; those that are gone leave their place empty.
fn stand_by_again(
    state: &mut State,
    id: &JobId,
    (index, placement): (usize, &Placement),
    registration: &Registration,
) {
    for (rank, seat) in placement.all().skip(placement.seats.len()) {
        if seat.worker != registration.worker {
            continue;
        }
        let runs = registration
            .running
            .iter()
            .any(|running| running.rank.rank == rank && running.device == seat.device);
        let run = state
            .job_mut(id)
            .and_then(|job| job.phases[index].run.as_mut());
        let Some(member) = run.and_then(|run| run.member_mut(rank)) else {
            continue;
        };
        match (&*member, runs) {
            (RankState::Away, true) => *member = RankState::Starting,
            (_, true) => {}
            (_, false) => {
                *member = RankState::Left {
                    step: Default::default(),
                };
            }
        }
    }
}
