//! Devices, and how the batch is laid over them.

use super::super::draft::{PhaseDraft, RanksDraft, ResourcesDraft};
use super::super::{Device, Gang, Precision};
use super::check::{At, Check};
use crate::units::Bytes;

const MAX_RANKS: u64 = 4096;
const MAX_SPARES: u64 = 64;
const MAX_BATCH: u64 = 1 << 20;
/// Lanes of a batch where the spec names none.
const MOST_LANES: u32 = 64;

/// The batch and its division.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    pub(super) batch: u32,
    pub(super) lanes: u32,
    pub(super) groups: u32,
    pub(super) micro_batch_groups: u32,
}

/// Where a phase's gang is described: the phase's own fields first, the job's for the rest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Resources<'a> {
    pub(super) job: Option<&'a ResourcesDraft>,
    pub(super) phase: Option<&'a ResourcesDraft>,
}

impl<'a> Resources<'a> {
    /// A field and its path, from whichever level gives it.
    fn field<T>(
        &self,
        phase_at: &At,
        name: &str,
        get: impl Fn(&'a ResourcesDraft) -> Option<T>,
    ) -> (At, Option<T>) {
        match (self.phase.and_then(&get), self.job.and_then(&get)) {
            (None, Some(value)) => (At::root().field("resources").field(name), Some(value)),
            (value, _) => (phase_at.field("resources").field(name), value),
        }
    }
}

/// Reads the gang and checks that every rank of it gets a lane of every group.
pub(super) fn gang(check: &mut Check, at: &At, resources: Resources<'_>, layout: Layout) -> Gang {
    let (device_at, device) = resources.field(at, "device", |r| r.device.as_deref());
    let device = device.map_or(Device::Cpu, |word| {
        check.choice(
            &device_at,
            word,
            &[("cpu", Device::Cpu), ("cuda", Device::Cuda)],
        )
    });
    let precisions = [
        ("fp32", Precision::Fp32),
        ("fp64", Precision::Fp64),
        ("bf16", Precision::Bf16),
    ];
    let (precision_at, precision) = resources.field(at, "precision", |r| r.precision.as_deref());
    let precision = precision.map_or(Precision::Fp32, |word| {
        check.choice(&precision_at, word, &precisions)
    });
    check.require(
        &precision_at,
        precision != Precision::Fp64 || device == Device::Cpu,
        || "`fp64` runs on `device: cpu` only".to_owned(),
    );
    let (ranks_at, ranks) = resources.field(at, "ranks", |r| r.ranks.as_ref());
    let (min, max, max_at) = match ranks {
        None => (1, 1, ranks_at.clone()),
        Some(RanksDraft::Fixed(ranks)) => {
            check.count(&ranks_at, *ranks, 1, MAX_RANKS);
            (*ranks, *ranks, ranks_at.clone())
        }
        Some(RanksDraft::Range(range)) => {
            let max_at = ranks_at.field("max");
            check.count(&ranks_at.field("min"), range.min, 1, MAX_RANKS);
            check.count(&max_at, range.max, 1, MAX_RANKS);
            check.require(&ranks_at.field("min"), range.min <= range.max, || {
                format!("{} is more than `max` ({})", range.min, range.max)
            });
            (range.min, range.max, max_at)
        }
    };
    let fits = layout.lanes / layout.groups.max(1);
    if fits > 0 && max > fits {
        check.refuse(&max_at, too_many_ranks(at, layout, max));
    }
    let (spares_at, spares) = resources.field(at, "spares", |r| r.spares);
    let spares = spares.unwrap_or(0);
    check.count(&spares_at, spares, 0, MAX_SPARES);
    let (tf32_at, tf32) = resources.field(at, "tf32", |r| r.tf32);
    let tf32 = tf32.unwrap_or(false);
    check.require(
        &tf32_at,
        !tf32 || (device == Device::Cuda && precision == Precision::Fp32),
        || "TF32 is for `device: cuda` with `precision: fp32`".to_owned(),
    );
    let (_, deterministic) = resources.field(at, "deterministic", |r| r.deterministic);
    Gang {
        device,
        min,
        max,
        spares,
        precision,
        tf32,
        deterministic: deterministic.unwrap_or(false),
        memory: memory(check, at, resources),
    }
}

fn too_many_ranks(
    phase_at: &At,
    Layout {
        batch,
        lanes,
        groups,
        ..
    }: Layout,
    max: u32,
) -> String {
    let fits = lanes / groups.max(1);
    let larger = (1..=batch)
        .filter(|l| batch.is_multiple_of(*l) && l.is_multiple_of(groups))
        .find(|l| l / groups >= max);
    let other = larger.map_or_else(String::new, |lanes| {
        format!(", or `lanes: {lanes}` for {phase_at}")
    });
    format!(
        "{max} ranks cannot each hold a lane of every batch-norm group of {phase_at} \
         ({lanes} lanes / {groups} groups): at most {fits}{other}"
    )
}

fn memory(check: &mut Check, at: &At, resources: Resources<'_>) -> Option<Bytes> {
    let (memory_at, memory) = resources.field(at, "memory", |r| r.memory.as_deref());
    match memory?.parse::<Bytes>() {
        Ok(memory) => Some(memory),
        Err(error) => {
            check.refuse(&memory_at, error.to_string());
            None
        }
    }
}

/// Reads batch, lanes and groups. Stand-ins are never 0.
pub(super) fn layout(check: &mut Check, at: &At, draft: &PhaseDraft, fewest: u64) -> Layout {
    let batch_at = at.field("batch");
    let batch = check
        .count(&batch_at, draft.batch, fewest, MAX_BATCH)
        .clamp(1, MAX_BATCH as u32);
    let groups_at = at.field("groups");
    let groups = check
        .count(&groups_at, draft.groups.unwrap_or(1), 1, batch.into())
        .clamp(1, batch);
    let lanes_at = at.field("lanes");
    let lanes = match draft.lanes {
        Some(lanes) => {
            check.count(&lanes_at, lanes, 1, batch.into());
            let lanes = lanes.clamp(1, batch);
            let near = || nearest(lanes, (1..=batch).filter(|l| batch.is_multiple_of(*l) && l.is_multiple_of(groups)));
            check.require(&lanes_at, batch.is_multiple_of(lanes), || {
                format!("{lanes} lanes do not divide the batch of {batch}{}", near())
            });
            check.require(&groups_at, lanes.is_multiple_of(groups), || {
                let near = nearest(groups, (1..=lanes).filter(|g| lanes.is_multiple_of(*g)));
                format!("{groups} groups do not divide the {lanes} lanes{near}")
            });
            lanes
        }
        None => default_lanes(batch, groups).unwrap_or_else(|| {
            let near = nearest(groups, (1..=MOST_LANES.min(batch)).filter(|g| batch.is_multiple_of(*g)));
            check.refuse(&groups_at, format!("{groups} groups do not divide a batch of {batch} in at most {MOST_LANES} lanes{near}"));
            groups
        }),
    };
    let micro_at = at.field("micro_batch_groups");
    let micro_batch_groups = check.count(
        &micro_at,
        draft.micro_batch_groups.unwrap_or(groups),
        1,
        groups.into(),
    );
    check.require(
        &micro_at,
        groups.is_multiple_of(micro_batch_groups.max(1)),
        || {
            let near = nearest(
                micro_batch_groups,
                (1..=groups).filter(|m| groups.is_multiple_of(*m)),
            );
            format!("micro-batches of {micro_batch_groups} do not divide the {groups} groups{near}")
        },
    );
    Layout {
        batch,
        lanes,
        groups,
        micro_batch_groups,
    }
}

/// The largest divisor of the batch that is at most 64 and holds whole groups.
fn default_lanes(batch: u32, groups: u32) -> Option<u32> {
    (1..=MOST_LANES.min(batch))
        .rev()
        .find(|lanes| batch.is_multiple_of(*lanes) && lanes.is_multiple_of(groups))
}

/// `: e.g. N`, the value that fits best.
fn nearest(wanted: u32, fitting: impl Iterator<Item = u32>) -> String {
    fitting
        .min_by_key(|value| value.abs_diff(wanted))
        .map_or_else(String::new, |value| format!(": e.g. {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_lanes_divide_the_batch_and_hold_whole_groups() {
        let table = [
            (8192, 1, Some(64)),
            (8192, 16, Some(64)),
            (100, 1, Some(50)),
            (100, 4, Some(20)),
            (97, 1, Some(1)),
            (97, 2, None),
        ];
        for (batch, groups, lanes) in table {
            assert_eq!(default_lanes(batch, groups), lanes, "{batch} {groups}");
        }
    }
}
