use std::sync::Arc;

use diptych_common::spec::Precision;
use tch::{Tensor, no_grad};

use super::number::{Case, values};
use super::{on_ranks, rank_gangs};
use crate::collective::{Gang, staged};
use crate::device::{Compute, shim};
use crate::encode::{BatchNorm, Build, DECAY, EPS, Mode, TrainMode};

/// One rank's rows, and the parameters of all.
struct Share {
    x: Tensor,
    upstream: Tensor,
    gamma: Tensor,
    beta: Tensor,
}

/// What one rank found.
#[derive(Default)]
struct Found {
    y: Vec<f64>,
    grad_x: Vec<f64>,
    grad_gamma: Vec<f64>,
    grad_beta: Vec<f64>,
    running_mean: Vec<f64>,
    running_var: Vec<f64>,
}

/// Splits the rows over ranks that talk over TCP.
pub(super) fn check(case: Case<'_>) -> anyhow::Result<()> {
    for (field, built) in [("eps", EPS), ("decay", DECAY)] {
        let wanted = case.number(field)?;
        anyhow::ensure!(
            wanted == built,
            "{field} is {wanted}, and {built} in this program"
        );
    }
    let (x, upstream) = (case.tensor("x")?, case.tensor("upstream")?);
    let (gamma, beta) = (case.tensor("gamma")?, case.tensor("beta")?);
    let shards: Vec<i64> = case
        .numbers("shards")?
        .iter()
        .map(|&rows| rows as i64)
        .collect();
    let mut start = 0;
    let mut shares = Vec::new();
    for &rows in &shards {
        shares.push(Share {
            x: x.f_narrow(0, start, rows)?.f_contiguous()?,
            upstream: upstream.f_narrow(0, start, rows)?.f_contiguous()?,
            gamma: gamma.detach_copy(),
            beta: beta.detach_copy(),
        });
        start += rows;
    }
    // All ranks share the device, where it is one: NCCL would refuse them.
    let gangs = rank_gangs(shards.len())?.into_iter().map(staged::gang);
    let ranks = on_ranks(gangs.zip(shares).collect(), |(gang, share)| {
        run(&gang, &share)
    })?;

    let mut whole = Found::default();
    for rank in ranks {
        let rank = rank?;
        whole.y.extend(rank.y);
        whole.grad_x.extend(rank.grad_x);
        add(&mut whole.grad_gamma, &rank.grad_gamma);
        add(&mut whole.grad_beta, &rank.grad_beta);
        case.expect("running_mean", &rank.running_mean)?;
        case.expect("running_var", &rank.running_var)?;
    }
    case.expect("y", &whole.y)?;
    case.expect("grad_x", &whole.grad_x)?;
    case.expect("grad_gamma", &whole.grad_gamma)?;
    case.expect("grad_beta", &whole.grad_beta)?;
    Ok(())
}

fn run(gang: &Gang, share: &Share) -> anyhow::Result<Found> {
    let mut build = Build::new(0, Compute::on(share.x.device(), Precision::Fp64));
    let mut norm = BatchNorm::new(&mut build, "bn", share.gamma.size()[0], 1.0)?;
    let (parameters, statistics) = build.finish();
    no_grad(|| -> anyhow::Result<()> {
        parameters[0].tensor.shallow_clone().f_copy_(&share.gamma)?;
        parameters[1].tensor.shallow_clone().f_copy_(&share.beta)?;
        Ok(())
    })?;
    let x = share.x.f_set_requires_grad(true)?;
    let mode = TrainMode::new(vec![x.size()[0]], true, Arc::clone(&gang.statistics));
    let y = norm.forward(&x, Mode::Train(&mode))?;
    shim::backward(&[(&y, &share.upstream)])?;
    BatchNorm::commit([&mut norm])?;
    Ok(Found {
        y: values(&y)?,
        grad_x: values(&x.f_grad()?)?,
        grad_gamma: values(&parameters[0].tensor.f_grad()?)?,
        grad_beta: values(&parameters[1].tensor.f_grad()?)?,
        running_mean: values(&statistics[0].tensor)?,
        running_var: values(&statistics[1].tensor)?,
    })
}

fn add(sum: &mut Vec<f64>, more: &[f64]) {
    if sum.is_empty() {
        sum.extend(more);
    } else {
        sum.iter_mut()
            .zip(more)
            .for_each(|(sum, more)| *sum += more);
    }
}
