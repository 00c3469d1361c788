//! Bytes that one device holds, by what they are for.
//!
//! The peak of a step is found by walking through it: forward, every operation adds what it keeps for backward;
//! backward, every operation holds the gradients of its output and input beside all that is still kept in front of it.
//! On CPUs, blocks of 32 MiB and more go back to the system when they are freed (`worker/src/device/memory.rs`), smaller
//! ones stay with the process, where evaluations and the first step's preparation left others: so small blocks add up
//! although they are not alive at the same time, and the allocator leaves room between them.

use std::ops::Add;

use serde::Serialize;

use crate::network::{Operation, features};
use crate::spec::{Device, PhaseKind, PhaseSpec, Precision, Source, ViewsOn};

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
/// Elements and most rows of one strip of the similarity matrix on CPUs and on GPUs, and strips that are alive at once.
const STRIP: (u64, u64) = (1 << 20, 1 << 9);
const STRIP_CUDA: (u64, u64) = (1 << 24, 1 << 13);
const STRIPS: u64 = 4;
/// On CPUs, blocks from this size on are mapped one by one.
const MAPPED: u64 = 32 << 20;
/// What small blocks take on CPUs, as a multiple of their size, measured (docs/plan.md): glibc finds no use for many of
/// the blocks that were freed, most of all where evaluations come between steps or no step keeps anything.
const SLACK: f64 = 1.25;
const SLACK_EVALUATED: f64 = 1.85;
const SLACK_FROZEN: f64 = 2.0;
/// Numbers of f64 in making one initial weight.
const INITIAL: u64 = 8 * 8;
/// What a trainer holds that trains next to nothing: libtorch and its kernels, threads and their buffers.
const PROGRAM: u64 = 160 << 20;
/// On a GPU, the libraries' context and workspaces (cuDNN, cuBLAS, NCCL).
const PROGRAM_GPU: u64 = 1 << 30;

/// Bytes of one rank at its peak. On a CPU all of it is the trainer's process; with a GPU, `host` is not the device's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Weights and running statistics, those of a teacher and of a memory's average included, and a memory's rows.
    pub weights: u64,
    /// Gradient buckets.
    pub gradients: u64,
    /// The optimiser's state.
    pub optimizer: u64,
    /// Images of the whole step.
    pub batch: u64,
    /// Decoded training images that stay with the device (`augment.place: resident`).
    pub resident: u64,
    /// What one micro-batch keeps for backward.
    pub activations: u64,
    /// Gradients of activations and what an operation needs meanwhile, beyond what backward has let go by then.
    pub workspace: u64,
    /// Room that the allocator leaves between blocks.
    pub slack: u64,
    /// Rows that the loss compares, of all ranks, and this rank's with their gradients.
    pub embeddings: u64,
    /// Strips of the similarity matrix.
    pub loss: u64,
    /// Evaluations, beyond what a step has: a pass forward, and features where neighbours are searched.
    pub evaluation: u64,
    /// Making and loading the weights, beyond what a step has.
    pub start: u64,
    /// Program and libraries.
    pub program: u64,
    /// Host: the checkpoint's snapshot.
    pub snapshot: u64,
    /// Host: steps that the loader makes ahead.
    pub prefetch: u64,
    /// Host: images kept in memory, and resident images on their way to a GPU.
    pub images: u64,
    /// Host: what is known of every sample.
    pub index: u64,
    /// All of it, or with a GPU what the device holds.
    pub device: u64,
    /// What the host holds, where that is not the device.
    pub host: u64,
}

