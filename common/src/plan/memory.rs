//! Bytes that one device holds, by what they are for.
//!
//! The peak of a step is found by walking through it: forward, every operation adds what it keeps for backward;
//! backward, every operation holds the gradients of its output and input beside all that is still kept in front of it.

use serde::Serialize;

use crate::network::{Operation, features};
use crate::spec::{Device, PhaseKind, PhaseSpec, Precision, Source};

use super::facts::DataFacts;
use super::layout::Share;
use super::network::{Network, Networks};

/// Steps that the loader has ready, one that it is making, and one that is being taken over.
const LOADED: u64 = 4;
/// Decoded images and row groups of one data set that are kept, in bytes.
const KEPT_IMAGES: u64 = 256 << 20;
/// What the index knows of a sample: name, label and place.
const INDEX_ENTRY: u64 = 136;
/// Images of an evaluation pass at once.
const EVALUATION_BATCH: u64 = 128;
/// Queries and bank rows that a neighbours' search compares at once.
const NEIGHBOUR_TILE: u64 = 1024 * 8192;
/// Elements of one strip of the similarity matrix, and strips that are alive at once.
const STRIP: u64 = 1 << 20;
const STRIPS: u64 = 4;
/// Numbers of f64 in making one initial weight.
const INITIAL: u64 = 8 * 8;
/// What a trainer holds that trains next to nothing: libtorch and its kernels, threads and their buffers.
const PROGRAM: u64 = 170 << 20;
/// On a GPU, the libraries' context and workspaces (cuDNN, cuBLAS, NCCL).
const PROGRAM_GPU: u64 = 1 << 30;

/// Bytes of one rank at its peak. On a CPU all of it is the trainer's process; with a GPU, `host` is not the device's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Weights and running statistics, those of a teacher included.
    pub weights: u64,
    /// Gradient buckets.
    pub gradients: u64,
    /// The optimiser's state.
    pub optimizer: u64,
    /// Images of the whole step.
    pub batch: u64,
    /// What one micro-batch keeps for backward.
    pub activations: u64,
    /// Gradients of activations and what an operation needs meanwhile, beyond what backward has let go by then.
    pub workspace: u64,
    /// Rows that the loss compares, of all ranks, and this rank's with their gradients.
    pub embeddings: u64,
    /// Strips of the similarity matrix.
    pub loss: u64,
    /// An evaluation: its pass forward, and features where neighbours are searched. In place of activations to loss.
    pub evaluation: u64,
    /// Making or loading the weights, before the first step. In place of activations to loss.
    pub start: u64,
    /// Program and libraries.
    pub program: u64,
    /// Host: the checkpoint's snapshot.
    pub snapshot: u64,
    /// Host: steps that the loader makes ahead.
    pub prefetch: u64,
    /// Host: images and index kept in memory.
    pub images: u64,
    /// At the peak, on the device.
    pub device: u64,
    /// At the peak, on the host, where that is not the device.
    pub host: u64,
}

/// What memory depends on beside the spec.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setting<'a> {
    pub(super) phase: &'a PhaseSpec,
    pub(super) networks: &'a Networks,
    pub(super) train: &'a DataFacts,
    pub(super) eval: Option<&'a DataFacts>,
    pub(super) ranks: u32,
}

/// Bytes of one element.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    /// Of weights, statistics, losses.
    weight: u64,
    /// Of activations.
    activation: u64,
    /// Whether convolutions lay out patches: libtorch has kernels of its own for fp32 and bf16 only.
    patches: bool,
}

