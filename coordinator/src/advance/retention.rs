//! What is kept: the newest verified, the best, the pinned, the referenced and the live attempt's.

use diptych_common::ids::JobId;

use crate::core::outcome::checkpoint_words;
use crate::core::{CheckpointId, Deletion, Effect, Now, Outcome, Phase, PhaseState, State};

/// Checkpoints of a phase that nobody needs: all but the `keep` newest verified ones, the best verified one where the
/// spec asks for it, pinned ones, the result (later phases and exports read it), the one that the live attempt started
/// from, and those that are newer than the newest verified one (they may yet be verified). Broken ones older than that
/// go, too.
pub fn superfluous(phase: &Phase, keep: usize) -> Vec<CheckpointId> {
    let Some(newest) = phase
        .newest_verified()
        .map(|checkpoint| checkpoint.record.id)
    else {
        return Vec::new();
    };
    let verified = phase
        .checkpoints
        .values()
        .rev()
        .filter(|checkpoint| checkpoint.is_verified());
    let kept: Vec<_> = verified
        .take(keep.max(1))
        .map(|checkpoint| checkpoint.record.id)
        .collect();
    let referenced = match &phase.record.state {
        PhaseState::Done { last, .. } => Some(*last),
        PhaseState::Live(placement) => placement.resume,
        PhaseState::Waiting | PhaseState::Failed { .. } => None,
    };
    // A best one that nobody has re-read may yet turn out broken: the one before stays until it is verified.
    let mut newest_first = phase.checkpoints.values().rev();
    let verified_best = newest_first
        .find(|checkpoint| checkpoint.is_verified() && checkpoint.record.best.is_some());
    let best = [phase.best(), verified_best].map(|best| best.map(|best| best.record.id));
    let live = phase.placement().map(|placement| placement.attempt);
    let needed = |id: &CheckpointId| {
        *id > newest
            || kept.contains(id)
            || referenced == Some(*id)
            || best.contains(&Some(*id))
            || phase.checkpoints.get(id).is_some_and(|c| c.record.pinned)
            // Of the live attempt, only what is verified and superseded goes.
            || live == Some(id.attempt) && phase.checkpoints.get(id).is_some_and(|c| !c.is_verified())
    };
    phase
        .checkpoints
        .keys()
        .filter(|id| !needed(id))
        .copied()
        .collect()
}

