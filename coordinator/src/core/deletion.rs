//! Objects that nobody needs any more. Durable until they are gone.

use diptych_common::ids::{Attempt, JobId, PhaseIndex};
use serde::{Deserialize, Serialize};

/// What to delete from an object store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Deletion {
    /// A collected checkpoint, its manifest first.
    Checkpoint {
        /// The job's storage URL.
        storage: String,
        /// Everything in this folder goes.
        folder: String,
    },
    /// What ended attempts at a phase left behind: parts that no committed manifest names.
    Leftovers {
        /// Whose.
        job: JobId,
        /// Of which phase.
        phase: PhaseIndex,
        /// Of attempts before this one: they have ended, and can commit nothing more.
        before: Attempt,
    },
}