impl Setting<'_> {
    /// Memory while `groups` batch-norm groups are held at once.
    pub(super) fn memory(&self, groups: u32) -> Memory {
        let sizes = Sizes::of(self.phase.gang.precision);
        let share = Share::of(self.phase, self.ranks, groups);
        let (own, views) = (&self.networks.own, u64::from(self.phase.views()));
        let pixels = 3 * u64::from(self.phase.augment.image_size).pow(2);
        let rows = views * share.images + share.labelled;
        let held = (views * share.held).max(share.labelled_held);
        let in_parts = groups < self.phase.groups;
        let several = groups > 1;
        let elements = |network: &Network| {
            let parameters = network.parameters();
            parameters.trainable + parameters.statistics
        };
        let teacher = self.networks.teacher.as_ref();
        let (kept, peak) = match self.networks.whole {
            true => own.backward_bytes(sizes, several),
            false => (0, own.forward_bytes(sizes, false)),
        };
        // A teacher's pass, and that of gradient caching, come before this one keeps anything.
        let first = teacher.map_or(0, |teacher| teacher.forward_bytes(sizes, false)).max(if in_parts {
            own.forward_bytes(sizes, several)
        } else {
            0
        });
        let copied = match self.phase.gang.precision {
            Precision::Bf16 => 2 * (own.parameters().trainable + pixels * held),
            Precision::Fp32 | Precision::Fp64 => 0,
        };
        let state = elements(own) + self.networks.trained();
        let mut memory = Memory {
            weights: sizes.weight * (elements(own) + teacher.map_or(0, elements)),
            gradients: sizes.weight * self.networks.trained(),
            optimizer: sizes.weight * self.networks.trained(),
            batch: sizes.weight * pixels * rows,
            activations: kept * held + copied,
            workspace: (peak.max(first) - kept) * held + sizes.weight * own.largest(),
            evaluation: self.evaluation(sizes),
            start: self.start(sizes),
            snapshot: sizes.weight * (state / u64::from(self.ranks) + own.largest()),
            prefetch: LOADED * 4 * pixels * rows + (LOADED - 1) * (share.images + share.labelled) * self.train.stored_bytes,
            images: self.train.in_memory() + self.eval.map_or(0, DataFacts::in_memory),
            program: PROGRAM,
            ..Memory::default()
        };
        if let PhaseKind::Pretrain(_) = self.phase.kind {
            let dim = own.output();
            let all = 2 * u64::from(self.phase.batch);
            memory.embeddings = sizes.weight * dim * (2 * all + 6 * rows);
            memory.loss = sizes.weight * STRIPS * all.max(STRIP.min(512 * all)).min(all * rows);
        }
        memory.total(self.phase.gang.device)
    }

    fn evaluation(&self, sizes: Sizes) -> u64 {
        let Some(eval) = self.eval else { return 0 };
        let own = &self.networks.own;
        let pixels = 3 * u64::from(self.phase.augment.image_size).pow(2);
        let batch = EVALUATION_BATCH.min(eval.images);
        let pass = batch * (own.forward_bytes(sizes, false) + 5 * 4 * pixels);
        let neighbours = match &self.phase.kind {
            PhaseKind::Pretrain(pretrain) => pretrain.knn.is_some(),
            PhaseKind::LinearEval(_) => true,
            PhaseKind::Finetune(_) | PhaseKind::Distill(_) => false,
        };
        if !neighbours || self.train.classes == 0 || eval.classes == 0 {
            return pass;
        }
        // The bank is joined from its batches while these are still there; queries are gathered from all ranks.
        let features = features(&own.encoder);
        let bank = self.train.images.div_ceil(u64::from(self.ranks));
        let tile = NEIGHBOUR_TILE.min(bank * eval.images);
        let search = sizes.weight * (features * (bank + 2 * eval.images) + 2 * tile);
        (sizes.weight * features * 2 * bank).max(search).max(pass + sizes.weight * features * bank)
    }

    /// What is loaded is there as stored and as tensors; a weight is made in f64.
    fn start(&self, sizes: Sizes) -> u64 {
        let network = |network: &Network| {
            let parameters = network.parameters();
            sizes.weight * (parameters.trainable + parameters.statistics)
        };
        let loaded = match &self.phase.kind {
            PhaseKind::Distill(_) => self.networks.teacher.as_ref().map_or(0, network),
            PhaseKind::Pretrain(spec) if spec.from == Source::Random => 0,
            PhaseKind::Finetune(spec) if spec.from == Source::Random => 0,
            PhaseKind::LinearEval(spec) if spec.from == Source::Random => 0,
            PhaseKind::Pretrain(_) | PhaseKind::Finetune(_) | PhaseKind::LinearEval(_) => {
                network(&self.networks.own)
            }
        };
        loaded + loaded.max(INITIAL * self.networks.own.largest())
    }
}

