//! The layers of an encoder in forward order.

use crate::spec::{BasicShortcut, EncoderSpec, MaxPool, Stem};

use super::Widths;

/// Channels of a selective kernel's bottleneck: this share of the block's, and at least [`SQUEEZE_MIN`] (SimCLR v2's
/// `sk_ratio` 0.0625).
const SQUEEZE_SHARE: u64 = 16;
const SQUEEZE_MIN: u64 = 32;

/// An encoder: the stem with a ReLU after every part, the max-pool if any, the blocks, and the mean over the square.
#[derive(Debug, Clone, PartialEq)]
pub struct Layers {
    /// One convolution, or the three of a ResNet-D stem.
    pub stem: Vec<ConvNorm>,
    /// 3×3 with stride 2.
    pub max_pool: Option<MaxPool>,
    /// The residual blocks of all four stages.
    pub blocks: Vec<Block>,
}

/// A convolution without bias. Padding keeps a stride-1 size; with stride 2 the size is halved, rounded up, and
/// padding is equal on both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Convolution {
    /// E.g. `layer1.0.conv2`.
    pub name: String,
    /// Channels in.
    pub input: u64,
    /// Channels out.
    pub output: u64,
    /// Side of the kernel.
    pub kernel: u64,
    /// 1 or 2.
    pub stride: u64,
}

/// ε of every batch norm.
pub const NORM_EPSILON: f64 = 1e-5;

/// A convolution and the batch norm after it.
#[derive(Debug, Clone, PartialEq)]
pub struct ConvNorm {
    /// The convolution.
    pub conv: Convolution,
    /// Name of the batch norm, e.g. `layer1.0.bn2`.
    pub norm: String,
    /// What its scale starts at: 0 where it closes a residual branch, so that the block starts as its shortcut.
    pub gamma: f64,
}

/// A residual block: parts, each but the last followed by a ReLU; the shortcut is added, and a ReLU follows.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// The main path.
    pub path: Vec<Part>,
    /// `None` where the input itself is added.
    pub shortcut: Option<Shortcut>,
}

/// A part of a block's main path.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// Convolution and norm.
    Plain(ConvNorm),
    /// Two streams and their mixing, which no ReLU follows.
    Selective(Selective),
}

/// A selective kernel (SimCLR v2 §2): `streams`, ReLU; the mean over square and streams goes through `squeeze`, ReLU
/// and `expand`; its softmax over the two streams, channel by channel, weighs their sum.
#[derive(Debug, Clone, PartialEq)]
pub struct Selective {
    /// 3×3, from f to 2f channels.
    pub streams: ConvNorm,
    /// 1×1, from f to max(f/16, 32) channels.
    pub squeeze: ConvNorm,
    /// 1×1, to 2f channels; no norm follows.
    pub expand: Convolution,
}

/// A shortcut that changes the shape, or that the first block of a stage has anyway.
#[derive(Debug, Clone, PartialEq)]
pub struct Shortcut {
    /// ResNet-D: a 2×2 average pool of this stride in front. With stride 1 as TensorFlow's `SAME` (padding after, left
    /// out of the mean); with stride 2 an odd side gets a row and a column of zeros after.
    pub average_pool: Option<u64>,
    /// 1×1; its stride is 1 behind a pool.
    pub projection: ConvNorm,
}

impl Convolution {
    /// Cells of zeros on each side.
    pub fn padding(&self) -> u64 {
        self.kernel / 2
    }
}

impl Layers {
    /// The layers of an encoder.
    pub fn of(encoder: &EncoderSpec) -> Self {
        let widths = Widths::of(encoder);
        let mut blocks = Vec::new();
        let mut input = widths.stem;
        for (stage, (&width, &count)) in widths.stages.iter().zip(&widths.blocks).enumerate() {
            for index in 0..count {
                let place = Place {
                    prefix: format!("layer{}.{index}", stage + 1),
                    first: index == 0,
                    input,
                    width,
                    output: width * widths.expansion,
                    stride: if stage > 0 && index == 0 { 2 } else { 1 },
                };
                blocks.push(place.block(encoder));
                input = place.output;
            }
        }
        Self {
            stem: stem(encoder, widths.stem),
            max_pool: (encoder.stem == Stem::ImageNet).then_some(encoder.max_pool),
            blocks,
        }
    }

    /// Every convolution with its norm, if it has one, in the order in which tensors are listed: stem, then each
    /// block's main path and shortcut.
    pub fn convolutions(&self) -> impl Iterator<Item = (&Convolution, Option<&str>)> {
        let blocks = self.blocks.iter().flat_map(|block| {
            let path = block.path.iter().flat_map(Part::convolutions);
            path.chain(block.shortcut.iter().map(|cut| cut.projection.named()))
        });
        self.stem.iter().map(ConvNorm::named).chain(blocks)
    }
}

