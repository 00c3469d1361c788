//! Contrastive pretraining: two views, NT-Xent over the whole batch and the memory, a linear probe on stopped gradients.

use diptych_common::ids::Rank;
use diptych_common::spec::PretrainSpec;

use super::task::{EvalData, Task, Values, measured};
use super::{Learner, PhaseError};
use crate::backward::{Contrastive, Memory, MicroBatch, contrastive_step};
use crate::batch::Layout;
use crate::collective::Gang;
use crate::device::StepError;
use crate::gather::RowOrder;
use crate::reduce::Buckets;

/// Pretraining.
#[derive(Debug)]
pub struct Pretrain {
    spec: PretrainSpec,
    order: RowOrder,
    data: EvalData,
}

impl Pretrain {
    /// Pretraining of steps of this layout.
    ///
    /// # Errors
    /// Fails only where the layout is not one.
    pub fn new(spec: PretrainSpec, layout: Layout, data: EvalData) -> Result<Self, PhaseError> {
        let ranks = (0..layout.world()).map(Rank::new);
        let canonical = ranks
            .flat_map(|rank| layout.canonical_rows(rank, 2))
            .collect();
        let order = RowOrder::new(layout.rows_per_rank(2), canonical)?;
        Ok(Self { spec, order, data })
    }
}

impl Task for Pretrain {
    fn step(
        &mut self,
        learner: &Learner,
        buckets: &mut Buckets,
        batches: &[MicroBatch],
        gang: &Gang,
    ) -> Result<Values, StepError> {
        let queue = match &learner.memory {
            Some(memory) => {
                memory.stage(batches, &self.order, gang)?;
                Some(memory.rows(learner.step.get())?)
            }
            None => None,
        };
        let step = Contrastive {
            loss: &self.spec.loss,
            order: &self.order,
            queue: queue.as_ref(),
            gang,
        };
        let found = contrastive_step(&learner.model, buckets, batches, &step)?;
        learner.memory.as_ref().map_or(Ok(()), Memory::check)?;
        let mut values = vec![
            measured("loss", found.loss),
            measured("contrast_accuracy", found.accuracy),
            measured("contrast_entropy", found.entropy),
        ];
        if let Some(probe) = found.probe {
            values.extend([
                measured("probe_loss", probe.loss),
                measured("probe_train_top1", probe.accuracy),
            ]);
        }
        Ok(values)
    }

    fn evaluate(&mut self, learner: &Learner, gang: &Gang) -> Result<Values, PhaseError> {
        let mut values = self.data.probe(learner, gang)?;
        values.extend(self.data.neighbours(self.spec.knn, learner, gang)?);
        Ok(values)
    }
}
