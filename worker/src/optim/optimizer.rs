use diptych_common::spec::{MomentumKind, OptimizerSpec, Rule};
use tch::Tensor;

use super::Pace;
use crate::device::StepError;
use crate::device::update::{self, AdamNumbers, AdamTensors, Momentum, StepNumbers, StepTensors};
use crate::encode::Role;
use crate::project::{Model, NamedTensor, StateRole};
use crate::reduce::Buckets;

/// LARS, Nesterov SGD or AdamW with what they remember, for what a model trains.
///
/// LARS and SGD keep the learning rate inside the momentum, as the official code: with `d = rate · (g + decay · w)`,
/// `v ← momentum · v + d`, then LARS (classic momentum) `w ← w − v`, SGD (Nesterov) `w ← w − (momentum · v + d)`.
/// LARS multiplies the rate by `η‖w‖/‖g + decay · w‖` (You et al. 2017), 1 where either norm is zero. With popular
/// momentum `v ← momentum · v + g + decay · w`, and `w ← w − rate · η‖w‖/‖v‖ · v`.
///
/// AdamW (Loshchilov and Hutter 2019), in its step t: `w ← (1 − rate · decay) w`, `m ← β₁m + (1 − β₁)g`,
/// `s ← β₂s + (1 − β₂)g²`, `w ← w − rate · m̂/(√ŝ + ε)` with `m̂ = m/(1 − β₁ᵗ)` and `ŝ = s/(1 − β₂ᵗ)`.
///
/// | | weight decay | adapted by LARS |
/// |---|---|---|
/// | convolution, dense | yes | yes |
/// | classifier and probe weight | yes | no |
/// | bias | SGD only | no |
/// | batch norm | no | no |
///
/// The official code has no decay of the supervised head in LARS, but adds `decay · ½‖w‖²` of its weight to the loss:
/// the same gradient.
#[derive(Debug)]
pub struct Optimizer {
    rule: Rule,
    names: Vec<String>,
    weights: Vec<Tensor>,
    /// Momentum, or AdamW's means of gradients.
    velocities: Vec<Tensor>,
    /// AdamW's means of squared gradients; empty for the others.
    squares: Vec<Tensor>,
    decay: Vec<f64>,
    adapt: Vec<u8>,
}

// === impl Optimizer ===

impl Optimizer {
    /// What it remembers starts at 0.
    ///
    /// # Errors
    /// [`StepError::Torch`], for example out of memory.
    pub fn new(spec: &OptimizerSpec, model: &Model) -> Result<Self, StepError> {
        let lars = matches!(spec.rule, Rule::Lars { .. });
        let decays = |role| match role {
            Role::Weight | Role::Classifier => true,
            Role::Bias => matches!(spec.rule, Rule::Sgd { .. }),
            Role::Norm => false,
        };
        let mut new = Self {
            rule: spec.rule,
            names: Vec::new(),
            weights: Vec::new(),
            velocities: Vec::new(),
            squares: Vec::new(),
            decay: Vec::new(),
            adapt: Vec::new(),
        };
        for parameter in model.trained() {
            let weight = parameter.tensor.f_detach()?;
            new.names.push(parameter.name.clone());
            new.velocities.push(weight.f_zeros_like()?);
            if matches!(spec.rule, Rule::AdamW { .. }) {
                new.squares.push(weight.f_zeros_like()?);
            }
            new.weights.push(weight);
            new.decay.push(if decays(parameter.role) {
                spec.weight_decay
            } else {
                0.0
            });
            new.adapt
                .push(u8::from(lars && parameter.role == Role::Weight));
        }
        Ok(new)
    }

    /// The step's one commit point: refuses a gradient that is not finite, then updates weights, momentum and running
    /// statistics together. Call it only after a step that returned, which proves that every collective completed.
    ///
    /// # Errors
    /// [`StepError::NonFinite`] with the parameter's name; nothing has changed. [`StepError::Torch`].
    pub fn commit(
        &mut self,
        model: &mut Model,
        buckets: &Buckets,
        pace: Pace,
    ) -> Result<(), StepError> {
        self.check_finite(buckets)?;
        let _ = self.update(buckets.gradients(), pace, false)?;
        model.commit_statistics()
    }

