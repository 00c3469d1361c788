use tch::Tensor;

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
    /// Counts to add up over micro-batches and ranks (hits, rows, …); as many in every term on every rank.
    pub counts: Vec<f64>,
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
    // The loss, then the counts.
    let mut sums: Vec<f64> = vec![0.0];
    for (index, batch) in micro_batches.iter().enumerate() {
        let mode = TrainMode::new(batch.group_rows.clone(), true, gang.statistics.clone());
        let outputs = model.forward(&batch.images, Mode::Train(&mode))?;
        let Term { loss, counts } = term(index, &outputs, batch)?;
        sums.resize(counts.len() + 1, 0.0);
        let found = std::iter::once(loss.f_double_value(&[])?).chain(counts);
        sums.iter_mut()
            .zip(found)
            .for_each(|(sum, count)| *sum += count);
        if index + 1 == micro_batches.len() {
            buckets.arm();
        }
        run_backward(&[(&loss, &loss.f_ones_like()?)], &mode)?;
    }
    let reduced = buckets.finish()?;
    let mut total = Tensor::f_from_slice(&sums)?.f_to_device(model.compute().device)?;
    gang.statistics.all_reduce(&mut total)?;
    let mut totals = Vec::<f64>::try_from(total)?.into_iter();
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
