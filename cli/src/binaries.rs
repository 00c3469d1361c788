//! The other programs of Diptych: named by the environment, beside this one, or in PATH.

use std::path::{Path, PathBuf};

use crate::context::Environment;
use crate::failure::{Code, Failure};

/// A program that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program(PathBuf);

/// What `local` starts.
#[derive(Debug, Clone)]
pub(crate) struct Binaries {
    pub(crate) coordinator: Program,
    pub(crate) worker: Program,
}

impl Program {
    /// The worker, which holds libtorch.
    pub(crate) fn worker(environment: &Environment) -> Result<Self, Failure> {
        Self::find("diptych-worker", "DIPTYCH_WORKER", environment)
    }

    /// The coordinator, which knows its database.
    pub(crate) fn coordinator(environment: &Environment) -> Result<Self, Failure> {
        Self::find("diptych-coordinator", "DIPTYCH_COORDINATOR", environment)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    fn find(name: &str, variable: &str, environment: &Environment) -> Result<Self, Failure> {
        if let Some(path) = environment.get(variable) {
            let path = PathBuf::from(path);
            let missing = || {
                Failure::new(
                    Code::NotFound,
                    format!("{variable} names {}, which is no file", path.display()),
                )
            };
            return if path.is_file() {
                Ok(Self(path))
            } else {
                Err(missing())
            };
        }
        let beside = std::env::current_exe()
            .ok()
            .and_then(|exe| exe.parent().map(Path::to_owned));
        let in_path = environment.get("PATH").map(std::env::split_paths);
        beside
            .into_iter()
            .chain(in_path.into_iter().flatten())
            .map(|folder| folder.join(name))
            .find(|path| path.is_file())
            .map(Self)
            .ok_or_else(|| {
                let hint = format!("install it there, or name it in {variable}");
                Failure::new(
                    Code::NotFound,
                    format!("{name} is neither beside this program nor in PATH; {hint}"),
                )
            })
    }
}

impl Binaries {
    /// Finds all of them.
    pub(crate) fn find(environment: &Environment) -> Result<Self, Failure> {
        Ok(Self {
            coordinator: Program::coordinator(environment)?,
            worker: Program::worker(environment)?,
        })
    }
}
