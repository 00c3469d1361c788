//! One phase of a pipeline.

use std::time::Duration;

use crate::ids::{DataName, PhaseIndex, PhaseName};
use crate::units::Bytes;

use super::{AugmentSpec, EncoderSpec, HeadSpec, Labels, OptimizerSpec, Source, Teacher};

/// One phase, with everything filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct PhaseSpec {
    /// Position in the spec.
    pub index: PhaseIndex,
    /// Unique in the job.
    pub name: PhaseName,
    /// What it trains.
    pub kind: PhaseKind,
    /// Training data.
    pub train: DataName,
    /// Evaluation data.
    pub eval: Option<DataName>,
    /// Images per step over all ranks.
    pub batch: u32,
    /// How long it trains.
    pub length: Length,
    /// Optimiser and schedule.
    pub optimizer: OptimizerSpec,
    /// Augmentation of training images.
    pub augment: AugmentSpec,
    /// Lanes: a divisor of `batch` and a multiple of `groups`; every rank owns a lane of every group (see
    /// [`JobSpec`](super::JobSpec)).
    pub lanes: u32,
    /// Batch-norm groups.
    pub groups: u32,
    /// Groups held in memory at once, a divisor of `groups`.
    pub micro_batch_groups: u32,
    /// Devices.
    pub gang: Gang,
    /// When to save.
    pub checkpoint: CheckpointSpec,
    /// When to evaluate.
    pub evaluate: EvaluateSpec,
    /// Share of the images that may be unreadable, in [0, 1].
    pub max_bad_images: f64,
    /// What follows a number that is not finite.
    pub on_non_finite: NonFinitePolicy,
}

/// What a loss, gradient or weight that is not finite leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NonFinitePolicy {
    /// The phase ends.
    Stop,
    /// The gang goes back to the newest verified checkpoint (or the beginning) and skips the batch.
    Rewind,
}

/// Evaluations of a pretraining that names no interval, the last one included.
const PRETRAIN_EVALUATIONS: u64 = 10;

impl PhaseSpec {
    /// Views of each image that a step trains on.
    pub fn views(&self) -> u32 {
        match self.kind {
            PhaseKind::Pretrain(_) => 2,
            PhaseKind::LinearEval(_) | PhaseKind::Finetune(_) | PhaseKind::Distill(_) => 1,
        }
    }

    /// Steps between evaluations on the way, where there are any; the end is always evaluated.
    ///
    /// Nobody sees from the loss whether pretraining goes well, so that it is evaluated on the way unless the spec
    /// says when: after every tenth, at least an epoch apart. Other phases are evaluated at their end.
    pub fn evaluation_interval(&self, steps: u64, examples: u64) -> Option<u64> {
        let of_epochs = |epochs: f64| {
            ((epochs * examples as f64 / f64::from(self.batch.max(1))).round() as u64).max(1)
        };
        let usual = match self.kind {
            PhaseKind::Pretrain(_) => {
                Some(steps.div_ceil(PRETRAIN_EVALUATIONS).max(of_epochs(1.0)))
            }
            PhaseKind::LinearEval(_) | PhaseKind::Finetune(_) | PhaseKind::Distill(_) => None,
        };
        self.evaluate.every_epochs.map(of_epochs).or(usual)
    }

    /// The measurements by which the phase is stopped or its result chosen, each with the path of its field.
    pub fn judged_by(&self) -> impl Iterator<Item = (&'static str, Metric)> + use<> {
        let stop = self.evaluate.stop_after.map(|stop| stop.metric);
        let best = self.checkpoint.best;
        let paths = ["evaluate.stop_after.metric", "checkpoint.select.best"];
        let both = paths.into_iter().zip([stop, best]);
        both.filter_map(|(path, metric)| Some((path, metric?)))
    }
}

/// What a phase trains.
#[derive(Debug, Clone, PartialEq)]
pub enum PhaseKind {
    /// Contrastive pretraining.
    Pretrain(PretrainSpec),
    /// A linear classifier on the frozen encoder.
    LinearEval(LinearEvalSpec),
    /// The whole network on labels.
    Finetune(FinetuneSpec),
    /// A student on a fixed teacher's outputs.
    Distill(DistillSpec),
}

