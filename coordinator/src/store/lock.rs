//! One coordinator per directory.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;

use fs4::fs_std::FileExt as _;

use super::StoreError;

/// The right to use a data directory, until it is dropped or the process ends.
#[derive(Debug)]
pub struct Lock {
    // The lock lives with the open file.
    _file: File,
}

impl Lock {
    /// Takes a directory.
    ///
    /// # Errors
    /// Another process has it; the lock file cannot be made.
    pub fn take(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join("coordinator.lock");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        let mut file = file.map_err(StoreError::file(&path))?;
        if !file.try_lock_exclusive().map_err(StoreError::file(&path))? {
            let mut owner = String::new();
            // Only for the message: an unreadable file says nothing.
            if file.read_to_string(&mut owner).is_err() || owner.trim().is_empty() {
                owner = "unknown".to_owned();
            }
            return Err(StoreError::InUse {
                dir: dir.to_owned(),
                owner: owner.trim().to_owned(),
            });
        }
        let mut write = || {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write().map_err(StoreError::file(&path))?;
        Ok(Self { _file: file })
    }
}
