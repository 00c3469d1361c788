use diptych_common::spec::NtXentSpec;
use tch::{Kind, Tensor, no_grad};

use super::{MicroBatch, run_backward};
use crate::collective::Gang;
use crate::device::StepError;
use crate::encode::{Mode, TrainMode};
use crate::gather::RowOrder;
use crate::loss::{NtXent, cross_entropy, hits, nt_xent};
use crate::project::{Model, Outputs};
use crate::reduce::{Buckets, Reduced};

/// What a contrastive step needs beside the images.
#[derive(Debug)]
pub struct Contrastive<'a> {
    /// The loss.
    pub loss: &'a NtXentSpec,
    /// Who holds which row; this rank's rows are those of the micro-batches, one after the other.
    pub order: &'a RowOrder,
    /// The memory's rows, see [`nt_xent`].
    pub queue: Option<&'a Tensor>,
    /// The ranks.
    pub gang: &'a Gang,
}

/// What a contrastive step found, the same on every rank (save `reduced`).
#[derive(Debug)]
pub struct ContrastiveOutput {
    /// NT-Xent, times the spec's scale.
    pub loss: f64,
    /// Share of first views whose most similar second view is their own.
    pub accuracy: f64,
    /// Mean entropy of the first views' softmax over second views, in nats.
    pub entropy: f64,
    /// Of the linear probe on stopped gradients, where the model has one.
    pub probe: Option<ProbeOutput>,
    /// How long gradients travelled.
    pub reduced: Reduced,
}

/// What the concurrent linear probe found, over all labelled rows of the step.
#[derive(Debug, Clone, Copy)]
pub struct ProbeOutput {
    /// Mean cross-entropy.
    pub loss: f64,
    /// Top-1 accuracy.
    pub accuracy: f64,
}

/// One step of pretraining over all ranks: afterwards `buckets` hold the gradient of the global loss.
///
/// One micro-batch is one forward and one backward pass. More cost a second forward pass: first all rows of `u`
/// without a graph, then the gradient of the loss, then one micro-batch after the other with a graph (gradient
/// caching, Gao et al. 2021). Statistics are per group, so the result is the same.
///
/// # Errors
/// [`StepError`]; then call [`Model::discard_step`].
pub fn contrastive_step(
    model: &Model,
    buckets: &mut Buckets,
    micro_batches: &[MicroBatch],
    step: &Contrastive<'_>,
) -> Result<ContrastiveOutput, StepError> {
    buckets.clear()?;
    let channel = &step.gang.statistics;
    let mode = |batch: &MicroBatch, stage| {
        TrainMode::new(batch.group_rows.clone(), stage, channel.clone())
    };
    let labelled = count_labelled(model, micro_batches, step)?;
    let mut probe = ProbeSums::default();

    if let [batch] = micro_batches {
        let mode = mode(batch, true);
        let outputs = model.forward(&batch.images, Mode::Train(&mode))?;
        let found = step.nt_xent(outputs.top()?)?;
        let probe_loss = probe.add(model, &outputs, batch, labelled)?;
        buckets.arm();
        backward(&outputs, &found.gradient, probe_loss.as_ref(), &mode)?;
        return finish(buckets, step, found, probe, labelled);
    }

    let rows: Result<Vec<Tensor>, StepError> = micro_batches
        .iter()
        .map(|batch| {
            let mode = mode(batch, false);
            let outputs = no_grad(|| model.forward(&batch.images, Mode::Train(&mode)))?;
            Ok(outputs.top()?.shallow_clone())
        })
        .collect();
    let found = step.nt_xent(&Tensor::f_cat(&rows?, 0)?)?;
    let mut start = 0;
    for (index, batch) in micro_batches.iter().enumerate() {
        let mode = mode(batch, true);
        let outputs = model.forward(&batch.images, Mode::Train(&mode))?;
        let rows = batch.images.size()[0];
        let gradient = found.gradient.f_narrow(0, start, rows)?;
        start += rows;
        let probe_loss = probe.add(model, &outputs, batch, labelled)?;
        if index + 1 == micro_batches.len() {
            buckets.arm();
        }
        backward(&outputs, &gradient, probe_loss.as_ref(), &mode)?;
    }
    finish(buckets, step, found, probe, labelled)
}

fn backward(
    outputs: &Outputs,
    gradient: &Tensor,
    probe_loss: Option<&Tensor>,
    mode: &TrainMode,
) -> Result<(), StepError> {
    let mut roots = vec![(outputs.top()?, gradient)];
    let one = probe_loss.map(Tensor::f_ones_like).transpose()?;
    roots.extend(probe_loss.zip(one.as_ref()));
    run_backward(&roots, mode)
}

/// Labelled rows of all ranks, where there is a probe to train on them.
fn count_labelled(
    model: &Model,
    batches: &[MicroBatch],
    step: &Contrastive<'_>,
) -> Result<f64, StepError> {
    if !model.has_probe() {
        return Ok(0.0);
    }
    let mut count = 0;
    for labels in batches.iter().filter_map(|batch| batch.labels.as_ref()) {
        count += labels.f_ge(0)?.f_sum(Kind::Int64)?.f_int64_value(&[])?;
    }
    let mut total = Tensor::f_from_slice(&[count as f64])?.f_to_device(model.compute().device)?;
    step.gang.statistics.all_reduce(&mut total)?;
    Ok(total.f_double_value(&[0])?)
}

fn finish(
    buckets: &mut Buckets,
    step: &Contrastive<'_>,
    found: NtXent,
    probe: ProbeSums,
    labelled: f64,
) -> Result<ContrastiveOutput, StepError> {
    let reduced = buckets.finish()?;
    let probe = if labelled > 0.0 {
        let mut sums = Tensor::f_from_slice(&[probe.loss, probe.correct])?
            .f_to_device(found.gradient.device())?;
        step.gang.statistics.all_reduce(&mut sums)?;
        let (loss, correct) = (sums.f_double_value(&[0])?, sums.f_double_value(&[1])?);
        Some(ProbeOutput {
            loss,
            accuracy: correct / labelled,
        })
    } else {
        None
    };
    Ok(ContrastiveOutput {
        loss: found.loss,
        accuracy: found.accuracy,
        entropy: found.entropy,
        probe,
        reduced,
    })
}

impl Contrastive<'_> {
    fn nt_xent(&self, rows: &Tensor) -> Result<NtXent, StepError> {
        let channel = self.gang.statistics.as_ref();
        nt_xent(rows, self.loss, self.order, self.queue, channel)
    }
}

/// This rank's share of the probe's figures.
#[derive(Default)]
struct ProbeSums {
    loss: f64,
    correct: f64,
}

// === impl ProbeSums ===

impl ProbeSums {
    /// The probe's share of the global mean cross-entropy, with a graph.
    fn add(
        &mut self,
        model: &Model,
        outputs: &Outputs,
        batch: &MicroBatch,
        labelled: f64,
    ) -> Result<Option<Tensor>, StepError> {
        let Some(labels) = &batch.labels else {
            return Ok(None);
        };
        if labelled == 0.0 {
            return Ok(None);
        }
        let Some(logits) = model.probe(outputs)? else {
            return Ok(None);
        };
        let rows = labels.f_ge(0)?.f_nonzero()?.f_squeeze_dim(1)?;
        let (logits, labels) = (
            logits.f_index_select(0, &rows)?,
            labels.f_index_select(0, &rows)?,
        );
        let loss = cross_entropy(&logits, &labels)? / labelled;
        self.loss += loss.f_double_value(&[])?;
        self.correct += hits(&logits, &labels, 1)? as f64;
        Ok(Some(loss))
    }
}
