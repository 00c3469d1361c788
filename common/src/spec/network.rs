//! The encoder and the projection head.

use serde::{Deserialize, Serialize};

/// A residual network (SimCLR v1 §2.1; He et al. 2015, stride in the 3×3 convolution).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderSpec {
    /// 18, 34 or 50.
    pub depth: u32,
    /// Multiplier on the widths 64, 128, 256 and 512; each product is a whole number of channels, at least 1.
    pub width: f64,
    /// The first layers.
    pub stem: Stem,
    /// The first shortcut of depth 18 and 34.
    pub basic_shortcut: BasicShortcut,
}

/// The first layers of the encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stem {
    /// 7×7 convolution with stride 2, then max-pool with stride 2.
    ImageNet,
    /// 3×3 convolution with stride 1, no pool.
    Cifar,
}

/// What depth 18 and 34 do in the first block of the first stage, where shapes already agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BasicShortcut {
    /// Nothing, as torchvision.
    Identity,
    /// A 1×1 convolution and batch norm, as the official SimCLR code.
    Projection,
}

/// The projection head: linear layers without bias, each followed by batch norm; ReLU between them
/// (SimCLR v1 §4.2, v2 §2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadSpec {
    /// 2 or 3.
    pub layers: u32,
    /// Output dimensions.
    pub dim: u32,
}
