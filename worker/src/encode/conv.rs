use diptych_common::network;
use tch::Tensor;

use super::build::Build;
use super::mode::Mode;
use super::norm::BatchNorm;
use crate::device::StepError;

/// A convolution without bias.
#[derive(Debug)]
pub(super) struct Convolution {
    pub(super) weight: Tensor,
    stride: i64,
    padding: i64,
}

/// A convolution and the batch norm after it.
#[derive(Debug)]
pub(super) struct ConvNorm {
    pub(super) conv: Convolution,
    pub(super) norm: BatchNorm,
}

// === impl Convolution ===

impl Convolution {
    pub(super) fn new(build: &mut Build, layer: &network::Convolution) -> Result<Self, StepError> {
        let size = layer.kernel as i64;
        let weight = build.convolution(
            &format!("{}.weight", layer.name),
            [layer.output as i64, layer.input as i64, size, size],
        )?;
        Ok(Self {
            weight,
            stride: layer.stride as i64,
            padding: layer.padding() as i64,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor, StepError> {
        let (stride, padding) = ([self.stride; 2], [self.padding; 2]);
        Ok(x.f_conv2d::<Tensor>(&self.weight, None, stride, padding, [1, 1], 1)?)
    }

    /// What a 1×1 convolution does to a single cell: `[N, input]` to `[N, output]`.
    pub(super) fn on_cells(&self, x: &Tensor) -> Result<Tensor, StepError> {
        Ok(x.f_linear::<Tensor>(&self.weight.f_flatten(1, -1)?, None)?)
    }
}

// === impl ConvNorm ===

impl ConvNorm {
    pub(super) fn new(build: &mut Build, layer: &network::ConvNorm) -> Result<Self, StepError> {
        let conv = Convolution::new(build, &layer.conv)?;
        let channels = layer.conv.output as i64;
        let norm = BatchNorm::new(build, &layer.norm, channels, layer.gamma)?;
        Ok(Self { conv, norm })
    }

    pub(super) fn forward(&self, x: &Tensor, mode: Mode<'_>) -> Result<Tensor, StepError> {
        self.norm.forward(&self.conv.forward(x)?, mode)
    }
}
