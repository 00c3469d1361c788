//! A linear classifier on the frozen encoder (SimCLR v1 §4.2, running batch-norm statistics).

use super::classify;
use super::task::{EvalData, Task, Values};
use super::{Learner, PhaseError};
use crate::backward::MicroBatch;
use crate::collective::Gang;
use crate::device::StepError;
use crate::reduce::Buckets;

/// Linear evaluation.
#[derive(Debug)]
pub struct LinearEval {
    images: u32,
    data: EvalData,
}

impl LinearEval {
    /// Steps of `images` images over all ranks.
    pub fn new(images: u32, data: EvalData) -> Self {
        Self { images, data }
    }
}

impl Task for LinearEval {
    fn step(
        &mut self,
        learner: &Learner,
        buckets: &mut Buckets,
        batches: &[MicroBatch],
        gang: &Gang,
    ) -> Result<Values, StepError> {
        classify::step(learner, buckets, batches, (gang, self.images))
    }

    fn evaluate(&mut self, learner: &Learner, gang: &Gang) -> Result<Values, PhaseError> {
        self.data.accuracy(learner, gang)
    }
}
