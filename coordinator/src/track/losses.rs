//! What takes a rank out of its gang: it left it, it failed, its process ended.

use std::collections::BTreeSet;
use std::time::Duration;

use diptych_common::ids::Step;

use super::ending::{Ending, end_attempt};
use super::ranks::{Member, rank_mut};
use crate::advance::work_committed;
use crate::assign;
use crate::core::{Exit, Failure, FailureKind, Ignored, Now, Outcome, RankState, Stage, State};

/// Ranks that leave after the same step are not far apart.
const LEAVES_TOGETHER: Duration = Duration::from_secs(10);

/// A rank left its gang, and waits. Where the gang was told to leave, that is what was wanted.
pub(super) fn held(
    state: &mut State,
    member: &Member,
    step: Step,
    symptom: Failure,
    now: Now,
    out: &mut Outcome,
) {
    let Some(job) = state.job_mut(&member.job) else {
        return;
    };
    let phase = &mut job.phases[member.index];
    let Some(run) = &mut phase.run else { return };
    let Some(rank) = run.ranks.get_mut(member.rank.get() as usize) else {
        return;
    };
    match rank {
        RankState::Held { .. } => return out.ignore(Ignored::Repeated),
        RankState::Left { .. } => return out.ignore(Ignored::TooLate),
        _ => *rank = RankState::Held { step },
    }
    let leaving = if let Stage::Leaving { until, .. } = &mut run.stage {
        // The others left after the same step.
        *until = (*until).min(now.mono.after(LEAVES_TOGETHER));
        true
    } else {
        false
    };
    let reattaching = matches!(run.stage, Stage::Reattaching { .. });
    phase.progress.step = phase.progress.step.max(step);
    phase.progress.reached = phase.progress.reached.max(step);
    if leaving {
        if assign::all_held(state, &member.job) {
            assign::left(state, &member.job, now, out);
        }
    } else if reattaching {
        assign::reattached(state, &member.job, now, out);
    } else {
        failed(state, member, symptom, now, out);
    }
}

/// A rank stopped. That it lost a peer is a symptom: the failure behind it is awaited for a moment.
pub(super) fn failed(
    state: &mut State,
    member: &Member,
    failure: Failure,
    now: Now,
    out: &mut Outcome,
) {
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
        Stage::Training
        | Stage::Preparing { .. }
        | Stage::Reattaching { .. }
        | Stage::Leaving { .. } => {
            run.stage = Stage::Doubt {
                until,
                symptom: failure,
                bereft: BTreeSet::from([member.rank]),
            };
        }
    }
}

/// A trainer's process ended.
pub(super) fn exited(
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
    let waited = matches!(rank, RankState::Held { .. });
    if matches!(&run.stage, Stage::Doubt { bereft, .. } if bereft.contains(&member.rank) && !waited)
    {
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
