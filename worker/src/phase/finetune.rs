//! The whole network on labels (SimCLR v2 §2); from random weights, the supervised baseline.

use super::classify;
use super::task::{EvalData, Task, Values, measured};
use super::{Learner, PhaseError};
use crate::backward::MicroBatch;
use crate::collective::Gang;
use crate::device::StepError;
use crate::reduce::Buckets;

/// Fine-tuning.
#[derive(Debug)]
pub struct Finetune {
    images: u32,
    data: EvalData,
}

impl Finetune {
    /// Steps of `images` images over all ranks.
    pub fn new(images: u32, data: EvalData) -> Self {
        Self { images, data }
    }
}

impl Task for Finetune {
    fn step(
        &mut self,
        learner: &Learner,
        buckets: &mut Buckets,
        batches: &[MicroBatch],
        gang: &Gang,
    ) -> Result<Values, StepError> {
        let losses = classify::step(learner, buckets, batches, (gang, self.images))?;
        Ok(losses
            .first()
            .map(|loss| measured("loss", *loss))
            .into_iter()
            .collect())
    }

    fn evaluate(&mut self, learner: &Learner, gang: &Gang) -> Result<Values, PhaseError> {
        self.data.accuracy(learner, gang)
    }
}
