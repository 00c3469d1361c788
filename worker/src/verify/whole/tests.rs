use std::collections::BTreeMap;
use std::path::Path;

use diptych_common::network::{classifier_tensors, encoder_tensors, features};
use diptych_common::spec::{Depth, EncoderSpec, Stem};
use tch::{Device, Kind, Tensor};

use crate::verify;

const ROWS: i64 = 5;
const CLASSES: u64 = 3;

type Tensors = BTreeMap<String, Tensor>;

fn encoder() -> EncoderSpec {
    EncoderSpec {
        width: 0.0625,
        stem: Stem::Cifar,
        ..EncoderSpec::torchvision(Depth::D18)
    }
}

/// Numbers that depend on nothing but `seed`, of both signs and about 1 in size.
fn numbers(seed: i64, shape: &[i64]) -> Tensor {
    let count = shape.iter().product::<i64>();
    let steps = Tensor::arange(count, (Kind::Double, Device::Cpu)) + seed;
    ((&steps * 0.7).sin() + (steps * 1.3).cos()).view(shape)
}

fn state(encoder: &EncoderSpec) -> Tensors {
    let mut infos = encoder_tensors(encoder);
    infos.extend(classifier_tensors(features(encoder), CLASSES));
    let number = |(seed, info): (i64, diptych_common::network::TensorInfo)| {
        let shape: Vec<i64> = info.shape.iter().map(|dim| *dim as i64).collect();
        let plain = numbers(100 * seed, &shape);
        let tensor = if info.name.ends_with("running_var") {
            plain.abs() + 0.5
        } else if shape.len() > 1 {
            plain / (shape[1..].iter().product::<i64>() as f64).sqrt()
        } else {
            plain
        };
        (info.name, tensor)
    };
    (1..).zip(infos).map(number).collect()
}

/// libtorch's own layers in a row, as torchvision's basic blocks.
fn reference(state: &Tensors, images: &Tensor, training: bool) -> (Tensor, Tensor) {
    let conv = |x: &Tensor, name: &str, stride: i64| {
        let weight = &state[&format!("{name}.weight")];
        let padding = weight.size()[2] / 2;
        x.conv2d(weight, None::<Tensor>, [stride; 2], [padding; 2], [1, 1], 1)
    };
    let norm = |x: &Tensor, name: &str| {
        let of = |field: &str| state[&format!("{name}.{field}")].shallow_clone();
        x.batch_norm(
            Some(of("weight")),
            Some(of("bias")),
            Some(of("running_mean").copy()),
            Some(of("running_var").copy()),
            training,
            0.1,
            1e-5,
            false,
        )
    };
    let mut x = norm(&conv(images, "conv1", 1), "bn1").relu();
    for stage in 1..=4 {
        for block in 0..2 {
            let stride = if stage > 1 && block == 0 { 2 } else { 1 };
            let prefix = format!("layer{stage}.{block}");
            let y = norm(
                &conv(&x, &format!("{prefix}.conv1"), stride),
                &format!("{prefix}.bn1"),
            )
            .relu();
            let y = norm(
                &conv(&y, &format!("{prefix}.conv2"), 1),
                &format!("{prefix}.bn2"),
            );
            let beside = if stride == 2 {
                let projected = conv(&x, &format!("{prefix}.downsample.0"), 2);
                norm(&projected, &format!("{prefix}.downsample.1"))
            } else {
                x
            };
            x = (y + beside).relu();
        }
    }
    let features = x.mean_dim([2_i64, 3].as_slice(), false, Kind::Double);
    let logits = features.linear(&state["fc.weight"], Some(&state["fc.bias"]));
    (features, logits)
}

/// Writes the case that the reference answers; `spoil` is added to one gradient.
fn write(folder: &Path, spoil: f64) {
    let encoder = encoder();
    let state = state(&encoder);
    let images = numbers(7, &[ROWS, 3, 8, 8]);
    let labels: Vec<i64> = (0..ROWS).map(|row| row % CLASSES as i64).collect();
    let mut file = Tensors::new();
    let (features, logits) = reference(&state, &images, false);
    file.insert("evaluation.features".to_owned(), features);
    file.insert("evaluation.logits".to_owned(), logits);
    for (name, tensor) in &state {
        file.insert(format!("state.{name}"), tensor.copy());
        if !name.contains("running") {
            let _leaf = tensor.set_requires_grad(true);
        }
    }
    let (_, logits) = reference(&state, &images, true);
    let shares = logits.log_softmax(-1, Kind::Double);
    let loss = shares.nll_loss(&Tensor::from_slice(&labels));
    loss.backward();
    file.insert("training.logits".to_owned(), logits.detach());
    for (name, tensor) in state.iter().filter(|(name, _)| !name.contains("running")) {
        let gradient = tensor.grad();
        let gradient = if name == "layer3.0.conv1.weight" {
            gradient + spoil
        } else {
            gradient
        };
        file.insert(format!("gradient.{name}"), gradient);
    }
    file.insert("images".to_owned(), images);
    let named: Vec<(&String, &Tensor)> = file.iter().collect();
    Tensor::write_safetensors(&named, folder.join("tiny.safetensors")).unwrap();
    let case = serde_json::json!({"kind": "network", "cases": [{
        "encoder": encoder, "file": "tiny.safetensors", "labels": labels, "loss": loss.double_value(&[]),
    }]});
    std::fs::write(folder.join("network.json"), case.to_string()).unwrap();
}

fn verified(spoil: f64) -> (verify::Summary, String) {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), spoil);
    let mut out = Vec::new();
    let summary = verify::run(folder.path(), Device::Cpu, &mut out).unwrap();
    (summary, String::from_utf8(out).unwrap())
}

#[test]
fn a_network_agrees_with_plain_layers_forward_and_backward() {
    let (summary, report) = verified(0.0);
    assert_eq!((summary.passed, summary.failed), (1, 0), "{report}");
}

#[test]
fn a_gradient_that_differs_fails_and_is_named() {
    let (summary, report) = verified(1e-6);
    assert_eq!((summary.passed, summary.failed), (0, 1), "{report}");
    assert!(
        report.contains("gradient.layer3.0.conv1.weight differs"),
        "{report}"
    );
}