    /// What it remembers, live: `momentum.{name}`, and under AdamW `square.{name}` too.
    pub fn named_tensors(&self) -> Vec<NamedTensor> {
        let named = |prefix: &'static str, role: StateRole, tensors: &[Tensor]| {
            let named = self.names.iter().zip(tensors);
            let live = named.map(|(name, tensor)| NamedTensor {
                name: format!("{prefix}.{name}"),
                role,
                tensor: tensor.shallow_clone(),
            });
            live.collect::<Vec<_>>()
        };
        let mut all = named("momentum", StateRole::Momentum, &self.velocities);
        all.extend(named("square", StateRole::State, &self.squares));
        all
    }

    /// The update alone; returns the trust ratios, of LARS and SGD. `foreach` takes the path of devices without a
    /// kernel of ours.
    fn update(
        &self,
        gradients: &[Tensor],
        pace: Pace,
        foreach: bool,
    ) -> Result<Option<Tensor>, StepError> {
        let (trust_coefficient, momentum, kind) = match self.rule {
            Rule::Lars {
                trust_coefficient,
                momentum,
                kind,
            } => {
                let kind = match kind {
                    MomentumKind::Classic => Momentum::Classic,
                    MomentumKind::Popular => Momentum::Popular,
                };
                (trust_coefficient, momentum, kind)
            }
            Rule::Sgd { momentum } => (1.0, momentum, Momentum::Nesterov),
            Rule::AdamW {
                beta1,
                beta2,
                epsilon,
            } => {
                let numbers = |decay| AdamNumbers {
                    rate: pace.rate,
                    beta1,
                    beta2,
                    epsilon,
                    decay,
                    step: pace.step + 1,
                };
                self.adamw(gradients, numbers)?;
                return Ok(None);
            }
        };
        let tensors = StepTensors {
            weights: &self.weights,
            gradients,
            velocities: &self.velocities,
            decay: &self.decay,
            adapt: &self.adapt,
        };
        let numbers = StepNumbers {
            rate: pace.rate,
            momentum,
            trust_coefficient,
            kind,
            foreach,
        };
        Ok(Some(update::step(&tensors, numbers)?))
    }

    /// One call for the tensors that decay and one for the rest.
    fn adamw(
        &self,
        gradients: &[Tensor],
        numbers: impl Fn(f64) -> AdamNumbers,
    ) -> Result<(), StepError> {
        let decays: Vec<bool> = self.decay.iter().map(|decay| *decay > 0.0).collect();
        for wanted in [true, false] {
            let part = |tensors: &[Tensor]| -> Vec<Tensor> {
                let both = tensors.iter().zip(&decays);
                both.filter(|(_, decays)| **decays == wanted)
                    .map(|(tensor, _)| tensor.shallow_clone())
                    .collect()
            };
            let tensors = AdamTensors {
                weights: part(&self.weights),
                gradients: part(gradients),
                means: part(&self.velocities),
                squares: part(&self.squares),
            };
            let decay = self.decay.iter().copied().fold(0.0, f64::max);
            update::adamw(&tensors, numbers(if wanted { decay } else { 0.0 }))?;
        }
        Ok(())
    }

    fn check_finite(&self, buckets: &Buckets) -> Result<(), StepError> {
        if buckets.are_finite()? {
            return Ok(());
        }
        for (name, gradient) in self.names.iter().zip(buckets.gradients()) {
            let finite = update::all_finite(std::slice::from_ref(gradient))?;
            if finite.f_int64_value(&[])? == 0 {
                return Err(StepError::NonFinite {
                    tensor: format!("the gradient of {name}"),
                });
            }
        }
        Err(StepError::NonFinite {
            tensor: "the sum of the gradients".to_owned(),
        })
    }
}

#[cfg(test)]
mod tests;
