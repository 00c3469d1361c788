//! The lease. A worker is up, suspect (its stream was reset) or lost.

use std::sync::Arc;
use std::time::Duration;

use diptych_common::ids::{Attempt, JobId, Rank, WorkerId};

use super::ending::{Ending, end_attempt};
use super::recover;
use crate::advance::work_committed;
use crate::assign;
use crate::core::{
    Effect, Failure, FailureKind, Hold, Ignored, Link, Now, Observation, Order, Outcome, SessionId,
    State, Worker,
};

/// Jobs whose live attempt has a rank on this worker.
pub(super) fn members(state: &State, worker: &WorkerId) -> Vec<JobId> {
    let on_it = |job: &&JobId| {
        let live = state.job(job).and_then(|job| job.live());
        live.is_some_and(|(_, placement)| placement.seats.iter().any(|seat| &seat.worker == worker))
    };
    state.live().iter().filter(on_it).cloned().collect()
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

/// An agent leaves on purpose: what it runs goes on elsewhere, or is saved, within its grace. No budget is spent.
pub fn leaving(
    state: &mut State,
    session: SessionId,
    worker: &WorkerId,
    grace: Duration,
    now: Now,
    out: &mut Outcome,
) {
    if state.worker(worker).and_then(|worker| worker.session()) != Some(session) {
        return out.ignore(Ignored::OldSession);
    }
    if let Some(worker) = state.worker_mut(worker) {
        worker.draining = Some(now.mono.after(grace));
    }
    assign::drain(state, worker, now, out);
}

/// Two agents of one attempt cannot reach each other, although both are connected here: the gang goes on without one of
/// them, and the two are not placed together for a while.
pub fn link_lost(state: &mut State, lost: &LinkLost<'_>, now: Now, out: &mut Outcome) {
    let connected = |id: &WorkerId| {
        state
            .worker(id)
            .is_some_and(|worker| worker.session().is_some())
    };
    let (one, other) = (lost.worker, lost.other);
    if state.worker(one).and_then(|worker| worker.session()) != Some(lost.session) {
        return out.ignore(Ignored::OldSession);
    }
    let (job, attempt) = lost.rank;
    let live = state.job(job).and_then(|job| job.live());
    let Some((_, placement)) = live.filter(|(_, placement)| placement.attempt == *attempt) else {
        return out.ignore(Ignored::StaleAttempt);
    };
    let both = [one, other]
        .into_iter()
        .all(|worker| placement.seats.iter().any(|seat| &seat.worker == worker));
    if !both || !connected(other) {
        return out.ignore(Ignored::NotItsRank);
    }
    let failure = Failure {
        kind: FailureKind::PeerLost,
        attempt: *attempt,
        rank: None,
        worker: None,
        message: format!(
            "workers {one} and {other} cannot reach each other, although both reach the coordinator: {}",
            lost.reason
        ),
        log: Vec::new(),
        object: None,
        step: None,
    };
    let until = now.mono.after(state.settings().apart);
    state.keep_apart(one, other, until);
    end_attempt(state, job, Ending::Failed(failure), now, out);
}

/// An agent's word that it cannot reach another.
#[derive(Debug)]
pub struct LinkLost<'a> {
    /// On this stream.
    pub session: SessionId,
    /// The one that says so.
    pub worker: &'a WorkerId,
    /// The other.
    pub other: &'a WorkerId,
    /// Of this attempt.
    pub rank: &'a (JobId, Attempt),
    /// What it saw.
    pub reason: &'a str,
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
    recover::drop_worker(state, id);
    if let Some(worker) = state.worker_mut(id) {
        let (Link::Up { heard: last, .. }
        | Link::Suspect { since: last }
        | Link::Lost { since: last }) = worker.link;
        if matches!(loss, Loss::Silent(_)) {
            let after = now.mono.since(last);
            out.observed.push(Observation::Noticed { after });
        }
        worker.link = Link::Lost { since: now.mono };
        worker.since = now.wall;
        for slot in &mut worker.slots {
            slot.hold = Hold::Free;
        }
    }
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
                step: None,
            }),
        };
        end_attempt(state, &job, ending, now, out);
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
            Link::Suspect { .. } if worker.draining.is_some() => {
                let left = Loss::Planned(format!("worker {} left", worker.id));
                lose(state, &worker.id, &left, now, out);
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
                Order::End {
                    to: rank.order_to(),
                    reason,
                },
            );
        }
    }
}
