use std::collections::BTreeMap;

use diptych_common::checkpoint::Keep;

use super::gang::Job;
use super::imports::exported;
use crate::infer::Network;

const COMMON: &str = "batch: 20, max_bad_images: 0.1, lanes: 4, \
                      augment: {image_size: 12, crop_area: [0.5, 1], flip: false}";

fn sgd(rate: f64) -> String {
    format!("optimizer: {{kind: sgd, learning_rate: {rate}, scaling: none, weight_decay: 1.0e-3}}")
}

fn linear(name: &str, layers: &str) -> String {
    format!(
        "  - {{name: {name}, kind: linear_eval, from: pre, head_layer: {layers}, steps: 6, {COMMON}, {}}}\n",
        sgd(0.5)
    )
}

/// Pretraining, and a linear evaluation of these layers: the same samples whatever they are.
fn evaluated(layers: &str) -> String {
    let pre = format!(
        "  - {{name: pre, kind: pretrain, steps: 4, {COMMON}, probe_layer: 2, evaluate: {{knn_k: 0}}, {}}}\n",
        sgd(0.05)
    );
    pre + &linear("linear", layers)
}

#[test]
fn classifiers_of_several_layers_are_those_of_each_alone() {
    let mut job = Job::new("fp32", &evaluated("all"));
    let pre = job.run(0, 1);
    assert!(pre.results.contains_key("probe_top1"), "{:?}", pre.results);
    let probe = &job.tensors(&pre.commits[0])["probe.weight"];
    assert_eq!(probe.size(), [3, 8], "the probe reads z");

    let every = job.run(1, 1);
    let together = job.tensors(&every.commits[0]);
    let alone = ["0", "1", "2"].map(|layer| {
        job.replan(&evaluated(layer));
        let ended = job.run(1, 1);
        let tensors = job.tensors(&ended.commits[0]);
        (ended.results, tensors)
    });
    let names = ["fc", "fc_at.1", "fc_at.2"]
        .into_iter()
        .zip(["h", "1", "z"]);
    for ((results, tensors), (name, value)) in alone.iter().zip(names) {
        for field in ["weight", "bias"] {
            let own = &tensors[&format!("fc.{field}")];
            assert!(together[&format!("{name}.{field}")].equal(own), "{name}");
        }
        for figure in ["eval_top1", "eval_top5"] {
            let measured = every.results[&format!("{figure}@{value}")];
            assert_eq!(measured, results[figure], "{figure} of {value}");
        }
        assert!(
            !results.keys().any(|name| name.contains('@')),
            "{results:?}"
        );
    }
    assert_eq!(every.results["eval_top1"], every.results["eval_top1@h"]);
    for name in ["loss", "loss@h", "loss@1", "loss@z"] {
        let points = every.history.iter().filter(|(own, _)| own == name);
        assert_eq!(points.count(), 6, "{name}");
    }

    // The first of a list is the phase's own: what a student learns from and an export holds.
    let student = format!(
        "  - {{name: student, kind: distill, teacher: linear, steps: 2, {COMMON}, {}}}\n",
        sgd(0.05)
    );
    job.replan(&(evaluated("[2, 0]") + &student));
    let listed = job.run(1, 2);
    assert_eq!(listed.results["eval_top1"], listed.results["eval_top1@z"]);
    let tensors = job.tensors(&listed.commits[0]);
    assert_eq!(tensors["fc.weight"].size(), [3, 8]);
    assert_eq!(tensors["fc_at.0.weight"].size(), [3, 32]);
    let student = job.run(2, 1);
    assert!(student.losses.iter().all(|loss| loss.is_finite()));
    let url = exported(&job, &listed.commits[0], Keep::Network);
    let network = Network::open(&url).expect("an export of what the first classifier reads");
    assert_eq!(network.classes().expect("classes").len(), 3);
}

/// Pretrains, evaluates every layer, fine-tunes and exports with these networks.
fn whole_pipeline(network: &str, deepest: u32) -> BTreeMap<String, f64> {
    let phases = format!(
        "  - {{name: pre, kind: pretrain, steps: 2, {COMMON}, evaluate: {{knn_k: 5}}, probe_layer: {deepest}, {}}}\n",
        sgd(0.05)
    ) + &linear("every", "all")
        + &format!(
            "  - {{name: tune, kind: finetune, from: pre, head_layer: {deepest}, steps: 2, {COMMON}, {}}}\n",
            sgd(0.05)
        );
    let mut job = Job::with_network("fp32", network, &phases);
    let before = job.run(0, 2);
    assert!(before.losses.iter().all(|loss| loss.is_finite()));
    let tensors = job.tensors(&before.commits[0]);
    let head = (0..=deepest).filter(|layer| tensors.contains_key(&format!("head.{layer}.weight")));
    assert_eq!(head.count() as u32, deepest, "{network}");
    let every = job.run(1, 1);
    let tune = job.run(2, 1);
    for (checkpoint, keep) in [
        (&before.commits[0], Keep::NetworkAndHead),
        (&tune.commits[0], Keep::Network),
    ] {
        let url = exported(&job, checkpoint, keep);
        let opened = Network::open(&url).unwrap_or_else(|error| panic!("{network}: {error:#}"));
        assert_eq!(opened.classes().is_ok(), keep == Keep::Network);
    }
    every.results
}

#[test]
fn every_kind_of_head_and_selective_kernels_go_through_the_pipeline() {
    let narrow = "width: 0.0625, stem: cifar";
    for (network, deepest, figures) in [
        (
            format!("encoder: {{depth: 18, {narrow}}}\nhead: {{kind: none}}\n"),
            0,
            vec![],
        ),
        (
            format!("encoder: {{depth: 18, {narrow}}}\nhead: {{kind: linear, dim: 8}}\n"),
            1,
            vec!["eval_top1@h", "eval_top1@z"],
        ),
        (
            format!(
                "encoder: {{depth: 50, {narrow}, selective_kernel: true}}\nhead: {{layers: 4, dim: 8}}\n"
            ),
            4,
            vec![
                "eval_top1@1",
                "eval_top1@2",
                "eval_top1@3",
                "eval_top1@h",
                "eval_top1@z",
            ],
        ),
    ] {
        let results = whole_pipeline(&network, deepest);
        let found: Vec<&str> = results
            .keys()
            .map(String::as_str)
            .filter(|name| name.starts_with("eval_top1@"))
            .collect();
        assert_eq!(found, figures, "{network}");
    }
}
