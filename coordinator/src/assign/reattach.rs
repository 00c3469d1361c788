//! Attempts of a former coordinator process: its ranks go on, and come back one by one.

use diptych_common::ids::JobId;

use super::begin::begin_if_ready;
use crate::core::{Job, Mono, Now, Outcome, RankState, Run, Settings, Stage, State, StoredJob};

/// A state from what the store holds. Ranks of live attempts are away until their workers register.
pub fn restored(settings: Settings, jobs: Vec<StoredJob>, now: Mono) -> State {
    let mut state = State::new(settings);
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
        let Some(placement) = phase.placement() else {
            continue;
        };
        let world = placement.seats.len();
        let committed = |step| {
            phase
                .checkpoints
                .values()
                .any(|c| c.record.id.step == step && !c.is_broken())
        };
        // Where everything is finished and committed, only the verification is left: nobody has to come back.
        let (stage, rank) = match placement.finished.filter(|step| committed(*step)) {
            Some(step) => (Stage::Training, RankState::Left { step }),
            None => (
                Stage::Reattaching {
                    until: now.after(settings.reattach_grace),
                },
                RankState::Away,
            ),
        };
        phase.run = Some(Run::new(stage, rank, world, now));
    }
}

/// Goes on with an attempt whose ranks have all come back.
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
