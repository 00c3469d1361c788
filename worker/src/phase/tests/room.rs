use diptych_common::plan::{DataFacts, Facts, Origin, rank_memory};
use diptych_common::units::Bytes;

use super::gang::{Attempted, Job};
use crate::phase::PhaseError;

const PHASE: &str = "  - {name: pre, kind: pretrain, steps: 2, batch: 48, lanes: 16, groups: 4, max_bad_images: 0.1, \
    probe: false, augment: {image_size: 12, blur_probability: 0}, evaluate: {knn_k: 0}, \
    optimizer: {kind: lars, learning_rate: 0.3}}\n";

/// As many as the job has, give or take some that matter little.
const IMAGES: DataFacts = DataFacts {
    images: 60,
    classes: 3,
    origin: Origin::Read,
    class_sizes: Vec::new(),
    decoded_bytes: 0,
    stored_bytes: 0,
    row_groups: false,
};

/// The errors of an attempt whose ranks may use so much.
fn within(job: &mut Job, world: u32, memory: Bytes) -> Vec<PhaseError> {
    let how = Attempted {
        world,
        memory: Some(memory),
        ..Attempted::default()
    };
    job.attempt(0, how).errors
}

#[test]
fn a_phase_that_does_not_fit_is_refused_before_its_first_step_with_what_to_change() {
    let mut job = Job::new("fp32", PHASE);
    let phase = &job.spec.phases()[0];
    let data = job.spec.data().keys().map(|name| (name.clone(), IMAGES));
    let facts = Facts {
        data: data.collect(),
        ..Facts::default()
    };
    let needed = |ranks| rank_memory(&job.spec, phase, &facts, ranks).device;
    // Less than one rank needs, by half of what a second one would save: the rest is the program's own.
    let limit = needed(1) - (needed(1) - needed(2)) / 2;
    let errors = within(&mut job, 1, Bytes::new(limit));
    let [PhaseError::Refused(why)] = &errors[..] else {
        panic!("{errors:?}")
    };
    for words in [
        "phase pre is predicted to need",
        "on one rank",
        &format!("a CPU slot here has {}", Bytes::new(limit)),
        "it would fit with `micro_batch_groups: 2`",
        "at least 2 ranks",
    ] {
        assert!(why.contains(words), "{words}: {why}");
    }
    let ended = within(&mut job, 2, Bytes::new(limit));
    assert!(ended.is_empty(), "on two ranks it fits: {ended:?}");
}

#[test]
fn what_nothing_makes_fit_is_told_so() {
    let mut job = Job::new("fp32", PHASE);
    let errors = within(&mut job, 1, Bytes::new(1 << 20));
    let [PhaseError::Refused(why)] = &errors[..] else {
        panic!("{errors:?}")
    };
    assert!(why.contains("1.0 MiB: lower `batch`"), "{why}");
}
