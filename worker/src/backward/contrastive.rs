use std::time::Instant;

use diptych_common::spec::NtXentSpec;
use tch::{Device, Kind, Tensor, no_grad};

use super::{MicroBatch, run_backward};
use crate::collective::{Collective, Gang};
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
    /// When everything was on its way to the device, and the host began to wait for it.
    pub queued: Instant,
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
    let mut probe = Probe::start(model, micro_batches, channel.as_ref())?;

    if let [batch] = micro_batches {
        let mode = mode(batch, true);
        let outputs = model.forward(&batch.images, Mode::Train(&mode))?;
        let found = step.nt_xent(outputs.top()?)?;
        let probe_loss = Probe::add(&mut probe, model, &outputs, batch)?;
        buckets.arm();
        backward(&outputs, &found.gradient, probe_loss.as_ref(), &mode)?;
        return finish(buckets, step, &found, probe);
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
        let probe_loss = Probe::add(&mut probe, model, &outputs, batch)?;
        if index + 1 == micro_batches.len() {
            buckets.arm();
        }
        backward(&outputs, &gradient, probe_loss.as_ref(), &mode)?;
    }
    finish(buckets, step, &found, probe)
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

/// Everything is on its way: only now the host waits for the device.
fn finish(
    buckets: &mut Buckets,
    step: &Contrastive<'_>,
    found: &NtXent,
    probe: Option<Probe>,
) -> Result<ContrastiveOutput, StepError> {
    let reduced = buckets.finish()?;
    let queued = Instant::now();
    let probe = probe.map(|probe| probe.finish(step.gang.statistics.as_ref()));
    let figures = found.figures()?;
    Ok(ContrastiveOutput {
        loss: figures.loss,
        accuracy: figures.accuracy,
        entropy: figures.entropy,
        probe: probe.transpose()?.flatten(),
        reduced,
        queued,
    })
}

impl Contrastive<'_> {
    fn nt_xent(&self, rows: &Tensor) -> Result<NtXent, StepError> {
        let channel = self.gang.statistics.as_ref();
        nt_xent(rows, self.loss, self.order, self.queue, channel)
    }
}

/// The linear probe of a step, on the device.
struct Probe {
    /// Labelled rows of all ranks, `[1]` of f64.
    labelled: Tensor,
    /// This rank's share of loss and hits, `[2]` of f64.
    sums: Tensor,
}

// === impl Probe ===

impl Probe {
    /// Counts the labelled rows of all ranks, where there is a probe to train on them.
    fn start(
        model: &Model,
        batches: &[MicroBatch],
        channel: &dyn Collective,
    ) -> Result<Option<Self>, StepError> {
        if !model.has_probe() {
            return Ok(None);
        }
        let options = (Kind::Double, model.compute().device);
        let mut labelled = Tensor::f_zeros([1], options)?;
        for labels in batches.iter().filter_map(|batch| batch.labels.as_ref()) {
            let _ = labelled.f_add_(&labels.f_ge(0)?.f_sum(Kind::Double)?)?;
        }
        channel.all_reduce(&mut labelled)?;
        let sums = Tensor::f_zeros([2], options)?;
        Ok(Some(Self { labelled, sums }))
    }

    /// A micro-batch's share of the global mean cross-entropy, with a graph.
    fn add(
        probe: &mut Option<Self>,
        model: &Model,
        outputs: &Outputs,
        batch: &MicroBatch,
    ) -> Result<Option<Tensor>, StepError> {
        let (Some(probe), Some(labels)) = (probe, &batch.labels) else {
            return Ok(None);
        };
        let Some(logits) = model.probe(outputs)? else {
            return Ok(None);
        };
        let sum = cross_entropy(&logits, labels)?;
        let all = probe.labelled.f_clamp_min(1.0)?.f_squeeze()?;
        let loss = sum.f_div(&all.f_to_kind(sum.kind())?)?;
        let found = [
            loss.f_detach()?.f_to_kind(Kind::Double)?,
            hits(&logits, labels, 1)?,
        ];
        let _ = probe.sums.f_add_(&Tensor::f_stack(&found, 0)?)?;
        Ok(Some(loss))
    }

    /// What all ranks found; nothing where no row is labelled. Waits for the device.
    fn finish(mut self, channel: &dyn Collective) -> Result<Option<ProbeOutput>, StepError> {
        channel.all_reduce(&mut self.sums)?;
        let all = Tensor::f_cat(&[&self.labelled, &self.sums], 0)?;
        let mut found = [0.0f64; 3];
        all.f_to_device(Device::Cpu)?.f_copy_data(&mut found, 3)?;
        let [labelled, loss, correct] = found;
        Ok((labelled > 0.0).then(|| ProbeOutput {
            loss,
            accuracy: correct / labelled,
        }))
    }
}
