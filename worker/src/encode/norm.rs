//! Batch norm whose statistics are those of a group over all ranks (SimCLR v1 §2.2, "global BN").
//!
//! Forward gathers every rank's (count, mean, squared deviation) per group and channel and merges them in rank order
//! (Chan et al. 1979: no cancellation). Backward sums `Σ dy` and `Σ dy·x̂` over the ranks. Both travel in f64, one
//! collective each, whatever the number of groups held at once. With `n` the group's count over all ranks:
//! `dx = γ/√(var+ε) · (dy − Σdy/n − x̂ · Σ(dy·x̂)/n)`.

use std::cell::RefCell;
use std::sync::Arc;

pub(crate) use diptych_common::network::NORM_EPSILON as EPS;
use tch::{Kind, TchError, Tensor, no_grad};

use super::build::{Build, Role};
use super::mode::{Mode, TrainMode};
use crate::collective::Collective;
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
    staged: RefCell<Staged>,
}

/// β, or zeros where the layer has none (the last layer of a projection head).
#[derive(Debug)]
enum Shift {
    Trained(Tensor),
    Zero(Tensor),
}

/// Sums of the statistics of this step's groups.
#[derive(Debug, Default)]
enum Staged {
    #[default]
    Nothing,
    Groups {
        mean: Tensor,
        var: Tensor,
        count: u32,
    },
}

/// The groups of one pass: statistics `[groups, channels]` in f64 and counts `[groups, 1]`.
struct Moments {
    count: Tensor,
    mean: Tensor,
    var: Tensor,
}