/// What memory depends on beside the spec.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setting<'a> {
    pub(super) phase: &'a PhaseSpec,
    pub(super) networks: &'a Networks,
    pub(super) train: &'a DataFacts,
    pub(super) eval: Option<&'a DataFacts>,
    /// Training images that the phase uses.
    pub(super) images: u64,
    /// Steps of the phase.
    pub(super) steps: u64,
    /// Whether evaluations come between them.
    pub(super) evaluated: bool,
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
        let teacher = self.networks.teacher.as_ref();
        let device = self.phase.gang.device;
        let walk = Walk {
            sizes,
            rows: held,
            several,
            mapped: mapped(device),
        };
        let (kept, mut peak) = match self.networks.whole {
            true => walk.backward(own),
            false => (
                Blocks::default(),
                Walk {
                    several: false,
                    ..walk
                }
                .forward(own),
            ),
        };
        // A teacher looks at the views while what the student keeps is there; gradient caching's first pass keeps nothing.
        if let Some(teacher) = teacher {
            peak = peak.max(
                kept + Walk {
                    several: false,
                    ..walk
                }
                .forward(teacher),
            );
        }
        // So does the pass of the average that feeds a memory.
        if (in_parts && self.phase.views() == 2) || self.networks.average.is_some() {
            peak = peak.max(walk.forward(own));
        }
        let copied = match self.phase.gang.precision {
            Precision::Bf16 => 2 * (own.parameters().trainable + pixels * held),
            Precision::Fp32 | Precision::Fp64 => 0,
        };
        let optimizer = self.networks.trained() * self.networks.kept_of_each;
        let state = own.elements() + optimizer + self.networks.memory();
        let stored = (share.images + share.labelled) * self.train.stored_bytes;
        let mut memory = Memory {
            weights: sizes.weight
                * (own.elements() + teacher.map_or(0, Network::elements) + self.networks.memory()),
            gradients: sizes.weight * self.networks.trained(),
            optimizer: sizes.weight * optimizer,
            batch: sizes.weight * pixels * rows,
            resident: self.resident(),
            activations: kept.total() + copied,
            workspace: peak.total() - kept.total() + sizes.weight * own.largest(),
            snapshot: sizes.weight * (state / u64::from(self.ranks) + own.largest()),
            prefetch: LOADED.min(self.steps) * (4 * pixels * rows + stored),
            images: self.train.kept() + self.eval.map_or(0, DataFacts::kept),
            index: INDEX_ENTRY * (self.train.images + self.eval.map_or(0, |eval| eval.images)),
            program: PROGRAM,
            ..Memory::default()
        };
        if let PhaseKind::Pretrain(_) = self.phase.kind {
            let dim = own.output();
            let all = 2 * u64::from(self.phase.batch);
            let columns = all + self.networks.remembered();
            let staged = if self.networks.average.is_some() {
                all
            } else {
                0
            };
            memory.embeddings = sizes.weight * dim * (2 * all + staged + 6 * rows);
            let (elements, most_rows) = match device {
                Device::Cpu => STRIP,
                Device::Cuda => STRIP_CUDA,
            };
            let strip = columns * (elements / columns).clamp(1, most_rows).min(rows);
            memory.loss = sizes.weight * STRIPS * strip;
        }
        let (evaluation, start) = (self.evaluation(sizes), self.start(sizes));
        match device {
            Device::Cpu => {
                let small = peak.small + evaluation.small;
                memory.evaluation = evaluation.small + evaluation.large.saturating_sub(peak.large);
                // Originals are collected in one large block, in place of a step.
                memory.start = start + memory.resident.saturating_sub(memory.step());
                let slack = match (self.networks.whole, self.evaluated) {
                    (false, _) => SLACK_FROZEN,
                    (true, true) => SLACK_EVALUATED,
                    (true, false) => SLACK,
                };
                memory.slack = ((slack - 1.0) * small as f64) as u64;
            }
            Device::Cuda => {
                // Those of the next step go up meanwhile.
                if self.phase.augment.place == ViewsOn::Host {
                    memory.batch *= 2;
                }
                let step = memory.step();
                memory.evaluation = evaluation.total().saturating_sub(step);
                memory.start = start.saturating_sub(step + memory.evaluation);
                memory.images += memory.resident;
            }
        }
        memory.total(device)
    }

    /// Every rank may need any sample: each holds all that the phase uses.
    fn resident(&self) -> u64 {
        match self.phase.augment.place {
            ViewsOn::Resident => self.images * self.train.decoded_bytes,
            ViewsOn::Host | ViewsOn::Device => 0,
        }
    }

    fn evaluation(&self, sizes: Sizes) -> Blocks {
        let Some(eval) = self.eval else {
            return Blocks::default();
        };
        let own = &self.networks.own;
        let walk = Walk {
            sizes,
            rows: EVALUATION_BATCH.min(eval.images),
            several: false,
            mapped: mapped(self.phase.gang.device),
        };
        let pass = walk.forward(own);
        let neighbours =
            matches!(&self.phase.kind, PhaseKind::Pretrain(spec) if spec.knn.is_some());
        if !neighbours || self.train.classes == 0 || eval.classes == 0 {
            return pass;
        }
        // The bank is joined from its batches while these are still there; queries are gathered from all ranks.
        let bank = self.train.images.div_ceil(u64::from(self.ranks));
        let tile = NEIGHBOUR_TILE.min(bank * eval.images);
        let row = sizes.weight * features(&own.encoder);
        let batches = Blocks {
            small: row * bank,
            large: 0,
        };
        let whole = Walk { rows: 1, ..walk };
        let search = [row * bank, row * eval.images, row * eval.images];
        let tiles = [sizes.weight * tile; 2];
        batches + pass.max(whole.bytes(search) + whole.bytes(tiles))
    }

    /// What is loaded is there as stored and as tensors, and a weight is made in f64 before it takes its value.
    fn start(&self, sizes: Sizes) -> u64 {
        let network = |network: &Network| (network.elements(), network.parameters().trainable);
        let (mut kept, mut momentum) = match self.phase.kind.source() {
            Source::Random => (0, 0),
            Source::Phase(_) | Source::Import(_) => network(&self.networks.own),
        };
        if let Some(teacher) = &self.networks.teacher {
            let (elements, trainable) = network(teacher);
            (kept, momentum) = (kept + elements, momentum + trainable);
        }
        let stored = sizes.weight * (kept + momentum);
        sizes.weight * kept + stored.max(INITIAL * self.networks.own.largest())
    }
}

