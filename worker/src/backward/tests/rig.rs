//! One rank with everything that a step takes, and data that is a function of a row's place alone.

use diptych_common::ids::Rank;
use diptych_common::spec::{MomentumKind, NtXentSpec, OptimizerSpec, Rule, Scaling};
use tch::{Kind, Tensor};

use super::{BATCH, Machine};
use crate::backward::{Contrastive, ContrastiveOutput, MicroBatch, contrastive_step};
use crate::batch::Layout;
use crate::collective::Gang;
use crate::device::{Compute, StepError};
use crate::gather::RowOrder;
use crate::optim::{Optimizer, Pace};
use crate::project::{Model, ModelSpec, NamedTensor};
use crate::reduce::Buckets;

const SIZE: i64 = 8;
const PACE: Pace = Pace { step: 0, rate: 0.5 };
pub(super) const LOSS: NtXentSpec = NtXentSpec {
    temperature: 0.5,
    normalize: true,
    scale: 1.0,
};

/// The rank.
pub(super) struct Rig {
    pub(super) gang: Gang,
    pub(super) order: RowOrder,
    pub(super) model: Model,
    pub(super) buckets: Buckets,
    pub(super) batches: Vec<MicroBatch>,
    optimizer: Optimizer,
}

impl Rig {
    /// A rank of `gang`, before the first step, that takes `views` of each image.
    pub(super) fn new(spec: &ModelSpec, machine: Machine, views: u32, gang: Gang) -> Self {
        let layout =
            Layout::new(BATCH, BATCH, machine.groups, machine.world as u32).expect("a layout");
        let compute = Compute::cpu(machine.precision);
        let model = Model::new(spec, 7, compute).expect("a model");
        let how = (machine.groups_at_once, views);
        Self {
            order: RowOrder::of_step(&layout).expect("an order"),
            buckets: Buckets::new(&model, gang.gradients.clone()).expect("buckets"),
            optimizer: Optimizer::new(&lars(), &model).expect("an optimiser"),
            batches: micro_batches(&layout, gang.rank(), how, compute),
            model,
            gang,
        }
    }

    /// A contrastive step, up to the gradients.
    pub(super) fn step(&mut self) -> Result<ContrastiveOutput, StepError> {
        let step = Contrastive {
            loss: &LOSS,
            order: &self.order,
            queue: None,
            gang: &self.gang,
        };
        contrastive_step(&self.model, &mut self.buckets, &self.batches, &step)
    }

    pub(super) fn commit(&mut self) -> Result<(), StepError> {
        self.optimizer.commit(&mut self.model, &self.buckets, PACE)
    }

    pub(super) fn state(&self) -> Vec<NamedTensor> {
        let named = self.model.named_tensors().into_iter();
        named.chain(self.optimizer.named_tensors()).collect()
    }

    pub(super) fn digest(&self) -> blake3::Hash {
        NamedTensor::digest(&self.state()).expect("a digest")
    }
}

fn lars() -> OptimizerSpec {
    OptimizerSpec {
        rule: Rule::Lars {
            trust_coefficient: 0.001,
            momentum: 0.9,
            kind: MomentumKind::Classic,
        },
        learning_rate: 1.0,
        scaling: Scaling::None,
        warmup_epochs: 0.0,
        weight_decay: 1e-4,
    }
}

/// The image of a row: a function of view and position, so that ranks hold different data.
fn image(view: u32, position: u32) -> Tensor {
    let count = 3 * SIZE * SIZE;
    let seed = f64::from(view * 131 + position * 17 + 1);
    let x = Tensor::arange(count, (Kind::Double, tch::Device::Cpu));
    ((x * (0.37 + 0.011 * seed) + seed).sin() * 0.5 + 0.5).view([3, SIZE, SIZE])
}

fn micro_batches(
    layout: &Layout,
    rank: Rank,
    (at_once, views): (u32, u32),
    compute: Compute,
) -> Vec<MicroBatch> {
    let batches = layout.micro_batches(at_once).map(|groups| {
        let rows = layout.rows(rank, groups.clone(), views);
        let images: Vec<Tensor> = rows
            .iter()
            .map(|row| image(row.view, row.position))
            .collect();
        let labels: Vec<i64> = rows.iter().map(|row| i64::from(row.position % 3)).collect();
        MicroBatch {
            images: compute.place(&Tensor::stack(&images, 0)).expect("placed"),
            group_rows: groups
                .map(|group| i64::from(layout.images_of(rank, group) * views))
                .collect(),
            labels: Some(Tensor::from_slice(&labels)),
        }
    });
    batches.collect()
}
