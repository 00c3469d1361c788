//! Tensors out of checkpoints and imported files; nothing unverified comes through.

use std::collections::BTreeMap;
use std::sync::Arc;

use diptych_common::checkpoint::{
    CheckpointReader, CheckpointRef, Dtype, LoadError, Manifest, TensorBytes, TensorEntry, Tensors,
};
use diptych_common::import::{self, ImportError, Imported};
use tch::{Kind, Tensor};

use super::saver::Storage;
use crate::phase::PhaseError;

/// A checkpoint in memory.
#[derive(Debug)]
pub struct Loaded {
    /// What it says about itself.
    pub manifest: Manifest,
    /// The tensors that were asked for.
    pub tensors: BTreeMap<String, Tensor>,
}

/// Loads the tensors of a checkpoint that `wanted` picks; sizes and hashes are checked.
///
/// # Errors
/// [`PhaseError::BadCheckpoint`] with the damaged object, [`PhaseError::Storage`] where the store fails.
pub fn load(
    storage: &Storage,
    checkpoint: &CheckpointRef,
    wanted: impl Fn(&TensorEntry) -> bool,
) -> Result<Loaded, PhaseError> {
    let (store, root) = storage.parts();
    let bad = |error: LoadError| match error {
        LoadError::Store(error) => PhaseError::Storage(error.to_string()),
        damage => PhaseError::bad_checkpoint(&checkpoint.manifest, damage),
    };
    runtime()?.block_on(async {
        let reader = CheckpointReader::open(Arc::clone(store), root.clone(), checkpoint)
            .await
            .map_err(bad)?;
        let tensors = to_tensors(&reader.load(wanted).await.map_err(bad)?)?;
        Ok(Loaded {
            manifest: reader.manifest().clone(),
            tensors,
        })
    })
}

/// Reads an export, or another program's weights.
///
/// # Errors
/// [`PhaseError::Storage`] where it cannot be read, [`PhaseError::BadCheckpoint`] where it is no such file.
pub fn import(url: &str) -> Result<Imported, PhaseError> {
    let read = runtime()?.block_on(import::open(url));
    read.map_err(|error| match error {
        ImportError::Store(error) => PhaseError::from(error),
        ImportError::Machine(_) => PhaseError::Storage(format!("{url}: {error}")),
        other => PhaseError::bad_checkpoint(url, other),
    })
}

/// The same numbers as libtorch's tensors.
///
/// # Errors
/// Fails only where libtorch does.
pub fn to_tensors(tensors: &Tensors) -> Result<BTreeMap<String, Tensor>, PhaseError> {
    let convert = |(name, tensor): (&String, &TensorBytes)| {
        let shape: Vec<i64> = tensor.shape.iter().map(|dim| *dim as i64).collect();
        Ok((
            name.clone(),
            Tensor::f_from_data_size(&tensor.bytes, &shape, kind_of(tensor.dtype))?,
        ))
    };
    tensors.iter().map(convert).collect()
}

fn kind_of(dtype: Dtype) -> Kind {
    match dtype {
        Dtype::U8 => Kind::Uint8,
        Dtype::I32 => Kind::Int,
        Dtype::I64 => Kind::Int64,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::F32 => Kind::Float,
        Dtype::F64 => Kind::Double,
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, PhaseError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| PhaseError::Internal(format!("start the reading runtime: {error}")))
}
