//! What can go wrong with the data directory.

use std::path::PathBuf;

use diptych_common::ids::JobId;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another coordinator has the directory.
    #[error("{} is in use by another coordinator (process {owner}); stop it, or choose another data directory", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// Its process id, as far as it is known.
        owner: String,
    },
    /// A file or folder cannot be made, read or written.
    #[error("{}: {error}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// SQLite refuses.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    /// The database is of a newer coordinator, or damaged.
    #[error("database schema: {0}; was it written by a newer coordinator?")]
    Schema(#[from] sqlx::migrate::MigrateError),
    /// This kind of store cannot be copied.
    #[error("this store is no database that could be copied")]
    NoCopy,
    /// A file that should be a backup is none.
    #[error("{} is no backup of a coordinator: {problem}", path.display())]
    NoBackup {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A database is in the place of the one to restore.
    #[error("{} holds a database already; --force puts it aside (it is kept beside the new one)", dir.display())]
    Occupied {
        /// The data directory.
        dir: PathBuf,
    },
    /// A row does not make sense.
    #[error("database, job {job}: {problem}")]
    Row {
        /// Whose.
        job: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl StoreError {
    pub(super) fn file(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |error| Self::File {
            path: path.to_owned(),
            error,
        }
    }

    pub(super) fn deletion(problem: serde_json::Error) -> Self {
        Self::Row {
            job: "none (a deletion)".to_owned(),
            problem: problem.to_string(),
        }
    }

    pub(super) fn worker(problem: serde_json::Error) -> Self {
        Self::Row {
            job: "none (a worker)".to_owned(),
            problem: problem.to_string(),
        }
    }

    pub(super) fn row(job: &JobId, problem: impl ToString) -> Self {
        Self::Row {
            job: job.to_string(),
            problem: problem.to_string(),
        }
    }
}
