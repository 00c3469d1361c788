//! Reports of ranks. All of them may be repetitions: agents send again what a broken connection may have lost.

use diptych_common::ids::{Attempt, JobId, Rank, Step};

use super::losses::{exited, failed, held};
use super::steps::{At, finished, notice, progress, turned};
use super::{recover, saves, workers};
use crate::assign;
use crate::core::{
    Failure, FailureKind, Hold, Ignored, Now, Order, Outcome, PhaseState, RankEvent, RankId,
    RankReport, RankState, Seat, State,
};

/// One rank of the live attempt, found.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) job: JobId,
    pub(super) index: usize,
    pub(super) rank: Rank,
}

/// A rank reports.
///
/// | report | before `Begin` | training | its work done |
/// |---|---|---|---|
/// | ready | all ready: begin | begin again, while nobody has moved | too late |
/// | progress, activity, part, manifest | too early | taken | progress, activity: too late; part, manifest: taken |
/// | finished | too early | noted | repeated |
/// | held | a symptom: doubt | told to leave: noted; else a symptom: doubt | too late |
/// | failed | ends the attempt | ends the attempt; a lost peer: doubt | ends the attempt, unless all is committed |
/// | exited | ends the attempt | ends the attempt, unless it is a symptom | normal once all is committed |
/// | notice | noted | noted | noted |
///
/// Of another attempt: the device is free at `exited`; of a trainer that is kept nothing is wanted; anything else is
/// answered with an abort. Of one that stands by beside the gang: it is ready, or it is gone.
pub fn report(state: &mut State, report: RankReport, now: Now, out: &mut Outcome) {
    if let Err(why) = workers::heard(state, report.session, &report.worker, now) {
        return out.ignore(why);
    }
    if let RankEvent::Exited { .. } = &report.event {
        vacate(state, &report);
    }
    let live = state.job(&report.job).and_then(|job| job.live());
    let Some((index, placement)) =
        live.filter(|(_, placement)| placement.attempt == report.attempt)
    else {
        return stale(state, &report, out);
    };
    if report.rank.get() as usize >= placement.seats.len() {
        return beside(state, (index, placement.attempt), report, now, out);
    }
    let seat = placement.seats.get(report.rank.get() as usize);
    if seat.is_none_or(|seat| seat.worker != report.worker) {
        return out.ignore(Ignored::NotItsRank);
    }
    let begun = placement.begun;
    let member = Member {
        job: report.job.clone(),
        index,
        rank: report.rank,
    };
    attach(state, &member, &report.event, begun, now, out);
    match report.event {
        RankEvent::Ready {
            endpoint,
            step,
            digest,
            data,
            nccl_id,
            empty,
            tensors,
        } => {
            let ready = RankState::Ready {
                endpoint,
                step,
                digest,
                data,
                nccl_id,
                empty,
                tensors,
            };
            assign::rank_ready(state, &member.job, (index, member.rank), ready, now, out);
        }
        RankEvent::Progress {
            step,
            total,
            images_per_s,
            step_s,
            waited_s,
            metrics,
        } if begun => {
            let at = At {
                step,
                total,
                images_per_s,
                step_s,
                waited_s,
            };
            progress(state, &member, at, metrics, now, out);
        }
        RankEvent::Held { step, reason, lost } => {
            let lost: Vec<_> = lost.iter().map(Rank::to_string).collect();
            let message = match lost.as_slice() {
                [] => reason,
                lost => format!("{reason} (lost rank {})", lost.join(", ")),
            };
            let symptom = failure(
                &report.worker,
                &member,
                report.attempt,
                (FailureKind::PeerLost, message),
                Vec::new(),
            );
            held(state, &member, step, symptom, now, out);
        }
        RankEvent::Activity(activity) if begun => turned(state, &member, activity, now, out),
        RankEvent::PartSaved { step, objects, .. } if begun => {
            saves::part_saved(
                state,
                &member.job,
                (index, member.rank, step),
                objects,
                now,
                out,
            );
        }
        RankEvent::ManifestWritten { checkpoint, best } if begun => {
            saves::manifest_written(
                state,
                &member.job,
                (index, member.rank),
                (checkpoint, best),
                now,
                out,
            );
        }
        RankEvent::Finished { step, results } if begun => {
            finished(state, &member, step, results, now, out)
        }
        RankEvent::Progress { .. }
        | RankEvent::Activity(_)
        | RankEvent::PartSaved { .. }
        | RankEvent::ManifestWritten { .. }
        | RankEvent::Finished { .. } => out.ignore(Ignored::TooEarly),
        RankEvent::Failed {
            kind,
            message,
            object,
            step,
        } => {
            let failure = failure(
                &report.worker,
                &member,
                report.attempt,
                (kind, message),
                Vec::new(),
            );
            let failure = Failure {
                object,
                step,
                ..failure
            };
            failed(state, &member, failure, now, out);
        }
        RankEvent::Exited { exit, last_lines } => {
            let failure = failure(
                &report.worker,
                &member,
                report.attempt,
                (FailureKind::Crashed, format!("its trainer {exit}")),
                last_lines,
            );
            exited(state, &member, exit, failure, now, out);
        }
        RankEvent::Notice { kind, message } => notice(state, &member, kind, message, now, out),
    }
}

