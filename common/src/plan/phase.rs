//! One phase.

use serde::Serialize;

use crate::ids::{DataName, PhaseName};
use crate::network::{Role, TensorInfo, parameters};
use crate::spec::{JobSpec, PhaseKind, PhaseSpec};

use super::facts::{DataFacts, Facts};
use super::layout::Share;
use super::machine::Machine;
use super::memory::Memory;
use super::network::Networks;
use super::outline::Outline;
use super::traffic::Traffic;

/// Share of a trained view's operations that are backward.
const BACKWARD: f64 = 2.0 / 3.0;

/// What one phase takes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PhasePlan {
    /// Its name.
    pub name: PhaseName,
    /// Its kind, as specs write it.
    pub kind: &'static str,
    /// The training data.
    pub data: DataName,
    /// What is known of it.
    pub facts: DataFacts,
    /// Training images that it uses: an epoch.
    pub images: u64,
    /// Side of a view in pixels.
    pub image_size: u32,
    /// Views of each image.
    pub views: u32,
    /// Images per step.
    pub batch: u32,
    /// Optimiser steps.
    pub steps: u64,
    /// Passes over its training images.
    pub epochs: f64,
    /// Evaluations, the last one included.
    pub evaluations: u64,
    /// Batch-norm groups, and how many are held at once.
    pub groups: u32,
    /// See above.
    pub micro_batch_groups: u32,
    /// Elements of its networks.
    pub parameters: Parameters,
    /// Floating-point operations.
    pub work: Work,
    /// Operations per second that are reckoned for a device, and the share of its peak that they are.
    pub flops_per_s: f64,
    /// See above.
    pub mfu: f64,
    /// A checkpoint: weights, running statistics and the optimiser's state.
    pub checkpoint_bytes: u64,
    /// Every number of ranks that the spec allows, ascending.
    pub worlds: Vec<World>,
}

/// Numbers of elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Parameters {
    /// Of the encoder.
    pub encoder: u64,
    /// Of the layers of the projection head that are built.
    pub head: u64,
    /// Of the classifier or probe.
    pub classifier: u64,
    /// Of all these, what the optimiser updates.
    pub trained: u64,
    /// Running means and variances.
    pub statistics: u64,
    /// Of a fixed teacher.
    pub teacher: u64,
}

/// Floating-point operations, two per multiply-add of convolutions and dense layers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Work {
    /// One view's way forward through the network that is trained.
    pub forward: f64,
    /// A step over all ranks: forward, and twice that backward; a second forward pass where micro-batches need one; a
    /// teacher's; the loss.
    pub step: f64,
    /// One evaluation over all ranks.
    pub evaluation: f64,
    /// The whole phase.
    pub phase: f64,
}

/// A number of ranks.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct World {
    /// How many.
    pub ranks: u32,
    /// Images per step of the fullest rank.
    pub images: u64,
    /// Bytes of the fullest rank.
    pub memory: Memory,
    /// The same with all batch-norm groups held at once; `None` where they are.
    pub memory_at_once: Option<Memory>,
    /// Bytes that each rank sends in a step.
    pub traffic: Traffic,
    /// Estimated time of a step.
    pub step_s: f64,
    /// Images per second over all ranks, which reading and augmenting have to keep up with.
    pub images_per_s: f64,
    /// Share of the ranks' time that one rank alone would need for the same steps.
    pub efficiency: f64,
    /// Whether its steps are faster than those of every smaller world.
    pub faster: bool,
    /// Estimated time of the phase, evaluations included.
    pub phase_s: f64,
}

impl PhasePlan {
    pub(super) fn new(spec: &JobSpec, phase: &PhaseSpec, facts: &Facts, machine: &Machine) -> Self {
        let outline = Outline::of(spec, phase, facts);
        let Outline {
            train,
            eval,
            networks,
            images,
            steps,
            evaluations,
        } = &outline;
        let (images, steps, evaluations) = (*images, *steps, *evaluations);
        let work = Work::of(
            phase,
            networks,
            (train, eval.as_ref()),
            (steps, evaluations),
        );
        let mut plan = Self {
            name: phase.name.clone(),
            kind: phase.kind.word(),
            data: phase.train.clone(),
            images,
            image_size: phase.augment.image_size,
            views: phase.views(),
            batch: phase.batch,
            steps,
            epochs: steps as f64 * f64::from(phase.batch) / (images.max(1) as f64),
            evaluations,
            groups: phase.groups,
            micro_batch_groups: phase.micro_batch_groups,
            parameters: Parameters::of(networks),
            work,
            flops_per_s: machine.flops_per_s(phase.gang.precision),
            mfu: machine.mfu(phase.gang.precision),
            checkpoint_bytes: checkpoint_bytes(phase, networks),
            worlds: Vec::new(),
            facts: train.clone(),
        };
        let alone = plan.time(phase, machine, 1, &Traffic::default());
        let mut fastest = f64::INFINITY;
        for ranks in phase.gang.min..=phase.gang.max {
            let traffic = Traffic::of(phase, networks, ranks);
            let step_s = plan.time(phase, machine, ranks, &traffic);
            let setting = outline.setting(phase, ranks);
            let share = Share::of(phase, ranks, phase.micro_batch_groups);
            let rate = plan.flops_per_s * f64::from(ranks);
            let evaluating = evaluations as f64 * work.evaluation / rate;
            plan.worlds.push(World {
                ranks,
                images: share.images,
                memory: setting.memory(phase.micro_batch_groups),
                memory_at_once: (phase.micro_batch_groups < phase.groups)
                    .then(|| setting.memory(phase.groups)),
                traffic,
                step_s,
                images_per_s: f64::from(phase.batch) / step_s,
                efficiency: alone / (f64::from(ranks) * step_s),
                faster: step_s < fastest,
                phase_s: steps as f64 * step_s + evaluating,
            });
            fastest = fastest.min(step_s);
        }
        plan
    }

