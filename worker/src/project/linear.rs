use tch::{Kind, Tensor};

use crate::device::StepError;
use crate::encode::{Build, Role};

/// A linear classifier with bias, and the layer of `[h, a₁, …, z]` that it reads: 0 for the encoder's output, j for
/// the projection head's j-th.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reader {
    /// What it reads.
    pub layer: u32,
    /// What it tells apart.
    pub classes: u32,
}

/// A [`Reader`] with its weights.
#[derive(Debug)]
pub(super) struct Reading {
    layer: usize,
    weight: Tensor,
    bias: Tensor,
}

// === impl Reading ===

impl Reading {
    /// Weight and bias start at 0 (official fine-tuning recipe): the first step follows the labels alone. `widths` are
    /// those of the layers that are built.
    ///
    /// # Errors
    /// [`StepError::Shape`] for a layer that is not built; [`StepError::Torch`].
    pub(super) fn new(
        build: &mut Build,
        name: &str,
        reader: Reader,
        widths: &[i64],
    ) -> Result<Self, StepError> {
        let layer = reader.layer as usize;
        let inputs = *widths
            .get(layer)
            .ok_or_else(|| not_built(layer, widths.len()))?;
        let classes = i64::from(reader.classes);
        let weight = build.constant(
            &format!("{name}.weight"),
            Role::Classifier,
            0.0,
            &[classes, inputs],
        )?;
        let bias = build.constant(&format!("{name}.bias"), Role::Bias, 0.0, &[classes])?;
        Ok(Self {
            layer,
            weight,
            bias,
        })
    }

    /// Logits `[N, classes]` of what [`Reading::input`] gives, in the dtype of its weights.
    ///
    /// # Errors
    /// [`StepError::Torch`].
    pub(super) fn forward(&self, input: &Tensor, kind: Kind) -> Result<Tensor, StepError> {
        let x = input.f_to_kind(kind)?;
        Ok(x.f_linear(&self.weight, Some(&self.bias))?)
    }

    /// Its layer of `[h, a₁, …, z]`.
    ///
    /// # Errors
    /// [`StepError::Shape`] where the layer is missing.
    pub(super) fn input<'a>(&self, layers: &'a [Tensor]) -> Result<&'a Tensor, StepError> {
        layers
            .get(self.layer)
            .ok_or_else(|| not_built(self.layer, layers.len()))
    }
}

fn not_built(layer: usize, built: usize) -> StepError {
    StepError::Shape {
        what: "the layer of a classifier",
        expected: format!("less than {built}"),
        got: layer.to_string(),
    }
}
