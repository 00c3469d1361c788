//! torchvision's antialiased resizing of float tensors (PyTorch's `_upsample_*_aa`): the filter is as wide as an output
//! pixel, taps outside the crop are dropped and the rest renormalised. Unlike PIL, nothing is rounded to bytes between
//! the two passes or after them.

use crate::decode::Image;

use super::{Cut, keys};

/// A filter over distances in pixels of the smaller side.
#[derive(Debug)]
pub(super) struct Filter {
    support: f64,
    weight: fn(f64) -> f64,
}

/// Bilinear.
pub(super) const TRIANGLE: Filter = Filter {
    support: 1.0,
    weight: |distance| (1.0 - distance.abs()).max(0.0),
};

/// Bicubic.
pub(super) const CUBIC: Filter = Filter {
    support: 2.0,
    weight: keys,
};

/// Where one output pixel takes its values: `count` neighbours from `first` on, with the weights from `start` on.
#[derive(Debug, Clone, Copy)]
struct Taps {
    first: usize,
    count: usize,
    start: usize,
}

/// One axis.
#[derive(Debug, Default)]
pub(super) struct Axis {
    taps: Vec<Taps>,
    weights: Vec<f32>,
}

/// Buffers that are kept between images.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    columns: Axis,
    rows: Axis,
    /// Source rows after the horizontal pass, planar: `3 · side` floats a row.
    wide: Vec<f32>,
}

pub(super) fn resize(
    image: &Image,
    cut: Cut,
    filter: &Filter,
    buffers: &mut Buffers,
    out: &mut [f32],
) {
    let Cut { crop, flip, side } = cut;
    buffers.columns.lay(crop.width, side, filter);
    buffers.rows.lay(crop.height, side, filter);
    if flip {
        buffers.columns.taps.reverse();
    }
    let row_length = 3 * side;
    buffers.wide.resize(crop.height * row_length, 0.0);
    for (row, target) in buffers.wide.chunks_exact_mut(row_length).enumerate() {
        let start = 3 * ((crop.top + row) * image.width + crop.left);
        let source = &image.pixels[start..start + 3 * crop.width];
        horizontal(source, &buffers.columns, side, target);
    }
    for (y, taps) in buffers.rows.taps.iter().enumerate() {
        for channel in 0..3 {
            let target = &mut out[(channel * side + y) * side..][..side];
            target.fill(0.0);
            for (row, &weight) in (taps.first..).zip(buffers.rows.of(taps)) {
                let source = &buffers.wide[row * row_length + channel * side..][..side];
                for (pixel, value) in target.iter_mut().zip(source) {
                    *pixel += weight * value;
                }
            }
        }
    }
}

/// One source row, interleaved bytes, to one wide row, planar floats.
fn horizontal(source: &[u8], columns: &Axis, side: usize, target: &mut [f32]) {
    let (red, rest) = target.split_at_mut(side);
    let (green, blue) = rest.split_at_mut(side);
    for (x, taps) in columns.taps.iter().enumerate() {
        let mut sum = [0.0f32; 3];
        let pixels = source[3 * taps.first..].chunks_exact(3);
        for (pixel, &weight) in pixels.zip(columns.of(taps)) {
            for (sum, &value) in sum.iter_mut().zip(pixel) {
                *sum += weight * f32::from(value);
            }
        }
        // Bytes become [0, 1] here, once.
        red[x] = sum[0] * (1.0 / 255.0);
        green[x] = sum[1] * (1.0 / 255.0);
        blue[x] = sum[2] * (1.0 / 255.0);
    }
}

// === impl Axis ===

impl Axis {
    /// Of each output pixel: the first place that it reads, and the weights from there on.
    pub(super) fn pixels(&self) -> impl Iterator<Item = (usize, &[f32])> {
        self.taps.iter().map(|taps| (taps.first, self.of(taps)))
    }

    pub(super) fn lay(&mut self, length: usize, side: usize, filter: &Filter) {
        self.taps.clear();
        self.weights.clear();
        let scale = length as f64 / side as f64;
        let stretch = scale.max(1.0);
        let support = filter.support * stretch;
        for place in 0..side {
            let centre = (place as f64 + 0.5) * scale;
            let first = (centre - support + 0.5).max(0.0) as usize;
            let last = ((centre + support + 0.5) as usize).min(length);
            let start = self.weights.len();
            let weight = |index: usize| (filter.weight)((index as f64 - centre + 0.5) / stretch);
            let sum: f64 = (first..last).map(weight).sum();
            self.weights
                .extend((first..last).map(|index| (weight(index) / sum) as f32));
            self.taps.push(Taps {
                first,
                count: last - first,
                start,
            });
        }
    }

    fn of(&self, taps: &Taps) -> &[f32] {
        &self.weights[taps.start..taps.start + taps.count]
    }
}
