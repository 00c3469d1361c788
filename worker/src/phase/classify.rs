//! The supervised step that `linear_eval` and `finetune` share: mean cross-entropy over the batch, of every classifier.
//! Classifiers share no weight that is trained with them, so the gradient of the sum is each one's own.

use tch::Tensor;

use crate::backward::{MicroBatch, Term, supervised_step};
use crate::collective::Gang;
use crate::device::StepError;
use crate::loss::cross_entropy;
use crate::reduce::Buckets;

use super::Learner;

/// One step on labels; `images` are those of all ranks. Returns the loss of each classifier, `fc` first.
///
/// # Errors
/// [`StepError`]; the loop gives the step up.
pub(super) fn step(
    learner: &Learner,
    buckets: &mut Buckets,
    batches: &[MicroBatch],
    (gang, images): (&Gang, u32),
) -> Result<Vec<f64>, StepError> {
    let found = supervised_step(
        &learner.model,
        buckets,
        batches,
        gang,
        |_, outputs, batch| {
            let labels = batch.labels.as_ref().ok_or_else(|| missing("labels"))?;
            let mean = |logits: &Tensor| -> Result<Tensor, StepError> {
                Ok(cross_entropy(logits, labels)? / f64::from(images))
            };
            let mut losses = outputs.all_logits().map(mean);
            let first = losses.next().ok_or_else(|| missing("a classifier"))??;
            let others = losses.collect::<Result<Vec<_>, StepError>>()?;
            let mut counts = Vec::new();
            if !others.is_empty() {
                counts.push(first.f_detach()?);
            }
            let mut loss = first;
            for other in others {
                counts.push(other.f_detach()?);
                loss = loss.f_add(&other)?;
            }
            Ok(Term { loss, counts })
        },
    )?;
    Ok(if found.counts.is_empty() {
        vec![found.loss]
    } else {
        found.counts
    })
}

/// A step that lacks what its kind needs; preparing refuses such phases.
pub(super) fn missing(what: &'static str) -> StepError {
    StepError::Shape {
        what: "a supervised step",
        expected: what.to_owned(),
        got: "none".to_owned(),
    }
}
