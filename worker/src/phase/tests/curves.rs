//! TensorBoard's files of whole phases.

use std::path::PathBuf;

use diptych_common::ids::Step;
use diptych_common::spec::{JobDraft, JobSpec};

use super::gang::{Attempted, Ended, Job};
use crate::tensorboard::tests::{Said, as_one_run, read_folder};

const PRETRAIN: &str = "  - {name: pre, kind: pretrain, steps: 6, batch: 20, max_bad_images: 0.1, lanes: 4, \
    augment: {image_size: 12, crop_area: [0.5, 1], flip: false}, evaluate: {knn_k: 5, every_epochs: 1}, \
    checkpoint: {every_steps: 2}, \
    optimizer: {kind: lars, learning_rate: 0.3, scaling: none, weight_decay: 1.0e-4}}\n";
const TUNE: &str = "  - {name: tune, kind: finetune, from: random, steps: 3, batch: 20, max_bad_images: 0.1, lanes: 4, \
    augment: {image_size: 12, flip: false}, \
    optimizer: {kind: sgd, learning_rate: 0.05, scaling: none}}\n";

fn folder(job: &Job, phase: &str) -> PathBuf {
    job.path()
        .join("checkpoints/tiny-0a1b2c")
        .join(phase)
        .join("tensorboard")
}

fn once(job: &mut Job, phase: u32) -> Ended {
    job.attempt(
        phase,
        Attempted {
            world: 2,
            ..Attempted::default()
        },
    )
}

fn pictures(said: &[Vec<(i64, Said)>]) -> Vec<(i64, u64, u64, Vec<u8>)> {
    said.iter()
        .flatten()
        .filter_map(|(step, said)| match said {
            Said::Picture {
                tag,
                width,
                height,
                png,
            } => {
                assert_eq!(tag, "views");
                Some((*step, *width, *height, png.clone()))
            }
            _ => None,
        })
        .collect()
}

#[test]
fn a_phase_leaves_its_curves_and_the_first_views() {
    let mut job = Job::new("fp32", &(PRETRAIN.to_owned() + TUNE));
    for (phase, name, tags, views) in [
        (
            0,
            "00-pre",
            &[
                "loss",
                "contrast_accuracy",
                "contrast_entropy",
                "learning_rate",
                "images_per_s",
                "knn_top1",
                "probe_top1",
                "probe_top5",
            ][..],
            2,
        ),
        (
            1,
            "01-tune",
            &[
                "loss",
                "learning_rate",
                "images_per_s",
                "eval_top1",
                "eval_top5",
            ],
            1,
        ),
    ] {
        let ended = once(&mut job, phase);
        assert!(ended.errors.is_empty(), "{:?}", ended.errors);
        let files = read_folder(&folder(&job, name));
        for file in &files {
            assert_eq!(file[0], (0, Said::Version("brain.Event:2".to_owned())));
        }
        assert_eq!(files[0][1], (1, Said::Start));
        let run = as_one_run(&files);
        for tag in tags {
            assert!(
                run.contains_key(*tag),
                "{tag} is missing in {:?}",
                run.keys()
            );
        }
        // Everything that the coordinator heard, at the same steps.
        for (tag, points) in &run {
            if tag != "images_per_s" {
                let heard = ended.history.iter().filter(|(name, _)| name == tag);
                let heard: Vec<i64> = heard.map(|(_, step)| *step as i64).collect();
                let steps: Vec<i64> = points.iter().map(|(step, _)| *step).collect();
                assert_eq!(steps, heard, "{tag}");
            }
        }
        let losses: Vec<f32> = run["loss"].iter().map(|(_, loss)| *loss).collect();
        let heard: Vec<f32> = ended.losses.iter().map(|loss| *loss as f32).collect();
        assert_eq!(losses, heard);

        let [(step, width, height, png)] = &pictures(&files)[..] else {
            panic!("one picture of {name}");
        };
        let reader = png::Decoder::new(std::io::Cursor::new(png))
            .read_info()
            .unwrap();
        let size = (
            u64::from(reader.info().width),
            u64::from(reader.info().height),
        );
        assert_eq!((*step, size), (1, (*width, *height)));
        // Two ranks: ten of a step's twenty images are rank 0's, and eight are shown.
        let side = 72 + 6;
        assert_eq!(size, (8 * side + 6, views * side + 6));
        // A file with each save and each evaluation, apart from the picture's.
        assert!(files.len() > 1 && files.len() < 9, "{} files", files.len());
    }
}

#[test]
fn an_attempt_that_goes_on_replaces_what_was_lost() {
    let mut job = Job::new("fp32", PRETRAIN);
    // It comes to step 4 and more, and the next one goes on from step 2.
    let stopped = job.attempt(
        0,
        Attempted {
            world: 2,
            stop_after: Some(Step::new(4)),
            ..Attempted::default()
        },
    );
    let resume = stopped.commits.first().cloned();
    assert_eq!(resume.as_ref().map(|from| from.step), Some(Step::new(2)));
    let rest = job.attempt(
        0,
        Attempted {
            world: 2,
            resume,
            ..Attempted::default()
        },
    );
    assert!(rest.errors.is_empty(), "{:?}", rest.errors);
    let files = read_folder(&folder(&job, "00-pre"));
    let second = files
        .iter()
        .position(|file| file[1] == (3, Said::Start))
        .unwrap();
    assert!(
        pictures(&files[second..]).is_empty(),
        "the first views are drawn once"
    );
    let run = as_one_run(&files);
    let steps: Vec<i64> = run["loss"].iter().map(|(step, _)| *step).collect();
    // The first attempt was aborted: what it had not written by then is not there.
    assert!(
        steps.is_sorted_by(|a, b| a < b) && steps.ends_with(&[3, 4, 5, 6]),
        "{steps:?}"
    );
}

#[test]
fn a_store_that_takes_no_events_costs_no_step() {
    let mut job = Job::new("fp32", PRETRAIN);
    let folder = folder(&job, "00-pre");
    std::fs::create_dir_all(folder.parent().unwrap()).unwrap();
    std::fs::write(&folder, b"a file where the folder would be").unwrap();
    let ended = once(&mut job, 0);
    assert!(ended.errors.is_empty(), "{:?}", ended.errors);
    assert_eq!(
        ended.commits.last().map(|last| last.step),
        Some(Step::new(6))
    );
    let notices: Vec<&String> = ended
        .notices
        .iter()
        .filter_map(|(kind, message)| (*kind == "tensorboard_failed").then_some(message))
        .collect();
    assert!(
        matches!(notices[..], [message] if message.contains("tfevents")),
        "told once, with the key: {:?}",
        ended.notices
    );
}

#[test]
fn a_job_that_wants_none_has_none() {
    let mut job = Job::new("fp32", TUNE);
    let draft = JobDraft {
        tensorboard: Some(false),
        ..job.spec.draft().clone()
    };
    job.spec = JobSpec::try_from(draft).unwrap();
    assert!(once(&mut job, 0).errors.is_empty());
    assert!(!folder(&job, "00-tune").exists());
}
