//! safetensors: a JSON header, then plain bytes.

use ::safetensors::{SafeTensorError, SafeTensors};
use bytes::Bytes;

use super::{ImportError, counts_batches};
use crate::checkpoint::export::METADATA;
use crate::checkpoint::{Dtype, ExportInfo, TensorBytes, Tensors};

/// Whether a file begins as safetensors does: the length of a JSON map, then the map.
pub(super) fn starts(file: &[u8]) -> bool {
    let length = file
        .first_chunk::<8>()
        .map(|bytes| u64::from_le_bytes(*bytes));
    length.is_some_and(|length| length < file.len() as u64) && file.get(8) == Some(&b'{')
}

pub(super) fn read(file: &Bytes) -> Result<(Option<ExportInfo>, Tensors), ImportError> {
    let format = |error: SafeTensorError| ImportError::Format {
        reason: error.to_string(),
    };
    let (_, header) = SafeTensors::read_metadata(file).map_err(format)?;
    let info = header
        .metadata()
        .as_ref()
        .and_then(|metadata| metadata.get(METADATA));
    let info = info.map(|text| serde_json::from_str(text)).transpose();
    let info = info.map_err(|error| ImportError::Metadata {
        key: METADATA,
        reason: error.to_string(),
    })?;
    let mut tensors = Tensors::new();
    for (name, view) in SafeTensors::deserialize(file).map_err(format)?.iter() {
        if counts_batches(name) {
            continue;
        }
        let dtype = Dtype::try_from(view.dtype()).map_err(|dtype| ImportError::Dtype {
            name: name.to_owned(),
            dtype: format!("{dtype:?}"),
        })?;
        let shape = view.shape().iter().map(|dim| *dim as u64).collect();
        tensors.insert(
            name.to_owned(),
            TensorBytes {
                dtype,
                shape,
                bytes: file.slice_ref(view.data()),
            },
        );
    }
    Ok((info, tensors))
}
