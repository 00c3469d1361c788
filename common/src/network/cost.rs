//! Parameters and work.

use crate::spec::EncoderSpec;

use super::{Role, TensorInfo, operations};

/// Numbers of elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    /// Trained by the optimiser.
    pub trainable: u64,
    /// Running means and variances.
    pub statistics: u64,
}

/// Counts the parameters of some tensors.
pub fn parameters(tensors: &[TensorInfo]) -> Parameters {
    let count = |role| {
        tensors
            .iter()
            .filter(|tensor| tensor.role == role)
            .map(TensorInfo::elements)
            .sum()
    };
    Parameters {
        trainable: count(Role::Weight),
        statistics: count(Role::Statistic),
    }
}

/// Floating-point operations of one view's way through the encoder: two per multiply-add of every convolution.
pub fn forward_flops(encoder: &EncoderSpec, image_size: u32) -> u64 {
    let all = operations(encoder, image_size);
    all.iter().map(|operation| operation.flops).sum()
}

#[cfg(test)]
mod tests;
