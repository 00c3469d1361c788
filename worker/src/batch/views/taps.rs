use std::collections::BTreeMap;

use diptych_common::spec::AugmentSpec;
use diptych_images::augment::axis;
use tch::{Kind, TchError, Tensor};

use super::tables::{Indices, Lists, Numbers, Tables};

/// How crops become views along one axis. Crops of one length, mirrored alike, share what there is to say.
#[derive(Debug)]
pub(super) struct Taps {
    /// Which of the `axes` each crop takes, `[n]`.
    which: Indices,
    axes: i64,
    side: i64,
    taps: i64,
    /// Source pixels that make each pixel of a view, `[axes, side, taps]`, and how much.
    index: Indices,
    weight: Numbers,
    /// Length of the longest source.
    length: i64,
}

impl Taps {
    /// Of crops of these lengths, mirrored or not; none is longer than `longest`.
    pub(super) fn of(
        spec: &AugmentSpec,
        longest: usize,
        crops: impl Iterator<Item = (usize, bool)>,
        lists: &mut Lists,
    ) -> Self {
        let side = spec.image_size as usize;
        let (mut known, mut axes) = (BTreeMap::new(), Vec::new());
        let which: Vec<i64> = crops
            .map(|(length, flip)| {
                *known.entry((length, flip)).or_insert_with(|| {
                    axes.push(axis(spec.resampling(), length, side, flip));
                    axes.len() as i64 - 1
                })
            })
            .collect();
        let taps = axes.iter().map(|axis| axis.taps).max().unwrap_or(0);
        let mut index = Vec::with_capacity(axes.len() * side * taps);
        let mut weight = Vec::with_capacity(index.capacity());
        for axis in &axes {
            let pixels = axis
                .index
                .chunks_exact(axis.taps)
                .zip(axis.weight.chunks_exact(axis.taps));
            for (places, weights) in pixels {
                index.extend_from_slice(places);
                weight.extend_from_slice(weights);
                index.resize(index.len() + taps - axis.taps, 0);
                weight.resize(index.len(), 0.0);
            }
        }
        Self {
            which: lists.indices(which),
            axes: axes.len() as i64,
            side: side as i64,
            taps: taps as i64,
            index: lists.indices(index),
            weight: lists.numbers(weight),
            length: longest as i64,
        }
    }

    /// As matrices `[n, side, length]` where the tables are, which turn a source into a view.
    pub(super) fn matrices(&self, tables: &Tables) -> Result<Tensor, TchError> {
        let shape = [self.axes, self.side, self.taps];
        let index = tables.indices(self.index, &shape)?;
        let weight = tables.numbers(self.weight, &shape)?;
        let size = [self.axes, self.side, self.length];
        let mut matrices = Tensor::f_zeros(size, (Kind::Float, weight.device()))?;
        let matrices = matrices.f_scatter_add_(2, &index, &weight)?;
        matrices.f_index_select(0, &tables.indices(self.which, &[-1])?)
    }
}
