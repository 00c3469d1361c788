//! The job and its data.

use diptych_common::spec::draft::{
    DataDraft, JobDraft, RankRangeDraft, RanksDraft, ResourcesDraft,
};

use crate::v1;

impl From<JobDraft> for v1::JobSpec {
    fn from(draft: JobDraft) -> Self {
        Self {
            api_version: draft.api_version,
            name: draft.name,
            seed: draft.seed,
            priority: draft.priority,
            storage: draft.storage,
            tensorboard: draft.tensorboard,
            resources: draft.resources.map(Into::into),
            data: draft
                .data
                .into_iter()
                .map(|(name, data)| (name, data.into()))
                .collect(),
            encoder: Some(draft.encoder.into()),
            head: draft.head.map(Into::into),
            phases: draft.phases.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<v1::JobSpec> for JobDraft {
    fn from(wire: v1::JobSpec) -> Self {
        Self {
            api_version: wire.api_version,
            name: wire.name,
            seed: wire.seed,
            priority: wire.priority,
            storage: wire.storage,
            tensorboard: wire.tensorboard,
            resources: wire.resources.map(Into::into),
            data: wire
                .data
                .into_iter()
                .map(|(name, data)| (name, data.into()))
                .collect(),
            encoder: wire.encoder.map(Into::into).unwrap_or_default(),
            head: wire.head.map(Into::into),
            phases: wire.phases.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<ResourcesDraft> for v1::ResourcesSpec {
    fn from(draft: ResourcesDraft) -> Self {
        Self {
            device: draft.device,
            ranks: draft.ranks.map(|ranks| v1::RanksSpec {
                ranks: Some(ranks_out(ranks)),
            }),
            precision: draft.precision,
            spares: draft.spares,
            tf32: draft.tf32,
            deterministic: draft.deterministic,
            memory: draft.memory,
        }
    }
}

impl From<v1::ResourcesSpec> for ResourcesDraft {
    fn from(wire: v1::ResourcesSpec) -> Self {
        Self {
            device: wire.device,
            ranks: wire.ranks.and_then(|ranks| ranks.ranks).map(ranks_in),
            precision: wire.precision,
            spares: wire.spares,
            tf32: wire.tf32,
            deterministic: wire.deterministic,
            memory: wire.memory,
        }
    }
}

impl From<RankRangeDraft> for v1::RankRangeSpec {
    fn from(draft: RankRangeDraft) -> Self {
        Self {
            min: draft.min,
            max: draft.max,
        }
    }
}

impl From<v1::RankRangeSpec> for RankRangeDraft {
    fn from(wire: v1::RankRangeSpec) -> Self {
        Self {
            min: wire.min,
            max: wire.max,
        }
    }
}

impl From<DataDraft> for v1::DataSpec {
    fn from(draft: DataDraft) -> Self {
        Self {
            url: draft.url,
            format: draft.format,
            image_column: draft.image_column,
            label_column: draft.label_column,
            classes: draft.classes.map(|values| v1::StringsSpec { values }),
            limit: draft.limit,
        }
    }
}

impl From<v1::DataSpec> for DataDraft {
    fn from(wire: v1::DataSpec) -> Self {
        Self {
            url: wire.url,
            format: wire.format,
            image_column: wire.image_column,
            label_column: wire.label_column,
            classes: wire.classes.map(|strings| strings.values),
            limit: wire.limit,
        }
    }
}

fn ranks_out(ranks: RanksDraft) -> v1::ranks_spec::Ranks {
    match ranks {
        RanksDraft::Fixed(ranks) => v1::ranks_spec::Ranks::Fixed(ranks),
        RanksDraft::Range(range) => v1::ranks_spec::Ranks::Range(range.into()),
    }
}

fn ranks_in(ranks: v1::ranks_spec::Ranks) -> RanksDraft {
    match ranks {
        v1::ranks_spec::Ranks::Fixed(ranks) => RanksDraft::Fixed(ranks),
        v1::ranks_spec::Ranks::Range(range) => RanksDraft::Range(range.into()),
    }
}
