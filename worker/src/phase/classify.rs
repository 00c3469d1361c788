//! The supervised step that `linear_eval` and `finetune` share: mean cross-entropy over the batch.

use crate::backward::{MicroBatch, Term, supervised_step};
use crate::collective::Gang;
use crate::device::StepError;
use crate::loss::cross_entropy;
use crate::reduce::Buckets;

use super::Learner;
use super::task::Values;

/// One step on labels; `images` are those of all ranks.
///
/// # Errors
/// [`StepError`]; the loop gives the step up.
pub(super) fn step(
    learner: &Learner,
    buckets: &mut Buckets,
    batches: &[MicroBatch],
    (gang, images): (&Gang, u32),
) -> Result<Values, StepError> {
    let found = supervised_step(
        &learner.model,
        buckets,
        batches,
        gang,
        |_, outputs, batch| {
            let logits = outputs
                .logits
                .as_ref()
                .ok_or_else(|| missing("a classifier"))?;
            let labels = batch.labels.as_ref().ok_or_else(|| missing("labels"))?;
            let loss = cross_entropy(logits, labels)? / f64::from(images);
            Ok(Term {
                loss,
                counts: Vec::new(),
            })
        },
    )?;
    Ok(vec![("loss", found.loss)])
}

/// A step that lacks what its kind needs; preparing refuses such phases.
pub(super) fn missing(what: &'static str) -> StepError {
    StepError::Shape {
        what: "a supervised step",
        expected: what.to_owned(),
        got: "none".to_owned(),
    }
}
