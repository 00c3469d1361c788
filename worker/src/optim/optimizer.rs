use diptych_common::spec::{OptimizerSpec, Rule};
use tch::Tensor;

use crate::device::{StepError, shim};
use crate::encode::Role;
use crate::project::{Model, NamedTensor, StateRole};
use crate::reduce::Buckets;

/// LARS or Nesterov SGD with their momentum, for what a model trains.
///
/// Both keep the learning rate inside the momentum, as the official code: with `d = rate · (g + decay · w)`,
/// `v ← momentum · v + d`, then LARS (classic momentum) `w ← w − v`, SGD (Nesterov) `w ← w − (momentum · v + d)`.
/// LARS multiplies the rate by `η‖w‖/‖g + decay · w‖` (You et al. 2017), 1 where either norm is zero.
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
    trust_coefficient: f64,
    momentum: f64,
    nesterov: bool,
    names: Vec<String>,
    weights: Vec<Tensor>,
    velocities: Vec<Tensor>,
    decay: Vec<f64>,
    adapt: Vec<u8>,
}

// === impl Optimizer ===

impl Optimizer {
    /// Momentum starts at 0.
    ///
    /// # Errors
    /// [`StepError::Torch`], for example out of memory.
    pub fn new(spec: &OptimizerSpec, model: &Model) -> Result<Self, StepError> {
        let (trust_coefficient, lars) = match spec.rule {
            Rule::Lars { trust_coefficient } => (trust_coefficient, true),
            Rule::Sgd => (1.0, false),
        };
        let decays = |role| match role {
            Role::Weight | Role::Classifier => true,
            Role::Bias => !lars,
            Role::Norm => false,
        };
        let mut new = Self {
            trust_coefficient,
            momentum: spec.momentum,
            nesterov: !lars,
            names: Vec::new(),
            weights: Vec::new(),
            velocities: Vec::new(),
            decay: Vec::new(),
            adapt: Vec::new(),
        };
        for parameter in model.trained() {
            new.names.push(parameter.name.clone());
            new.velocities
                .push(parameter.tensor.f_detach()?.f_zeros_like()?);
            new.weights.push(parameter.tensor.f_detach()?);
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
        rate: f64,
    ) -> Result<(), StepError> {
        self.check_finite(buckets)?;
        let _ = self.update(buckets.gradients(), rate, false)?;
        model.commit_statistics()
    }

    /// Momentum, live, as `momentum.{name}`.
    pub fn named_tensors(&self) -> Vec<NamedTensor> {
        let named = self.names.iter().zip(&self.velocities);
        named
            .map(|(name, velocity)| NamedTensor {
                name: format!("momentum.{name}"),
                role: StateRole::Momentum,
                tensor: velocity.shallow_clone(),
            })
            .collect()
    }

    /// The update alone; returns the trust ratios.
    fn update(&self, gradients: &[Tensor], rate: f64, foreach: bool) -> Result<Tensor, StepError> {
        let tensors = shim::StepTensors {
            weights: &self.weights,
            gradients,
            velocities: &self.velocities,
            decay: &self.decay,
            adapt: &self.adapt,
        };
        let (momentum, trust_coefficient, nesterov) =
            (self.momentum, self.trust_coefficient, self.nesterov);
        Ok(shim::step(
            &tensors,
            shim::StepNumbers {
                rate,
                momentum,
                trust_coefficient,
                nesterov,
                foreach,
            },
        )?)
    }

    fn check_finite(&self, buckets: &Buckets) -> Result<(), StepError> {
        for bucket in buckets.flat() {
            if is_finite(bucket)? {
                continue;
            }
            for (name, gradient) in self.names.iter().zip(buckets.gradients()) {
                if !is_finite(gradient)? {
                    return Err(StepError::NonFinite {
                        tensor: format!("the gradient of {name}"),
                    });
                }
            }
        }
        Ok(())
    }
}

/// One pass over memory: a NaN wins both the minimum and the maximum.
fn is_finite(tensor: &Tensor) -> Result<bool, StepError> {
    let (least, most) = tensor.f_aminmax(None::<i64>, false)?;
    Ok(least.f_double_value(&[])?.is_finite() && most.f_double_value(&[])?.is_finite())
}

#[cfg(test)]
mod tests {
    use diptych_common::spec::{Depth, EncoderSpec, Precision, Scaling, Stem};
    use tch::{Kind, no_grad};

