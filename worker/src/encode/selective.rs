use diptych_common::network;
use tch::{Kind, Tensor};

use super::build::Build;
use super::conv::{ConvNorm, Convolution};
use super::mode::Mode;
use super::norm::BatchNorm;
use crate::device::StepError;

/// A selective kernel of two 3×3 streams (Li et al. 2019, in the form of SimCLR v2's official code).
///
/// With streams `U₀, U₁`: `g = mean over cells of U₀ + U₁`, `[a₀, a₁] = softmax over streams of expand(relu(bn(squeeze g)))`,
/// and the output is `a₀U₀ + a₁U₁`, channel by channel.
#[derive(Debug)]
pub struct SelectiveKernel {
    streams: ConvNorm,
    squeeze: ConvNorm,
    expand: Convolution,
}

// === impl SelectiveKernel ===

impl SelectiveKernel {
    /// Seeded initial weights.
    ///
    /// # Errors
    /// [`StepError::Torch`].
    pub fn new(build: &mut Build, layer: &network::Selective) -> Result<Self, StepError> {
        Ok(Self {
            streams: ConvNorm::new(build, &layer.streams)?,
            squeeze: ConvNorm::new(build, &layer.squeeze)?,
            expand: Convolution::new(build, &layer.expand)?,
        })
    }

    /// `[N, input, H, W]` to `[N, f, H′, W′]`.
    ///
    /// # Errors
    /// See [`BatchNorm::forward`].
    pub fn forward(&self, x: &Tensor, mode: Mode<'_>) -> Result<Tensor, StepError> {
        let streams = self.streams.forward(x, mode)?.f_relu_()?;
        let (rows, channels) = (streams.size()[0], streams.size()[1] / 2);
        // The mean of a sum is the sum of the means: the streams need not be added at every cell.
        let means = streams.f_mean_dim([2i64, 3].as_slice(), false, None::<Kind>)?;
        let mean =
            means
                .f_view([rows, 2, channels])?
                .f_sum_dim_intlist(1i64, false, None::<Kind>)?;
        let squeezed = self.squeeze.conv.on_cells(&mean)?;
        let squeezed = self.squeeze.norm.forward(&squeezed, mode)?.f_relu()?;
        let weights = self
            .expand
            .on_cells(&squeezed)?
            .f_view([rows, 2, channels])?
            .f_softmax(1, None::<Kind>)?
            .f_to_kind(streams.kind())?
            .f_view([rows, 2, channels, 1, 1])?;
        let (first, second) = (weights.f_select(1, 0)?, weights.f_select(1, 1)?);
        let halves = streams.f_chunk(2, 1)?;
        Ok(halves[0].f_mul(&first)?.f_addcmul(&halves[1], &second)?)
    }

    pub(crate) fn norms(&mut self) -> [&mut BatchNorm; 2] {
        [&mut self.streams.norm, &mut self.squeeze.norm]
    }
}
