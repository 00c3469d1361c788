use diptych_common::checkpoint::{CheckpointReader, CheckpointRef, Keep, export};
use diptych_common::store;

use super::gang::{Attempted, Ended, Job};
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
