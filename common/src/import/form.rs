//! Which network a set of tensors forms: depth, width and stem by names and shapes.

use crate::checkpoint::{Tensors, export};
use crate::network::{Widths, features};
use crate::spec::{BasicShortcut, Depth, EncoderSpec, HeadSpec, Stem};

use super::fit::differences;

/// The network that a file's tensors form.
#[derive(Debug, Clone, PartialEq)]
pub struct Form {
    /// The encoder; `None` where the tensors form none whole that is known here.
    pub encoder: Option<EncoderSpec>,
    /// The projection head, where all its layers follow each other to the last.
    pub head: Option<HeadSpec>,
    /// Rows of `fc`, where it reads the encoder's output.
    pub classes: Option<u32>,
}

impl Form {
    /// Reads it off. `like` says what tensors cannot: how the stem pools, and what means nothing for this depth.
    pub fn of(tensors: &Tensors, like: &EncoderSpec) -> Self {
        let encoder = encoder(tensors, like);
        Self {
            head: encoder.as_ref().and_then(|encoder| head(tensors, encoder)),
            classes: encoder
                .as_ref()
                .and_then(|encoder| classes(tensors, encoder)),
            encoder,
        }
    }
}

fn shape<'a>(tensors: &'a Tensors, name: &str) -> Option<&'a [u64]> {
    tensors.get(name).map(|tensor| tensor.shape.as_slice())
}

fn encoder(tensors: &Tensors, like: &EncoderSpec) -> Option<EncoderSpec> {
    let (stem, channels) = stem(tensors)?;
    let bottleneck = tensors.contains_key("layer1.0.conv3.weight");
    // With them a pool comes first in every shortcut, and the convolution second: basic blocks have nothing else of them.
    let second = shape(tensors, "layer2.0.downsample.1.weight");
    let selective_kernel = second.is_some_and(|shape| shape.len() == 4);
    let blocks = [1, 2, 3, 4].map(|stage| blocks(tensors, stage));
    let shortcut = if selective_kernel { 1 } else { 0 };
    let first = tensors.contains_key(&format!("layer1.0.downsample.{shortcut}.weight"));
    let basic_shortcut = match (bottleneck, first) {
        (true, _) => like.basic_shortcut,
        (false, true) => BasicShortcut::Projection,
        (false, false) => BasicShortcut::Identity,
    };
    let candidates = Depth::ALL.map(|depth| EncoderSpec {
        depth,
        width: channels as f64 / 64.0,
        stem,
        basic_shortcut,
        selective_kernel,
        max_pool: like.max_pool,
    });
    let fits = |candidate: &EncoderSpec| {
        Widths::of(candidate).blocks == blocks
            && candidate.depth.bottleneck() == bottleneck
            && differences(tensors, candidate, None).is_none()
    };
    candidates.into_iter().find(fits)
}

/// The first layers and the channels behind them.
fn stem(tensors: &Tensors) -> Option<(Stem, u64)> {
    if let Some([channels, ..]) = shape(tensors, "conv1.6.weight") {
        return Some((Stem::ImageNet, *channels));
    }
    match *shape(tensors, "conv1.weight")? {
        [channels, 3, 7, 7] => Some((Stem::ImageNet, channels)),
        [channels, 3, 3, 3] => Some((Stem::Cifar, channels)),
        _ => None,
    }
}

/// Blocks of a stage, counted from the first.
fn blocks(tensors: &Tensors, stage: u32) -> u32 {
    let there = |block: &u32| tensors.contains_key(&format!("layer{stage}.{block}.conv1.weight"));
    (0..).take_while(there).count() as u32
}

/// A head whose last layer is the one whose batch norm has no shift.
fn head(tensors: &Tensors, encoder: &EncoderSpec) -> Option<HeadSpec> {
    let layers = export::head_layers(tensors.keys());
    let last = layers.checked_sub(1)?;
    if tensors.contains_key(&format!("head.{last}.bn.bias")) {
        return None;
    }
    let [dim, _] = *shape(tensors, &format!("head.{last}.weight"))? else {
        return None;
    };
    let head = HeadSpec {
        layers,
        dim: u32::try_from(dim).ok()?,
    };
    differences(tensors, encoder, Some((&head, layers)))
        .is_none()
        .then_some(head)
}

fn classes(tensors: &Tensors, encoder: &EncoderSpec) -> Option<u32> {
    let [classes, inputs] = *shape(tensors, "fc.weight")? else {
        return None;
    };
    let whole = inputs == features(encoder) && shape(tensors, "fc.bias") == Some(&[classes][..]);
    u32::try_from(classes).ok().filter(|_| whole)
}
