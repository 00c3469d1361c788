//! Registration and the lease. A worker is up, suspect (its stream was reset) or lost.

use std::sync::Arc;

use diptych_common::ids::{JobId, Rank, WorkerId};

use super::ending::{Ending, end_attempt};
use crate::advance::work_committed;
use crate::assign;
use crate::core::{
    Effect, Failure, FailureKind, Hold, Ignored, Link, Now, Order, Outcome, RankId, RankState,
    Registration, SessionId, Settings, Slot, State, Worker,
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
    let mut slots: Vec<_> = registration
        .devices
        .iter()
        .map(|device| Slot {
            index: device.index,
            kind: device.kind,
            name: device.name.clone(),
            memory: device.memory,
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
    };
    if let Some(former) = &former {
        // One that comes back brings no new devices: no gang waits for more because of it, however often it does.
        worker.registered = former.registered;
    }
    for (rank, device) in &registration.running {
        let live = sits(state, rank, &worker.id, *device);
        if let Some(slot) = worker.slot_mut(*device) {
            slot.hold = if live {
                Hold::Held(rank.clone())
            } else {
                Hold::Releasing {
                    rank: rank.clone(),
                    since: now.mono,
                    pressed: false,
                }
            };
        }
        if !live {
            let reason = format!("attempt {} of {} has ended", rank.attempt, rank.job);
            out.send(
                registration.session,
                Order::Abort {
                    job: rank.job.clone(),
                    attempt: rank.attempt,
                    reason,
                },
            );
        }
    }
    state.insert_worker(worker);
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

/// Whether a rank of a live attempt sits on this device.
fn sits(state: &State, rank: &RankId, worker: &WorkerId, device: u32) -> bool {
    state
        .job(&rank.job)
        .and_then(|job| job.live())
        .is_some_and(|(_, placement)| {
            let seat = placement.seats.get(rank.rank.get() as usize);
            placement.attempt == rank.attempt
                && seat.is_some_and(|seat| &seat.worker == worker && seat.device == device)
        })
}

/// Jobs whose live attempt has a rank on this worker.
fn members(state: &State, worker: &WorkerId) -> Vec<JobId> {
    let on_it = |job: &&JobId| {
        let live = state.job(job).and_then(|job| job.live());
        live.is_some_and(|(_, placement)| placement.seats.iter().any(|seat| &seat.worker == worker))
    };
    state.live().iter().filter(on_it).cloned().collect()
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
        let runs = registration.running.contains(&(me.clone(), seat.device));
        let Some(run) = state
            .job_mut(id)
            .and_then(|job| job.phases[index].run.as_mut())
        else {
            return;
        };
        let member = &mut run.ranks[rank.get() as usize];
        match (&*member, runs) {
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
        };
        return end_attempt(state, id, Ending::Failed(failure), now, out);
    }
    assign::reattached(state, id, now, out);
    if placement.begun {
        assign::begin_if_ready(state, id, index, now, out);
    }
}

/// The worker's current stream is this one; it is alive.
pub(super) fn heard(
    state: &mut State,
    session: SessionId,
    worker: &WorkerId,
    now: Now,
) -> Result<(), Ignored> {
    let current = state.worker(worker).and_then(|worker| worker.session()) == Some(session);
    match state.worker_mut(worker).filter(|_| current) {
        Some(worker) => {
            worker.link = Link::Up {
                session,
                heard: now.mono,
            };
            Ok(())
        }
        None => Err(Ignored::OldSession),
    }
}

/// An agent is alive.
pub fn heartbeat(
    state: &mut State,
    session: SessionId,
    worker: &WorkerId,
    now: Now,
    out: &mut Outcome,
) {
    if let Err(why) = heard(state, session, worker, now) {
        out.ignore(why);
    }
}

/// A stream ended: its worker is suspect.
pub fn reset(
    state: &mut State,
    session: SessionId,
    worker: &WorkerId,
    now: Now,
    out: &mut Outcome,
) {
    if state.worker(worker).and_then(|worker| worker.session()) != Some(session) {
        return out.ignore(Ignored::OldSession);
    }
    if let Some(worker) = state.worker_mut(worker) {
        worker.link = Link::Suspect { since: now.mono };
        worker.since = now.wall;
    }
}

/// An agent leaves on purpose: its attempts end, and no budget is spent.
pub fn leaving(
    state: &mut State,
    session: SessionId,
    worker: &WorkerId,
    reason: &str,
    now: Now,
    out: &mut Outcome,
) {
    if state.worker(worker).and_then(|worker| worker.session()) != Some(session) {
        return out.ignore(Ignored::OldSession);
    }
    let why = if reason.is_empty() {
        String::new()
    } else {
        format!(": {reason}")
    };
    lose(
        state,
        worker,
        &Loss::Planned(format!("worker {worker} left{why}")),
        now,
        out,
    );
}

/// Why a worker is lost.
#[derive(Debug)]
pub(super) enum Loss {
    /// It said that it leaves.
    Planned(String),
    /// It was not heard.
    Silent(String),
}

/// A worker is gone, and every attempt that still needs it ends.
pub(super) fn lose(state: &mut State, id: &WorkerId, loss: &Loss, now: Now, out: &mut Outcome) {
    let jobs = members(state, id);
    for job in jobs {
        let Some((index, placement)) = state.job(&job).and_then(|job| job.live()) else {
            continue;
        };
        if state
            .job(&job)
            .is_some_and(|job| work_committed(&job.phases[index]))
        {
            continue;
        }
        let rank = (0..)
            .map(Rank::new)
            .zip(&placement.seats)
            .find(|(_, seat)| &seat.worker == id)
            .map(|(rank, _)| rank);
        let ending = match loss {
            Loss::Planned(why) => Ending::Planned(why.clone()),
            Loss::Silent(message) => Ending::Failed(Failure {
                kind: FailureKind::WorkerLost,
                attempt: placement.attempt,
                rank,
                worker: Some(id.clone()),
                message: message.clone(),
                log: Vec::new(),
                object: None,
            }),
        };
        end_attempt(state, &job, ending, now, out);
    }
    if let Some(worker) = state.worker_mut(id) {
        worker.link = Link::Lost { since: now.mono };
        worker.since = now.wall;
        for slot in &mut worker.slots {
            slot.hold = Hold::Free;
        }
    }
}

/// What time alone does to workers.
pub(super) fn leases(state: &mut State, now: Now, out: &mut Outcome) {
    let settings = *state.settings();
    let workers: Vec<Arc<Worker>> = state.workers().values().cloned().collect();
    for worker in workers {
        match worker.link {
            Link::Up { session, heard } if now.mono.since(heard) >= settings.dead_after => {
                let silent = format!(
                    "its agent was silent for {:.1} s",
                    now.mono.since(heard).as_secs_f64()
                );
                let reason = format!(
                    "the coordinator did not hear worker {} for too long",
                    worker.id
                );
                out.effects.push(Effect::Close {
                    session,
                    reason,
                    retry: true,
                });
                lose(state, &worker.id, &Loss::Silent(silent), now, out);
            }
            Link::Suspect { since } if now.mono.since(since) >= settings.reconnect => {
                let gone =
                    "the connection to its agent was lost, and it did not come back".to_owned();
                lose(state, &worker.id, &Loss::Silent(gone), now, out);
            }
            Link::Lost { since } if now.mono.since(since) >= settings.lost_kept => {
                state.remove_worker(&worker.id)
            }
            Link::Up { .. } | Link::Suspect { .. } | Link::Lost { .. } => {}
        }
        press(state, &worker, now, out);
    }
}

/// Presses an agent to end trainers of ended attempts that outstayed the grace.
fn press(state: &mut State, worker: &Worker, now: Now, out: &mut Outcome) {
    let grace = state.settings().release_grace;
    for slot in &worker.slots {
        let Hold::Releasing {
            rank,
            since,
            pressed: false,
        } = &slot.hold
        else {
            continue;
        };
        if now.mono.since(*since) < grace {
            continue;
        }
        let found = state
            .worker_mut(&worker.id)
            .and_then(|worker| worker.slot_mut(slot.index));
        if let Some(found) = found.filter(|found| found.hold == slot.hold) {
            found.hold = Hold::Releasing {
                rank: rank.clone(),
                since: *since,
                pressed: true,
            };
        }
        if let Some(session) = worker.session() {
            let reason = "its attempt ended a while ago".to_owned();
            out.send(
                session,
                Order::Abort {
                    job: rank.job.clone(),
                    attempt: rank.attempt,
                    reason,
                },
            );
        }
    }
}
