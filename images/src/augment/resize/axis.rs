use diptych_common::spec::Resampling;

use super::{antialiased, tensorflow};

/// Where the pixels of one axis of a view take their values: pixel p is the sum over its `taps` neighbours of
/// `weight[p · taps + t]` times the source at `index[p · taps + t]`. An index without weight names a place that exists.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    /// Neighbours of a pixel.
    pub taps: usize,
    /// Places in the source, all below its length.
    pub index: Vec<i64>,
    /// Their weights, which sum to 1 for each pixel.
    pub weight: Vec<f32>,
}

/// How `length` source pixels become `side` pixels; mirrored with `flip`. The weights are those of
/// [`render`](crate::augment::render).
pub fn axis(resampling: Resampling, length: usize, side: usize, flip: bool) -> Axis {
    let mut pixels: Vec<Vec<(usize, f32)>> = match resampling {
        Resampling::Bicubic => {
            let mut taps = Vec::new();
            tensorflow::taps(length, side, &mut taps);
            let pair = |taps: &tensorflow::Taps| taps.index.into_iter().zip(taps.weight).collect();
            taps.iter().map(pair).collect()
        }
        Resampling::AntialiasedBilinear => antialiased(length, side, &antialiased::TRIANGLE),
        Resampling::AntialiasedBicubic => antialiased(length, side, &antialiased::CUBIC),
    };
    if flip {
        pixels.reverse();
    }
    let taps = pixels.iter().map(Vec::len).max().unwrap_or(0);
    let mut axis = Axis {
        taps,
        index: Vec::with_capacity(side * taps),
        weight: Vec::with_capacity(side * taps),
    };
    for pixel in pixels {
        let missing = taps - pixel.len();
        let (index, weight): (Vec<i64>, Vec<f32>) = pixel
            .into_iter()
            .map(|(index, weight)| (index as i64, weight))
            .unzip();
        axis.index.extend(index);
        axis.weight.extend(weight);
        axis.index.extend(std::iter::repeat_n(0, missing));
        axis.weight.extend(std::iter::repeat_n(0.0, missing));
    }
    axis
}

fn antialiased(length: usize, side: usize, filter: &antialiased::Filter) -> Vec<Vec<(usize, f32)>> {
    let mut axis = antialiased::Axis::default();
    axis.lay(length, side, filter);
    axis.pixels()
        .map(|(first, weights)| (first..).zip(weights.iter().copied()).collect())
        .collect()
}
