//! Parameters and statistics as layers make them: named, seeded, listed in the order of the forward pass.

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Kind, Tensor};

use crate::device::{Compute, StepError};

/// One trained tensor.
#[derive(Debug)]
pub struct Parameter {
    /// As torchvision names it where the network is torchvision's.
    pub name: String,
    /// What the optimiser may do with it.
    pub role: Role,
    /// The weight itself: a leaf of the graph, updated in place.
    pub tensor: Tensor,
}

/// What a parameter is, as far as the optimiser cares (SimCLR v2 code, `lars_optimizer.py`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A convolution or dense weight: decays, and its rate adapts.
    Weight,
    /// A batch-norm scale or shift.
    Norm,
    /// The weight of a linear classifier or probe: decays, but its rate does not adapt.
    Classifier,
    /// The bias of a linear classifier or probe.
    Bias,
}

/// One running statistic of a batch norm.
#[derive(Debug)]
pub struct Statistic {
    /// `….running_mean` or `….running_var`.
    pub name: String,
    /// One number per channel, updated in place.
    pub tensor: Tensor,
}

/// Collects what layers make. A value depends on the seed and the tensor's name only, not on the order of making.
#[derive(Debug)]
pub struct Build {
    seed: u64,
    compute: Compute,
    parameters: Vec<Parameter>,
    statistics: Vec<Statistic>,
}

/// Standard deviation of a standard normal cut at ±2.
const CUT_NORMAL_STD: f64 = 0.879_625_66;

// === impl Build ===

impl Build {
    /// An empty collection.
    pub fn new(seed: u64, compute: Compute) -> Self {
        Self {
            seed,
            compute,
            parameters: Vec::new(),
            statistics: Vec::new(),
        }
    }

    /// A convolution kernel `[out, in, size, size]`: normal, cut at ±2σ, of standard deviation √(1/fan_in)
    /// (TF variance scaling, as the official code).
    pub(crate) fn convolution(&mut self, name: &str, shape: [i64; 4]) -> Result<Tensor, StepError> {
        let fan_in = (shape[1] * shape[2] * shape[3]) as f64;
        let (low, high) = (0.022_750_131_948_179_21, 0.977_249_868_051_820_8);
        let uniform = self.uniform(name, shape.iter().product())? * (high - low) + low;
        let normal = quantile(&uniform)? * ((1.0 / fan_in).sqrt() / CUT_NORMAL_STD);
        self.parameter(name, Role::Weight, normal.f_view(shape)?)
    }

    /// A dense weight `[out, in]`: normal with standard deviation 0.01.
    pub(crate) fn dense(
        &mut self,
        name: &str,
        role: Role,
        shape: [i64; 2],
    ) -> Result<Tensor, StepError> {
        let uniform = self.uniform(name, shape.iter().product())?;
        self.parameter(name, role, (quantile(&uniform)? * 0.01).f_view(shape)?)
    }

    /// A parameter of equal numbers.
    pub(crate) fn constant(
        &mut self,
        name: &str,
        role: Role,
        value: f64,
        shape: &[i64],
    ) -> Result<Tensor, StepError> {
        let tensor = Tensor::f_full(shape, value, (Kind::Double, tch::Device::Cpu))?;
        self.parameter(name, role, tensor)
    }

    /// A running statistic of equal numbers.
    pub(crate) fn statistic(
        &mut self,
        name: String,
        value: f64,
        channels: i64,
    ) -> Result<Tensor, StepError> {
        let tensor = self.fixed(value, channels)?;
        self.statistics.push(Statistic {
            name,
            tensor: tensor.shallow_clone(),
        });
        Ok(tensor)
    }

    /// Equal numbers that are part of no state.
    pub(crate) fn fixed(&self, value: f64, channels: i64) -> Result<Tensor, StepError> {
        Ok(Tensor::f_full(
            [channels],
            value,
            (self.compute.kind(), self.compute.device),
        )?)
    }

    /// Everything made, in order.
    pub(crate) fn finish(self) -> (Vec<Parameter>, Vec<Statistic>) {
        (self.parameters, self.statistics)
    }

    fn parameter(&mut self, name: &str, role: Role, value: Tensor) -> Result<Tensor, StepError> {
        let tensor = self.compute.place(&value)?.f_set_requires_grad(true)?;
        self.parameters.push(Parameter {
            name: name.to_owned(),
            role,
            tensor: tensor.shallow_clone(),
        });
        Ok(tensor)
    }

    /// Uniform numbers in (0, 1), f64.
    fn uniform(&self, name: &str, count: i64) -> Result<Tensor, StepError> {
        let mut key = blake3::Hasher::new();
        key.update(&self.seed.to_le_bytes());
        key.update(name.as_bytes());
        let mut rng = ChaCha8Rng::from_seed(*key.finalize().as_bytes());
        let numbers: Vec<f64> = (0..count)
            .map(|_| ((rng.next_u64() >> 11) as f64 + 0.5) / (1u64 << 53) as f64)
            .collect();
        Ok(Tensor::f_from_slice(&numbers)?)
    }
}

/// The standard normal's quantile function.
fn quantile(probability: &Tensor) -> Result<Tensor, StepError> {
    Ok((probability * 2.0 - 1.0).f_erfinv()? * std::f64::consts::SQRT_2)
}
