//! Batch norm whose statistics are those of a group over all ranks (SimCLR v1 §2.2, "global BN").
//!
//! Forward gathers every rank's (count, mean, deviation) per group and channel and merges them in rank order (Chan et al.
//! 1979: no cancellation). Backward sums `Σ dy` and `Σ dy·x̂` over the ranks. One collective each, whatever the number of
//! groups held at once. With `n` the group's count over all ranks:
//! `dx = γ/√(var+ε) · (dy − Σdy/n − x̂ · Σ(dy·x̂)/n)`.

use std::cell::RefCell;
use std::sync::Arc;

pub(crate) use diptych_common::network::NORM_EPSILON as EPS;
use tch::{Kind, TchError, Tensor, no_grad};

use super::build::{Build, Role};
use super::mode::{Mode, TrainMode};
use crate::collective::Collective;
use crate::device::norm::{self, Moments, Moving, Scaled, Sums};
use crate::device::{StepError, shim};

/// Share of the old running statistics that a step keeps.
pub(crate) const DECAY: f64 = 0.9;

/// Batch norm over dimension 1.
#[derive(Debug)]
pub struct BatchNorm {
    gamma: Tensor,
    beta: Shift,
    running_mean: Tensor,
    running_var: Tensor,
    /// The groups of this step.
    staged: RefCell<Vec<Moments>>,
}

/// β, or zeros where the layer has none (the last layer of a projection head).
#[derive(Debug)]
enum Shift {
    Trained(Tensor),
    Zero(Tensor),
}

/// The rows of a group, over all ranks.
struct Group {
    /// Values per channel, `[1]` of int32.
    count: Tensor,
    moments: Moments,
}

/// What backward needs of forward.
struct Saved {
    x: Tensor,
    gamma: Tensor,
    group_rows: Vec<i64>,
    groups: Vec<Group>,
    channel: Arc<dyn Collective>,
    /// Whether β is trained.
    shift: bool,
}

// === impl BatchNorm ===

impl BatchNorm {
    /// γ starts at `gamma`, β at 0.
    pub(crate) fn new(
        build: &mut Build,
        name: &str,
        channels: i64,
        gamma: f64,
    ) -> Result<Self, StepError> {
        let weight = build.constant(&format!("{name}.weight"), Role::Norm, gamma, &[channels])?;
        let beta = Shift::Trained(build.constant(
            &format!("{name}.bias"),
            Role::Norm,
            0.0,
            &[channels],
        )?);
        Self::with(build, name, channels, weight, beta)
    }

    /// γ starts at 1; there is no β.
    pub(crate) fn without_shift(
        build: &mut Build,
        name: &str,
        channels: i64,
    ) -> Result<Self, StepError> {
        let weight = build.constant(&format!("{name}.weight"), Role::Norm, 1.0, &[channels])?;
        let beta = Shift::Zero(build.fixed(0.0, channels)?);
        Self::with(build, name, channels, weight, beta)
    }

    fn with(
        build: &mut Build,
        name: &str,
        channels: i64,
        gamma: Tensor,
        beta: Shift,
    ) -> Result<Self, StepError> {
        Ok(Self {
            gamma,
            beta,
            running_mean: build.statistic(format!("{name}.running_mean"), 0.0, channels)?,
            running_var: build.statistic(format!("{name}.running_var"), 1.0, channels)?,
            staged: RefCell::default(),
        })
    }

    /// Normalises `x` (`[N, C]` or `[N, C, …]`).
    ///
    /// # Errors
    /// [`StepError::Collective`], [`StepError::Shape`] where the groups do not cover the rows, [`StepError::Torch`].
    pub fn forward(&self, x: &Tensor, mode: Mode<'_>) -> Result<Tensor, StepError> {
        match mode {
            Mode::Eval => Ok(x.f_batch_norm(
                Some(&self.gamma),
                Some(self.beta.tensor()),
                Some(&self.running_mean),
                Some(&self.running_var),
                false,
                0.0,
                EPS,
                false,
            )?),
            Mode::Train(train) => self.forward_train(x, train),
        }
    }

