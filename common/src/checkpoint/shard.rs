//! One rank's part of a checkpoint: a safetensors file without metadata, laid out the same for the same tensors.

use std::borrow::Cow;

use safetensors::tensor::View;

use super::{Dtype, TensorMeta};

/// Why a shard cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShardError {
    /// The bytes are not those of such a tensor.
    #[error("tensor {name}: {found} bytes for a shape that needs {expected}")]
    Size {
        /// The tensor.
        name: String,
        /// Bytes that dtype and shape need.
        expected: u64,
        /// Bytes given.
        found: u64,
    },
    /// The file cannot be laid out.
    #[error("the shard cannot be laid out: {reason}")]
    Layout {
        /// Why.
        reason: String,
    },
}

/// The order of tensors in a file and each one's byte range behind the header, as safetensors lays them out: by
/// element type, then by name.
pub fn layout<'a>(tensors: &[&'a TensorMeta]) -> Vec<(&'a TensorMeta, [u64; 2])> {
    let mut order = tensors.to_vec();
    order.sort_by(|a, b| {
        let dtype = |tensor: &TensorMeta| safetensors::Dtype::from(tensor.dtype);
        dtype(b).cmp(&dtype(a)).then(a.name.cmp(&b.name))
    });
    let mut end = 0_u64;
    let mut range = |tensor: &TensorMeta| {
        let start = end;
        end = end.saturating_add(tensor.bytes());
        [start, end]
    };
    order
        .into_iter()
        .map(|tensor| (tensor, range(tensor)))
        .collect()
}

/// Writes a file of these tensors; bytes are little-endian and contiguous.
///
/// # Errors
/// A tensor whose bytes do not fit its shape, or a name given twice.
pub fn encode(tensors: &[(&TensorMeta, &[u8])]) -> Result<Vec<u8>, ShardError> {
    let mut parts = Vec::with_capacity(tensors.len());
    for (meta, bytes) in tensors {
        let (expected, found) = (meta.bytes(), bytes.len() as u64);
        if expected != found {
            return Err(ShardError::Size {
                name: meta.name.clone(),
                expected,
                found,
            });
        }
        let shape = meta.shape.iter().map(|dim| *dim as usize).collect();
        parts.push((
            meta.name.as_str(),
            Part {
                dtype: meta.dtype,
                shape,
                bytes,
            },
        ));
    }
    safetensors::serialize(parts, None).map_err(|error| ShardError::Layout {
        reason: error.to_string(),
    })
}

/// A tensor's bytes, as the safetensors crate wants to see them.
pub(super) struct Part<'a> {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: &'a [u8],
}

impl View for Part<'_> {
    fn dtype(&self) -> safetensors::Dtype {
        self.dtype.into()
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Role;
    use super::*;

    fn meta(name: &str, dtype: Dtype, shape: &[u64]) -> TensorMeta {
        TensorMeta {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
            role: Role::Weight,
        }
    }

    #[test]
    fn the_layout_is_the_one_that_the_file_has() {
        let tensors: Vec<TensorMeta> = Dtype::ALL
            .iter()
            .enumerate()
            .flat_map(|(i, dtype)| {
                [
                    meta(&format!("b{i}"), *dtype, &[i as u64, 3]),
                    meta(&format!("a{i}"), *dtype, &[]),
                ]
            })
            .collect();
        let bytes: Vec<Vec<u8>> = tensors
            .iter()
            .map(|t| vec![7; t.bytes() as usize])
            .collect();
        let parts: Vec<(&TensorMeta, &[u8])> = tensors
            .iter()
            .zip(&bytes)
            .map(|(t, b)| (t, b.as_slice()))
            .collect();
        let file = encode(&parts).expect("encodes");
        let (_, header) = safetensors::SafeTensors::read_metadata(&file).expect("reads");
        for (tensor, range) in layout(&tensors.iter().collect::<Vec<_>>()) {
            let info = header.info(&tensor.name).expect("is there");
            assert_eq!(
                [info.data_offsets.0 as u64, info.data_offsets.1 as u64],
                range,
                "{}",
                tensor.name
            );
        }
    }

    #[test]
    fn bytes_that_do_not_fit_are_refused() {
        let tensor = meta("w", Dtype::F32, &[2]);
        assert!(matches!(
            encode(&[(&tensor, &[0; 7])]),
            Err(ShardError::Size {
                expected: 8,
                found: 7,
                ..
            })
        ));
    }
}
