use diptych_common::spec::HeadSpec;
use tch::Tensor;

use crate::device::StepError;
use crate::encode::{BatchNorm, Build, Mode, Role};

/// A projection head, whole or its first layers (fine-tuning keeps some: SimCLR v2 §2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadPart {
    /// The whole head.
    pub spec: HeadSpec,
    /// How many of its layers are built, from the first; `spec.layers` for all.
    pub layers: u32,
}

/// Dense layers without bias, each followed by batch norm; ReLU between them. The last layer of the whole head maps
/// to `dim`, and its batch norm has no β (official code).
#[derive(Debug)]
pub struct Head {
    layers: Vec<Layer>,
}

#[derive(Debug)]
struct Layer {
    weight: Tensor,
    norm: BatchNorm,
    relu: bool,
}

// === impl Head ===

impl Head {
    /// Layers on `features` inputs, named `head.{i}.weight` and `head.{i}.bn.…`.
    ///
    /// # Errors
    /// [`StepError::Shape`] where `part` asks for more layers than the head has; [`StepError::Torch`].
    pub fn new(build: &mut Build, features: i64, part: &HeadPart) -> Result<Self, StepError> {
        if part.layers > part.spec.layers {
            let (expected, got) = (
                format!("at most {}", part.spec.layers),
                part.layers.to_string(),
            );
            return Err(StepError::Shape {
                what: "head layers",
                expected,
                got,
            });
        }
        let layers = (0..part.layers).map(|index| {
            let last = index + 1 == part.spec.layers;
            let output = if last {
                i64::from(part.spec.dim)
            } else {
                features
            };
            let weight = build.dense(
                &format!("head.{index}.weight"),
                Role::Weight,
                [output, features],
            )?;
            let name = format!("head.{index}.bn");
            let norm = if last {
                BatchNorm::without_shift(build, &name, output)?
            } else {
                BatchNorm::new(build, &name, output, 1.0)?
            };
            Ok(Layer {
                weight,
                norm,
                relu: !last,
            })
        });
        Ok(Self {
            layers: layers.collect::<Result<_, StepError>>()?,
        })
    }

    /// Every layer's output: `[a₁, …, z]`.
    ///
    /// # Errors
    /// See [`BatchNorm::forward`].
    pub fn forward(&self, features: &Tensor, mode: Mode<'_>) -> Result<Vec<Tensor>, StepError> {
        let mut outputs: Vec<Tensor> = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let x = outputs.last().unwrap_or(features);
            let y = layer
                .norm
                .forward(&x.f_linear::<Tensor>(&layer.weight, None)?, mode)?;
            outputs.push(if layer.relu { y.f_relu()? } else { y });
        }
        Ok(outputs)
    }

    /// Width of every layer built: those of `[a₁, …, z]`.
    pub fn widths(&self) -> impl Iterator<Item = i64> + '_ {
        self.layers.iter().map(|layer| layer.weight.size()[0])
    }

    pub(crate) fn norms(&mut self) -> impl Iterator<Item = &mut BatchNorm> {
        self.layers.iter_mut().map(|layer| &mut layer.norm)
    }
}
