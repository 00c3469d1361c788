//! A gang that does not progress, although all of its agents live: a stopped trainer, a blocked disk, a lost manifest.

use std::time::Duration;

use diptych_common::ids::{Rank, Step};

use crate::core::{Activity, Failure, FailureKind, Mono, Phase, Placement, Pulse, Run, Settings};

/// How long a gang may go without progress: many of the step times that its phase has learned, and never less than what
/// its work may take.
pub fn patience(pulse: &Pulse, pace: Option<f64>, settings: &Settings) -> Duration {
    let steps = pace.unwrap_or_default() * f64::from(settings.stall_steps);
    let steps = Duration::try_from_secs_f64(steps).unwrap_or(Duration::MAX);
    let least = if pulse.doing.contains(&Activity::Evaluating) {
        settings.stall_evaluating
    } else if pulse.doing.contains(&Activity::Saving) || pace.is_none() {
        settings.stall_saving
    } else {
        settings.stall
    };
    least.max(steps)
}

/// The failure of a gang that has used up its patience. It names the ranks that are furthest behind: the others wait
/// for them.
pub fn stalled(
    (placement, phase): (&Placement, &Phase),
    run: &Run,
    settings: &Settings,
    now: Mono,
) -> Option<Failure> {
    let pulse = &run.pulse;
    let silent = now.since(pulse.at);
    let pace = phase.pace.step_s(run.ranks.len());
    if silent < patience(pulse, pace, settings) {
        return None;
    }
    let behind = behind(run);
    let step = behind
        .first()
        .and_then(|rank| pulse.steps.get(rank.get() as usize))
        .copied()
        .flatten();
    let doing = behind
        .first()
        .and_then(|rank| pulse.doing.get(rank.get() as usize));
    let waits = if placement.finished.is_some() {
        "the manifest of its last save was not committed"
    } else {
        match doing {
            Some(Activity::Evaluating) => "its evaluation did not end",
            Some(Activity::Saving) => "its last save was not written",
            Some(Activity::Training) | None => "it took no step",
        }
    };
    let after = step.map_or_else(
        || "since it began".to_owned(),
        |step| format!("after step {step}"),
    );
    let seat = |rank: &Rank| placement.seats.get(rank.get() as usize);
    let (rank, worker, who) = match behind.as_slice() {
        [rank] => (
            Some(*rank),
            seat(rank).map(|seat| seat.worker.clone()),
            String::new(),
        ),
        ranks => {
            let names: Vec<_> = ranks
                .iter()
                .map(|rank| match seat(rank) {
                    Some(seat) => format!("{rank} on {}", seat.worker),
                    None => rank.to_string(),
                })
                .collect();
            (None, None, format!("ranks {}: ", names.join(", ")))
        }
    };
    Some(Failure {
        kind: FailureKind::Stalled,
        attempt: placement.attempt,
        rank,
        worker,
        message: format!(
            "{who}{waits} for {} s {after}; the log says what was done last",
            silent.as_secs()
        ),
        log: Vec::new(),
        object: None,
        step: None,
    })
}

/// The ranks that the gang waits for: those that are not done, and of these those with the fewest steps. Once all
/// are done, rank 0, which writes the manifest.
fn behind(run: &Run) -> Vec<Rank> {
    let open = || {
        (0..)
            .map(Rank::new)
            .zip(&run.ranks)
            .zip(&run.pulse.steps)
            .filter(|((_, state), _)| state.finished().is_none())
            .map(|((rank, _), step)| (*step, rank))
    };
    let Some(least): Option<Option<Step>> = open().map(|(step, _)| step).min() else {
        return vec![Rank::new(0)];
    };
    open()
        .filter(|(step, _)| *step == least)
        .map(|(_, rank)| rank)
        .collect()
}
