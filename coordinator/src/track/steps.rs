//! What the ranks of a gang that steps report: progress, the end of their work, notices.

use std::collections::BTreeSet;

use diptych_common::ids::Step;

use super::ending::{Ending, end_attempt};
use super::ranks::Member;
use crate::advance;
use crate::core::{
    Activity, Effect, Failure, FailureKind, Ignored, Job, Metric, Now, Outcome, PhaseState,
    RankState, Stage, State,
};

/// Notices of one attempt that are kept.
const NOTICES: u32 = 100;

/// Where a rank is.
pub(super) struct At {
    pub(super) step: Step,
    pub(super) total: u64,
    pub(super) images_per_s: f64,
    pub(super) step_s: f64,
    pub(super) waited_s: f64,
}

pub(super) fn progress(
    state: &mut State,
    member: &Member,
    at: At,
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
        RankState::Held { .. } | RankState::Finished { .. } | RankState::Left { .. } => {
            return out.ignore(Ignored::TooLate);
        }
    }
    let world = run.ranks.len();
    let first = run.pulse.stepped(member.rank, at.step, now.mono);
    phase.pace.learn(world, at.step_s, first);
    let straggles = run.pulse.strode(member.rank, at.step_s, at.waited_s);
    let slowness = run.pulse.slowness(member.rank).unwrap_or_default();
    let progress = &mut phase.progress;
    progress.step = progress.step.max(at.step);
    progress.reached = progress.reached.max(at.step);
    progress.total = at.total;
    if member.rank.get() == 0 {
        progress.images_per_s = at.images_per_s;
        progress.step_s = at.step_s;
    }
    for metric in &metrics {
        progress.metrics.insert(metric.name.clone(), metric.clone());
    }
    if straggles {
        straggler(job, member, slowness, now, out);
    }
    if !metrics.is_empty() {
        out.effects.push(Effect::Metrics {
            job: member.job.clone(),
            phase: plan,
            points: metrics,
        });
    }
}

/// People are told which rank the others wait for.
fn straggler(job: &Job, member: &Member, slowness: f64, now: Now, out: &mut Outcome) {
    let phase = &job.phases[member.index];
    let seat = phase
        .placement()
        .and_then(|placement| placement.seat(member.rank));
    let worker = seat.map_or_else(String::new, |seat| format!(" on {}", seat.worker));
    let message = format!(
        "rank {}{worker} takes {slowness:.1} times as long for its own work as the others, who wait for it",
        member.rank
    );
    let at = Some((member.index, phase.record.attempt));
    out.note(job, now.wall, "straggler", at, message);
}

/// A rank turns to other work, which may take another time.
pub(super) fn turned(
    state: &mut State,
    member: &Member,
    activity: Activity,
    now: Now,
    out: &mut Outcome,
) {
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

pub(super) fn finished(
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
    if matches!(run.stage, Stage::Leaving { .. }) {
        // The phase's end came first.
        run.stage = Stage::Training;
    }
    run.pulse.stepped(member.rank, step, now.mono);
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
            step: None,
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

pub(super) fn notice(
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
