//! Weights that another program, or another job, left: bytes → tensors → our names → a network → the one asked for.
//!
//! Nothing in a file is executed, and nothing in it is believed: what a file holds is read off the names and shapes of
//! its tensors.

mod safetensors; // bytes → tensors: safetensors
mod torch; // bytes → tensors: what torch.save wrote
pub mod scheme; // tensors → our names, by tables
pub mod form; // names and shapes → the network that they form
pub mod fit; // that network against the one that is asked for

use std::path::Path;

use bytes::Bytes;

use crate::checkpoint::{Classifier, ExportInfo, NetworkDescription, Tensors};
use crate::store::{self, StoreError};

pub use fit::Misfit;
pub use form::Form;
pub use scheme::Scheme;

/// A file that was read.
#[derive(Debug, Clone)]
pub struct Imported {
    /// What it says about itself; `None` for files of other programs.
    pub info: Option<ExportInfo>,
    /// Whose names its tensors had.
    pub scheme: Scheme,
    /// Its tensors by our names, without `num_batches_tracked`. One that has no place in a network here keeps its name.
    pub tensors: Tensors,
}

impl Imported {
    /// The network that it holds: by its own word, or by its tensors. Classes without names are numbered. `None` where
    /// its tensors form no whole encoder.
    pub fn network(&self) -> Option<NetworkDescription> {
        if let Some(info) = &self.info {
            return Some(info.network.clone());
        }
        let form = Form::of(&self.tensors, &self.scheme.usual());
        let numbered = |classes| (0..classes).map(|class: u32| class.to_string()).collect();
        Some(NetworkDescription {
            encoder: form.encoder?,
            head: form.head,
            classifier: form.classes.map(|classes| Classifier {
                classes: numbered(classes),
                head_layer: 0,
            }),
        })
    }
}

/// Why a file cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Neither safetensors nor what `torch.save` writes, or damaged.
    #[error("neither a whole safetensors file nor one of torch.save: {reason}")]
    Format {
        /// What the parsers said.
        reason: String,
    },
    /// It holds a Python object that is neither a tensor nor plain data.
    #[error(
        "holds a Python object `{global}`, and only tensors are read: nothing of it was executed. Save the tensors \
         alone, torch.save(model.state_dict(), …), or write safetensors"
    )]
    Foreign {
        /// The global that the file names, e.g. `argparse.Namespace`.
        global: String,
    },
    /// An element type that no network here has.
    #[error("tensor {name} has elements of type {dtype}, which is not supported")]
    Dtype {
        /// The tensor.
        name: String,
        /// Its type.
        dtype: String,
    },
    /// Views of one storage that stand for far more numbers than the file holds.
    #[error(
        "its tensors would take {claimed} bytes, the file has {size}: it is damaged or made to fill memory"
    )]
    Inflated {
        /// Bytes of all tensors.
        claimed: u64,
        /// Bytes of the file.
        size: u64,
    },
    /// The description in it is damaged.
    #[error("its metadata `{key}` is malformed: {reason}")]
    Metadata {
        /// The key.
        key: &'static str,
        /// What the parser said.
        reason: String,
    },
    /// Tensors of no network that is known here.
    #[error(
        "its tensors have the names of no network that is known here (torchvision's or timm's ResNets, the PyTorch \
         conversions of SimCLR v1 and v2, exports of Diptych): {}", some(.names)
    )]
    Unknown {
        /// All its names.
        names: Vec<String>,
    },
    /// It cannot be fetched.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The machine failed, not the file.
    #[error("cannot be read on this machine: {0}")]
    Machine(#[from] std::io::Error),
}

/// Fetches and reads a file by its URL.
///
/// # Errors
/// As [`read`], and [`ImportError::Store`] where it cannot be fetched.
pub async fn open(url: &str) -> Result<Imported, ImportError> {
    let (store, key) = store::open(url)?;
    let file = store::get(&*store, &key).await?;
    read(&file, store::local_path(url).as_deref())
}

/// Reads an export, or another program's file: safetensors, or what `torch.save` wrote. `file` is the whole of it, and
/// `path` where it is, if it is on this machine.
///
/// # Errors
/// A file of another format, with anything but tensors and plain data in it, or with tensors of no known network.
pub fn read(file: &Bytes, path: Option<&Path>) -> Result<Imported, ImportError> {
    let (info, tensors) = tensors(file, path)?;
    if info.is_some() {
        return Ok(Imported {
            info,
            scheme: Scheme::Diptych,
            tensors,
        });
    }
    let Some(naming) = scheme::Naming::of(tensors.keys()) else {
        return Err(ImportError::Unknown {
            names: tensors.into_keys().collect(),
        });
    };
    Ok(Imported {
        info,
        scheme: naming.scheme,
        tensors: naming.translate(tensors),
    })
}

/// Every tensor of a file under the file's own names, without `num_batches_tracked`, and what it says about itself.
///
/// # Errors
/// As [`read`], save that any names will do.
pub fn tensors(
    file: &Bytes,
    path: Option<&Path>,
) -> Result<(Option<ExportInfo>, Tensors), ImportError> {
    if safetensors::starts(file) {
        return safetensors::read(file);
    }
    let tensors = match path {
        Some(path) => torch::read(path)?,
        None => {
            // The reader seeks in a file.
            let copy = tempfile::NamedTempFile::new()?;
            std::fs::write(copy.path(), file)?;
            torch::read(copy.path())?
        }
    };
    Ok((None, tensors))
}

/// PyTorch's count of batches, which nothing here needs.
fn counts_batches(name: &str) -> bool {
    name.ends_with("num_batches_tracked")
}

fn some(names: &[String]) -> String {
    const SHOWN: usize = 6;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 if names.is_empty() => "it holds no tensor".to_owned(),
        0 => format!("it holds {shown}"),
        more => format!("it holds {shown} and {more} more"),
    }
}
