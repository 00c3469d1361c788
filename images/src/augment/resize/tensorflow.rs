//! Bicubic resizing as TensorFlow 2's kernel: half-pixel centres, Keys cubic with a = −½, no antialiasing, taps outside
//! the crop dropped and the rest renormalised, offsets in steps of 1/1024.

use crate::decode::Image;

use super::{Cut, keys};

/// Where one output pixel takes its values: four taps and their weights.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taps {
    pub(super) index: [usize; 4],
    pub(super) weight: [f32; 4],
}

/// Buffers that are kept between images.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    columns: Vec<Taps>,
    rows: Vec<Taps>,
    /// Source rows after the horizontal pass, planar: `3 · side` floats a row.
    wide: Vec<f32>,
    done: Vec<bool>,
}

pub(super) fn bicubic(image: &Image, cut: Cut, buffers: &mut Buffers, out: &mut [f32]) {
    let Cut { crop, flip, side } = cut;
    taps(crop.width, side, &mut buffers.columns);
    taps(crop.height, side, &mut buffers.rows);
    if flip {
        buffers.columns.reverse();
    }
    let row_length = 3 * side;
    buffers.wide.resize(crop.height * row_length, 0.0);
    buffers.done.clear();
    buffers.done.resize(crop.height, false);
    for (y, taps) in buffers.rows.iter().enumerate() {
        for &row in &taps.index {
            if !std::mem::replace(&mut buffers.done[row], true) {
                let start = 3 * ((crop.top + row) * image.width + crop.left);
                let source = &image.pixels[start..start + 3 * crop.width];
                let target = &mut buffers.wide[row * row_length..][..row_length];
                horizontal(source, &buffers.columns, side, target);
            }
        }
        let row = |tap: usize| &buffers.wide[taps.index[tap] * row_length..][..row_length];
        let (a, b, c, d) = (row(0), row(1), row(2), row(3));
        let [wa, wb, wc, wd] = taps.weight;
        for channel in 0..3 {
            let span = channel * side..(channel + 1) * side;
            let target = &mut out[(channel * side + y) * side..][..side];
            let sources = a[span.clone()]
                .iter()
                .zip(&b[span.clone()])
                .zip(&c[span.clone()])
                .zip(&d[span]);
            for (pixel, (((a, b), c), d)) in target.iter_mut().zip(sources) {
                *pixel = a * wa + b * wb + c * wc + d * wd;
            }
        }
    }
}

/// One source row, interleaved bytes, to one wide row, planar floats.
fn horizontal(source: &[u8], columns: &[Taps], side: usize, target: &mut [f32]) {
    let (red, rest) = target.split_at_mut(side);
    let (green, blue) = rest.split_at_mut(side);
    for (x, taps) in columns.iter().enumerate() {
        let mut sum = [0.0f32; 3];
        for (&index, &weight) in taps.index.iter().zip(&taps.weight) {
            let pixel = &source[3 * index..3 * index + 3];
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

pub(super) fn taps(length: usize, side: usize, all: &mut Vec<Taps>) {
    let scale = length as f64 / side as f64;
    all.clear();
    all.extend((0..side).map(|place| {
        let centre = (place as f64 + 0.5) * scale - 0.5;
        let floor = centre.floor();
        let offset = ((centre - floor) * 1024.0).round() / 1024.0;
        let mut taps = Taps {
            index: [0; 4],
            weight: [0.0; 4],
        };
        let mut sum = 0.0;
        for tap in 0..4 {
            let index = floor + tap as f64 - 1.0;
            if index >= 0.0 && index < length as f64 {
                let weight = keys(offset - (tap as f64 - 1.0));
                taps.index[tap] = index as usize;
                taps.weight[tap] = weight as f32;
                sum += weight;
            } else {
                // Weightless, but it must name a row that exists.
                taps.index[tap] = (floor.max(0.0) as usize).min(length - 1);
            }
        }
        taps.weight = taps.weight.map(|weight| (f64::from(weight) / sum) as f32);
        taps
    }));
}
