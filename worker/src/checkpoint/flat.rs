//! One flat buffer that a part of the state is copied into while training waits, and that is the object itself:
//! a safetensors file, header first, so that nothing is assembled or copied afterwards.

use std::collections::HashMap;

use diptych_common::checkpoint::{Dtype, Role, TensorMeta, shard};
use rayon::prelude::*;
use tch::{Kind, Tensor};

use crate::device::fetch;
use crate::phase::PhaseError;
use crate::project::{NamedTensor, StateRole};

/// Bytes that one thread copies at a time.
const PIECE: usize = 1 << 20;

/// Where everything is in a safetensors file.
#[derive(Debug, Clone, PartialEq)]
pub struct FileLayout {
    header: Vec<u8>,
    places: Vec<Place>,
}

/// Where a tensor's bytes are in a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    /// Name of the tensor.
    pub name: String,
    /// Bytes of one element.
    pub element: usize,
    /// Dimensions.
    pub shape: Vec<i64>,
    /// Start of its bytes after the file's header.
    pub start: usize,
    /// End of its bytes after the file's header.
    pub end: usize,
}

/// A safetensors file of fixed layout in memory, refilled at each save.
#[derive(Debug)]
pub struct FlatFile {
    layout: FileLayout,
    memory: Vec<u8>,
    reorders: Vec<Reorder>,
}

/// A tensor that was copied as it lies in memory, channels last.
#[derive(Debug, Clone, Copy)]
struct Reorder {
    place: usize,
    channels: usize,
    pixels: usize,
}

/// A piece of memory to copy.
struct Piece<'a> {
    from: &'a [u8],
    to: &'a mut [u8],
}

/// What a checkpoint says about the tensors of a state.
///
/// # Errors
/// Refuses types that no state has.
pub fn describe(state: &[NamedTensor]) -> Result<Vec<TensorMeta>, PhaseError> {
    let describe = |tensor: &NamedTensor| {
        let dtype = match tensor.tensor.kind() {
            Kind::Float => Dtype::F32,
            Kind::Double => Dtype::F64,
            Kind::BFloat16 => Dtype::BF16,
            Kind::Int64 => Dtype::I64,
            other => {
                return Err(PhaseError::Internal(format!(
                    "{} has type {other:?}",
                    tensor.name
                )));
            }
        };
        let role = match tensor.role {
            StateRole::Weight => Role::Weight,
            StateRole::Statistic => Role::Statistic,
            StateRole::Momentum => Role::Momentum,
            StateRole::Average => Role::Average,
            StateRole::Queue => Role::Queue,
            StateRole::State => Role::State,
        };
        let shape = tensor.tensor.size().iter().map(|dim| *dim as u64).collect();
        Ok(TensorMeta {
            name: tensor.name.clone(),
            dtype,
            shape,
            role,
        })
    };
    state.iter().map(describe).collect()
}

/// The bytes of a CPU tensor that leaves no gaps, in the order in which they lie.
fn bytes_of(tensor: &Tensor) -> &[u8] {
    let size = tensor.numel() * tensor.kind().elt_size_in_bytes();
    if size == 0 {
        return &[];
    }
    // SAFETY: the callers pass CPU tensors that are contiguous or channels-last contiguous, so their `size` bytes lie
    // together from `data_ptr`; they are plain numbers, valid as bytes, and live as long as the borrow of `tensor`.
    unsafe { std::slice::from_raw_parts(tensor.data_ptr() as *const u8, size) }
}

/// (channels, pixels) of a four-dimensional tensor that lies channels-last without gaps.
fn channels_last(tensor: &Tensor) -> Option<(usize, usize)> {
    let &[_, channels, height, width] = tensor.size().as_slice() else {
        return None;
    };
    let strides = [channels * height * width, 1, channels * width, channels];
    (tensor.stride() == strides).then_some((channels as usize, (height * width) as usize))
}

// === impl FileLayout ===

impl FileLayout {
    /// A file that holds these tensors, in the order that manifests list them in.
    pub fn new(tensors: &[&TensorMeta]) -> Self {
        let (mut places, mut header) = (Vec::new(), serde_json::Map::new());
        for (tensor, range) in shard::layout(tensors) {
            let entry = serde_json::json!({ "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": range });
            header.insert(tensor.name.clone(), entry);
            let [start, end] = range.map(|offset| offset as usize);
            places.push(Place {
                name: tensor.name.clone(),
                element: tensor.dtype.size() as usize,
                shape: tensor.shape.iter().map(|dim| *dim as i64).collect(),
                start,
                end,
            });
        }
        let mut text = serde_json::Value::Object(header).to_string();
        text.extend(std::iter::repeat_n(
            ' ',
            text.len().next_multiple_of(8) - text.len(),
        ));
        let mut header = (text.len() as u64).to_le_bytes().to_vec();
        header.extend_from_slice(text.as_bytes());
        Self { header, places }
    }

    /// Bytes of the whole file.
    pub fn size(&self) -> usize {
        self.header.len() + self.places.last().map_or(0, |place| place.end)
    }
}

// === impl FlatFile ===

impl FlatFile {
    /// A file of this layout, its memory touched, so that the first snapshot pays for no page faults.
    pub fn new(layout: FileLayout) -> Self {
        let mut memory = vec![1; layout.size()];
        memory[..layout.header.len()].copy_from_slice(&layout.header);
        Self {
            layout,
            memory,
            reorders: Vec::new(),
        }
    }

