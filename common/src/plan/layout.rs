//! How many images the fullest rank holds.

use crate::spec::PhaseSpec;

/// Images per step of the rank that holds most.
///
/// The worker deals the lanes of each group in contiguous runs, as evenly as they go, and lets the extra lanes turn with
/// the group, so that ranks differ by one lane at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    /// Of the whole step.
    pub(super) images: u64,
    /// Held at once.
    pub(super) held: u64,
    /// Images of the labelled stream, which come in micro-batches of their own.
    pub(super) labelled: u64,
    /// Of those, what is held at once.
    pub(super) labelled_held: u64,
}

impl Share {
    /// The share of a world of `ranks`; `groups` batch-norm groups are held at once.
    pub(super) fn of(phase: &PhaseSpec, ranks: u32, groups: u32) -> Self {
        let lanes = u64::from(phase.lanes);
        let lanes_per_group = lanes / u64::from(phase.groups.max(1));
        let most = lanes.div_ceil(u64::from(ranks));
        let held = most.min(lanes_per_group.div_ceil(u64::from(ranks)) * u64::from(groups));
        let of = |batch: u32, lanes_held: u64| u64::from(batch) / lanes.max(1) * lanes_held;
        let labelled = phase.kind.labelled_batch();
        Self {
            images: of(phase.batch, most),
            held: of(phase.batch, held),
            labelled: of(labelled, most),
            labelled_held: of(labelled, held),
        }
    }
}