    fn forward_train(&self, x: &Tensor, train: &TrainMode) -> Result<Tensor, StepError> {
        let rows: i64 = train.group_rows.iter().sum();
        if rows != x.size()[0] || train.group_rows.iter().any(|&rows| rows < 1) {
            return Err(StepError::Shape {
                what: "batch-norm groups",
                expected: format!("positive row counts that add up to {}", x.size()[0]),
                got: format!("{:?}", train.group_rows),
            });
        }
        let values = x.detach();
        let (output, groups) = no_grad(|| -> Result<_, StepError> {
            let parts = parts(&values, &train.group_rows)?;
            let groups = merge(local(&parts)?, train.channel().as_ref())?;
            let outputs = parts
                .iter()
                .zip(&groups)
                .map(|(x, group)| norm::apply(self.scaled(x), self.beta.tensor(), &group.moments));
            let output = concatenate(outputs.collect::<Result<_, _>>()?)?;
            if train.stage {
                let seen = groups.iter().map(|group| group.moments.share());
                self.staged.borrow_mut().extend(seen);
            }
            Ok((output, groups))
        })?;
        let saved = Saved {
            x: values,
            gamma: self.gamma.detach(),
            group_rows: train.group_rows.clone(),
            groups,
            channel: Arc::clone(train.channel()),
            shift: matches!(self.beta, Shift::Trained(_)),
        };
        let failure = train.failure().clone();
        let backward = Box::new(move |gradient: &Tensor| {
            saved.backward(gradient).map_err(|error| match error {
                StepError::Collective(error) => {
                    let text = error.to_string();
                    failure.set(error);
                    TchError::Torch(text)
                }
                StepError::Torch(error) => error,
                other => TchError::Torch(other.to_string()),
            })
        });
        let beta = match &self.beta {
            Shift::Trained(beta) => Some(beta),
            Shift::Zero(_) => None,
        };
        Ok(shim::attach(
            [Some(x), Some(&self.gamma), beta],
            output,
            backward,
        )?)
    }

    fn scaled<'a>(&'a self, x: &'a Tensor) -> Scaled<'a> {
        Scaled {
            x,
            gamma: &self.gamma,
            eps: EPS,
        }
    }

    /// Moves the running statistics of layers towards the mean of their staged groups, once, and forgets the groups.
    pub(crate) fn commit<'a>(
        layers: impl IntoIterator<Item = &'a mut BatchNorm>,
    ) -> Result<(), TchError> {
        let moving: Vec<Moving<'_>> = layers
            .into_iter()
            .map(|layer| Moving {
                groups: layer.staged.take(),
                mean: &layer.running_mean,
                var: &layer.running_var,
            })
            .filter(|layer| !layer.groups.is_empty())
            .collect();
        norm::commit(&moving, DECAY, EPS)
    }

    /// Forgets the groups of a step that is given up.
    pub(crate) fn discard(&mut self) {
        self.staged.take();
    }
}

// === impl Shift ===

impl Shift {
    fn tensor(&self) -> &Tensor {
        match self {
            Self::Trained(tensor) | Self::Zero(tensor) => tensor,
        }
    }
}

// === impl Saved ===

impl Saved {
    fn backward(&self, gradient: &Tensor) -> Result<[Option<Tensor>; 3], StepError> {
        let gradient = shim::in_layout_of(gradient, &self.x)?.f_to_kind(self.x.kind())?;
        let (gradients, values) = (
            parts(&gradient, &self.group_rows)?,
            parts(&self.x, &self.group_rows)?,
        );
        let scaled = |x| Scaled {
            x,
            gamma: &self.gamma,
            eps: EPS,
        };
        let work = || gradients.iter().zip(&values).zip(&self.groups);
        let own = work()
            .map(|((gradient, x), group)| norm::sums(gradient, scaled(x), &group.moments))
            .collect::<Result<Vec<_>, _>>()?;
        // The parameters' gradients are this rank's share; the gradient buckets add the others.
        let kind = self.gamma.kind();
        let gamma_gradient = sum_of(own.iter().map(|sums| &sums.dot))?.f_to_kind(kind)?;
        let beta_gradient = sum_of(own.iter().map(|sums| &sums.sum))?.f_to_kind(kind)?;

        let all = sum_over_ranks(own, self.channel.as_ref())?;
        let outputs = work().zip(&all).map(|(((gradient, x), group), sums)| {
            norm::gradient(gradient, scaled(x), &group.moments, sums, &group.count)
        });
        Ok([
            Some(concatenate(outputs.collect::<Result<_, _>>()?)?),
            Some(gamma_gradient),
            self.shift.then_some(beta_gradient),
        ])
    }
}

