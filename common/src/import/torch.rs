//! What `torch.save` wrote: a pickle that refers to storages. The reader interprets the calls that rebuild tensors and
//! plain containers, and executes nothing; here, whatever else the pickle names is refused by name.

use std::path::Path;

use pytorch_reader::{DType, PickleValue, PytorchError, PytorchReader};

use super::{ImportError, counts_batches};
use crate::checkpoint::{Dtype, TensorBytes, Tensors};

/// Names may share storages, so tensors may be larger than the file, but not without bound.
const SHARED: u64 = 4;

/// Tensors by their path through the file's dictionaries, e.g. `state_dict.conv1.weight`: contiguous, whatever views
/// they were.
pub(super) fn read(path: &Path) -> Result<Tensors, ImportError> {
    let plain = PytorchReader::read_pickle_data(path, None).map_err(format)?;
    if let Some(global) = foreign(&plain) {
        return Err(ImportError::Foreign { global });
    }
    let reader = PytorchReader::new(path).map_err(format)?;
    let size = std::fs::metadata(path)?.len();
    let sizes = reader
        .tensors()
        .values()
        .map(|tensor| tensor.byte_len() as u64);
    let claimed = sizes.fold(0, u64::saturating_add);
    if claimed > size.saturating_mul(SHARED) {
        return Err(ImportError::Inflated { claimed, size });
    }
    let mut tensors = Tensors::new();
    for (name, tensor) in reader.into_tensors() {
        if counts_batches(&name) {
            continue;
        }
        let Some(dtype) = dtype(tensor.dtype()) else {
            let dtype = format!("{:?}", tensor.dtype());
            return Err(ImportError::Dtype { name, dtype });
        };
        let bytes = tensor.read().map_err(|error| ImportError::Format {
            reason: error.to_string(),
        })?;
        let shape = tensor.shape().iter().map(|dim| *dim as u64).collect();
        tensors.insert(
            name,
            TensorBytes {
                dtype,
                shape,
                bytes: bytes.into(),
            },
        );
    }
    Ok(tensors)
}

fn format(error: PytorchError) -> ImportError {
    ImportError::Format {
        reason: error.to_string(),
    }
}

/// The first object that is neither a tensor nor plain data.
fn foreign(value: &PickleValue) -> Option<String> {
    match value {
        PickleValue::Unsupported(global) => (global != "torch.Tensor").then(|| global.clone()),
        PickleValue::List(values) => values.iter().find_map(foreign),
        PickleValue::Dict(values) => values.values().find_map(foreign),
        _ => None,
    }
}

fn dtype(dtype: DType) -> Option<Dtype> {
    match dtype {
        DType::F64 => Some(Dtype::F64),
        DType::F32 => Some(Dtype::F32),
        DType::F16 => Some(Dtype::F16),
        DType::BF16 => Some(Dtype::BF16),
        DType::I64 => Some(Dtype::I64),
        DType::I32 => Some(Dtype::I32),
        DType::U8 => Some(Dtype::U8),
        DType::I16 | DType::I8 | DType::U64 | DType::U32 | DType::U16 | DType::Bool => None,
    }
}