impl Memory {
    /// What a step needs beyond the state.
    fn step(&self) -> u64 {
        self.activations + self.workspace + self.embeddings + self.loss
    }

    /// Adds up.
    fn total(self, device: Device) -> Self {
        let state = self.weights + self.gradients + self.optimizer + self.batch + self.resident;
        let busy = self.step() + self.slack + self.evaluation + self.start;
        let host = self.snapshot + self.prefetch + self.images + self.index;
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
        let weight = precision.weight_bytes();
        Self {
            weight,
            activation: match precision {
                Precision::Fp32 | Precision::Fp64 => weight,
                Precision::Bf16 => 2,
            },
            patches: precision == Precision::Fp64,
        }
    }
}

/// Bytes in blocks below and from [`MAPPED`] on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Blocks {
    small: u64,
    large: u64,
}

/// A way through a network with some rows.
#[derive(Debug, Clone, Copy)]
struct Walk {
    sizes: Sizes,
    rows: u64,
    /// Whether batch norm joins the parts of several groups.
    several: bool,
    /// Blocks from this size on are large.
    mapped: u64,
}

fn mapped(device: Device) -> u64 {
    match device {
        Device::Cpu => MAPPED,
        Device::Cuda => u64::MAX,
    }
}

impl Blocks {
    fn total(self) -> u64 {
        self.small + self.large
    }

    /// Each kind's own largest: what small blocks took stays taken.
    fn max(self, other: Self) -> Self {
        Self {
            small: self.small.max(other.small),
            large: self.large.max(other.large),
        }
    }
}

impl Add for Blocks {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            small: self.small + other.small,
            large: self.large + other.large,
        }
    }
}

impl Walk {
    /// So many numbers of each view, in blocks of each of these sizes.
    fn blocks(&self, elements: impl IntoIterator<Item = u64>) -> Blocks {
        let sizes = elements
            .into_iter()
            .map(|count| count * self.sizes.activation);
        self.bytes(sizes)
    }

    fn bytes(&self, of_a_view: impl IntoIterator<Item = u64>) -> Blocks {
        let mut blocks = Blocks::default();
        for block in of_a_view.into_iter().map(|bytes| bytes * self.rows) {
            if block < self.mapped {
                blocks.small += block;
            } else {
                blocks.large += block;
            }
        }
        blocks
    }

    /// What stays for backward, and the peak.
    fn backward(&self, network: &Network) -> (Blocks, Blocks) {
        let (mut kept, mut peak) = (Blocks::default(), Blocks::default());
        for operation in &network.operations {
            let copies = operation.kept / operation.output.max(1);
            kept = kept + self.blocks((0..copies).map(|_| operation.output));
            kept = kept + self.bytes([operation.kept_bytes]);
            // The gradient of its output before and after the batch norm, or that and its input's; and the gradient that
            // waits for the shortcut.
            let gradients = [
                operation.output,
                operation.output.max(operation.input),
                operation.beside,
            ];
            peak = peak.max(kept + self.blocks(gradients) + self.extra(operation));
        }
        // A dense layer keeps its output and, behind the ReLU, what the next one reads; so do features and logits.
        let dense = network.head.iter().chain(&network.classifiers);
        let weight = self.sizes.weight;
        kept = kept + self.bytes(dense.flat_map(|(_, output)| [weight * output; 2]));
        (kept, peak.max(kept))
    }

    /// The peak of a pass without a graph.
    fn forward(&self, network: &Network) -> Blocks {
        let alive = network.operations.iter().map(|operation| {
            let own = [
                operation.input,
                operation.output,
                operation.output,
                operation.beside,
            ];
            self.blocks(own) + self.extra(operation)
        });
        alive.fold(Blocks::default(), Blocks::max)
    }

    /// Patches, and the parts that the batch norm of several groups joins.
    fn extra(&self, operation: &Operation) -> Blocks {
        let joined = (self.several && operation.norm > 0).then_some(operation.output);
        let patches = self.sizes.patches.then_some(operation.patches);
        self.blocks(joined.into_iter().chain(patches))
    }
}

impl DataFacts {
    /// Decoded images and row groups.
    fn kept(&self) -> u64 {
        let kept = |mean: u64| (self.images * mean).min(KEPT_IMAGES);
        let row_groups = if self.row_groups {
            kept(self.stored_bytes)
        } else {
            0
        };
        kept(self.decoded_bytes) + row_groups
    }
}
