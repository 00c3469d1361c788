//! Views written straight into the tensors that the network reads.

use diptych_images::shard::SampleId;
use tch::{Device, Kind, TchError, Tensor};

use super::layout::Row;
use super::views::Crops;
use crate::device::pinned_room;

/// Rows that are on the device together.
#[derive(Debug)]
pub struct RowBatch {
    /// What each row is; `[group][view][lane, j]`, see [`Layout`](super::Layout).
    pub rows: Vec<Row>,
    /// The sample behind each row: the next good one where the ordered one was bad.
    pub samples: Vec<SampleId>,
    /// What becomes the rows' images.
    pub images: Images,
    /// `[rows]` of i64, where the data has labels.
    pub labels: Option<Tensor>,
}

/// The images of a batch as they leave the loader.
#[derive(Debug)]
pub enum Images {
    /// `[rows, 3, S, S]` of f32 in [0, 1].
    Views(Tensor),
    /// What becomes the same on the device.
    Crops(Crops),
}

/// Images under construction: a tensor of floats on the CPU that nothing else refers to.
#[derive(Debug)]
pub(super) struct Pixels {
    tensor: Tensor,
    rows: usize,
    side: usize,
}

impl RowBatch {
    /// What goes up to the device, moved.
    ///
    /// # Errors
    /// Those of `moved`.
    pub fn moved(
        self,
        moved: &impl Fn(&Tensor) -> Result<Tensor, TchError>,
    ) -> Result<Self, TchError> {
        Ok(Self {
            images: match self.images {
                Images::Views(views) => Images::Views(moved(&views)?),
                Images::Crops(crops) => Images::Crops(crops.moved(moved)?),
            },
            labels: self.labels.as_ref().map(moved).transpose()?,
            ..self
        })
    }
}

impl Images {
    /// The views on a device, of f32; made there where they are not yet.
    ///
    /// # Errors
    /// Out of memory.
    pub fn views(&self, device: Device) -> Result<Tensor, TchError> {
        match self {
            Self::Views(views) => views.f_to_device_(device, Kind::Float, true, false),
            Self::Crops(crops) => crops.render(device),
        }
    }
}

impl Pixels {
    /// Room for `rows` images of `side` × `side` pixels, of any content; pinned where a CUDA device is to read it.
    ///
    /// # Errors
    /// Out of memory.
    pub(super) fn new(rows: usize, side: usize, pinned: bool) -> Result<Self, TchError> {
        let shape = [rows as i64, 3, side as i64, side as i64];
        let tensor = match pinned {
            true => pinned_room(shape.iter().product())?.f_view(shape)?,
            false => Tensor::f_empty(shape, (Kind::Float, Device::Cpu))?,
        };
        Ok(Self { tensor, rows, side })
    }

    /// One slice of `3 · side²` floats per row.
    pub(super) fn rows_mut(&mut self) -> impl Iterator<Item = &mut [f32]> {
        let row = 3 * self.side * self.side;
        // SAFETY: the tensor was made above as contiguous 32-bit floats on the CPU, `rows · row` of them, which any bits
        // are; its storage
        // is shared with no other tensor until `into_tensor` takes `self`; and the borrow of `self` makes this the only
        // slice of it.
        let all = unsafe {
            std::slice::from_raw_parts_mut(self.tensor.data_ptr().cast::<f32>(), self.rows * row)
        };
        all.chunks_exact_mut(row.max(1))
    }

    /// The finished images, without a copy.
    pub(super) fn into_tensor(self) -> Tensor {
        self.tensor
    }
}

/// `[rows]` of i64, or nothing where a sample has no label.
pub(super) fn labels(labels: &[Option<u32>]) -> Option<Tensor> {
    let known: Option<Vec<i64>> = labels.iter().map(|label| label.map(i64::from)).collect();
    known.map(|known| Tensor::from_slice(&known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_written_in_place() {
        let mut pixels = Pixels::new(3, 2, false).expect("room");
        for (row, values) in pixels.rows_mut().enumerate() {
            assert_eq!(values.len(), 12);
            values.fill(row as f32);
        }
        let tensor = pixels.into_tensor();
        assert_eq!(tensor.size(), [3, 3, 2, 2]);
        let sums: Vec<f32> =
            Vec::try_from(tensor.sum_dim_intlist([1i64, 2, 3].as_slice(), false, Kind::Float))
                .expect("three sums");
        assert_eq!(sums, [0.0, 12.0, 24.0]);
    }

    #[test]
    fn labels_are_all_there_or_none() {
        assert!(labels(&[Some(1), None]).is_none());
        let tensor = labels(&[Some(1), Some(4)]).expect("labelled");
        assert_eq!(Vec::<i64>::try_from(tensor).expect("two labels"), [1, 4]);
    }
}
