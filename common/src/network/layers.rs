//! The convolutions of an encoder in forward order; a batch norm follows each.

use crate::spec::{BasicShortcut, EncoderSpec, Stem};

use super::Widths;

/// A convolution without bias, and the batch norm after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Convolution {
    /// Its name in torchvision's ResNet, e.g. `layer1.0.conv2`.
    pub(super) name: String,
    /// The name of its batch norm, e.g. `layer1.0.bn2`.
    pub(super) norm: String,
    pub(super) input: u64,
    pub(super) output: u64,
    /// Side of the kernel.
    pub(super) kernel: u64,
    /// Side of the square that it reads, in pixels, and the step of the kernel.
    pub(super) side: u64,
    pub(super) stride: u64,
}

impl Convolution {
    /// Side of the square that it writes: padding keeps a stride-1 size.
    pub(super) fn side_out(&self) -> u64 {
        self.side.div_ceil(self.stride)
    }
}

/// Every convolution, for square images of this side.
pub(super) fn convolutions(encoder: &EncoderSpec, image_size: u64) -> Vec<Convolution> {
    let widths = Widths::of(encoder);
    let (kernel, stride, pool) = match encoder.stem {
        Stem::ImageNet => (7, 2, 2),
        Stem::Cifar => (3, 1, 1),
    };
    let stem = Convolution {
        name: "conv1".to_owned(),
        norm: "bn1".to_owned(),
        input: 3,
        output: widths.stem,
        kernel,
        side: image_size,
        stride,
    };
    let mut side = stem.side_out().div_ceil(pool);
    let mut input = widths.stem;
    let mut all = vec![stem];
    for (stage, (&width, &blocks)) in widths.stages.iter().zip(&widths.blocks).enumerate() {
        for block in 0..blocks {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let place = Block {
                prefix: format!("layer{}.{block}", stage + 1),
                input,
                width,
                side,
                stride,
            };
            all.extend(place.convolutions(encoder, widths.expansion));
            side = side.div_ceil(stride);
            input = width * widths.expansion;
        }
    }
    all
}

/// One residual block.
struct Block {
    prefix: String,
    input: u64,
    width: u64,
    side: u64,
    stride: u64,
}

impl Block {
    /// In torchvision's order: the main path, then the shortcut.
    fn convolutions(&self, encoder: &EncoderSpec, expansion: u64) -> Vec<Convolution> {
        let output = self.width * expansion;
        let after = self.side.div_ceil(self.stride);
        let path: Vec<(u64, u64, u64, u64, u64)> = if expansion == 1 {
            vec![
                (self.input, self.width, 3, self.side, self.stride),
                (self.width, self.width, 3, after, 1),
            ]
        } else {
            vec![
                (self.input, self.width, 1, self.side, 1),
                (self.width, self.width, 3, self.side, self.stride),
                (self.width, output, 1, after, 1),
            ]
        };
        let prefix = &self.prefix;
        let mut all: Vec<Convolution> = (1..)
            .zip(path)
            .map(|(i, (input, output, kernel, side, stride))| Convolution {
                name: format!("{prefix}.conv{i}"),
                norm: format!("{prefix}.bn{i}"),
                input,
                output,
                kernel,
                side,
                stride,
            })
            .collect();
        let first = prefix.ends_with(".0");
        let reshapes = self.stride > 1 || self.input != output;
        if reshapes || (first && encoder.basic_shortcut == BasicShortcut::Projection) {
            all.push(Convolution {
                name: format!("{prefix}.downsample.0"),
                norm: format!("{prefix}.downsample.1"),
                input: self.input,
                output,
                kernel: 1,
                side: self.side,
                stride: self.stride,
            });
        }
        all
    }
}