/// What backward needs of forward.
struct Saved {
    x: Tensor,
    gamma: Tensor,
    group_rows: Vec<i64>,
    moments: Moments,
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
        let (output, moments) = no_grad(|| -> Result<_, StepError> {
            let local = self.local_moments(&values, &train.group_rows)?;
            let moments = merge(local, train.channel().as_ref())?;
            let output = self.normalise(&values, &train.group_rows, &moments)?;
            if train.stage {
                self.staged.borrow_mut().add(&moments)?;
            }
            Ok((output, moments))
        })?;
        let saved = Saved {
            x: values,
            gamma: self.gamma.detach(),
            group_rows: train.group_rows.clone(),
            moments,
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

    /// This rank's count, mean and biased variance of each group.
    fn local_moments(&self, x: &Tensor, group_rows: &[i64]) -> Result<Moments, StepError> {
        let (mut counts, mut means, mut vars) = (Vec::new(), Vec::new(), Vec::new());
        // Their dtype asks libtorch for statistics in full precision where x is bf16.
        let (mean_kind, var_kind) = (
            self.running_mean.f_detach_copy()?,
            self.running_var.f_detach_copy()?,
        );
        for rows in groups(x, group_rows)? {
            let (mean, var) =
                rows.f_batch_norm_update_stats(Some(&mean_kind), Some(&var_kind), 0.0)?;
            let count = rows.numel() as f64 / rows.size()[1] as f64;
            counts.push(Tensor::f_full([1], count, (Kind::Double, x.device()))?);
            means.push(mean);
            vars.push(var);
        }
        Ok(Moments {
            count: Tensor::f_stack(&counts, 0)?,
            mean: Tensor::f_stack(&means, 0)?.f_to_kind(Kind::Double)?,
            var: Tensor::f_stack(&vars, 0)?.f_to_kind(Kind::Double)?,
        })
    }

    fn normalise(
        &self,
        x: &Tensor,
        group_rows: &[i64],
        moments: &Moments,
    ) -> Result<Tensor, StepError> {
        let (mean, var) = (
            moments.mean.f_to_kind(self.gamma.kind())?,
            moments.var.f_to_kind(self.gamma.kind())?,
        );
        let mut outputs = Vec::new();
        for (group, rows) in groups(x, group_rows)?.iter().enumerate() {
            let group = group as i64;
            let (output, _, _) = rows.f_native_batch_norm(
                Some(&self.gamma),
                Some(self.beta.tensor()),
                Some(&mean.f_get(group)?),
                Some(&var.f_get(group)?),
                false,
                0.0,
                EPS,
            )?;
            outputs.push(output);
        }
        concatenate(outputs)
    }

    /// Moves the running statistics towards the mean of the staged groups, once, and forgets the groups.
    pub(crate) fn commit(&mut self) -> Result<(), TchError> {
        let Staged::Groups { mean, var, count } = self.staged.take() else {
            return Ok(());
        };
        no_grad(|| {
            for (running, sum) in [(&mut self.running_mean, mean), (&mut self.running_var, var)] {
                let step = (sum * ((1.0 - DECAY) / f64::from(count))).f_to_kind(running.kind())?;
                let _ = running.f_mul_scalar_(DECAY)?;
                let _ = running.f_add_(&step)?;
            }
            Ok(())
        })
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

// === impl Staged ===

impl Staged {
    /// Adds group by group, so that the sum does not depend on how groups are cut into micro-batches.
    fn add(&mut self, moments: &Moments) -> Result<(), TchError> {
        for group in 0..moments.mean.size()[0] {
            let (mean, var) = (moments.mean.f_get(group)?, moments.var.f_get(group)?);
            *self = match std::mem::take(self) {
                Self::Nothing => Self::Groups {
                    mean: mean.f_detach_copy()?,
                    var: var.f_detach_copy()?,
                    count: 1,
                },
                Self::Groups {
                    mean: means,
                    var: vars,
                    count,
                } => Self::Groups {
                    mean: means + mean,
                    var: vars + var,
                    count: count + 1,
                },
            };
        }
        Ok(())
    }
}

// === impl Saved ===

impl Saved {
    fn backward(&self, gradient: &Tensor) -> Result<[Option<Tensor>; 3], StepError> {
        let gradient = shim::in_layout_of(gradient, &self.x)?.f_to_kind(self.x.kind())?;
        let kind = self.gamma.kind();
        let (mean, var) = (
            self.moments.mean.f_to_kind(kind)?,
            self.moments.var.f_to_kind(kind)?,
        );
        let (gradients, values) = (
            groups(&gradient, &self.group_rows)?,
            groups(&self.x, &self.group_rows)?,
        );
        let (mut sums, mut dots) = (Vec::new(), Vec::new());
        for (group, (gradient, x)) in gradients.iter().zip(&values).enumerate() {
            let group = group as i64;
            let (sum, dot) =
                shim::batch_norm_sums(gradient, x, &mean.f_get(group)?, &var.f_get(group)?, EPS)?;
            sums.push(sum);
            dots.push(dot);
        }
        let sums = Tensor::f_stack(&sums, 0)?.f_to_kind(Kind::Double)?;
        let dots = Tensor::f_stack(&dots, 0)?.f_to_kind(Kind::Double)?;
        // The parameters' gradients are this rank's share; the gradient buckets add the others.
        let gamma_gradient = sum_groups(&dots)?.f_to_kind(kind)?;
        let beta_gradient = sum_groups(&sums)?.f_to_kind(kind)?;

        let mut all = Tensor::f_stack(&[sums, dots], 0)?;
        if self.channel.world() > 1 {
            self.channel.all_reduce(&mut all)?;
        }
        let (sum, dot) = (
            all.f_get(0)? / &self.moments.count,
            all.f_get(1)? / &self.moments.count,
        );
        let deviation = (&self.moments.var + EPS).f_rsqrt()?;
        let scale = &deviation * &self.gamma.f_to_kind(Kind::Double)?;
        let slope: Tensor = -(&scale * &deviation * dot);
        let shift = (-(&scale * sum) - &slope * &self.moments.mean).f_to_kind(kind)?;
        let (scale, slope) = (scale.f_to_kind(kind)?, slope.f_to_kind(kind)?);

        let mut outputs = Vec::new();
        for (group, (gradient, x)) in gradients.iter().zip(&values).enumerate() {
            let group = group as i64;
            let (scale, slope, shift) = (
                scale.f_get(group)?,
                slope.f_get(group)?,
                shift.f_get(group)?,
            );
            outputs.push(shim::affine(gradient, x, &scale, &slope, &shift)?);
        }
        Ok([
            Some(concatenate(outputs)?),
            Some(gamma_gradient),
            self.shift.then_some(beta_gradient),
        ])
    }
}

/// Merges all ranks' moments, in rank order.
fn merge(local: Moments, channel: &dyn Collective) -> Result<Moments, StepError> {
    let world = channel.world();
    if world == 1 {
        return Ok(local);
    }
    let channels = local.mean.size()[1];
    // [1, groups, 1 + 2C], so that the ranks stack along dimension 0.
    let mine = Tensor::f_cat(&[&local.count, &local.mean, &local.var], 1)?.f_unsqueeze(0)?;
    let all = channel.all_gather(&mine.f_contiguous()?, &vec![1; world])?;
    let (counts, means) = (all.f_narrow(2, 0, 1)?, all.f_narrow(2, 1, channels)?);
    let vars = all.f_narrow(2, 1 + channels, channels)?;
    let count = sum_groups(&counts)?;
    let mean = sum_groups(&(&counts * &means))? / &count;
    let from_mean = &means - mean.f_unsqueeze(0)?;
    let var = sum_groups(&(&counts * (vars + &from_mean * &from_mean)))? / &count;
    Ok(Moments { count, mean, var })
}

/// The sum over dimension 0.
fn sum_groups(tensor: &Tensor) -> Result<Tensor, TchError> {
    tensor.f_sum_dim_intlist(0i64, false, tensor.kind())
}

/// The rows of each group, without a copy.
fn groups(x: &Tensor, group_rows: &[i64]) -> Result<Vec<Tensor>, TchError> {
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