    /// Seconds of a step.
    fn time(&self, phase: &PhaseSpec, machine: &Machine, ranks: u32, traffic: &Traffic) -> f64 {
        let share = Share::of(phase, ranks, phase.micro_batch_groups);
        let part = share.images as f64 / f64::from(phase.batch);
        let compute = part * self.work.step / self.flops_per_s;
        let rate = machine.bytes_per_s();
        let waited = (traffic.embeddings + traffic.statistics) as f64 / rate
            + traffic.small as f64 * machine.latency_s();
        let last = share.held as f64 / share.images.max(1) as f64;
        let (travel, tail) = traffic.gradient_s(rate);
        let exposed = (travel - BACKWARD * compute * last).max(tail);
        compute + waited + exposed
    }
}

impl Parameters {
    fn of(networks: &Networks) -> Self {
        let tensors = &networks.own.tensors;
        let of = |prefixes: &[&str]| -> u64 {
            let part = |tensor: &&TensorInfo| {
                let first = tensor.name.split('.').next().unwrap_or_default();
                tensor.role == Role::Weight && prefixes.contains(&first)
            };
            tensors.iter().filter(part).map(TensorInfo::elements).sum()
        };
        let count = parameters(tensors);
        let (head, classifier) = (of(&["head"]), of(&["fc", "fc_at", "probe"]));
        Self {
            encoder: count.trainable - head - classifier,
            head,
            classifier,
            trained: networks.trained(),
            statistics: count.statistics,
            teacher: networks
                .teacher
                .as_ref()
                .map_or(0, |teacher| teacher.parameters().trainable),
        }
    }
}

impl Work {
    fn of(
        phase: &PhaseSpec,
        networks: &Networks,
        (train, eval): (&DataFacts, Option<&DataFacts>),
        (steps, evaluations): (u64, u64),
    ) -> Self {
        let own = &networks.own;
        let forward = own.forward_flops() as f64;
        let classifier = own
            .classifiers
            .iter()
            .map(|(inputs, classes)| 2 * inputs * classes)
            .sum::<u64>() as f64;
        let batch = f64::from(phase.batch);
        let in_parts = phase.micro_batch_groups < phase.groups;
        let step = match &phase.kind {
            PhaseKind::Pretrain(_) => {
                let rows = 2.0 * batch;
                let dim = own.output() as f64;
                // The similarities twice, and their weights times the rows.
                let columns = rows + networks.remembered() as f64;
                let loss = 6.0 * rows * columns * dim;
                let average = networks
                    .average
                    .as_ref()
                    .map_or(0, |(network, _)| network.forward_flops());
                let passes = if in_parts { 4.0 } else { 3.0 };
                rows * (passes * forward + average as f64) + loss
            }
            PhaseKind::LinearEval(_) => batch * (forward + 2.0 * classifier),
            PhaseKind::Finetune(_) => batch * 3.0 * forward,
            PhaseKind::Distill(_) => {
                let labelled = phase.kind.labelled_batch();
                let teacher = networks
                    .teacher
                    .as_ref()
                    .map_or(0, |teacher| teacher.forward_flops());
                (batch + f64::from(labelled)) * 3.0 * forward + batch * teacher as f64
            }
        };
        let bank = match &phase.kind {
            PhaseKind::Pretrain(spec) if spec.knn.is_some() => train.images,
            _ => 0,
        };
        let evaluation = eval.map_or(0.0, |eval| (eval.images + bank) as f64 * forward);
        Self {
            forward,
            step,
            evaluation,
            phase: steps as f64 * step + evaluations as f64 * evaluation,
        }
    }
}

/// Weights, running statistics, the optimiser's state and a memory.
fn checkpoint_bytes(phase: &PhaseSpec, networks: &Networks) -> u64 {
    let optimizer = networks.trained() * networks.kept_of_each;
    phase.gang.precision.weight_bytes() * (networks.own.elements() + optimizer + networks.memory())
}
