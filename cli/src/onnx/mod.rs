//! An export as an ONNX file, for serving without this program: images in [0, 1] in, features and logits out.
//!
//! Opset 17, IR version 8; the batch is free, the image is of the size that the network was trained for. Class names,
//! preprocessing and where the network comes from are in the file's metadata.

mod schema; // the file format
mod graph; // nodes and constants
mod network; // layers as nodes

use diptych_common::checkpoint::{ExportInfo, Tensors};
use prost::Message as _;

use schema::{ModelProto, OperatorSetIdProto, StringStringEntryProto};

/// Operators of this version, which onnxruntime ≥ 1.12 and every later one knows.
const OPSET: i64 = 17;
/// The file format that came with it.
const IR_VERSION: i64 = 8;
/// A protobuf message has at most 2 GiB; names and nodes need far less than the rest.
const MOST_BYTES: usize = (1 << 31) - (1 << 24);

/// Why a network has no ONNX file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OnnxError {
    /// A tensor that the network has is not in the checkpoint.
    #[error("tensor {0} is missing")]
    Missing(String),
    /// Numbers that no network here has.
    #[error("tensor {name} has elements of type {dtype}; float32 or float64 is needed")]
    Dtype {
        /// The tensor.
        name: String,
        /// Its type.
        dtype: String,
    },
    /// Too large for one message.
    #[error(
        "its weights take {bytes} bytes, and an ONNX file holds at most 2 GiB: export it as safetensors, or a smaller \
         student"
    )]
    Size {
        /// Bytes of all tensors.
        bytes: usize,
    },
    /// The description cannot be written as text.
    #[error("describe the network: {0}")]
    Description(String),
}

/// The bytes of the file.
pub(crate) fn encode(info: &ExportInfo, tensors: &Tensors) -> Result<Vec<u8>, OnnxError> {
    let bytes: usize = tensors.values().map(|tensor| tensor.bytes.len()).sum();
    if bytes > MOST_BYTES {
        return Err(OnnxError::Size { bytes });
    }
    Ok(model(info, tensors)?.encode_to_vec())
}

fn model(info: &ExportInfo, tensors: &Tensors) -> Result<ModelProto, OnnxError> {
    let side = info.preprocessing.image_size;
    let describe = |error: serde_json::Error| OnnxError::Description(error.to_string());
    let mut entries = vec![
        ("diptych", serde_json::to_string(info).map_err(describe)?),
        (
            "preprocessing",
            serde_json::to_string(&info.preprocessing).map_err(describe)?,
        ),
    ];
    if let Some(classifier) = &info.network.classifier {
        let names = serde_json::to_string(&classifier.classes).map_err(describe)?;
        entries.push(("class_names", names));
    }
    let entry = |(key, value): (&str, String)| StringStringEntryProto {
        key: key.to_owned(),
        value,
    };
    Ok(ModelProto {
        ir_version: IR_VERSION,
        opset_import: vec![OperatorSetIdProto {
            domain: String::new(),
            version: OPSET,
        }],
        producer_name: "diptych".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        doc_string: format!(
            "images [batch, 3, {side}, {side}]: RGB in [0, 1], prepared as the metadata `preprocessing` says"
        ),
        graph: Some(network::graph(&info.network, tensors, side)?),
        metadata_props: entries.into_iter().map(entry).collect(),
    })
}

#[cfg(test)]
mod tests;
