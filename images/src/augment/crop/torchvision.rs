//! torchvision's `RandomResizedCrop.get_params`.

use diptych_common::spec::AugmentSpec;

use crate::draw::Draws;

use super::CropBox;

/// Attempts before a central crop is taken.
const ATTEMPTS: usize = 10;

/// The area is uniform, the aspect ratio's logarithm is uniform, and so is the place, the last one included.
pub(super) fn sample(
    spec: &AugmentSpec,
    draws: &mut Draws,
    height: usize,
    width: usize,
) -> CropBox {
    let image_area = height as f64 * width as f64;
    let (narrowest, widest) = (spec.crop_aspect.0.ln(), spec.crop_aspect.1.ln());
    for _ in 0..ATTEMPTS {
        let area = image_area * draws.uniform(spec.crop_area.0, spec.crop_area.1);
        let aspect = draws.uniform(narrowest, widest).exp();
        let crop_width = (area * aspect).sqrt().round_ties_even() as usize;
        let crop_height = (area / aspect).sqrt().round_ties_even() as usize;
        if (1..=width).contains(&crop_width) && (1..=height).contains(&crop_height) {
            return CropBox {
                height: crop_height,
                width: crop_width,
                top: draws.below((height - crop_height) as u64 + 1) as usize,
                left: draws.below((width - crop_width) as u64 + 1) as usize,
            };
        }
    }
    central(spec, height, width)
}

/// As much of the middle as the allowed aspect ratios leave.
fn central(spec: &AugmentSpec, height: usize, width: usize) -> CropBox {
    let (narrowest, widest) = spec.crop_aspect;
    let (rows, columns) = (height as f64, width as f64);
    let part = |whole: usize, length: f64| (length.round_ties_even() as usize).clamp(1, whole);
    let aspect = columns / rows;
    let (crop_height, crop_width) = if aspect < narrowest {
        (part(height, columns / narrowest), width)
    } else if aspect > widest {
        (height, part(width, rows * widest))
    } else {
        (height, width)
    };
    CropBox {
        height: crop_height,
        width: crop_width,
        top: (height - crop_height) / 2,
        left: (width - crop_width) / 2,
    }
}
