use super::fleet::{Fleet, Round, from_memory, from_scratch};
use super::gang::{Attempted, Ended, Job};
use super::outlive::same_bits;
use crate::phase::PhaseError;

/// Micro-batches, so that a step's views are used twice.
fn pretrain(place: &str) -> String {
    format!(
        "  - {{name: pre, kind: pretrain, steps: 6, batch: 24, lanes: 24, groups: 4, micro_batch_groups: 2, \
         max_bad_images: 0.1, probe: false, evaluate: {{knn_k: 5}}, checkpoint: {{every: 1h}}, \
         augment: {{image_size: 12, blur_probability: 0.5, place: {place}}}, \
         optimizer: {{kind: lars, learning_rate: 0.3, scaling: none}}}}\n"
    )
}

fn distill(place: &str) -> String {
    let fields = format!(
        "batch: 20, steps: 3, lanes: 4, max_bad_images: 0.1, augment: {{image_size: 12, place: {place}}}, \
         optimizer: {{kind: sgd, learning_rate: 0.05, scaling: none}}"
    );
    format!(
        "  - {{name: tune, kind: finetune, from: random, labels: {{per_class: 5}}, {fields}}}\n\
         \x20 - {{name: student, kind: distill, teacher: tune, alpha: 0.5, labelled_batch: 8, labels: {{per_class: 4}}, \
         {fields}}}\n"
    )
}

fn broken(job: &Job) {
    std::fs::write(job.path().join("train/dots/007.png"), b"no image").unwrap();
}

#[test]
fn resident_images_train_as_crops_do() {
    for phases in [pretrain, distill] {
        let run = |place: &str| {
            let mut job = Job::new("fp32", &phases(place));
            broken(&job);
            let count = job.spec.phases().len() as u32;
            let ended: Vec<Ended> = (0..count).map(|phase| job.run(phase, 2)).collect();
            (job, ended)
        };
        let ((job, crops), (other, resident)) = (run("device"), run("resident"));
        for (crops, resident) in crops.iter().zip(&resident) {
            assert_eq!(crops.losses, resident.losses);
            assert_eq!(crops.results, resident.results);
            let last = [&crops.commits, &resident.commits].map(|commits| commits.last().unwrap());
            let (state, same) = (job.tensors(last[0]), other.tensors(last[1]));
            same_bits(&state, &same, "resident images");
            let named = |ended: &Ended| ended.notices.clone();
            assert_eq!(named(crops), named(resident));
        }
    }
}

#[test]
fn images_stay_from_attempt_to_attempt_and_with_reserves() {
    let phases = pretrain("resident").replace("evaluate: {knn_k: 5}", "evaluate: {knn_k: 0}");
    let mut job = Job::new("fp32", &phases);
    let whole = job.run(0, 2);
    let state = job.tensors(whole.commits.last().unwrap());
    let mut fleet = Fleet::new(&job, 0);
    fleet.run(Round {
        reserves: vec![2],
        ..from_scratch(&[0, 1])
    });
    fleet.leave(0, false, false);
    fleet.all_held();
    // Whoever looked for an image now would find none.
    std::fs::remove_dir_all(job.path().join("train")).unwrap();
    fleet.run(from_memory(&[2, 0]));
    same_bits(&state, &job.tensors(&fleet.done()), "after the images went");
}

#[test]
fn too_many_bad_images_are_refused_before_the_first_step() {
    let phases = pretrain("resident").replace("max_bad_images: 0.1", "max_bad_images: 0.01");
    let mut job = Job::new("fp32", &phases);
    broken(&job);
    let how = Attempted {
        world: 1,
        ..Attempted::default()
    };
    let ended = job.attempt(0, how);
    let [PhaseError::BadData(why)] = &ended.errors[..] else {
        panic!("{:?}", ended.errors)
    };
    assert!(why.contains("dots/007.png") && ended.losses.is_empty());
}
