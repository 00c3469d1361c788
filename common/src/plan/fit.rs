//! Whether a phase fits a device, and what makes it fit.

use std::fmt;

use crate::spec::{JobSpec, PhaseSpec, Precision};

use super::facts::Facts;
use super::memory::Memory;
use super::outline::Outline;

/// What makes a phase hold less. All but [`Change::Groups`] and [`Change::Bf16`] leave the mathematics as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Hold fewer batch-norm groups at once.
    MicroBatchGroups(u32),
    /// Share the batch out among more ranks.
    Ranks(u32),
    /// Activations of half the size; another result, by rounding.
    Bf16,
    /// More batch-norm groups, held one at a time; other statistics, so another result.
    Groups(u32),
}

/// Bytes of the fullest of so many ranks.
pub fn rank_memory(spec: &JobSpec, phase: &PhaseSpec, facts: &Facts, ranks: u32) -> Memory {
    Outline::of(spec, phase, facts)
        .setting(phase, ranks)
        .memory(phase.micro_batch_groups)
}

/// What would make the fullest of so many ranks fit, the smallest change of each kind, those that leave the mathematics
/// as it is first. `fits` judges what such a rank holds.
pub fn changes(
    spec: &JobSpec,
    phase: &PhaseSpec,
    facts: &Facts,
    ranks: u32,
    fits: impl Fn(&Memory) -> bool,
) -> Vec<Change> {
    let outline = Outline::of(spec, phase, facts);
    let memory = |phase: &PhaseSpec, ranks| {
        outline
            .setting(phase, ranks)
            .memory(phase.micro_batch_groups)
    };
    let mut changes = Vec::new();
    let at_once = divisors(phase.groups)
        .rev()
        .filter(|groups| *groups < phase.micro_batch_groups);
    let held = |groups: &u32| {
        let phase = PhaseSpec {
            micro_batch_groups: *groups,
            ..phase.clone()
        };
        fits(&memory(&phase, ranks))
    };
    changes.extend(at_once.into_iter().find(held).map(Change::MicroBatchGroups));
    // Every rank holds at least one lane of every group.
    let more = ranks + 1..=phase.lanes / phase.groups.max(1);
    let shared = |ranks: &u32| fits(&memory(phase, *ranks));
    changes.extend(more.into_iter().find(shared).map(Change::Ranks));
    if phase.gang.precision == Precision::Fp32 {
        let mut half = phase.clone();
        half.gang.precision = Precision::Bf16;
        changes.extend(fits(&memory(&half, ranks)).then_some(Change::Bf16));
    }
    if !changes
        .iter()
        .any(|change| matches!(change, Change::MicroBatchGroups(_)))
    {
        let most = phase.lanes / phase.gang.max.max(1);
        let more =
            divisors(phase.lanes).filter(|groups| (phase.groups + 1..=most).contains(groups));
        let cut = |groups: &u32| {
            let phase = PhaseSpec {
                groups: *groups,
                micro_batch_groups: 1,
                ..phase.clone()
            };
            fits(&memory(&phase, ranks))
        };
        changes.extend(more.into_iter().find(cut).map(Change::Groups));
    }
    changes
}

fn divisors(of: u32) -> impl DoubleEndedIterator<Item = u32> {
    (1..=of).filter(move |divisor| of.is_multiple_of(*divisor))
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MicroBatchGroups(groups) => write!(
                f,
                "`micro_batch_groups: {groups}` (the same result, at the cost of time)"
            ),
            Self::Ranks(ranks) => write!(f, "at least {ranks} ranks (`resources.ranks`)"),
            Self::Bf16 => write!(f, "`precision: bf16`"),
            Self::Groups(groups) => write!(
                f,
                "`groups: {groups}` with `micro_batch_groups: 1` (other batch-norm statistics)"
            ),
        }
    }
}
