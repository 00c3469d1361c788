//! Phases.

use diptych_common::spec::draft::{
    CheckpointDraft, EvaluateDraft, LabelsDraft, LossDraft, MemoryDraft, PhaseDataDraft,
    PhaseDraft, SelectDraft, StopAfterDraft,
};

use super::network::{layers_in, layers_out};
use crate::v1;

impl From<PhaseDraft> for v1::PhaseSpec {
    fn from(draft: PhaseDraft) -> Self {
        let (head_layer, head_layers) = layers_out(draft.head_layer);
        Self {
            name: draft.name,
            kind: draft.kind,
            from: draft.from,
            data: draft.data.map(Into::into),
            batch: draft.batch,
            epochs: draft.epochs,
            steps: draft.steps,
            optimizer: Some(draft.optimizer.into()),
            augment: draft.augment.map(Into::into),
            lanes: draft.lanes,
            groups: draft.groups,
            micro_batch_groups: draft.micro_batch_groups,
            resources: draft.resources.map(Into::into),
            checkpoint: draft.checkpoint.map(Into::into),
            evaluate: draft.evaluate.map(Into::into),
            max_bad_images: draft.max_bad_images,
            on_non_finite: draft.on_non_finite,
            loss: draft.loss.map(Into::into),
            probe: draft.probe,
            probe_layer: draft.probe_layer,
            head_layer,
            head_layers,
            labels: draft.labels.map(Into::into),
            teacher: draft.teacher,
            student: draft.student.map(Into::into),
            temperature: draft.temperature,
            alpha: draft.alpha,
            labelled_batch: draft.labelled_batch,
        }
    }
}

impl From<v1::PhaseSpec> for PhaseDraft {
    fn from(wire: v1::PhaseSpec) -> Self {
        Self {
            name: wire.name,
            kind: wire.kind,
            from: wire.from,
            data: wire.data.map(Into::into),
            batch: wire.batch,
            epochs: wire.epochs,
            steps: wire.steps,
            optimizer: wire.optimizer.map(Into::into).unwrap_or_default(),
            augment: wire.augment.map(Into::into),
            lanes: wire.lanes,
            groups: wire.groups,
            micro_batch_groups: wire.micro_batch_groups,
            resources: wire.resources.map(Into::into),
            checkpoint: wire.checkpoint.map(Into::into),
            evaluate: wire.evaluate.map(Into::into),
            max_bad_images: wire.max_bad_images,
            on_non_finite: wire.on_non_finite,
            loss: wire.loss.map(Into::into),
            probe: wire.probe,
            probe_layer: wire.probe_layer,
            head_layer: layers_in(wire.head_layer, wire.head_layers),
            labels: wire.labels.map(Into::into),
            teacher: wire.teacher,
            student: wire.student.map(Into::into),
            temperature: wire.temperature,
            alpha: wire.alpha,
            labelled_batch: wire.labelled_batch,
        }
    }
}

impl From<PhaseDataDraft> for v1::PhaseDataSpec {
    fn from(draft: PhaseDataDraft) -> Self {
        Self {
            train: draft.train,
            eval: draft.eval,
        }
    }
}

impl From<v1::PhaseDataSpec> for PhaseDataDraft {
    fn from(wire: v1::PhaseDataSpec) -> Self {
        Self {
            train: wire.train,
            eval: wire.eval,
        }
    }
}

impl From<CheckpointDraft> for v1::CheckpointSpec {
    fn from(draft: CheckpointDraft) -> Self {
        Self {
            every: draft.every,
            every_steps: draft.every_steps,
            keep: draft.keep,
            select: draft
                .select
                .map(|select| v1::SelectSpec { best: select.best }),
        }
    }
}

impl From<v1::CheckpointSpec> for CheckpointDraft {
    fn from(wire: v1::CheckpointSpec) -> Self {
        Self {
            every: wire.every,
            every_steps: wire.every_steps,
            keep: wire.keep,
            select: wire.select.map(|select| SelectDraft { best: select.best }),
        }
    }
}

impl From<EvaluateDraft> for v1::EvaluateSpec {
    fn from(draft: EvaluateDraft) -> Self {
        Self {
            every_epochs: draft.every_epochs,
            knn_k: draft.knn_k,
            knn_temperature: draft.knn_temperature,
            stop_after: draft.stop_after.map(|stop| v1::StopAfterSpec {
                metric: stop.metric,
                evaluations: stop.evaluations,
            }),
        }
    }
}

impl From<v1::EvaluateSpec> for EvaluateDraft {
    fn from(wire: v1::EvaluateSpec) -> Self {
        Self {
            every_epochs: wire.every_epochs,
            knn_k: wire.knn_k,
            knn_temperature: wire.knn_temperature,
            stop_after: wire.stop_after.map(|stop| StopAfterDraft {
                metric: stop.metric,
                evaluations: stop.evaluations,
            }),
        }
    }
}

impl From<LabelsDraft> for v1::LabelsSpec {
    fn from(draft: LabelsDraft) -> Self {
        Self {
            share: draft.share,
            per_class: draft.per_class,
            list: draft.list,
            seed: draft.seed,
        }
    }
}

impl From<v1::LabelsSpec> for LabelsDraft {
    fn from(wire: v1::LabelsSpec) -> Self {
        Self {
            share: wire.share,
            per_class: wire.per_class,
            list: wire.list,
            seed: wire.seed,
        }
    }
}

impl From<LossDraft> for v1::LossSpec {
    fn from(draft: LossDraft) -> Self {
        Self {
            temperature: draft.temperature,
            normalize: draft.normalize,
            scale: draft.scale,
            memory: draft.memory.map(|memory| v1::MemorySpec {
                size: memory.size,
                decay: memory.decay,
            }),
        }
    }
}

impl From<v1::LossSpec> for LossDraft {
    fn from(wire: v1::LossSpec) -> Self {
        Self {
            temperature: wire.temperature,
            normalize: wire.normalize,
            scale: wire.scale,
            memory: wire.memory.map(|memory| MemoryDraft {
                size: memory.size,
                decay: memory.decay,
            }),
        }
    }
}
