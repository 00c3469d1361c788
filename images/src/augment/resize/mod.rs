//! A part of an image to a square view.

mod tensorflow; // bicubic, four taps, not antialiased
mod antialiased; // torchvision's filters
mod axis; // the weights alone, for who does the sums elsewhere

use diptych_common::spec::Resampling;

use crate::decode::Image;

use super::CropBox;

pub use axis::{Axis, axis};

/// What becomes the view.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    /// The part of the image.
    pub(super) crop: CropBox,
    /// Mirrored left-right.
    pub(super) flip: bool,
    /// Side of the view in pixels.
    pub(super) side: usize,
}

/// Buffers that are kept between images.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    four: tensorflow::Buffers,
    wide: antialiased::Buffers,
}

/// Makes the view: planar floats in [0, 1], overshoot of bicubic kernels included.
///
/// `out` holds `3 · side²` floats.
pub(super) fn resize(
    image: &Image,
    cut: Cut,
    resampling: Resampling,
    buffers: &mut Buffers,
    out: &mut [f32],
) {
    match resampling {
        Resampling::Bicubic => tensorflow::bicubic(image, cut, &mut buffers.four, out),
        Resampling::AntialiasedBilinear => {
            antialiased::resize(image, cut, &antialiased::TRIANGLE, &mut buffers.wide, out);
        }
        Resampling::AntialiasedBicubic => {
            antialiased::resize(image, cut, &antialiased::CUBIC, &mut buffers.wide, out);
        }
    }
}

/// Keys' cubic with a = −½.
fn keys(distance: f64) -> f64 {
    let x = distance.abs();
    let a = -0.5;
    if x <= 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests;
