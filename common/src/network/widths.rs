//! Channels and blocks of every stage (simclr v1 §2.1, He et al. 2015 table 1).

use crate::spec::{Depth, EncoderSpec, HeadSpec};

/// Most channels of a stem: 64 × width is at most 512 by validation; a record that says more is held to this.
const MOST: u64 = 1 << 20;

/// The shape of an encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Widths {
    /// Channels after the stem: 64 × width.
    pub stem: u64,
    /// Channels inside the blocks of the four stages: 64, 128, 256 and 512 × width.
    pub stages: [u64; 4],
    /// Blocks of each stage.
    pub blocks: [u32; 4],
    /// Channels that leave a block, as a multiple of those inside: 4 for bottlenecks, 1 for basic blocks.
    pub expansion: u64,
}

impl Widths {
    /// The shape of a valid encoder. Widths are whole by validation; another is rounded.
    pub fn of(encoder: &EncoderSpec) -> Self {
        let base = ((64.0 * encoder.width).round() as u64).clamp(1, MOST);
        let blocks = match encoder.depth {
            Depth::D18 => [2, 2, 2, 2],
            Depth::D34 | Depth::D50 => [3, 4, 6, 3],
            Depth::D101 => [3, 4, 23, 3],
            Depth::D152 => [3, 8, 36, 3],
            Depth::D200 => [3, 24, 36, 3],
        };
        Self {
            stem: base,
            stages: [base, 2 * base, 4 * base, 8 * base],
            blocks,
            expansion: if encoder.depth.bottleneck() { 4 } else { 1 },
        }
    }
}

/// Dimensions of the encoder's output: 512 × width for depth 18 and 34, 2048 × width above.
pub fn features(encoder: &EncoderSpec) -> u64 {
    let widths = Widths::of(encoder);
    widths.stages[3] * widths.expansion
}

/// Dimensions of layer `layer` of `[h, a₁, …, z]`, where 0 is the encoder's output and `head.layers` the head's. What
/// NT-Xent compares is layer `head.layers`, or layer 0 where there is no head.
pub fn layer_width(encoder: &EncoderSpec, head: Option<&HeadSpec>, layer: u32) -> u64 {
    match head {
        Some(head) if layer >= head.layers.max(1) => u64::from(head.dim),
        _ => features(encoder),
    }
}
