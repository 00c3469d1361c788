//! All indices and weights of a batch's views go up together: two copies, whatever is done with them there.

use tch::{Device, Kind, TchError, Tensor};

/// Indices and numbers under construction.
#[derive(Debug, Default)]
pub(super) struct Lists {
    indices: Vec<i64>,
    numbers: Vec<f32>,
}

/// The same as tensors, one of i64 and one of f32, on the host or on a device.
#[derive(Debug)]
pub(super) struct Tables {
    indices: Tensor,
    numbers: Tensor,
}

/// A part of the indices.
#[derive(Debug, Clone, Copy)]
pub(super) struct Indices(Part);

/// A part of the numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Numbers(Part);

#[derive(Debug, Clone, Copy)]
struct Part {
    start: i64,
    length: i64,
}

// === impl Lists ===

impl Lists {
    pub(super) fn indices(&mut self, values: impl IntoIterator<Item = i64>) -> Indices {
        Indices(append(&mut self.indices, values))
    }

    pub(super) fn numbers(&mut self, values: impl IntoIterator<Item = f32>) -> Numbers {
        Numbers(append(&mut self.numbers, values))
    }

    pub(super) fn into_tables(self) -> Result<Tables, TchError> {
        Ok(Tables {
            indices: Tensor::f_from_slice(&self.indices)?,
            numbers: Tensor::f_from_slice(&self.numbers)?,
        })
    }
}

fn append<T>(list: &mut Vec<T>, values: impl IntoIterator<Item = T>) -> Part {
    let start = list.len();
    list.extend(values);
    Part {
        start: start as i64,
        length: (list.len() - start) as i64,
    }
}

// === impl Indices ===

impl Indices {
    pub(super) fn is_empty(self) -> bool {
        self.0.length == 0
    }
}

// === impl Tables ===

impl Tables {
    pub(super) fn moved(
        self,
        moved: &impl Fn(&Tensor) -> Result<Tensor, TchError>,
    ) -> Result<Self, TchError> {
        Ok(Self {
            indices: moved(&self.indices)?,
            numbers: moved(&self.numbers)?,
        })
    }

    /// Copies on a device. From pinned memory the host does not wait.
    pub(super) fn on(&self, device: Device) -> Result<Self, TchError> {
        let up = |table: &Tensor, kind| table.f_to_device_(device, kind, true, false);
        Ok(Self {
            indices: up(&self.indices, Kind::Int64)?,
            numbers: up(&self.numbers, Kind::Float)?,
        })
    }

    pub(super) fn indices(&self, part: Indices, shape: &[i64]) -> Result<Tensor, TchError> {
        view(&self.indices, part.0, shape)
    }

    pub(super) fn numbers(&self, part: Numbers, shape: &[i64]) -> Result<Tensor, TchError> {
        view(&self.numbers, part.0, shape)
    }
}

fn view(table: &Tensor, part: Part, shape: &[i64]) -> Result<Tensor, TchError> {
    table.f_narrow(0, part.start, part.length)?.f_view(shape)
}
