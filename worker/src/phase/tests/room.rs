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
fn resident_images_that_do_not_fit_are_refused_with_where_views_can_be_made() {
    let resident = PHASE.replace("image_size: 12", "image_size: 12, place: resident");
    let mut job = Job::new("fp32", &resident);
    let phase = &job.spec.phases()[0];
    let facts = |decoded_bytes| {
        let mut facts = Facts::default();
        for (name, images) in [("train", 60), ("test", 31)] {
            let known = DataFacts {
                images,
                decoded_bytes,
                ..IMAGES
            };
            facts.data.insert(name.parse().unwrap(), known);
        }
        facts
    };
    let memory = |decoded| rank_memory(&job.spec, phase, &facts(decoded), 1);
    let image = 3 * 12 * 12;
    assert_eq!(
        (memory(0).resident, memory(image).resident),
        (0, 60 * image)
    );
    // Room for the step, and for half of the images: for those of the evaluation there is always room.
    let step = memory(0).device;
    let limit = step + 30 * image;
    let errors = within(&mut job, 1, Bytes::new(limit));
    let [PhaseError::Refused(why)] = &errors[..] else {
        panic!("{errors:?}")
    };
    for words in [
        "25.3 KiB resident images",
        "`augment.place: device` (the same views)",
    ] {
        assert!(why.contains(words), "{words}: {why}");
    }
    let limit = step + 61 * image;
    let ended = within(&mut job, 1, Bytes::new(limit));
    assert!(ended.is_empty(), "they fit: {ended:?}");
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
