use diptych_common::checkpoint::{CheckpointReader, CheckpointRef, Keep, export};
use diptych_common::{import, store};
use tch::Tensor;

use super::gang::{Attempted, Ended, Job};
use crate::checkpoint::load;
use crate::phase::PhaseError;

const COMMON: &str = "batch: 20, steps: 2, max_bad_images: 0.1, lanes: 4, \
                      augment: {image_size: 12, crop_area: [0.5, 1], flip: false}, \
                      optimizer: {kind: sgd, learning_rate: 0.05, scaling: none}";

/// An export of a checkpoint, as a URL.
pub(super) fn exported(job: &Job, checkpoint: &CheckpointRef, keep: Keep) -> String {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (place, root) = store::open(job.spec.storage()).unwrap();
    let file = runtime.block_on(async {
        let reader = CheckpointReader::open(place, root, checkpoint)
            .await
            .unwrap();
        let manifest = reader.manifest();
        let tensors = reader.load(|tensor| export::wanted(manifest, tensor, keep));
        export::write(manifest, checkpoint.digest, &tensors.await.unwrap()).unwrap()
    });
    let path = job.path().join(format!("{keep:?}.safetensors"));
    std::fs::write(&path, file).unwrap();
    format!("file://{}", path.display())
}

fn alone(phase: &str) -> Ended {
    let mut job = Job::new("fp32", &format!("  - {{{phase}, {COMMON}}}\n"));
    job.attempt(
        0,
        Attempted {
            world: 1,
            ..Attempted::default()
        },
    )
}

#[test]
fn another_job_goes_on_from_an_export() {
    let mut source = Job::new(
        "fp32",
        &format!("  - {{name: pre, kind: pretrain, {COMMON}}}\n"),
    );
    let last = source.run(0, 1).commits.pop().unwrap();
    let bare = exported(&source, &last, Keep::Network);
    let whole = exported(&source, &last, Keep::NetworkAndHead);

    for (url, fresh) in [(&bare, true), (&whole, false)] {
        let ended = alone(&format!("name: again, kind: pretrain, from: \"{url}\""));
        assert!(ended.errors.is_empty(), "{:?}", ended.errors);
        let told = |(kind, why): &(&str, String)| *kind == "fresh_head" && why.contains(url);
        assert_eq!(ended.notices.iter().any(told), fresh, "{:?}", ended.notices);
    }

    let tuned = |url: &str, layer| {
        alone(&format!(
            "name: tune, kind: finetune, from: \"{url}\", head_layer: {layer}"
        ))
    };
    for (url, layer) in [(&bare, 0), (&whole, 0), (&whole, 1), (&whole, 2)] {
        let ended = tuned(url, layer);
        assert!(ended.errors.is_empty(), "layer {layer}: {:?}", ended.errors);
    }
    let refused = tuned(&bare, 1);
    assert!(
        matches!(&refused.errors[..], [PhaseError::Refused(why)] if why.contains("--with-head") && why.contains(&bare)),
        "{:?}",
        refused.errors
    );
}

/// The same weights as another program would leave them: no description, and something in front of every name.
fn foreign(job: &Job, export: &str, prefix: &str) -> String {
    let path = store::local_path(export).unwrap();
    let file = std::fs::read(&path).unwrap().into();
    let (info, tensors) = import::tensors(&file, Some(&path)).unwrap();
    assert!(info.is_some());
    let tensors = load::to_tensors(&tensors).unwrap();
    let named: Vec<(String, &Tensor)> = tensors
        .iter()
        .map(|(name, tensor)| (format!("{prefix}{name}"), tensor))
        .collect();
    let path = job
        .path()
        .join(format!("foreign{}.safetensors", prefix.len()));
    Tensor::write_safetensors(&named, &path).unwrap();
    format!("file://{}", path.display())
}

