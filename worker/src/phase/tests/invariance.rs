use std::collections::BTreeMap;

use tch::{Kind, Tensor};

use super::gang::Job;

/// Runs four steps of pretraining and gives the losses and the final state.
fn pretrain(world: u32, micro: u32) -> (Vec<f64>, BTreeMap<String, Tensor>) {
    let phases = format!(
        "  - {{name: pre, kind: pretrain, batch: 24, max_bad_images: 0.1, steps: 4, lanes: 12, groups: 2, micro_batch_groups: {micro}, \
         augment: {{image_size: 12, flip: true}}, evaluate: {{knn_k: 5}}, \
         optimizer: {{kind: lars, learning_rate: 0.3, scaling: none, weight_decay: 0.0001}}}}\n"
    );
    let mut job = Job::new("fp64", &phases);
    let ended = job.run(0, world);
    (ended.losses.clone(), job.tensors(&ended.commits[0]))
}

#[test]
fn the_maths_does_not_know_the_machine() {
    let (losses, state) = pretrain(1, 2);
    assert_eq!(losses.len(), 4);
    for (world, micro) in [(1, 1), (2, 2), (3, 1), (4, 2)] {
        let (other_losses, other_state) = pretrain(world, micro);
        let first = (losses[0] - other_losses[0]).abs() / losses[0].abs();
        assert!(
            first <= 1e-12,
            "{world} ranks, {micro} groups: first loss differs by {first:e}"
        );
        for (name, tensor) in &state {
            let norm = |tensor: &Tensor| tensor.square().sum(Kind::Double).sqrt().double_value(&[]);
            let apart = norm(&(tensor - &other_state[name])) / norm(tensor).max(1e-3);
            assert!(
                apart <= 1e-8,
                "{world} ranks, {micro} groups: {name} differs by {apart:e}"
            );
        }
    }
}
