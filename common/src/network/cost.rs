//! Parameters, work and memory.

use crate::spec::{EncoderSpec, HeadSpec};

use super::{Layers, Role, TensorInfo, features, layer_width};

/// Numbers of elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    /// Trained by the optimiser.
    pub trainable: u64,
    /// Running means and variances.
    pub statistics: u64,
}

/// Counts the parameters of some tensors.
pub fn parameters(tensors: &[TensorInfo]) -> Parameters {
    let count = |role| {
        tensors
            .iter()
            .filter(|tensor| tensor.role == role)
            .map(TensorInfo::elements)
            .sum()
    };
    Parameters {
        trainable: count(Role::Weight),
        statistics: count(Role::Statistic),
    }
}

/// What one step does with a network, as far as work goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passes {
    /// Forward alone: a frozen encoder, a teacher, an evaluation.
    Frozen,
    /// Forward, and backward to inputs and weights.
    Trained,
    /// As [`Passes::Trained`] behind a forward pass without a graph: pretraining that holds fewer groups at once than
    /// it has.
    TrainedInParts,
}

impl Passes {
    /// Operations of a step on a view whose forward pass takes so many: 1, 3 or 4 times as many.
    pub fn flops(self, forward: u64) -> u64 {
        match self {
            Self::Frozen => forward,
            Self::Trained => 3 * forward,
            Self::TrainedInParts => 4 * forward,
        }
    }
}

/// Floating-point operations of one view's way through the encoder: two per multiply-add of every convolution.
pub fn forward_flops(encoder: &EncoderSpec, image_size: u32) -> u64 {
    let layers = Layers::of(encoder);
    let placed = layers.placed(image_size.into());
    placed
        .iter()
        .map(|at| 2 * at.area_out() * at.conv.output * at.conv.input * at.conv.kernel.pow(2))
        .sum()
}

/// The same of the projection head's first `layers` layers: `head.layers` in pretraining, `head_layer` where a
/// classifier reads a layer of it.
pub fn head_flops(encoder: &EncoderSpec, head: &HeadSpec, layers: u32) -> u64 {
    (1..=layers.min(head.layers))
        .map(|layer| 2 * features(encoder) * layer_width(encoder, Some(head), layer))
        .sum()
}

/// Elements that the backward pass of one view needs: every convolution's output (for its batch norm), what the next
/// convolution reads, and what pools and mixed streams keep. An estimate: temporary buffers and the allocator's slack
/// come on top.
pub fn activation_elements(encoder: &EncoderSpec, image_size: u32) -> u64 {
    let layers = Layers::of(encoder);
    let placed = layers.placed(image_size.into());
    let kept = placed
        .iter()
        .map(|at| 2 * at.area_out() * at.conv.output + at.in_front);
    3 * u64::from(image_size).pow(2) + kept.sum::<u64>()
}

/// Most elements of one view that are alive at once in a pass without a graph: what a convolution reads, what it and
/// its batch norm write, and what waits for the block's sum. An estimate, too.
pub fn forward_elements(encoder: &EncoderSpec, image_size: u32) -> u64 {
    let layers = Layers::of(encoder);
    let placed = layers.placed(image_size.into());
    let alive = placed.iter().map(|at| {
        let (read, written) = (
            at.side.pow(2) * at.conv.input,
            at.area_out() * at.conv.output,
        );
        read + 2 * written + at.waiting
    });
    alive.max().unwrap_or(0)
}

#[cfg(test)]
mod tests;
