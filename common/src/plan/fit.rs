//! Whether a phase fits a device, and what makes it fit.

use std::fmt;

use crate::spec::{JobSpec, PhaseSpec, Precision, ViewsOn};
use crate::units::Bytes;

use super::facts::Facts;
use super::memory::Memory;
use super::outline::Outline;

/// What makes a phase hold less. All but [`Change::Groups`] and [`Change::Bf16`] leave the mathematics as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Keep no training images with the device.
    NotResident,
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
    changes_of(&Outline::of(spec, phase, facts), phase, ranks, fits)
}

fn changes_of(
    outline: &Outline,
    phase: &PhaseSpec,
    ranks: u32,
    fits: impl Fn(&Memory) -> bool,
) -> Vec<Change> {
    let memory = |phase: &PhaseSpec, ranks| {
        outline
            .setting(phase, ranks)
            .memory(phase.micro_batch_groups)
    };
    let mut changes = Vec::new();
    if phase.augment.place == ViewsOn::Resident {
        let mut crops = phase.clone();
        crops.augment.place = ViewsOn::Device;
        changes.extend(fits(&memory(&crops, ranks)).then_some(Change::NotResident));
    }
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

/// A phase that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tight {
    /// With so many batch-norm groups held at once.
    pub groups: u32,
    /// What the fullest rank needs then.
    pub needed: Bytes,
    /// What would make it fit.
    pub changes: Vec<Change>,
}

/// How many batch-norm groups a phase holds at once within `limit`: `given`, or as many as fit. A step on the fewest ranks
/// counts, where a rank's share is largest; evaluations and images that are kept or resident do not, because they depend on
/// the data and not on this.
///
/// # Errors
/// [`Tight`] where it does not fit.
pub fn groups_at_once(
    spec: &JobSpec,
    phase: &PhaseSpec,
    given: Option<u32>,
    limit: Bytes,
) -> Result<u32, Tight> {
    let mut outline = Outline::of(spec, phase, &Facts::default());
    outline.eval = None;
    outline.evaluations = 0;
    outline.train.images = 0;
    outline.images = 0;
    let ranks = phase.gang.min;
    let needed = |groups| Bytes::new(outline.setting(phase, ranks).memory(groups).device);
    let mut fewest = phase.groups;
    for groups in divisors(phase.groups)
        .rev()
        .filter(|groups| given.is_none_or(|given| given == *groups))
    {
        if needed(groups) <= limit {
            return Ok(groups);
        }
        fewest = groups;
    }
    let held = PhaseSpec {
        micro_batch_groups: fewest,
        ..phase.clone()
    };
    let fits = |memory: &Memory| memory.device <= limit.get();
    Err(Tight {
        groups: fewest,
        needed: needed(fewest),
        changes: changes_of(&outline, &held, ranks, fits),
    })
}

/// Changes in words, or what is left where none helps.
pub fn advice(changes: &[Change]) -> String {
    if changes.is_empty() {
        return "lower `batch` or `augment.image_size`, or use a smaller network".to_owned();
    }
    let words: Vec<_> = changes.iter().map(ToString::to_string).collect();
    format!("it would fit with {}", words.join(", or with "))
}

fn divisors(of: u32) -> impl DoubleEndedIterator<Item = u32> {
    (1..=of).filter(move |divisor| of.is_multiple_of(*divisor))
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotResident => write!(f, "`augment.place: device` (the same views)"),
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
