//! The encoder as the list of what it does to one view: work, and what each operation leaves in memory.

use crate::spec::EncoderSpec;

use super::{ConvNorm, Convolution, Layers, Part, Selective};

/// Bytes of a max-pool's position.
const POSITION: u64 = 8;

/// One operation on one view. Activations are counted in elements, because their size is the precision's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Operation {
    /// Two per multiply-add; convolutions only, as papers count.
    pub flops: u64,
    /// Elements read.
    pub input: u64,
    /// Elements written.
    pub output: u64,
    /// Elements that stay from the forward pass until the backward pass has used them.
    pub kept: u64,
    /// Bytes that stay beside them, whatever the precision.
    pub kept_bytes: u64,
    /// Elements of the input's patches laid out as a matrix: what a convolution needs that has no kernel of its own.
    pub patches: u64,
    /// Elements of the block's input, which the shortcut holds meanwhile.
    pub beside: u64,
    /// Channels of the batch norm that follows; 0 for none.
    pub norm: u64,
}

/// The encoder's operations in forward order, for square views of this side.
///
/// What stays for backward is what the worker's layers save. A batch norm saves its input, which is the convolution's
/// output. A ReLU saves its result, which takes the place of the batch norm's output and is what the next convolution
/// reads. A shortcut's batch norm has no ReLU of its own: its output is added to the main path and gone. Pools save
/// their output, max-pool the position of each maximum as well; streams that are mixed save the mixture.
pub fn operations(encoder: &EncoderSpec, image_size: u32) -> Vec<Operation> {
    let layers = Layers::of(encoder);
    let mut walk = Walk {
        side: image_size.into(),
        beside: 0,
        done: Vec::new(),
    };
    for part in &layers.stem {
        walk.conv_norm(part, 2);
    }
    if let (Some(_), Some(last)) = (layers.max_pool, layers.stem.last()) {
        walk.max_pool(last.conv.output);
    }
    for block in &layers.blocks {
        let (before, input) = (
            walk.side,
            block.path.first().map_or(0, |part| part.first().input),
        );
        walk.beside = input * before.pow(2);
        for part in &block.path {
            match part {
                Part::Plain(part) => walk.conv_norm(part, 2),
                Part::Selective(kernel) => walk.selective(kernel),
            }
        }
        let after = walk.side;
        if let Some(shortcut) = &block.shortcut {
            walk.side = before;
            if let Some(stride) = shortcut.average_pool {
                walk.side = before.div_ceil(stride);
                let pooled = input * walk.side.pow(2);
                walk.push(Operation {
                    input: walk.beside,
                    output: pooled,
                    kept: pooled,
                    ..Operation::default()
                });
            }
            walk.conv_norm(&shortcut.projection, 1);
        }
        walk.side = after;
    }
    walk.done
}

/// Where a walk through the layers stands.
struct Walk {
    /// Side of the square, in pixels.
    side: u64,
    beside: u64,
    done: Vec<Operation>,
}

impl Walk {
    fn push(&mut self, operation: Operation) {
        self.done.push(Operation {
            beside: self.beside,
            ..operation
        });
    }

    /// A convolution whose output is kept so many times: for its batch norm, and for what follows the ReLU.
    fn convolution(&mut self, conv: &Convolution, kept: u64, norm: bool) {
        let input = conv.input * self.side.pow(2);
        self.side = self.side.div_ceil(conv.stride);
        let area = self.side.pow(2);
        let (output, patch) = (conv.output * area, conv.input * conv.kernel.pow(2));
        let plain = conv.kernel == 1 && conv.stride == 1;
        self.push(Operation {
            flops: 2 * output * patch,
            input,
            output,
            kept: kept * output,
            patches: if plain { 0 } else { patch * area },
            norm: if norm { conv.output } else { 0 },
            ..Operation::default()
        });
    }

    fn conv_norm(&mut self, part: &ConvNorm, kept: u64) {
        self.convolution(&part.conv, kept, true);
    }

    fn max_pool(&mut self, channels: u64) {
        let input = channels * self.side.pow(2);
        self.side = self.side.div_ceil(2);
        let output = channels * self.side.pow(2);
        self.push(Operation {
            input,
            output,
            kept: output,
            kept_bytes: POSITION * output,
            ..Operation::default()
        });
    }

    fn selective(&mut self, kernel: &Selective) {
        self.conv_norm(&kernel.streams, 2);
        let side = std::mem::replace(&mut self.side, 1);
        self.conv_norm(&kernel.squeeze, 2);
        self.convolution(&kernel.expand, 1, false);
        self.side = side;
        let streams = kernel.streams.conv.output * side.pow(2);
        self.push(Operation {
            input: streams,
            output: streams / 2,
            kept: streams / 2,
            ..Operation::default()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Depth, Stem};

    fn kept(encoder: &EncoderSpec, side: u32) -> u64 {
        let all = operations(encoder, side);
        all.iter().map(|operation| operation.kept).sum()
    }

    #[test]
    fn what_stays_for_backward_is_counted_layer_by_layer() {
        // In units of the stem's output, 64 × 32 × 32: the stem and four convolutions keep two each; every later stage
        // halves the unit, and its shortcut keeps one.
        let cifar = EncoderSpec {
            stem: Stem::Cifar,
            ..EncoderSpec::torchvision(Depth::D18)
        };
        let unit = 64 * 32 * 32;
        assert_eq!(kept(&cifar, 32), 10 * unit + 9 * unit * 7 / 8);
        assert_eq!(kept(&cifar, 64), 4 * kept(&cifar, 32));
        // The shortcut of a block waits beside all of its convolutions.
        let all = operations(&cifar, 32);
        let beside: Vec<u64> = all.iter().map(|operation| operation.beside).collect();
        assert_eq!(beside[..4], [0, unit, unit, unit]);
        assert_eq!(beside[5..8], [unit, unit, unit]);
    }

    #[test]
    fn pools_and_streams_stay_too() {
        let plain = EncoderSpec::torchvision(Depth::D50);
        let pool = operations(&plain, 224)[1];
        let pooled = 64 * 56 * 56;
        assert_eq!((pooled, 8 * pooled), (pool.kept, pool.kept_bytes));
        let selective = EncoderSpec {
            selective_kernel: true,
            ..plain.clone()
        };
        // SimCLR v2's table 1 gives 35 M parameters to one and 24 M to the other; the streams double the 3×3 part.
        let flops = |encoder| -> u64 {
            let all = operations(encoder, 224);
            all.iter().map(|operation| operation.flops).sum()
        };
        assert!((1.4..1.9).contains(&(flops(&selective) as f64 / flops(&plain) as f64)));
        assert!(kept(&selective, 224) > kept(&plain, 224) * 5 / 4);
    }
}
