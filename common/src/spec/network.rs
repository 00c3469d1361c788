//! The encoder and the projection head.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A residual network (SimCLR v1 §2.1, v2 §2; He et al. 2015, stride in the 3×3 convolution).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderSpec {
    /// Layers with weights, by the usual count.
    pub depth: Depth,
    /// Multiplier on the widths 64, 128, 256 and 512; each product is a whole number of channels, at least 1.
    pub width: f64,
    /// The first layers.
    pub stem: Stem,
    /// The first shortcut of depth 18 and 34.
    pub basic_shortcut: BasicShortcut,
    /// Selective kernels (Li et al. 2019, as SimCLR v2 has them: two 3×3 streams, ratio 1/16) in place of the 3×3
    /// convolutions of bottlenecks, and ResNet-D's stem and shortcuts (He et al. 2018). Absent in records of networks
    /// without.
    #[serde(default, skip_serializing_if = "is_false")]
    pub selective_kernel: bool,
    /// The windows of the max-pool of [`Stem::ImageNet`]. Absent in records where they are torchvision's.
    #[serde(default, skip_serializing_if = "MaxPool::is_torch")]
    pub max_pool: MaxPool,
}

/// The depths that have a recipe: basic blocks up to 34, bottlenecks above. A number in records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
#[allow(missing_docs, reason = "each is its number")]
pub enum Depth {
    D18,
    D34,
    D50,
    D101,
    D152,
    D200,
}

/// A number that is none of the depths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not 18, 34, 50, 101, 152 or 200")]
pub struct DepthError(pub u32);

/// The first layers of the encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stem {
    /// 7×7 convolution with stride 2 (with selective kernels: three 3×3, the first with stride 2), then max-pool with
    /// stride 2.
    ImageNet,
    /// 3×3 convolution with stride 1, no pool; with selective kernels, too.
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

/// Which cells the 3×3 windows of the stride-2 max-pool cover. Weights of one kind lose a few tenths of a point in the
/// other (google-research/simclr issue 26).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MaxPool {
    /// One row and column of padding on each side: window i of an even side is cells 2i − 1 to 2i + 1. torchvision's.
    #[default]
    Torch,
    /// TensorFlow's `SAME`: window i of an even side is cells 2i to 2i + 2. The official code's, and so of its released
    /// weights.
    Tensorflow,
}

/// The projection head: linear layers without bias, each followed by batch norm; ReLU between them
/// (SimCLR v1 §4.2, v2 §2). One layer is the papers' linear head; where the loss reads the encoder's output itself,
/// there is no `HeadSpec`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadSpec {
    /// At least 1. 2 in v1, 3 in v2.
    pub layers: u32,
    /// Output dimensions.
    pub dim: u32,
}

// === impl EncoderSpec ===

impl EncoderSpec {
    /// torchvision's network of this depth.
    pub const fn torchvision(depth: Depth) -> Self {
        Self {
            depth,
            width: 1.0,
            stem: Stem::ImageNet,
            basic_shortcut: BasicShortcut::Identity,
            selective_kernel: false,
            max_pool: MaxPool::Torch,
        }
    }
}

// === impl Depth ===

impl Depth {
    /// All of them, ascending.
    pub const ALL: [Self; 6] = [
        Self::D18,
        Self::D34,
        Self::D50,
        Self::D101,
        Self::D152,
        Self::D200,
    ];

    /// Whether blocks are bottlenecks of three convolutions, not basic blocks of two.
    pub fn bottleneck(self) -> bool {
        self >= Self::D50
    }
}

impl From<Depth> for u32 {
    fn from(depth: Depth) -> Self {
        match depth {
            Depth::D18 => 18,
            Depth::D34 => 34,
            Depth::D50 => 50,
            Depth::D101 => 101,
            Depth::D152 => 152,
            Depth::D200 => 200,
        }
    }
}

impl TryFrom<u32> for Depth {
    type Error = DepthError;

    fn try_from(number: u32) -> Result<Self, DepthError> {
        let same = |depth: &Self| u32::from(*depth) == number;
        Self::ALL.into_iter().find(same).ok_or(DepthError(number))
    }
}

impl fmt::Display for Depth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        u32::from(*self).fmt(f)
    }
}

// === impl MaxPool ===

impl MaxPool {
    fn is_torch(&self) -> bool {
        *self == Self::Torch
    }
}

fn is_false(flag: &bool) -> bool {
    !*flag
}
