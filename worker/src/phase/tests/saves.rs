use std::time::Duration;

use diptych_common::ids::Step;

use super::gang::{Attempted, Job};
use crate::phase::PhaseError;

const COMMON: &str = "batch: 20, max_bad_images: 0.1, lanes: 4, \
                      augment: {image_size: 12, crop_area: [0.5, 1], flip: false}";

fn pretrain(steps: u32, fields: &str) -> String {
    format!(
        "  - {{name: pre, kind: pretrain, steps: {steps}, {COMMON}, evaluate: {{knn_k: 0}}, probe: false, \
         optimizer: {{kind: lars, learning_rate: 0.3, scaling: none, weight_decay: 1.0e-4}}, {fields}}}\n"
    )
}

/// The whole pipeline's trained phases, each saving every second of six steps.
fn pipeline() -> String {
    let saves = "steps: 6, checkpoint: {every_steps: 2}";
    pretrain(
        6,
        "checkpoint: {every_steps: 2}, loss: {memory: {size: 70, decay: 0.9}}",
    ) + &format!(
        "  - {{name: linear, kind: linear_eval, from: pre, head_layer: all, {COMMON}, {saves}, \
             optimizer: {{kind: adamw, learning_rate: 0.05, scaling: none, weight_decay: 0.01}}}}\n\
             \x20 - {{name: tune, kind: finetune, from: pre, head_layer: 1, labels: {{per_class: 9}}, {COMMON}, {saves}, \
             optimizer: {{kind: sgd, learning_rate: 0.05, scaling: none, weight_decay: 1.0e-4}}}}\n\
             \x20 - {{name: student, kind: distill, teacher: tune, alpha: 0.5, labelled_batch: 12, {COMMON}, {saves}, \
             student: {{depth: 18, width: 0.03125, stem: cifar}}, \
             optimizer: {{kind: lars, learning_rate: 1.0, scaling: none, weight_decay: 1.0e-4}}}}\n"
    )
}

#[test]
fn every_kind_of_phase_stopped_half_way_goes_on_to_the_same_bits() {
    let mut job = Job::new("fp64", &pipeline());
    for phase in 0..4 {
        let stopped = job.attempt(
            phase,
            Attempted {
                world: 2,
                stop_after: Some(Step::new(2)),
                ..Attempted::default()
            },
        );
        let left = |error: &PhaseError| {
            matches!(error, PhaseError::Aborted(_) | PhaseError::PeerLost { .. })
        };
        assert!(!stopped.errors.is_empty() && stopped.errors.iter().all(left));
        let resume = stopped.commits.first().cloned();
        let first = resume.as_ref().map(|checkpoint| checkpoint.step);
        assert_eq!(first, Some(Step::new(2)));
        let rest = job.attempt(
            phase,
            Attempted {
                world: 2,
                resume,
                ..Attempted::default()
            },
        );
        assert!(rest.errors.is_empty(), "{:?}", rest.errors);
        let whole = job.run(phase, 2);
        let resumed = job.tensors(rest.commits.last().unwrap());
        let whole = job.tensors(whole.commits.last().unwrap());
        let kept = |prefix: &str| whole.keys().any(|name| name.starts_with(prefix));
        assert!(kept("momentum."));
        assert_eq!(kept("ema.") && kept("memory.queue"), phase == 0);
        assert_eq!(kept("square."), phase == 1);
        assert!(whole.keys().eq(resumed.keys()));
        for (name, tensor) in &whole {
            assert!(
                tensor.equal(&resumed[name]),
                "phase {phase}: {name} differs"
            );
        }
    }
}

#[test]
fn an_attempt_saves_at_once_where_the_last_commit_is_old() {
    let mut job = Job::new("fp32", &pretrain(4, "checkpoint: {every: 1h}"));
    let mut steps = |unsaved| {
        let ended = job.attempt(
            0,
            Attempted {
                world: 2,
                unsaved,
                ..Attempted::default()
            },
        );
        assert!(ended.errors.is_empty(), "{:?}", ended.errors);
        let steps = ended.commits.iter().map(|commit| commit.step.get());
        steps.collect::<Vec<_>>()
    };
    assert_eq!(steps(Duration::from_secs(60)), [4]);
    assert_eq!(steps(Duration::from_secs(3600)), [1, 4]);
}

/// A file where the folder of a save of the job's first attempt would be: the store cannot write there.
fn obstruct(job: &Job, step: u64) {
    let folder = job.path().join("checkpoints/tiny-0a1b2c/00-pre");
    std::fs::create_dir_all(&folder).unwrap();
    let name = format!("step-{step:012}-a000001");
    std::fs::write(folder.join(name), b"in the way").unwrap();
}

fn one_rank(job: &mut Job) -> super::gang::Ended {
    job.attempt(
        0,
        Attempted {
            world: 1,
            ..Attempted::default()
        },
    )
}

#[test]
fn a_save_that_fails_is_told_and_training_goes_on() {
    let mut job = Job::new("fp32", &pretrain(6, "checkpoint: {every_steps: 2}"));
    obstruct(&job, 2);
    let ended = one_rank(&mut job);
    assert!(ended.errors.is_empty(), "{:?}", ended.errors);
    let told = |(kind, message): &&(&str, String)| {
        let key = "00-pre/step-000000000002-a000001/shard-00000.safetensors";
        *kind == "save_failed" && message.contains(key)
    };
    assert_eq!(
        ended.notices.iter().filter(told).count(),
        1,
        "{:?}",
        ended.notices
    );
    let last = ended.commits.last().map(|commit| commit.step);
    assert_eq!(last, Some(Step::new(6)));
}

#[test]
fn the_last_save_must_not_fail() {
    let mut job = Job::new("fp32", &pretrain(2, ""));
    obstruct(&job, 2);
    let ended = one_rank(&mut job);
    assert!(
        matches!(&ended.errors[..], [PhaseError::Storage(why)] if why.contains("shard-00000")),
        "{:?}",
        ended.errors
    );
}