impl Part {
    /// The convolution that reads its input.
    pub(super) fn first(&self) -> &Convolution {
        match self {
            Self::Plain(plain) => &plain.conv,
            Self::Selective(kernel) => &kernel.streams.conv,
        }
    }

    fn convolutions(&self) -> Vec<(&Convolution, Option<&str>)> {
        match self {
            Self::Plain(conv) => vec![conv.named()],
            Self::Selective(kernel) => vec![
                kernel.streams.named(),
                kernel.squeeze.named(),
                (&kernel.expand, None),
            ],
        }
    }
}

impl ConvNorm {
    fn named(&self) -> (&Convolution, Option<&str>) {
        (&self.conv, Some(&self.norm))
    }
}

fn stem(encoder: &EncoderSpec, width: u64) -> Vec<ConvNorm> {
    let part = |name: &str, norm: &str, (input, output), (kernel, stride)| ConvNorm {
        conv: Convolution {
            name: name.to_owned(),
            input,
            output,
            kernel,
            stride,
        },
        norm: norm.to_owned(),
        gamma: 1.0,
    };
    match encoder.stem {
        Stem::Cifar => vec![part("conv1", "bn1", (3, width), (3, 1))],
        Stem::ImageNet if encoder.selective_kernel => {
            let half = (width / 2).max(1);
            vec![
                part("conv1.0", "conv1.1", (3, half), (3, 2)),
                part("conv1.3", "conv1.4", (half, half), (3, 1)),
                part("conv1.6", "bn1", (half, width), (3, 1)),
            ]
        }
        Stem::ImageNet => vec![part("conv1", "bn1", (3, width), (7, 2))],
    }
}

/// Where a residual block stands.
struct Place {
    prefix: String,
    /// Of its stage.
    first: bool,
    input: u64,
    width: u64,
    output: u64,
    stride: u64,
}

impl Place {
    fn block(&self, encoder: &EncoderSpec) -> Block {
        let (input, width, output, stride) = (self.input, self.width, self.output, self.stride);
        let path = if !encoder.depth.bottleneck() {
            vec![
                Part::Plain(self.part("conv1", "bn1", (input, width), (3, stride))),
                Part::Plain(self.last("conv2", "bn2", (width, output), 3)),
            ]
        } else {
            let middle = if encoder.selective_kernel {
                Part::Selective(self.selective())
            } else {
                Part::Plain(self.part("conv2", "bn2", (width, width), (3, stride)))
            };
            vec![
                Part::Plain(self.part("conv1", "bn1", (input, width), (1, 1))),
                middle,
                Part::Plain(self.last("conv3", "bn3", (width, output), 1)),
            ]
        };
        let reshapes = stride > 1 || input != output;
        let official = self.first && encoder.basic_shortcut == BasicShortcut::Projection;
        Block {
            path,
            shortcut: (reshapes || official).then(|| self.shortcut(encoder.selective_kernel)),
        }
    }

    fn shortcut(&self, pooled: bool) -> Shortcut {
        let (names, stride) = if pooled {
            (("downsample.1", "downsample.2"), 1)
        } else {
            (("downsample.0", "downsample.1"), self.stride)
        };
        Shortcut {
            average_pool: pooled.then_some(self.stride),
            projection: self.part(names.0, names.1, (self.input, self.output), (1, stride)),
        }
    }

    fn selective(&self) -> Selective {
        let squeezed = (self.width / SQUEEZE_SHARE).max(SQUEEZE_MIN);
        let streams = 2 * self.width;
        Selective {
            streams: self.part("conv2", "bn2", (self.width, streams), (3, self.stride)),
            squeeze: self.part("sk.squeeze", "sk.bn", (self.width, squeezed), (1, 1)),
            expand: self.convolution("sk.expand", (squeezed, streams), (1, 1)),
        }
    }

    /// A convolution of this (input, output) and (kernel, stride).
    fn convolution(
        &self,
        name: &str,
        (input, output): (u64, u64),
        (kernel, stride): (u64, u64),
    ) -> Convolution {
        Convolution {
            name: format!("{}.{name}", self.prefix),
            input,
            output,
            kernel,
            stride,
        }
    }

    fn part(&self, name: &str, norm: &str, channels: (u64, u64), shape: (u64, u64)) -> ConvNorm {
        ConvNorm {
            conv: self.convolution(name, channels, shape),
            norm: format!("{}.{norm}", self.prefix),
            gamma: 1.0,
        }
    }

    fn last(&self, name: &str, norm: &str, channels: (u64, u64), kernel: u64) -> ConvNorm {
        ConvNorm {
            gamma: 0.0,
            ..self.part(name, norm, channels, (kernel, 1))
        }
    }
}
