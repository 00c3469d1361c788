//! What the state is, when somebody asks.

use std::time::Duration;

use diptych_common::ids::Rank;
use diptych_common::operations::{Family, Labels};

use super::job::{of_job, of_phase, of_rank};
use crate::core::{Job, JobState, State, UnixMs};

/// How long an ended job still says how it ended.
const LINGER: Duration = Duration::from_secs(3600);
/// Jobs that say where they are: those that run, then those that ended last, then those that wait, first come first. The
/// depth of the queue counts all.
const JOBS: usize = 1000;

/// What the state is now.
pub(super) fn families(state: &State, wall: UnixMs) -> Vec<Family> {
    let live = || state.live().iter().filter_map(|id| state.job(id));
    let states = shown(state, wall).into_iter().map(|job| {
        let mut labels = of_job(job.id());
        labels.push(("state", state_name(job).to_owned()));
        (labels, 1.0)
    });
    let mut durable = Vec::new();
    let mut ages = Vec::new();
    let mut stragglers = Vec::new();
    for job in live() {
        let Some((index, placement)) = job.live() else {
            continue;
        };
        let (plan, phase) = (&job.submission.phases[index], &job.phases[index]);
        let newest = phase.newest_verified().map(|newest| &newest.record);
        if let Some(newest) = newest {
            let step = newest.id.step.get() as f64;
            durable.push((of_phase(job.id(), &plan.name), step));
        }
        let since = newest.map(|newest| newest.at).or(phase.record.started);
        if let Some(since) = since {
            let age = wall.since(since).as_secs_f64();
            ages.push((of_phase(job.id(), &plan.name), age));
        }
        let ranks = (0..placement.seats.len() as u32).map(Rank::new);
        stragglers.extend(ranks.filter_map(|rank| {
            let slowness = phase.run.as_ref()?.pulse.slowness(rank)?;
            Some((of_rank(job.id(), &plan.name, rank), slowness))
        }));
    }
    let depth = [(Labels::new(), state.queue().len() as f64)];
    vec![
        Family::gauges(
            "diptych_job_state",
            "1 for the state that a job is in",
            states,
        ),
        Family::gauges("diptych_queue_depth", "Jobs that wait", depth),
        Family::gauges(
            "diptych_last_durable_step",
            "Steps in the newest verified checkpoint",
            durable,
        ),
        Family::gauges(
            "diptych_checkpoint_age_seconds",
            "Age of the newest verified checkpoint; before the first, of the phase",
            ages,
        ),
        Family::gauges(
            "diptych_straggler_ratio",
            "A rank's own time over that of its gang's median rank",
            stragglers,
        ),
    ]
}

fn shown(state: &State, wall: UnixMs) -> Vec<&Job> {
    let live = state.live().iter().filter_map(|id| state.job(id));
    let mut ended: Vec<(UnixMs, &Job)> = state
        .jobs()
        .values()
        .filter_map(|job| Some((ended(&job.record.state)?, job.as_ref())))
        .filter(|(ended, _)| wall.since(*ended) < LINGER)
        .collect();
    ended.sort_by_key(|(ended, _)| std::cmp::Reverse(*ended));
    let waiting = state.queue().iter().filter_map(|key| state.job(&key.job));
    live.map(AsRef::as_ref)
        .chain(ended.into_iter().map(|(_, job)| job))
        .chain(waiting.map(AsRef::as_ref))
        .take(JOBS)
        .collect()
}

fn ended(state: &JobState) -> Option<UnixMs> {
    match state {
        JobState::Active => None,
        JobState::Succeeded { ended }
        | JobState::Failed { ended, .. }
        | JobState::Cancelled { ended, .. } => Some(*ended),
    }
}

/// As `diptych list` has it.
fn state_name(job: &Job) -> &'static str {
    match &job.record.state {
        JobState::Active if job.record.last_attempt.get() == 0 => "queued",
        JobState::Active => "running",
        JobState::Succeeded { .. } => "succeeded",
        JobState::Failed { .. } => "failed",
        JobState::Cancelled { .. } => "cancelled",
    }
}