impl PhaseKind {
    /// As specs write it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Pretrain(_) => "pretrain",
            Self::LinearEval(_) => "linear_eval",
            Self::Finetune(_) => "finetune",
            Self::Distill(_) => "distill",
        }
    }

    /// Images per step of the labelled stream beside a distillation; 0 where there is none.
    pub fn labelled_batch(&self) -> u32 {
        match self {
            Self::Distill(spec) => spec.labelled.as_ref().map_or(0, |stream| stream.batch),
            Self::Pretrain(_) | Self::LinearEval(_) | Self::Finetune(_) => 0,
        }
    }

    /// What the network that it trains starts from.
    pub fn source(&self) -> &Source {
        match self {
            Self::Pretrain(spec) => &spec.from,
            Self::LinearEval(spec) => &spec.from,
            Self::Finetune(spec) => &spec.from,
            Self::Distill(spec) => &spec.from,
        }
    }
}

/// Contrastive pretraining.
#[derive(Debug, Clone, PartialEq)]
pub struct PretrainSpec {
    /// Random, or a phase or import to go on from.
    pub from: Source,
    /// The encoder.
    pub encoder: EncoderSpec,
    /// The projection head; without one, the loss compares the encoder's outputs.
    pub head: Option<HeadSpec>,
    /// The loss.
    pub loss: NtXentSpec,
    /// Rows of earlier steps in the loss, if any.
    pub memory: Option<MemorySpec>,
    /// Train a linear probe on stopped gradients: `Some(true)` always, `None` where the data has labels.
    pub probe: Option<bool>,
    /// The layer that the probe reads: 0 for the encoder's output, j for the projection head's j-th.
    pub probe_layer: u32,
    /// The kNN evaluation, if any.
    pub knn: Option<Knn>,
}

/// NT-Xent (SimCLR v1 §2.1).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NtXentSpec {
    /// τ.
    pub temperature: f64,
    /// Compare unit vectors.
    pub normalize: bool,
    /// 1 for the paper's mean over 2N anchors, 2 for the official code's.
    pub scale: f64,
}

/// The memory of SimCLR v2 (§2, after He et al. 2020): a queue of a moving average's rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MemorySpec {
    /// Rows in the queue, at least those of both views of a batch.
    pub size: u32,
    /// Share of the old average that a step keeps, in [0, 1).
    pub decay: f64,
}

/// A k-nearest-neighbour classifier on features, weighted by exp(cosine / temperature).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Knn {
    /// Neighbours; the number of training images where that is smaller.
    pub k: u32,
    /// Temperature of the vote.
    pub temperature: f64,
}

/// A linear classifier on the frozen encoder (running batch-norm statistics).
#[derive(Debug, Clone, PartialEq)]
pub struct LinearEvalSpec {
    /// What to evaluate.
    pub from: Source,
    /// What the classifiers read.
    pub layers: HeadLayers,
    /// Which labels to train on.
    pub labels: Labels,
}

/// Layers that a linear evaluation reads, each once: 0 for the encoder's output, j for the projection head's j-th.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadLayers {
    /// The one whose classifier is the phase's: its accuracy comes first, and a student or an export takes it.
    pub first: u32,
    /// The others, in the order of the spec.
    pub others: Vec<u32>,
}

/// The whole network on labels; from [`Source::Random`], the supervised baseline.
#[derive(Debug, Clone, PartialEq)]
pub struct FinetuneSpec {
    /// What to start from.
    pub from: Source,
    /// 0 for the encoder's output, j to keep the projection head's first j layers.
    pub head_layer: u32,
    /// Which labels to train on.
    pub labels: Labels,
}

/// A student on a fixed teacher's outputs (SimCLR v2 §2, equations 2 and 3).
#[derive(Debug, Clone, PartialEq)]
pub struct DistillSpec {
    /// Whose classifier teaches.
    pub teacher: Teacher,
    /// The student's network.
    pub student: EncoderSpec,
    /// What the student starts from.
    pub from: Source,
    /// τ of both softened outputs.
    pub temperature: f64,
    /// Weight of the teacher's term, in [0, 1].
    pub alpha: f64,
    /// The second, labelled stream, where `alpha` < 1.
    pub labelled: Option<LabelledStream>,
}

