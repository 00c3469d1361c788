//! Every tensor of a network: torchvision's names where the network is, `head.{i}.…` and `fc.…` beside it.

use serde::{Deserialize, Serialize};

use crate::spec::{EncoderSpec, HeadSpec};

use super::{Layers, features, layer_width};

/// What a tensor is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Trained by the optimiser.
    Weight,
    /// A running mean or variance of a batch norm.
    Statistic,
    /// The optimiser's momentum of the weight of the same name behind `momentum.`.
    Momentum,
    /// The moving average of a weight or statistic, behind `ema.`.
    Average,
    /// Rows of the memory queue.
    Queue,
    /// Any other state that training goes on from.
    State,
}

/// One tensor of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Unique in the network.
    pub name: String,
    /// Dimensions; convolutions are `[out, in, height, width]`, linear layers `[out, in]`.
    pub shape: Vec<u64>,
    /// Weight or statistic.
    pub role: Role,
}

impl TensorInfo {
    fn new(name: String, shape: &[u64], role: Role) -> Self {
        Self {
            name,
            shape: shape.to_vec(),
            role,
        }
    }

    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }
}

/// The encoder, block by block: `conv1.weight`, `bn1.weight`, …, `layer4.1.bn2.running_var`. torchvision's
/// `num_batches_tracked` is no state of ours; exports add it.
pub fn encoder_tensors(encoder: &EncoderSpec) -> Vec<TensorInfo> {
    let mut all = Vec::new();
    for (conv, batch_norm) in Layers::of(encoder).convolutions() {
        let shape = [conv.output, conv.input, conv.kernel, conv.kernel];
        all.push(TensorInfo::new(
            format!("{}.weight", conv.name),
            &shape,
            Role::Weight,
        ));
        all.extend(
            batch_norm
                .into_iter()
                .flat_map(|name| norm(name, conv.output, true)),
        );
    }
    all
}

/// The projection head: `head.{i}.weight` and `head.{i}.bn.…` for each layer. Hidden layers are as wide as the
/// features; the last batch norm has no bias (SimCLR v1 official code).
pub fn head_tensors(encoder: &EncoderSpec, head: &HeadSpec) -> Vec<TensorInfo> {
    let width = features(encoder);
    let mut all = Vec::new();
    for layer in 0..head.layers {
        let last = layer + 1 == head.layers;
        let output = layer_width(encoder, Some(head), layer + 1);
        all.push(TensorInfo::new(
            format!("head.{layer}.weight"),
            &[output, width],
            Role::Weight,
        ));
        all.extend(norm(&format!("head.{layer}.bn"), output, !last));
    }
    all
}

/// A linear classifier: `fc.weight` and `fc.bias`.
pub fn classifier_tensors(features: u64, classes: u64) -> [TensorInfo; 2] {
    linear("fc", features, classes)
}

/// The concurrent probe of a pretraining: `probe.weight` and `probe.bias`.
pub fn probe_tensors(features: u64, classes: u64) -> [TensorInfo; 2] {
    linear("probe", features, classes)
}

/// One of the other classifiers of a linear evaluation of several layers: `fc_at.{layer}.weight` and `….bias`. They
/// are no part of the network that later phases and exports take.
pub fn extra_classifier_tensors(layer: u32, features: u64, classes: u64) -> [TensorInfo; 2] {
    linear(&extra_classifier_name(layer), features, classes)
}

/// `fc_at.{layer}`.
pub fn extra_classifier_name(layer: u32) -> String {
    format!("fc_at.{layer}")
}

fn linear(name: &str, features: u64, classes: u64) -> [TensorInfo; 2] {
    let shapes: [(&str, &[u64]); 2] = [("weight", &[classes, features]), ("bias", &[classes])];
    shapes.map(|(field, shape)| TensorInfo::new(format!("{name}.{field}"), shape, Role::Weight))
}

fn norm(name: &str, channels: u64, bias: bool) -> Vec<TensorInfo> {
    let fields = [
        ("weight", Role::Weight),
        ("bias", Role::Weight),
        ("running_mean", Role::Statistic),
        ("running_var", Role::Statistic),
    ];
    fields
        .into_iter()
        .filter(|(field, _)| bias || *field != "bias")
        .map(|(field, role)| TensorInfo::new(format!("{name}.{field}"), &[channels], role))
        .collect()
}
