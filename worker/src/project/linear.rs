use tch::Tensor;

use crate::device::StepError;
use crate::encode::{Build, Role};

/// A linear classifier with bias: `fc` on top of the network, `probe` on stopped gradients.
#[derive(Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Tensor,
}

// === impl Linear ===

impl Linear {
    /// Weight and bias start at 0 (official fine-tuning recipe): the first step follows the labels alone.
    ///
    /// # Errors
    /// [`StepError::Torch`].
    pub fn new(
        build: &mut Build,
        name: &str,
        inputs: i64,
        classes: u32,
    ) -> Result<Self, StepError> {
        let classes = i64::from(classes);
        let weight = build.constant(
            &format!("{name}.weight"),
            Role::Classifier,
            0.0,
            &[classes, inputs],
        )?;
        let bias = build.constant(&format!("{name}.bias"), Role::Bias, 0.0, &[classes])?;
        Ok(Self { weight, bias })
    }

    /// Logits `[N, classes]`.
    ///
    /// # Errors
    /// [`StepError::Torch`].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, StepError> {
        Ok(x.f_linear(&self.weight, Some(&self.bias))?)
    }
}
