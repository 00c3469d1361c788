//! Wire ↔ domain. Specs convert without loss both ways; whoever receives one validates the draft again.

mod job; // JobSpec ↔ JobDraft, resources, data
mod network; // encoder, head
mod phase; // phases
mod train; // optimiser, views
mod time; // Timestamp ↔ SystemTime
mod checkpoint; // references and objects
mod wire; // names and digests in messages

pub use time::{from_timestamp, timestamp};
pub use wire::{WireError, name, required};

use diptych_common::spec::{JobDraft, JobSpec, SpecErrors};

use crate::v1;

/// Reads and validates a spec that came over the wire.
///
/// # Errors
/// Everything that is wrong with it.
pub fn valid_spec(wire: v1::JobSpec) -> Result<JobSpec, SpecErrors> {
    JobSpec::try_from(JobDraft::from(wire))
}

impl From<&JobSpec> for v1::JobSpec {
    fn from(spec: &JobSpec) -> Self {
        spec.draft().clone().into()
    }
}
