//! Reports of ranks. All of them may be repetitions: agents send again what a broken connection may have lost.

use std::collections::BTreeSet;

use diptych_common::ids::{JobId, Rank, Step};

use super::ending::{Ending, end_attempt};
use super::{saves, workers};
use crate::advance::{self, work_committed};
use crate::assign;
use crate::core::{
    Activity, Effect, Exit, Failure, FailureKind, Hold, Ignored, Metric, Now, Order, Outcome,
    PhaseState, RankEvent, RankId, RankReport, RankState, Stage, State,
};

/// Notices of one attempt that are kept.
const NOTICES: u32 = 100;

/// One rank of the live attempt, found.
#[derive(Debug, Clone)]
struct Member {
    job: JobId,
    index: usize,
    rank: Rank,
}

/// A rank reports.
///
/// | report | before `Begin` | training | its work done |
/// |---|---|---|---|
/// | ready | all ready: begin | begin again, while nobody has moved | too late |
/// | progress, activity, part, manifest | too early | taken | progress, activity: too late; part, manifest: taken |
/// | finished | too early | noted | repeated |
/// | failed | ends the attempt | ends the attempt; a lost peer: doubt | ends the attempt, unless all is committed |
/// | exited | ends the attempt | ends the attempt, unless it is a symptom | normal once all is committed |
/// | notice | noted | noted | noted |
///
/// Of another attempt: the device is free at `exited`; anything else is answered with an abort.
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
        } => {
            let ready = RankState::Ready {
                endpoint,
                step,
                digest,
                data,
                nccl_id,
            };
            assign::rank_ready(state, &member.job, (index, member.rank), ready, now, out);
        }
        RankEvent::Progress {
            step,
            total,
            images_per_s,
            step_s,
            metrics,
        } if begun => {
            progress(
                state,
                &member,
                (step, total, images_per_s, step_s),
                metrics,
                now,
                out,
            );
        }
        RankEvent::Activity(activity) if begun => turned(state, &member, activity, now, out),
        RankEvent::PartSaved { step, objects } if begun => {
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
        } => {
            let failure = failure(
                &report.worker,
                &member,
                report.attempt,
                (kind, message),
                Vec::new(),
            );
            failed(state, &member, Failure { object, ..failure }, now, out);
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
        for slot in worker
            .slots
            .iter_mut()
            .filter(|slot| slot.hold.rank() == Some(&me))
        {
            slot.hold = Hold::Free;
        }
    }
}

