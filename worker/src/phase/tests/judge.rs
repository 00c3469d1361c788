use diptych_common::ids::Step;

use super::gang::{Attempted, Ended, Job};
use crate::phase::PhaseError;

/// A classifier on a random encoder, three steps an epoch, evaluated after each.
fn linear(steps: u32, fields: &str) -> String {
    format!(
        "  - {{name: linear, kind: linear_eval, from: random, batch: 20, steps: {steps}, max_bad_images: 0.1, lanes: 4, \
         augment: {{image_size: 12, crop_area: [0.5, 1], flip: false}}, \
         optimizer: {{kind: sgd, learning_rate: 0.5, scaling: none}}, {fields}}}\n"
    )
}

fn attempt(job: &mut Job, how: Attempted) -> Ended {
    let ended = job.attempt(0, how);
    assert!(ended.errors.is_empty(), "{:?}", ended.errors);
    ended
}

fn steps(ended: &Ended) -> Vec<u64> {
    ended
        .commits
        .iter()
        .map(|commit| commit.step.get())
        .collect()
}

#[test]
fn a_phase_that_no_longer_improves_ends_and_a_restart_ends_it_at_the_same_step() {
    // Of three classes the five best hold every label, so that only the first evaluation improves.
    let phases = linear(
        30,
        "evaluate: {every_epochs: 1, stop_after: {metric: eval_top5, evaluations: 2}}, checkpoint: {every_steps: 3}",
    );
    let mut job = Job::new("fp64", &phases);
    let on = |world| Attempted {
        world,
        ..Attempted::default()
    };
    let whole = attempt(&mut job, on(2));
    assert_eq!(
        steps(&whole).last(),
        Some(&9),
        "evaluations after 3, 6 and 9"
    );
    assert_eq!(whole.evaluations, 3, "the last one is the phase's own");
    let told = |(kind, what): &&(&str, String)| {
        *kind == "stopped_early" && what.contains("eval_top5 has not exceeded the 1 of step 3")
    };
    assert_eq!(
        whole.notices.iter().filter(told).count(),
        1,
        "{:?}",
        whole.notices
    );
    assert!(
        whole.results.contains_key("eval_top1"),
        "as at the last step"
    );

    let stopped = job.attempt(
        0,
        Attempted {
            stop_after: Some(Step::new(3)),
            ..on(2)
        },
    );
    let aborted =
        |error: &PhaseError| matches!(error, PhaseError::Aborted(_) | PhaseError::PeerLost { .. });
    assert!(stopped.errors.iter().all(aborted), "{:?}", stopped.errors);
    let resume = stopped.commits.first().cloned();
    assert_eq!(resume.as_ref().map(|from| from.step), Some(Step::new(3)));
    let rest = attempt(&mut job, Attempted { resume, ..on(2) });
    assert_eq!(steps(&rest).last(), Some(&9));
    let (one, other) = (
        job.tensors(whole.commits.last().unwrap()),
        job.tensors(rest.commits.last().unwrap()),
    );
    assert!(one.contains_key("judge.stop"));
    for (name, tensor) in &one {
        assert!(tensor.equal(&other[name]), "{name} differs");
    }

    // From its end, nothing is left to train.
    let resume = whole.commits.last().cloned();
    let again = attempt(&mut job, Attempted { resume, ..on(2) });
    assert_eq!((steps(&again), again.losses.len()), (vec![9], 0));
}

#[test]
fn every_best_so_far_is_saved_and_told() {
    let phases = linear(
        12,
        "evaluate: {every_epochs: 1}, checkpoint: {every: 1h, select: {best: eval_top1}}",
    );
    for world in [1, 3] {
        let mut job = Job::new("fp64", &phases);
        let ended = attempt(
            &mut job,
            Attempted {
                world,
                ..Attempted::default()
            },
        );
        let mut best = f64::MIN;
        let mut bests = Vec::new();
        for found in ended
            .measured
            .iter()
            .filter(|found| found.name == "eval_top1")
        {
            if found.value > best {
                best = found.value;
                bests.push(found.step);
            }
        }
        assert_eq!(ended.bests, bests, "{:?}", ended.measured);
        let mut saved = bests.clone();
        saved.extend((bests.last() != Some(&Step::new(12))).then_some(Step::new(12)));
        let commits: Vec<Step> = ended.commits.iter().map(|commit| commit.step).collect();
        assert_eq!(commits, saved, "the bests and the last, each once");
    }
}

#[test]
fn a_measurement_that_cannot_be_taken_is_refused_before_training() {
    let phases = "  - {name: pre, kind: pretrain, batch: 24, max_bad_images: 0.1, steps: 2, lanes: 4, \
                  augment: {image_size: 12}, optimizer: {kind: sgd, learning_rate: 0.05, scaling: none}, \
                  checkpoint: {select: {best: knn_top1}}}\n";
    let mut job = Job::new("fp32", phases);
    job.unlabel("train");
    job.unlabel("test");
    let ended = job.attempt(
        0,
        Attempted {
            world: 1,
            ..Attempted::default()
        },
    );
    let [PhaseError::Refused(why)] = &ended.errors[..] else {
        panic!("{:?}", ended.errors)
    };
    assert!(
        why.contains("knn_top1 cannot be measured, which checkpoint.select.best names"),
        "{why}"
    );
}
