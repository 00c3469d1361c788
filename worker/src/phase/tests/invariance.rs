use std::collections::BTreeMap;

use tch::{Kind, Tensor};

use super::gang::Job;

/// Runs four steps of pretraining and gives the losses and the final state.
fn pretrain(world: u32, micro: u32, loss: &str) -> (Vec<f64>, BTreeMap<String, Tensor>) {
    let phases = format!(
        "  - {{name: pre, kind: pretrain, batch: 24, max_bad_images: 0.1, steps: 4, lanes: 12, groups: 2, micro_batch_groups: {micro}, \
         augment: {{image_size: 12, flip: true}}, evaluate: {{knn_k: 5}}, loss: {loss}, \
         optimizer: {{kind: lars, learning_rate: 0.3, scaling: none, weight_decay: 0.0001}}}}\n"
    );
    let mut job = Job::new("fp64", &phases);
    let ended = job.run(0, world);
    (ended.losses.clone(), job.tensors(&ended.commits[0]))
}

#[test]
fn the_maths_does_not_know_the_machine() {
    same_on_every_machine("{}");
}

#[test]
fn the_memory_does_not_know_the_machine_either() {
    // Three steps of 48 rows fill the queue, which ends within a step's rows.
    let state = same_on_every_machine("{memory: {size: 100, decay: 0.5}}");
    let tensor = |name: &str| state[name].to_kind(Kind::Double);
    let gap = (tensor("ema.conv1.weight") - tensor("conv1.weight")).abs();
    assert!(gap.max().double_value(&[]) > 0.0, "the average lags behind");
    let squares = tensor("memory.queue").square();
    let lengths = squares.sum_dim_intlist(1i64, false, Kind::Double).sqrt();
    let off = (&lengths - 1.0).abs().max().double_value(&[]);
    assert!(
        lengths.size() == [100] && off < 1e-12,
        "every row is a unit row"
    );
    let plain = pretrain(1, 2, "{}").0;
    let remembered = pretrain(1, 2, "{memory: {size: 100, decay: 0.5}}").0;
    assert_eq!(plain[0], remembered[0], "nothing is remembered at first");
    assert!(plain[1] < remembered[1], "more negatives, a larger loss");
}

/// The final state, the same on 1 to 4 ranks and for both micro-batches.
fn same_on_every_machine(loss: &str) -> BTreeMap<String, Tensor> {
    let (losses, state) = pretrain(1, 2, loss);
    assert_eq!(losses.len(), 4);
    for (world, micro) in [(1, 1), (2, 2), (3, 1), (4, 2)] {
        let (other_losses, other_state) = pretrain(world, micro, loss);
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
    state
}