/// A report of an attempt that is not live. Trainers of a phase that is done end by themselves.
fn stale(state: &State, report: &RankReport, out: &mut Outcome) {
    out.ignore(Ignored::StaleAttempt);
    let done = state.job(&report.job).is_some_and(|job| {
        let ended = |state: &PhaseState| matches!(state, PhaseState::Done { .. });
        job.phases
            .iter()
            .any(|phase| phase.record.attempt == report.attempt && ended(&phase.record.state))
    });
    if !done && !matches!(report.event, RankEvent::Exited { .. }) {
        let reason = format!("attempt {} has ended", report.attempt);
        out.send(
            report.session,
            Order::Abort {
                job: report.job.clone(),
                attempt: report.attempt,
                reason,
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
        RankEvent::Exited { .. } | RankEvent::Failed { .. } | RankEvent::Notice { .. }
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

fn rank_mut<'a>(state: &'a mut State, member: &Member) -> Option<&'a mut RankState> {
    let run = state.job_mut(&member.job)?.phases[member.index]
        .run
        .as_mut()?;
    run.ranks.get_mut(member.rank.get() as usize)
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
    }
}

fn progress(
    state: &mut State,
    member: &Member,
    (step, total, images_per_s, step_s): (Step, u64, f64, f64),
    metrics: Vec<Metric>,
    now: Now,
    out: &mut Outcome,
) {
    let Some(job) = state.job_mut(&member.job) else {
        return;
    };
    let plan = job.submission.phases[member.index].index;
    let phase = &mut job.phases[member.index];
    let Some(run) = phase.run.as_mut() else {
        return;
    };
    let Some(rank) = run.ranks.get_mut(member.rank.get() as usize) else {
        return;
    };
    match rank {
        RankState::Ready { .. } | RankState::Back | RankState::Training | RankState::Starting => {
            *rank = RankState::Training
        }
        RankState::Away | RankState::Missing { .. } => {}
        RankState::Finished { .. } | RankState::Left { .. } => return out.ignore(Ignored::TooLate),
    }
    run.pulse.stepped(member.rank, step, step_s, now.mono);
    let progress = &mut phase.progress;
    progress.step = progress.step.max(step);
    progress.reached = progress.reached.max(step);
    progress.total = total;
    if member.rank.get() == 0 {
        progress.images_per_s = images_per_s;
        progress.step_s = step_s;
    }
    for metric in &metrics {
        progress.metrics.insert(metric.name.clone(), metric.clone());
    }
    if !metrics.is_empty() {
        out.effects.push(Effect::Metrics {
            job: member.job.clone(),
            phase: plan,
            points: metrics,
        });
    }
}

/// A rank turns to other work, which may take another time.
fn turned(state: &mut State, member: &Member, activity: Activity, now: Now, out: &mut Outcome) {
    let run = state
        .job_mut(&member.job)
        .and_then(|job| job.phases[member.index].run.as_mut());
    let Some(run) = run else { return };
    let rank = run.ranks.get(member.rank.get() as usize);
    if rank.is_some_and(|rank| rank.finished().is_some()) {
        return out.ignore(Ignored::TooLate);
    }
    run.pulse.turned(member.rank, activity, now.mono);
}

fn finished(
    state: &mut State,
    member: &Member,
    step: Step,
    results: Vec<Metric>,
    now: Now,
    out: &mut Outcome,
) {
    let Some(job) = state.job_mut(&member.job) else {
        return;
    };
    let plan = job.submission.phases[member.index].index;
    let phase = &mut job.phases[member.index];
    let (PhaseState::Live(placement), Some(run)) = (&mut phase.record.state, &mut phase.run) else {
        return;
    };
    let Some(rank) = run.ranks.get_mut(member.rank.get() as usize) else {
        return;
    };
    if rank.finished().is_some() {
        return out.ignore(Ignored::Repeated);
    }
    *rank = RankState::Finished { step };
    run.pulse.stepped(member.rank, step, 0.0, now.mono);
    run.pulse.turned(member.rank, Activity::Saving, now.mono);
    phase.progress.step = phase.progress.step.max(step);
    phase.progress.reached = phase.progress.reached.max(step);
    if member.rank.get() == 0 {
        if !results.is_empty() {
            out.effects.push(Effect::Metrics {
                job: member.job.clone(),
                phase: plan,
                points: results.clone(),
            });
        }
        phase.record.results = results;
    }
    let Some(steps) = run
        .ranks
        .iter()
        .map(RankState::finished)
        .collect::<Option<BTreeSet<_>>>()
    else {
        return;
    };
    let attempt = placement.attempt;
    if steps.len() > 1 {
        let message = format!("ranks finished at different steps: {steps:?}");
        let kind = FailureKind::Diverged;
        let failure = Failure {
            kind,
            attempt,
            rank: None,
            worker: None,
            message,
            log: Vec::new(),
            object: None,
        };
        return end_attempt(state, &member.job, Ending::Failed(failure), now, out);
    }
    placement.finished = Some(step);
    out.note(
        job,
        now.wall,
        "finished",
        Some((member.index, attempt)),
        format!("every rank is at step {step}"),
    );
    advance::advance(state, &member.job, member.index, now, out);
}

/// A rank stopped. That it lost a peer is a symptom: the failure behind it is awaited for a moment.
fn failed(state: &mut State, member: &Member, failure: Failure, now: Now, out: &mut Outcome) {
    let until = now.mono.after(state.settings().doubt);
    let Some(job) = state.job(&member.job) else {
        return;
    };
    if work_committed(&job.phases[member.index]) {
        return out.ignore(Ignored::TooLate);
    }
    if failure.kind != FailureKind::PeerLost {
        return end_attempt(state, &member.job, Ending::Failed(failure), now, out);
    }
    let Some(run) = state
        .job_mut(&member.job)
        .and_then(|job| job.phases[member.index].run.as_mut())
    else {
        return;
    };
    match &mut run.stage {
        Stage::Doubt { bereft, .. } => {
            bereft.insert(member.rank);
        }
        Stage::Training | Stage::Preparing { .. } | Stage::Reattaching { .. } => {
            run.stage = Stage::Doubt {
                until,
                symptom: failure,
                bereft: BTreeSet::from([member.rank]),
            };
        }
    }
}

/// A trainer's process ended.
fn exited(
    state: &mut State,
    member: &Member,
    exit: Exit,
    failure: Failure,
    now: Now,
    out: &mut Outcome,
) {
    let Some(job) = state.job(&member.job) else {
        return;
    };
    let phase = &job.phases[member.index];
    let Some(run) = &phase.run else { return };
    let rank = &run.ranks[member.rank.get() as usize];
    if let (Some(step), true) = (rank.finished(), work_committed(phase)) {
        if let Some(rank) = rank_mut(state, member) {
            *rank = RankState::Left { step };
        }
        return;
    }
    if matches!(&run.stage, Stage::Doubt { bereft, .. } if bereft.contains(&member.rank)) {
        return;
    }
    let early = rank.finished().is_some() && exit == Exit::Code(0);
    let message = if early {
        "its trainer ended before its last save was committed".to_owned()
    } else {
        failure.message.clone()
    };
    end_attempt(
        state,
        &member.job,
        Ending::Failed(Failure { message, ..failure }),
        now,
        out,
    );
}

fn notice(
    state: &mut State,
    member: &Member,
    kind: String,
    message: String,
    now: Now,
    out: &mut Outcome,
) {
    let Some(job) = state.job_mut(&member.job) else {
        return;
    };
    let attempt = job.phases[member.index].record.attempt;
    let Some(run) = job.phases[member.index].run.as_mut() else {
        return;
    };
    run.notices = run.notices.saturating_add(1);
    let at = Some((member.index, attempt));
    let message = format!("rank {}: {message}", member.rank);
    match run.notices {
        0..NOTICES => out.note(job, now.wall, &kind, at, message),
        NOTICES => out.note(
            job,
            now.wall,
            &kind,
            at,
            format!("{message}; further notices of this attempt are in its log only"),
        ),
        _ => out.ignore(Ignored::TooMany),
    }
}