impl Memory {
    /// Adds up the peak.
    fn total(self, device: Device) -> Self {
        let step = self.activations + self.workspace + self.embeddings + self.loss;
        let busy = step.max(self.evaluation).max(self.start);
        let state = self.weights + self.gradients + self.optimizer + self.batch;
        let host = self.snapshot + self.prefetch + self.images;
        match device {
            Device::Cpu => Self {
                device: state + busy + host + self.program,
                host: 0,
                ..self
            },
            Device::Cuda => Self {
                device: state + busy + PROGRAM_GPU,
                host: host + self.program,
                program: PROGRAM_GPU,
                ..self
            },
        }
    }
}

impl Sizes {
    fn of(precision: Precision) -> Self {
        let (weight, activation) = match precision {
            Precision::Fp32 => (4, 4),
            Precision::Fp64 => (8, 8),
            Precision::Bf16 => (4, 2),
        };
        Self {
            weight,
            activation,
            patches: precision == Precision::Fp64,
        }
    }
}

impl Network {
    /// Of one view: bytes that stay for backward, and the most that are alive at once.
    fn backward_bytes(&self, sizes: Sizes, several: bool) -> (u64, u64) {
        let (mut kept, mut peak) = (0, 0);
        for operation in &self.operations {
            kept += sizes.activation * operation.kept + operation.kept_bytes;
            peak = peak.max(kept + sizes.meanwhile(operation, several));
        }
        // A dense layer keeps its output and, behind the ReLU, what the next one reads; so do features and logits.
        let dense = self.head.iter().map(|layer| 2 * layer.1).sum::<u64>();
        let classes = self.classifiers.iter().map(|classifier| 2 * classifier.1).sum::<u64>();
        kept += sizes.weight * (dense + classes);
        (kept, peak.max(kept))
    }

    /// Of one view: the most that is alive at once in a pass without a graph.
    fn forward_bytes(&self, sizes: Sizes, several: bool) -> u64 {
        let alive = |operation: &Operation| {
            let own = operation.input + 2 * operation.output;
            sizes.activation * (own + operation.beside + sizes.extra(operation, several))
        };
        self.operations.iter().map(alive).max().unwrap_or(0)
    }
}

impl Sizes {
    /// Bytes of one view beside what is kept while the backward pass is at an operation: the gradient of its output
    /// before and after the batch norm, or that and its input's; and the gradient that waits for the shortcut.
    fn meanwhile(&self, operation: &Operation, several: bool) -> u64 {
        let gradients = operation.output + operation.output.max(operation.input);
        self.activation * (gradients + operation.beside + self.extra(operation, several))
    }

    /// Elements of patches, and of the parts that the batch norm of several groups joins.
    fn extra(&self, operation: &Operation, several: bool) -> u64 {
        let joined = if several && operation.norm > 0 { operation.output } else { 0 };
        joined + if self.patches { operation.patches } else { 0 }
    }
}

impl DataFacts {
    /// Decoded images, row groups and index.
    fn in_memory(&self) -> u64 {
        let kept = |mean: u64| (self.images * mean).min(KEPT_IMAGES);
        let row_groups = if self.row_groups { kept(self.stored_bytes) } else { 0 };
        kept(self.decoded_bytes) + row_groups + self.images * INDEX_ENTRY
    }
}
