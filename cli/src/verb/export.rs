//! `checkpoint export`: objects from the job's storage to one file, every byte checked on the way.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use diptych_common::checkpoint::{
    CheckpointReader, CheckpointRef, ExportInfo, Keep, LoadError, export,
};
use diptych_common::ids::Step;
use diptych_common::store::{self, StoreError};
use diptych_common::units::Bytes;
use serde::Serialize;

use super::checkpoint::find;
use crate::args::checkpoint::{Export, FileFormat};
use crate::client::Client;
use crate::failure::{Code, Failure};
use crate::onnx;
use crate::output::{Output, Printer};
use crate::view::checkpoint::CheckpointView;

/// A written file.
#[derive(Debug, Serialize)]
pub(crate) struct Exported {
    out: PathBuf,
    bytes: u64,
    tensors: usize,
    /// Measurements of the exported network.
    results: std::collections::BTreeMap<String, f64>,
    checkpoint: CheckpointView,
}

pub(super) async fn export<W: Write>(
    client: &Client,
    args: &Export,
    out: &mut Printer<W>,
) -> Result<(), Failure> {
    let keep = if args.with_head {
        Keep::NetworkAndHead
    } else {
        Keep::Network
    };
    let checkpoint = find(client, &args.which).await?;
    let reference = reference(&checkpoint)?;
    let (objects, root) = store::open(&checkpoint.storage)?;
    let reader = CheckpointReader::open(objects, root, &reference).await?;
    let manifest = reader.manifest();
    let tensors = reader
        .load(|tensor| export::wanted(manifest, tensor, keep))
        .await?;
    let unfit =
        |error: String| Failure::new(Code::Failed, format!("{}: {error}", checkpoint.manifest));
    let file = match args.format {
        FileFormat::Safetensors => export::write(manifest, reference.digest, &tensors)
            .map_err(|error| unfit(error.to_string()))?,
        FileFormat::Onnx => {
            let info = ExportInfo::of(manifest, reference.digest, &tensors);
            onnx::encode(&info, &tensors).map_err(|error| unfit(error.to_string()))?
        }
    };
    replace(&args.out, &file).map_err(|error| {
        Failure::from(error).while_doing(&format!("write {}", args.out.display()))
    })?;
    out.print(&Exported {
        out: args.out.clone(),
        bytes: file.len() as u64,
        tensors: tensors.len(),
        results: manifest.results.clone(),
        checkpoint,
    })
}

fn reference(checkpoint: &CheckpointView) -> Result<CheckpointRef, Failure> {
    let bad = |what: &str, error: String| {
        Failure::new(
            Code::Failed,
            format!("the coordinator named a checkpoint with a bad {what}: {error}"),
        )
    };
    Ok(CheckpointRef {
        phase: checkpoint
            .phase
            .parse()
            .map_err(|error| bad("phase", format!("{error}")))?,
        manifest: checkpoint
            .manifest
            .parse()
            .map_err(|error| bad("manifest key", format!("{error}")))?,
        digest: checkpoint
            .digest
            .parse()
            .map_err(|error| bad("digest", format!("{error}")))?,
        step: Step::new(checkpoint.step),
    })
}

/// A reader of the path sees the old file or the new one, never a part.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    // Temporary files are private; a model is as readable as the folder that it is in.
    use std::os::unix::fs::PermissionsExt as _;
    file.as_file()
        .set_permissions(std::fs::Permissions::from_mode(0o644))?;
    file.persist(path)?;
    Ok(())
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let code = match error {
            StoreError::Url { .. } => Code::Invalid,
            StoreError::NotFound { .. } => Code::NotFound,
            StoreError::AlreadyExists { .. } => Code::Conflict,
            StoreError::Denied { .. } => Code::Unauthenticated,
            StoreError::Failed { .. } | StoreError::Full { .. } => Code::Unavailable,
        };
        Failure::new(code, error.to_string())
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Store(error) => Failure::from(error),
            LoadError::Missing { .. } => Failure::new(Code::NotFound, error.to_string()),
            damaged => Failure::new(Code::Failed, damaged.to_string()),
        }
    }
}

impl Output for Exported {
    fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        let CheckpointView { phase, step, .. } = &self.checkpoint;
        let size = Bytes::new(self.bytes);
        writeln!(
            out,
            "{}: {} tensors, {size}, {phase} at step {step}",
            self.out.display(),
            self.tensors
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("student.safetensors");
        replace(&path, b"old").unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(replace(&folder.path().join("missing/x"), b"").is_err());
    }
}
