//! Where a local cluster keeps its things.

use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// The state directory: `coordinator/`, `workers/`, `storage/`, `models/`, `logs/`.
#[derive(Debug)]
pub(super) struct Layout {
    dir: PathBuf,
    temporary: Option<tempfile::TempDir>,
}

impl Layout {
    /// Opens or makes the directory; without one, a temporary one.
    pub(super) fn create(dir: Option<&Path>) -> Result<Self, Failure> {
        let make = || -> std::io::Result<Self> {
            let (dir, temporary) = match dir {
                Some(dir) => {
                    std::fs::create_dir_all(dir)?;
                    (dir.canonicalize()?, None)
                }
                None => {
                    let temporary = tempfile::Builder::new()
                        .prefix("diptych-local-")
                        .tempdir()?;
                    (temporary.path().canonicalize()?, Some(temporary))
                }
            };
            for folder in ["coordinator", "workers", "storage", "logs"] {
                std::fs::create_dir_all(dir.join(folder))?;
            }
            Ok(Self { dir, temporary })
        };
        let shown = dir.unwrap_or(Path::new("a temporary directory")).display();
        make().map_err(|error| {
            Failure::from(error).while_doing(&format!("make the state directory {shown}"))
        })
    }

    /// The whole.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The coordinator's data.
    pub(super) fn coordinator(&self) -> PathBuf {
        self.dir.join("coordinator")
    }

    /// Where the coordinator writes its port.
    pub(super) fn port_file(&self) -> PathBuf {
        self.dir.join("coordinator.port")
    }

    /// A worker's data.
    pub(super) fn worker(&self, name: &str) -> PathBuf {
        self.dir.join("workers").join(name)
    }

    /// What a process prints.
    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.dir.join("logs").join(format!("{name}.log"))
    }

    /// What `${DIPTYCH_STORAGE}` stands for.
    pub(super) fn storage_url(&self) -> String {
        url::Url::from_directory_path(self.dir.join("storage"))
            .map(|url| url.as_str().trim_end_matches('/').to_owned())
            .unwrap_or_else(|()| format!("file://{}/storage", self.dir.display()))
    }

    /// Says what stays, and removes a temporary directory that nobody needs.
    pub(super) fn leave(self, keep: bool) {
        let Self { dir, temporary } = self;
        match temporary {
            Some(temporary) if !keep => {
                drop(temporary);
                eprintln!("nothing is kept; --dir DIR or --keep keeps checkpoints and logs");
            }
            Some(temporary) => {
                let _kept = temporary.keep();
                describe(&dir);
            }
            None => describe(&dir),
        }
    }
}

fn describe(dir: &Path) {
    eprintln!("checkpoints  {}", dir.join("storage").display());
    eprintln!("logs         {}", dir.join("logs").display());
    eprintln!("state        {}", dir.display());
}