/// The labelled rows beside a distillation batch.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelledStream {
    /// Labelled images per step over all ranks.
    pub batch: u32,
    /// Which labels may be used.
    pub labels: Labels,
}

/// How long a phase trains.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Length {
    /// Passes over the training data: `floor(images · epochs / batch) + 1` steps, as the official code.
    Epochs(f64),
    /// Optimiser steps.
    Steps(u64),
}

impl Length {
    /// Optimiser steps of a phase over `examples` images in batches of `batch`.
    pub fn steps(self, examples: u64, batch: u32) -> u64 {
        match self {
            Self::Epochs(epochs) => {
                (examples as f64 * epochs / f64::from(batch.max(1))).floor() as u64 + 1
            }
            Self::Steps(steps) => steps,
        }
    }
}

/// The devices of a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gang {
    /// What kind; all ranks are of one kind.
    pub device: Device,
    /// Fewest ranks, at least 1.
    pub min: u32,
    /// Most ranks.
    pub max: u32,
    /// Trainers that stand by beside the gang.
    pub spares: u32,
    /// Precision of the computation.
    pub precision: Precision,
    /// fp32 products on a GPU may round their factors to TF32.
    pub tf32: bool,
    /// The same bits in every run of the same ranks, on GPUs too.
    pub deterministic: bool,
    /// The most that a rank may hold.
    pub memory: Option<Bytes>,
}

/// A kind of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Device {
    /// A CPU slot.
    Cpu,
    /// A GPU.
    Cuda,
}

/// Precision of forward and backward; master weights, statistics and losses are fp32, or fp64 under `Fp64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// 32-bit.
    Fp32,
    /// 64-bit, for exactness.
    Fp64,
    /// bfloat16 where autocast takes it.
    Bf16,
}

impl Precision {
    /// Bytes of a number in weights, statistics and losses.
    pub fn weight_bytes(self) -> u64 {
        match self {
            Self::Fp32 | Self::Bf16 => 4,
            Self::Fp64 => 8,
        }
    }
}

/// When to save, and how much to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointSpec {
    /// Save after this long since the last save.
    pub every: Duration,
    /// Save every this many steps, as well.
    pub every_steps: Option<u64>,
    /// Verified checkpoints to keep per phase, at least 1.
    pub keep: u32,
    /// The result is the checkpoint with the largest value of this; `None` for the last one.
    pub best: Option<Metric>,
}

/// When to evaluate; always at the end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EvaluateSpec {
    /// Every this many epochs as well; `None` for the default of the kind.
    pub every_epochs: Option<f64>,
    /// When to end the phase early, if ever.
    pub stop_after: Option<StopAfter>,
}

/// Ends a phase whose evaluations no longer improve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopAfter {
    /// What has to grow.
    pub metric: Metric,
    /// How many evaluations in a row may fail to exceed the best before them, at least 1.
    pub evaluations: u32,
}

/// A measurement of evaluations by which a spec chooses; larger is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "their names in results")]
pub enum Metric {
    KnnTop1,
    ProbeTop1,
    ProbeTop5,
    EvalTop1,
    EvalTop5,
}

impl Metric {
    /// Its name in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::KnnTop1 => "knn_top1",
            Self::ProbeTop1 => "probe_top1",
            Self::ProbeTop5 => "probe_top5",
            Self::EvalTop1 => "eval_top1",
            Self::EvalTop5 => "eval_top5",
        }
    }
}

impl HeadLayers {
    /// One alone.
    pub fn one(layer: u32) -> Self {
        Self {
            first: layer,
            others: Vec::new(),
        }
    }

    /// All of them, the phase's own first.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        std::iter::once(self.first).chain(self.others.iter().copied())
    }

    /// The last layer that has to be there.
    pub fn deepest(&self) -> u32 {
        self.iter().max().unwrap_or(self.first)
    }
}
