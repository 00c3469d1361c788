//! Attempts of a former coordinator process: its ranks go on, and come back one by one.

use diptych_common::ids::JobId;

use super::begin::begin_if_ready;
use crate::core::{
    Away, Job, Mono, Now, Outcome, PhaseState, RankState, Run, Settings, Stage, State, StoredJob,
    WorkerRecord,
};
use crate::track::{self, Ending};

/// A state from what the store holds. Ranks of live attempts are away until their workers register.
pub fn restored(
    settings: Settings,
    (jobs, workers): (Vec<StoredJob>, Vec<WorkerRecord>),
    now: Mono,
) -> State {
    let mut state = State::new(settings);
    state.recall(workers);
    for stored in jobs {
        let mut job = stored.into_job();
        reattaching(&mut job, &settings, now);
        state.insert_job(job);
    }
    state.derive();
    state.keep();
    state
}

fn reattaching(job: &mut Job, settings: &Settings, now: Mono) {
    for phase in &mut job.phases {
        phase.waiting = now;
        let until = now.after(settings.reattach_grace);
        let Some(placement) = phase.placement() else {
            // Its trainers wait for an attempt that the former process did not live to place.
            let last = phase.record.attempt == job.record.last_attempt;
            if last && matches!(phase.record.state, PhaseState::Waiting) {
                let workers = phase.record.gang.iter().cloned().collect();
                phase.away = Some(Away { workers, until });
            }
            continue;
        };
        let (world, beside) = (placement.seats.len(), placement.reserves.len());
        let begun = placement.begun.then_some(now);
        let committed = |step| {
            phase
                .checkpoints
                .values()
                .any(|c| c.record.id.step == step && !c.is_broken())
        };
        // Where everything is finished and committed, only the verification is left: nobody has to come back.
        let (stage, rank) = match placement.finished.filter(|step| committed(*step)) {
            Some(step) => (Stage::Training, RankState::Left { step }),
            None => (Stage::Reattaching { until }, RankState::Away),
        };
        let mut run = Run::new(stage, rank, world, now);
        run.reserves = vec![RankState::Away; beside];
        run.begun = begun;
        phase.run = Some(run);
    }
}

/// Goes on with an attempt whose ranks have all come back. Where some had left the gang meanwhile, all do, and their next
/// attempt goes on from what they hold.
pub fn reattached(state: &mut State, id: &JobId, now: Now, out: &mut Outcome) {
    let prepare = state.settings().prepare_deadline;
    let Some((index, placement)) = state.job(id).and_then(|job| job.live()) else {
        return;
    };
    let (attempt, begun) = (placement.attempt, placement.begun);
    let Some(job) = state.job_mut(id) else { return };
    let Some(run) = &mut job.phases[index].run else {
        return;
    };
    if !matches!(run.stage, Stage::Reattaching { .. })
        || !run.ranks.iter().all(RankState::is_attached)
    {
        return;
    }
    if run
        .ranks
        .iter()
        .any(|rank| matches!(rank, RankState::Held { .. }))
    {
        let why = "ranks left the gang while the coordinator was away".to_owned();
        return track::end_attempt(state, id, Ending::Planned(why), now, out);
    }
    run.pulse.at = now.mono;
    run.stage = if begun {
        Stage::Training
    } else {
        Stage::Preparing {
            until: now.mono.after(prepare),
        }
    };
    let message = "every rank came back; the attempt goes on".to_owned();
    out.note(job, now.wall, "reattached", Some((index, attempt)), message);
    begin_if_ready(state, id, index, now, out);
}
