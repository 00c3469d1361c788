//! Accuracy and nearest neighbours over a whole data set, each rank its share; sums, so that shares may be ragged.

use diptych_common::checkpoint::Preprocessing;
use diptych_common::ids::Rank;
use diptych_common::spec::Knn;
use tch::{Kind, Tensor, no_grad};

use super::PhaseError;
use super::bad::{self, Notices};
use super::knn::{self, Neighbours};
use super::tally::Tally;
use crate::batch::{BadImage, EvalLoader, EvalOptions, Source};
use crate::collective::{Collective, Gang};
use crate::encode::Mode;
use crate::project::{Model, Outputs};

/// Images of one evaluation pass at once.
const BATCH: usize = 128;

/// How evaluation images are read.
#[derive(Debug, Clone)]
pub struct Reading {
    /// What is done to an image.
    pub preprocessing: Preprocessing,
    /// Share of the images that may be unreadable.
    pub max_bad_images: f64,
    /// Threads that decode.
    pub threads: usize,
    /// Where unreadable images are named.
    pub notices: Notices,
}

/// What every classifier gets right on `data`, `fc` first, over all ranks.
///
/// # Errors
/// Fails where data, libtorch or a collective does.
pub fn accuracies(
    model: &Model,
    data: &Source,
    reading: &Reading,
    gang: &Gang,
) -> Result<Vec<Tally>, PhaseError> {
    let mut tallies = vec![Tally::default(); model.classifiers()];
    let left_out = each_batch(model, data, reading, gang, |outputs, labels| {
        for (tally, logits) in tallies.iter_mut().zip(outputs.all_logits()) {
            tally.add(logits, &labels)?;
        }
        Ok(())
    })?;
    let whole = tallies
        .into_iter()
        .map(|tally| over_ranks(tally, (data, &left_out), reading, gang));
    whole.collect()
}

/// What the probe gets right on `data`, over all ranks.
///
/// # Errors
/// Fails where data, libtorch or a collective does.
pub fn probe_accuracy(
    model: &Model,
    data: &Source,
    reading: &Reading,
    gang: &Gang,
) -> Result<Tally, PhaseError> {
    let mut tally = Tally::default();
    let left_out = each_batch(model, data, reading, gang, |outputs, labels| {
        if let Some(logits) = model.probe(&outputs)? {
            tally.add(&logits, &labels)?;
        }
        Ok(())
    })?;
    over_ranks(tally, (data, &left_out), reading, gang)
}

/// The counts of all ranks, unless too many images were left out.
fn over_ranks(
    mut tally: Tally,
    (data, left_out): (&Source, &[BadImage]),
    reading: &Reading,
    gang: &Gang,
) -> Result<Tally, PhaseError> {
    tally.bad = left_out.len() as f64;
    let tally = tally.over_ranks(&*gang.statistics)?;
    bad::within(data, tally.bad as u64, left_out, reading.max_bad_images)?;
    Ok(tally)
}

/// Top-1 accuracy on `data` of a vote of its nearest neighbours in `bank`, by encoder features.
///
/// # Errors
/// Fails where data, libtorch or a collective does.
pub fn nearest_neighbours(
    model: &Model,
    (bank, data): (&Source, &Source),
    knn: Knn,
    reading: &Reading,
    gang: &Gang,
) -> Result<f64, PhaseError> {
    let channel = &*gang.statistics;
    let (bank_rows, bank_labels) = features(model, bank, reading, gang)?;
    let (queries, labels) = features(model, data, reading, gang)?;
    let (queries, labels) = (gather(&queries, channel)?, gather(&labels, channel)?);
    let k = i64::from(knn.k).min(bank.len() as i64);
    let classes = bank.index().classes().len() as i64;
    let count = labels.size()[0];
    let mut right = 0;
    // Tile by tile: no rank holds all queries' neighbours, let alone all similarities.
    for start in (0..count).step_by(knn::QUERY_TILE as usize) {
        let rows = knn::QUERY_TILE.min(count - start);
        let tile = queries.f_narrow(0, start, rows)?;
        let own = knn::nearest(&bank_rows, &bank_labels, &tile, k)?;
        let found = everybodys(own, k, channel)?;
        let votes = knn::vote(&found, knn.temperature, classes)?;
        right += votes
            .f_eq_tensor(&labels.f_narrow(0, start, rows)?)?
            .f_sum(Kind::Int64)?
            .f_int64_value(&[])?;
    }
    Ok(right as f64 / count.max(1) as f64)
}

