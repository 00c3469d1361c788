use diptych_common::ids::Step;
use tch::Tensor;

use super::fleet::{Fleet, Round, from_memory, from_scratch};
use super::gang::Job;
use crate::trainer::{Activity, Report};

fn pretrain(steps: u32, fields: &str) -> String {
    format!(
        "  - {{name: pre, kind: pretrain, steps: {steps}, batch: 20, max_bad_images: 0.1, lanes: 4, probe: false, \
         augment: {{image_size: 12, crop_area: [0.5, 1], flip: false}}, evaluate: {{knn_k: 0}}, {fields}, \
         optimizer: {{kind: lars, learning_rate: 0.3, scaling: none, weight_decay: 1.0e-4}}}}\n"
    )
}

/// Long enough that an order to leave comes before the end.
const LONG: u32 = 3000;

#[test]
fn ranks_that_hear_of_it_at_different_steps_leave_after_the_same() {
    let job = Job::new("fp32", &pretrain(LONG, "checkpoint: {every: 1h}"));
    let mut fleet = Fleet::new(&job, 0);
    fleet.run(from_scratch(&[0, 1, 2]));
    let mut before = Step::new(0);
    for rank in [2, 0, 1] {
        while !matches!(fleet.hear(), Some((_, Report::Progress(_)))) {}
        fleet.leave(rank, false, false);
        let held = fleet.all_held();
        assert!(
            held.iter().all(|other| other.step == held[0].step),
            "{held:?}"
        );
        assert!(held[0].step > before);
        assert!(held[rank].reason.contains("the test plans it"));
        assert!(fleet.commits.is_empty());
        before = held[0].step;
        fleet.run(from_memory(&[0, 1, 2]));
    }
}

#[test]
fn a_gang_that_is_to_save_leaves_with_a_committed_checkpoint() {
    for alone in [false, true] {
        let job = Job::new("fp64", &pretrain(LONG, "checkpoint: {every: 1h}"));
        let mut fleet = Fleet::new(&job, 0);
        fleet.run(from_scratch(&[0, 1]));
        fleet.away = alone;
        fleet.leave(1, true, alone);
        let held = fleet.all_held();
        let commits = fleet.commits.clone();
        let [commit] = &commits[..] else {
            panic!("{commits:?}")
        };
        assert_eq!(commit.step, held[0].step);
        assert_eq!(commit.step, held[1].step);
        // The checkpoint is the state that the ranks hold.
        fleet.away = false;
        fleet.assign(from_memory(&[0, 1]));
        let kept = fleet.ready();
        let resume = Some(commit.clone());
        fleet.assign(Round {
            resume,
            ..from_scratch(&[0, 1])
        });
        let loaded = fleet.ready();
        assert_eq!(kept[&0].state, loaded[&1].state);
        assert_eq!(kept[&1].state, loaded[&0].state);
    }
}

#[test]
fn a_store_that_takes_nothing_does_not_keep_a_gang_from_leaving() {
    let job = Job::new("fp64", &pretrain(LONG, "checkpoint: {every: 1h}"));
    // A file where the job's folder would be.
    let folder = job.path().join("checkpoints");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("tiny-0a1b2c"), b"in the way").unwrap();
    let mut fleet = Fleet::new(&job, 0);
    fleet.run(from_scratch(&[0, 1]));
    fleet.leave(0, true, false);
    let held = fleet.all_held();
    assert!(
        held.iter()
            .all(|held| held.reason.contains("could not be saved")),
        "{held:?}"
    );
    assert!(fleet.commits.is_empty());
}

#[test]
fn whoever_hears_of_it_after_the_last_step_finishes() {
    let job = Job::new("fp32", &pretrain(3, "checkpoint: {every: 1h}"));
    let mut fleet = Fleet::new(&job, 0);
    fleet.run(from_scratch(&[0, 1]));
    while !matches!(fleet.hear(), Some((0, Report::Activity(Activity::Saving)))) {}
    fleet.leave(0, true, false);
    assert_eq!(fleet.done().step, Step::new(3));
}

#[test]
fn a_skipped_step_draws_its_rows_and_changes_nothing() {
    let job = Job::new(
        "fp64",
        &pretrain(
            4,
            "checkpoint: {every_steps: 1}, loss: {memory: {size: 70, decay: 0.9}}",
        ),
    );
    let run = |ranks: &[usize], skip: &[u64]| {
        let mut fleet = Fleet::new(&job, 0);
        fleet.assign(Round {
            skip: skip.iter().copied().map(Step::new).collect(),
            ..from_scratch(ranks)
        });
        let ready = fleet.ready();
        fleet.begin(&fleet.plan(&ready));
        let last = fleet.done();
        let losses = fleet.measured.iter().filter(|found| found.name == "loss");
        let losses: Vec<u64> = losses.map(|found| found.step.get()).collect();
        let beginning = ready[&0].state.as_ref().unwrap().tensors.clone();
        (last, losses, beginning)
    };
    let (whole, losses, beginning) = run(&[0, 1], &[]);
    assert_eq!(losses, [1, 2, 3, 4]);
    let (skipped, losses, _) = run(&[0, 1], &[2]);
    assert_eq!(losses, [1, 2, 4], "the third step measures nothing");
    let (whole, skipped) = (job.tensors(&whole), job.tensors(&skipped));
    assert!(!whole["conv1.weight"].equal(&skipped["conv1.weight"]));
    let other = job.tensors(&run(&[0], &[2]).0);
    let apart = |tensor: &Tensor, name: &str| (tensor - &other[name]).abs().max().double_value(&[]);
    assert!(
        skipped
            .iter()
            .all(|(name, tensor)| apart(tensor, name) <= 1e-8)
    );
    // Where every step is skipped, the last state is the first.
    let (nothing, losses, _) = run(&[0, 1], &[0, 1, 2, 3]);
    assert_eq!(losses, [0; 0]);
    let mut fleet = Fleet::new(&job, 0);
    fleet.assign(Round {
        resume: Some(nothing),
        ..from_scratch(&[0])
    });
    let ready = fleet.ready();
    let state = ready[&0].state.as_ref().unwrap();
    assert_eq!((state.step, &state.tensors), (Step::new(4), &beginning));
}
