//! Channels and blocks of every stage (simclr v1 §2.1, He et al. 2015 table 1).

use crate::spec::EncoderSpec;

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
        let base = (64.0 * encoder.width).round().max(1.0) as u64;
        let blocks = if encoder.depth == 18 {
            [2, 2, 2, 2]
        } else {
            [3, 4, 6, 3]
        };
        let expansion = if encoder.depth >= 50 { 4 } else { 1 };
        Self {
            stem: base,
            stages: [base, 2 * base, 4 * base, 8 * base],
            blocks,
            expansion,
        }
    }
}

/// Dimensions of the encoder's output: 512 × width for depth 18 and 34, 2048 × width for depth 50.
pub fn features(encoder: &EncoderSpec) -> u64 {
    let widths = Widths::of(encoder);
    widths.stages[3] * widths.expansion
}
