use diptych_common::spec::AugmentSpec;
use diptych_images::augment::{ViewParams, axis};
use diptych_images::decode::Image;
use tch::{Device, Kind, TchError, Tensor};

/// Bytes of the crops that are worked on together; on the device they take some ten times as much for a moment.
const TOGETHER: usize = 64 << 20;

/// The part of an image that becomes one view.
#[derive(Debug, Clone, PartialEq)]
pub struct Crop {
    /// Everything random about the view.
    pub params: ViewParams,
    /// Interleaved bytes of the part, row by row.
    pixels: Vec<u8>,
}

/// The crops of a batch, in tensors on the host.
#[derive(Debug)]
pub struct Crops {
    pub(super) spec: AugmentSpec,
    pub(super) rows: usize,
    pub(super) chunks: Vec<Chunk>,
}

/// Crops of similar size, padded to the largest.
#[derive(Debug)]
pub(super) struct Chunk {
    /// The row of the batch that each crop becomes, `[n]`.
    pub(super) places: Tensor,
    /// `[n, H, W, 3]` of u8.
    pub(super) pixels: Tensor,
    pub(super) vertical: Taps,
    pub(super) horizontal: Taps,
    pub(super) params: Vec<ViewParams>,
}

/// Which source pixels make each pixel of a view along one axis, and how much: `[n, side, taps]` each.
#[derive(Debug)]
pub(super) struct Taps {
    pub(super) index: Tensor,
    pub(super) weight: Tensor,
    /// Length of the longest source.
    pub(super) length: i64,
}

// === impl Crop ===

impl Crop {
    /// Cuts out what these parameters name.
    pub fn of(image: &Image, params: ViewParams) -> Self {
        let cut = params.crop;
        let rows = image.pixels.chunks_exact(3 * image.width).skip(cut.top);
        let pixels = rows
            .take(cut.height)
            .flat_map(|row| &row[3 * cut.left..3 * (cut.left + cut.width)])
            .copied()
            .collect();
        Self { params, pixels }
    }
}

// === impl Crops ===

impl Crops {
    /// Packs the crop of each row of a batch.
    ///
    /// # Errors
    /// Out of memory.
    pub fn pack(spec: &AugmentSpec, crops: Vec<Crop>) -> Result<Self, TchError> {
        let rows = crops.len();
        let mut numbered: Vec<(usize, Crop)> = crops.into_iter().enumerate().collect();
        // Neighbours are of like size, so that little is padding.
        numbered.sort_by_key(|(_, crop)| (crop.params.crop.height, crop.params.crop.width));
        let mut chunks = Vec::new();
        let mut chunk: Vec<(usize, Crop)> = Vec::new();
        for next in numbered {
            let grown = size(chunk.iter().chain([&next]));
            if !chunk.is_empty() && 3 * (chunk.len() + 1) * grown.0 * grown.1 > TOGETHER {
                chunks.push(Chunk::pack(spec, &std::mem::take(&mut chunk))?);
            }
            chunk.push(next);
        }
        if !chunk.is_empty() {
            chunks.push(Chunk::pack(spec, &chunk)?);
        }
        Ok(Self {
            spec: spec.clone(),
            rows,
            chunks,
        })
    }

    /// Moves what is large to memory that a CUDA device reads without a copy.
    ///
    /// # Errors
    /// Out of such memory.
    pub fn pinned(mut self, device: Device) -> Result<Self, TchError> {
        for chunk in &mut self.chunks {
            chunk.pixels = chunk.pixels.f_pin_memory(device)?;
        }
        Ok(self)
    }
}

// === impl Chunk ===

impl Chunk {
    fn pack(spec: &AugmentSpec, crops: &[(usize, Crop)]) -> Result<Self, TchError> {
        let (height, width) = size(crops.iter());
        let mut bytes = vec![0; crops.len() * height * width * 3];
        let frames = bytes.chunks_exact_mut((height * width * 3).max(1));
        for (frame, (_, crop)) in frames.zip(crops) {
            let own = 3 * crop.params.crop.width;
            let rows = frame.chunks_exact_mut(3 * width);
            for (to, from) in rows.zip(crop.pixels.chunks_exact(own)) {
                to[..own].copy_from_slice(from);
            }
        }
        let places: Vec<i64> = crops.iter().map(|(place, _)| *place as i64).collect();
        let params = crops.iter().map(|(_, crop)| &crop.params);
        let vertical = Taps::of(
            spec,
            height,
            params.clone().map(|params| (params.crop.height, false)),
        )?;
        let horizontal = Taps::of(
            spec,
            width,
            params
                .clone()
                .map(|params| (params.crop.width, params.flip)),
        )?;
        let shape = [crops.len(), height, width, 3].map(|length| length as i64);
        Ok(Self {
            places: Tensor::f_from_slice(&places)?,
            pixels: Tensor::f_from_slice(&bytes)?.f_view(shape)?,
            vertical,
            horizontal,
            params: params.cloned().collect(),
        })
    }
}

// === impl Taps ===

impl Taps {
    /// Of crops of these lengths, mirrored or not.
    fn of(
        spec: &AugmentSpec,
        longest: usize,
        crops: impl Iterator<Item = (usize, bool)>,
    ) -> Result<Self, TchError> {
        let side = spec.image_size as usize;
        let axes: Vec<_> = crops
            .map(|(length, flip)| axis(spec.resampling(), length, side, flip))
            .collect();
        let taps = axes.iter().map(|axis| axis.taps).max().unwrap_or(0);
        let shape = [axes.len(), side, taps];
        let mut index = Vec::with_capacity(shape.iter().product());
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
        let shape = shape.map(|length| length as i64);
        Ok(Self {
            index: Tensor::f_from_slice(&index)?.f_view(shape)?,
            weight: Tensor::f_from_slice(&weight)?.f_view(shape)?,
            length: longest as i64,
        })
    }

    /// As matrices `[n, side, length]` on a device, which turn a source into a view.
    pub(super) fn matrices(&self, device: Device) -> Result<Tensor, TchError> {
        let size = self.index.size();
        let mut matrices = Tensor::f_zeros([size[0], size[1], self.length], (Kind::Float, device))?;
        let (index, weight) = (
            self.index.f_to_device(device)?,
            self.weight.f_to_device(device)?,
        );
        matrices.f_scatter_add_(2, &index, &weight)
    }
}

/// Height and width that hold all of them.
fn size<'a>(crops: impl Iterator<Item = &'a (usize, Crop)>) -> (usize, usize) {
    crops.fold((0, 0), |(height, width), (_, crop)| {
        let cut = crop.params.crop;
        (height.max(cut.height), width.max(cut.width))
    })
}