/// The `k` best of all ranks' shares of the bank, for the same queries.
fn everybodys(own: Neighbours, k: i64, channel: &dyn Collective) -> Result<Neighbours, PhaseError> {
    let world = channel.world();
    if world == 1 {
        return Ok(own);
    }
    let (rows, missing) = (own.cosine.size()[0], k - own.cosine.size()[1]);
    let pad = |tensor: &Tensor, value: f64| tensor.f_pad([0, missing], "constant", value);
    let shares = vec![rows; world];
    // A share with fewer than k rows is filled up with neighbours that have no weight.
    let cosine = pad(&own.cosine, f64::NEG_INFINITY)?.f_contiguous()?;
    let cosine = channel.all_gather(&cosine, &shares)?;
    let label = channel.all_gather(&pad(&own.label, 0.0)?.f_contiguous()?, &shares)?;
    let parts: Vec<Neighbours> = cosine
        .f_split(rows, 0)?
        .into_iter()
        .zip(label.f_split(rows, 0)?)
        .map(|(cosine, label)| Neighbours { cosine, label })
        .collect();
    Ok(knn::merge(&parts, k)?)
}

/// Unit features and labels of this rank's share.
fn features(
    model: &Model,
    data: &Source,
    reading: &Reading,
    gang: &Gang,
) -> Result<(Tensor, Tensor), PhaseError> {
    let compute = model.compute();
    let mut rows = vec![Tensor::f_zeros(
        [0, model.features()],
        (compute.kind(), compute.device),
    )?];
    let mut labels = vec![Tensor::f_zeros([0], (Kind::Int64, compute.device))?];
    let left_out = each_batch(model, data, reading, gang, |outputs, batch_labels| {
        if let Some(features) = outputs.layers.first() {
            let features = features.f_to_kind(compute.kind())?;
            let norm = features
                .f_square()?
                .f_sum_dim_intlist(1i64, true, compute.kind())?
                .f_sqrt()?;
            rows.push(&features / norm.f_clamp_min(1e-12)?);
            labels.push(batch_labels);
        }
        Ok(())
    })?;
    let mut bad = Tensor::from_slice(&[left_out.len() as f64]);
    gang.statistics.all_reduce(&mut bad)?;
    let bad = bad.f_double_value(&[0])? as u64;
    bad::within(data, bad, &left_out, reading.max_bad_images)?;
    Ok((Tensor::f_cat(&rows, 0)?, Tensor::f_cat(&labels, 0)?))
}

/// Shows this rank's share batch by batch; returns the images that were left out, which are named as well.
fn each_batch(
    model: &Model,
    data: &Source,
    reading: &Reading,
    gang: &Gang,
    mut visit: impl FnMut(Outputs, Tensor) -> Result<(), PhaseError>,
) -> Result<Vec<BadImage>, PhaseError> {
    let options = EvalOptions {
        preprocessing: reading.preprocessing,
        batch: BATCH,
        max_bad_images: reading.max_bad_images,
        threads: reading.threads,
        ahead: 2,
    };
    let rank = Rank::new(gang.rank().get());
    let loader = EvalLoader::start(data, rank, gang.world() as u32, options)?;
    let mut left_out = Vec::new();
    while let Some(batch) = loader.next_batch()? {
        reading.notices.check()?;
        for bad in &batch.bad {
            reading.notices.bad(data, bad, "evaluations leave it out");
        }
        left_out.extend(batch.bad);
        let Some(labels) = batch.labels.filter(|labels| labels.size()[0] > 0) else {
            continue;
        };
        let images = model.compute().place(&batch.images)?;
        let outputs = no_grad(|| model.forward(&images, Mode::Eval))?;
        visit(outputs, labels.f_to_device(model.compute().device)?)?;
    }
    Ok(left_out)
}

/// All ranks' rows, whatever number each holds.
pub(super) fn gather(rows: &Tensor, channel: &dyn Collective) -> Result<Tensor, PhaseError> {
    let mine = Tensor::from_slice(&[rows.size()[0]]);
    let counts = Vec::<i64>::try_from(channel.all_gather(&mine, &vec![1; channel.world()])?)?;
    Ok(channel.all_gather(&rows.f_contiguous()?, &counts)?)
}
