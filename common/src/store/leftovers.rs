//! What a writer that was killed half-way leaves beside objects. On a disk that are staged files; a bucket keeps
//! unfinished uploads out of sight, and a life-cycle rule of its own ends them.

use std::io;
use std::path::Path;

use super::StoreError;

/// Removes the staged files below a `file://` folder of writers that are dead, and the folders that nothing else is in.
/// Folders of other stores hold no such files.
///
/// # Errors
/// [`StoreError::Failed`] where a folder cannot be read or something in it not removed.
pub async fn remove_leftovers(url: &str, folder: &str) -> Result<(), StoreError> {
    let Some(place) = super::local_path(url) else {
        return Ok(());
    };
    let place = place.join(folder);
    let failed = |reason: String| StoreError::Failed {
        key: folder.to_owned(),
        reason,
    };
    let removed = tokio::task::spawn_blocking(move || remove(&place)).await;
    removed
        .map_err(|error| failed(error.to_string()))?
        .map(drop)
        .map_err(|error| failed(error.to_string()))
}

/// Whether the folder is gone.
fn remove(folder: &Path) -> io::Result<bool> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        entries => entries?,
    };
    let mut empty = true;
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            empty &= remove(&entry.path())?;
        } else if is_staged(&entry.file_name().to_string_lossy()) {
            std::fs::remove_file(entry.path())?;
        } else {
            empty = false;
        }
    }
    if empty {
        std::fs::remove_dir(folder)?;
    }
    Ok(empty)
}

/// object_store writes `name#1`, `name#2`, … and renames when all is there.
fn is_staged(name: &str) -> bool {
    name.rsplit_once('#').is_some_and(|(_, number)| {
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}