    use super::*;
    use crate::device::Compute;
    use crate::project::{ModelSpec, Reader};

    fn optimizer(nesterov: bool) -> Optimizer {
        let weight = |n: i64, phase: f64| {
            (Tensor::arange(n, (Kind::Float, tch::Device::Cpu)) * 0.3 + phase).sin()
        };
        let weights = vec![
            weight(70_001, 0.0),
            weight(12, 1.0).view([3, 4]),
            Tensor::zeros([5], (Kind::Float, tch::Device::Cpu)),
        ];
        Optimizer {
            trust_coefficient: 0.001,
            momentum: 0.9,
            nesterov,
            names: ["a", "b", "c"].map(str::to_owned).to_vec(),
            velocities: weights.iter().map(Tensor::zeros_like).collect(),
            weights,
            decay: vec![1e-2, 0.0, 1e-2],
            adapt: vec![1, 0, 1],
        }
    }

    #[test]
    fn every_role_decays_and_adapts_as_the_official_code_has_it() {
        let reader = Reader {
            layer: 0,
            classes: 3,
        };
        let model = Model::new(
            &ModelSpec {
                classifier: Some(reader),
                beside: vec![reader],
                probe: Some(reader),
                ..ModelSpec::bare(EncoderSpec {
                    width: 1.0 / 16.0,
                    stem: Stem::Cifar,
                    ..EncoderSpec::torchvision(Depth::D18)
                })
            },
            1,
            Compute::cpu(Precision::Fp32),
        )
        .expect("a model");
        let lars = Rule::Lars {
            trust_coefficient: 0.001,
        };
        for (rule, bias_decays, adapted) in [(lars, 0.0, 1), (Rule::Sgd, 0.1, 0)] {
            let spec = OptimizerSpec {
                rule,
                learning_rate: 1.0,
                scaling: Scaling::None,
                warmup_epochs: 0.0,
                momentum: 0.9,
                weight_decay: 0.1,
            };
            let optimizer = Optimizer::new(&spec, &model).expect("an optimiser");
            let of = |name: &str| {
                let place = optimizer.names.iter().position(|own| own == name);
                let place = place.expect("is trained");
                (optimizer.decay[place], optimizer.adapt[place])
            };
            assert_eq!(of("conv1.weight"), (0.1, adapted));
            assert_eq!(of("fc.weight"), (0.1, 0));
            assert_eq!(of("fc_at.0.weight"), (0.1, 0));
            assert_eq!(of("probe.weight"), (0.1, 0));
            assert_eq!(of("fc.bias"), (bias_decays, 0));
            assert_eq!(of("bn1.weight"), (0.0, 0));
            assert_eq!(of("bn1.bias"), (0.0, 0));
        }
    }

    #[test]
    fn the_fused_update_equals_the_one_for_other_devices() {
        for nesterov in [false, true] {
            let (fused, foreach) = (optimizer(nesterov), optimizer(nesterov));
            for step in 1..4 {
                let gradients: Vec<Tensor> = fused
                    .weights
                    .iter()
                    .map(|w| (w * f64::from(step) + 0.1).cos())
                    .collect();
                let one = fused.update(&gradients, 0.7, false).expect("a step");
                let other = no_grad(|| foreach.update(&gradients, 0.7, true)).expect("a step");
                assert!(
                    (one - &other).abs().max().double_value(&[])
                        < 1e-6 * other.max().double_value(&[])
                );
                for (a, b) in fused.weights.iter().zip(&foreach.weights) {
                    assert!((a - b).abs().max().double_value(&[]) < 2e-6);
                }
            }
            assert!(
                fused.weights[2].abs().max().double_value(&[]) > 0.0,
                "a zero weight moves at the full rate"
            );
        }
    }
}