/// This rank's rows of each group.
fn local(parts: &[Tensor]) -> Result<Vec<Group>, TchError> {
    parts
        .iter()
        .map(|x| {
            let count = x.numel() as i64 / x.size()[1];
            Ok(Group {
                count: Tensor::f_full([1], count, (Kind::Int, x.device()))?,
                moments: norm::moments(x, EPS)?,
            })
        })
        .collect()
}

/// Merges all ranks' rows of each group, in rank order.
fn merge(local: Vec<Group>, channel: &dyn Collective) -> Result<Vec<Group>, StepError> {
    let (world, groups) = (channel.world(), local.len() as i64);
    let Some(first) = local.first().filter(|_| world > 1) else {
        return Ok(local);
    };
    let (channels, kind) = (first.moments.mean.size()[0], first.moments.mean.kind());
    let mut mine = Vec::new();
    for Group { count, moments } in &local {
        mine.push(count.f_to_kind(kind)?);
        mine.extend([
            moments.mean.shallow_clone(),
            moments.deviation.shallow_clone(),
        ]);
    }
    // [1, groups, 1 + 2C], so that the ranks stack along dimension 0.
    let mine = Tensor::f_cat(&mine, 0)?.f_view([1, groups, 1 + 2 * channels])?;
    let all = channel.all_gather(&mine, &vec![1; world])?;
    let (counts, means) = (all.f_narrow(2, 0, 1)?, all.f_narrow(2, 1, channels)?);
    let vars = all
        .f_narrow(2, 1 + channels, channels)?
        .f_pow_tensor_scalar(-2)?
        - EPS;
    let sum = |tensor: Tensor| tensor.f_sum_dim_intlist(0i64, false, kind);
    let count = sum(counts.shallow_clone())?;
    let mean = sum(&counts * &means)? / &count;
    let from_mean = &means - mean.f_unsqueeze(0)?;
    let var = sum(&counts * (vars + &from_mean * &from_mean))? / &count;
    let deviation = (var + EPS).f_rsqrt()?;
    let count = count.f_to_kind(Kind::Int)?;
    (0..groups)
        .map(|group| {
            Ok(Group {
                count: count.f_get(group)?,
                moments: Moments {
                    mean: mean.f_get(group)?,
                    deviation: deviation.f_get(group)?,
                },
            })
        })
        .collect()
}

/// The sums of all ranks, group by group.
fn sum_over_ranks(own: Vec<Sums>, channel: &dyn Collective) -> Result<Vec<Sums>, StepError> {
    if channel.world() == 1 {
        return Ok(own);
    }
    let both = own.iter().flat_map(|sums| [&sums.sum, &sums.dot]);
    let mut all = Tensor::f_stack(&both.collect::<Vec<_>>(), 0)?;
    channel.all_reduce(&mut all)?;
    (0..own.len() as i64)
        .map(|group| {
            Ok(Sums {
                sum: all.f_get(2 * group)?,
                dot: all.f_get(2 * group + 1)?,
            })
        })
        .collect()
}

/// The sum of at least one tensor, which may be the tensor itself.
fn sum_of<'a>(tensors: impl Iterator<Item = &'a Tensor>) -> Result<Tensor, TchError> {
    let tensors: Vec<&Tensor> = tensors.collect();
    if let [only] = tensors[..] {
        return Ok(only.shallow_clone());
    }
    let stacked = Tensor::f_stack(&tensors, 0)?;
    stacked.f_sum_dim_intlist(0i64, false, stacked.kind())
}

/// The rows of each group, without a copy.
fn parts(x: &Tensor, group_rows: &[i64]) -> Result<Vec<Tensor>, TchError> {
    if let [_] = group_rows {
        return Ok(vec![x.shallow_clone()]);
    }
    let mut start = 0;
    group_rows
        .iter()
        .map(|&rows| {
            let part = x.f_narrow(0, start, rows);
            start += rows;
            part
        })
        .collect()
}

fn concatenate(mut parts: Vec<Tensor>) -> Result<Tensor, StepError> {
    match parts.pop() {
        Some(only) if parts.is_empty() => Ok(only),
        Some(last) => {
            parts.push(last);
            Ok(Tensor::f_cat(&parts, 0)?)
        }
        None => Err(TchError::Torch("batch norm over no group".to_owned()).into()),
    }
}

#[cfg(test)]
mod tests;