/// Forgets what is superfluous in a phase, and has its objects deleted.
pub fn collect(state: &mut State, id: &JobId, index: usize, now: Now, out: &mut Outcome) {
    let Some(job) = state.job(id) else { return };
    let plan = &job.submission.phases[index];
    let (name, storage) = (plan.name.clone(), job.submission.draft.storage.clone());
    let gone = superfluous(&job.phases[index], plan.keep as usize);
    if gone.is_empty() {
        return;
    }
    let Some(job) = state.job_mut(id) else { return };
    for which in gone {
        let Some(checkpoint) = job.phases[index].checkpoints.remove(&which) else {
            continue;
        };
        let what = checkpoint_words(name.as_str(), which);
        out.note(
            job,
            now.wall,
            "checkpoint_collected",
            Some((index, which.attempt)),
            what,
        );
        if let Some((folder, _)) = checkpoint.record.manifest.rsplit_once('/') {
            out.effects.push(Effect::Delete(Deletion::Checkpoint {
                storage: storage.clone(),
                folder: folder.to_owned(),
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use diptych_common::ids::{Attempt, Step};
    use proptest::prelude::*;

    use super::*;
    use crate::core::{
        Checkpoint, CheckpointRecord, CheckpointState, Mono, Placement, RankState, Run, Seat,
        Stage, StartFrom, UnixMs,
    };

    fn id(step: u64, attempt: u64) -> CheckpointId {
        CheckpointId {
            step: Step::new(step),
            attempt: Attempt::new(attempt),
        }
    }

    fn checkpoint(
        id: CheckpointId,
        state: CheckpointState,
        pinned: bool,
    ) -> (CheckpointId, Checkpoint) {
        let record = CheckpointRecord {
            id,
            manifest: String::new(),
            digest: String::new(),
            bytes: 0,
            at: UnixMs::default(),
            state,
            pinned,
            best: None,
        };
        (id, Checkpoint::new(record))
    }

    #[test]
    fn nothing_goes_before_something_is_verified() {
        let all: BTreeMap<_, _> = (1..5)
            .map(|step| checkpoint(id(step, 1), CheckpointState::Committed, false))
            .collect();
        assert_eq!(
            superfluous(
                &Phase {
                    checkpoints: all,
                    ..Phase::new()
                },
                1
            ),
            []
        );
    }

    #[test]
    fn the_newest_verified_stay() {
        let all: BTreeMap<_, _> = (1..6)
            .map(|step| checkpoint(id(step, 1), CheckpointState::Verified, step == 2))
            .collect();
        assert_eq!(
            superfluous(
                &Phase {
                    checkpoints: all,
                    ..Phase::new()
                },
                2
            ),
            [id(1, 1), id(3, 1)]
        );
    }

    #[test]
    fn the_best_stays_until_another_one_is_verified() {
        let mut phase = Phase {
            checkpoints: (1..7)
                .map(|step| checkpoint(id(step, 1), CheckpointState::Verified, false))
                .collect(),
            ..Phase::new()
        };
        let mut mark = |step, state| {
            let best = phase.checkpoints.get_mut(&id(step, 1)).unwrap();
            best.record.best = Some(Vec::new());
            best.record.state = state;
            superfluous(&phase, 1)
        };
        let gone = |steps: &[u64]| steps.iter().map(|step| id(*step, 1)).collect::<Vec<_>>();
        assert_eq!(mark(2, CheckpointState::Verified), gone(&[1, 3, 4, 5]));
        let problem = "x".to_owned();
        let broken = CheckpointState::Broken { problem };
        assert_eq!(mark(3, broken), gone(&[1, 3, 4, 5]), "2 is still the best");
        let both = mark(4, CheckpointState::Committed);
        assert_eq!(both, gone(&[1, 3, 5]), "4 may yet turn out broken");
        assert_eq!(mark(5, CheckpointState::Verified), gone(&[1, 2, 3, 4]));
    }

    fn state() -> impl Strategy<Value = CheckpointState> {
        prop_oneof![
            Just(CheckpointState::Committed),
            Just(CheckpointState::Verified),
            Just(CheckpointState::Broken {
                problem: "x".into()
            }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_needed_stays(
            saves in prop::collection::vec((0_u64..20, 1_u64..4, state(), any::<bool>()), 0..20),
            best in prop::option::of(0_usize..20),
            keep in 1_usize..4,
            resume in prop::option::of(0_usize..20),
        ) {
            let checkpoints: BTreeMap<_, _> =
                saves.into_iter().map(|(step, attempt, state, pinned)| checkpoint(id(step, attempt), state, pinned)).collect();
            let mut phase = Phase { checkpoints, ..Phase::new() };
            let best = best.and_then(|n| phase.checkpoints.values_mut().nth(n));
            let best = best.map(|checkpoint| {
                checkpoint.record.best = Some(Vec::new());
                (checkpoint.record.id, checkpoint.is_verified())
            });
            let resume = resume.and_then(|n| phase.checkpoints.keys().nth(n).copied());
            if let Some(resume) = resume {
                let seats = vec![Seat { worker: "w".parse().unwrap(), device: 0 }];
                let attempt = Attempt::new(3);
                phase.record.state =
                    PhaseState::Live(Placement { attempt, seats, reserves: Vec::new(), start: StartFrom::Checkpoint, resume: Some(resume), begun: true, finished: None });
                phase.run = Some(Run::new(Stage::Training, RankState::Training, 1, Mono::default()));
            }
            let gone = superfluous(&phase, keep);
            for id in &gone {
                let checkpoint = &phase.checkpoints[id];
                prop_assert!(!checkpoint.record.pinned, "pinned");
                prop_assert_ne!(Some(*id), resume, "referenced");
                prop_assert_ne!(Some((*id, true)), best, "the best");
            }
            let verified: Vec<_> =
                phase.checkpoints.values().rev().filter(|c| c.is_verified()).map(|c| c.record.id).collect();
            prop_assert!(verified.iter().take(keep).all(|id| !gone.contains(id)), "one of the newest verified");
            for id in &gone {
                phase.checkpoints.remove(id);
            }
            prop_assert_eq!(superfluous(&phase, keep), vec![], "not all at once");
        }
    }
}
