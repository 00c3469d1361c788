use diptych_common::ids::Step;

use super::gang::{Attempted, Ended, Job};
use crate::phase::{PhaseError, Seat};
use crate::trainer::Control;

const PRETRAIN: &str = "augment: {image_size: 12, crop_area: [0.5, 1], flip: false, grayscale_probability: 0, \
                        color_hue_saturation: false}, \
                        optimizer: {kind: sgd, learning_rate: 0.05, scaling: none}";
const TUNE: &str = "augment: {image_size: 12, crop_area: [0.5, 1], flip: false}, \
                    optimizer: {kind: sgd, learning_rate: 0.05, scaling: none}";

fn only_error(ended: &Ended) -> String {
    match &ended.errors[..] {
        [error @ (PhaseError::BadData(_) | PhaseError::Refused(_))] => error.to_string(),
        other => panic!("one refusal is wanted, not {other:?}"),
    }
}

#[test]
fn the_whole_jobs_data_is_refused_before_its_first_step() {
    let phases = format!(
        "  - {{name: pre, kind: pretrain, batch: 24, max_bad_images: 0.1, steps: 2, lanes: 4, {PRETRAIN}}}\n\
         \x20 - {{name: tune, kind: finetune, from: pre, labels: {{per_class: 21}}, batch: 20, max_bad_images: 0.1, steps: 2, {TUNE}}}\n\
         \x20 - {{name: student, kind: distill, teacher: tune, batch: 20, max_bad_images: 0.1, steps: 2, alpha: 0.5, \
         labelled_batch: 20, labels: {{list: \"file:///nowhere/list\"}}, {TUNE}}}\n",
    );
    let mut job = Job::new("fp32", &phases);
    std::fs::rename(job.path().join("test/dots"), job.path().join("test/spots")).unwrap();
    let once = |world| Attempted {
        world,
        ..Attempted::default()
    };
    let error = only_error(&job.attempt(0, once(1)));
    for part in [
        "bars has 20",
        "class \"edge\" as label 1",
        "list does not exist",
    ] {
        assert!(error.contains(part), "{part} is missing: {error}");
    }
    std::fs::remove_dir_all(job.path().join("test")).unwrap();
    let error = only_error(&job.attempt(0, once(1)));
    assert!(
        error.contains("data \"test\"") && error.contains("missing"),
        "{error}"
    );
}

#[test]
fn too_many_bad_images_are_the_same_for_any_number_of_ranks() {
    let phases = format!(
        "  - {{name: pre, kind: pretrain, batch: 24, max_bad_images: 0.05, steps: 3, lanes: 4, evaluate: {{knn_k: 5}}, {PRETRAIN}}}\n"
    );
    let broken = ["bars/003", "dots/007", "dots/015", "edge/011"];
    let run = |bad: usize, world: u32| {
        let mut job = Job::new("fp32", &phases);
        for name in &broken[..bad] {
            std::fs::write(job.path().join(format!("train/{name}.png")), b"no image").unwrap();
        }
        job.attempt(
            0,
            Attempted {
                world,
                ..Attempted::default()
            },
        )
    };
    let alone = run(4, 1);
    assert!(only_error(&alone).contains("max_bad_images allows 3"));
    for world in [2, 4] {
        let ended = run(4, world);
        let refused: Vec<_> = ended
            .errors
            .iter()
            .filter(|error| matches!(error, PhaseError::BadData(_)))
            .collect();
        assert!(!refused.is_empty(), "{world} ranks: {:?}", ended.errors);
        assert!(ended.commits.is_empty());
    }
    let allowed = run(3, 4);
    assert!(allowed.errors.is_empty(), "{:?}", allowed.errors);
    // The evaluation's own broken image is named as those of training are.
    for name in ["bars/003.png", "bars/broken.png"] {
        assert!(
            allowed
                .notices
                .iter()
                .any(|(_, message)| message.contains(name)),
            "{name}: {:?}",
            allowed.notices
        );
    }
}

#[test]
fn changed_labels_or_evaluation_images_are_refused_at_resume() {
    let mut job = Job::new(
        "fp32",
        &format!("  - {{name: later, kind: pretrain, batch: 24, steps: 1, {PRETRAIN}}}\n"),
    );
    let list = job.path().join("list");
    let phases = format!(
        "  - {{name: tune, kind: finetune, from: random, labels: {{list: \"file://{}\"}}, batch: 4, max_bad_images: 0.1, steps: 2, {TUNE}}}\n",
        list.display()
    );
    job.replan(&phases);
    std::fs::write(&list, "bars/001.png\ndots/002.png\nedge/003.png\n").unwrap();
    let resume = job.run(0, 1).commits.pop();
    let again = |job: &mut Job| {
        job.attempt(
            0,
            Attempted {
                world: 1,
                resume: resume.clone(),
                stop_after: Some(Step::new(0)),
                ..Attempted::default()
            },
        )
    };
    std::fs::write(&list, "bars/001.png\ndots/002.png\nedge/004.png\n").unwrap();
    let error = only_error(&again(&mut job));
    assert!(error.contains("chosen labels changed"), "{error}");
    std::fs::write(&list, "bars/001.png\ndots/002.png\nedge/003.png\n").unwrap();
    std::fs::remove_file(job.path().join("test/dots/021.png")).unwrap();
    let error = only_error(&again(&mut job));
    assert!(error.contains("evaluation images"), "{error}");
}

#[test]
fn an_abort_frees_a_rank_that_prepares() {
    let phases =
        format!("  - {{name: pre, kind: pretrain, batch: 24, steps: 2, lanes: 4, {PRETRAIN}}}\n");
    let job = Job::new("fp32", &phases);
    let control = Control::new(job.fence(0));
    control.abort("rank 1 was lost");
    let how = Attempted {
        world: 1,
        ..Attempted::default()
    };
    let mut seat = Seat::default();
    let prepared = seat.prepare(job.assignment(0, 0, &how), &control);
    assert!(
        matches!(prepared, Err(PhaseError::Aborted(_))),
        "{prepared:?}"
    );
}
