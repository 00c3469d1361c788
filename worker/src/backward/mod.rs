//! Gradients of the global loss, micro-batch by micro-batch.
//!
//! A step leaves the gradient of the mean over all ranks' rows in the [`Buckets`](crate::reduce::Buckets); the
//! [`Optimizer`](crate::optim::Optimizer) then commits it:
//!
//! ```text
//! let output = contrastive_step(&model, &mut buckets, &batch, &loss)?;   // or supervised_step
//! optimizer.commit(&mut model, &buckets, schedule.pace(step))?;          // the one commit point
//! ```
//!
//! After any error call [`Model::discard_step`](crate::project::Model::discard_step): nothing else has changed.

mod contrastive; // NT-Xent, with gradient caching over micro-batches
mod memory; // the averaged network and the queue of its rows
mod supervised; // any loss on logits

use tch::Tensor;

pub use contrastive::{Contrastive, ContrastiveOutput, ProbeOutput, contrastive_step};
pub use memory::Memory;
pub use supervised::{SupervisedOutput, Term, supervised_step};

use crate::device::StepError;
use crate::encode::TrainMode;

/// Whole batch-norm groups of a step, on this rank.
#[derive(Debug)]
pub struct MicroBatch {
    /// `[rows, 3, H, W]`, rows as `[group][view][lane, j]`, placed by [`Compute::place`](crate::device::Compute::place).
    pub images: Tensor,
    /// Rows of each group, both views counted.
    pub group_rows: Vec<i64>,
    /// `[rows]` i64 labels, one per row (so twice per image where there are two views); −1 where there is none.
    pub labels: Option<Tensor>,
}

/// One backward pass; a collective that failed inside it comes back as itself.
fn run_backward(roots: &[(&Tensor, &Tensor)], mode: &TrainMode) -> Result<(), StepError> {
    crate::device::shim::backward(roots).map_err(|error| match mode.failure().take() {
        Some(collective) => StepError::Collective(collective),
        None => StepError::Torch(error),
    })
}

#[cfg(test)]
mod tests;
