use tch::{Kind, Tensor};

use super::{MicroBatch, run_backward};
use crate::collective::Gang;
use crate::device::StepError;
use crate::encode::{Mode, TrainMode};
use crate::project::{Model, Outputs};
use crate::reduce::{Buckets, Reduced};

/// One micro-batch's share of the loss.
#[derive(Debug)]
pub struct Term {
    /// A scalar with a graph, already divided by what makes its sum over micro-batches and ranks the global mean.
    pub loss: Tensor,
    /// Numbers to add up over micro-batches and ranks (hits, rows, …), without a graph; as many in every term on every
    /// rank.
    pub counts: Vec<Tensor>,
}

/// What a supervised step found, the same on every rank (save `reduced`).
#[derive(Debug)]
pub struct SupervisedOutput {
    /// The global loss.
    pub loss: f64,
    /// The terms' counts, summed.
    pub counts: Vec<f64>,
    /// How long gradients travelled.
    pub reduced: Reduced,
}

/// One step on any loss of the network's outputs: afterwards `buckets` hold the gradient of the global loss. `term`
/// gets the index of the micro-batch, its outputs and itself. Every rank passes as many micro-batches.
///
/// # Errors
/// [`StepError`]; then call [`Model::discard_step`].
pub fn supervised_step(
    model: &Model,
    buckets: &mut Buckets,
    micro_batches: &[MicroBatch],
    gang: &Gang,
    mut term: impl FnMut(usize, &Outputs, &MicroBatch) -> Result<Term, StepError>,
) -> Result<SupervisedOutput, StepError> {
    buckets.clear()?;
    // The loss, then the counts. They stay on the device: nobody waits for it before the last backward pass.
    let mut sums = Tensor::f_zeros([1], (Kind::Double, model.compute().device))?;
    for (index, batch) in micro_batches.iter().enumerate() {
        let mode = TrainMode::new(batch.group_rows.clone(), true, gang.statistics.clone());
        let outputs = model.forward(&batch.images, Mode::Train(&mode))?;
        let Term { loss, counts } = term(index, &outputs, batch)?;
        let found = std::iter::once(loss.f_detach()?).chain(counts);
        let found: Vec<Tensor> = found
            .map(|number| number.f_to_kind(Kind::Double))
            .collect::<Result<_, _>>()?;
        sums = sums.f_add(&Tensor::f_stack(&found, 0)?)?;
        if index + 1 == micro_batches.len() {
            buckets.arm();
        }
        run_backward(&[(&loss, &loss.f_ones_like()?)], &mode)?;
    }
    let reduced = buckets.finish()?;
    gang.statistics.all_reduce(&mut sums)?;
    let mut totals = Vec::<f64>::try_from(sums)?.into_iter();
    let loss = totals.next().unwrap_or(0.0);
    if !loss.is_finite() {
        return Err(StepError::NonFinite {
            tensor: "loss".to_owned(),
        });
    }
    Ok(SupervisedOutput {
        loss,
        counts: totals.collect(),
        reduced,
    })
}