    /// Copies the layout's tensors out of a state; their own memory order is kept, so that training waits for a plain
    /// copy only. [`FlatFile::finish`] puts it right.
    ///
    /// # Errors
    /// Fails where the state lacks a tensor of the layout.
    pub fn fill(&mut self, state: &[NamedTensor]) -> Result<(), PhaseError> {
        let by_name: HashMap<&str, &Tensor> = state
            .iter()
            .map(|tensor| (tensor.name.as_str(), &tensor.tensor))
            .collect();
        let find = |place: &Place| {
            let found = by_name.get(place.name.as_str()).copied();
            found.filter(|tensor| {
                tensor.size() == place.shape && tensor.kind().elt_size_in_bytes() == place.element
            })
        };
        let tensors: Option<Vec<&Tensor>> = self.layout.places.iter().map(find).collect();
        let tensors = tensors.ok_or_else(|| {
            PhaseError::Internal("the state's tensors changed since the last save".to_owned())
        })?;
        self.reorders.clear();
        let detached: Vec<Tensor> = tensors
            .iter()
            .map(|tensor| tensor.f_detach())
            .collect::<Result<_, _>>()?;
        let mut dense = Vec::with_capacity(tensors.len());
        for (place, tensor) in fetch(&detached)?.into_iter().enumerate() {
            match channels_last(&tensor).filter(|_| !tensor.is_contiguous()) {
                Some((channels, pixels)) => {
                    self.reorders.push(Reorder {
                        place,
                        channels,
                        pixels,
                    });
                    dense.push(tensor);
                }
                None => dense.push(tensor.f_contiguous()?),
            }
        }
        let (_, mut rest) = self.memory.split_at_mut(self.layout.header.len());
        let mut pieces = Vec::new();
        for tensor in &dense {
            for from in bytes_of(tensor).chunks(PIECE) {
                let (to, after) = rest.split_at_mut(from.len());
                rest = after;
                pieces.push(Piece { from, to });
            }
        }
        pieces
            .into_par_iter()
            .for_each(|piece| piece.to.copy_from_slice(piece.from));
        Ok(())
    }

    /// The whole file, every tensor in row-major order. [`FlatFile::reuse`] takes the memory back.
    pub fn finish(mut self) -> (FileLayout, Vec<u8>) {
        let data = self.layout.header.len();
        for reorder in &self.reorders {
            let place = &self.layout.places[reorder.place];
            let size = place.element;
            let bytes = &mut self.memory[data + place.start..data + place.end];
            let pixels_first = bytes.to_vec();
            let filter = reorder.channels * reorder.pixels * size;
            for (to, from) in bytes
                .chunks_exact_mut(filter)
                .zip(pixels_first.chunks_exact(filter))
            {
                transpose(from, to, reorder.channels, size);
            }
        }
        (self.layout, self.memory)
    }

    /// A file in memory that an earlier one of the same layout used.
    pub fn reuse(layout: FileLayout, memory: Vec<u8>) -> Self {
        Self {
            layout,
            memory,
            reorders: Vec::new(),
        }
    }
}

/// Rows of `columns` elements of `size` bytes to columns.
fn transpose(from: &[u8], to: &mut [u8], columns: usize, size: usize) {
    let rows = from.len() / (columns * size);
    for (index, element) in from.chunks_exact(size).enumerate() {
        let place = ((index % columns) * rows + index / columns) * size;
        to[place..place + size].copy_from_slice(element);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filled_file_reads_back_bit_for_bit() {
        tch::manual_seed(5);
        let cpu = |kind| (kind, tch::Device::Cpu);
        let state = [
            (
                "conv",
                Tensor::randn([40, 7, 7, 3], cpu(Kind::Float)).permute([0, 3, 1, 2]),
            ),
            (
                "odd",
                Tensor::randn([40, 3, 7, 7], cpu(Kind::Float)).permute([2, 3, 1, 0]),
            ),
            ("big", Tensor::randn([700, 801], cpu(Kind::Double))),
            ("none", Tensor::zeros([0], cpu(Kind::Float))),
            ("count", Tensor::from(7i64)),
        ];
        let named: Vec<NamedTensor> = state
            .iter()
            .map(|(name, tensor)| NamedTensor {
                name: (*name).to_owned(),
                role: StateRole::Weight,
                tensor: tensor.shallow_clone(),
            })
            .collect();
        let metas = describe(&named).unwrap();
        let layout = FileLayout::new(&metas.iter().collect::<Vec<_>>());
        let mut flat = FlatFile::new(layout);
        for _ in 0..2 {
            flat.fill(&named).unwrap();
            let (layout, file) = flat.finish();
            let read = safetensors::SafeTensors::deserialize(&file).unwrap();
            for (name, tensor) in &state {
                let view = read.tensor(name).unwrap();
                assert_eq!(view.data(), bytes_of(&tensor.contiguous()), "{name}");
                assert_eq!(
                    view.shape().iter().map(|n| *n as i64).collect::<Vec<_>>(),
                    tensor.size()
                );
            }
            flat = FlatFile::reuse(layout, file);
        }
        assert!(flat.fill(&named[1..]).is_err());
    }
}