/// A process has ended: whatever its attempt, its device is free.
fn vacate(state: &mut State, report: &RankReport) {
    let me = RankId {
        job: report.job.clone(),
        attempt: report.attempt,
        rank: report.rank,
    };
    if let Some(worker) = state.worker_mut(&report.worker) {
        let mut devices = Vec::new();
        for slot in worker
            .slots
            .iter_mut()
            .filter(|slot| slot.hold.rank() == Some(&me))
        {
            slot.hold = Hold::Free;
            devices.push(slot.index);
        }
        for device in devices {
            let seat = Seat {
                worker: report.worker.clone(),
                device,
            };
            recover::drop_seat(state, &me, &seat);
        }
    }
}

/// A trainer that stands by beside the gang reports. What becomes of it is no failure of the attempt.
fn beside(
    state: &mut State,
    (index, attempt): (usize, Attempt),
    report: RankReport,
    now: Now,
    out: &mut Outcome,
) {
    let member = Member {
        job: report.job.clone(),
        index,
        rank: report.rank,
    };
    let placement = state.job(&report.job).and_then(|job| job.live());
    let seat = placement.and_then(|(_, placement)| placement.seat(report.rank));
    if seat.is_none_or(|seat| seat.worker != report.worker) {
        return out.ignore(Ignored::NotItsRank);
    }
    match report.event {
        RankEvent::Ready {
            endpoint,
            step,
            digest,
            data,
            nccl_id,
            empty,
            tensors,
        } => {
            let ready = RankState::Ready {
                endpoint,
                step,
                digest,
                data,
                nccl_id,
                empty,
                tensors,
            };
            assign::rank_ready(state, &report.job, (index, report.rank), ready, now, out);
        }
        RankEvent::Failed { message, .. } => {
            let Some(job) = state.job(&report.job).cloned() else {
                return;
            };
            let message = format!("rank {}, which stood by, failed: {message}", report.rank);
            out.note(
                &job,
                now.wall,
                "reserve_failed",
                Some((index, attempt)),
                message,
            );
            if let Some(member) = rank_mut(state, &member) {
                *member = RankState::Left {
                    step: Step::default(),
                };
            }
        }
        RankEvent::Notice { kind, message } => notice(state, &member, kind, message, now, out),
        // Its device is free already.
        RankEvent::Exited { .. } => {}
        RankEvent::Held { .. }
        | RankEvent::Progress { .. }
        | RankEvent::Activity(_)
        | RankEvent::PartSaved { .. }
        | RankEvent::ManifestWritten { .. }
        | RankEvent::Finished { .. } => out.ignore(Ignored::TooEarly),
    }
}

/// A report of an attempt that is not live. Trainers of a phase that is done end by themselves.
fn stale(state: &State, report: &RankReport, out: &mut Outcome) {
    out.ignore(Ignored::StaleAttempt);
    let worker = state.worker(&report.worker);
    let mut holds = worker.iter().flat_map(|worker| &worker.slots);
    let is_mine = |rank: &RankId| rank.job == report.job;
    let waits = |hold: &Hold| {
        matches!(hold, Hold::Kept(rank) if is_mine(rank)
            && (rank.attempt, rank.rank) == (report.attempt, report.rank))
    };
    if holds.clone().any(|slot| waits(&slot.hold)) {
        return;
    }
    let done = state.job(&report.job).is_some_and(|job| {
        let ended = |state: &PhaseState| matches!(state, PhaseState::Done { .. });
        job.phases
            .iter()
            .any(|phase| phase.record.attempt == report.attempt && ended(&phase.record.state))
    });
    if !done && !matches!(report.event, RankEvent::Exited { .. }) {
        let reason = format!("attempt {} has ended", report.attempt);
        // It may have spoken before its agent heard that a later attempt is to go on from what it holds.
        let goes_on = |hold: &Hold| {
            hold.rank()
                .is_some_and(|rank| is_mine(rank) && rank.attempt > report.attempt)
        };
        out.send(
            report.session,
            Order::Abort {
                job: report.job.clone(),
                attempt: report.attempt,
                reason,
                keep: holds.any(|slot| goes_on(&slot.hold)),
                end: Vec::new(),
            },
        );
    }
}

/// A rank that was away or missing speaks: it is there.
fn attach(
    state: &mut State,
    member: &Member,
    event: &RankEvent,
    begun: bool,
    now: Now,
    out: &mut Outcome,
) {
    if matches!(
        event,
        RankEvent::Exited { .. }
            | RankEvent::Failed { .. }
            | RankEvent::Held { .. }
            | RankEvent::Notice { .. }
    ) {
        return;
    }
    let away = |rank: &RankState| matches!(rank, RankState::Away | RankState::Missing { .. });
    let run = state
        .job(&member.job)
        .and_then(|job| job.phases[member.index].run.as_ref());
    if !run
        .and_then(|run| run.ranks.get(member.rank.get() as usize))
        .is_some_and(away)
    {
        return;
    }
    if let Some(rank) = rank_mut(state, member) {
        *rank = if begun {
            RankState::Back
        } else {
            RankState::Starting
        };
    }
    assign::reattached(state, &member.job, now, out);
}

pub(super) fn rank_mut<'a>(state: &'a mut State, member: &Member) -> Option<&'a mut RankState> {
    let run = state.job_mut(&member.job)?.phases[member.index]
        .run
        .as_mut()?;
    run.member_mut(member.rank)
}

fn failure(
    worker: &diptych_common::ids::WorkerId,
    member: &Member,
    attempt: diptych_common::ids::Attempt,
    (kind, message): (FailureKind, String),
    log: Vec<String>,
) -> Failure {
    Failure {
        kind,
        attempt,
        rank: Some(member.rank),
        worker: Some(worker.clone()),
        message,
        log,
        object: None,
        step: None,
    }
}
