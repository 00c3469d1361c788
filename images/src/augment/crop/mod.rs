//! Which part of an image becomes the view.

mod tensorflow; // as the official code draws it
mod torchvision; // as RandomResizedCrop does

use diptych_common::spec::{AugmentSpec, Implementation};

use crate::draw::Draws;

/// A part of an image, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CropBox {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// First row.
    pub top: usize,
    /// First column.
    pub left: usize,
}

impl CropBox {
    pub(super) fn whole(height: usize, width: usize) -> Self {
        Self {
            height,
            width,
            top: 0,
            left: 0,
        }
    }
}

/// Draws a crop.
pub(super) fn sample(
    spec: &AugmentSpec,
    draws: &mut Draws,
    height: usize,
    width: usize,
) -> CropBox {
    match spec.implementation {
        Implementation::Official { .. } => tensorflow::sample(spec, draws, height, width),
        Implementation::Torchvision { .. } => torchvision::sample(spec, draws, height, width),
    }
}

/// The central square that covers `proportion`, at most 1, of the shorter side; sizes round half to even.
pub fn center_crop(height: usize, width: usize, proportion: f64) -> CropBox {
    let side = (proportion.min(1.0) * height.min(width) as f64)
        .round_ties_even()
        .max(1.0) as usize;
    let offset = |length: usize| (length - side).div_ceil(2);
    CropBox {
        height: side,
        width: side,
        top: offset(height),
        left: offset(width),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evaluation_crops_are_the_official_ones() {
        for (height, width, side, top, left) in [
            (375, 500, 328, 24, 86),
            (500, 333, 291, 105, 21),
            (224, 224, 196, 14, 14),
            (263, 299, 230, 17, 35),
            (777, 430, 376, 201, 27),
        ] {
            assert_eq!(
                center_crop(height, width, 0.875),
                CropBox {
                    height: side,
                    width: side,
                    top,
                    left
                }
            );
        }
    }
}