#[test]
fn any_phase_starts_and_learns_from_another_program_s_weights() {
    let phases = format!(
        "  - {{name: pre, kind: pretrain, {COMMON}}}\n  - {{name: tune, kind: finetune, from: pre, {COMMON}}}\n"
    );
    let mut source = Job::new("fp32", &phases);
    let pre = source.run(0, 1).commits.pop().unwrap();
    let tuned = source.run(1, 1).commits.pop().unwrap();
    let start = exported(&source, &pre, Keep::Network);
    let start = foreign(&source, &start, "state_dict.");
    let described = exported(&source, &tuned, Keep::Network);
    let bare = foreign(&source, &described, "module.");

    // A frozen encoder comes out as it went in.
    let mut job = Job::new(
        "fp32",
        &format!("  - {{name: eval, kind: linear_eval, from: \"{start}\", {COMMON}}}\n"),
    );
    let last = job.run(0, 1).commits.pop().unwrap();
    let (before, after) = (source.tensors(&pre), job.tensors(&last));
    for name in ["conv1.weight", "layer4.1.bn2.running_var"] {
        assert_eq!(before[name], after[name], "{name}");
    }

    for (teacher, from) in [(&described, &start), (&bare, &bare)] {
        let ended = alone(&format!(
            "name: student, kind: distill, teacher: \"{teacher}\", from: \"{from}\""
        ));
        assert!(ended.errors.is_empty(), "{:?}", ended.errors);
        assert!(ended.results.contains_key("eval_top1"));
        assert!(ended.notices.iter().all(|(kind, _)| *kind != "fresh_head"));
    }
    let refused = alone(&format!(
        "name: student, kind: distill, teacher: \"{start}\""
    ));
    assert!(
        matches!(&refused.errors[..], [PhaseError::Refused(why)] if why.contains("no classifier")),
        "{:?}",
        refused.errors
    );
}

#[test]
fn an_import_of_another_network_is_refused_with_every_difference() {
    let mut source = Job::new(
        "fp32",
        &format!("  - {{name: pre, kind: pretrain, {COMMON}}}\n"),
    );
    let last = source.run(0, 1).commits.pop().unwrap();
    let url = foreign(&source, &exported(&source, &last, Keep::Network), "");
    let refused = alone(&format!(
        "name: student, kind: distill, teacher: \"{url}\", from: \"{url}\", \
         student: {{depth: 34, width: 0.0625, stem: cifar}}"
    ));
    // The teacher comes first.
    assert!(
        matches!(&refused.errors[..], [PhaseError::Refused(_)]),
        "{:?}",
        refused.errors
    );

    let mut other = Job::with_network(
        "fp32",
        "encoder: {depth: 34, width: 0.0625, stem: cifar}\n",
        &format!("  - {{name: tune, kind: finetune, from: \"{url}\", {COMMON}}}\n"),
    );
    let refused = other.attempt(
        0,
        Attempted {
            world: 1,
            ..Attempted::default()
        },
    );
    let [PhaseError::BadCheckpoint { object, problem }] = &refused.errors[..] else {
        panic!("{:?}", refused.errors)
    };
    assert_eq!(object, &url);
    for word in [
        "encoder: {depth: 18}",
        "missing:",
        "layer3.5.bn2.running_var",
        "layer1.2.conv1.weight",
    ] {
        assert!(problem.contains(word), "{word}: {problem}");
    }
}

#[test]
fn an_import_of_a_later_phase_is_looked_at_before_the_first_step() {
    let mut source = Job::new(
        "fp32",
        &format!("  - {{name: pre, kind: pretrain, {COMMON}}}\n"),
    );
    let last = source.run(0, 1).commits.pop().unwrap();
    let url = exported(&source, &last, Keep::Network);
    let phases = format!(
        "  - {{name: pre, kind: pretrain, {COMMON}}}\n\
         \x20 - {{name: student, kind: distill, teacher: \"{url}\", {COMMON}}}\n\
         \x20 - {{name: tune, kind: finetune, from: \"{url}\", head_layer: 0, {COMMON}}}\n"
    );
    let ended = Job::new("fp32", &phases).attempt(
        0,
        Attempted {
            world: 1,
            ..Attempted::default()
        },
    );
    assert!(
        matches!(&ended.errors[..], [PhaseError::Refused(why)]
            if why.starts_with("phase student: ") && why.contains("no classifier")),
        "{:?}",
        ended.errors
    );
    assert!(ended.losses.is_empty());
}
